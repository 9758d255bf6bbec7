"""Draw random command lines of `fit`, with valid, unusual and invalid values for every setting.

Names and types of the settings come from the signatures of the classes that define them, so new
settings are drawn without a change here. Runs are short because of `SHORT` and `LIMITS`.
"""

import inspect
import json
import random
import shlex
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import yaml
from lightning.pytorch import Trainer

from dqn_lightning import DQNDataModule, DQNModule
from dqn_lightning.callbacks import Checkpoints, Diagnostics, EpisodeLog, GradientClamp, TargetSync
from dqn_lightning.checkpointing.run_state import ResumeSettings
from dqn_lightning.envs import EnvSettings
from dqn_lightning.interaction.actor import ExplorationSettings
from dqn_lightning.interaction.evaluation import EvaluationSettings
from dqn_lightning.interaction.rollouts import ScheduleSettings
from dqn_lightning.replay import ReplaySettings
from tests.helpers.commands import CONFIGS, ROOT

GROUPS: dict[str, Callable[..., Any]] = {
    "data": DQNDataModule,
    "data.env": EnvSettings,
    "data.replay": ReplaySettings,
    "data.schedule": ScheduleSettings,
    "data.exploration": ExplorationSettings,
    "data.evaluation": EvaluationSettings,
    "data.resume": ResumeSettings,
    "model": DQNModule,
    "target_sync": TargetSync,
    "gradient_clamp": GradientClamp,
    "episode_log": EpisodeLog,
    "diagnostics": Diagnostics,
    "checkpoints": Checkpoints,
    "trainer": Trainer,
}
"""Class that defines the settings of each group, by the group's flag."""

OTHERS = {
    "run_name": str | None,
    "num_threads": int | None,
    "seed_everything": bool | int,
    "ckpt_path": str | None,
    "trust_config": bool,
}
"""Types of the settings that belong to no group."""

SHORT = {
    "data.schedule.total_env_steps": 150,
    "data.schedule.learning_starts_env_steps": 40,
    "data.schedule.train_every_env_steps": 8,
    "data.schedule.updates_per_train": 2,
    "data.schedule.rollout_env_steps": 50,
    "data.replay.capacity": 200,
    "data.replay.batch_size": 8,
    "data.evaluation.every_env_steps": 100,
    "data.evaluation.episodes": 1,
    "data.evaluation.max_steps": 200,
    "model.network": {"class_path": "dqn_lightning.networks.MLP", "init_args": {"widths": [8]}},
    "diagnostics.num_states": 16,
    "trainer.log_every_n_steps": 5,
    "trainer.enable_progress_bar": False,
    "trainer.logger": False,
    "episode_log.save_plots": False,
}
"""Settings of a run that takes a fraction of a second."""

_SMALL_CNN = {"channels": [4], "kernel_sizes": [4], "strides": [2], "widths": [8]}
ENVIRONMENTS: tuple[dict[str, Any], ...] = (
    {},  # CartPole-v1
    {"data.env.num_envs": 2},
    {"data.env.num_envs": 2, "data.env.vectorization": "async"},
    {"data.env.id": "FrozenLake-v1"},
    {"data.env.id": "tests.helpers.toy:toy/Walk-v0"},
    {
        "data.env.id": "tests.helpers.toy:toy/Images-v0",
        "model.network": {"class_path": "dqn_lightning.networks.CNN", "init_args": _SMALL_CNN},
    },
)
"""Settings of the environments, one of which is the basis of each case."""

LIMITS = {
    "data.schedule.total_env_steps": 400,
    "data.schedule.updates_per_train": 8,
    "data.env.num_envs": 4,
    "data.evaluation.episodes": 3,
    "data.replay.frame_stack": 8,
    "num_threads": 4,
    "trainer.devices": 1,
    "trainer.num_nodes": 1,
    "trainer.num_sanity_val_steps": 2,
}
"""Largest number that is drawn: larger ones are valid but costly, or start other processes."""

IGNORED = {
    "data": {"observations"},  # of `predict`
    "model": {"obs_shape", "num_actions", "obs_classes"},  # linked to the datamodule
    "trainer": {"plugins", "strategy"},  # tests/cli/test_launching.py
}
"""Settings that are not drawn, by group."""

NUMBERS: dict[type, list[Any]] = {
    int: [1, 2, 3, 5, 8, 20, 50, 100],
    float: [0.01, 0.1, 0.5, 0.9, 1.0, 2.0, 10.0],
}
"""Usual numbers."""

ODD = (
    *(0, -1, 1.5, -0.5, 1e-30, 1e30, 10**6, 2**31, 2**63, 10**20, -(2**63)),
    *(
        "nan",
        "inf",
        "-inf",
        "1e400",
        "many",
        "",
        " ",
        "null",
        "true",
        "'",
        '"',
        "[",
        "{",
        "a: b: c",
    ),
    *("../x", "a/b", "::", "x" * 300, "é ü", "nowhere.Name", "os.system", "missing.yaml", "0x10"),
    *([], [1, 2], ["a"], {}, {"a": 1}, {"class_path": "nowhere.Name"}, {"class_path": None}),
    {"class_path": "torch.nn.ReLU", "init_args": {"colour": "red"}},
)
"""Unusual values, most of which are invalid for most settings."""

_OPTIMIZERS = (
    name
    for name, kind in sorted(vars(torch.optim).items())
    if inspect.isclass(kind) and issubclass(kind, torch.optim.Optimizer)
)


def _paths(module: str, *names: str) -> list[str]:
    return [f"{module}.{name}" for name in names]


_SCHEDULES = _paths("dqn_lightning", "Constant", "Linear", "Exponential")
_TORSOS = _paths("dqn_lightning.networks", "MLP", "CNN", "FrameDifference", "FrameAndDifferences")
CLASSES: dict[str, list[str]] = {
    "n_step": _SCHEDULES,
    "epsilon": _SCHEDULES,
    "beta": _SCHEDULES,
    "network": _TORSOS,
    "torso": _TORSOS,
    "head": _paths(
        "dqn_lightning.networks",
        *("ValueHead", "CategoricalHead", "QuantileHead", "ImplicitQuantileHead"),
    ),
    "objective": _paths("dqn_lightning.losses", "DQN", "C51", "QRDQN", "IQN"),
    "munchausen": ["dqn_lightning.losses.Munchausen"],
    "activation": _paths("torch.nn", "ReLU", "Tanh", "SiLU", "Softmax"),
    "initialization": _paths("dqn_lightning.networks", "Normal", "Orthogonal"),
    "sampler": _paths("dqn_lightning.replay", "Uniform", "Prioritized"),
    "augmentations": _paths("dqn_lightning.replay", "RandomShift", "RandomMirror"),
    "optimizer": _paths("torch.optim", *_OPTIMIZERS),
    "lr_scheduler": [
        *_paths("torch.optim.lr_scheduler", "StepLR", "ExponentialLR", "CosineAnnealingLR"),
        *_paths("torch.optim.lr_scheduler", "ConstantLR", "OneCycleLR"),
        "lightning.pytorch.cli.ReduceLROnPlateau",
    ],
    "wrappers": [
        *_paths("dqn_lightning.envs.cartpole", "CartPoleScreen", "CartPoleShapedReward"),
        *_paths("gymnasium.wrappers", "FlattenObservation", "RecordEpisodeStatistics"),
        *_paths("gymnasium.wrappers", "TimeAwareObservation", "GrayscaleObservation"),
    ],
    "logger": _paths("lightning.pytorch.loggers", "CSVLogger", "TensorBoardLogger"),
    "callbacks": [
        *_paths("dqn_lightning.callbacks", "Video", "Timing"),
        *_paths("lightning.pytorch.callbacks", "EarlyStopping", "ModelCheckpoint"),
        *_paths("lightning.pytorch.callbacks", "LearningRateMonitor", "StochasticWeightAveraging"),
    ],
}
"""Classes from which a setting is drawn, by the last part of its flag."""

VALUES: dict[str, tuple[Any, ...]] = {
    "data.env.id": (
        *(
            "CartPole-v1",
            "Acrobot-v1",
            "MountainCar-v0",
            "FrozenLake-v1",
            "Taxi-v4",
            "CliffWalking-v1",
        ),
        *(f"tests.helpers.toy:toy/{name}-v0" for name in ("Walk", "Chance", "Images", "Drawn")),
        *("Blackjack-v1", "Pendulum-v1", "CartPol-v1", "toy", "nowhere:Env-v0"),
    ),
    "kwargs": ({"max_episode_steps": 20}, {"render_mode": "rgb_array"}, {"colour": "red"}),
    "env_kwargs": ({"max_episode_steps": 5}, {"max_episode_steps": -3}, {"colour": "red"}),
    "monitor": ("eval/return_mean", "train/return_mean", "train/loss", "nothing"),
    "lr": (0.001, 0.01, 0.0, -1.0),
    "loss": ("huber", "squared"),
    "num_atoms": (2, 11, 51, 1),
    "accelerator": ("cpu", "auto", "gpu", "abacus"),
    "precision": (32, "32-true", "64-true", "bf16-mixed", "bf16-true", "16-mixed", "16-true", 8),
    "profiler": ("simple", "advanced", "pytorch", "none"),
    "max_time": ("00:00:10:00", {"minutes": 5}, "00:00:00:00", "soon"),
    "gradient_clip_algorithm": ("norm", "value"),
    "default_root_dir": ("here", "."),
    "run_name": ("name", "a b", "..", "a/b", "::", "x" * 300, "é"),
    "ckpt_path": ("last", "missing.ckpt", ".", str(ROOT / "README.md"), str(CONFIGS)),
    "widths": ([8], [4, 4], [], [0], [-1]),
    "channels": ([4], [4, 8], []),
    "kernel_sizes": ([3], [3, 3], [[3, 2], 2]),
    "strides": ([1], [2, 1]),
    "actions": ([1, 0], [0, 1, 2], [5, 6]),
    "betas": ([0.9, 0.99], [1.0, 1.0]),
    "every_n_minutes": (0.001, 1.0, 10.0),
    "alpha": (0.0, 0.5, 1.0),
    "uniform_share": (0.0, 0.1, 1.0),
    "gamma": (0.0, 0.9, 0.99, 1.0),
    "epsilon": (0.0, 0.1, 1.0),
    "steps": (1, 50, 1000),
    "total_steps": (1000,),  # fewer end a run in the middle
    "start": (1, 2, 0.5),
    "end": (0.1, 1, 3),
}
"""Values from which a setting is drawn, by its flag or the last part of its flag."""

OVERLAYS = sorted(path.stem for path in (CONFIGS / "variants").glob("*.yaml"))


class Case(NamedTuple):
    """A random command line.

    Attributes:
        configs: Config files.
        settings: Values of all settings, by flag.
    """

    configs: list[Path]
    settings: dict[str, Any]

    @property
    def arguments(self) -> list[str]:
        """Arguments after the program's name."""
        configs = [f"--config={path}" for path in self.configs]
        return ["fit", *configs, *(f"--{flag}={_as_text(v)}" for flag, v in self.settings.items())]

    @property
    def command(self) -> str:
        """Command to paste into a shell, in the directory of the project."""
        return shlex.join(["python", "train.py", *self.arguments]).replace(f"{ROOT}/", "")

    def names(self) -> set[str]:
        """Return the names of all given settings, without `init_args` and `class_path`."""
        contents = [yaml.safe_load(path.read_text()) for path in self.configs]
        return {name for given in (self.settings, *contents) for name in _names_of(given)}


def draw_case(number: int) -> Case:
    """Return the random command line with the given number."""
    rng = random.Random(number)
    flags = dict(all_flags())
    variants = rng.sample(OVERLAYS, rng.choice([0, 0, 1, 2]))
    configs = [CONFIGS / "cartpole.yaml", *(CONFIGS / "variants" / f"{v}.yaml" for v in variants)]
    num_odd = rng.choice([0, 0, 0, 0, 1, 1, 2])
    chosen = rng.sample(sorted(flags), rng.randint(1, 6) + num_odd)
    odd = dict(draw_odd_setting(rng, flag) for flag in chosen[:num_odd])
    usual = {flag: draw(rng, flag, flags[flag]) for flag in chosen[num_odd:]}
    if any(flag.startswith("target_sync.every_n_") for flag in usual) and rng.random() < 0.8:
        usual = {"target_sync.every_n_env_steps": None, **usual}  # excludes the others
    return Case(configs, {**SHORT, **rng.choice(ENVIRONMENTS), **usual, **odd})


def all_flags() -> Iterator[tuple[str, Any]]:
    """Yield the flag and the type of every setting."""
    for group, kind in GROUPS.items():
        for name, (hint, _) in parameters(kind).items():
            flag = f"{group}.{name}"
            if flag not in GROUPS and name not in IGNORED.get(group, set()):
                yield flag, hint
    yield from OTHERS.items()


def parameters(kind: Callable[..., Any]) -> dict[str, tuple[Any, bool]]:
    """Return the type of each parameter of a class, and whether it has a default, by name."""
    function = kind.__init__ if inspect.isclass(kind) else kind  # type: ignore[misc]
    try:
        hints = typing.get_type_hints(function)
    except (NameError, TypeError):
        hints = {}
    return {
        name: (hints.get(name, Any), parameter.default is not parameter.empty)
        for name, parameter in inspect.signature(kind).parameters.items()
        if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
    }


def draw_odd_setting(rng: random.Random, flag: str) -> tuple[str, Any]:
    """Return a flag, which may be misspelled or name a whole group, and an unusual value."""
    if flag not in LIMITS and rng.random() < 0.1:
        flag = rng.choice([flag[:-1], flag.rpartition(".")[0] or flag])
    return flag, _draw_odd(rng, flag)


def _draw_odd(rng: random.Random, flag: str) -> Any:
    while True:
        value = rng.choice(ODD)
        if _within_limit(flag, value):
            return value


def draw(rng: random.Random, flag: str, hint: Any, depth: int = 0) -> Any:
    """Return a value of the given type."""
    name = flag.rpartition(".")[2]
    members = _members(hint)
    if type(None) in members and flag not in LIMITS and rng.random() < 0.2:
        return None
    fixed = VALUES.get(flag) or VALUES.get(name)
    takes_class = name in CLASSES and not all(kind in NUMBERS for kind in members)
    if takes_class and not (fixed and rng.random() < 0.3):
        drawn = draw_class(rng, flag, rng.choice(CLASSES[name]), depth)
        return [drawn] if name in ("wrappers", "augmentations", "callbacks") else drawn
    if fixed:
        return rng.choice(fixed)
    usual = [kind for kind in members if kind in (*NUMBERS, bool) or typing.get_origin(kind)]
    return _draw_member(rng, flag, rng.choice(usual or members))


def draw_class(rng: random.Random, flag: str, path: str, depth: int) -> Any:
    """Return a class with some of its arguments drawn."""
    module, _, name = path.rpartition(".")
    kind = getattr(__import__(module, fromlist=[name]), name)
    arguments = {}
    for key, (hint, has_default) in parameters(kind).items():
        if key in FILLED_IN or (depth > 1 and has_default):
            continue
        if rng.random() < (0.3 if has_default else 0.95):
            arguments[key] = draw(rng, f"{flag}.{key}", hint, depth + 1)
    return {"class_path": path, **({"init_args": arguments} if arguments else {})}


FILLED_IN = {"obs_shape", "in_features", "num_actions", "params", "optimizer", "env", "func"}
"""Arguments that the program provides when it calls a factory."""


def _draw_member(rng: random.Random, flag: str, kind: Any) -> Any:
    if kind is bool:
        return rng.random() < 0.5
    if kind in NUMBERS:
        numbers = [number for number in NUMBERS[kind] if _within_limit(flag, number)]
        return rng.choice(numbers)
    if typing.get_origin(kind) is Literal:
        return rng.choice(typing.get_args(kind))
    if typing.get_origin(kind) in (list, tuple) or kind in (list, tuple):
        return [rng.choice(NUMBERS[int]) for _ in range(rng.randint(0, 3))]
    return _draw_odd(rng, flag)


def _members(hint: Any) -> list[Any]:
    """Return the members of a union, or the type itself."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return [member for each in typing.get_args(hint) for member in _members(each)]
    return [hint]


def _within_limit(flag: str, value: Any) -> bool:
    if flag not in LIMITS:
        return True
    return value != "null" and not (isinstance(value, (int, float)) and value > LIMITS[flag])


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _names_of(settings: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield the names of nested settings."""
    for key, value in settings.items():
        name = prefix if key in ("init_args", "class_path") else f"{prefix}.{key}".strip(".")
        yield name
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, Mapping):
                yield from _names_of(each, name)
