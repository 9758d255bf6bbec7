"""Check that all ranks train with the same settings."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from typing import Any

import gymnasium as gym

from dqn_lightning import distributed
from dqn_lightning.errors import ConfigError


def check_rank_settings(datamodule: Any) -> None:
    """Check that the settings and environments of a datamodule are the same on all ranks.

    Args:
        datamodule: `DQNDataModule` of this rank, attached to a trainer.

    Raises:
        ConfigError: On all ranks, if settings differ; see `check_same`.
    """
    if not distributed.is_distributed():
        return
    settings = {name: value for name, value in vars(datamodule).items() if is_dataclass(value)}
    environment = {
        "spec": gym.registry.get(datamodule.env.id.rpartition(":")[2]),
        "obs_shape": datamodule.obs_shape,
        "obs_dtype": datamodule.collectors.obs_dtype,
        "num_actions": datamodule.num_actions,
    }
    check_same(
        {
            "data": {**settings, "seed": datamodule.seed},
            "model": dict(datamodule.trainer.lightning_module.hparams),
            "environment": environment,
            **datamodule.shared_settings,
        }
    )


def check_same(settings: Mapping[str, Any]) -> None:
    """Check that all ranks pass the same settings.

    Args:
        settings: Settings of this rank by name; mappings and dataclasses may be nested. A missing
            value equals None.

    Raises:
        ConfigError: On all ranks, if settings differ. The message names each of them, with its
            value on each rank.
    """
    by_rank = distributed.all_gather(dict(_flatten("", settings)))
    differences = []
    for name in dict.fromkeys(name for each in by_rank for name in each):
        ranks: dict[str, list[int]] = {}
        for rank, each in enumerate(by_rank):
            ranks.setdefault(each.get(name, "null"), []).append(rank)
        if len(ranks) > 1:
            values = [f"{v} (rank {', '.join(map(str, r))})" for v, r in ranks.items()]
            differences.append(f"{name}: {', '.join(values)}")
    if differences:
        raise ConfigError(f"{'; '.join(differences)}: settings must be the same on all ranks")


def _flatten(prefix: str, value: Any) -> Iterator[tuple[str, str]]:
    """Yield the full name and the text of each value in nested mappings and dataclasses."""
    if is_dataclass(value):
        value = vars(value)
    if isinstance(value, Mapping):
        for name, each in value.items():
            yield from _flatten(f"{prefix}.{name}" if prefix else str(name), each)
    elif value is not None:
        yield prefix, re.sub(" at 0x[0-9a-f]+", "", str(value))  # addresses differ
