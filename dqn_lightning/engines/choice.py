"""The `Engine` protocol, a factory that selects an engine by name, and the fallback to `Eager`."""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, Protocol, TypeAlias

import torch

from dqn_lightning.engines.cudagraph import CUDAGraph
from dqn_lightning.engines.eager import Eager
from dqn_lightning.engines.recorded import Recorded, has_convolutions
from dqn_lightning.errors import NotRecordableError
from dqn_lightning.losses import ObjectiveOutput
from dqn_lightning.types import Batch, UpdateNoise

EngineName: TypeAlias = Literal["auto", "eager", "recorded", "cudagraph"]


class Engine(Protocol):
    """Interface for engines, which compute losses and gradients and take optimizer steps."""

    @property
    def name(self) -> str:
        """Name of the engine, as written in the setting `model.engine`."""
        ...

    def update(self, batch: Batch, noise: UpdateNoise | None = None) -> ObjectiveOutput:
        """Take one optimizer step on a batch; return the detached losses [B] and priorities [B].

        Args:
            batch: Transitions to learn from.
            noise: Random inputs for the forward passes; None if the networks need none.
        """
        ...

    def close(self) -> None:
        """Convert the optimizer's state back to its original form, which every engine can use."""
        ...


_FAST: dict[str, type[Recorded]] = {kind.name: kind for kind in (Recorded, CUDAGraph)}
_FASTEST: dict[str, type[Recorded]] = {kind.device_type: kind for kind in _FAST.values()}


def make_engine(name: EngineName, device: torch.device, online: Any, *parts: Any) -> Engine:
    """Build the engine with the given name.

    Args:
        name: Name of the engine; `auto` chooses the fastest engine for the device and the
            network, and falls back to eager execution if that engine cannot execute the update.
        device: Device that the networks are on.
        online: Network to train; the first argument of `Eager`.
        parts: Remaining arguments of `Eager`, in order.

    Raises:
        NotRecordableError: If the named engine cannot execute the update.
    """
    parts = (online, *parts)
    if name != "auto":
        return _FAST.get(name, Eager)(*parts)
    fastest = _FASTEST.get(device.type)
    if fastest is None or (fastest is Recorded and has_convolutions(online)):
        return Eager(*parts)  # recorded convolutions were measured to be slower on CPUs
    return WithFallback(partial(fastest, *parts), partial(Eager, *parts))


def check_device(name: EngineName, device: torch.device) -> None:
    """Raise `NotRecordableError` if the named engine does not support the device's type."""
    if name in _FAST:
        _FAST[name].check_device(device)


class WithFallback:
    """Engine that delegates to the fastest engine, and to the eager one if the fastest fails.

    The fastest engine fails if it raises `NotRecordableError`. This class then emits a warning and
    switches to the eager engine permanently. All ranks switch at the same update, because the
    fastest engine fails on all ranks if it fails on one.

    Args:
        fastest: Factory for the fastest engine.
        eager: Factory for the eager engine.
    """

    def __init__(self, fastest: Callable[[], Engine], eager: Callable[[], Engine]) -> None:
        self._make_eager = eager
        self._engine: Engine
        try:
            self._engine = fastest()
        except NotRecordableError as error:
            self._fall_back(error)

    @property
    def name(self) -> str:
        """Name of the engine in use."""
        return self._engine.name

    def update(self, batch: Batch, noise: UpdateNoise | None = None) -> ObjectiveOutput:
        """Take one optimizer step on a batch; return the detached losses [B] and priorities [B]."""
        try:
            return self._engine.update(batch, noise)
        except NotRecordableError as error:
            self._engine.close()
            self._fall_back(error)
            return self._engine.update(batch, noise)

    def close(self) -> None:
        """Convert the optimizer's state back to its original form, which every engine can use."""
        self._engine.close()

    def _fall_back(self, error: NotRecordableError) -> None:
        self._engine = self._make_eager()
        warnings.warn(f"model.engine: auto uses {self.name} because {error.reason}", stacklevel=4)
