"""Logs what tells a healthy run from a sick one."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, Trainer
from numpy.typing import NDArray

from dqn_lightning import health, ranks
from dqn_lightning.datamodule import DQNDataModule
from dqn_lightning.errors import ConfigError
from dqn_lightning.evaluation import Evaluation
from dqn_lightning.losses.functional import unrescale
from dqn_lightning.module import DQNModule
from dqn_lightning.replay import ReplayBuffer
from dqn_lightning.types import Batch

_NEGLIGIBLE = 0.01
"""Weight of what came after the end of an evaluation, up to which a return counts as whole."""


class Health(Callback):
    """Logs `health/…` at every evaluation; `docs/health.md` says how to read them.

    Of the states that the evaluation came through: their greatest action values, the discounted
    returns that followed, dormant units, the rank of the features. Of the replay: how old the rows
    are that it draws, and how far from equal their chances. Of the weights: the gradient, and how
    far the target is behind. Nothing is drawn at random and nothing is changed, so the run is the
    same without it. Where there are several ranks, they are those of rank 0.

    Args:
        num_states: States to look at, at the most, and rows for the gradient; 0 for no health.

    Raises:
        ConfigError: If it is negative.
    """

    def __init__(self, num_states: int = 512) -> None:
        if num_states < 0:
            raise ConfigError(f"health.num_states: must not be negative, got {num_states}")
        self.num_states = num_states
        self._visited: health.VisitedStates | None = None

    def on_validation_batch_start(
        self,
        trainer: Trainer,
        pl_module: DQNModule,
        batch: Evaluation,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Have the evaluation tell what it comes through."""
        if self.num_states and pl_module.evaluates_training and trainer.is_global_zero:
            self._visited = health.VisitedStates(self.num_states)
            batch.on_step = self._visited.record

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: DQNModule,
        outputs: Any,
        batch: Evaluation,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Measure and log, unless the evaluation was stopped."""
        visited, self._visited = self._visited, None
        if visited is None or pl_module.summary is None:
            return
        datamodule: DQNDataModule = trainer.datamodule
        assert datamodule.dataset is not None
        replay = datamodule.dataset.collector.replay
        with torch.inference_mode(False):  # an evaluation's, whose tensors have no gradients
            values = dict(_of_states(pl_module, visited, replay.gamma))
            chances = replay.chances()
            if (rows := np.flatnonzero(chances) + replay.rows.start).size:
                values |= _of_replay(replay, chances)
                rows = _evenly(rows, self.num_states)
                values["gradient_norm"] = _of_gradient(pl_module, replay, rows)
            distance = health.relative_distance(pl_module.online, pl_module.target)
            values["target_distance"] = distance
        named = {f"health/{name}": value for name, value in values.items()}
        pl_module.log_metrics(named, pl_module.clock.env_steps)


def _of_states(
    module: DQNModule, visited: health.VisitedStates, gamma: float
) -> Iterator[tuple[str, float]]:
    obs, returns, tails = visited.finish(gamma)
    if not len(obs):
        return
    output, activations, features = health.look_inside(module.online, obs.to(module.device))
    q_values = output.q_values.amax(1)
    if getattr(module.objective, "rescaled", False):
        q_values = unrescale(q_values)
    q_values = q_values.double().numpy(force=True)
    yield "q_max", float(q_values.max())
    is_whole = tails <= _NEGLIGIBLE
    if is_whole.any():
        yield "q_mean", float(q_values[is_whole].mean())
        yield "return_mean", float(returns[is_whole].mean())
        yield "overestimation", float((q_values - returns)[is_whole].mean())
    if activations:
        yield "dormant_share", health.dormant_share(activations)
    yield "effective_rank", health.effective_rank(features)


def _of_replay(replay: ReplayBuffer, chances: NDArray[np.float64]) -> Iterator[tuple[str, float]]:
    ages = np.arange(len(chances), 0, -1) * ranks.count()
    yield "row_age_mean", float(chances @ ages)
    if replay.has_priorities:
        yield "priority_entropy", health.normalized_entropy(chances)


def _of_gradient(module: DQNModule, replay: ReplayBuffer, rows: NDArray[np.int64]) -> float:
    batch = Batch(*(column.to(module.device) for column in replay.gather(rows)))
    draws = module.online.draws(len(rows), torch.Generator(module.device).manual_seed(0))
    return health.gradient_norm(module.online, module.target, module.objective, batch, draws)


def _evenly(rows: NDArray[np.int64], number: int) -> NDArray[np.int64]:
    """At most so many of them."""
    return rows[np.linspace(0, len(rows) - 1, min(number, len(rows))).astype(np.int64)]
