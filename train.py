"""The command line: `python train.py fit`. See README.md."""

import sys
from pathlib import Path

from dqn_lightning.cli import main

if __name__ == "__main__":
    sys.path.append(str(Path.cwd()))  # so modules of yours can be named in flags
    configs = Path(__file__).parent / "configs"
    defaults = {"fit": configs / "cartpole.yaml", "screen": configs / "pytorch_tutorial.yaml"}
    sys.exit(main(default_configs=defaults))
