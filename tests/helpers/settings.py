"""Build a datamodule from flat settings, so that a test names only the settings it changes."""

from dataclasses import fields
from typing import Any

from dqn_lightning import (
    DQNDataModule,
    EvaluationSettings,
    ExplorationSettings,
    ReplaySettings,
    ResumeSettings,
    ScheduleSettings,
)
from dqn_lightning.envs import EnvSettings, as_env_settings

GROUPS: dict[str, tuple[str, Any]] = {
    "replay": ("", ReplaySettings),
    "schedule": ("", ScheduleSettings),
    "exploration": ("", ExplorationSettings),
    "resume": ("", ResumeSettings),
    "evaluation": ("eval_", EvaluationSettings),
}
"""Prefix of each group's flat names, and the class of the group. `test_…` gets no prefix."""


def make_datamodule(env: Any = "CartPole-v1", **flat: Any) -> DQNDataModule:
    """Return a datamodule.

    Args:
        env: The environment, in any form that `DQNDataModule` accepts.
        **flat: Settings of all groups, such as `num_envs=2`, `n_step=3` and `eval_episodes=2`;
            `EnvSettings.kwargs` is called `env_kwargs`. Others are arguments of `DQNDataModule`.
    """
    groups: dict[str, Any] = {}
    for name, (prefix, kind) in GROUPS.items():
        names = {_flat_name(field.name, prefix): field.name for field in fields(kind)}
        chosen = {names[key]: flat.pop(key) for key in list(flat) if key in names}
        groups[name] = kind(**chosen)
    env_settings = as_env_settings(env)
    for field in fields(EnvSettings):
        key = {"kwargs": "env_kwargs"}.get(field.name, field.name)
        if key in flat:
            env_settings = EnvSettings(**{**vars(env_settings), field.name: flat.pop(key)})
    return DQNDataModule(env_settings, **groups, **flat)


def _flat_name(name: str, prefix: str) -> str:
    return name if name.startswith("test_") else f"{prefix}{name}"
