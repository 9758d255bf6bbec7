"""Training schedule, and a dataset of rollouts: parts of a run that yield replay batches."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.utils.data import IterableDataset

from dqn_lightning import distributed
from dqn_lightning.errors import ConfigError
from dqn_lightning.interaction.collector import Collector
from dqn_lightning.types import Batch, Episode, Policy, RunProgress

_UNREACHABLE = 2**31 - 1


@dataclass(frozen=True)
class ScheduleSettings:
    """Settings for when learning starts, how often updates take place and when the run ends.

    `train_every_env_steps` and `rollout_env_steps` are counted on each rank; all other numbers of
    environment steps and episodes are totals over all ranks.

    Args:
        total_env_steps: Environment steps of the run; null for no limit.
        total_episodes: Finished episodes of the run; null for no limit. The run ends when either
            limit is reached; with several ranks, it ends after the current rollout.
        learning_starts_env_steps: Environment steps before the first update.
        train_every_env_steps: Environment steps between two rounds of updates, per rank.
        updates_per_train: Updates in each round.
        rollout_env_steps: Environment steps per rollout and rank; a rollout is one Lightning batch.
            The value does not affect learning. With several ranks, a run can stop only at the end
            of a rollout.

    Raises:
        ConfigError: If a value is too small.
    """

    total_env_steps: int | None = 50_000
    total_episodes: int | None = None
    learning_starts_env_steps: int = 1_000
    train_every_env_steps: int = 1
    updates_per_train: int = 1
    rollout_env_steps: int = 1_000

    def __post_init__(self) -> None:
        """Validate the settings."""
        for name, value in vars(self).items():
            minimum = 0 if name == "learning_starts_env_steps" else 1
            if value is not None and value < minimum:
                raise ConfigError(f"data.schedule.{name}: must be at least {minimum}, got {value}")

    def over_ranks(
        self, world_size: int, first_update_env_steps: int, eval_every_env_steps: int | None
    ) -> "TrainingSchedule":
        """Return the schedule in environment steps summed over all ranks.

        Args:
            world_size: Number of ranks.
            first_update_env_steps: No update is due before this many environment steps.
            eval_every_env_steps: Environment steps between evaluations; None for no evaluations.
        """
        return TrainingSchedule(
            first_update_env_steps=first_update_env_steps,
            update_period=world_size * self.train_every_env_steps,
            updates_per_period=self.updates_per_train,
            rollout_period=world_size * self.rollout_env_steps,
            evaluation_period=eval_every_env_steps,
            total_env_steps=self.total_env_steps,
            total_episodes=self.total_episodes,
        )


@dataclass(frozen=True)
class TrainingSchedule:
    """Schedule of a run: when updates and evaluations are due, and when rollouts and the run end.

    Times and periods are in environment steps of the run, summed over all ranks. An event that is
    due at multiples of a period takes place when the count first reaches or passes a multiple. The
    schedule alone determines the number of updates in a rollout, so all ranks perform equally many.

    Args:
        first_update_env_steps: No update is due before this count.
        update_period: Environment steps between two rounds of updates.
        updates_per_period: Updates in each round.
        rollout_period: Environment steps between the ends of two rollouts.
        evaluation_period: Environment steps between evaluations; None for no evaluations.
        total_env_steps: Environment steps of the run; None for no limit.
        total_episodes: Finished episodes of the run; None for no limit.
    """

    first_update_env_steps: int
    update_period: int = 1
    updates_per_period: int = 1
    rollout_period: int = 1_000
    evaluation_period: int | None = None
    total_env_steps: int | None = None
    total_episodes: int | None = None

    def update_due_at(self, number: int) -> int:
        """Return the environment step at which the update with index `number` is due."""
        period = self.update_period
        first = -(-max(self.first_update_env_steps, 1) // period) * period
        return first + number // self.updates_per_period * period

    def first_update_at_or_after(self, env_steps: int) -> int:
        """Return the index of the first update that is due at `env_steps` or later."""
        passed = env_steps - self.update_due_at(0)
        return max(0, -(-passed // self.update_period)) * self.updates_per_period

    def next_rollout_end(self, env_steps: int) -> int:
        """Return the environment step at which a rollout that starts at `env_steps` ends."""
        ends = [_next_multiple(self.rollout_period, env_steps)]
        if self.evaluation_period is not None:
            ends.append(_next_multiple(self.evaluation_period, env_steps))
        if self.total_env_steps is not None:
            ends.append(self.total_env_steps)
        return min(ends)

    def evaluation_due(self, rollout_end: int) -> bool:
        """Return whether an evaluation follows the rollout that ends at `rollout_end`."""
        return self.evaluation_period is not None and rollout_end % self.evaluation_period == 0

    def is_over(self, env_steps: int, episodes: int) -> bool:
        """Return whether these numbers of environment steps and episodes reach a limit."""
        return (self.total_env_steps is not None and env_steps >= self.total_env_steps) or (
            self.total_episodes is not None and episodes >= self.total_episodes
        )

    def check_first_update(self, progress: RunProgress) -> None:
        """Check that the run does not end before its first update, unless it is over already.

        Raises:
            ConfigError: If the run would make no update.
        """
        first = self.update_due_at(0)
        is_over = self.is_over(progress.rollout_end, progress.episodes)
        if not is_over and self.is_over(first - 1, episodes=0):
            raise ConfigError(
                f"data.schedule.total_env_steps: the run ends at environment step "
                f"{self.total_env_steps:,}, before its first update at step {first:,} "
                "(see data.schedule.learning_starts_env_steps)"
            )

    @property
    def update_times(self) -> list[int]:
        """Earliest update, period and updates per period; saved to detect a changed schedule."""
        return [self.first_update_env_steps, self.update_period, self.updates_per_period]


def _next_multiple(period: int, count: int) -> int:
    return (count // period + 1) * period


class ReplayDataset(IterableDataset["Rollout"]):
    """Iterable dataset that yields rollouts until the run ends.

    The reported length is larger than any run needs. Without a length, Lightning would request a
    rollout before the previous one has ended; with the true length, a finished run could not be
    continued.

    With several ranks, all ranks decide together before each rollout whether the run is over.

    Args:
        collector: Collector that steps the environments, fills the replay and counts progress.
        schedule: Schedule of updates, evaluations and the end of the run.
        batch_size: Number of rows per batch.
        stop_requested: Function that returns whether to stop the run early. The run then ends after
            the current environment step, or after the current rollout if there are several ranks.
        on_end: Function called when the run is over, before iteration stops.
    """

    def __init__(
        self,
        collector: Collector,
        schedule: TrainingSchedule,
        batch_size: int,
        stop_requested: Callable[[], bool] = lambda: False,
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        self.collector = collector
        self.schedule = schedule
        self.batch_size = batch_size
        self.stop_requested = stop_requested
        self.on_end = on_end

    @property
    def progress(self) -> RunProgress:
        """Progress of the run."""
        return self.collector.progress

    def __len__(self) -> int:
        """Return a length larger than any run needs, so that the dataset is effectively endless."""
        return _UNREACHABLE

    def __iter__(self) -> Iterator["Rollout"]:
        """Yield rollouts until the run ends.

        If the run is resumed and its last evaluation was interrupted, the first rollout is empty,
        so that the evaluation is run before training continues.
        """
        self._follow_schedule()
        if self.progress.evaluation_pending:
            yield Rollout(self, self.progress.rollout_end)
        while not self._is_over():
            yield Rollout(self, self.schedule.next_rollout_end(self.progress.rollout_end))
        self.on_end()

    def _is_over(self) -> bool:
        """Return whether the run has reached a limit, or a stop was requested on any rank."""
        stops, episodes = distributed.all_reduce_sum(self.stop_requested(), self.progress.episodes)
        return stops > 0 or self.schedule.is_over(self.progress.rollout_end, episodes)

    def _follow_schedule(self) -> None:
        """Recompute which update is next if the run was saved with a different update schedule.

        Updates that are due at or before the current environment step are skipped.
        """
        progress = self.progress
        if progress.update_times not in ([], self.schedule.update_times):
            progress.next_update = self.schedule.first_update_at_or_after(progress.env_steps + 1)
        progress.update_times = self.schedule.update_times

    def check_resumed(self, require_replay: bool) -> None:
        """Log where a resumed run continues; skip updates while an empty replay is refilled.

        Args:
            require_replay: Whether to refuse to resume with an empty replay.

        Raises:
            ConfigError: If the replay is empty and `require_replay` is true.
        """
        progress, schedule = self.progress, self.schedule
        if schedule.is_over(progress.rollout_end, progress.episodes):
            rank_zero_info(
                f"the run is already over, at environment step {progress.env_steps:,}; to continue "
                "it, raise data.schedule.total_env_steps or data.schedule.total_episodes"
            )
        elif progress.env_steps == 0:
            return
        elif self.collector.replay.rows:
            rank_zero_info(f"resuming at environment step {progress.env_steps:,}")
        elif require_replay:
            raise ConfigError(
                "data.resume.require_replay: the replay was not restored; use a FullState callback "
                "to save and restore it, or set the flag to false to resume with an empty replay"
            )
        else:
            wait = schedule.first_update_env_steps
            self.skip_updates_before(progress.env_steps + wait)
            rank_zero_info(
                f"resuming at environment step {progress.env_steps:,} with an empty replay: "
                f"learning starts again after {wait:,} more"
            )

    def skip_updates_before(self, env_steps: int) -> None:
        """Skip all updates that are due before this environment step."""
        self._follow_schedule()
        first = self.schedule.first_update_at_or_after(env_steps)
        self.progress.next_update = max(self.progress.next_update, first)


class Rollout:
    """Part of a run, used as one Lightning batch; calling it with a policy yields replay batches.

    Before each batch is yielded, the environments are stepped with the policy until an update is
    due. Acting and learning thus alternate exactly as scheduled. The rollout itself is not
    iterable, because any code that iterates over a Lightning batch would then step the
    environments.

    Attributes:
        end: Environment step at which the rollout ends, unless the run ends earlier.
        episodes: Episodes finished so far in this rollout.
        on_episode: Functions called with each episode when it finishes.
        update_due_at: Environment step at which the latest update was due.
        complete: Whether the rollout has reached `end`.
    """

    def __init__(self, dataset: ReplayDataset, end: int) -> None:
        self._dataset = dataset
        self.end = end
        self.episodes: list[Episode] = []
        self.on_episode: list[Callable[[Episode], None]] = []
        self.update_due_at = 0
        self.complete = False

    @property
    def progress(self) -> RunProgress:
        """Progress of the run."""
        return self._dataset.progress

    @property
    def epsilon(self) -> float:
        """Current probability of a random action, before the exponents of `ladder` are applied."""
        return self._dataset.collector.actor.epsilon(self.progress.env_steps)

    @property
    def evaluation_due(self) -> bool:
        """Whether the rollout is complete and followed by an evaluation."""
        return self.complete and self._dataset.schedule.evaluation_due(self.end)

    @property
    def has_priorities(self) -> bool:
        """Whether rows are sampled by priority, which requires calls of `set_priorities`."""
        return self._dataset.collector.replay.has_priorities

    def set_priorities(self, rows: Tensor, priority: Tensor) -> None:
        """Set the sampling priorities [B] of the replay rows with the numbers `rows` [B]."""
        self._dataset.collector.replay.set_priorities(rows, priority)

    def __call__(self, policy: Policy) -> Iterator[Batch]:
        """Step the environments with the policy; yield a batch whenever an update is due."""
        dataset, collector, progress = self._dataset, self._dataset.collector, self.progress
        schedule, total_episodes = dataset.schedule, dataset.schedule.total_episodes
        alone = distributed.world_size() == 1
        while True:
            due = schedule.update_due_at(progress.next_update)
            stop = min(due, self.end)
            while progress.env_steps < stop:
                # Hot path: only those conditions of `ReplayDataset._is_over` that can change here.
                over = total_episodes is not None and progress.episodes >= total_episodes
                if alone and (over or dataset.stop_requested()):
                    return
                if finished := collector.step(policy):
                    self._report(finished)
            if due > self.end:
                progress.rollout_end = self.end
                progress.evaluation_pending = schedule.evaluation_due(self.end)
                self.complete = True
                return
            if alone and dataset.stop_requested():
                return
            self.update_due_at = due
            progress.next_update += 1
            yield collector.replay.sample(dataset.batch_size, env_steps=due)

    def _report(self, finished: list[Episode]) -> None:
        self.episodes += finished
        for episode in finished:
            for call in self.on_episode:
                call(episode)
