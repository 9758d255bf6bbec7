"""LightningDataModule that provides environments, replay, rollouts and evaluations."""

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import gymnasium as gym
import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_info

from dqn_lightning import distributed
from dqn_lightning.checkpointing.checkpoint_io import use_atomic_checkpoints
from dqn_lightning.checkpointing.run_state import ResumeSettings
from dqn_lightning.envs import EnvSettings, as_env_settings, load_observations
from dqn_lightning.errors import ConfigError
from dqn_lightning.interaction.actor import ExplorationSettings
from dqn_lightning.interaction.collector import Collector
from dqn_lightning.interaction.collectors import CollectorFactory
from dqn_lightning.interaction.evaluation import Evaluation, EvaluationSettings
from dqn_lightning.interaction.rank_settings import check_rank_settings
from dqn_lightning.interaction.rollouts import ReplayDataset, ScheduleSettings, TrainingSchedule
from dqn_lightning.internals.lightning import (
    IGNORED_WARNINGS,
    call_at_max_time,
    ignored_warnings,
    prepare_fit,
)
from dqn_lightning.replay import ReplaySettings
from dqn_lightning.replay.augmentations import check_augmentation
from dqn_lightning.types import RunProgress

if TYPE_CHECKING:
    EnvLike: TypeAlias = EnvSettings | str | gym.Env[Any, Any] | Callable[..., gym.Env[Any, Any]]
else:
    # The command line's parser sees the dataclass only: it loses nested flags of a union.
    EnvLike = EnvSettings

MAX_EVAL_ENVS = 20
"""Maximum total number of environments in an evaluation over all ranks."""


class DQNDataModule(LightningDataModule):
    """Datamodule that holds environments and replay, and provides rollouts and evaluations.

    A rollout is a section of training and one Lightning batch: the environments are stepped, and
    transitions are sampled from the replay whenever an update is due.

    If several processes train together, each process is a rank with its own environments and
    replay. Environment steps are counted over all ranks, but `num_envs`, `capacity`, `batch_size`,
    `train_every_env_steps` and `rollout_env_steps` are per rank.

    Args:
        env: Settings for the training environments. In Python, this can also be an environment's
            id, class or factory, or an environment that has a `spec`.
        replay: Settings for the replay and for sampling batches from it.
        schedule: When learning starts, how often the network is updated, and when training ends.
        exploration: Settings for exploration during training.
        evaluation: Settings for evaluations during training and for tests.
        resume: Settings for resuming a run from a checkpoint.
        observations: Path to a `.npy` file, or to a `.pt` file with a tensor, that contains
            observations [B, …]; `predict` computes actions and action values for them. If null,
            `predict` runs `evaluation.episodes` episodes.
        seed: Seed from which each rank derives its seeds for environments, exploration and
            sampling; if null, PyTorch's initial seed, which `seed_everything` sets.

    Attributes:
        progress: Counts of environment steps, episodes and updates in the run; a new object is
            created when a run starts.
        dataset: Dataset that yields rollouts during training; None otherwise.
        shared_settings: Further settings that must be the same on all ranks, by name.

    Raises:
        ConfigError: If a setting is invalid.
    """

    def __init__(
        self,
        env: EnvLike = EnvSettings(),
        replay: ReplaySettings = ReplaySettings(),
        schedule: ScheduleSettings = ScheduleSettings(),
        exploration: ExplorationSettings = ExplorationSettings(),
        evaluation: EvaluationSettings = EvaluationSettings(),
        resume: ResumeSettings = ResumeSettings(),
        observations: str | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        if seed is not None and seed < 0:
            raise ConfigError(f"data.seed: must not be negative, got {seed}")
        self.env = as_env_settings(env)
        self.replay = replay
        self.schedule = schedule
        self.exploration = exploration
        self.evaluation = evaluation
        self.resume = resume
        self.observations = observations
        self.seed = seed
        self.max_n_step = replay.max_n_step(schedule.total_env_steps)
        replay.check_capacity(self.env.num_envs, self.max_n_step)
        self.collectors = CollectorFactory(self.env, replay, exploration, evaluation)
        for augmentation in replay.augmentations or []:
            check_augmentation(
                augmentation, self.obs_shape, self.collectors.obs_dtype, self.num_actions
            )
        self.progress = RunProgress()
        self.dataset: ReplayDataset | None = None
        self.shared_settings: dict[str, Any] = {}
        self._stop_requested = False
        self._timer: threading.Timer | None = None
        self._ignored_warnings = ExitStack()

    # Shapes that the network needs --------------------------------------------------------------

    @property
    def obs_shape(self) -> tuple[int, ...]:
        """Shape of one observation with stacked frames, the network's input, without batch axis."""
        return self.collectors.obs_shape

    @property
    def obs_classes(self) -> tuple[int, ...] | None:
        """Number of classes for each element of a discrete observation; None for other types."""
        return self.collectors.obs_classes

    @property
    def num_actions(self) -> int:
        """Number of actions A."""
        return self.collectors.num_actions

    # Lightning's hooks --------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """If `stage` is "fit", build the training schedule, environments and replay of a new run.

        Lightning restores the checkpoint of a resumed run after this hook. Evaluation environments
        are created when they are first used.

        Raises:
            ConfigError: If a trainer setting is not supported, or settings of ranks differ.
        """
        check_rank_settings(self)
        self._ignored_warnings.enter_context(ignored_warnings(IGNORED_WARNINGS))
        use_atomic_checkpoints(self.trainer)
        if stage == "predict" and distributed.world_size() > 1:
            raise ConfigError("predict runs in one process; use --trainer.devices 1")
        if stage != "fit":
            return
        assert self.trainer is not None
        prepare_fit(self.trainer, has_evaluations=self.evaluation.every_env_steps is not None)
        world_size = distributed.world_size()
        schedule = self._training_schedule(world_size)
        self.progress = RunProgress(run_id=distributed.random_id())
        collector = self.collectors.training(self._replay_device(), self._run_seed(), self.progress)
        self.dataset = ReplayDataset(
            collector,
            schedule,
            self.replay.batch_size,
            lambda: self._stop_requested,
            self._end_training,
        )
        if world_size > 1:
            _seed_global_generators(distributed.rank_seed(torch.initial_seed()))
            rank_zero_info(self._describe_ranks(world_size, schedule))

    def train_dataloader(self) -> ReplayDataset:
        """Return the dataset that yields rollouts.

        In a resumed run, Lightning calls this hook after restoring the checkpoint.

        Raises:
            ConfigError: If the run ends before its first update, or the replay of a resumed run was
                not restored and `resume.require_replay` is true.
        """
        assert self.dataset is not None
        self.check_schedule()
        self.dataset.check_resumed(self.resume.require_replay)
        self._timer = call_at_max_time(self.trainer, self.stop)
        return self.dataset

    def val_dataloader(self) -> "_Items":
        """Return a dataloader whose only batch is the `Evaluation` to run as validation."""
        settings = self.evaluation
        return _Items([self._evaluation(settings.episodes, settings.seed)])

    def test_dataloader(self) -> "_Items":
        """Return a dataloader whose only batch is an `Evaluation` with the test settings."""
        settings = self.evaluation
        return _Items([self._evaluation(settings.test_episodes, settings.test_seed)])

    def predict_dataloader(self) -> "_Items":
        """Return a dataloader with one batch that contains `observations`.

        If `observations` is None, there is instead one batch per episode: an `Evaluation`.
        """
        if self.observations is not None:
            kind = self.obs_shape, self.collectors.obs_dtype, self.obs_classes
            return _Items([load_observations(self.observations, *kind)])
        collector = partial(self.collectors.evaluation, epsilon=0.0)
        settings = self.evaluation
        seeds = range(settings.test_seed, settings.test_seed + settings.episodes)
        one_episode = partial(
            Evaluation, collector, num_envs=1, episodes=1, max_steps=settings.max_steps
        )
        return _Items([one_episode(seed=seed) for seed in seeds])

    def teardown(self, stage: str) -> None:
        """Close all environments and, after `fit`, release the replay; keep `progress`."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer.join()
        self._stop_requested = False
        if stage == "fit":
            self.dataset = None
        with self._ignored_warnings:  # restores the filters even if closing fails
            self.collectors.close()

    def on_exception(self, exception: BaseException) -> None:
        """Close the environments and release the replay when a run fails."""
        self.teardown("fit")

    # The run ------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Request the end of the run; this method is safe to call from a signal handler.

        Training ends after the current environment step, or after the current rollout if there are
        several ranks. An evaluation in progress ends immediately.
        """
        self._stop_requested = True

    @property
    def stop_requested(self) -> bool:
        """Whether `stop` has been called."""
        return self._stop_requested

    def eval_collector(self, num_envs: int, epsilon: float) -> Collector:
        """Return a collector that steps evaluation environments.

        Args:
            num_envs: Number of environments.
            epsilon: Probability of a random action.
        """
        return self.collectors.evaluation(num_envs, epsilon)

    def check_schedule(self) -> None:
        """Raise `ConfigError` if the run ends before its first update; call it after resuming."""
        assert self.dataset is not None
        if not self.trainer.fast_dev_run:  # type: ignore[union-attr]  # set by Lightning
            self.dataset.schedule.check_first_update(self.progress)

    def _end_training(self) -> None:
        assert self.trainer is not None
        self.trainer.should_stop = True

    def _evaluation(self, episodes: int, seed: int) -> Evaluation:
        return Evaluation(
            partial(self.collectors.evaluation, epsilon=self.evaluation.epsilon),
            num_envs=min(episodes, MAX_EVAL_ENVS),
            episodes=episodes,
            seed=seed,
            max_steps=self.evaluation.max_steps,
            stopped=lambda: self._stop_requested,
        )

    def _training_schedule(self, world_size: int) -> TrainingSchedule:
        """Return the schedule in environment steps of all ranks."""
        rows = 1 if self.replay.samples_with_replacement else self.replay.batch_size
        first_update = world_size * (rows + self.env.num_envs * (self.max_n_step - 1))
        if not self.trainer.fast_dev_run:  # type: ignore[union-attr]  # set in `setup`
            first_update = max(self.schedule.learning_starts_env_steps, first_update)
        every = self.evaluation.every_env_steps
        return self.schedule.over_ranks(world_size, first_update, every)

    def _replay_device(self) -> torch.device:
        # `setup` calls this method, so the trainer is set.
        device: torch.device = self.trainer.strategy.root_device  # type: ignore[union-attr]
        on_gpu = device.type == "cuda" and self.replay.device == "auto"
        return device if on_gpu else torch.device("cpu")

    def _run_seed(self) -> int:
        return torch.initial_seed() if self.seed is None else self.seed

    def _describe_ranks(self, world_size: int, schedule: TrainingSchedule) -> str:
        """Return a log message with the batch size and other sizes, summed over all ranks."""
        updates = schedule.updates_per_period
        return (
            f"{world_size} ranks together: batch size {world_size * self.replay.batch_size:,}, "
            f"replay capacity {world_size * self.replay.capacity:,}, "
            f"{world_size * self.env.num_envs:,} environments, {updates:,} "
            f"update{'s' if updates > 1 else ''} per {schedule.update_period:,} environment steps"
        )


class _Items:
    """Iterable of batches, used because Lightning would treat a list as several dataloaders."""

    def __init__(self, items: Sequence[Any]) -> None:
        self._items = items

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._items)


def _seed_global_generators(seed: int) -> None:
    """Seed the global random number generators of PyTorch, NumPy and Python."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)
