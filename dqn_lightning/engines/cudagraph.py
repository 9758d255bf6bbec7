"""The engine for NVIDIA GPUs: what the CPU's engine does, as CUDA graphs."""

from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from dqn_lightning.engines.traced import Traced
from dqn_lightning.errors import UntraceableError

_WARM_UP = 3
"""Times that a loss is computed before it is captured, as PyTorch asks for."""


class CUDAGraph(Traced):
    """Launches an update as two CUDA graphs: loss and gradients; transforms and optimiser step.

    The host does nothing between updates but copy the batch into place and launch, and never waits.
    Between the two graphs lies the mean over ranks, where there are several. Optimisers that can be
    capturable are made so, which keeps their counts on the device.

    Raises:
        UntraceableError: If updates cannot be captured; nothing has changed then.
    """

    name = "cudagraph"
    device_type = "cuda"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for group in self.optimizer.param_groups:
            if "capturable" in group:
                group["capturable"] = True
        for state in self.optimizer.state.values():
            if isinstance(step := state.get("step"), Tensor):
                state["step"] = step.to(self.parameters[0].device)

    def close(self) -> None:
        """Give the networks and the optimiser back as they were."""
        for group in self.optimizer.param_groups:
            if "capturable" in group:
                group["capturable"] = self.optimizer.defaults["capturable"]

    def make_tape(self) -> Any:
        """A graph to capture into."""
        return _Graph()

    def _warm_up(self) -> None:
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # untyped there
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP):
                self._differentiate()
        torch.cuda.current_stream().wait_stream(stream)


class _Graph:
    """A CUDA graph that is used as a `Tape` is."""

    def __init__(self) -> None:
        self._graph = torch.cuda.CUDAGraph()
        self._capture = torch.cuda.graph(self._graph)

    def __enter__(self) -> None:
        self._capture.__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self._capture.__exit__(kind, error, traceback)
        except RuntimeError as failure:
            raise UntraceableError(str(error or failure).splitlines()[0]) from failure
        if isinstance(error, RuntimeError):
            raise UntraceableError(str(error).splitlines()[0]) from error

    def keep(self, *results: Tensor) -> list[Tensor]:
        """End the recording, and compute what was only captured."""
        self._graph.replay()
        return list(results)

    def __call__(self) -> None:
        self._graph.replay()
