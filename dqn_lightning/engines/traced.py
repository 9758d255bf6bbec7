"""The engine for the CPU: an update from a recording."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from dqn_lightning import ranks
from dqn_lightning.engines.eager import Eager
from dqn_lightning.engines.gradient import Gradient
from dqn_lightning.engines.step import Step, agree, snapshot, take_back
from dqn_lightning.engines.tape import Tape, tensors
from dqn_lightning.errors import UntraceableError
from dqn_lightning.losses import ObjectiveOutput
from dqn_lightning.networks.layers import is_hooked
from dqn_lightning.types import Batch, Draws

_FAILURES = (NotImplementedError, RuntimeError, UntraceableError, ValueError)
"""What operations raise that a tape cannot hold, sparse ones for example."""


class Traced(Eager):
    """Does what `Eager` does, by the same operations, without what lies between them.

    With a small network most of an update is not arithmetic: autograd builds its graph, modules
    call modules, memory comes and goes, an optimiser turns to each layer in turn. So the first
    update is recorded (see `Tape`) and repeated from then on. The second is computed in both ways,
    and the tape is trusted only if they agree.

    The objective must be a function of networks and batch alone: what else it reads in Python, it
    reads once. What an update gives is overwritten by the next.

    Raises:
        UntraceableError: If updates cannot be recorded; nothing has changed then.
    """

    name = "traced"
    device_type = "cpu"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._check_traceable()
        self._gradient = Gradient(self.parameters)
        self._step = Step(self._gradient, self.optimizer, self.grad_transforms, self.make_tape)
        self._tape: Any = None
        self._is_trusted = False
        self._inputs: tuple[Batch, Draws | None]
        self._input_tensors: list[Tensor]
        self._output: ObjectiveOutput

    def update(self, batch: Batch, draws: Draws | None = None) -> ObjectiveOutput:
        """Take one optimiser step on a batch; gives its loss [B] and priority [B]."""
        if self._tape is None or batch.obs.shape != self._input_tensors[0].shape:
            self._record(batch, draws)
        else:
            given = batch if draws is None else tensors((batch, draws))
            torch._foreach_copy_(self._input_tensors, given)
            if not self._is_trusted:
                self._compare(self._tape)
            self._tape()
        self._gradient.attach()
        ranks.mean_(self._gradient.vector)
        self._step()
        return self._output

    @classmethod
    def check_device(cls, device: torch.device) -> None:
        """Refuse parameters on another type of device than it is for."""
        if device.type != cls.device_type:
            raise UntraceableError(f"{cls.name} is for {cls.device_type}, not {device.type}")

    def _check_traceable(self) -> None:
        layers = [*self.online.modules(), *self.target.modules()]
        if any(map(is_hooked, layers)):
            raise UntraceableError("a layer has forward hooks, which are Python")
        self.check_device(self.parameters[0].device)
        if len({parameter.dtype for parameter in self.parameters}) > 1:
            raise UntraceableError("parameters are of several dtypes")

    def _record(self, batch: Batch, draws: Draws | None) -> None:
        self._inputs = tree_map_only(Tensor, Tensor.clone, (batch, draws))
        self._input_tensors = tensors(self._inputs)
        tape, restore = self.make_tape(), self._restorer()
        try:
            self._warm_up()
            restore()
            with tape:
                output = self._differentiate()
            self._output = ObjectiveOutput(*tape.keep(*output))
        except _FAILURES as error:
            restore()
            raise _untraceable(error) from error
        self._tape, self._is_trusted = tape, False

    def _differentiate(self) -> ObjectiveOutput:
        output, gradients = self.differentiate(*self._inputs)
        torch.cat([gradient.flatten() for gradient in gradients], out=self._gradient.vector)
        return output

    def make_tape(self) -> Any:
        """A tape to record on."""
        return Tape()

    def _warm_up(self) -> None:
        """Before a recording."""

    def _compare(self, tape: Any) -> None:
        restore = self._restorer()
        expected = [*self._differentiate(), self._gradient.vector.clone()]
        restore()
        try:
            tape()
        except _FAILURES as error:
            raise _untraceable(error) from error
        finally:
            repeated = [*self._output, self._gradient.vector]
            restore()
        for theirs, ours in zip(expected, repeated, strict=True):
            if not agree(theirs, ours):
                raise UntraceableError(
                    "repeated with another batch the objective gives other numbers, so it must "
                    "read more than networks and batch"
                )
        self._is_trusted = True

    def _restorer(self) -> Callable[[], None]:
        """Takes back what computing a loss changes: statistics, the generator's state."""
        buffers = snapshot([*self.online.buffers(), *self.target.buffers()])
        device = self.parameters[0].device
        on_host = torch.get_rng_state()
        on_device = torch.cuda.get_rng_state(device) if device.type == "cuda" else None

        def restore() -> None:
            take_back(buffers)
            torch.set_rng_state(on_host)
            if on_device is not None:
                torch.cuda.set_rng_state(on_device, device)

        return restore


def _untraceable(error: Exception) -> UntraceableError:
    if isinstance(error, UntraceableError):
        return error
    return UntraceableError(f"{type(error).__name__}: {error}".splitlines()[0])
