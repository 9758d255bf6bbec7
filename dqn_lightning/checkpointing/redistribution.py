"""Redistribute saved replays when a run resumes with a different number of ranks."""

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from dqn_lightning import distributed
from dqn_lightning.checkpointing.store import SavedState
from dqn_lightning.errors import ConfigError


def redistribute(replay: Any, saved: Sequence[SavedState]) -> None:
    """Fill this rank's replay with its share of the rows saved by all ranks of the previous run.

    Args:
        replay: Replay of this rank.
        saved: States saved by the ranks of the previous run, one per rank.

    Raises:
        ConfigError: If the number of environments per rank differs from that of the previous run.
    """
    for columns in _shares(saved):
        num_envs = columns["action"].shape[1]
        if num_envs != replay.num_envs:
            raise ConfigError(
                f"data.env.num_envs: the run was made with {num_envs} per rank, "
                f"not {replay.num_envs}"
            )
        replay.append_foreign(columns)


def _shares(saved: Sequence[SavedState]) -> Iterator[dict[str, Tensor]]:
    """Yield this rank's share of each piece, a file with consecutive rows of a saved replay.

    Pieces with the oldest rows come first, because the replay overwrites rows in the order of
    insertion. Each share is a dict of columns [T, N, …] for T steps of N environments.
    """
    rank, world_size = distributed.rank(), distributed.world_size()
    pieces = [(piece, state) for state in saved for piece in state.pieces]
    pieces.sort(key=lambda pair: pair[0].start)
    for piece, state in pieces:
        length = piece.stop - piece.start
        # Of the last step only the observation is used; the next rank's part starts with it.
        part = slice(length * rank // world_size, length * (rank + 1) // world_size + 1)
        yield {name: column[part] for name, column in state.read(piece).items()}
