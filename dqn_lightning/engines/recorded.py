"""Engine for CPUs, which records an update and then repeats the recording."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from dqn_lightning import distributed
from dqn_lightning.engines.comparison import relative_difference, restore, snapshot, tolerance
from dqn_lightning.engines.eager import Eager
from dqn_lightning.engines.flat_gradient import FlatGradient
from dqn_lightning.engines.op_recorder import OpRecorder
from dqn_lightning.engines.optimizer_step import RecordedOptimizerStep, is_recordable
from dqn_lightning.engines.purity import is_declared_pure
from dqn_lightning.errors import NotRecordableError
from dqn_lightning.internals.pytorch import (
    copy_tensors_,
    has_forward_hooks,
    map_tensors,
    tensors_in,
)
from dqn_lightning.losses import ObjectiveOutput
from dqn_lightning.types import Batch, UpdateNoise

_FAILURES = (NotImplementedError, RuntimeError, NotRecordableError, ValueError)
"""Raised by operations that cannot be recorded, for example those on sparse tensors."""
_CONVOLUTIONS = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)


class Recorded(Eager):
    """Engine that repeats a recorded update without the surrounding Python code.

    For small networks, most of the time of an update is overhead: autograd, module calls, memory
    allocation and the optimizer's loop over parameters. The first update is therefore recorded (see
    `OpRecorder`), and all later updates repeat the recording. The second update is computed both
    ways, and the results must be bitwise equal. Each update overwrites the tensors that the
    previous one returned.

    The objective must be declared to be a pure function of the networks, the batch and the noise
    (see `declare_pure`): any other value that the objective reads is constant in a recording.

    All ranks construct the engine together, and record and verify an update at the same time. If
    the construction, recording or verification fails on one rank, it fails on all ranks.

    Raises:
        NotRecordableError: If updates cannot be recorded. The constructor and `update` may raise
            it; the networks then remain unchanged.
    """

    name = "recorded"
    device_type = "cpu"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        _fail_on_all_ranks(self._check_recordable)
        self._gradient = FlatGradient(self.parameters)
        self._step = self.make_step()
        if not is_recordable(self.optimizer):
            rank_zero_info(
                f"model.optimizer: the steps of {type(self.optimizer).__name__} are executed "
                "eagerly, because it is not known whether they can be recorded"
            )
        self._recording: Any = None
        self._is_verified = False
        self._inputs: tuple[Batch, UpdateNoise | None]
        self._input_tensors: list[Tensor]
        self._output: ObjectiveOutput

    def update(self, batch: Batch, noise: UpdateNoise | None = None) -> ObjectiveOutput:
        """Take one optimizer step on a batch; return the detached losses [B] and priorities [B]."""
        if self._recording is None or batch.obs.shape != self._input_tensors[0].shape:
            undo = self._make_undo()
            _fail_on_all_ranks(partial(self._record, batch, noise), undo)
        else:
            copy_tensors_(
                self._input_tensors, batch if noise is None else tensors_in((batch, noise))
            )
            if not self._is_verified:
                _fail_on_all_ranks(self._verify)
            self._recording()
        self._gradient.attach()
        distributed.all_reduce_mean_(self._gradient.vector)
        self._step()
        return self._output

    def close(self) -> None:
        """Convert the optimizer's state back to its original form, which every engine can use."""
        self._step.close()

    @classmethod
    def check_device(cls, device: torch.device) -> None:
        """Raise `NotRecordableError` if the engine does not support the device's type."""
        if device.type != cls.device_type:
            raise NotRecordableError(f"{cls.name} is for {cls.device_type}, not {device.type}")

    def make_recorder(self) -> Any:
        """Return a new recorder for tensor operations."""
        return OpRecorder()

    def make_step(self) -> RecordedOptimizerStep:
        """Return the object that applies the gradient transforms and takes the optimizer step."""
        return RecordedOptimizerStep(
            self._gradient, self.optimizer, self.grad_transforms, self.make_recorder
        )

    def _check_recordable(self) -> None:
        self.check_device(self.parameters[0].device)
        if not is_declared_pure(self.objective):
            raise NotRecordableError(_undeclared(self.objective))
        layers = [*self.online.modules(), *self.target.modules()]
        if any(map(has_forward_hooks, layers)):
            raise NotRecordableError("a layer has forward hooks, which cannot be recorded")
        synchronized = any(isinstance(layer, nn.SyncBatchNorm) for layer in layers)
        if synchronized and distributed.world_size() > 1:
            raise NotRecordableError("SyncBatchNorm communicates between ranks within an update")
        if len({parameter.dtype for parameter in self.parameters}) > 1:
            raise NotRecordableError("the parameters have several dtypes")

    def _record(self, batch: Batch, noise: UpdateNoise | None) -> None:
        """Compute loss and gradients, and record these operations."""
        self._inputs = map_tensors(Tensor.clone, (batch, noise))
        self._input_tensors = tensors_in(self._inputs)
        undo = self._make_undo()
        self._warm_up()
        undo()
        recorder = self.make_recorder()
        with recorder:
            output = self._differentiate()
        self._output = ObjectiveOutput(*recorder.finish(*output))
        self._recording, self._is_verified = recorder, False

    def _differentiate(self) -> ObjectiveOutput:
        """Compute losses and priorities eagerly, and write the gradients to the flat vector."""
        output, gradients = self.differentiate(*self._inputs)
        torch.cat([gradient.flatten() for gradient in gradients], out=self._gradient.vector)
        return output

    def _warm_up(self) -> None:
        """Do nothing; a subclass computes loss and gradients here if recording needs a warm-up."""

    def _verify(self) -> None:
        """Compare the results of the recording and of eager execution; the networks do not change.

        Raises:
            NotRecordableError: If a result differs by more than the tolerance.
        """
        undo = self._make_undo()
        expected = self._results(self._differentiate())
        undo()
        try:
            self._recording()
        finally:
            actual = self._results(self._output)
            undo()
        differences = {
            name: relative_difference(actual[name], value) for name, value in expected.items()
        }
        allowed = tolerance(self.parameters[0].device, has_convolutions(self.online))
        name, largest = max(differences.items(), key=lambda item: item[1])
        if largest > allowed:
            raise NotRecordableError(
                f"on a second batch, the recorded and the eager update differ: {name} by "
                f"{largest:.1e} of its largest value (allowed: {allowed:.0e}); the objective or a "
                "layer reads something besides its arguments, or an operation is not deterministic"
            )
        self._is_verified = True

    def _results(self, output: ObjectiveOutput) -> dict[str, Tensor]:
        """Return copies of the losses, priorities and gradients, keyed by name."""
        results = {name: value.clone() for name, value in output._asdict().items()}
        names = [name for name, p in self.online.named_parameters() if p.requires_grad]
        for name, part in zip(names, self._gradient.split(self._gradient.vector), strict=True):
            results[f"gradient of {name}"] = part.clone()
        return results

    def _make_undo(self) -> Callable[[], None]:
        """Return a function that restores buffers and random generators to their present states."""
        buffers = snapshot([*self.online.buffers(), *self.target.buffers()])
        device = self.parameters[0].device
        cpu_rng = torch.get_rng_state()
        cuda_rng = torch.cuda.get_rng_state(device) if device.type == "cuda" else None

        def undo() -> None:
            restore(buffers)
            torch.set_rng_state(cpu_rng)
            if cuda_rng is not None:
                torch.cuda.set_rng_state(cuda_rng, device)

        return undo


def has_convolutions(network: nn.Module) -> bool:
    """Return whether a network contains convolutions."""
    return any(isinstance(layer, _CONVOLUTIONS) for layer in network.modules())


def _fail_on_all_ranks(
    function: Callable[[], None], undo: Callable[[], None] | None = None
) -> None:
    """Call a function on all ranks; if it fails on any rank, raise on every rank.

    If only some ranks fell back to another engine, the ranks' weights could drift apart.

    Args:
        function: Function to call; it raises an error if an update cannot be recorded.
        undo: Function to call on every rank if `function` failed on any rank.

    Raises:
        NotRecordableError: If the function failed on any rank. The message gives the reason for
            the failure on the first of these ranks.
    """
    failure: Exception | None = None
    try:
        function()
    except _FAILURES as error:
        failure = error
    own_reason = None if failure is None else _reason_of(failure)
    reasons: list[str | None] = distributed.all_gather(own_reason)
    for rank, reason in enumerate(reasons):
        if reason is not None:
            if undo is not None:
                undo()
            place = f"rank {rank}: " if len(reasons) > 1 else ""
            raise NotRecordableError(place + reason) from failure


def _reason_of(error: Exception) -> str:
    if isinstance(error, NotRecordableError):
        return error.reason
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _undeclared(objective: Any) -> str:
    name = getattr(objective, "__name__", type(objective).__name__)
    return (
        f"the objective {name} is not declared to be a pure function of the networks, the batch "
        "and the noise; if it is one, set `is_pure: ClassVar[bool] = True` in the class that "
        "defines `__call__`, or decorate the function with `dqn_lightning.engines.declare_pure`"
    )
