"""Store the state of a run beside its checkpoints, and delete files that are no longer needed.

A run directory contains checkpoints (`*.ckpt`) and a directory `state/rank-N/` for each rank N. A
checkpoint refers to one state file per rank. A state file refers to pieces: files that contain
consecutive vector steps of the replay. A vector step consists of one row for each environment of
the rank. Only the newest rows can still change, so a full piece without these rows is written once
and shared by later checkpoints. The time to save therefore depends only on the number of new rows.
"""

import itertools
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from dqn_lightning import distributed
from dqn_lightning.checkpointing import files
from dqn_lightning.errors import ConfigError

REFERENCE_KEY = "full_state"
"""Key under which a checkpoint contains the names of its state files."""

PIECE_BYTES = 2 * 2**20
"""Target size of a full piece of the replay, in bytes."""

_NUMBERED_PREFIX = "env_steps-"


class Piece(NamedTuple):
    """Name and range of a file that contains consecutive vector steps of the replay.

    Attributes:
        start: Index of the first vector step in the file.
        stop: Index of the last vector step in the file, plus 1.
        name: File name.
    """

    start: int
    stop: int
    name: str


class SavedState:
    """State saved by one rank; the constructor loads the state file and checks all pieces.

    Args:
        run_directory: Run directory that contains the checkpoint.
        run_id: Identifier of the run that the checkpoint belongs to.
        rank: Rank that saved the state.
        name: Name of the state file.
        source: Flag or file that refers to the state file, for error messages.

    Attributes:
        run_directory: Run directory that contains the checkpoint.
        content: Content of the state file.
        pieces: Files with the rows of the replay, oldest first.

    Raises:
        ConfigError: If a file is missing, corrupt or truncated, or if the state file belongs to
            another run, rank or environment step.
    """

    def __init__(self, run_directory: Path, run_id: str, rank: int, name: str, source: str) -> None:
        self.run_directory = run_directory
        self._run_id = run_id
        self._directory = state_directory(run_directory, rank)
        self._source = source
        self.content: dict[str, Any] = files.load_with_digest(self._directory / name, source)
        self._check_origin(rank, name)
        self.pieces = [Piece(*piece) for piece in self.content["pieces"]]
        for piece in self.pieces:
            files.check_digest(self._directory / piece.name, source)

    def _check_origin(self, rank: int, name: str) -> None:
        progress = self.content["progress"]
        env_steps = int(name.partition("-")[0])
        if progress["run_id"] != self._run_id:
            raise self._foreign(name, "belongs to another run")
        if self.content["rank"] != rank:
            raise self._foreign(name, f"belongs to rank {self.content['rank']}, not {rank}")
        if progress["env_steps"] != env_steps:
            raise self._foreign(
                name, f"was saved at environment step {progress['env_steps']}, not {env_steps}"
            )

    def _foreign(self, name: str, reason: str) -> ConfigError:
        return ConfigError(f"{self._source}: {self._directory / name} {reason}")

    def read(self, piece: Piece) -> dict[str, Tensor]:
        """Return the rows of a piece as columns [T, N, …] for T vector steps of N environments.

        Raises:
            ConfigError: If the rows belong to another run.
        """
        content = files.read(self._directory / piece.name, self._source)
        if content["run_id"] != self._run_id:
            raise self._foreign(piece.name, "belongs to another run")
        rows: dict[str, Tensor] = content["rows"]
        return rows

    def rows(self) -> Iterator[tuple[range, dict[str, Tensor]]]:
        """Yield the range of vector steps and the columns [T, N, …] of each piece, oldest first."""
        for piece in self.pieces:
            yield range(piece.start, piece.stop), self.read(piece)


class RankStore:
    """Storage for this rank's state files in a run directory.

    Args:
        run_directory: Directory of the run.
    """

    def __init__(self, run_directory: Path) -> None:
        self._run_directory = run_directory
        self._directory = state_directory(run_directory, distributed.rank())
        # Pieces that later checkpoints share, and their file sizes, by the multiple of
        # `_steps_per_piece` they start at; the first piece of a full replay may begin after that.
        self._complete_pieces: dict[int, tuple[Piece, int]] = {}
        self._newest_files: set[str] = set()  # state file and pieces of the last `write`
        # Modification time of each checkpoint, and the files of a rank that it refers to.
        self._references: dict[tuple[Path, int], tuple[int, set[str]]] = {}

    def share_pieces(self, saved: SavedState, replay: Any) -> None:
        """Let later checkpoints refer to pieces (files of replay rows) of a restored state.

        Pieces that can still change are not shared. A state that was restored from another run
        directory is ignored, because its files are not in this directory.

        Args:
            saved: State that was restored.
            replay: Replay that contains the restored rows.
        """
        if not saved.run_directory.samefile(self._run_directory):
            return
        steps, pending = _steps_per_piece(replay), saved.pieces[-1].stop - 1
        self._complete_pieces = {
            piece.stop - steps: (piece, self._size(piece))
            for piece in saved.pieces
            if piece.stop % steps == 0
            and piece.stop < pending
            and piece.start <= max(piece.stop - steps, saved.pieces[0].start)
        }

    def write(self, state: dict[str, Any], replay: Any) -> str:
        """Write this rank's state and the new rows of its replay.

        Args:
            state: State of this rank, excluding the rows of its replay.
            replay: Replay of this rank, with attributes `times`, `read` and `step_bytes`.

        Returns:
            Name of the state file, which starts with the number of environment steps.

        Raises:
            OSError: If a file cannot be written.
        """
        files.make_directory(self._directory)
        progress = state["progress"]
        pieces = list(self._write_rows(replay, progress["run_id"]))
        content = {
            **state,
            "rank": distributed.rank(),
            "pieces": [list(piece) for piece in pieces],
        }
        name = files.save_with_digest(content, self._directory, str(progress["env_steps"]))
        self._newest_files = {name, *(piece.name for piece in pieces)}
        return name

    def _write_rows(self, replay: Any, run_id: str) -> Iterator[Piece]:
        times, steps = replay.times, _steps_per_piece(replay)
        first = times.start // steps * steps
        self._forget_pieces(before=first)
        for start in range(first, times.stop, steps):
            if start in self._complete_pieces:
                yield self._complete_pieces[start][0]
                continue
            stored = range(max(start, times.start), min(start + steps, times.stop))
            prefix = f"rows-{stored.start}-{stored.stop}"
            content = {"run_id": run_id, "rows": replay.read(stored)}
            name = files.save_with_digest(content, self._directory, prefix)
            piece = Piece(stored.start, stored.stop, name)
            # The newest complete row may still be truncated; older rows cannot change.
            if stored.stop < times.stop - 1:
                self._complete_pieces[start] = piece, self._size(piece)
            yield piece

    def _forget_pieces(self, before: int) -> None:
        """Forget pieces of overwritten rows, and those that another program deleted or changed."""
        sizes = {path.name: path.stat().st_size for path in self._directory.glob("rows-*")}
        for start, (piece, size) in list(self._complete_pieces.items()):
            is_intact = sizes.get(piece.name) == size
            if start >= before and not is_intact:
                path = self._directory / piece.name
                warnings.warn(f"{path} was deleted or changed; it is written again", stacklevel=2)
            if start < before or not is_intact:
                del self._complete_pieces[start]

    def _size(self, piece: Piece) -> int:
        return (self._directory / piece.name).stat().st_size

    def remove_unfinished(self) -> None:
        """Delete temporary files left behind by a killed process."""
        files.remove_unfinished(self._directory, "*")
        if distributed.rank() == 0:
            for pattern in ("*.ckpt", "metrics.csv", "timing.csv"):
                files.remove_unfinished(self._run_directory, pattern)

    def remove_unused(self, newest: Iterable[Path]) -> None:
        """Delete state files that no checkpoint in the run directory refers to.

        Args:
            newest: Checkpoint files that refer to the most recently written state.
        """
        own_rank = distributed.rank()
        self._references = {k: v for k, v in self._references.items() if k[0].exists()}
        for path in newest:
            self._references[path, own_rank] = path.stat().st_mtime_ns, self._newest_files
        # This rank also deletes files of ranks that this run does not have.
        for rank in itertools.count(own_rank, distributed.world_size()):
            if not state_directory(self._run_directory, rank).is_dir():
                return
            self._remove_unused_of(rank)

    def _remove_unused_of(self, rank: int) -> None:
        directory, used = state_directory(self._run_directory, rank), set[str]()
        for path in self._run_directory.glob("[!.]*.ckpt"):  # not temporary files
            try:
                used |= self._files_used_by(path, rank)
            except ConfigError:  # a damaged checkpoint may refer to any file
                return
        for path in directory.glob("*.pt"):
            if path.name not in used:
                path.unlink(missing_ok=True)
        if not any(directory.iterdir()):
            directory.rmdir()

    def _files_used_by(self, path: Path, rank: int) -> set[str]:
        written = path.stat().st_mtime_ns
        if self._references.get((path, rank), (0,))[0] != written:
            names = _read_references(path, self._run_directory, rank)
            self._references[path, rank] = written, names
        return self._references[path, rank][1]


def state_directory(run_directory: Path, rank: int) -> Path:
    """Return the directory for the state files of a rank."""
    return run_directory / "state" / f"rank-{rank}"


def numbered_checkpoint(run_directory: Path, env_steps: int) -> Path:
    """Return the path of the numbered checkpoint, `env_steps-<env_steps>.ckpt`."""
    return run_directory / f"{_NUMBERED_PREFIX}{env_steps}.ckpt"


def keep_newest(last: Path, env_steps: int, keep_last: int) -> None:
    """Create a numbered link to the last checkpoint, and delete old numbered checkpoints.

    The link's name contains the number of environment steps, for example `env_steps-1000.ckpt`.
    Numbered checkpoints with more environment steps than the last checkpoint are also deleted: the
    run was resumed from an earlier checkpoint, so they belong to an abandoned continuation.

    Args:
        last: Path of the last checkpoint.
        env_steps: Number of environment steps at which the last checkpoint was saved.
        keep_last: Number of most recent numbered checkpoints to keep.
    """
    files.link(last, numbered_checkpoint(last.parent, env_steps).name)
    by_env_steps = {
        int(path.stem.removeprefix(_NUMBERED_PREFIX)): path
        for path in last.parent.glob(f"{_NUMBERED_PREFIX}[0-9]*.ckpt")
    }
    kept = sorted(steps for steps in by_env_steps if steps <= env_steps)[-keep_last:]
    for steps in by_env_steps.keys() - set(kept):
        by_env_steps[steps].unlink()


def _steps_per_piece(replay: Any) -> int:
    """Return the number of vector steps in a full piece (file) of the saved replay, at least 1."""
    step_bytes: int = replay.step_bytes
    return max(1, PIECE_BYTES // step_bytes)


def _read_references(path: Path, run_directory: Path, rank: int) -> set[str]:
    """Return the names of a rank's files (state file and pieces) to which a checkpoint refers.

    Raises:
        ConfigError: If the checkpoint or the state file is damaged.
    """
    reference = files.load(path, "checkpoint").get(REFERENCE_KEY)
    by_rank = [] if reference is None else reference["files"]
    if rank >= len(by_rank):
        return set()
    state_file = state_directory(run_directory, rank) / by_rank[rank]
    if not state_file.exists():
        return set()
    pieces = files.load_with_digest(state_file, path.name)["pieces"]
    return {state_file.name, *(Piece(*piece).name for piece in pieces)}
