"""LightningModule that trains, evaluates and saves a deep Q-network."""

import copy
from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from numpy.typing import NDArray
from torch import Tensor

from dqn_lightning import distributed
from dqn_lightning.checkpointing.format import KEY, module_state, read_module_state
from dqn_lightning.checkpointing.optimizer_settings import apply_changed_settings, only_plain
from dqn_lightning.engines import EngineName, GradTransform, RebuildingEngine, check_device
from dqn_lightning.engines.contexts import update_context
from dqn_lightning.engines.optimizers import make_optimizer
from dqn_lightning.errors import ConfigError
from dqn_lightning.interaction.evaluation import Evaluation, EvaluationResult
from dqn_lightning.interaction.metrics import EvaluationMetrics
from dqn_lightning.interaction.prediction import predict_episode
from dqn_lightning.interaction.rollouts import Rollout
from dqn_lightning.internals import lightning as lightning_internals
from dqn_lightning.internals.lightning import is_fitting
from dqn_lightning.loggers.running_means import RunningMeans, check_finite
from dqn_lightning.losses import DQN, Objective
from dqn_lightning.losses.compatibility import check_n_step, check_objective, choose_head
from dqn_lightning.networks import MLP, QNetwork
from dqn_lightning.networks.acting import greedy_policy
from dqn_lightning.networks.layers import persistent_buffers
from dqn_lightning.networks.q_network import HeadFactory
from dqn_lightning.networks.torsos import TorsoFactory
from dqn_lightning.types import Batch, Clock, Observations, Policy, QValues, RunProgress


class DQNModule(LightningModule):
    """LightningModule that trains a deep Q-network on rollouts.

    Each Lightning batch is a rollout of many environment steps and updates. To run code during a
    rollout, append functions to `grad_transforms` or `after_update`.

    Args:
        obs_shape: Shape of one observation with stacked frames, without batch axis.
        num_actions: Number of actions A.
        obs_classes: Number of classes for each element of a discrete observation; else null.
        network: Factory that builds the torso (feature extractor) from the input shape.
        head: Factory that builds the head from the numbers of features and actions; null for the
            objective's default head.
        objective: Function that computes the loss; null for `DQN()`.
        dueling: Whether the head estimates value and advantages separately (Wang et al. 2016).
        noisy: Whether linear layers are noisy (Fortunato et al. 2018). The noise provides
            exploration, so epsilon can be 0.
        noisy_sigma: Initial noise scale before division by the square root of a layer's input size.
        optimizer: Function that returns the optimizer for the given parameters.
        lr_scheduler: Function that returns an LR scheduler for the optimizer; null for no schedule.
        act_in_train_mode: Whether the network chooses training actions in training mode, as in the
            PyTorch tutorial; batch normalization then also updates its statistics while acting.
        act_with_target: Whether the target network chooses actions in training and evaluation. With
            Polyak averaging, this policy is more stable (D'Oro et al. 2023; Schwarzer et al. 2023).
        engine: How updates are run: `eager`; `recorded` replays recorded operations on the CPU,
            bypassing autograd and modules; `cudagraph` replays CUDA graphs on the GPU; `auto`
            selects the fastest engine that supports the update.

    Attributes:
        online: Network that is trained.
        target: Network that computes the targets.
        progress: Counts of steps and episodes; shared with the datamodule during training.
        evaluation_metrics: Metrics for evaluations and tests; add custom metrics with `add`.
        summary: Result of the latest evaluation; None if there is none or it was stopped early.
        updating_s: Total time spent on updates, in seconds.
        grad_transforms: Pure functions that map a list of gradients, one tensor per parameter, to a
            list of new gradients; applied in turn before each optimizer step.
        after_update: Functions called with the `Clock` after each update, and also before an update
            that follows environment steps.

    Raises:
        ConfigError: If settings are mutually exclusive, the head does not match the objective, or
            the torso does not return features [B, D].
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
        if noisy_sigma <= 0:
            raise ConfigError(f"model.noisy_sigma: must be positive, got {noisy_sigma}")
        if act_in_train_mode and act_with_target:
            raise ConfigError("model.act_in_train_mode: excludes model.act_with_target")
        self.objective = objective or DQN()
        make_head = choose_head(head, self.objective, dueling)
        sigma = noisy_sigma if noisy else None
        self.online = QNetwork(obs_shape, num_actions, network, make_head, obs_classes, sigma)
        self.target = copy.deepcopy(self.online).requires_grad_(False)
        check_objective(self.objective, self.target, torch.zeros(1, *obs_shape))
        self.grad_transforms: list[GradTransform] = []
        self.after_update: list[Callable[[Clock], None]] = []
        self._make_optimizer = optimizer
        self._make_lr_scheduler = lr_scheduler
        self.act_in_train_mode = act_in_train_mode
        self.act_with_target = act_with_target
        self.engine: EngineName = engine
        self.progress = RunProgress()
        self._means = RunningMeans("train/loss", "train/td_error")
        self._saved_optimizer_settings: dict[str, Any] = {}
        self.evaluation_metrics = EvaluationMetrics()
        self.summary: EvaluationResult | None = None
        self.updating_s = 0.0

    # Acting -------------------------------------------------------------------------------------

    @property
    def acting_network(self) -> QNetwork:
        """Network that chooses actions: `target` if `act_with_target` is true, else `online`."""
        return self.target if self.act_with_target else self.online

    def forward(self, obs: Tensor) -> Any:
        """Return the head's output, which includes `q_values` [B, A], for observations [B, …]."""
        return self.acting_network(obs)

    def q_values(self, obs: Tensor) -> Tensor:
        """Return action values [N, A] for observations [N, …], computed in evaluation mode."""
        self.acting_network.set_mode(training=False)
        with torch.inference_mode():
            output: QValues = self.acting_network(obs.to(self.device))
        return output.q_values

    def act(self, obs: Tensor) -> Tensor:
        """Return int64 greedy actions [N] for observations [N, …]."""
        return self.q_values(obs).argmax(dim=1)

    def greedy_actions(self, obs: Observations) -> NDArray[np.int64]:
        """Return greedy actions [N] for an array or tensor of observations [N, …]."""
        return self.act(torch.as_tensor(obs)).numpy(force=True)

    # Learning -----------------------------------------------------------------------------------

    def configure_optimizers(self) -> Any:
        """Return the optimizer and, if one is configured, the learning-rate scheduler."""
        parameters = self.online.parameters()
        return make_optimizer(parameters, self._make_optimizer, self._make_lr_scheduler)

    def setup(self, stage: str) -> None:
        """Reject unsupported settings (`ConfigError`); if `stage` is "fit", also reset progress."""
        lightning_internals.check_trainer(self.trainer)
        device = self.trainer.strategy.root_device
        check_device(self.engine, device)
        data = getattr(self.trainer, "datamodule", None)
        check_n_step(self.objective, getattr(data, "max_n_step", 1))
        self.rng = torch.Generator(device).manual_seed(torch.initial_seed())  # differs by rank
        if stage == "fit":
            lightning_internals.check_hooks(self, DQNModule)
            lightning_internals.start_new_run(self.trainer)
            self.progress = getattr(data, "progress", None) or RunProgress()
            self._means.reset()
            self._saved_optimizer_settings = {}
            self.summary = None
            self.updating_s = 0.0

    def on_train_start(self) -> None:
        """Build the engine and policy; Lightning calls this hook after it restores a checkpoint."""
        lightning_internals.evaluate_after_this_batch(self.trainer, False)
        lightning_internals.set_global_step(self.trainer, self.progress.grad_steps)
        if not self.after_update:
            rank_zero_warn("nothing updates the target network: add a TargetSync callback")
        lightning_internals.keep_buffers_per_rank(self.trainer)
        for network in (self.online, self.target):
            network.refresh_layer_cache()  # `sync_batchnorm` replaces layers
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, torch.optim.Optimizer)
        self._optimizer = optimizer
        self._means.to(self.device)
        apply_changed_settings(optimizer, self.lr_schedulers(), self._saved_optimizer_settings)
        parts = (self.online, self.target, self.objective, optimizer, self.grad_transforms)
        self._engine = RebuildingEngine(self.engine, self.device, *parts)
        self._build_policy()
        rank_zero_info(f"engine: {self._engine.name}, threads: {torch.get_num_threads()}")

    def on_train_end(self) -> None:
        """Release the engine, optimizer and policy, which hold references to the parameters."""
        self._engine.close()
        del self._engine, self._optimizer, self._policy

    def _build_policy(self) -> None:
        """Build the training policy, which calls `act` only if a subclass overrides `act`."""
        self._policy: Policy = self.greedy_actions
        if type(self).act is DQNModule.act:
            self._policy = greedy_policy(self.acting_network, self.act_in_train_mode, self.rng)

    def training_step(self, rollout: Rollout, batch_idx: int) -> None:
        """Run a rollout, and perform one update for each batch that the rollout yields.

        Raises:
            NonFiniteError: If the logged loss or TD error is NaN or infinite.
        """
        if self._engine.rebuild_if_replaced():
            self._build_policy()
        progress = rollout.progress
        scheduler: Any = self.lr_schedulers()
        trainer, policy = self.trainer, self._policy
        log_every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        count_grad_step = lightning_internals.grad_step_counter(trainer)
        if self.act_in_train_mode and distributed.world_size() == 1:  # syncs may be collectives
            policy = partial(self._notify_and_act, rollout)
        with update_context():
            for batch in rollout(policy):
                if rollout.update_due_at != progress.notified_env_steps:  # environments stepped
                    self._notify(progress.clock_before(rollout.update_due_at))
                    progress.notified_env_steps = rollout.update_due_at
                self._update(batch, rollout)
                progress.grad_steps += 1
                count_grad_step()
                if scheduler is not None:
                    scheduler.step()
                self._notify(Clock(rollout.update_due_at, progress.episodes, progress.grad_steps))
                if log_every and progress.grad_steps % log_every == 0:
                    self._log_means(rollout)
                if progress.grad_steps == trainer.max_steps:
                    break
        self._engine.remember_tensors()  # the first update creates the optimizer's state
        lightning_internals.set_logging_step(trainer, rollout.end)

    def _update(self, batch: Batch, rollout: Rollout) -> None:
        noise = self.online.sample_update_noise(len(batch.row), self.rng)
        started = perf_counter()
        output = self._engine.update(batch.to(self.device), noise)
        self.updating_s += perf_counter() - started
        if rollout.has_priorities:
            rollout.set_priorities(batch.row, output.priority)
        self._means.update(output.loss, output.priority)

    def on_train_batch_end(self, outputs: Any, batch: Rollout, batch_idx: int) -> None:
        """Schedule an evaluation after this rollout if, and only if, an evaluation is due."""
        lightning_internals.evaluate_after_this_batch(self.trainer, batch.evaluation_due)

    def log_metrics(self, values: dict[str, float], env_steps: int) -> None:
        """Log metric values to every logger, with environment steps as the x axis."""
        for logger in self.trainer.loggers:
            logger.log_metrics(values, step=env_steps)

    def _notify_and_act(self, rollout: Rollout, obs: Observations) -> NDArray[np.int64]:
        """Call `after_update` functions, then act, which changes buffers in training mode."""
        self._notify(rollout.progress.clock)
        return self._policy(obs)

    def _notify(self, clock: Clock) -> None:
        for call in self.after_update:
            call(clock)

    def _log_means(self, rollout: Rollout) -> None:
        values = self._means.compute()
        env_steps, grad_steps = rollout.progress.env_steps, rollout.progress.grad_steps
        check_finite(values, f"update {grad_steps}, environment step {env_steps}")
        values["train/epsilon"] = rollout.epsilon
        values["train/learning_rate"] = float(self._optimizer.param_groups[0]["lr"])
        self.log_metrics(values, env_steps)

    # Evaluating ---------------------------------------------------------------------------------

    def validation_step(self, evaluation: Evaluation, batch_idx: int) -> None:
        """Run an evaluation, and log its metrics as `eval/…`."""
        values = self._evaluate(evaluation, "eval")  # empty if it was stopped
        if values and self.evaluates_training:
            self.progress.evaluation_pending = False
            self.log_metrics(values, self.progress.env_steps)

    def test_step(self, evaluation: Evaluation, batch_idx: int) -> None:
        """Run a test, and log its metrics as `test/…`."""
        self._evaluate(evaluation, "test")

    def predict_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """Return a dict with `action` [L] and `q_values` [L, A] for observations [L, …].

        If the batch is an `Evaluation`, its single episode is run. The dict then describes the L
        steps of the episode, and also contains `obs` [L, …], `episode_return` and `cut_short`.
        """
        if isinstance(batch, Evaluation):
            return predict_episode(batch, self.q_values)
        q_values = self.q_values(batch)
        return {"action": q_values.argmax(dim=1), "q_values": q_values}

    def _evaluate(self, evaluation: Evaluation, prefix: str) -> dict[str, float]:
        buffers = persistent_buffers(self.acting_network).values()
        with distributed.values_of_rank_zero(buffers):  # the ones in a checkpoint
            episodes = evaluation(self.greedy_actions)
        if len(episodes) < evaluation.episodes:  # the evaluation was stopped
            self.summary = None
            return {}
        self.evaluation_metrics.reset()
        self.evaluation_metrics.update(episodes)
        self.summary = self.evaluation_metrics.result()
        values = {f"{prefix}/{k}": v for k, v in self.evaluation_metrics.compute().items()}
        # While fitting, `log_metrics` writes to the loggers: Lightning's x axis counts batches.
        with lightning_internals.ignored_warnings([".*no logger configured.*"]):
            self.log_dict(values, logger=not is_fitting(self), on_epoch=True, batch_size=1)
        return values

    @property
    def evaluates_training(self) -> bool:
        """Whether the current evaluation is part of training and is not a sanity check."""
        return is_fitting(self) and not self.trainer.sanity_checking

    # Saving -------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store progress, metric sums, optimizer settings, and hyperparameters of plain types."""
        checkpoint[KEY] = module_state(self.progress, self._means, self.trainer.optimizers)
        # Older Lightning leaves out values that its command line linked from the datamodule.
        hyperparameters = {**checkpoint.get("hyper_parameters", {}), **self._spaces}
        checkpoint["hyper_parameters"] = only_plain(hyperparameters)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore progress, metric sums and optimizer settings.

        Raises:
            ConfigError: If the checkpoint's format is unsupported, or training would continue with
                a different optimizer.
        """
        parameters = self.online.parameters()
        optimizer = self._make_optimizer(parameters) if is_fitting(self) else None
        state = read_module_state(checkpoint, optimizer)
        self.progress.load_state_dict(state["progress"])
        self._means.load_state_dict(state["means"])
        self._saved_optimizer_settings = state.get("optimizer_settings", {})
