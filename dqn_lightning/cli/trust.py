"""Rules for configs that come with a checkpoint.

A checkpoint that someone else made must be safe to test and to play. The checkpoint file cannot
contain code, but the `config.yaml` beside it names classes to create, files to read and environment
modules to import. A config that a command reads only because it lies beside the checkpoint is
therefore checked, unless `--trust_config` is given:

- `check_config` reads it before the parser does. It accepts plain values, paths below the working
  directory, and names on an exact list of classes.
- `trusted_names_only` makes the parser refuse to import any name that is neither on this list nor
  part of the command line.

`check_links` checks that commands do not write through links beside the checkpoint.

Configs given by `--config` and flags are trusted.
"""

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path, PurePath
from types import ModuleType
from typing import Any, ClassVar

import yaml
from torch import nn, optim
from torch.optim import lr_scheduler

from dqn_lightning import callbacks, losses, networks, replay
from dqn_lightning.errors import ConfigError
from dqn_lightning.internals.jsonargparse import refuse_imports

TRUST_FLAG = "--trust_config"

_SETTINGS = {
    "seed_everything",
    "trainer",
    "model",
    "data",
    "run_name",
    "num_threads",
    "target_sync",
    "gradient_clamp",
    "episode_log",
    "diagnostics",
    "checkpoints",
}
"""Keys that `fit` writes to `config.yaml`; flags of commands, such as `out`, are not among them."""

_FREE_TEXT = {"run_name", "data.observations"}
"""Settings whose value is used as a string only, so it may look like a name or name a file."""

_NULL_ONLY = {"trainer.model_registry"}
"""Settings that must be null, because they send data to another machine."""

_WRITTEN_FILES = (
    ".lock",
    ".tmp-*",
    "metrics.csv",
    "predictions.pt",
    "state",
    "state/*",
    "test.json",
    "timing.csv",
    "videos",
)
"""Files and directories beside a checkpoint to which commands write, as glob patterns."""

_DURATIONS = ("max_time", "duration")
"""Last parts of the keys of settings whose value may be a time, such as `00:12:00:00`."""

_READ_AS_TEXT = (":float", ":timestamp")
"""Ends of the tags of YAML's dates and decimals."""

_MAX_VALUES = 10_000

_KEY = re.compile(r"[A-Za-z]\w*(\.[A-Za-z]\w*)*\+?")
_PLAIN_TEXT = re.compile(r"(\w([\w .+=@,/-]*[\w.+=@,/-])?)?")
_NUMBERS = re.compile(r"[-+]?\.?\d[\d.]*(e[-+]?\d+)?|[-+]?\.(inf|nan)|\[[\d, ]*\]", re.IGNORECASE)
_DURATION = re.compile(r"\d+(:\d+)+")
_NAME = re.compile(r"(?<![\w./])[^\W\d]\w*(\.[^\W\d]\w*)*(?![\w./])")
"""Name of an argument that is not part of a path."""

_GYMNASIUM_WRAPPERS = (
    "gymnasium.wrappers.AddRenderObservation",
    "gymnasium.wrappers.AddWhiteNoise",
    "gymnasium.wrappers.AtariPreprocessing",
    "gymnasium.wrappers.Autoreset",
    "gymnasium.wrappers.ClipAction",
    "gymnasium.wrappers.ClipReward",
    "gymnasium.wrappers.DelayObservation",
    "gymnasium.wrappers.DiscretizeAction",
    "gymnasium.wrappers.DiscretizeObservation",
    "gymnasium.wrappers.DtypeObservation",
    "gymnasium.wrappers.FilterObservation",
    "gymnasium.wrappers.FlattenObservation",
    "gymnasium.wrappers.FrameStackObservation",
    "gymnasium.wrappers.GrayscaleObservation",
    "gymnasium.wrappers.MaxAndSkipObservation",
    "gymnasium.wrappers.NormalizeObservation",
    "gymnasium.wrappers.NormalizeReward",
    "gymnasium.wrappers.ObstructView",
    "gymnasium.wrappers.RecordEpisodeStatistics",
    "gymnasium.wrappers.RescaleAction",
    "gymnasium.wrappers.RescaleObservation",
    "gymnasium.wrappers.ReshapeObservation",
    "gymnasium.wrappers.ResizeObservation",
    "gymnasium.wrappers.StickyAction",
    "gymnasium.wrappers.TimeAwareObservation",
    "gymnasium.wrappers.TimeLimit",
)
"""Wrappers that call no function given as an argument, import no module and write no file."""

_LIGHTNING_CLASSES = (
    "lightning.pytorch.callbacks.DeviceStatsMonitor",
    "lightning.pytorch.callbacks.EarlyStopping",
    "lightning.pytorch.callbacks.LearningRateMonitor",
    "lightning.pytorch.callbacks.ModelSummary",
    "lightning.pytorch.callbacks.RichModelSummary",
    "lightning.pytorch.callbacks.RichProgressBar",
    "lightning.pytorch.callbacks.TQDMProgressBar",
    "lightning.pytorch.callbacks.Timer",
    "lightning.pytorch.loggers.TensorBoardLogger",
)
"""Classes that call no function given as an argument; the logger only adds files."""

_OTHER_CLASSES = (
    "dqn_lightning.Constant",
    "dqn_lightning.Exponential",
    "dqn_lightning.Linear",
    "dqn_lightning.envs.CartPoleScreen",
    "dqn_lightning.envs.CartPoleShapedReward",
)
"""Schedules and wrappers of this project."""


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML loader that agrees with the parser's, but leaves dates and decimals as text.

    The parser uses the same base class, with other rules for dates and decimals. A text that is a
    date here and a string there could be the name of a file with further settings.
    """

    yaml_implicit_resolvers: ClassVar = {
        first: [(tag, regexp) for tag, regexp in resolvers if not tag.endswith(_READ_AS_TEXT)]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


@cache
def known_names() -> frozenset[str]:
    """Return the exact names of all classes that a config beside a checkpoint may contain."""
    names = {*_GYMNASIUM_WRAPPERS, *_LIGHTNING_CLASSES, *_OTHER_CLASSES}
    for package in (callbacks, losses, networks, replay):
        names.update(_classes_in(package, object))
    names.update(_classes_in(nn, nn.Module))
    names.update(_classes_in(optim, optim.Optimizer))
    names.update(_classes_in(lr_scheduler, lr_scheduler.LRScheduler))
    return frozenset(names)


def _classes_in(package: ModuleType, parent: type) -> Iterator[str]:
    for name, value in vars(package).items():
        if isinstance(value, type) and issubclass(value, parent) and not name.startswith("_"):
            yield f"{package.__name__}.{name}"


def check_config(path: Path) -> None:
    """Check that a config contains only plain values and names of known classes.

    Nothing that the config names is imported.

    Args:
        path: Config that comes with a checkpoint.

    Raises:
        ConfigError: If the config cannot be read, or contains a name that is not on the list, a
            path outside the working directory, or the name of another file.
    """
    try:
        settings = yaml.load(path.read_text(), _Loader)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"--ckpt_path: {path} beside it cannot be read ({reason})") from error
    if not isinstance(settings, dict):
        raise ConfigError(f"--ckpt_path: {path} beside it is not a mapping of settings")
    for key in settings:
        if str(key).partition(".")[0] not in _SETTINGS:
            raise _refusal(path, str(key), "is not a setting of a run")
    for key, value in _values(settings, path):
        if problem := _problem(key, value, path.parent):
            raise _refusal(path, key, problem)


def check_links(directory: Path) -> None:
    """Check that no file to which commands write is a link, possibly to a file elsewhere.

    Args:
        directory: Directory of a checkpoint.

    Raises:
        ConfigError: If a file or directory is a symbolic link.
    """
    for pattern in _WRITTEN_FILES:
        for path in directory.glob(pattern):
            if path.is_symlink():
                raise ConfigError(
                    f"--ckpt_path: {path} is a symbolic link, through which a file elsewhere could "
                    f"be overwritten; remove it, or trust it by {TRUST_FLAG}"
                )


def is_safe(path: Path) -> bool:
    """Return whether `check_config` accepts a config, so that it needs no `--trust_config`."""
    try:
        check_config(path)
    except ConfigError:
        return False
    return True


def _refusal(path: Path, key: str, problem: str) -> ConfigError:
    key = key[:80] if key.isprintable() else repr(key[:80])
    return ConfigError(
        f"{key}: {problem}; {path} comes with a checkpoint, so it may contain only plain values "
        f"and known classes; {TRUST_FLAG} trusts it"
    )


def _values(settings: Any, path: Path) -> Iterator[tuple[str, Any]]:
    """Yield all values in nested mappings and lists, each with its dotted key."""
    pending: list[tuple[str, Any]] = [("", settings)]
    num_values = 0
    while pending:
        key, value = pending.pop()
        num_values += 1
        if num_values > _MAX_VALUES:  # an alias in YAML can refer to a container that contains it
            raise _refusal(path, key, f"is one of more than {_MAX_VALUES} values")
        if isinstance(value, dict):
            items = [(_join(key, name, path), item) for name, item in value.items()]
            pending += reversed(items)
        elif isinstance(value, list):
            pending += reversed([(f"{key}[{i}]", item) for i, item in enumerate(value)])
        else:
            yield key, value


def _join(key: str, name: Any, path: Path) -> str:
    joined = f"{key}.{name}".removeprefix(".")
    if not (isinstance(name, str) and _KEY.fullmatch(name)):
        raise _refusal(path, joined, "is not the name of a setting")
    return joined.removesuffix("+")


def _problem(key: str, value: Any, directory: Path) -> str | None:
    """Return what is wrong with a value of a config, or None.

    Args:
        key: Dotted key of the value.
        value: Value to check.
        directory: Directory of the config, to which the parser resolves relative paths.
    """
    if key in _NULL_ONLY and value is not None:
        return f"must be null, got {value!r}"
    if value is None or isinstance(value, (bool, int)):
        return None
    if not isinstance(value, str):
        return f"must be a plain value, got {type(value).__name__}"
    is_free_text = key in _FREE_TEXT
    if not is_free_text and any(_is_file(parent / value) for parent in (directory, Path())):
        return f"{value!r} is the name of a file, whose content would be read"
    if _NUMBERS.fullmatch(value) or (key.endswith(_DURATIONS) and _DURATION.fullmatch(value)):
        return None
    if not _PLAIN_TEXT.fullmatch(value):
        return f"{value[:80]!r} is more than a plain word"
    if _is_outside(value):
        return f"{value} is outside the working directory"
    if is_free_text:
        return None
    is_name = "." in value and all(part.isidentifier() for part in value.split("."))
    if (is_name or key.endswith("class_path")) and value not in known_names():
        return f"{value} is not a known class"
    return None


def _is_outside(value: str) -> bool:
    path = PurePath(value)
    if path.is_absolute() or ".." in path.parts:
        return True
    try:
        return not Path(value).resolve().is_relative_to(Path.cwd().resolve())  # follows links
    except OSError:  # too long
        return True


def _is_file(path: Path) -> bool:
    try:
        return path.exists() and not path.is_dir()
    except (OSError, ValueError):  # too long, or contains a null byte
        return False


def trusted_names_only(arguments: Sequence[str], path: Path) -> AbstractContextManager[None]:
    """Let the parser import only known classes and names that are part of the arguments.

    This also covers what `check_config` does not see, such as the name of a class without its
    module.

    Args:
        arguments: Arguments as the user typed them.
        path: Config that comes with a checkpoint.
    """
    words = set(_words_in(arguments))

    def is_allowed(name: str) -> bool:
        if name in known_names() or name in words:
            return True
        # The parser completes a class's name to its full name, if the class is already imported.
        module, _, short_name = name.rpartition(".")
        found = vars(sys.modules.get(module, object)).get(short_name)
        return short_name in words and isinstance(found, type)

    reason = (
        f"{path} comes with a checkpoint and may name only known classes; {TRUST_FLAG} trusts it"
    )
    return refuse_imports(is_allowed, reason)


def _words_in(arguments: Sequence[str]) -> Iterator[str]:
    """Yield the (dotted) names in arguments, and in files that are named by arguments."""
    for argument in arguments:
        yield from (found[0] for found in _NAME.finditer(argument))
        value = Path(argument.rpartition("=")[2])
        if value.suffix in (".yaml", ".yml", ".json") and _is_file(value):
            text = value.read_text(errors="ignore")
            yield from (found[0] for found in _NAME.finditer(text))
