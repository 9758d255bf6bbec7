"""Functions that complete and check the arguments of a command."""

import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path

import yaml

from dqn_lightning.checkpointing.run_files import newest_checkpoint
from dqn_lightning.cli.registry import COMMANDS
from dqn_lightning.errors import ConfigError

RUNS = Path("checkpoints")
"""Directory that contains all runs, relative to the working directory."""

AUTO = "auto"
"""Value of `--ckpt_path` to resume the run if it has a checkpoint, and to start it otherwise."""

_MAX_NAME_BYTES = 200  # file systems allow 255, and a number may be appended

_ONE_PROCESS = ["--trainer.devices=1", "--trainer.num_nodes=1", "--trainer.strategy=auto"]
"""Flags for commands other than `fit`: they use one process even if training used several."""

_HELP, _CONFIG = {"-h", "--help"}, {"-c", "--config"}


def with_config(arguments: list[str], default_configs: Mapping[str, Path]) -> list[str]:
    """Return the arguments of a command, with a `--config` flag inserted if there is none.

    With `--ckpt_path`, the inserted config is the `config.yaml` beside the checkpoint, and commands
    other than `fit` also get flags that select a single process. Without `--ckpt_path`, the default
    config of the command is inserted. Existing `--config` flags are moved before all other flags,
    so that other flags take precedence regardless of their position.

    Args:
        arguments: Arguments after the program's name.
        default_configs: Default config file for each command, by command name; used if the
            arguments specify neither a config nor a checkpoint.

    Raises:
        ConfigError: If the checkpoint or the config beside it is missing, or if the command needs a
            checkpoint and none is given.
    """
    arguments = _resolve_checkpoint(arguments, default_configs)
    command = arguments[0] if arguments else ""
    flags = {argument.split("=")[0] for argument in arguments}
    if command not in COMMANDS or flags & _HELP:
        return arguments
    if flags & _CONFIG:
        return [command, *_move_configs_first(arguments[1:])]
    checkpoint = next(_values_of({"--ckpt_path"}, arguments), None)
    if checkpoint not in (None, AUTO):
        config = ["--config", str(_config_beside(Path(str(checkpoint))))]
        return [command, *config, *([] if command == "fit" else _ONE_PROCESS), *arguments[1:]]
    if COMMANDS[command].needs_weights and "--print_config" not in flags:
        raise ConfigError(f"{command} needs --ckpt_path FILE (or --config for untrained weights)")
    if command not in default_configs:
        return arguments
    return [command, "--config", str(default_configs[command]), *arguments[1:]]


def config_of_checkpoint(
    given: list[str], completed: list[str], default_configs: Mapping[str, Path]
) -> Path | None:
    """Return the config that is used only because it lies beside the checkpoint, if there is one.

    Args:
        given: Arguments as the user typed them.
        completed: Arguments returned by `with_config`.
        default_configs: Default config file for each command, by command name.
    """
    if any(_values_of(_CONFIG, given)) or not any(_values_of({"--ckpt_path"}, given)):
        return None
    configs = map(Path, _values_of(_CONFIG, completed))
    return next((path for path in configs if path not in default_configs.values()), None)


def check_positive(flag: str, value: float) -> None:
    """Check that the value of a flag is positive.

    Args:
        flag: Name of the flag, without the leading dashes.
        value: Value of the flag.

    Raises:
        ConfigError: If the value is not positive.
    """
    if not value > 0:
        raise ConfigError(f"--{flag}: must be positive, got {value}")


def check_run_name(name: str) -> None:
    """Check that a run can have this name.

    Raises:
        ConfigError: If the name is not valid as the name of a directory, too long, or contains
            `::`, which Lightning takes for a chain of file systems.
    """
    is_directory = Path(name).name == name and name != ".." and name.isprintable()
    if not is_directory or "::" in name or len(os.fsencode(name)) > _MAX_NAME_BYTES:
        raise ConfigError(
            f"run_name: must be the name of a directory, without '::', of at most "
            f"{_MAX_NAME_BYTES} bytes, got {name!r}"
        )


def run_name_of(configs: Sequence[str]) -> str:
    """Return the default run name for the given config files.

    >>> run_name_of(["configs/cartpole.yaml", "configs/variants/c51.yaml"])
    'cartpole_c51'
    """
    return "_".join(Path(config).stem for config in configs)


def run_name_in(config: Path) -> str | None:
    """Return the run name that a config contains; None if it has none or cannot be read."""
    try:
        settings = yaml.safe_load(config.read_text())
    except (OSError, ValueError, yaml.YAMLError):  # the parser reports it
        return None
    name = settings.get("run_name") if isinstance(settings, dict) else None
    return name if isinstance(name, str) else None


def _resolve_checkpoint(arguments: list[str], default_configs: Mapping[str, Path]) -> list[str]:
    """Replace `last` or `auto` in `--ckpt_path` with the path of the run's checkpoint.

    If the run has no checkpoint, `auto` is kept.
    """
    value = next(_values_of({"--ckpt_path"}, arguments), None)
    if value not in ("last", AUTO):
        return arguments
    name = _run_name(arguments, default_configs)
    check_run_name(name)
    run_directory = RUNS / name
    path: Path | str = run_directory / "last.ckpt"
    if value == AUTO:
        if arguments[0] != "fit":
            raise ConfigError(f"--ckpt_path: {arguments[0]} cannot use auto; use last or a file")
        path = newest_checkpoint(run_directory) or AUTO
    if f"--ckpt_path={value}" in arguments:
        return [f"--ckpt_path={path}" if a == f"--ckpt_path={value}" else a for a in arguments]
    i = arguments.index("--ckpt_path")
    return [*arguments[: i + 1], str(path), *arguments[i + 2 :]]


def _run_name(arguments: list[str], default_configs: Mapping[str, Path]) -> str:
    """Return the name of the run from `--run_name`, the contents of configs, or their names."""
    configs = list(_values_of(_CONFIG, arguments)) or [str(default_configs.get("fit", "run"))]
    named = [name for config in configs if (name := run_name_in(Path(config)))]
    flags = list(_values_of({"--run_name"}, arguments))
    return next(reversed([*named, *flags]), None) or run_name_of(configs)


def _config_beside(checkpoint: Path) -> Path:
    if checkpoint.is_dir():
        raise ConfigError(
            f"--ckpt_path: {checkpoint} is a directory; name a file in it, such as "
            f"{checkpoint / 'best.ckpt'}"
        )
    if not checkpoint.is_file():
        raise ConfigError(f"--ckpt_path: there is no file {checkpoint}")
    config = checkpoint.parent / "config.yaml"
    if not config.is_file():
        raise ConfigError(
            f"--ckpt_path: there is no config.yaml beside {checkpoint}; name one with --config"
        )
    return config


def _move_configs_first(arguments: list[str]) -> list[str]:
    """Move configs before all other flags, because a config overrides any preceding flags."""
    configs, others, rest = [], [], iter(arguments)
    for argument in rest:
        if argument in _CONFIG:
            configs += [argument, *([value] if (value := next(rest, None)) is not None else [])]
        elif argument.startswith(("-c=", "--config=")):
            configs.append(argument)
        else:
            others.append(argument)
    return [*configs, *others]


def _values_of(flags: set[str], arguments: list[str]) -> Iterator[str]:
    """Yield the values of the given flags, written as `--flag value` or `--flag=value`."""
    for argument, following in zip_longest(arguments, arguments[1:]):
        flag, is_joined, value = argument.partition("=")
        if flag in flags and (is_joined or following is not None):
            yield value if is_joined else following
