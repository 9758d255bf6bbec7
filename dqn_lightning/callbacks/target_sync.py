"""Copies the online network into the target network."""

from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from torch import nn

from dqn_lightning import ranks
from dqn_lightning.errors import ConfigError
from dqn_lightning.module import DQNModule
from dqn_lightning.types import Clock

_UNKNOWN = 2**62
"""A count so far away that the next multiple takes its place."""


class TargetSync(Callback):
    """Moves the target network to, or towards, the online one, parameters and buffers.

    A sync due at the step of an update runs after that update; one that falls due between updates
    runs before the next. Where a count passes several multiples at once, the target moves as if by
    so many syncs. Exactly one period must be given.

    Args:
        every_n_grad_steps: Gradient steps between syncs.
        every_n_env_steps: Environment steps between syncs.
        every_n_episodes: Finished episodes between syncs, of rank 0 where there are several ranks,
            which it then tells the others at every update.
        first: The count of the first sync; one period if None.
        tau: The share of the way that parameters go: 1 copies them, less is Polyak averaging
            (Lillicrap et al. 2016). Buffers are always copied.

    Raises:
        ConfigError: If not exactly one period is given, or a number cannot work.
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
                "target_sync: give exactly one of every_n_grad_steps, every_n_env_steps and "
                f"every_n_episodes, got {given or 'none'}; null takes one out of a config"
            )
        ((self._unit, self._period),) = given.items()
        if self._period < 1:
            raise ConfigError(
                f"target_sync.every_n_{self._unit}: must be at least 1, got {self._period}"
            )
        if first is not None and first < 0:
            raise ConfigError(f"target_sync.first: must not be negative, got {first}")
        if not 0 < tau <= 1:
            raise ConfigError(f"target_sync.tau: must lie in (0, 1], got {tau}")
        self.tau = tau
        self._first = self._period if first is None else first
        self._due = self._first  # count of the next sync

    def on_train_start(self, trainer: Trainer, pl_module: DQNModule) -> None:
        """Attach to what happens between updates."""
        self._module = pl_module
        pl_module.after_update.append(self._sync_if_due)

    def on_train_end(self, trainer: Trainer, pl_module: DQNModule) -> None:
        """Let go again."""
        if self._sync_if_due in pl_module.after_update:
            pl_module.after_update.remove(self._sync_if_due)

    def on_exception(
        self, trainer: Trainer, pl_module: DQNModule, exception: BaseException
    ) -> None:
        """Let go again."""
        self.on_train_end(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """The count of the next sync, and what is counted."""
        return {"due": self._due, "unit": self._unit}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there; if another unit is counted now, from its next multiple."""
        self._due = state_dict["due"] if state_dict["unit"] == self._unit else _UNKNOWN

    def _sync_if_due(self, clock: Clock) -> None:
        count: int = getattr(clock, self._unit)
        if self._unit == "episodes":
            count = ranks.of_first(count)
        if self._due - count > max(self._period, self._first):  # it was of another count
            self._due = max(self._first, (count // self._period + 1) * self._period)
        if count < self._due:
            return
        passed = (count - self._due) // self._period + 1
        sync(self._module.online, self._module.target, 1 - (1 - self.tau) ** passed)
        self._due += passed * self._period


@torch.no_grad()
def sync(online: nn.Module, target: nn.Module, tau: float = 1.0) -> None:
    """Target ← target + tau (online - target) for parameters; buffers are copied."""
    for parameter, newer in zip(target.parameters(), online.parameters(), strict=True):
        if tau == 1:
            parameter.copy_(newer)
        else:
            parameter.lerp_(newer, tau)
    for buffer, newest in zip(target.buffers(), online.buffers(), strict=True):
        buffer.copy_(newest)
