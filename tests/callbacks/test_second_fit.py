"""State of one fit must not survive into the next fit with the same callbacks."""

import io
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from lightning.pytorch import Callback
from rich.console import Console

from dqn_lightning.callbacks import Diagnostics, EpisodeLog, Progress, TargetSync, Timing, Video
from dqn_lightning.callbacks.rank_watch import RankWatch
from dqn_lightning.callbacks.run_directory import RunDirectory
from dqn_lightning.callbacks.stop_on_signal import StopOnSignal
from tests.helpers.training import make, train


class AtTrainStart(Callback):
    """Reads something when training starts; must be the last callback."""

    def __init__(self, read: Callable[[], Any]) -> None:
        self.read = read
        self.values: list[Any] = []

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.values.append(self.read())


def read_at_both_starts(callback: Callback, read: Callable[[], Any], **data: Any) -> list[Any]:
    """Fit twice with the same callback; return what `read` returns at the start of each fit."""
    at_start = AtTrainStart(read)
    for _ in range(2):
        train(*make(**data), callback, at_start)
    return at_start.values


def test_episode_log_starts_the_second_fit_without_episodes() -> None:
    callback = EpisodeLog(save_plots=False)
    first, second = read_at_both_starts(
        callback, lambda: (len(callback.lengths), len(callback.returns), callback.return_mean)
    )
    assert callback.lengths
    assert second == first == (0, 0, None)


def test_timing_starts_the_second_fit_at_zero_seconds() -> None:
    callback = Timing()
    assert read_at_both_starts(callback, lambda: callback.elapsed_s) == [0.0, 0.0]
    assert callback.elapsed_s > 0


def test_target_sync_starts_the_second_fit_at_its_first_sync() -> None:
    callback = TargetSync(every_n_grad_steps=100, first=30)
    first, second = read_at_both_starts(callback, callback.state_dict)
    assert callback.state_dict() != first
    assert second == first


def test_video_records_in_the_second_fit_what_it_recorded_in_the_first() -> None:
    callback = Video(every_n_env_steps=200)
    first, second = read_at_both_starts(callback, callback.state_dict, eval_every_env_steps=100)
    assert callback.state_dict() == {"last_video_env_steps": 200}
    assert second == first == {"last_video_env_steps": 0}


def test_a_signal_in_the_first_fit_does_not_stop_handling_signals_in_the_second() -> None:
    callback = StopOnSignal()

    class Interrupt(Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

    previous = signal.getsignal(signal.SIGTERM)
    try:
        for _ in range(2):
            received = AtTrainStart(lambda: callback.received)
            module, data = make(rollout_env_steps=50)
            train(module, data, callback, received, Interrupt())
            assert received.values == [None]
            assert callback.received == signal.SIGTERM
            assert data.progress.env_steps == 50
    finally:
        for number in (signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, signal.default_int_handler)
        signal.signal(signal.SIGTERM, previous)


def test_a_signal_before_setup_is_kept_until_training_ends() -> None:
    callback = StopOnSignal()
    module, data = make()
    with callback.handle_signals(data.stop):
        os.kill(os.getpid(), signal.SIGTERM)
        train(module, data, callback)
    assert callback.received == signal.SIGTERM
    assert data.progress.env_steps == 0


def test_the_second_fit_gets_its_own_run_directory(tmp_path: Path) -> None:
    callback = RunDirectory(tmp_path, "run", lambda name: f"name: {name}", tensorboard=False)
    paths = read_at_both_starts(callback, lambda: (callback.path, callback.resumed))
    assert paths == [(tmp_path / "run", False), (tmp_path / "run-2", False)]
    assert (tmp_path / "run-2" / "config.yaml").read_text() == "name: run-2"


def test_a_fit_after_a_resumed_fit_gets_its_own_run_directory(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    callback = RunDirectory(tmp_path, "run", str, resumed_path=tmp_path / "run", tensorboard=False)
    paths = read_at_both_starts(callback, lambda: (callback.path, callback.resumed))
    assert paths == [(tmp_path / "run", True), (tmp_path / "run-2", False)]


def test_the_second_fit_with_a_trainer_does_not_log_into_the_first_run(tmp_path: Path) -> None:
    callback = RunDirectory(tmp_path, "run", str)
    module, data = make()
    trainer = train(module, data, callback)
    trainer.fit(module, datamodule=data)
    assert [Path(logger.save_dir or "") for logger in trainer.loggers] == [tmp_path / "run-2"] * 2


def test_rank_watch_forgets_a_rank_that_was_lost_in_the_first_fit() -> None:
    callback = RankWatch()
    train(*make(), callback)
    callback.lost = "rank 1"
    assert read_at_both_starts(callback, lambda: callback.lost) == [None, None]


def test_diagnostics_discard_the_states_of_an_interrupted_evaluation() -> None:
    callback = Diagnostics()
    module: Any = SimpleNamespace(evaluates_training=True)
    trainer: Any = SimpleNamespace(is_global_zero=True)
    callback.on_validation_batch_start(trainer, module, SimpleNamespace(), 0)  # type: ignore[arg-type]
    assert callback._recorder is not None
    callback.setup(trainer, module, "validate")
    assert callback._recorder is None


def test_progress_starts_the_second_fit_with_a_new_bar() -> None:
    callback = Progress()
    callback._console = Console(file=io.StringIO())
    at_start = AtTrainStart(lambda: callback._bar)
    for _ in range(2):
        train(*make(), callback, at_start, enable_progress_bar=True)
    first, second = at_start.values
    assert first is not None
    assert second is not None
    assert first is not second
    assert callback._bar is None
