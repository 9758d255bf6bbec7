"""Saves everything a run needs to go on as if it had never stopped."""

import itertools
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from dqn_lightning import files, ranks
from dqn_lightning.callbacks.run_folder import folder_of_run
from dqn_lightning.csv_log import CSVLog
from dqn_lightning.datamodule import DQNDataModule
from dqn_lightning.errors import ConfigError
from dqn_lightning.module import DQNModule
from dqn_lightning.networks.layers import statistics
from dqn_lightning.plain import plain, restored
from dqn_lightning.replay import ReplayBuffer

_FOLDER = "state"
_KEY = "full_state"
_PIECE_BYTES = 2 * 2**20


class Piece(NamedTuple):
    """A file of rows: vector steps from `start` to before `stop`."""

    start: int
    stop: int
    name: str


class FullState(Callback):
    """Writes what is large or a rank's own beside each checkpoint, and reads it when a run goes on.

    A checkpoint refers to a state file in the run's folder `state/rank-N`, and that to files of
    rows; all carry checksums in their names and in themselves. The replay only ever grows at its
    end, so pieces of it that are full are written once and shared by all later checkpoints: saving
    takes as long as what is new. Files are removed with the last checkpoint that refers to them.

    Each rank writes and reads its own; a run goes on exactly with the same number of ranks.
    """

    def __init__(self) -> None:
        self._full_pieces: dict[int, Piece] = {}  # written and never to change, by their place
        self._folder: Path | None = None  # where they lie
        self._run: Path | None = None  # the run's folder
        self._state: dict[str, Any] | None = None  # what is restored when training starts
        self._tables: list[Any] | None = None
        self._newest: set[str] = set()  # what the newest checkpoint refers to
        # What each of them does, and when it was written; of each rank.
        self._known: dict[tuple[Path, int], tuple[int, set[str]]] = {}

    # Saving -------------------------------------------------------------------------------------

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: DQNModule, checkpoint: dict[str, Any]
    ) -> None:
        """Write this rank's state, and refer to it."""
        data = trainer.datamodule
        if not isinstance(data, DQNDataModule) or data.dataset is None:
            return
        if self._run is None:
            return
        folder = _state_folder(self._run, ranks.own())
        folder.mkdir(parents=True, exist_ok=True)
        if folder != self._folder:
            self._full_pieces, self._folder = {}, folder
        collector = data.dataset.collector
        pieces = list(self._write_rows(folder, collector.replay))
        state = {
            "environment": _environment(data),
            "collector": collector.state_dict(),
            "generators": {**_generators(), "noise": pl_module.rng.get_state()},
            "buffers": {name: buffer.cpu() for name, buffer in statistics(pl_module).items()},
            "pieces": [list(piece) for piece in pieces],
        }
        name = files.save(state, folder, f"{pl_module.clock.env_steps}-{{digest}}.pt")
        self._newest = {name, *(piece.name for piece in pieces)}
        tables = [logger.state_dict() for logger in trainer.loggers if isinstance(logger, CSVLog)]
        checkpoint[_KEY] = {"files": ranks.gather(name), "tables": tables}

    def _write_rows(self, folder: Path, replay: ReplayBuffer) -> Iterator[Piece]:
        times, steps = replay.times, _piece_steps(replay)
        first = times.start // steps * steps
        self._full_pieces = {t: p for t, p in self._full_pieces.items() if t >= first}
        for place in range(first, times.stop, steps):
            if place in self._full_pieces:
                yield self._full_pieces[place]
                continue
            here = range(max(place, times.start), min(place + steps, times.stop))
            name = f"rows-{here.start}-{here.stop}-{{digest}}.pt"
            piece = Piece(here.start, here.stop, files.save(replay.read(here), folder, name))
            # The newest complete row may still be cut; one that a complete row follows may not.
            if here.stop < times.stop - 1:
                self._full_pieces[place] = piece
            yield piece

    def remove_unused(self, newest: Iterable[Path]) -> None:
        """Remove state that no checkpoint of the run's folder refers to any more.

        Args:
            newest: The files that hold the checkpoint which was saved last.
        """
        if self._run is None:
            return
        for path in newest:
            self._known[path, ranks.own()] = path.stat().st_mtime_ns, self._newest
        # Its own, and what is left of ranks that there were more of.
        for rank in itertools.count(ranks.own(), ranks.count()):
            if not _state_folder(self._run, rank).is_dir():
                return
            self._remove_unused_of(rank, self._run)

    def _remove_unused_of(self, rank: int, run: Path) -> None:
        folder, used = _state_folder(run, rank), set[str]()
        for path in run.glob("*.ckpt"):
            try:
                used |= self._used_by(path, folder, rank)
            except ConfigError:  # damaged: what it refers to is not known, so all may be
                return
        for path in folder.glob("*.pt"):
            if path.name not in used:
                path.unlink()
        if not any(folder.iterdir()):
            folder.rmdir()

    def _used_by(self, path: Path, folder: Path, rank: int) -> set[str]:
        written = path.stat().st_mtime_ns
        if self._known.get((path, rank), (0,))[0] != written:
            reference = files.load(path, "checkpoint").get(_KEY)
            names: set[str] = set()
            by_rank = [] if reference is None else reference["files"]
            name = by_rank[rank] if rank < len(by_rank) else ""
            if name and (folder / name).exists():
                pieces = files.load(folder / name, path.name)["pieces"]
                names = {name, *(Piece(*piece).name for piece in pieces)}
            self._known[path, rank] = written, names
        return self._known[path, rank][1]

    # Going on -----------------------------------------------------------------------------------

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: DQNModule, checkpoint: dict[str, Any]
    ) -> None:
        """Bring back environments, replay and generators, or say what is missing.

        Raises:
            ConfigError: If something is missing or damaged, and the replay is required.
        """
        if trainer.state.fn != TrainerFn.FITTING:
            return
        data: Any = trainer.datamodule
        path = Path(str(trainer.ckpt_path))
        files.check(path, "--ckpt_path")
        reference = checkpoint.get(_KEY)
        self._tables = None if reference is None else reference["tables"]
        problem, restore = None, None
        try:
            restore = self._find(data, path, reference)
        except ConfigError as error:
            problem = str(error)
        problems = [(rank, text) for rank, text in enumerate(ranks.gather(problem)) if text]
        if not problems:
            assert restore is not None
            restore()
            return
        rank, problem = problems[0]
        if rank > 0:
            problem = f"{problem} (rank {rank})"
        if data.require_replay:
            hint = "--data.require_replay=false goes on with an empty replay"
            raise ConfigError(f"{problem}; {hint}")
        rank_zero_info(f"{problem}; data.require_replay is false")

    def _find(
        self, data: DQNDataModule, path: Path, reference: dict[str, Any] | None
    ) -> Callable[[], None]:
        """See that everything is there, and give what brings it back; nothing is changed yet."""
        if reference is None:
            raise ConfigError("--ckpt_path: the checkpoint was written without its full state")
        names, what = reference["files"], f"--ckpt_path: {path.name} refers to"
        if len(names) == ranks.count():
            saved = _Saved(path.parent, ranks.own(), names[ranks.own()], what, data)
            data.check_collector_state(saved.state["collector"])
            return partial(self._restore, data, saved)
        if not data.reshare_replay:
            raise ConfigError(
                f"--ckpt_path: the run was made by {len(names)} ranks, not {ranks.count()}; "
                "--data.reshare_replay=true deals their replays out to these, not bit for bit"
            )
        everyone = [_Saved(path.parent, rank, name, what, data) for rank, name in enumerate(names)]
        return partial(_deal_out, data, everyone)

    def _restore(self, data: DQNDataModule, saved: "_Saved") -> None:
        """Bring this rank's state back."""
        self._state = saved.state
        data.load_collector_state(
            saved.state["collector"],
            ((range(piece.start, piece.stop), saved.read(piece)) for piece in saved.pieces),
        )
        assert data.dataset is not None
        steps, newest = _piece_steps(data.dataset.collector.replay), saved.pieces[-1].stop - 1
        self._folder = saved.folder
        self._full_pieces = {
            piece.stop - steps: piece
            for piece in saved.pieces
            if piece.stop % steps == 0
            and piece.stop < newest
            and piece.start <= max(piece.stop - steps, saved.pieces[0].start)
        }

    def on_train_start(self, trainer: Trainer, pl_module: DQNModule) -> None:
        """Set what anyone may draw from or change, when nobody does any more before training."""
        if self._state is not None:
            _set_generators(self._state["generators"])
            noise = self._state["generators"]["noise"]
            if len(noise) == len(pl_module.rng.get_state()):  # else it is of another device
                pl_module.rng.set_state(noise)
            for name, buffer in statistics(pl_module).items():
                buffer.copy_(self._state["buffers"][name])
        if self._tables is not None:
            logs = [logger for logger in trainer.loggers if isinstance(logger, CSVLog)]
            for log, state in zip(logs, self._tables, strict=False):
                log.load_state_dict(state)
        self._state = self._tables = None
        self._run = folder_of_run(trainer)
        if self._run is None:
            return
        files.remove_unfinished(_state_folder(self._run, ranks.own()), "*")
        if trainer.is_global_zero:
            for name in ("*.ckpt", "metrics.csv", "timing.csv"):
                files.remove_unfinished(self._run, name)


class _Saved:
    """What a rank has saved.

    Raises:
        ConfigError: If anything of it is missing or damaged, or of another environment.
    """

    def __init__(self, run: Path, rank: int, name: str, what: str, data: DQNDataModule) -> None:
        self.folder = _state_folder(run, rank)
        self._what = what
        self.state = files.load(self.folder / name, what)
        for flag, now in _environment(data).items():
            if (before := self.state["environment"][flag]) != now:
                raise ConfigError(f"data.{flag}: the run was made with {before}, not {now}")
        self.pieces = [Piece(*piece) for piece in self.state["pieces"]]
        for piece in self.pieces:
            files.check(self.folder / piece.name, what)

    def read(self, piece: Piece) -> dict[str, Tensor]:
        """The rows of a piece: columns [T, N, …]."""
        rows: dict[str, Tensor] = files.read(self.folder / piece.name, self._what)
        return rows


def _deal_out(data: DQNDataModule, saved: Sequence[_Saved]) -> None:
    """Give this rank its share of the rows of other ranks: an equal part of each piece."""
    pieces = [(piece, of_rank) for of_rank in saved for piece in of_rank.pieces]
    pieces.sort(key=lambda piece: piece[0].start)  # the oldest first, to be overwritten first
    number, parts = ranks.own(), ranks.count()

    def shares() -> Iterator[dict[str, Tensor]]:
        for piece, of_rank in pieces:
            length = piece.stop - piece.start
            # The last step of a part is there for its observation; the next part begins with it.
            part = slice(length * number // parts, length * (number + 1) // parts + 1)
            yield {name: rows[part] for name, rows in of_rank.read(piece).items()}

    data.adopt_rows(shares(), len(saved))


def _environment(data: DQNDataModule) -> dict[str, str]:
    """What environments are made of, by flag."""
    factory = data.factory
    return {"env_id": factory.env_id, "env_kwargs": str(dict(sorted(factory.env_kwargs.items())))}


def _state_folder(run: Path, rank: int) -> Path:
    return run / _FOLDER / f"rank-{rank}"


def _piece_steps(replay: ReplayBuffer) -> int:
    """Vector steps of one file of rows."""
    return max(1, _PIECE_BYTES // replay.step_bytes)


def _generators() -> dict[str, Any]:
    """State of the generators that everyone may draw from."""
    version, words, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": plain(np.random.get_state()),
        "python": [version, torch.tensor(words), gauss],
    }


def _set_generators(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    if len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    np.random.set_state(restored(state["numpy"]))
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words.tolist()), gauss))
