"""What the command line is given: its arguments, the configuration they call for, a checkpoint."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from dqn_lightning import files
from dqn_lightning.errors import ConfigError
from dqn_lightning.module import DQNModule

RUNS = Path("checkpoints")
"""Folder of all runs, in the working directory."""

_ONE_PROCESS = ["--trainer.devices=1", "--trainer.num_nodes=1", "--trainer.strategy=auto"]
"""What a run's configuration does not decide for other commands than `fit`."""

COMMANDS = ("fit", "validate", "test", "predict", "play", "screen", "embed", "export")


def with_config(arguments: list[str], default_configs: Mapping[str, Path]) -> list[str]:
    """Add the configuration that a command line does not name.

    It is the one beside the checkpoint, or else the command's default; never both, and never any
    under one that is named.

    Raises:
        ConfigError: If there is none beside the checkpoint, or neither.
    """
    arguments = _with_last_found(arguments, default_configs)
    command = arguments[0] if arguments else None
    flags = {argument.split("=")[0] for argument in arguments}
    if command not in COMMANDS or flags & {"-h", "--help"}:
        return arguments
    if flags & {"-c", "--config"}:
        return [command, *_config_first(arguments[1:])]
    config = default_configs.get(command)
    checkpoint = _value_of("--ckpt_path", arguments)
    if checkpoint is not None:
        config = Path(checkpoint).parent / "config.yaml"
        if not Path(checkpoint).is_file():
            raise ConfigError(_no_file(Path(checkpoint)))
        if not config.is_file():
            raise ConfigError(
                f"--ckpt_path: no config.yaml beside {checkpoint}; name one with --config"
            )
    elif command not in ("fit", "screen") and "--print_config" not in flags:
        raise ConfigError(f"{command} needs --ckpt_path FILE (or --config for untrained weights)")
    if config is None:
        return arguments
    alone = _ONE_PROCESS if checkpoint is not None and command != "fit" else []
    return [command, "--config", str(config), *alone, *arguments[1:]]


def _with_last_found(arguments: list[str], default_configs: Mapping[str, Path]) -> list[str]:
    """The same with the path of the run's `last.ckpt` in place of `--ckpt_path last`."""
    if _value_of("--ckpt_path", arguments) != "last":
        return arguments
    name = _value_of("--run_name", arguments)
    if name is None:
        configs = list(_values_of(("-c", "--config"), arguments))
        name = name_of(configs or [str(default_configs.get("fit", "run"))])
    found = str(RUNS / name / "last.ckpt")
    if "--ckpt_path=last" in arguments:
        return [a if a != "--ckpt_path=last" else f"--ckpt_path={found}" for a in arguments]
    place = arguments.index("--ckpt_path")
    return [*arguments[: place + 1], found, *arguments[place + 2 :]]


def _config_first(arguments: list[str]) -> list[str]:
    """The same flags, configurations before all others, for a flag wins over what it follows."""
    configs, others, rest = [], [], iter(arguments)
    for argument in rest:
        if argument in ("-c", "--config"):
            configs += [argument, *([value] if (value := next(rest, None)) is not None else [])]
        elif argument.startswith(("-c=", "--config=")):
            configs.append(argument)
        else:
            others.append(argument)
    return [*configs, *others]


def _value_of(flag: str, arguments: list[str]) -> str | None:
    return next(_values_of((flag,), arguments), None)


def _values_of(flags: tuple[str, ...], arguments: list[str]) -> Iterator[str]:
    for argument, following in zip_longest(arguments, arguments[1:]):
        flag, is_joined, value = argument.partition("=")
        if flag in flags and (is_joined or following is not None):
            yield value if is_joined else following


def name_of(configs: Sequence[str]) -> str:
    """The name of a run of these configurations, each of which changes the one before.

    >>> name_of(["configs/cartpole.yaml", "configs/variants/c51.yaml"])
    'cartpole_c51'
    """
    return "_".join(Path(config).stem for config in configs)


def _no_file(path: Path) -> str:
    if path.is_dir():
        return f"--ckpt_path: {path} is a folder; name a file in it, as {path / 'best.ckpt'}"
    return f"--ckpt_path: there is no file {path}"


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint's content; no code in it is run.

    Raises:
        ConfigError: If there is no such file, or it is not whole.
    """
    if not path.is_file():
        raise ConfigError(_no_file(path))
    checkpoint = files.load(path, "--ckpt_path")
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise ConfigError(f"--ckpt_path: {path} is no checkpoint of a module")
    return checkpoint


def check_fits(path: Path, checkpoint: dict[str, Any], model: DQNModule) -> None:
    """Compare the shapes of a checkpoint's weights with the module's.

    Raises:
        ConfigError: If they differ: another network, or an environment with other spaces.
    """
    theirs = {name: tuple(value.shape) for name, value in checkpoint["state_dict"].items()}
    ours = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    if theirs == ours:
        return
    saved = checkpoint.get("hyper_parameters", {})
    differences = [
        f"{name} {tuple(ours.get(name, ()))} here, {tuple(theirs.get(name, ()))} there"
        for name in sorted(ours.keys() | theirs.keys())
        if ours.get(name) != theirs.get(name)
    ]
    raise ConfigError(
        f"--ckpt_path: {path} is of another network or environment (observations "
        f"{saved.get('obs_shape')}, {saved.get('num_actions')} actions): {differences[0]}"
    )
