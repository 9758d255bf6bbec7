"""Operations written down once, to be executed again without what surrounded them."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map_only

from dqn_lightning.errors import UntraceableError

aten = torch.ops.aten

_ASKS_FOR_VALUES = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
_FROM_SHAPES = {
    aten.zeros_like.default,
    aten.ones_like.default,
    aten.new_zeros.default,
    aten.new_ones.default,
}
"""What they give follows from the shapes of what they take."""
_WRITES_UNSAID = {aten.native_batch_norm.default, aten.cudnn_batch_norm.default}
"""They update running statistics, of which their schemas say nothing."""
_EQUAL: dict[Any, Callable[..., Tensor]] = {
    aten.relu.default: lambda x, out: torch.clamp_min(x, 0, out=out),
    aten.clone.default: lambda x, out, **_: out.copy_(x),
    aten._to_copy.default: lambda x, out, **_: out.copy_(x),
}
"""The same for operations that cannot be given memory to write into."""


class Tape(TorchDispatchMode):  # type: ignore[no-untyped-call]  # PyTorch has it untyped
    """Records tensor operations while they run, and repeats them.

    Within `with tape:` every operation runs as usual and is written down with the tensors that it
    took and gave; `keep` ends the recording. Calling the tape then executes the operations again,
    in order, on what those tensors hold by then, and each writes its result where the first one
    was. Autograd, modules and all other Python are not there any more, and hardly any memory is
    allocated. As a view shares its memory with what it shows, views need no operation. What was
    never written by an operation (inputs, parameters, constants) is read, so it must be changed in
    place if it changes. Operations whose results nobody reads, or can be known before, are left
    out; the others are the same as they were, and so are their numbers.

    Raises:
        UntraceableError: If an operation gives a number to Python, or a tensor whose shape depends
            on numbers: what follows could then be different each time.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # the same
        self._records: list[_Record] = []
        self._tensors: dict[Any, Tensor] = {}  # one for each place in memory
        self._calls: list[Callable[[], Any]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation and write it down."""
        if _ASKS_FOR_VALUES.intersection(func.tags) and not _is_by_numbers(func, args):
            raise UntraceableError(f"{func} gives Python what depends on numbers")
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        args, kwargs = tree_map_only(Tensor, self.tensor, (args, kwargs))
        results = [self.tensor(tensor) for tensor in tensors(result)]
        self._records.append(_Record(func, args, kwargs, results))
        return result

    def tensor(self, tensor: Tensor) -> Tensor:
        """The one that stands for this and any other that shows the same memory in the same way."""
        place = (_memory(tensor), tensor.storage_offset(), *tensor.shape, *tensor.stride())
        return self._tensors.setdefault((*place, tensor.dtype), tensor.detach())

    def keep(self, *results: Tensor) -> list[Tensor]:
        """End the recording; gives the tensors that hold these results after every call."""
        kept = [self.tensor(result) for result in results]
        needed = _without_what_is_known(_without_what_nobody_reads(self._records, kept))
        moving: set[int] = set()  # memory that is another one after every call
        for record in needed:
            self._calls += _bound(record, moving)
        self._records.clear()
        self._tensors.clear()
        return kept

    def __len__(self) -> int:
        """Number of operations."""
        return len(self._calls)

    def __call__(self) -> None:
        """Execute the operations once more."""
        with torch.inference_mode():
            for call in self._calls:
                call()


def _is_by_numbers(func: Any, args: Any) -> bool:
    """Whether this is indexing by integers: the shape of what it gives is known."""
    masks = (torch.bool, torch.uint8)
    return func is aten.index.Tensor and all(t.dtype not in masks for t in tensors(args[1]))


class _Record(NamedTuple):
    """An operation, what it took and what it gave."""

    func: Any
    args: Any
    kwargs: dict[str, Any]
    results: list[Tensor]

    @property
    def reads(self) -> set[int]:
        """Memory that is read, or written in place."""
        return {_memory(tensor) for tensor in tensors((self.args, self.kwargs))}

    @property
    def writes(self) -> set[int]:
        """Memory that results lie in, or that is written in place."""
        written = {_memory(tensor) for tensor in self.results}
        return written | self.reads if self.has_effect else written

    @property
    def has_effect(self) -> bool:
        """Whether it does more than give results: writes in place, draws random numbers."""
        tags, schema = self.func.tags, self.func._schema
        random = torch.Tag.nondeterministic_seeded in tags
        return random or schema.is_mutable or self.func in _WRITES_UNSAID

    @property
    def is_view(self) -> bool:
        """Whether the results lie in memory that was there before."""
        return not self.has_effect and {_memory(tensor) for tensor in self.results} <= self.reads

    def run(self) -> list[Tensor]:
        return tensors(self.func(*self.args, **self.kwargs))


def tensors(tree: Any) -> list[Tensor]:
    """All tensors in tuples, lists and dictionaries."""
    return [leaf for leaf in tree_iter(tree) if isinstance(leaf, Tensor)]


def _memory(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _without_what_nobody_reads(records: list[_Record], kept: list[Tensor]) -> list[_Record]:
    read = {_memory(tensor) for tensor in kept}
    needed: list[_Record] = []
    for record in reversed(records):
        if record.has_effect or record.writes & read:
            if record.func not in _FROM_SHAPES:
                read |= record.reads
            needed.append(record)
    return needed[::-1]


def _without_what_is_known(records: list[_Record]) -> list[_Record]:
    """Without what is the same in every call, and so is there already."""
    changing: set[int] = set().union(*(record.writes for record in records if record.has_effect))
    known: set[int] = set()
    needed: list[_Record] = []
    for record in records:
        is_known = record.func in _FROM_SHAPES or record.reads <= known
        if is_known and not record.has_effect and not record.writes & changing:
            known |= record.writes
        else:
            needed.append(record)
    return needed


def _bound(record: _Record, moving: set[int]) -> list[Callable[[], Any]]:
    """The call that repeats an operation, if it takes one."""
    if record.is_view and not record.reads & moving:
        return []
    if record.func is aten._foreach_add_.Scalar and (whole := _whole(record.args[0])) is not None:
        return [partial(whole.add_, torch.tensor(record.args[1], dtype=whole.dtype))]
    if record.func._schema.is_mutable:
        return [partial(record.func, *record.args, **record.kwargs)]
    if not record.has_effect and not record.is_view:
        for function, name in _with_out(record.func):
            result = record.results[0] if len(record.results) == 1 else tuple(record.results)
            if _does_the_same(function, name, record):
                return [partial(function, *record.args, **record.kwargs, **{name: result})]
    moving |= {_memory(tensor) for tensor in record.results}
    return [partial(_move, record)]


def _whole(parts: list[Tensor]) -> Tensor | None:
    """One tensor of these, if they lie side by side and without gaps."""
    first, stop = parts[0], parts[0].storage_offset()
    for part in parts:
        if _memory(part) != _memory(first) or part.storage_offset() != stop:
            return None
        if part.dtype != first.dtype or not part.is_contiguous():
            return None
        stop += part.numel()
    return first.as_strided((stop - first.storage_offset(),), (1,))


def _move(record: _Record) -> None:
    """Repeat an operation that chooses its memory, and have its tensors show that."""
    for kept, result in zip(record.results, record.run(), strict=True):
        kept.set_(result)  # type: ignore[call-overload]  # its stubs know storages only


def _with_out(func: Any) -> Iterator[tuple[Callable[..., Any], str]]:
    """Functions that might do what an operation does, but write into given memory."""
    if func in _EQUAL:
        yield _EQUAL[func], "out"
    packet = func.overloadpacket
    binding = getattr(torch, packet.__name__, None)  # takes half the time of the operation itself
    if binding is not None:
        yield binding, "out"
    names = [argument.name for argument in func._schema.arguments]
    for overload in (getattr(packet, name) for name in packet.overloads()):
        arguments = overload._schema.arguments
        outs = [argument.name for argument in arguments if argument.is_out]
        others = [argument.name for argument in arguments if not argument.is_out]
        generated = torch.Tag.generated in overload.tags  # these copy what the operation gives
        if len(outs) == 1 and others == names and not generated:
            yield overload, outs[0]


def _does_the_same(function: Callable[..., Any], name: str, record: _Record) -> bool:
    expected = record.run()
    given = [torch.empty_like(tensor) for tensor in record.results]
    out = given[0] if len(given) == 1 else tuple(given)
    try:
        function(*record.args, **record.kwargs, **{name: out})
    except (TypeError, RuntimeError):
        return False
    return all(
        torch.equal(ours.nan_to_num(), theirs.nan_to_num())
        for ours, theirs in zip(given, expected, strict=True)
    )
