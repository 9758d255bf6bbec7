"""The command line: `python train.py fit`. See README.md."""

import sys
from pathlib import Path

from dqn_lightning.cli.main import main
from dqn_lightning.cli.registry import COMMANDS

if __name__ == "__main__":
    sys.path.append(str(Path.cwd()))  # so that flags can name your own modules
    configs = Path(__file__).parent / "configs"
    defaults = {
        name: configs / f"{command.default_config}.yaml"
        for name, command in COMMANDS.items()
        if command.default_config is not None
    }
    sys.exit(main(default_configs=defaults))
