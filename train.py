"""The command line: `python train.py fit`. See README.md."""

import sys
from pathlib import Path

if __name__ == "__main__":
    if sys.argv[1:2] == ["plot"]:  # at once: it needs neither PyTorch nor Lightning
        from dqn_lightning.plots.command import main as plot

        sys.exit(plot(sys.argv[2:]))

    from dqn_lightning.cli import main

    sys.path.append(str(Path.cwd()))  # so modules of yours can be named in flags
    configs = Path(__file__).parent / "configs"
    defaults = {"fit": configs / "cartpole.yaml", "screen": configs / "pytorch_tutorial.yaml"}
    sys.exit(main(default_configs=defaults))
