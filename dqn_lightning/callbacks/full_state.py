"""Callback that saves and restores all state that a run needs to resume bit for bit."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info

from dqn_lightning import distributed
from dqn_lightning.callbacks.run_directory import run_directory_of
from dqn_lightning.checkpointing import run_state
from dqn_lightning.checkpointing.redistribution import redistribute
from dqn_lightning.checkpointing.store import REFERENCE_KEY, RankStore, SavedState
from dqn_lightning.datamodule import DQNDataModule
from dqn_lightning.errors import ConfigError, WriteError
from dqn_lightning.loggers.csv import CSVLogger
from dqn_lightning.module import DQNModule
from dqn_lightning.networks.layers import persistent_buffers

NEW_DIRECTORY_HINT = "--run_name=NAME resumes without it, in a new directory"
"""How to resume if a file that the replay does not need is missing or corrupt."""


class FullState(Callback):
    """Callback that saves the state of environments, replay and random generators for resuming.

    Whenever a checkpoint is saved (except with `weights_only`), each rank N writes its own state
    files to `state/rank-N/` in the run directory. The checkpoint refers to these files. When the
    run resumes, the state is restored. A run resumes bit for bit only with the same number of ranks
    (see `ResumeSettings.redistribute_replay`).
    """

    def __init__(self) -> None:
        self._start_without_state()

    def _start_without_state(self) -> None:
        self._store: RankStore | None = None  # None before training starts
        self._restored: SavedState | None = None  # until training starts
        self._tables: list[Any] = []  # states of the CSV loggers, until training starts

    def setup(self, trainer: Trainer, pl_module: DQNModule, stage: str) -> None:
        """Discard the state of an earlier fit in which the same callback was used."""
        if stage == "fit":
            self._start_without_state()

    # Saving -------------------------------------------------------------------------------------

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: DQNModule, checkpoint: dict[str, Any]
    ) -> None:
        """Write this rank's state; store the names of all ranks' state files in `checkpoint`."""
        data = trainer.datamodule
        if not isinstance(data, DQNDataModule) or data.dataset is None or self._store is None:
            return
        collector = data.dataset.collector
        buffers = persistent_buffers(pl_module)
        state = run_state.capture(collector, pl_module.rng, buffers, _environment(data))
        name, tables, problem = "", list[Any](), None
        try:
            name = self._store.write(state, collector.replay)
            tables = [logger.state_dict() for logger in _csv_loggers(trainer)]
        except OSError as error:
            problem = str(error)
        distributed.raise_on_all_ranks(WriteError, problem)
        checkpoint[REFERENCE_KEY] = {"files": distributed.all_gather(name), "tables": tables}

    def remove_unused(self, newest: Iterable[Path]) -> None:
        """Delete state files to which no checkpoint in the run directory refers.

        Args:
            newest: Checkpoint files that refer to the most recently written state.
        """
        if self._store is not None:
            self._store.remove_unused(newest)

    # Resuming -----------------------------------------------------------------------------------

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: DQNModule, checkpoint: dict[str, Any]
    ) -> None:
        """Restore environments and replay, either on all ranks or on none.

        This hook runs before Lightning creates the training dataloader, which depends on the
        replay. The restored state remains valid until training starts, because environments are not
        stepped before then, and the collector does not use the global random generators.

        Raises:
            ConfigError: If a CSV file of the run is missing or corrupt. If
                `data.resume.require_replay` is true, also if the saved state is missing or corrupt,
                or does not fit this run.
        """
        if trainer.state.fn != TrainerFn.FITTING:
            return
        data: Any = trainer.datamodule
        path = Path(str(trainer.ckpt_path))
        reference = checkpoint.get(REFERENCE_KEY)
        self._tables = [] if reference is None else reference["tables"]
        _check_tables(trainer, path, self._tables)
        problem, saved = None, list[SavedState]()
        try:
            saved = _find_states(data, path, reference)
        except ConfigError as error:
            problem = str(error)
        problems = [
            (rank, text) for rank, text in enumerate(distributed.all_gather(problem)) if text
        ]
        if problems:
            _report_missing(data, *problems[0])
        # Without a reference, `_find_states` has reported a problem.
        elif len(reference["files"]) == distributed.world_size():  # type: ignore[index]
            self._restore(data, saved[0])
        else:
            _redistribute(data, saved)

    def _restore(self, data: DQNDataModule, saved: SavedState) -> None:
        assert data.dataset is not None
        collector = data.dataset.collector
        failure = run_state.restore_collector(saved.content, collector, saved.rows())
        if failure is not None:
            rank_zero_info(f"episodes in progress are truncated, because {failure}")
        self._restored = saved

    def on_train_start(self, trainer: Trainer, pl_module: DQNModule) -> None:
        """Restore the global random generators, the module's buffers and the CSV loggers.

        The generators are not restored earlier, because Lightning may draw random numbers before it
        calls this hook.
        """
        directory = run_directory_of(trainer)
        if directory is not None:
            self._store = RankStore(directory)
            self._store.remove_unfinished()
        if self._restored is not None:
            buffers = persistent_buffers(pl_module)
            run_state.restore_generators(self._restored.content, pl_module.rng, buffers)
            if self._store is not None:
                replay = trainer.datamodule.dataset.collector.replay
                self._store.share_pieces(self._restored, replay)
        for logger, state in zip(_csv_loggers(trainer), self._tables, strict=False):
            logger.load_state_dict(state)
        self._restored, self._tables = None, []


def _find_states(
    data: DQNDataModule, path: Path, reference: dict[str, Any] | None
) -> list[SavedState]:
    """Load and check the saved states that this rank needs, without changing this run.

    Args:
        data: Datamodule of this run.
        path: Checkpoint file.
        reference: Entry in the checkpoint that names the state files; None if the checkpoint has no
            such entry.

    Returns:
        A list with the saved state of this rank; or, if the number of ranks has changed, with the
        saved states of all ranks.

    Raises:
        ConfigError: If `reference` is None, if a file is missing, corrupt or truncated, if a state
            does not fit this run, or if the number of ranks has changed and
            `data.resume.redistribute_replay` is false.
    """
    if reference is None:
        raise ConfigError("--ckpt_path: the checkpoint was saved without a FullState callback")
    run_id = data.progress.run_id  # already restored
    names, source = reference["files"], f"--ckpt_path: {path.name} refers to"
    rank, world_size = distributed.rank(), distributed.world_size()
    assert data.dataset is not None
    if len(names) == world_size:
        saved = SavedState(path.parent, run_id, rank, names[rank], source)
        run_state.check(saved.content, data.dataset.collector, _environment(data))
        return [saved]
    if not data.resume.redistribute_replay:
        raise ConfigError(
            f"--ckpt_path: the run was made by {len(names)} ranks, not {world_size}; "
            "--data.resume.redistribute_replay=true redistributes the replay across ranks (resume "
            "is then not bit-exact)"
        )
    states = [SavedState(path.parent, run_id, i, name, source) for i, name in enumerate(names)]
    for state in states:
        run_state.check_origin(state.content, _environment(data))
    return states


def _check_tables(trainer: Trainer, path: Path, tables: list[Any]) -> None:
    """Check the CSV files of a resumed run, without changing them.

    If the run resumes in a new directory, there are no files to check.

    Args:
        trainer: Trainer of the run.
        path: Checkpoint file.
        tables: States of the CSV loggers in the checkpoint.

    Raises:
        ConfigError: If a file is missing, or does not begin with the rows of the checkpoint.
    """
    problem = None
    if trainer.is_global_zero:
        try:
            for logger, state in zip(_csv_loggers(trainer), tables, strict=False):
                in_same_directory = path.parent.resolve() == Path(logger.save_dir).resolve()
                logger.check_state(state, must_exist=in_same_directory)
        except ConfigError as error:
            problem = f"--ckpt_path: {path.name} refers to: {error}; {NEW_DIRECTORY_HINT}"
    distributed.raise_on_all_ranks(ConfigError, problem)


def _report_missing(data: DQNDataModule, rank: int, problem: str) -> None:
    if rank > 0:
        problem = f"{problem} (rank {rank})"
    if data.resume.require_replay:
        hint = "--data.resume.require_replay=false resumes with an empty replay"
        raise ConfigError(f"{problem}; {hint}")
    rank_zero_info(f"{problem}; data.resume.require_replay is false")


def _redistribute(data: DQNDataModule, saved: list[SavedState]) -> None:
    dataset, world_size = data.dataset, distributed.world_size()
    assert dataset is not None
    replay = dataset.collector.replay
    redistribute(replay, saved)
    enough = dataset.schedule.first_update_env_steps
    if distributed.all_reduce_max(len(replay.rows) * world_size < enough):
        dataset.skip_updates_before(data.progress.env_steps + enough)
    rank_zero_info(
        f"the replays of {len(saved)} ranks are redistributed across {world_size}, and new "
        "episodes start: the run is not bit-exact"
    )


def _environment(data: DQNDataModule) -> dict[str, str]:
    """Return the values of the flags that determine the environments, by command-line flag."""
    factory = data.collectors.env_factory
    kwargs = str(dict(sorted(factory.env_kwargs.items())))
    return {"data.env.id": factory.env_id, "data.env.kwargs": kwargs}


def _csv_loggers(trainer: Trainer) -> list[CSVLogger]:
    return [logger for logger in trainer.loggers if isinstance(logger, CSVLogger)]
