"""Record tensor operations, to repeat them without the surrounding Python code."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dqn_lightning.errors import NotRecordableError
from dqn_lightning.internals.pytorch import (
    TorchDispatchMode,
    argument_names,
    is_mutating,
    map_tensors,
    output_argument_names,
    storage_id,
    tensors_in,
)

aten = torch.ops.aten

_DATA_DEPENDENT = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
_COLLECTIVES = {"c10d", "c10d_functional", "_c10d_functional"}
"""Namespaces of the operations that communicate between ranks."""
_SHAPE_ONLY = {
    aten.zeros_like.default,
    aten.ones_like.default,
    aten.new_zeros.default,
    aten.new_ones.default,
}
"""Operations whose results depend on the shapes of their arguments, not on the values."""
_UNDECLARED_MUTATIONS = {aten.native_batch_norm.default, aten.cudnn_batch_norm.default}
"""Operations that update running statistics although their schemas do not say so."""
_OUT_EQUIVALENTS: dict[Any, Callable[..., Tensor]] = {
    aten.relu.default: lambda x, out: torch.clamp_min(x, 0, out=out),
    aten.clone.default: lambda x, out, **_: out.copy_(x),
    aten._to_copy.default: lambda x, out, **_: out.copy_(x),
}
"""Equivalents with an `out` argument for operations that have no such variant."""


class OpRecorder(TorchDispatchMode):  # type: ignore[no-untyped-call]  # untyped in PyTorch
    """Dispatch mode that records tensor operations as they run, and can then repeat them.

    Within `with recorder:`, every operation runs as usual and is recorded with its arguments and
    results. `finish` ends the recording. Calling the recorder then repeats the operations in order
    on the current contents of the recorded tensors. This skips autograd, modules and all other
    Python code. It allocates hardly any memory, because most results are written to the memory of
    the original results.

    Tensors that no recorded operation writes to (inputs, parameters, constants) are read at every
    call; write new values to them in place. Views are usually not repeated, because they share
    memory with their base. Operations with unused or constant results are omitted. Results are
    bitwise equal to those of ordinary execution.

    Raises:
        NotRecordableError: If an operation passes a tensor's value to Python, if the shape of its
            result depends on tensor values, or if it communicates between ranks.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # untyped in PyTorch
        self._records: list[_Record] = []
        self._tensors: dict[Any, Tensor] = {}  # one per memory location, shape, strides and dtype
        self._calls: list[Callable[[], Any]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation and record it."""
        if (reason := why_not_recordable(func, args)) is not None:
            raise NotRecordableError(reason)
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        args, kwargs = map_tensors(self._canonical, (args, kwargs))
        results = [self._canonical(tensor) for tensor in tensors_in(result)]
        self._records.append(_Record(func, args, kwargs, results))
        return result

    def _canonical(self, tensor: Tensor) -> Tensor:
        """Return the recorder's unique tensor with the same memory, shape, strides and dtype."""
        place = (storage_id(tensor), tensor.storage_offset(), *tensor.shape, *tensor.stride())
        return self._tensors.setdefault((*place, tensor.dtype), tensor.detach())

    def finish(self, *results: Tensor) -> list[Tensor]:
        """End the recording; return the tensors that hold the results after each replay."""
        outputs = [self._canonical(result) for result in results]
        needed = _drop_constant(_drop_unused(self._records, outputs))
        moving: set[int] = set()  # storages that are replaced at every call
        for record in needed:
            self._calls += _replay_calls(record, moving)
        self._records.clear()
        self._tensors.clear()
        return outputs

    def __len__(self) -> int:
        """Return the number of operations that a call executes."""
        return len(self._calls)

    def __call__(self) -> None:
        """Repeat the recorded operations."""
        with torch.inference_mode():
            for call in self._calls:
                call()


class RecordabilityCheck(TorchDispatchMode):  # type: ignore[no-untyped-call]  # untyped in PyTorch
    """Dispatch mode that runs operations as usual and checks whether CUDA graphs can capture them.

    A failed CUDA capture can leave streams and the caching allocator in an invalid state, so
    operations are checked before the capture. Unlike `OpRecorder`, this class also reports copies
    between devices.

    Attributes:
        reason: Why the first unsupported operation cannot be captured; None if all operations can.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # untyped in PyTorch
        self.reason: str | None = None

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation and check it."""
        result = func(*args, **(kwargs or {}))
        if self.reason is None:
            self.reason = why_not_recordable(func, args) or _why_not_capturable(func, args, result)
        return result


def why_not_recordable(func: Any, args: Any) -> str | None:
    """Return why an operation cannot be recorded, or None if it can."""
    if func.namespace in _COLLECTIVES:
        return f"{func} communicates between ranks"
    if _DATA_DEPENDENT.intersection(func.tags) and not _is_indexing_by_integers(func, args):
        return f"{func} passes values of a tensor to Python or has a data-dependent shape"
    return None


def _why_not_capturable(func: Any, args: Any, result: Any) -> str | None:
    """Return why a CUDA graph cannot capture a recordable operation, or None if it can.

    Only copies between devices are rejected, because they can synchronize with the host.
    """
    if func not in (aten._to_copy.default, aten.copy_.default):
        return None
    devices = {tensor.device.type for tensor in tensors_in((args, result))}
    return f"{func} copies between devices" if len(devices) > 1 else None


def _is_indexing_by_integers(func: Any, args: Any) -> bool:
    """Return whether an operation indexes by integers, so that its result has a known shape."""
    masks = (torch.bool, torch.uint8)
    return func is aten.index.Tensor and all(t.dtype not in masks for t in tensors_in(args[1]))


class _Record(NamedTuple):
    """A recorded operation with its arguments and results."""

    func: Any
    args: Any
    kwargs: dict[str, Any]
    results: list[Tensor]

    @property
    def reads(self) -> set[int]:
        """Storage ids of all tensor arguments, including arguments written in place."""
        return {storage_id(tensor) for tensor in tensors_in((self.args, self.kwargs))}

    @property
    def writes(self) -> set[int]:
        """Storage ids of the results, and of all arguments if the operation has side effects."""
        written = {storage_id(tensor) for tensor in self.results}
        return written | self.reads if self.has_side_effects else written

    @property
    def has_side_effects(self) -> bool:
        """Whether the operation writes in place or consumes random numbers."""
        random = torch.Tag.nondeterministic_seeded in self.func.tags
        return random or is_mutating(self.func) or self.func in _UNDECLARED_MUTATIONS

    @property
    def is_view(self) -> bool:
        """Whether the results share the memory of the arguments."""
        results = {storage_id(tensor) for tensor in self.results}
        return not self.has_side_effects and results <= self.reads

    def run(self) -> list[Tensor]:
        """Execute the operation with the recorded arguments; return its tensor results."""
        return tensors_in(self.func(*self.args, **self.kwargs))


def _drop_unused(records: list[_Record], outputs: list[Tensor]) -> list[_Record]:
    """Return the operations that affect the outputs or anything outside the recording."""
    used = {storage_id(tensor) for tensor in outputs}
    needed: list[_Record] = []
    for record in reversed(records):
        if record.has_side_effects or record.writes & used:
            if record.func not in _SHAPE_ONLY:
                used |= record.reads
            needed.append(record)
    return needed[::-1]


def _drop_constant(records: list[_Record]) -> list[_Record]:
    """Return all operations except those whose results are the same at every call.

    These results are already in memory after the recording.
    """
    changing: set[int] = set().union(
        *(record.writes for record in records if record.has_side_effects)
    )
    constant: set[int] = set()
    needed: list[_Record] = []
    for record in records:
        is_constant = record.func in _SHAPE_ONLY or record.reads <= constant
        if is_constant and not record.has_side_effects and not record.writes & changing:
            constant |= record.writes
        else:
            needed.append(record)
    return needed


def _replay_calls(record: _Record, moving: set[int]) -> list[Callable[[], Any]]:
    """Return a list with a function that repeats an operation, or an empty list for a view.

    A view is repeated only if the storage of its base is replaced at every call of the recorder.

    Args:
        record: Recorded operation.
        moving: Ids of storages that are replaced at every call of the recorder. If the returned
            function allocates new result tensors, the ids of their storages are added.
    """
    if record.is_view and not record.reads & moving:
        return []
    if record.func is aten._foreach_add_.Scalar:
        joined = _join_adjacent(record.args[0])
        if joined is not None:
            return [partial(joined.add_, torch.tensor(record.args[1], dtype=joined.dtype))]
    if is_mutating(record.func):
        return [partial(record.func, *record.args, **record.kwargs)]
    if not record.has_side_effects and not record.is_view:
        for function, name in _out_variants(record.func):
            result = record.results[0] if len(record.results) == 1 else tuple(record.results)
            if _is_equivalent(function, name, record):
                return [partial(function, *record.args, **record.kwargs, **{name: result})]
    moving |= {storage_id(tensor) for tensor in record.results}
    return [partial(_run_and_rebind, record)]


def _join_adjacent(parts: list[Tensor]) -> Tensor | None:
    """Return one vector that covers all tensors if they are adjacent in memory, else None."""
    first, stop = parts[0], parts[0].storage_offset()
    for part in parts:
        if storage_id(part) != storage_id(first) or part.storage_offset() != stop:
            return None
        if part.dtype != first.dtype or not part.is_contiguous():
            return None
        stop += part.numel()
    return first.as_strided((stop - first.storage_offset(),), (1,))


def _run_and_rebind(record: _Record) -> None:
    """Repeat an operation that allocates its results; point the recorded tensors to the results."""
    for recorded, result in zip(record.results, record.run(), strict=True):
        recorded.set_(result)  # type: ignore[call-overload]  # the stubs accept storages only


def _out_variants(func: Any) -> Iterator[tuple[Callable[..., Any], str]]:
    """Yield functions that may perform an operation with a given output tensor, fastest first.

    Each function is paired with the name of its output argument. The caller must check that the
    function computes the same result as the operation.
    """
    if func in _OUT_EQUIVALENTS:
        yield _OUT_EQUIVALENTS[func], "out"
    packet = func.overloadpacket
    binding = getattr(torch, packet.__name__, None)  # half the call overhead of the overload
    if binding is not None:
        yield binding, "out"
    names = argument_names(func)
    for overload in (getattr(packet, name) for name in packet.overloads()):
        outs = output_argument_names(overload)
        generated = torch.Tag.generated in overload.tags  # allocates the result and copies it
        if len(outs) == 1 and argument_names(overload) == names and not generated:
            yield overload, outs[0]


def _is_equivalent(function: Callable[..., Any], name: str, record: _Record) -> bool:
    """Return whether a function with an `out` argument computes the operation's result exactly."""
    expected = record.run()
    results = [torch.empty_like(tensor) for tensor in record.results]
    out = results[0] if len(results) == 1 else tuple(results)
    try:
        function(*record.args, **record.kwargs, **{name: out})
    except (TypeError, RuntimeError):
        return False
    return all(
        torch.equal(result.nan_to_num(), wanted.nan_to_num())
        for result, wanted in zip(results, expected, strict=True)
    )
