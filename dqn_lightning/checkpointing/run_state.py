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
        require_replay: Whether to raise an error if the saved state is missing or damaged, or does
            not fit the run. If false, the run then resumes with an empty replay and new episodes.
        redistribute_replay: Whether to redistribute the saved replays if the number of ranks has
            changed. If false, an error is raised instead. After a redistribution, the run is not
            bit-exact, because environments are reset and random generators are seeded again.
    """

    require_replay: bool = True
    redistribute_replay: bool = False


class RunCollector(Protocol):
    """Protocol for a collector whose state can be saved and restored.

    A collector steps the environments and writes the steps to the replay.

    Attributes:
        progress: Counts of environment steps, episodes and updates.
        replay: Replay to which the collector writes.
    """

    progress: RunProgress
    replay: Any

    def state_dict(self) -> dict[str, Any]:
        """Return the state of environments, actor and replay, excluding the rows of the replay."""
        ...

    def load_state_dict(
        self, state: dict[str, Any], rows: Iterable[tuple[range, dict[str, Tensor]]]
    ) -> str | None:
        """Restore the state of environments, actor and replay.

        Args:
            state: State returned by `state_dict`.
            rows: Rows of the replay (see `restore_collector`).

        Returns:
            The reason why the environments had to be reset; None if they were restored.
        """
        ...


def capture(
    collector: RunCollector, rng: torch.Generator, buffers: dict[str, Tensor], env: dict[str, str]
) -> dict[str, Any]:
    """Return the state that this rank needs to resume, excluding the rows of its replay.

    Args:
        collector: Collector of this rank.
        rng: Random generator for the noise in updates.
        buffers: Persistent buffers of the module by name; they may differ between ranks.
        env: Values of the command-line flags that determine the environments, by flag name.
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
        env: This run's values of the command-line flags that determine the environments.

    Raises:
        ConfigError: If the saved format, environments or replay size differ from those of this run,
            or if the saved rows of the replay are incomplete or belong to another run.
    """
    check_origin(state, env)
    try:
        collector.replay.check_size(state["collector"]["replay"])
    except ValueError as error:
        raise ConfigError(
            f"data.replay.capacity, data.env.num_envs: the saved replay has another size ({error})"
        ) from error


def check_origin(state: dict[str, Any], env: dict[str, str]) -> None:
    """Check that a saved state fits this run, but allow a replay of another size.

    Args:
        state: Saved state.
        env: This run's values of the command-line flags that determine the environments.

    Raises:
        ConfigError: If the saved format or environments differ from those of this run, or if the
            saved rows of the replay are incomplete or belong to another run.
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

    A vector step is one step of all environments of a rank, and a piece is a file that contains
    consecutive vector steps. The pending vector step is the newest one: no action has been taken
    for it yet.

    Args:
        pieces: First vector step, end (exclusive) and file name of each piece, oldest first.
        pending: Index of the pending vector step.

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
        rows: Rows of the replay, oldest first: pairs of a range of T vector steps (steps of all N
            environments) and the columns [T, N, …] of these steps, by name.

    Returns:
        The reason why the environments had to be reset; None if they were restored. A reset
        truncates the episodes in progress.
    """
    failure = collector.load_state_dict(state["collector"], rows)
    collector.progress.load_state_dict(state["progress"])
    return failure


def restore_generators(
    state: dict[str, Any], rng: torch.Generator, buffers: dict[str, Tensor]
) -> None:
    """Restore the global random generators, `rng` and the module's buffers in place.

    CUDA generators are not restored if the number of CUDA devices has changed. `rng` is not
    restored if its state was saved on another type of device.

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
    """Return the states of the global generators of Python, NumPy, PyTorch and CUDA, by name."""
    version, words, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": to_plain(np.random.get_state()),
        "python": [version, torch.tensor(words), gauss],
    }
