"""Shows how far training is, at most twice a second, and a line per evaluation."""

import time

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, Task
from rich.progress import Progress as RichProgress
from rich.text import Text

from dqn_lightning.callbacks.episode_log import EpisodeLog
from dqn_lightning.datamodule import DQNDataModule
from dqn_lightning.module import DQNModule


class Progress(ProgressBar):
    """A progress bar of environment steps.

    It shows environment steps, their speed, the time left, epsilon, the mean return of the newest
    episodes and the last evaluation. A thread draws it twice a second from what the run counts
    anyway, so it costs training next to nothing. Where the output is no terminal, only the line of
    each evaluation is printed.
    """

    def __init__(self) -> None:
        super().__init__()
        self._console = Console(soft_wrap=True)
        self._bar: RichProgress | None = None
        self._enabled = True

    def disable(self) -> None:
        """Show nothing (Lightning calls it on all processes but the first)."""
        self._enabled = False

    def enable(self) -> None:
        """Show again."""
        self._enabled = True

    def on_train_start(self, trainer: Trainer, pl_module: DQNModule) -> None:
        """Begin to draw."""
        data = getattr(trainer, "datamodule", None)
        if not self._enabled or not isinstance(data, DQNDataModule) or data.dataset is None:
            return
        self._bar = RichProgress(
            BarColumn(20),
            _Line(trainer, pl_module, data),
            console=self._console,
            refresh_per_second=2,
            transient=True,
        )
        self._bar.add_task("", total=None)
        self._bar.start()

    def on_validation_end(self, trainer: Trainer, pl_module: DQNModule) -> None:
        """Print the evaluation."""
        if not (self._enabled and pl_module.evaluates_training):
            return
        summary = pl_module.summary
        if summary is None:
            return
        training = trainer.callback_metrics.get("train/return_mean")
        training_text = "" if training is None else f"   training {training.item():8.1f}"
        self._console.print(
            f"[bold]{pl_module.clock.env_steps:>9,}[/] env steps   evaluation "
            f"[bold]{summary.return_mean:8.1f}[/] ± {summary.return_std:<6.1f}{training_text}",
            highlight=False,
        )

    def on_train_end(self, trainer: Trainer, pl_module: DQNModule) -> None:
        """Stop drawing."""
        self._stop()

    def on_exception(
        self,
        trainer: Trainer,
        pl_module: DQNModule,
        exception: BaseException,
    ) -> None:
        """Stop drawing, so that a traceback can be read."""
        self._stop()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


class _Line(ProgressColumn):
    """Everything beside the bar; also moves the bar.

    It is drawn by a thread of its own, so it reads plain attributes only: asking the trainer for
    its metrics would compute them.
    """

    max_refresh = None

    def __init__(self, trainer: Trainer, module: DQNModule, data: DQNDataModule) -> None:
        super().__init__()
        self._trainer = trainer
        self._module = module
        callbacks = trainer.callbacks
        self._episodes = next((c for c in callbacks if isinstance(c, EpisodeLog)), None)
        self._data = data
        self._start = (time.monotonic(), self._fraction(), self._env_steps())

    def render(self, task: Task) -> Text:
        """The line by now."""
        then, fraction_then, env_steps_then = self._start
        passed = time.monotonic() - then
        fraction, env_steps = self._fraction(), self._env_steps()
        task.total, task.completed = 1.0, fraction
        parts = [f"{env_steps:,} env steps"]
        if env_steps > env_steps_then and passed > 1:
            parts.append(f"{(env_steps - env_steps_then) / passed:,.0f}/s")
        if fraction > fraction_then and passed > 1:
            parts.append(_left(passed * (1 - fraction) / (fraction - fraction_then)))
        parts.append(f"epsilon {self._data.epsilon(env_steps):.2f}")
        if self._episodes is not None and self._episodes.return_mean is not None:
            parts.append(f"training {self._episodes.return_mean:.1f}")
        if self._module.summary is not None:
            parts.append(f"evaluation {self._module.summary.return_mean:.1f}")
        return Text(" · ".join(parts))

    def _env_steps(self) -> int:
        return self._data.dataset.collector.counts.env_steps if self._data.dataset else 0

    def _fraction(self) -> float:
        """The share of the run that is done: of its steps, episodes or updates, the largest."""
        if self._data.dataset is None:
            return 0.0
        counts, rhythm = self._data.dataset.collector.counts, self._data.rhythm
        shares = [0.0]
        if rhythm.total_env_steps is not None:
            shares.append(counts.env_steps / rhythm.total_env_steps)
        if rhythm.total_episodes is not None:
            shares.append(counts.episodes / rhythm.total_episodes)
        if self._trainer.max_steps > 0:
            shares.append(self._trainer.global_step / self._trainer.max_steps)
        return min(1.0, max(shares))


def _left(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02} left" if hours else f"{minutes}:{seconds:02} left"
