"""Which engine executes the updates."""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, Protocol, TypeAlias

import torch

from dqn_lightning.engines.cudagraph import CUDAGraph
from dqn_lightning.engines.eager import Eager
from dqn_lightning.engines.traced import Traced
from dqn_lightning.errors import UntraceableError
from dqn_lightning.losses import ObjectiveOutput
from dqn_lightning.types import Batch, Draws

EngineName: TypeAlias = Literal["auto", "eager", "traced", "cudagraph"]


class Engine(Protocol):
    """Executes updates."""

    @property
    def name(self) -> str:
        """What `model.engine` calls it."""
        ...

    def update(self, batch: Batch, draws: Draws | None = None) -> ObjectiveOutput:
        """Take one optimiser step on a batch; gives its loss [B] and priority [B]."""
        ...

    def close(self) -> None:
        """Give the networks and the optimiser back as they were."""
        ...


def make_engine(name: EngineName, device: torch.device, *parts: Any) -> Engine:
    """The engine of this name, of the parts that `Eager` takes; `auto` chooses by device."""
    if name == "auto":
        fastest = _FASTEST.get(device.type, Eager)
        return Automatic(partial(fastest, *parts), partial(Eager, *parts))
    return _FAST.get(name, Eager)(*parts)


def check_device(name: EngineName, device: torch.device) -> None:
    """Refuse an engine that is for another type of device.

    Raises:
        UntraceableError: If it is.
    """
    if name in _FAST:
        _FAST[name].check_device(device)


_FAST: dict[str, type[Traced]] = {kind.name: kind for kind in (Traced, CUDAGraph)}
_FASTEST: dict[str, type[Eager]] = {kind.device_type: kind for kind in _FAST.values()}


class Automatic:
    """The fastest engine for the device; eager if that one cannot execute the update.

    Args:
        fastest: Makes that engine.
        eager: Makes the one that always can.
    """

    def __init__(self, fastest: Callable[[], Engine], eager: Callable[[], Engine]) -> None:
        self._eager = eager
        self._engine: Engine
        try:
            self._engine = fastest()
        except UntraceableError as error:
            self._fall_back(error)

    @property
    def name(self) -> str:
        """That of the engine in use."""
        return self._engine.name

    def update(self, batch: Batch, draws: Draws | None = None) -> ObjectiveOutput:
        """Take one optimiser step on a batch; gives its loss [B] and priority [B]."""
        try:
            return self._engine.update(batch, draws)
        except UntraceableError as error:
            self._engine.close()
            self._fall_back(error)
            return self._engine.update(batch, draws)

    def close(self) -> None:
        """Give the networks and the optimiser back as they were."""
        self._engine.close()

    def _fall_back(self, error: UntraceableError) -> None:
        self._engine = self._eager()
        warnings.warn(f"model.engine: auto is {self.name} here: {error.reason}", stacklevel=4)
