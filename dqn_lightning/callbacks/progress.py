"""Callback that shows a progress bar and prints the evaluation results."""

import time

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, Task
from rich.progress import Progress as RichProgress
from rich.text import Text

from dqn_lightning import distributed
from dqn_lightning.callbacks.episode_log import EpisodeLog
from dqn_lightning.datamodule import DQNDataModule
from dqn_lightning.module import DQNModule
from dqn_lightning.schedules import as_schedule


class Progress(ProgressBar):
    """Callback that shows a progress bar, and prints one line after each evaluation.

    The text next to the bar shows the number of environment steps, the environment steps per
    second, the remaining time, and epsilon. It also shows the mean returns of the most recent
    training episodes and of the last evaluation. A separate thread redraws the bar twice a second,
    so the cost is negligible. If the output is not a terminal, only the evaluation lines are
    printed.
    """

    def __init__(self) -> None:
        super().__init__()
        self._console = Console(soft_wrap=True)
        self._bar: RichProgress | None = None
        self._enabled = True

    def disable(self) -> None:
        """Hide all output; Lightning calls this on every rank except rank 0."""
        self._enabled = False

    def enable(self) -> None:
        """Show output again after `disable` has been called."""
        self._enabled = True

    def on_train_start(self, trainer: Trainer, pl_module: DQNModule) -> None:
        """Start the progress bar."""
        data = getattr(trainer, "datamodule", None)
        if not self._enabled or not isinstance(data, DQNDataModule) or data.dataset is None:
            return
        self._bar = RichProgress(
            BarColumn(20),
            _StatusColumn(trainer, pl_module, data),
            console=self._console,
            refresh_per_second=2,
            transient=True,
        )
        self._bar.add_task("", total=None)
        self._bar.start()

    def on_validation_end(self, trainer: Trainer, pl_module: DQNModule) -> None:
        """Print the mean and standard deviation of the returns of an evaluation during training."""
        if not (self._enabled and pl_module.evaluates_training):
            return
        summary = pl_module.summary
        if summary is None:
            return
        training = trainer.callback_metrics.get("train/return_mean")
        cut = summary.episodes_cut_short
        cut_text = f"   {cut} of {summary.episodes} episodes cut short" if cut else ""
        training_text = "" if training is None else f"   training {training.item():8.1f}"
        self._console.print(
            f"[bold]{pl_module.progress.env_steps:>9,}[/] env steps   evaluation "
            f"[bold]{summary.return_mean:8.1f}[/] ± {summary.return_std:<6.1f}{training_text}"
            f"{cut_text}",
            highlight=False,
        )

    def on_train_end(self, trainer: Trainer, pl_module: DQNModule) -> None:
        """Remove the progress bar."""
        self._stop()

    def on_exception(
        self,
        trainer: Trainer,
        pl_module: DQNModule,
        exception: BaseException,
    ) -> None:
        """Remove the progress bar if training fails, so that it does not hide the traceback."""
        self._stop()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


class _StatusColumn(ProgressColumn):
    """Column with status text next to the progress bar; rendering the column advances the bar.

    The column is rendered in a separate thread, so it reads only plain attributes; reading
    `trainer.callback_metrics` would compute metrics in that thread.
    """

    max_refresh = None

    def __init__(self, trainer: Trainer, module: DQNModule, data: DQNDataModule) -> None:
        super().__init__()
        self._trainer = trainer
        self._module = module
        callbacks = trainer.callbacks
        self._episodes = next((c for c in callbacks if isinstance(c, EpisodeLog)), None)
        self._data = data
        self._start = (time.monotonic(), self._completed_fraction(), self._env_steps())

    def render(self, task: Task) -> Text:
        """Advance the progress bar, and return the status text."""
        start, start_fraction, start_env_steps = self._start
        elapsed = time.monotonic() - start
        fraction, env_steps = self._completed_fraction(), self._env_steps()
        task.total, task.completed = 1.0, fraction
        parts = [f"{env_steps:,} env steps"]
        if env_steps > start_env_steps and elapsed > 1:
            parts.append(f"{(env_steps - start_env_steps) / elapsed:,.0f}/s")
        if fraction > start_fraction and elapsed > 1:
            remaining = elapsed * (1 - fraction) / (fraction - start_fraction)
            parts.append(_format_remaining(remaining))
        parts.append(f"epsilon {as_schedule(self._data.exploration.epsilon)(env_steps):.2f}")
        if self._episodes is not None and self._episodes.return_mean is not None:
            parts.append(f"training {self._episodes.return_mean:.1f}")
        if self._module.summary is not None:
            parts.append(f"evaluation {self._module.summary.return_mean:.1f}")
        return Text(" · ".join(parts))

    def _env_steps(self) -> int:
        return self._data.progress.env_steps

    def _completed_fraction(self) -> float:
        """Return the completed fraction of the run, from 0 to 1.

        If the run has several limits, such as environment steps and episodes, the largest fraction
        is returned.
        """
        if self._data.dataset is None:
            return 0.0
        progress, schedule = self._data.progress, self._data.schedule
        fractions = [0.0]
        if schedule.total_env_steps is not None:
            fractions.append(progress.env_steps / schedule.total_env_steps)
        if schedule.total_episodes is not None:
            episodes = progress.episodes * distributed.world_size()  # an estimate
            fractions.append(episodes / schedule.total_episodes)
        if self._trainer.max_steps > 0:
            fractions.append(self._trainer.global_step / self._trainer.max_steps)
        return min(1.0, max(fractions))


def _format_remaining(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02} left" if hours else f"{minutes}:{seconds:02} left"
