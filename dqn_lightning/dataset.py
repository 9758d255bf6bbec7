"""The replay as a dataset: it streams rollouts, and each rollout streams batches."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils.data import IterableDataset

from dqn_lightning import ranks
from dqn_lightning.collector import Collector, Counts
from dqn_lightning.errors import ConfigError
from dqn_lightning.types import Act, Batch, Episode


@dataclass(frozen=True)
class Rhythm:
    """When updates, ends of rollouts, evaluations and the end of the run are due.

    All counts are environment steps of the run, all ranks' together, unless they say otherwise.
    Something due at a multiple happens when the count first reaches or passes it. Ranks count the
    steps of the others as their own: which update comes next depends on updates alone, so they
    never differ in it.

    Args:
        batch_size: Rows of a batch.
        learning_starts_env_steps: No update before this count.
        train_every_env_steps: Updates are due at each multiple.
        updates_per_train: So many of them.
        rollout_env_steps: Rollouts end at each multiple. The run does not depend on it.
        eval_every_env_steps: Evaluations are due at each multiple; never if None.
        total_env_steps: The run's end; none if None.
        total_episodes: Its end in finished episodes; whichever comes first.

    Raises:
        ConfigError: If a number is not positive (`learning_starts_env_steps` may be 0).
    """

    batch_size: int
    learning_starts_env_steps: int
    train_every_env_steps: int = 1
    updates_per_train: int = 1
    rollout_env_steps: int = 1_000
    eval_every_env_steps: int | None = None
    total_env_steps: int | None = None
    total_episodes: int | None = None

    def __post_init__(self) -> None:
        """Refuse periods and sizes that cannot work."""
        for name, value in vars(self).items():
            least = 0 if name == "learning_starts_env_steps" else 1
            if value is not None and value < least:
                raise ConfigError(f"data.{name}: must be at least {least}, got {value}")

    def update_due_at(self, number: int) -> int:
        """The count at which update `number` (from 0) is due."""
        every = self.train_every_env_steps
        first = -(-max(self.learning_starts_env_steps, 1) // every) * every
        return first + number // self.updates_per_train * every

    def first_update_from(self, env_steps: int) -> int:
        """The number of the first update due at this count or later."""
        passed = env_steps - self.update_due_at(0)
        return max(0, -(-passed // self.train_every_env_steps)) * self.updates_per_train

    def boundary_after(self, env_steps: int) -> int:
        """The next count at which a rollout ends."""
        ends = [(env_steps // self.rollout_env_steps + 1) * self.rollout_env_steps]
        if self.eval_every_env_steps is not None:
            ends.append((env_steps // self.eval_every_env_steps + 1) * self.eval_every_env_steps)
        if self.total_env_steps is not None:
            ends.append(self.total_env_steps)
        return min(ends)

    def evaluation_due(self, boundary: int) -> bool:
        """Whether an evaluation belongs to this end of a rollout."""
        return self.eval_every_env_steps is not None and boundary % self.eval_every_env_steps == 0

    def over(self, boundary: int, episodes: int) -> bool:
        """Whether the run ends after this many environment steps and episodes."""
        return (self.total_env_steps is not None and boundary >= self.total_env_steps) or (
            self.total_episodes is not None and episodes >= self.total_episodes
        )


class ReplayDataset(IterableDataset["Rollout"]):
    """Streams rollouts until the run ends.

    Its length is one that no run reaches: without a length Lightning would fetch a rollout ahead,
    made with weights that are one rollout old; with the true one, a finished run could not be
    continued.

    Several ranks agree before each rollout whether the run is over, so it ends with a rollout.

    Args:
        collector: Steps the environments and fills the replay.
        rhythm: When what is due.
        stopped: Whether the run was asked to end after its current environment step (or rollout).
        on_end: Called when the run has ended, before iteration stops.
    """

    def __init__(
        self,
        collector: Collector,
        rhythm: Rhythm,
        stopped: Callable[[], bool] = lambda: False,
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        self.collector = collector
        self.rhythm = rhythm
        self.stopped = stopped
        self.on_end = on_end
        self.boundary = 0  # the count at which the last whole rollout ended
        self.next_update = 0  # number of the next update that falls due
        self.evaluation_owed = False  # whether one was due there, and has not been completed

    def __len__(self) -> int:
        """A number of rollouts that is never reached."""
        return 2**31 - 1

    def __iter__(self) -> Iterator["Rollout"]:
        """Rollouts, one after the other; nothing happens before the first is asked for.

        If the run goes on from where an evaluation was cut short, the first is an empty one, which
        the evaluation follows.
        """
        if self.evaluation_owed:
            yield Rollout(self, self.boundary)
        while not self._over():
            yield Rollout(self, self.rhythm.boundary_after(self.boundary))
        self.on_end()

    def _over(self) -> bool:
        """Whether the run has ended, or was asked to, on any rank."""
        stops, episodes = ranks.total(self.stopped(), self.collector.counts.episodes)
        return stops > 0 or self.rhythm.over(self.boundary, episodes)

    def progress(self) -> dict[str, Any]:
        """How far rollouts, updates and evaluations have come.

        (Not named `state_dict`, or Lightning would save and restore it too, but not always.)
        """
        return {
            "boundary": self.boundary,
            "next_update": self.next_update,
            "evaluation_owed": self.evaluation_owed,
            "updates": self._when_updates_are_due(),
        }

    def go_on(self, state: dict[str, Any], env_steps: int) -> None:
        """Go on from there, `env_steps` into the run.

        If updates are due at other counts now, those of the past are neither made up for nor
        waited for.
        """
        self.boundary = state["boundary"]
        self.evaluation_owed = state["evaluation_owed"]
        self.next_update = state["next_update"]
        if state["updates"] != self._when_updates_are_due():
            self.next_update = self.rhythm.first_update_from(env_steps + 1)

    def _when_updates_are_due(self) -> list[int]:
        rhythm = self.rhythm
        return [
            rhythm.learning_starts_env_steps,
            rhythm.train_every_env_steps,
            rhythm.updates_per_train,
        ]

    def skip_updates(self, env_steps: int) -> None:
        """No update before this count: those due earlier are left out."""
        self.next_update = max(self.next_update, self.rhythm.first_update_from(env_steps))


class Rollout:
    """A piece of the run, as one Lightning batch: call it with the policy, iterate what it gives.

    Pulling on the stream steps the environments with the policy as it then is, until an update is
    due, and yields that update's batch; so acting and learning alternate exactly. It is no
    iterable itself, because whatever iterates a Lightning batch would step the environments.

    Attributes:
        end: The count of environment steps at which it ends, if nothing ends the run before.
        episodes: Those that have ended in it so far.
        on_episode: Called with each as it ends.
        due: The count of environment steps at which the newest update was due.
        complete: Whether its end was reached.
    """

    def __init__(self, dataset: ReplayDataset, end: int) -> None:
        self._dataset = dataset
        self.end = end
        self.episodes: list[Episode] = []
        self.on_episode: list[Callable[[Episode], None]] = []
        self.due = 0
        self.complete = False

    @property
    def counts(self) -> Counts:
        """Environment steps and episodes of the run by now."""
        return self._dataset.collector.counts

    @property
    def episodes_before_step(self) -> int:
        """Finished episodes before the newest step of the vector environment."""
        return self._dataset.collector.episodes_before_step

    @property
    def epsilon(self) -> float:
        """The probability of a random action by now."""
        return self._dataset.collector.actor.epsilon(self.counts.env_steps)

    @property
    def evaluation_due(self) -> bool:
        """Whether an evaluation is due now that it is complete."""
        return self.complete and self._dataset.rhythm.evaluation_due(self.end)

    @property
    def has_priorities(self) -> bool:
        """Whether batches are drawn by priorities, which `set_priorities` wants to be told."""
        return self._dataset.collector.replay.has_priorities

    def set_priorities(self, rows: Tensor, priority: Tensor) -> None:
        """Give rows [B] of a batch new priorities [B]."""
        self._dataset.collector.replay.set_priorities(rows, priority)

    def _note(self, ended: list[Episode]) -> None:
        self.episodes += ended
        for episode in ended:
            for call in self.on_episode:
                call(episode)

    def __call__(self, act: Act) -> Iterator[Batch]:
        """Step the environments with `act`; yield a batch for every update that falls due."""
        dataset, collector = self._dataset, self._dataset.collector
        total_episodes = dataset.rhythm.total_episodes
        alone = ranks.count() == 1
        while True:
            due = dataset.rhythm.update_due_at(dataset.next_update)
            next_stop = min(due, self.end)
            while collector.counts.env_steps < next_stop:
                # As `_over`, by what can change within a rollout: this is the hot path.
                episodes = collector.counts.episodes
                over = total_episodes is not None and episodes >= total_episodes
                if alone and (over or dataset.stopped()):
                    return
                if ended := collector.step(act):
                    self._note(ended)
            if due > self.end:
                dataset.boundary = self.end
                dataset.evaluation_owed = dataset.rhythm.evaluation_due(self.end)
                self.complete = True
                return
            if alone and dataset.stopped():
                return
            self.due = due
            dataset.next_update += 1
            yield collector.replay.draw(dataset.rhythm.batch_size, env_steps=due)
