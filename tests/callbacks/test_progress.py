import io
import re
from types import SimpleNamespace
from typing import Any

from rich.console import Console

from dqn_lightning.callbacks import EpisodeLog, Progress
from dqn_lightning.callbacks.progress import _format_remaining, _StatusColumn
from dqn_lightning.interaction.evaluation import EvaluationResult
from tests.helpers.settings import make_datamodule


def make_column(total: int = 1_000) -> tuple[_StatusColumn, Any, Any]:
    data = make_datamodule(total_env_steps=total, epsilon=0.25)
    data.dataset = SimpleNamespace()
    episodes = EpisodeLog()
    trainer: Any = SimpleNamespace(callbacks=[episodes], max_steps=-1, global_step=0)
    module: Any = SimpleNamespace(summary=None)
    column = _StatusColumn(trainer, module, data)
    return column, data, (module, episodes)


def test_the_status_shows_steps_rate_remaining_time_epsilon_and_returns() -> None:
    column, data, (module, episodes) = make_column()
    column._start = (column._start[0] - 10, *column._start[1:])  # ten seconds ago
    data.progress.env_steps, data.progress.episodes = 250, 12
    episodes.return_mean = 33.3
    module.summary = EvaluationResult(20, 44.4, 1.0, 1.0, 1.0, 1.0)
    task: Any = SimpleNamespace(total=None, completed=0)
    text = column.render(task).plain
    assert text == (
        "250 env steps · 25/s · 0:30 left · epsilon 0.25 · training 33.3 · evaluation 44.4"
    )
    assert (task.total, task.completed) == (1.0, 0.25)


def test_unknown_values_are_left_out_of_the_status() -> None:
    column, _, _ = make_column()
    task: Any = SimpleNamespace(total=None, completed=0)
    assert column.render(task).plain == "0 env steps · epsilon 0.25"


def test_the_remaining_time_is_formatted_as_hours_minutes_and_seconds() -> None:
    assert [_format_remaining(s) for s in (5, 65, 3_725)] == [
        "0:05 left",
        "1:05 left",
        "1:02:05 left",
    ]


def test_the_bar_is_refreshed_twice_a_second() -> None:
    _, _, (module, _) = make_column()
    data = make_datamodule()
    data.dataset = SimpleNamespace()
    trainer: Any = SimpleNamespace(callbacks=[], max_steps=-1, global_step=0, datamodule=data)
    progress = Progress()
    progress._console = Console(file=io.StringIO(), force_terminal=True)
    progress.on_train_start(trainer, module)
    assert progress._bar is not None
    assert progress._bar.live.refresh_per_second == 2
    progress.on_train_end(trainer, module)
    assert progress._bar is None


def test_evaluations_are_printed_even_if_the_output_is_not_a_terminal() -> None:
    output = io.StringIO()
    progress = Progress()
    progress._console = Console(file=output, width=200)
    trainer: Any = SimpleNamespace(callback_metrics={})
    run_progress = SimpleNamespace(env_steps=12_345)
    summary = EvaluationResult(20, 44.4, 1.5, 1, 9, 9)
    module: Any = SimpleNamespace(summary=summary, progress=run_progress, evaluates_training=True)
    progress.on_validation_end(trainer, module)
    assert re.fullmatch(r" +12,345 env steps +evaluation +44\.4 ± 1\.5 *\n", output.getvalue())
    module.summary = summary._replace(episodes_cut_short=3)
    progress.on_validation_end(trainer, module)
    assert output.getvalue().endswith("   3 of 20 episodes cut short\n")
