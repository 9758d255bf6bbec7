"""The LightningDataModule: environments, replay, and what is due when."""

import copy
import random
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any, cast

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from dqn_lightning import ranks
from dqn_lightning.actor import EpsilonGreedy, ladder
from dqn_lightning.collector import Collector, Counts
from dqn_lightning.dataset import ReplayDataset, Rhythm
from dqn_lightning.envs import EnvFactory, Vectorization, obs_classes
from dqn_lightning.errors import ConfigError
from dqn_lightning.evaluation import Evaluation
from dqn_lightning.replay import Augmentation, ReplayBuffer, Sampler, Storage, Uniform
from dqn_lightning.replay.augmentations import try_out
from dqn_lightning.replay.buffer import steps_at
from dqn_lightning.schedules import CHECKED_COUNTS, Constant, Schedule, as_schedule

_CPU = torch.device("cpu")
MAX_EVAL_ENVS = 20
"""Environments that evaluations play side by side."""


class DQNDataModule(LightningDataModule):
    """Environments that fill a replay, and the rollouts and evaluations made of them.

    Processes that train together are ranks, each with environments and a replay of its own. Counts
    of environment steps are of the whole run, all ranks together. Sizes (`num_envs`, `capacity`,
    `batch_size`) and the two periods that make up a rank's work, `train_every_env_steps` and
    `rollout_env_steps`, are of one rank.

    Args:
        env_id: A registered Gymnasium id, or `module:id` for one that registers when imported.
        env_kwargs: Passed to `gymnasium.make`.
        wrappers: Wrap each environment, the first one innermost.
        eval_env_kwargs: What of `env_kwargs` is different in evaluations and tests.
        eval_wrappers: Wrap the environments of evaluations and tests; as in training if None.
        num_envs: Environments stepped together, per rank.
        vectorization: How they are stepped: `single` (one, the fastest way), `sync` (in turn),
            `async` (in processes), `native` (the environment's own vector version), or `auto`.
        capacity: Rows of the replay, over all environments, per rank.
        batch_size: Rows of a batch, per rank.
        sampler: Which rows are drawn; uniformly, with replacement, if None.
        augmentations: Change each batch that is drawn, one after the other; None do if None.
        n_step: Steps of the return: a number, or a schedule of environment steps.
        gamma: Discount of one step.
        reward_clip: Rewards are learnt from as clipped to ± this (Mnih et al. 2015: 1), or as they
            are if None. Logs and evaluations keep the true ones.
        reward_scale: Factor of rewards that are learnt from, after clipping.
        bootstrap_terminal: Whether the value of terminal observations counts, as in MorvanZhou's
            tutorial, which forgets to leave it out.
        frame_stack: Newest observations that make up the network's input.
        replay_on_gpu: Whether observations lie on the GPU that trains, where there is one; else
            in the host's memory, from which batches are brought there.
        learning_starts_env_steps: No update before so many environment steps.
        train_every_env_steps: Environment steps between updates, per rank.
        updates_per_train: Updates made then.
        rollout_env_steps: Environment steps of one Lightning batch, per rank. The run does not
            depend on it, but several ranks agree to stop only at a rollout's end.
        total_env_steps: Environment steps of the run, or None for no such end.
        total_episodes: Finished episodes of the run, or None; whichever comes first. Several ranks
            finish the rollout.
        epsilon: Probability of a random action: a number, or a schedule of environment steps.
        epsilon_ladder: Whether environments explore to different degrees (Horgan et al. 2018):
            number i of all N of all ranks with epsilon^(1 + 7 i / (N - 1)).
        eval_every_env_steps: Environment steps between evaluations, or None for none.
        eval_episodes: Episodes of an evaluation.
        eval_epsilon: Probability of a random action in evaluations and tests.
        eval_seed: First seed of every evaluation's environments.
        test_episodes: Episodes of a test.
        test_seed: First seed of a test's environments.
        require_replay: Whether a run goes on from a checkpoint only with its replay and everything
            else that belongs to it; if not, it goes on with an empty replay where they are missing.
        reshare_replay: Whether a run that goes on with another number of ranks deals their replays
            out anew. It is not the same run then: environments and generators begin anew.
        observations: File of observations [B, …] to predict from (`.npy`, or `.pt` of a tensor);
            if None, `predict` plays `eval_episodes` episodes.
        seed: Seed of environments, exploration and sampling; PyTorch's initial seed if None, which
            `seed_everything` sets. Each rank derives another one from it.

    Raises:
        ConfigError: If a setting cannot work.
    """

    def __init__(
        self,
        env_id: str = "CartPole-v1",
        env_kwargs: dict[str, Any] | None = None,
        wrappers: list[Callable[[gym.Env], gym.Env]] | None = None,
        eval_env_kwargs: dict[str, Any] | None = None,
        eval_wrappers: list[Callable[[gym.Env], gym.Env]] | None = None,
        num_envs: int = 1,
        vectorization: Vectorization = "auto",
        capacity: int = 100_000,
        batch_size: int = 64,
        sampler: Sampler | None = None,
        augmentations: list[Augmentation] | None = None,
        n_step: int | Schedule = 1,
        gamma: float = 0.99,
        reward_clip: float | None = None,
        reward_scale: float = 1.0,
        bootstrap_terminal: bool = False,
        frame_stack: int = 1,
        replay_on_gpu: bool = True,
        learning_starts_env_steps: int = 1_000,
        train_every_env_steps: int = 1,
        updates_per_train: int = 1,
        rollout_env_steps: int = 1_000,
        total_env_steps: int | None = 50_000,
        total_episodes: int | None = None,
        epsilon: float | Schedule = 0.1,
        epsilon_ladder: bool = False,
        eval_every_env_steps: int | None = 5_000,
        eval_episodes: int = 20,
        eval_epsilon: float = 0.0,
        eval_seed: int = 1_000_000,
        test_episodes: int = 100,
        test_seed: int = 2_000_000,
        require_replay: bool = True,
        reshare_replay: bool = False,
        observations: str | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        self.num_envs = num_envs
        self.vectorization: Vectorization = vectorization
        self.capacity = capacity
        self.sampler = Uniform() if sampler is None else sampler
        self.augmentations = augmentations or []
        self.n_step = n_step
        self.gamma = gamma
        self.reward_clip = reward_clip
        self.reward_scale = reward_scale
        self.bootstrap_terminal = bootstrap_terminal
        self.frame_stack = frame_stack
        self.replay_on_gpu = replay_on_gpu
        self.epsilon = as_schedule(epsilon)
        self.epsilon_ladder = epsilon_ladder
        self.eval_episodes = eval_episodes
        self.eval_epsilon = eval_epsilon
        self.eval_seed = eval_seed
        self.test_episodes = test_episodes
        self.test_seed = test_seed
        self.require_replay = require_replay
        self.reshare_replay = reshare_replay
        self.observations = observations
        self.seed = seed
        self.rhythm = Rhythm(
            batch_size=batch_size,
            learning_starts_env_steps=learning_starts_env_steps,
            train_every_env_steps=train_every_env_steps,
            updates_per_train=updates_per_train,
            rollout_env_steps=rollout_env_steps,
            eval_every_env_steps=eval_every_env_steps,
            total_env_steps=total_env_steps,
            total_episodes=total_episodes,
        )
        self.dataset: ReplayDataset | None = None
        self._state: dict[str, Any] = {}  # where the last run stood
        self._refill = False  # whether the run goes on without its replay
        self._stopped = False
        self._eval_collectors: dict[tuple[int, float], Collector] = {}
        self._environments = ExitStack()  # closes all that were made
        self._check_settings()
        self.factory = EnvFactory(env_id, env_kwargs or {}, wrappers or [])
        self.eval_factory = EnvFactory(
            env_id,
            {**self.factory.env_kwargs, **(eval_env_kwargs or {})},
            self.factory.wrappers if eval_wrappers is None else eval_wrappers,
        )
        self._read_spaces()
        for augmentation in self.augmentations:
            try_out(augmentation, self.obs_shape, self.obs_dtype, self.num_actions)

    # Spaces: what the network is built for ------------------------------------------------------

    def _read_spaces(self) -> None:
        envs = self.factory.make_vector(1, "single")
        space = envs.single_observation_space
        assert space.shape is not None
        frame_shape = space.shape
        classes = obs_classes(space)
        self.num_actions = int(cast(spaces.Discrete, envs.single_action_space).n)
        self.obs_shape = (frame_shape[0] * self.frame_stack, *frame_shape[1:])
        self.obs_classes = None if classes is None else classes * self.frame_stack
        self.frame_shape = frame_shape
        self.obs_dtype = torch.from_numpy(np.empty(0, space.dtype)).dtype
        envs.close()

    # Lightning's hooks --------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Make what training needs; evaluations make their own when they come."""
        if stage == "predict" and ranks.count() > 1:
            raise ConfigError("predict runs in one process; use --trainer.devices 1")
        if stage != "fit":
            return
        assert self.trainer is not None
        for name in ("min_steps", "min_epochs"):
            if getattr(self.trainer, name):
                raise ConfigError(
                    f"trainer.{name}: cannot keep a run going; use data.total_env_steps"
                )
        for pattern in (".*has `__len__` defined.*", ".*your dataloader is not resumable.*"):
            warnings.filterwarnings("ignore", pattern)  # its length is meant, its state is ours
        # So callbacks that watch evaluations look after each of them, not at the end of an epoch.
        self.trainer.check_val_every_n_epoch = None
        self.trainer.val_check_interval = 1
        num_ranks = ranks.count()
        needed = 1 if self.sampler.replacement else self.rhythm.batch_size
        self._enough_env_steps = num_ranks * (needed + self.num_envs * (self.greatest_n_step - 1))
        if not self.trainer.fast_dev_run:  # type: ignore[attr-defined]  # Lightning sets it untyped
            starts = self.rhythm.learning_starts_env_steps
            self._enough_env_steps = max(starts, self._enough_env_steps)
        rhythm = replace(
            self.rhythm,
            learning_starts_env_steps=self._enough_env_steps,
            train_every_env_steps=num_ranks * self.rhythm.train_every_env_steps,
            rollout_env_steps=num_ranks * self.rhythm.rollout_env_steps,
        )
        if rhythm.over(rhythm.update_due_at(0) - 1, episodes=0):
            rank_zero_warn(
                f"no update will be made: data.total_env_steps is {rhythm.total_env_steps:,}, the "
                f"first update is due at environment step {rhythm.update_due_at(0):,}"
            )
        device = self.trainer.strategy.root_device
        if device.type != "cuda" or not self.replay_on_gpu:
            device = _CPU
        self.dataset = ReplayDataset(
            self._make_collector(device), rhythm, lambda: self._stopped, self._end_training
        )
        if num_ranks > 1:
            self._differ_from_other_ranks()
            rank_zero_info(self._sizes_of_all_ranks(num_ranks, rhythm))

    def train_dataloader(self) -> ReplayDataset:
        """The stream of rollouts."""
        assert self.dataset is not None
        self._go_on(self.dataset)
        return self.dataset

    def val_dataloader(self) -> "_Items":
        """One evaluation."""
        evaluation = self._evaluation(self.eval_episodes, self.eval_seed, self.eval_epsilon)
        evaluation.on_end = self._evaluated
        return _Items([evaluation])

    def test_dataloader(self) -> "_Items":
        """One evaluation, on seeds of its own."""
        return _Items([self._evaluation(self.test_episodes, self.test_seed, self.eval_epsilon)])

    def predict_dataloader(self) -> "_Items":
        """One batch of the given observations, or greedy episodes one by one."""
        if self.observations is not None:
            return _Items([self._load_observations(self.observations)])
        make = partial(self.eval_collector, epsilon=0.0)
        seeds = range(self.test_seed, self.test_seed + self.eval_episodes)
        return _Items([Evaluation(make, num_envs=1, episodes=1, seed=seed) for seed in seeds])

    def teardown(self, stage: str) -> None:
        """Close all environments and let the replay go."""
        if self.dataset is not None and stage == "fit":
            self._state = self.state_dict()
            self.dataset = None
        self._environments.close()
        self._eval_collectors.clear()  # an evaluation that comes later makes them anew

    def on_exception(self, exception: BaseException) -> None:
        """Close what a failed run leaves open."""
        self.teardown("fit")

    def state_dict(self) -> dict[str, Any]:
        """Where the run stands."""
        if self.dataset is None:
            return self._state
        return {**self.dataset.collector.counts._asdict(), **self.dataset.progress()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting, with an empty replay unless `load_collector_state` follows."""
        if self.dataset is None:
            return
        counts = Counts(state_dict["env_steps"], state_dict["episodes"])
        self.dataset.collector.counts = counts
        self.dataset.collector.episodes_before_step = counts.episodes
        self.dataset.go_on(state_dict, counts.env_steps)
        self._refill = True

    def check_collector_state(self, state: dict[str, Any]) -> None:
        """See whether a collector's state fits, before anything is changed.

        Raises:
            ConfigError: If the replay had another size.
        """
        assert self.dataset is not None
        try:
            self.dataset.collector.replay.check_size(state["replay"])
        except ValueError as error:
            raise ConfigError(
                f"data.capacity, data.num_envs: the replay was of another size ({error})"
            ) from error

    def load_collector_state(
        self, state: dict[str, Any], rows: Iterable[tuple[range, dict[str, Tensor]]]
    ) -> None:
        """Go on with environments, generators and replay as `Collector.load_state_dict` does."""
        assert self.dataset is not None
        failure = self.dataset.collector.load_state_dict(state, rows)
        self._refill = False
        if failure is not None:
            rank_zero_info(f"running episodes are cut short, for they cannot go on: {failure}")

    def adopt_rows(self, pieces: Iterable[dict[str, Tensor]], num_ranks: int) -> None:
        """Go on with new episodes, after rows of so many ranks as `ReplayBuffer.adopt` takes them.

        Raises:
            ConfigError: If they are of another number of environments.
        """
        assert self.dataset is not None
        collector = self.dataset.collector
        for columns in pieces:
            if columns["boundary"].shape[1] != self.num_envs:
                num_envs = columns["boundary"].shape[1]
                raise ConfigError(f"data.num_envs: the run was made with {num_envs} per rank")
            collector.replay.adopt(columns)
        self._refill = False
        if ranks.greatest(len(collector.replay.rows) * ranks.count() < self._enough_env_steps):
            self.dataset.skip_updates(collector.counts.env_steps + self._enough_env_steps)
        rank_zero_info(
            f"the replays of {num_ranks} ranks are dealt out to {ranks.count()}, and new episodes "
            "begin: not the same run bit for bit"
        )

    def _go_on(self, dataset: ReplayDataset) -> None:
        """What there is to say and to do where a run goes on."""
        env_steps = dataset.collector.counts.env_steps
        if dataset.rhythm.over(dataset.boundary, dataset.collector.counts.episodes):
            rank_zero_info(
                f"the run is over already, at environment step {env_steps:,}; "
                "raise data.total_env_steps or data.total_episodes to go on"
            )
        elif self._refill and self.require_replay:
            raise ConfigError(
                "data.require_replay: a run goes on with its replay only where a FullState "
                "callback saved and restores it; false goes on with an empty one"
            )
        elif self._refill:
            dataset.skip_updates(env_steps + self._enough_env_steps)
            rank_zero_info(
                f"going on from environment step {env_steps:,} with an empty replay: "
                f"learning starts again after {self._enough_env_steps:,} more"
            )
        elif env_steps > 0:
            rank_zero_info(f"going on from environment step {env_steps:,}")

    def stop(self) -> None:
        """End training after its current step, an evaluation at once; safe in a signal handler."""
        self._stopped = True

    @property
    def stopped(self) -> bool:
        """Whether training was asked to end."""
        return self._stopped

    def _evaluated(self) -> None:
        if self.dataset is not None:
            self.dataset.evaluation_owed = False

    def _end_training(self) -> None:
        assert self.trainer is not None
        self.trainer.should_stop = True

    # Parts --------------------------------------------------------------------------------------

    def _make_collector(self, device: torch.device = _CPU) -> Collector:
        num_bytes = Storage.num_bytes(self.capacity, self.frame_shape, self.obs_dtype)
        rank_zero_info(f"replay: {self.capacity:,} rows, {_readable(num_bytes)}")
        seed, rank = torch.initial_seed() if self.seed is None else self.seed, ranks.own()
        seeds = np.random.SeedSequence(seed).spawn(3 * (rank + 1))
        env_seed, actor_seed, sampler_seed = seeds[-3:]
        try:
            replay = self._make_replay(self.capacity, self.num_envs, sampler_seed, device=device)
        except RuntimeError as error:
            on_gpu = device.type == "cuda"
            memory = "the GPU's memory; see data.replay_on_gpu" if on_gpu else "memory"
            raise ConfigError(
                f"data.capacity: {self.capacity:,} rows, {_readable(num_bytes)}, do not fit into "
                f"{memory}"
            ) from error
        exponents = None
        if self.epsilon_ladder:
            exponents = np.split(ladder(ranks.count() * self.num_envs), ranks.count())[rank]
        rng = np.random.default_rng(actor_seed)
        actor = EpsilonGreedy(self.epsilon, self.num_actions, rng, exponents)
        envs = self._make_envs(self.factory, self.num_envs, self.vectorization)
        collector = Collector(
            envs, replay, actor, ranks.count(), self.reward_clip, self.reward_scale
        )
        collector.reset(_int31(env_seed))
        return collector

    def _differ_from_other_ranks(self) -> None:
        """Seed the generators that everyone may draw from; all ranks have the same until now."""
        seed = torch.initial_seed() + ranks.own()
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)

    def _sizes_of_all_ranks(self, num_ranks: int, rhythm: Rhythm) -> str:
        batch, every = self.rhythm.batch_size, rhythm.train_every_env_steps
        return (
            f"{num_ranks} ranks together: a batch of {num_ranks * batch:,} rows, a replay of "
            f"{num_ranks * self.capacity:,}, {num_ranks * self.num_envs:,} environments, "
            f"{rhythm.updates_per_train:,} update{'s' * (rhythm.updates_per_train > 1)} per "
            f"{every:,} environment steps"
        )

    def _evaluation(self, episodes: int, seed: int, epsilon: float) -> Evaluation:
        return Evaluation(
            partial(self.eval_collector, epsilon=epsilon),
            num_envs=min(episodes, MAX_EVAL_ENVS),
            episodes=episodes,
            seed=seed,
            stopped=lambda: self._stopped,
        )

    def eval_collector(self, num_envs: int, epsilon: float) -> Collector:
        """The one for evaluations of this kind, made when it is first asked for."""
        key = num_envs, epsilon
        if key not in self._eval_collectors:
            as_training: Vectorization = (
                "auto" if self.vectorization == "single" else self.vectorization
            )
            self._eval_collectors[key] = self._make_eval_collector(
                self.eval_factory, num_envs, as_training, epsilon
            )
        return self._eval_collectors[key]

    def drawing_collector(self) -> Collector:
        """A new one of a single environment as evaluations have it, greedy, but one that draws.

        Raises:
            ConfigError: If the environment cannot.
        """
        env = self.eval_factory.make()
        modes = env.metadata.get("render_modes", ())
        env.close()
        if "rgb_array" not in modes:
            raise ConfigError(
                f"data.env_id: {self.eval_factory.env_id} cannot draw itself (render_mode "
                "rgb_array)"
            )
        env_kwargs = {**self.eval_factory.env_kwargs, "render_mode": "rgb_array"}
        factory = replace(self.eval_factory, env_kwargs=env_kwargs)
        return self._make_eval_collector(factory, 1, "single", epsilon=0.0)

    def _make_eval_collector(
        self, factory: EnvFactory, num_envs: int, vectorization: Vectorization, epsilon: float
    ) -> Collector:
        envs = self._make_envs(factory, num_envs, vectorization)
        shape = envs.single_observation_space.shape
        if shape != self.frame_shape:
            raise ConfigError(
                f"data.eval_wrappers: observations are {shape} there, {self.frame_shape} in "
                "training"
            )
        newest = (self.frame_stack + 2) * num_envs  # rows
        replay = self._make_replay(newest, num_envs, np.random.SeedSequence(0), n_step=1)
        actor = EpsilonGreedy(Constant(epsilon), self.num_actions, np.random.default_rng(0))
        return Collector(envs, replay, actor, 1, self.reward_clip, self.reward_scale)

    def _make_envs(
        self, factory: EnvFactory, num_envs: int, vectorization: Vectorization
    ) -> VectorEnv[Any, Any, Any]:
        envs = factory.make_vector(num_envs, vectorization)
        self._environments.callback(envs.close)
        return envs

    def _make_replay(
        self,
        capacity: int,
        num_envs: int,
        seed: np.random.SeedSequence,
        n_step: int | None = None,
        device: torch.device | str = "cpu",
    ) -> ReplayBuffer:
        return ReplayBuffer(
            capacity,
            num_envs,
            self.frame_shape,
            self.obs_dtype,
            gamma=self.gamma,
            n_step=self.n_step if n_step is None else n_step,
            bootstrap_terminal=self.bootstrap_terminal,
            frame_stack=self.frame_stack,
            sampler=copy.deepcopy(self.sampler),  # it may keep what it knows of the rows
            augmentations=self.augmentations,
            rng=np.random.default_rng(seed),
            device=device,
        )

    def _load_observations(self, path: str) -> Tensor:
        try:
            if path.endswith(".npy"):
                obs = torch.from_numpy(np.load(path))
            else:
                obs = torch.load(path, weights_only=True)
        except Exception as error:  # files that are something else raise many kinds
            kind = type(error).__name__
            raise ConfigError(f"data.observations: {path} cannot be read ({kind})") from error
        if tuple(obs.shape[1:]) != self.obs_shape:
            raise ConfigError(
                f"data.observations: {path} holds {list(obs.shape)}, "
                f"wanted [number, {', '.join(map(str, self.obs_shape))}]"
            )
        return obs

    # Checks -------------------------------------------------------------------------------------

    def _check_settings(self) -> None:
        names = ("num_envs", "capacity", "frame_stack", "eval_episodes", "test_episodes")
        for name in names:
            if getattr(self, name) < 1:
                raise ConfigError(f"data.{name}: must be at least 1, got {getattr(self, name)}")
        for name in ("seed", "eval_seed", "test_seed"):
            if (getattr(self, name) or 0) < 0:
                raise ConfigError(f"data.{name}: must not be negative, got {getattr(self, name)}")
        self.greatest_n_step = self._find_greatest_n_step()
        if self.reward_clip is not None and not self.reward_clip > 0:
            raise ConfigError(f"data.reward_clip: must be positive, got {self.reward_clip}")
        if not 0 < self.reward_scale < np.inf:
            raise ConfigError(f"data.reward_scale: must be positive, got {self.reward_scale}")
        if not 0 <= self.gamma <= 1:
            raise ConfigError(f"data.gamma: must lie in [0, 1], got {self.gamma}")
        self._check_epsilon()
        self._check_capacity()

    def _find_greatest_n_step(self) -> int:
        """Of the run, looked for at its ends and at some counts between."""
        end, schedule = self.rhythm.total_env_steps or 10**9, as_schedule(self.n_step)
        greatest = 1
        for count in (*(count for count in CHECKED_COUNTS if count < end), end):
            n_step = schedule(count)
            if not 1 <= n_step < np.inf:
                raise ConfigError(
                    f"data.n_step: must be at least 1, is {n_step} at environment step {count}"
                )
            greatest = max(greatest, steps_at(self.n_step, count))
        return greatest

    def _check_epsilon(self) -> None:
        for count in CHECKED_COUNTS:
            if not 0 <= (value := self.epsilon(count)) <= 1:
                raise ConfigError(
                    f"data.epsilon: must lie in [0, 1], is {value} at environment step {count}"
                )
        if not 0 <= self.eval_epsilon <= 1:
            raise ConfigError(f"data.eval_epsilon: must lie in [0, 1], got {self.eval_epsilon}")

    def _check_capacity(self) -> None:
        slots = self.capacity // self.num_envs
        window = self.greatest_n_step + self.frame_stack + 1
        if slots < window:
            raise ConfigError(
                f"data.capacity: {self.capacity} rows are {slots} steps of each of "
                f"{self.num_envs} environments; n_step {self.greatest_n_step} with frame_stack "
                f"{self.frame_stack} needs {window}, so at least {window * self.num_envs}"
            )
        # Episodes of one step leave every other row a boundary row; more can always be drawn.
        always = 1 + (slots - window) // 2
        batch_size = self.rhythm.batch_size
        if not self.sampler.replacement and batch_size > always * self.num_envs:
            needed = (2 * (-(-batch_size // self.num_envs) - 1) + window) * self.num_envs
            raise ConfigError(
                f"data.batch_size: {batch_size} rows without replacement cannot always be drawn "
                f"from a replay of data.capacity {self.capacity}; it takes {needed}"
            )
        if batch_size > self.capacity:
            raise ConfigError(
                f"data.batch_size: {batch_size} is more than data.capacity {self.capacity}"
            )


class _Items:
    """Items that Lightning takes as batches one by one (a list it would take as loaders)."""

    def __init__(self, items: Sequence[Any]) -> None:
        self._items = items

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._items)


def _int31(seed: np.random.SeedSequence) -> int:
    return int(seed.generate_state(1)[0] >> 1)


def _readable(num_bytes: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.3g} TB"
