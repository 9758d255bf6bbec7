"""Saves everything a run needs to go on as if it had never stopped."""

import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info

from dqn_lightning import files
from dqn_lightning.csv_log import CSVLog
from dqn_lightning.datamodule import DQNDataModule
from dqn_lightning.errors import ConfigError
from dqn_lightning.module import DQNModule
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
    """

    def __init__(self) -> None:
        self._full_pieces: dict[int, Piece] = {}  # written and never to change, by their place
        self._folder: Path | None = None  # where they lie
        self._generators: dict[str, Any] | None = None  # to be restored when training starts
        self._tables: list[Any] | None = None
        self._newest: set[str] = set()  # what the newest checkpoint refers to
        self._known: dict[Path, tuple[int, set[str]]] = {}  # what all of them do, by when written

    # Saving -------------------------------------------------------------------------------------

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: DQNModule, checkpoint: dict[str, Any]
    ) -> None:
        """Write this rank's state, and refer to it."""
        data = trainer.datamodule
        if not isinstance(data, DQNDataModule) or data.dataset is None:
            return
        if trainer.log_dir is None or trainer.fast_dev_run:
            return
        folder = _state_folder(Path(trainer.log_dir), trainer)
        folder.mkdir(parents=True, exist_ok=True)
        if folder != self._folder:
            self._full_pieces, self._folder = {}, folder
        collector = data.dataset.collector
        pieces = list(self._write_rows(folder, collector.replay))
        state = {
            "environment": _environment(data),
            "collector": collector.state_dict(),
            "generators": _generators(),
            "pieces": [list(piece) for piece in pieces],
        }
        name = files.save(state, folder, f"{pl_module.clock.env_steps}-{{digest}}.pt")
        self._newest = {name, *(piece.name for piece in pieces)}
        tables = [logger.state_dict() for logger in trainer.loggers if isinstance(logger, CSVLog)]
        checkpoint[_KEY] = {"files": [name], "tables": tables}

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

    def remove_unused(self, trainer: Trainer, newest: Iterable[Path]) -> None:
        """Remove state that no checkpoint of the run's folder refers to any more.

        Args:
            trainer: Of the run.
            newest: The files that hold the checkpoint which was saved last.
        """
        if trainer.log_dir is None or self._folder is None:
            return
        for path in newest:
            self._known[path] = path.stat().st_mtime_ns, self._newest
        used: set[str] = set()
        for path in Path(trainer.log_dir).glob("*.ckpt"):
            try:
                used |= self._used_by(path, self._folder, trainer.global_rank)
            except ConfigError:  # damaged: what it refers to is not known, so all may be
                return
        for path in self._folder.glob("*.pt"):
            if path.name not in used:
                path.unlink()

    def _used_by(self, path: Path, folder: Path, rank: int) -> set[str]:
        written = path.stat().st_mtime_ns
        if path not in self._known or self._known[path][0] != written:
            reference = files.load(path, "checkpoint").get(_KEY)
            names: set[str] = set()
            name = "" if reference is None else reference["files"][rank]
            if name and (folder / name).exists():
                pieces = files.load(folder / name, path.name)["pieces"]
                names = {name, *(Piece(*piece).name for piece in pieces)}
            self._known[path] = written, names
        return self._known[path][1]

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
        files.check(Path(str(trainer.ckpt_path)), "--ckpt_path")
        reference = checkpoint.get(_KEY)
        try:
            if reference is None:
                raise ConfigError("--ckpt_path: the checkpoint was written without its full state")
            self._restore(trainer, Path(str(trainer.ckpt_path)), reference)
        except ConfigError as error:
            if data.require_replay:
                hint = "--data.require_replay=false goes on with an empty replay"
                raise ConfigError(f"{error}; {hint}") from error
            rank_zero_info(f"{error}; data.require_replay is false")
        self._tables = None if reference is None else reference["tables"]

    def _restore(self, trainer: Trainer, path: Path, reference: dict[str, Any]) -> None:
        data: Any = trainer.datamodule
        folder = _state_folder(path.parent, trainer)
        what = f"--ckpt_path: {path.name} refers to"
        state = files.load(folder / reference["files"][trainer.global_rank], what)
        for flag, now in _environment(data).items():
            if (before := state["environment"][flag]) != now:
                raise ConfigError(f"data.{flag}: the run was made with {before}, not {now}")
        pieces = [Piece(*piece) for piece in state["pieces"]]
        for piece in pieces:  # before anything is changed
            files.check(folder / piece.name, what)
        data.load_collector_state(
            state["collector"],
            ((range(p.start, p.stop), files.read(folder / p.name, what)) for p in pieces),
        )
        self._generators = state["generators"]
        steps, newest = _piece_steps(data.dataset.collector.replay), pieces[-1].stop - 1
        self._folder = folder
        self._full_pieces = {
            piece.stop - steps: piece
            for piece in pieces
            if piece.stop % steps == 0
            and piece.stop < newest
            and piece.start <= max(piece.stop - steps, pieces[0].start)
        }

    def on_train_start(self, trainer: Trainer, pl_module: DQNModule) -> None:
        """Set the generators, when nothing draws from them any more before training does."""
        if self._generators is not None:
            _set_generators(self._generators)
        if self._tables is not None:
            logs = [logger for logger in trainer.loggers if isinstance(logger, CSVLog)]
            for log, state in zip(logs, self._tables, strict=False):
                log.load_state_dict(state)
        self._generators = self._tables = None
        if trainer.log_dir is not None:
            folder = _state_folder(Path(trainer.log_dir), trainer)
            files.remove_unfinished(folder, "*")
            for name in ("*.ckpt", "metrics.csv", "timing.csv"):
                files.remove_unfinished(Path(trainer.log_dir), name)


def _environment(data: DQNDataModule) -> dict[str, str]:
    """What environments are made of, by flag."""
    factory = data.factory
    return {"env_id": factory.env_id, "env_kwargs": str(dict(sorted(factory.env_kwargs.items())))}


def _state_folder(run: Path, trainer: Trainer) -> Path:
    return run / _FOLDER / f"rank-{trainer.global_rank}"


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
