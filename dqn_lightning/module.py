"""The LightningModule: online and target network, objective, updates."""

import copy
import inspect
import math
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from time import perf_counter
from typing import Any, TypeAlias

import numpy as np
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from dqn_lightning import ranks
from dqn_lightning.dataset import Rollout
from dqn_lightning.engines import EngineName, GradTransform, check_device, make_engine
from dqn_lightning.errors import ConfigError, NonFiniteError
from dqn_lightning.evaluation import Evaluation, Summary, summarize
from dqn_lightning.losses import DQN, Objective, ObjectiveOutput
from dqn_lightning.networks import MLP, QNetwork, ValueHead
from dqn_lightning.networks.acting import greedy_policy
from dqn_lightning.networks.layers import statistics
from dqn_lightning.networks.q_network import HeadFactory
from dqn_lightning.networks.torsos import TorsoFactory
from dqn_lightning.types import Act, Batch, Clock, Observations, QValues

AfterUpdate: TypeAlias = Callable[[Clock], None]
"""Called after each update, and once more before the next if the environments have stepped on."""


_NVML_CHECK = "PYTORCH_NVML_BASED_CUDA_CHECK"

NO_16_MIXED = (
    "trainer.precision: 16-mixed needs its loss scaled, which updates inside a rollout do not do; "
    "use bf16-mixed"
)


class DQNModule(LightningModule):
    """A deep Q-network that learns from rollouts.

    Two lists are where callbacks attach to what happens inside a rollout, because Lightning's own
    hooks run once per rollout: `grad_transforms`, pure functions of the gradients before each
    optimiser step, and `after_update`, called with the clock between updates.

    Args:
        obs_shape: Shape of an observation, stack included.
        num_actions: Number of actions A.
        obs_classes: Number of classes of each element of a discrete observation, else None.
        network: Makes the torso: shape of an observation → module that makes features.
        head: Makes the head: number of features, number of actions → module that makes values. The
            objective brings its own if None.
        objective: What an update makes smaller; `DQN()` if None.
        dueling: Whether the head is that of a dueling network (Wang et al. 2016).
        noisy: Whether all linear layers are noisy (Fortunato et al. 2018), which explores: an
            `epsilon` of 0 goes with it.
        noisy_sigma: Size of that noise at the start, divided by the root of a layer's inputs.
        optimizer: Makes the optimiser of the online network's parameters.
        lr_scheduler: Makes a learning-rate schedule, stepped after every update.
        act_in_train_mode: Whether the network stays in training mode while it acts in training, as
            in the PyTorch tutorial: batch normalisation then takes the statistics of the
            observations it acts on, and learns from them. Evaluations are not concerned.
        act_with_target: Whether the target network acts, in training and in evaluations. Where it
            follows by Polyak's averaging, its policy is the steadier one (D'Oro et al. 2023;
            Schwarzer et al. 2023).
        engine: How updates are executed: `eager` operation by operation, `traced` as a recording of
            the same operations without autograd and modules (CPU), `cudagraph` as one CUDA graph;
            `auto` is the fastest for the device that can.

    Raises:
        ValueError: If the network does not make features.
        ConfigError: If the head is none for the objective, or the target network would have to act
            in training mode.
    """

    def __init__(
        self,
        obs_shape: Sequence[int],
        num_actions: int,
        obs_classes: Sequence[int] | None = None,
        network: TorsoFactory = MLP,
        head: HeadFactory | None = None,
        objective: Objective | None = None,
        dueling: bool = False,
        noisy: bool = False,
        noisy_sigma: float = 0.5,
        optimizer: OptimizerCallable = torch.optim.Adam,
        lr_scheduler: LRSchedulerCallable | None = None,
        act_in_train_mode: bool = False,
        act_with_target: bool = False,
        engine: EngineName = "auto",
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self._spaces = {
            "obs_shape": tuple(obs_shape),
            "num_actions": num_actions,
            "obs_classes": None if obs_classes is None else tuple(obs_classes),
        }
        self.automatic_optimization = False
        self.objective = objective or DQN()
        make_head: Any = head or getattr(self.objective, "head", ValueHead)
        if dueling and not _takes(make_head, 1, 2, dueling=True):
            raise ConfigError(f"model.dueling: the head {make_head} does not know it")
        if dueling:
            make_head = partial(make_head, dueling=True)
        if noisy_sigma <= 0:
            raise ConfigError(f"model.noisy_sigma: must be positive, got {noisy_sigma}")
        sigma = noisy_sigma if noisy else None
        self.online = QNetwork(obs_shape, num_actions, network, make_head, obs_classes, sigma)
        self.target = copy.deepcopy(self.online).requires_grad_(False)
        self._check_objective(torch.zeros(1, *obs_shape))
        self.grad_transforms: list[GradTransform] = []
        self.after_update: list[AfterUpdate] = []
        self._make_optimizer = optimizer
        self._make_lr_scheduler = lr_scheduler
        if act_in_train_mode and act_with_target:
            raise ConfigError("model.act_in_train_mode: is for the online network, not the target")
        self.act_in_train_mode = act_in_train_mode
        self.act_with_target = act_with_target
        self.engine: EngineName = engine
        self.clock = Clock(0, 0, 0)  # where the run stood when this module last learned
        self._told = 0  # environment steps that `after_update` has heard of
        self._means = _Means()
        self._configured: dict[str, Any] | None = None  # the optimiser's settings, when it saved
        self.summary: Summary | None = None  # of the newest evaluation
        self.updating_s = 0.0  # seconds that updates have taken

    def _check_objective(self, obs: Tensor) -> None:
        objective = type(self.objective).__name__
        if self.online.is_random and not _takes(self.objective, 1, 2, 3, 4):
            raise ConfigError(
                f"model.objective: {objective} would learn without the network's noise; a fourth "
                "argument gives it `Draws`"
            )
        wanted = getattr(self.objective, "output", None)
        if wanted is None:
            return
        with torch.no_grad():  # by the target's copy, for layers may count what they see
            output = copy.deepcopy(self.target).eval()(obs)
        if not isinstance(output, wanted):
            head = type(self.online.head).__name__
            raise ConfigError(
                f"model.head: {head} makes {type(output).__name__}, the objective {objective} "
                f"needs {wanted.__name__}; leave model.head out and it brings one"
            )

    def _check_n_step(self) -> None:
        greatest = getattr(self.objective, "max_n_step", None)
        n_step = getattr(getattr(self.trainer, "datamodule", None), "greatest_n_step", 1)
        if greatest is not None and n_step > greatest:
            raise ConfigError(
                f"data.n_step: the objective is for returns of at most {greatest}, got {n_step} "
                "(munchausen is for 1)"
            )

    # Acting -------------------------------------------------------------------------------------

    @property
    def acting(self) -> QNetwork:
        """The network that acts."""
        return self.target if self.act_with_target else self.online

    def forward(self, obs: Tensor) -> Any:
        """Observations [B, …] → the head's output, always with `q_values` [B, A]."""
        return self.acting(obs)

    def q_values(self, obs: Tensor) -> Tensor:
        """Action values [N, A] for observations [N, …], as the actor sees them."""
        self.acting.switch(training=False)
        with torch.inference_mode():
            output: QValues = self.acting(obs.to(self.device))
        return output.q_values

    def act(self, obs: Tensor) -> Tensor:
        """Greedy actions [N], int64, for observations [N, …]."""
        return self.q_values(obs).argmax(dim=1)

    def greedy_actions(self, obs: Observations) -> NDArray[np.int64]:
        """What `act` gives, for observations as the replay holds them."""
        return self.act(torch.as_tensor(obs)).numpy(force=True)

    # Learning -----------------------------------------------------------------------------------

    def configure_optimizers(self) -> Any:
        """The optimiser, and its schedule if there is one."""
        try:
            optimizer = self._make_optimizer(self.online.parameters())
        except ValueError as error:
            raise ConfigError(f"model.optimizer: {error}") from error
        if self._make_lr_scheduler is None:
            return optimizer
        scheduler = self._make_lr_scheduler(optimizer)
        if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            raise ConfigError(
                "model.lr_scheduler: ReduceLROnPlateau waits for a metric, but schedules are "
                "stepped after every update; use one that counts steps"
            )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler}}

    def setup(self, stage: str) -> None:
        """Refuse what manual optimisation cannot honour."""
        if self.trainer.precision == "16-mixed":
            raise ConfigError(NO_16_MIXED)
        if self.trainer.world_size > 1 and not isinstance(self.trainer.strategy, DDPStrategy):
            raise ConfigError(
                f"trainer.strategy: {type(self.trainer.strategy).__name__} splits up a network or "
                "its batch, which rollouts do not; use ddp"
            )
        strategy: Any = self.trainer.strategy
        if getattr(strategy, "_layer_sync", None) and strategy.root_device.type == "cpu":
            raise ConfigError("trainer.sync_batchnorm: PyTorch has it for GPUs only")
        check_device(self.engine, strategy.root_device)
        self._check_n_step()
        self.rng = torch.Generator(strategy.root_device)
        self.rng.manual_seed(torch.initial_seed())
        # Evaluations are gathered before they are logged: all ranks log the same values.
        warnings.filterwarnings("ignore", r".*`self.log\('(eval|test)/.*sync_dist=True.*")

    def on_train_start(self) -> None:
        """Build the engine, now that callbacks have attached and state is restored."""
        self.trainer.val_check_batch = float("inf")  # see on_train_batch_end
        if not self.after_update:
            warnings.warn(
                "nothing updates the target network: add a TargetSync callback", stacklevel=2
            )
        if isinstance(wrapped := self.trainer.strategy.model, DistributedDataParallel):
            wrapped.broadcast_buffers = False  # statistics are a rank's own
        for network in (self.online, self.target):
            network.list_layers()  # Lightning may have exchanged some, for `sync_batchnorm`
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, torch.optim.Optimizer)
        self._means.move(self.device)  # a checkpoint's lie on the CPU
        if self._configured is not None:
            _change_settings(optimizer, self.lr_schedulers(), self._configured)
        self._optimizer = optimizer
        self._build()
        threads = torch.get_num_threads()
        plural = "s" if threads > 1 else ""
        rank_zero_info(f"updates: engine {self._engine.name}, {threads} thread{plural}")

    def on_train_end(self) -> None:
        """Put the environment back in order, and let go of what holds the parameters."""
        self._engine.close()
        del self._engine, self._optimizer, self._policy

    def _build(self) -> None:
        """Make what holds on to the networks' memory: the engine, and the policy that acts."""
        parts = (self.online, self.target, self.objective, self._optimizer, self.grad_transforms)
        self._engine = make_engine(self.engine, self.device, *parts)
        self._policy: Act = self.greedy_actions
        if type(self).act is DQNModule.act:
            self._policy = greedy_policy(self.acting, self.act_in_train_mode, self.rng)
        self._held = self._memory()

    def _memory(self) -> tuple[Any, ...]:
        """Where layers, their hooks and all their values are; different if some were exchanged."""
        layers = [*self.online.modules(), *self.target.modules()]
        hooks = [(id(m), len(m._forward_hooks), len(m._forward_pre_hooks)) for m in layers]
        tensors: list[Tensor] = [*self.online.parameters(), *self.target.parameters()]
        tensors += [*self.online.buffers(), *self.target.buffers()]
        for state in self._optimizer.state.values():
            tensors += [value for value in state.values() if isinstance(value, Tensor)]
        return hooks, [tensor.data_ptr() for tensor in tensors]

    def training_step(self, rollout: Rollout, batch_idx: int) -> None:
        """Run a rollout: one update per batch that it streams.

        Raises:
            NonFiniteError: If the loss is NaN or infinite when values are logged.
        """
        if self._memory() != self._held:  # a callback has exchanged something
            self._engine.close()
            self._build()
        counter = self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
        scheduler: Any = self.lr_schedulers()
        device, grad_steps, told = self.device, self.global_step, self._told
        log_every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        policy = self._policy
        if self.act_in_train_mode and ranks.count() == 1:  # ranks meet at updates only
            policy = partial(self._notify_and_act, rollout)
        with _fresh_autocast(), _little_overhead():
            for batch in rollout(policy):
                if rollout.due != told:  # the environments have stepped on
                    self._notify(Clock(rollout.due - 1, rollout.episodes_before_step, grad_steps))
                    told = rollout.due
                draws = self.online.draws(len(batch.row), self.rng)
                started = perf_counter()
                output = self._engine.update(_on_device(batch, device), draws)
                self.updating_s += perf_counter() - started
                if rollout.has_priorities:
                    rollout.set_priorities(batch.row, output.priority)
                self._means.add(output)
                counter.increment_ready()
                counter.increment_completed()
                grad_steps += 1
                if scheduler is not None:
                    scheduler.step()
                self._notify(Clock(told, rollout.counts.episodes, grad_steps))
                if log_every and grad_steps % log_every == 0:
                    self._log_means(rollout)
                if grad_steps == self.trainer.max_steps:
                    break
        self._held = self._memory()  # the first update makes the optimiser's state
        self._told = told
        self.clock = Clock(*rollout.counts, grad_steps)
        # So what Lightning itself logs, as LearningRateMonitor does, has environment steps as its x
        # axis too. It numbers steps from 0, and adds 1 after the batch.
        self.trainer.fit_loop.epoch_loop._batches_that_stepped = rollout.end - 2

    def on_train_batch_end(self, outputs: Any, batch: Rollout, batch_idx: int) -> None:
        """Have Lightning evaluate now if, and only if, an evaluation is due."""
        self.trainer.val_check_batch = 1 if batch.evaluation_due else float("inf")

    def log_metrics(self, values: dict[str, float], env_steps: int) -> None:
        """Write values to every logger, with environment steps as the x axis."""
        for logger in self.trainer.loggers:
            logger.log_metrics(values, step=env_steps)

    def _notify_and_act(self, rollout: Rollout, obs: Observations) -> NDArray[np.int64]:
        """Act in training mode, which moves statistics: a sync that is due copies them before."""
        self._notify(Clock(*rollout.counts, self.global_step))
        return self._policy(obs)

    def _notify(self, clock: Clock) -> None:
        for call in self.after_update:
            call(clock)

    def _log_means(self, rollout: Rollout) -> None:
        values = self._means.take()  # host-device sync
        if not all(map(math.isfinite, values.values())):
            raise NonFiniteError(
                f"the loss is not finite at update {self.global_step}, environment step "
                f"{rollout.counts.env_steps}: {values}; a smaller learning rate "
                "(model.optimizer) or gradient_clamp may help"
            )
        values["train/epsilon"] = rollout.epsilon
        values["train/learning_rate"] = self._optimizer.param_groups[0]["lr"]
        self.log_metrics(values, rollout.counts.env_steps)

    # Evaluating ---------------------------------------------------------------------------------

    def validation_step(self, evaluation: Evaluation, batch_idx: int) -> None:
        """Play and log `eval/…`."""
        values = self._evaluate(evaluation, "eval")
        if values and self.evaluates_training:
            self.log_metrics(values, self.clock.env_steps)

    def test_step(self, evaluation: Evaluation, batch_idx: int) -> None:
        """Play and log `test/…`."""
        self._evaluate(evaluation, "test")

    def predict_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """Actions [L] and action values [L, A].

        For observations [L, …] as they are given; for an `Evaluation`, which must be of one
        episode, of each of its L steps, and the observations with them.
        """
        if not isinstance(batch, Evaluation):
            q_values = self.q_values(batch)
            return {"action": q_values.argmax(dim=1), "q_values": q_values}
        seen: list[Tensor] = []
        values: list[Tensor] = []

        def act(obs: Observations) -> NDArray[np.int64]:
            seen.append(torch.as_tensor(obs).clone())
            values.append(self.q_values(seen[-1]))
            return values[-1].argmax(dim=1).numpy(force=True)

        (episode,) = batch(act)
        q_values = torch.cat(values)
        return {
            "obs": torch.cat(seen),
            "action": q_values.argmax(dim=1),
            "q_values": q_values,
            "episode_return": torch.tensor(episode.episode_return),
        }

    def _evaluate(self, evaluation: Evaluation, prefix: str) -> dict[str, float]:
        with self._statistics_of_first():
            episodes = evaluation(self.greedy_actions)
        if len(episodes) < evaluation.episodes:  # it was stopped, and says nothing
            self.summary = None
            return {}
        self.summary = summarize(episodes)
        values = {f"{prefix}/{k}": float(value) for k, value in self.summary._asdict().items()}
        # During fit, Lightning's own logging would put its count of batches on the x axis.
        with warnings.catch_warnings():
            # Results of `trainer.test` are what was logged, so it must be, logger or none.
            warnings.filterwarnings("ignore", ".*no logger configured.*")
            self.log_dict(values, logger=not self._is_fitting, on_epoch=True, batch_size=1)
        return values

    @contextmanager
    def _statistics_of_first(self) -> Iterator[None]:
        """Have all ranks play with rank 0's statistics, which are those in a checkpoint."""
        buffers = list(statistics(self.acting).values()) if ranks.count() > 1 else []
        own = [buffer.clone() for buffer in buffers]
        ranks.copy_first(buffers)
        yield
        for buffer, value in zip(buffers, own, strict=True):
            buffer.copy_(value)

    @property
    def evaluates_training(self) -> bool:
        """Whether an evaluation that is on is one of a run that trains, and no sanity check."""
        return self._is_fitting and not self.trainer.sanity_checking

    @property
    def _is_fitting(self) -> bool:
        return self.trainer.state.fn == TrainerFn.FITTING

    # Saving -------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what is ours; of hyperparameters keep plain ones, for `weights_only=True` to load."""
        checkpoint["clock"] = list(self.clock)
        checkpoint["told"] = self._told
        checkpoint["means"] = self._means.state_dict()
        if self.trainer.optimizers:
            optimizer = self.trainer.optimizers[0]
            checkpoint["optimizer"] = type(optimizer).__name__
            checkpoint["optimizer_settings"] = _plain_settings(optimizer)
        hyper_parameters = checkpoint.get(self.CHECKPOINT_HYPER_PARAMS_KEY, {})
        plain = {name: value for name, value in hyper_parameters.items() if _is_plain(value)}
        # Older Lightning leaves out what its command line passed on from the data.
        checkpoint[self.CHECKPOINT_HYPER_PARAMS_KEY] = {**plain, **self._spaces}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on from there.

        Raises:
            ConfigError: If training would go on with another optimiser.
        """
        before = checkpoint.get("optimizer")
        if self._trainer is not None and self._is_fitting and before is not None:
            now = type(self._make_optimizer(self.online.parameters())).__name__
            if now != before:
                raise ConfigError(f"model.optimizer: the run was made with {before}, not {now}")
        self.clock = Clock(*checkpoint["clock"])
        self._told = checkpoint["told"]
        self._means.load_state_dict(checkpoint["means"])
        self._configured = checkpoint.get("optimizer_settings")


class _Means:
    """Sums over updates, row by row [B], on their device, until their means are asked for."""

    def __init__(self) -> None:
        self._sums: tuple[Tensor, Tensor] | None = None
        self._count = 0

    def add(self, output: ObjectiveOutput) -> None:
        if self._sums is None:
            self._sums = output.loss.clone(), output.priority.clone()
            self._count = 1
            return
        if len(self._sums[0]) != len(output.loss):  # the run goes on with another batch size
            loss, td_error = (sums.mean().repeat(len(output.loss)) for sums in self._sums)
            self._sums = loss, td_error
        loss, td_error = self._sums
        loss += output.loss
        td_error += output.priority
        self._count += 1

    def move(self, device: torch.device) -> None:
        if self._sums is not None:
            self._sums = self._sums[0].to(device), self._sums[1].to(device)

    def state_dict(self) -> dict[str, Any]:
        sums = None if self._sums is None else [sums.clone() for sums in self._sums]
        return {"sums": sums, "count": self._count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        sums = state["sums"]
        self._sums = None if sums is None else (sums[0], sums[1])
        self._count = state["count"]

    def take(self) -> dict[str, float]:
        assert self._sums is not None
        loss, td_error = (float(sums.mean()) / self._count for sums in self._sums)
        self._sums, self._count = None, 0
        return {"train/loss": loss, "train/td_error": td_error}


def _takes(function: Callable[..., Any], *args: Any, **kwargs: Any) -> bool:
    """Whether a function could be called with so many arguments, and these by name."""
    try:
        inspect.signature(function).bind(*args, **kwargs)
    except TypeError:
        return False
    return True


def _plain_settings(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """What the optimiser was made with."""
    return {name: value for name, value in optimizer.defaults.items() if _is_plain(value)}


def _change_settings(
    optimizer: torch.optim.Optimizer, scheduler: Any, before: dict[str, Any]
) -> None:
    """Give an optimiser that was restored the settings that were changed meanwhile."""
    for name, value in _plain_settings(optimizer).items():
        if before.get(name, value) == value:
            continue
        for group in optimizer.param_groups:
            if name != "lr" or not before["lr"]:
                group[name] = value
                continue
            group["lr"] *= value / before["lr"]  # it may have come some way down its schedule
            if "initial_lr" in group:
                group["initial_lr"] = value
        if name == "lr" and hasattr(scheduler, "base_lrs"):
            scheduler.base_lrs = [value for _ in scheduler.base_lrs]


def _on_device(batch: Batch, device: torch.device) -> Batch:
    if batch.obs.device == device:
        return batch
    if device.type == "cuda":
        batch = Batch(*(tensor.pin_memory() for tensor in batch))
    return Batch(*(tensor.to(device, non_blocking=True) for tensor in batch))


@contextmanager
def _little_overhead() -> Iterator[None]:
    """Have numpy take no more threads than PyTorch, and optimisers look for no GPU.

    Lightning has PyTorch ask the driver for GPUs in a way that is safe before processes fork. Every
    optimiser step asks, and where there is none the search takes 90 µs.
    """
    check = os.environ.pop(_NVML_CHECK, None)
    try:
        with _thread_pools().limit(limits=torch.get_num_threads(), user_api="blas"):
            yield
    finally:
        if check is not None:
            os.environ[_NVML_CHECK] = check


@cache
def _thread_pools() -> ThreadpoolController:
    return ThreadpoolController()


@contextmanager
def _fresh_autocast() -> Iterator[None]:
    """Autocast as it is set, but without its cache of weights, which change at every update."""
    device = "cuda" if torch.is_autocast_enabled("cuda") else "cpu"
    if not torch.is_autocast_enabled(device):
        yield
        return
    dtype = torch.get_autocast_dtype(device)
    with torch.autocast(device, dtype=dtype, cache_enabled=False):
        yield


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or type(value) in (bool, int, float, str)
