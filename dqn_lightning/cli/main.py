"""Entry point of the command line: run a command and convert errors to exit codes."""

import signal
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path

from dqn_lightning.cli.registry import COMMANDS, load
from dqn_lightning.errors import (
    ConfigError,
    EnvironmentFailure,
    NonFiniteError,
    RankLostError,
    RunLockedError,
    WriteError,
)


def main(
    arguments: Sequence[str] | None = None, default_configs: Mapping[str, Path] | None = None
) -> int:
    """Run a command and return its exit code.

    The exit code is 0 for success, 1 for a failure, and 2 for an invalid setting. If a signal stops
    training, the run is saved, and the exit code is 130 for SIGINT (Ctrl-C), 143 for SIGTERM, and
    75 for SIGUSR1.

    Invalid settings and other expected errors are printed as a single line. Unexpected errors are
    printed with a traceback.

    Args:
        arguments: Arguments after the program's name; if None, the arguments of this process.
        default_configs: Default config file for each command, by command name; used if the
            arguments specify neither a config nor a checkpoint.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _run(given, default_configs or {})
    except ConfigError as error:
        return _fail(str(error), 2)
    except WriteError as error:
        if _rank() in ("", " (rank 0)"):  # all ranks raise it, and one line is enough
            print(f"error: {error}", file=sys.stderr)
        return 1
    except (NonFiniteError, RankLostError, RunLockedError, OSError) as error:
        return _fail(str(error), 1)
    except EnvironmentFailure as error:
        if error.__cause__ is None:
            return _fail(str(error), 1)
        traceback.print_exc()  # shows where the environment raised the exception
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):  # Lightning exits with 1 on Ctrl-C
            return 128 + signal.SIGINT
        raise
    except Exception as error:
        if type(error).__name__ == "MisconfigurationException":  # Lightning's, for bad settings
            return _fail(f"trainer: {' '.join(str(error).split())}", 2)
        traceback.print_exc()
        return 1


def _run(arguments: list[str], default_configs: Mapping[str, Path]) -> int:
    name = arguments[0] if arguments else ""
    if name in COMMANDS and COMMANDS[name].has_own_parser:
        load(name)(arguments[1:])
        return 0
    if name not in COMMANDS and not name.startswith("-"):
        unknown = f"{name} is not a command" if name else "name a command"
        raise ConfigError(f"{unknown}; use one of {', '.join(COMMANDS)}, or --help")
    from dqn_lightning.cli.app import run  # imports PyTorch and Lightning, which takes seconds

    return run(arguments, default_configs)


def _fail(message: str, exit_code: int) -> int:
    print(f"error{_rank()}: {message}", file=sys.stderr)
    return exit_code


def _rank() -> str:
    """Return " (rank N)" for an error message if there are several ranks, else an empty string."""
    if "torch" not in sys.modules:
        return ""
    from dqn_lightning import distributed

    return f" (rank {distributed.rank()})" if distributed.world_size() > 1 else ""
