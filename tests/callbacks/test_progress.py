import io
import re
from types import SimpleNamespace
from typing import Any

from rich.console import Console

from dqn_lightning import DQNDataModule
from dqn_lightning.callbacks import EpisodeLog, Progress
from dqn_lightning.callbacks.progress import _left, _Line
from dqn_lightning.collector import Counts
from dqn_lightning.evaluation import Summary


def make_line(total: int = 1_000) -> tuple[_Line, Any, Any]:
    data = DQNDataModule(total_env_steps=total, epsilon=0.25)
    collector = SimpleNamespace(counts=Counts(0, 0))
    data.dataset = SimpleNamespace(collector=collector)
    episodes = EpisodeLog()
    trainer: Any = SimpleNamespace(callbacks=[episodes], max_steps=-1, global_step=0)
    module: Any = SimpleNamespace(summary=None)
    line = _Line(trainer, module, data)
    return line, collector, (module, episodes)


def test_the_line_shows_steps_speed_time_left_epsilon_training_and_evaluation() -> None:
    line, collector, (module, episodes) = make_line()
    line._start = (line._start[0] - 10, *line._start[1:])  # ten seconds ago
    collector.counts = Counts(250, 12)
    episodes.return_mean = 33.3
    module.summary = Summary(20, 44.4, 1.0, 1.0, 1.0, 1.0)
    task: Any = SimpleNamespace(total=None, completed=0)
    text = line.render(task).plain
    assert text == (
        "250 env steps · 25/s · 0:30 left · epsilon 0.25 · training 33.3 · evaluation 44.4"
    )
    assert (task.total, task.completed) == (1.0, 0.25)


def test_nothing_is_made_up_before_there_is_anything_to_show() -> None:
    line, _, _ = make_line()
    task: Any = SimpleNamespace(total=None, completed=0)
    assert line.render(task).plain == "0 env steps · epsilon 0.25"


def test_time_left_is_readable() -> None:
    assert [_left(s) for s in (5, 65, 3_725)] == ["0:05 left", "1:05 left", "1:02:05 left"]


def test_the_bar_is_drawn_at_most_twice_a_second() -> None:
    _, _, (module, _) = make_line()
    data = DQNDataModule()
    data.dataset = SimpleNamespace(collector=SimpleNamespace(counts=Counts(0, 0)))
    trainer: Any = SimpleNamespace(callbacks=[], max_steps=-1, global_step=0, datamodule=data)
    progress = Progress()
    progress._console = Console(file=io.StringIO(), force_terminal=True)
    progress.on_train_start(trainer, module)
    assert progress._bar is not None
    assert progress._bar.live.refresh_per_second == 2
    progress.on_train_end(trainer, module)
    assert progress._bar is None


def test_each_evaluation_is_a_line_also_where_the_output_is_no_terminal() -> None:
    output = io.StringIO()
    progress = Progress()
    progress._console = Console(file=output, width=200)
    trainer: Any = SimpleNamespace(callback_metrics={})
    clock = SimpleNamespace(env_steps=12_345)
    summary = Summary(20, 44.4, 1.5, 1, 9, 9)
    module: Any = SimpleNamespace(summary=summary, clock=clock, evaluates_training=True)
    progress.on_validation_end(trainer, module)
    assert re.fullmatch(r" +12,345 env steps +evaluation +44\.4 ± 1\.5 *\n", output.getvalue())
