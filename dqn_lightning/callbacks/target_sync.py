"""Callback that updates the target network from the online network."""

from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from torch import nn

from dqn_lightning import distributed
from dqn_lightning.errors import ConfigError
from dqn_lightning.module import DQNModule
from dqn_lightning.types import Clock


class TargetSync(Callback):
    """Callback that periodically syncs the target network with the online network.

    A sync copies the online parameters to the target network (`tau` = 1), or moves the target
    parameters toward the online parameters (`tau` < 1). A sync that is due at the same step as an
    update runs after that update. A sync that is due between two updates runs before the second
    one. Several syncs that are due at once are combined into one sync with the same effect.

    Exactly one of the three periods must be given; the others must be null.

    Args:
        every_n_grad_steps: Number of gradient steps between syncs.
        every_n_env_steps: Number of environment steps between syncs.
        every_n_episodes: Number of finished episodes between syncs. With several ranks, only the
            episodes of rank 0 are counted, and the count is broadcast at every update.
        first: Number of gradient steps, environment steps or episodes (the unit of the given
            period) after which the first sync is due; null for one period.
        tau: Fraction of the distance to the online parameters by which each sync moves the target
            parameters. 1 copies the parameters; smaller values result in Polyak averaging
            (Lillicrap et al. 2016). Buffers are always copied.

    Raises:
        ConfigError: If not exactly one period is given, or a value is out of range.
    """

    def __init__(
        self,
        every_n_grad_steps: int | None = None,
        every_n_env_steps: int | None = None,
        every_n_episodes: int | None = None,
        first: int | None = None,
        tau: float = 1.0,
    ) -> None:
        periods = {
            "grad_steps": every_n_grad_steps,
            "env_steps": every_n_env_steps,
            "episodes": every_n_episodes,
        }
        given = {unit: period for unit, period in periods.items() if period is not None}
        if len(given) != 1:
            raise ConfigError(
                "target_sync: exactly one of every_n_grad_steps, every_n_env_steps and "
                f"every_n_episodes must be given, got {given or 'none'}; set the others to null"
            )
        ((self._unit, self._period),) = given.items()
        if self._period < 1:
            raise ConfigError(
                f"target_sync.every_n_{self._unit}: must be at least 1, got {self._period}"
            )
        if first is not None and first < 0:
            raise ConfigError(f"target_sync.first: must not be negative, got {first}")
        if not 0 < tau <= 1:
            raise ConfigError(f"target_sync.tau: must be in (0, 1], got {tau}")
        self.tau = tau
        self._first = self._period if first is None else first
        self._due_at: int | None = self._first  # None: the next multiple of the period

    def setup(self, trainer: Trainer, pl_module: DQNModule, stage: str) -> None:
        """Discard the state of an earlier fit in which the same callback was used."""
        if stage == "fit":
            self._due_at = self._first

    def on_train_start(self, trainer: Trainer, pl_module: DQNModule) -> None:
        """Register the function that the module calls between updates to perform syncs."""
        self._module = pl_module
        pl_module.after_update.append(self._sync_if_due)

    def on_train_end(self, trainer: Trainer, pl_module: DQNModule) -> None:
        """Unregister the function that syncs the target network."""
        if self._sync_if_due in pl_module.after_update:
            pl_module.after_update.remove(self._sync_if_due)

    def on_exception(
        self, trainer: Trainer, pl_module: DQNModule, exception: BaseException
    ) -> None:
        """Unregister the function that syncs the target network if training fails."""
        self.on_train_end(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """Return the period's unit, and the count in this unit at which the next sync is due."""
        return {"due_at": self._due_at, "unit": self._unit}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the count at which the next sync is due, unless the unit has changed.

        After a change of the unit, the next sync is due at the next multiple of the period.
        """
        self._due_at = state_dict["due_at"] if state_dict["unit"] == self._unit else None

    def _sync_if_due(self, clock: Clock) -> None:
        count: int = getattr(clock, self._unit)
        if self._unit == "episodes":
            count = distributed.broadcast_value(count)
        due_at = self._due_at
        # More than one period away: restored from a run with a longer period.
        if due_at is None or due_at - count > max(self._period, self._first):
            due_at = max(self._first, (count // self._period + 1) * self._period)
        if count >= due_at:
            num_syncs = (count - due_at) // self._period + 1
            sync_target(self._module.online, self._module.target, 1 - (1 - self.tau) ** num_syncs)
            due_at += num_syncs * self._period
        self._due_at = due_at


@torch.no_grad()
def sync_target(online: nn.Module, target: nn.Module, tau: float = 1.0) -> None:
    """Move the target parameters toward the online parameters, and copy all buffers.

    Each target parameter is updated in place: `target = target + tau * (online - target)`.

    Args:
        online: Network from which parameters and buffers are read.
        target: Network to update.
        tau: Fraction of the distance to the online parameters by which the target parameters are
            moved; 1 copies the parameters.
    """
    for parameter, online_parameter in zip(target.parameters(), online.parameters(), strict=True):
        if tau == 1:
            parameter.copy_(online_parameter)
        else:
            parameter.lerp_(online_parameter, tau)
    for buffer, online_buffer in zip(target.buffers(), online.buffers(), strict=True):
        buffer.copy_(online_buffer)
