"""Capture, check and restore run state: environments, replay and random generators.

This state is stored in files beside the checkpoint.
"""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from dqn_lightning.checkpointing.format import FORMAT_VERSION
from dqn_lightning.checkpointing.serialization import from_plain, to_plain
from dqn_lightning.errors import ConfigError
from dqn_lightning.types import RunProgress


@dataclass(frozen=True)
class ResumeSettings:
    """Settings for resuming a run from a checkpoint.

    Args:
        require_replay: Whether to raise an error if state files are missing or damaged. If false,
            such a run resumes with an empty replay and new episodes.
        redistribute_replay: Whether to redistribute the saved replays if the number of ranks has
            changed, instead of raising an error. Such a run does not resume bit-exactly: its
            environments are reset and its random generators are seeded again.
    """

    require_replay: bool = True
    redistribute_replay: bool = False


class RunCollector(Protocol):
    """Protocol for a collector whose state can be saved and restored."""

    progress: RunProgress
    replay: Any

    def state_dict(self) -> dict[str, Any]:
        """Return the state of environments, actor and replay, excluding the replay's rows."""
        ...

    def load_state_dict(
        self, state: dict[str, Any], rows: Iterable[tuple[range, dict[str, Tensor]]]
    ) -> str | None:
        """Restore the state; return the reason if environments had to be reset, else None."""
        ...


def capture(
    collector: RunCollector, rng: torch.Generator, buffers: dict[str, Tensor], env: dict[str, str]
) -> dict[str, Any]:
    """Return this rank's state, excluding the rows of its replay.

    Args:
        collector: Collector of this rank.
        rng: Random generator for the noise in updates.
        buffers: Persistent buffers of the module by name; they may differ between ranks.
        env: Values of the flags that determine the environments, by flag name.
    """
    return {
        "format": FORMAT_VERSION,
        "env": env,
        "progress": collector.progress.state_dict(),
        "collector": collector.state_dict(),
        "generators": {**_generator_states(), "noise": rng.get_state()},
        "buffers": {name: buffer.cpu() for name, buffer in buffers.items()},
    }


def check(state: dict[str, Any], collector: RunCollector, env: dict[str, str]) -> None:
    """Check that a saved state fits this run, without changing anything.

    Args:
        state: Saved state.
        collector: Collector of this run.
        env: This run's values of the flags that determine the environments, by flag name.

    Raises:
        ConfigError: If the format, the environments or the size of the replay differ, or if the
            saved rows are incomplete or belong to another run.
    """
    check_origin(state, env)
    try:
        collector.replay.check_size(state["collector"]["replay"])
    except ValueError as error:
        raise ConfigError(
            f"data.replay.capacity, data.env.num_envs: the saved replay has another size ({error})"
        ) from error


def check_origin(state: dict[str, Any], env: dict[str, str]) -> None:
    """Check that a saved state's format, environments and rows are valid for this run.

    Args:
        state: Saved state.
        env: This run's values of the flags that determine the environments, by flag name.

    Raises:
        ConfigError: If the format or the environments differ, or if the saved rows are incomplete
            or belong to another run.
    """
    if state.get("format") != FORMAT_VERSION:
        raise ConfigError(
            f"--ckpt_path: the state file has format {state.get('format', 0)}, this version of "
            f"dqn_lightning reads format {FORMAT_VERSION}"
        )
    for flag, value in env.items():
        if (saved := state["env"][flag]) != value:
            raise ConfigError(f"{flag}: the run was made with {saved}, not {value}")
    _check_rows(state["pieces"], state["collector"]["replay"]["time"])


def _check_rows(pieces: Sequence[Sequence[Any]], pending: int) -> None:
    """Check that the pieces of a replay are consecutive and end with the pending vector step.

    A piece is a file with consecutive rows. The pending vector step is the newest vector
    step, for which no action has been taken yet.

    Args:
        pieces: First vector step, end (exclusive) and file name of each piece, oldest first.
        pending: Number of the pending vector step.

    Raises:
        ConfigError: If vector steps are missing, or are newer than the pending vector step.
    """
    starts = [start for start, *_ in pieces]
    stops = [stop for _, stop, *_ in pieces]
    if stops[-1] != pending + 1:
        raise ConfigError(
            f"--ckpt_path: the saved replay ends at vector step {pending}, but its rows end at "
            f"vector step {stops[-1] - 1}: they belong to another run"
        )
    if starts[1:] != stops[:-1]:
        raise ConfigError("--ckpt_path: vector steps between the saved rows are missing")


def restore_collector(
    state: dict[str, Any],
    collector: RunCollector,
    rows: Iterable[tuple[range, dict[str, Tensor]]],
) -> str | None:
    """Restore the state of a collector: progress, environments, actor and replay.

    Args:
        state: State returned by `capture`.
        collector: Collector to restore.
        rows: Rows of the replay, as pairs of a range of T vector-step numbers and the columns
            [T, N, …] for these steps.

    Returns:
        Why the environments had to be reset, which truncates their episodes, or None if they were
        restored.
    """
    failure = collector.load_state_dict(state["collector"], rows)
    collector.progress.load_state_dict(state["progress"])
    return failure


def restore_generators(
    state: dict[str, Any], rng: torch.Generator, buffers: dict[str, Tensor]
) -> None:
    """Restore the global random generators, `rng` and the module's buffers in place.

    CUDA generators are not restored if the number of devices differs, and `rng` is not restored if
    its state was saved on another type of device.

    Args:
        state: State returned by `capture`.
        rng: Random generator for the noise in updates.
        buffers: Persistent buffers of the module by name.
    """
    generators = state["generators"]
    torch.set_rng_state(generators["torch"])
    if len(generators["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(generators["cuda"])
    np.random.set_state(from_plain(generators["numpy"]))
    version, words, gauss = generators["python"]
    random.setstate((version, tuple(words.tolist()), gauss))
    if len(generators["noise"]) == len(rng.get_state()):
        rng.set_state(generators["noise"])
    for name, buffer in buffers.items():
        buffer.copy_(state["buffers"][name])


def _generator_states() -> dict[str, Any]:
    """Return the states of the global random generators."""
    version, words, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": to_plain(np.random.get_state()),
        "python": [version, torch.tensor(words), gauss],
    }
