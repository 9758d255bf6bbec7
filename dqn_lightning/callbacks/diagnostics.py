"""Callback that logs metrics that help to diagnose problems in training."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, Trainer
from numpy.typing import NDArray

from dqn_lightning import distributed
from dqn_lightning.analysis import diagnostics
from dqn_lightning.datamodule import DQNDataModule
from dqn_lightning.errors import ConfigError
from dqn_lightning.interaction.evaluation import Evaluation
from dqn_lightning.losses.functional import unrescale
from dqn_lightning.module import DQNModule
from dqn_lightning.replay import ReplayBuffer
from dqn_lightning.types import Batch

_MAX_MISSING_DISCOUNT = 0.01
"""Maximum tail discount of a return that counts as complete (see `ReturnsToGo`)."""


class Diagnostics(Callback):
    """Callback that logs `diagnostics/…` metrics at every evaluation during training.

    The metrics, which are explained in `docs/diagnostics.md`, cover three areas:

    - states visited during the evaluation: highest action value of each state, observed discounted
      returns, share of dormant units, and effective rank of the features,
    - the replay: mean age of the sampled rows (stored steps) in environment steps, and entropy of
      the priorities,
    - the weights: gradient norm, and distance between the online and the target network.

    The computation consumes no global random numbers and changes no state, so it does not affect
    the run. With several ranks, only rank 0 computes the metrics.

    Args:
        num_states: Maximum number of visited states to analyze, and maximum number of replay rows
            for which the gradient norm is computed; 0 disables the diagnostics.

    Raises:
        ConfigError: If `num_states` is negative.
    """

    def __init__(self, num_states: int = 512) -> None:
        if num_states < 0:
            raise ConfigError(f"diagnostics.num_states: must not be negative, got {num_states}")
        self.num_states = num_states
        self._recorder: diagnostics.StateRecorder | None = None

    def setup(self, trainer: Trainer, pl_module: DQNModule, stage: str) -> None:
        """Discard states that were recorded during an earlier, interrupted evaluation."""
        self._recorder = None

    def on_validation_batch_start(
        self,
        trainer: Trainer,
        pl_module: DQNModule,
        batch: Evaluation,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Start recording the states visited during the evaluation."""
        if self.num_states and pl_module.evaluates_training and trainer.is_global_zero:
            self._recorder = diagnostics.StateRecorder(self.num_states)
            batch.on_step = self._recorder.record

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: DQNModule,
        outputs: Any,
        batch: Evaluation,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Compute and log the metrics, unless the evaluation was stopped early."""
        recorder, self._recorder = self._recorder, None
        if recorder is None or pl_module.summary is None:
            return
        datamodule: DQNDataModule = trainer.datamodule
        assert datamodule.dataset is not None
        replay = datamodule.dataset.collector.replay
        with torch.inference_mode(False):  # the gradient norm needs autograd
            values = dict(_state_metrics(pl_module, recorder, replay.gamma))
            probabilities = replay.probabilities()
            if (rows := np.flatnonzero(probabilities) + replay.rows.start).size:
                values |= _replay_metrics(replay, probabilities)
                rows = _evenly_spaced(rows, self.num_states)
                values["gradient_norm"] = _gradient_norm(pl_module, replay, rows)
            distance = diagnostics.relative_distance(pl_module.online, pl_module.target)
            values["target_distance"] = distance
        prefixed = {f"diagnostics/{name}": value for name, value in values.items()}
        pl_module.log_metrics(prefixed, pl_module.progress.env_steps)


def _state_metrics(
    module: DQNModule, recorder: diagnostics.StateRecorder, gamma: float
) -> Iterator[tuple[str, float]]:
    obs, returns, tails = recorder.finish(gamma)
    if not len(obs):
        return
    output, activations, features = diagnostics.forward_with_activations(
        module.online, obs.to(module.device)
    )
    q_values = output.q_values.amax(1)
    if getattr(module.objective, "rescaled", False):
        q_values = unrescale(q_values)
    q_values = q_values.double().numpy(force=True)
    yield "q_max", float(q_values.max())
    is_complete = tails <= _MAX_MISSING_DISCOUNT
    if is_complete.any():
        yield "q_mean", float(q_values[is_complete].mean())
        yield "return_mean", float(returns[is_complete].mean())
        yield "overestimation", float((q_values - returns)[is_complete].mean())
    if activations:
        yield "dormant_share", diagnostics.dormant_share(activations)
    yield "effective_rank", diagnostics.effective_rank(features)


def _replay_metrics(
    replay: ReplayBuffer, probabilities: NDArray[np.float64]
) -> Iterator[tuple[str, float]]:
    ages = np.arange(len(probabilities), 0, -1) * distributed.world_size()
    yield "row_age_mean", float(probabilities @ ages)
    if replay.has_priorities:
        yield "priority_entropy", diagnostics.normalized_entropy(probabilities)


def _gradient_norm(module: DQNModule, replay: ReplayBuffer, rows: NDArray[np.int64]) -> float:
    batch = Batch(*(column.to(module.device) for column in replay.gather(rows)))
    noise = module.online.sample_update_noise(
        len(rows), torch.Generator(module.device).manual_seed(0)
    )
    return diagnostics.gradient_norm(module.online, module.target, module.objective, batch, noise)


def _evenly_spaced(rows: NDArray[np.int64], number: int) -> NDArray[np.int64]:
    """Return at most `number` evenly spaced elements of an array of row indices."""
    return rows[np.linspace(0, len(rows) - 1, min(number, len(rows))).astype(np.int64)]
