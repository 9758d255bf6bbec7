"""Registry of all commands."""

from collections.abc import Callable
from importlib import import_module
from typing import NamedTuple


class Command(NamedTuple):
    """Properties of a command.

    The command is implemented by a function and a module that have the command's name.

    Attributes:
        help: Summary in the list of commands, if the command parses its own arguments. None for
            other commands, whose summary is the first line of the function's docstring.
        default_config: Name of the config to use if neither a config nor a checkpoint is given.
        needs_weights: Whether `--ckpt_path` or, for untrained weights, `--config` is required.
    """

    help: str | None = None
    default_config: str | None = None
    needs_weights: bool = True

    @property
    def has_own_parser(self) -> bool:
        """Whether the command parses its own arguments, which avoids importing PyTorch."""
        return self.help is not None


COMMANDS = {
    "fit": Command(default_config="cartpole", needs_weights=False),
    "validate": Command(),
    "test": Command(),
    "predict": Command(),
    "play": Command(),
    "screen": Command(default_config="pytorch_tutorial", needs_weights=False),
    "embed": Command(),
    "export": Command(),
    "plot": Command(
        needs_weights=False, help="Plot the metrics of runs, which may still be training."
    ),
}
"""All commands by name, in the order in which the help lists them."""


def load(name: str) -> Callable[..., None]:
    """Import a command's module and return the function that runs the command."""
    function: Callable[..., None] = getattr(import_module(f"dqn_lightning.cli.{name}"), name)
    return function
