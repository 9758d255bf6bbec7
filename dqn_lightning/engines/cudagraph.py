"""Engine for NVIDIA GPUs, which captures updates as CUDA graphs and launches them."""

from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from dqn_lightning.engines.comparison import restore
from dqn_lightning.engines.op_recorder import RecordabilityCheck
from dqn_lightning.engines.optimizer_step import (
    RecordedOptimizerStep,
    is_recordable,
    state_tensors,
)
from dqn_lightning.engines.recorded import Recorded
from dqn_lightning.errors import NotRecordableError

_NUM_WARM_UPS = 3
"""Eager executions before a capture, as PyTorch recommends."""


class CUDAGraph(Recorded):
    """Engine that launches two CUDA graphs per update: loss and gradients, then optimizer step.

    The second graph includes the gradient transforms. For each update, the host only copies the
    batch to the captured input tensors and launches the graphs; it never waits for the GPU. With
    several ranks, the gradients are averaged between the two graphs. An optimizer step that cannot
    be captured is executed eagerly instead.

    Raises:
        NotRecordableError: If loss and gradients cannot be captured. The constructor and `update`
            may raise it; the networks then remain unchanged.
    """

    name = "cudagraph"
    device_type = "cuda"

    def make_recorder(self) -> Any:
        """Return a recorder that captures a new CUDA graph."""
        return CapturedGraph()

    def make_step(self) -> RecordedOptimizerStep:
        """Return the object that applies the gradient transforms and takes the optimizer step."""
        if not is_recordable(self.optimizer):  # its state may have any form
            return super().make_step()
        return CapturedOptimizerStep(
            self._gradient, self.optimizer, self.grad_transforms, self.make_recorder
        )

    def _warm_up(self) -> None:
        """Compute loss and gradients a few times before they are captured.

        Raises:
            NotRecordableError: If an operation cannot be captured.
        """
        check = RecordabilityCheck()
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # untyped in PyTorch
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            with check:
                self._differentiate()
            for _ in range(_NUM_WARM_UPS - 1):
                self._differentiate()
        torch.cuda.current_stream().wait_stream(stream)
        if check.reason is not None:
            raise NotRecordableError(check.reason)


class CapturedOptimizerStep(RecordedOptimizerStep):
    """Callable that transforms gradients and takes an optimizer step, captured if possible.

    PyTorch can capture a step if the optimizer's setting `capturable` is true and its learning rate
    is a tensor, whose value may change at every update. This class sets both only during a step.
    Between steps, the parameter groups hold the user's settings, which schedulers, loggers and
    checkpoints see. With the user's setting `capturable=False`, an optimizer expects its step
    counters on the CPU; this class keeps them on the GPU until `close`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._rates: dict[int, Tensor] = {}  # learning rate on the GPU, by parameter group
        self._rate_values: dict[int, float] = {}
        self._move_counters(self._gradient.vector.device)

    def __call__(self) -> None:
        """Apply the gradient transforms and take an optimizer step."""
        self._refresh_rates()  # outside of the graph, which would repeat the same value
        super().__call__()

    def close(self) -> None:
        """Move the step counters back to the CPU, where the optimizer expects them."""
        self._move_counters(torch.device("cpu"))

    def _move_counters(self, device: torch.device) -> None:
        """Move the step counters to a device, for parameter groups with `capturable=False`."""
        for group in self._optimizer.param_groups:
            if group.get("capturable") is not False or group.get("fused"):
                continue  # not changed by this engine, or on the GPU anyway
            for parameter in group["params"]:
                state = self._optimizer.state.get(parameter, {})
                if isinstance(counter := state.get("step"), Tensor):
                    state["step"] = counter.to(device)

    def _refresh_rates(self) -> None:
        device = self._gradient.vector.device
        for i, group in enumerate(self._optimizer.param_groups):
            rate = group["lr"]
            if isinstance(rate, Tensor) or not ("capturable" in group or group.get("fused")):
                continue
            if i not in self._rates:
                self._rates[i] = torch.tensor(rate, dtype=torch.float32, device=device)
            elif self._rate_values[i] != rate:
                self._rates[i].fill_(rate)
            self._rate_values[i] = rate

    def _current_settings(self) -> Any:
        """Return the settings that a recording assumes to be constant.

        Returns:
            A tuple: the gradient transforms; for each, its attributes that are numbers, strings,
            booleans or None; and the optimizer's parameter groups, without the learning rates
            that this class keeps in tensors.
        """
        transforms, attributes, groups = super()._current_settings()
        fixed = [
            {k: v for k, v in group.items() if k != "lr" or i not in self._rates}
            for i, group in enumerate(groups)
        ]
        return transforms, attributes, fixed

    def _call_optimizer(self) -> None:
        groups = self._optimizer.param_groups
        own_settings: list[dict[str, Any]] = [
            {name: group[name] for name in ("lr", "capturable") if name in group}
            for group in groups
        ]
        try:
            for i, group in enumerate(groups):
                if "capturable" in group:
                    group["capturable"] = True
                if i in self._rates and self._is_recordable:
                    group["lr"] = self._rates[i]
            self._optimizer.step()
        finally:
            for group, settings in zip(groups, own_settings, strict=True):
                group.update(settings)

    def _rehearse(self, before: list[tuple[Tensor, Tensor]]) -> bool:
        """Take a trial step and return whether it can be captured; if so, undo it."""
        numbers, check = self._python_numbers(), RecordabilityCheck()
        with check:
            self._take()
        device = self._gradient.vector.device
        on_other_device = any(t.device != device for t in state_tensors(self._optimizer))
        if check.reason is not None or on_other_device or self._python_numbers() != numbers:
            return False
        restore(before)
        return True


class CapturedGraph:
    """Recorder that captures a CUDA graph; it has the interface of `OpRecorder`.

    Raises:
        NotRecordableError: If the capture fails. The previous CUDA stream then becomes current
            again.
    """

    def __init__(self) -> None:
        self._graph = torch.cuda.CUDAGraph()
        self._capture = torch.cuda.graph(self._graph)

    def __enter__(self) -> None:
        self._stream = torch.cuda.current_stream()
        try:
            self._capture.__enter__()
        except BaseException:
            torch.cuda.set_stream(self._stream)
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self._capture.__exit__(kind, error, traceback)
        except RuntimeError as failure:
            raise NotRecordableError(str(error or failure).splitlines()[0]) from failure
        finally:
            torch.cuda.set_stream(self._stream)  # PyTorch leaves the capture stream current
        if isinstance(error, RuntimeError):
            raise NotRecordableError(str(error).splitlines()[0]) from error

    def finish(self, *results: Tensor) -> list[Tensor]:
        """Launch the graph, because capturing does not execute it; return the given results."""
        self._graph.replay()
        return list(results)

    def __call__(self) -> None:
        """Launch the graph."""
        self._graph.replay()
