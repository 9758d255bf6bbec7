"""Create the collectors of a run: for training, evaluation and rendering."""

import copy
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from lightning.pytorch.utilities import rank_zero_info

from dqn_lightning import distributed
from dqn_lightning.envs import EnvFactory, EnvSettings, Vectorization, obs_classes
from dqn_lightning.envs.settings import check_time_limit
from dqn_lightning.errors import ConfigError, InvalidEnvironmentError
from dqn_lightning.interaction.actor import EpsilonGreedy, ExplorationSettings, ladder
from dqn_lightning.interaction.collector import Collector
from dqn_lightning.interaction.evaluation import EvaluationSettings
from dqn_lightning.replay import PrioritySampler, ReplayBuffer, ReplaySettings
from dqn_lightning.replay.memory import ReplaySize, check_memory, format_bytes
from dqn_lightning.schedules import Constant, as_schedule
from dqn_lightning.types import RunProgress


class CollectorFactory:
    """Factory for collectors, including their environments, replays and actors.

    Args:
        env: Settings for the training environments.
        replay: Settings for the training replay. The replays of evaluation collectors hold only the
            newest frames.
        exploration: Settings for exploration during training.
        evaluation: Settings for evaluations; they may override the environment's arguments and
            wrappers.

    Attributes:
        env_factory: Factory for the training environments.
        eval_env_factory: Factory for the evaluation and test environments.
        frame_shape: Shape of one observation before stacking.
        obs_shape: Shape of the network's input: `frame_stack` observations stacked along
            dimension 0.
        obs_dtype: Dtype of the observations.
        obs_classes: Number of classes for each element of the network's input; None if the input is
            not discrete.
        num_actions: Number of actions.

    Raises:
        ConfigError: If the environment cannot be created, or its spaces are not supported.
    """

    def __init__(
        self,
        env: EnvSettings,
        replay: ReplaySettings,
        exploration: ExplorationSettings,
        evaluation: EvaluationSettings,
    ) -> None:
        self._env = env
        self._replay = replay
        self._exploration = exploration
        self._evaluation = evaluation
        self._eval_collectors: dict[tuple[int, float], Collector] = {}
        self._open_environments = ExitStack()
        self.env_factory = EnvFactory(
            env.id, env.kwargs or {}, env.wrappers or [], env.step_timeout_s
        )
        self.eval_env_factory = EnvFactory(
            env.id,
            {**self.env_factory.env_kwargs, **(evaluation.env_kwargs or {})},
            self.env_factory.wrappers if evaluation.wrappers is None else evaluation.wrappers,
            env.step_timeout_s,
        )
        check_time_limit(self.eval_env_factory.env_kwargs, "data.evaluation.env_kwargs")
        self._read_spaces()
        if self.eval_env_factory != self.env_factory:
            self._check_eval_environment()

    def _read_spaces(self) -> None:
        envs = self.env_factory.make_vector(1, "single")
        space, frame_stack = envs.single_observation_space, self._replay.frame_stack
        assert space.shape is not None
        classes = obs_classes(space)
        self.frame_shape = space.shape
        self.obs_shape = (space.shape[0] * frame_stack, *space.shape[1:])
        self.obs_dtype = torch.from_numpy(np.empty(0, space.dtype)).dtype
        self.obs_classes = None if classes is None else classes * frame_stack
        self.num_actions = int(cast(spaces.Discrete, envs.single_action_space).n)
        self._time_limit = None if envs.spec is None else envs.spec.max_episode_steps
        envs.close()

    def training(self, device: torch.device, seed: int, progress: RunProgress) -> Collector:
        """Create the training collector for this rank and reset its environments.

        Args:
            device: Device on which observations are stored.
            seed: Seed of the run; each rank derives its own seeds from it.
            progress: Counts of environment steps and episodes, which the collector updates.

        Raises:
            ConfigError: If the replay does not fit into memory, or an environment returned an
                observation that does not match its observation space.
        """
        rank, world_size = distributed.rank(), distributed.world_size()
        seeds = np.random.SeedSequence(seed).spawn(3 * (rank + 1))
        env_seed, actor_seed, sampler_seed = seeds[-3:]
        replay = self._training_replay(device, sampler_seed)
        exponents = None
        if self._exploration.ladder:
            exponents = np.split(ladder(world_size * self._env.num_envs), world_size)[rank]
        rng = np.random.default_rng(actor_seed)
        epsilon = as_schedule(self._exploration.epsilon)
        actor = EpsilonGreedy(epsilon, self.num_actions, rng, exponents)
        envs = self._make_envs(self.env_factory, self._env.num_envs, self._env.vectorization)
        collector = self._collector(envs, replay, actor, world_size, progress)
        try:
            collector.reset(_to_int31(env_seed))
        except InvalidEnvironmentError as error:
            raise ConfigError(f"data.env.id: {self._env.id} is invalid: {error}") from error
        return collector

    def evaluation(self, num_envs: int, epsilon: float) -> Collector:
        """Return an evaluation collector; calls with equal arguments return the same one.

        Args:
            num_envs: Number of environments.
            epsilon: Probability of a random action.

        Raises:
            ConfigError: If the observations have a different shape than in training.
        """
        key = num_envs, epsilon
        if key not in self._eval_collectors:
            if not self._eval_collectors:
                self._mention_missing_time_limit()
            vectorization = self._env.vectorization
            self._eval_collectors[key] = self._make_eval_collector(
                self.eval_env_factory,
                num_envs,
                "auto" if vectorization == "single" else vectorization,
                epsilon,
            )
        return self._eval_collectors[key]

    def _mention_missing_time_limit(self) -> None:
        limit = self.eval_env_factory.env_kwargs.get("max_episode_steps", self._time_limit)
        if limit in (None, -1) and self._evaluation.wrappers is None:
            rank_zero_info(
                f"{self._env.id} has no time limit of its own: evaluation episodes are cut short "
                f"after {self._evaluation.max_steps:,} steps (data.evaluation.max_steps)"
            )

    def rendering(self) -> Collector:
        """Create a greedy collector with one evaluation environment that renders images.

        Raises:
            ConfigError: If the environment cannot render images.
        """
        envs = self.eval_env_factory.make_vector(1, "single")
        modes = envs.metadata.get("render_modes", ())
        envs.close()
        if "rgb_array" not in modes:
            raise ConfigError(
                f"data.env.id: {self._env.id} cannot render images (render_mode rgb_array)"
            )
        env_kwargs = {**self.eval_env_factory.env_kwargs, "render_mode": "rgb_array"}
        factory = replace(self.eval_env_factory, env_kwargs=env_kwargs)
        return self._make_eval_collector(factory, 1, "single", epsilon=0.0)

    def close(self) -> None:
        """Close all environments; evaluation collectors are recreated when needed."""
        self._open_environments.close()
        self._eval_collectors.clear()

    def _make_eval_collector(
        self, factory: EnvFactory, num_envs: int, vectorization: Vectorization, epsilon: float
    ) -> Collector:
        envs = self._make_envs(factory, num_envs, vectorization)
        self._check_eval_shape(envs.single_observation_space.shape)
        capacity = (self._replay.frame_stack + 2) * num_envs
        replay = self._make_replay(capacity, num_envs, np.random.SeedSequence(0), n_step=1)
        actor = EpsilonGreedy(Constant(epsilon), self.num_actions, np.random.default_rng(0))
        return self._collector(envs, replay, actor, 1, RunProgress())

    def _check_eval_environment(self) -> None:
        try:
            envs = self.eval_env_factory.make_vector(1, "single")
        except ConfigError as error:  # names the settings of training, which were valid
            message = str(error).replace("data.env.kwargs", "data.evaluation.env_kwargs")
            message = message.replace("data.env.wrappers", "data.evaluation.wrappers")
            raise ConfigError(message) from error
        envs.close()
        self._check_eval_shape(envs.single_observation_space.shape)

    def _check_eval_shape(self, shape: tuple[int, ...] | None) -> None:
        if shape != self.frame_shape:
            raise ConfigError(
                f"data.evaluation.wrappers: evaluation observations have shape {shape}, training "
                f"observations {self.frame_shape}"
            )

    def _collector(
        self,
        envs: VectorEnv[Any, Any, Any],
        replay: ReplayBuffer,
        actor: EpsilonGreedy,
        world_size: int,
        progress: RunProgress,
    ) -> Collector:
        settings = self._replay
        return Collector(
            envs, replay, actor, world_size, settings.reward_clip, settings.reward_scale, progress
        )

    def _make_envs(
        self, factory: EnvFactory, num_envs: int, vectorization: Vectorization
    ) -> VectorEnv[Any, Any, Any]:
        envs = factory.make_vector(num_envs, vectorization)
        self._open_environments.callback(envs.close)
        return envs

    def _training_replay(self, device: torch.device, seed: np.random.SeedSequence) -> ReplayBuffer:
        settings, capacity = self._replay, self._replay.capacity
        on_gpu = device.type == "cuda"
        has_priorities = isinstance(settings.sampler, PrioritySampler)
        spaces = self.frame_shape, self.obs_dtype
        size = ReplaySize.of(capacity, *spaces, has_priorities, on_gpu)
        rank_zero_info(f"replay: {capacity:,} rows, {format_bytes(sum(size))}")
        check_memory(size, capacity, device)
        try:
            return self._make_replay(capacity, self._env.num_envs, seed, device=device)
        except (RuntimeError, MemoryError) as error:
            raise ConfigError(
                f"data.replay.capacity: {capacity:,} rows ({format_bytes(sum(size))}) do not fit "
                f"into {'GPU memory; try --data.replay.device cpu' if on_gpu else 'memory'}"
            ) from error

    def _make_replay(
        self,
        capacity: int,
        num_envs: int,
        seed: np.random.SeedSequence,
        n_step: int | None = None,
        device: torch.device | str = "cpu",
    ) -> ReplayBuffer:
        settings = self._replay
        return ReplayBuffer(
            capacity,
            num_envs,
            self.frame_shape,
            self.obs_dtype,
            gamma=settings.gamma,
            n_step=settings.n_step if n_step is None else n_step,
            bootstrap_terminal=settings.bootstrap_terminal,
            frame_stack=settings.frame_stack,
            sampler=copy.deepcopy(settings.sampler),  # it may hold the priorities of one replay
            augmentations=settings.augmentations or [],
            rng=np.random.default_rng(seed),
            device=device,
        )


def _to_int31(seed: np.random.SeedSequence) -> int:
    return int(seed.generate_state(1)[0] >> 1)
