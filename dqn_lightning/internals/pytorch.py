"""Access to private PyTorch APIs.

Checked against PyTorch 2.14.1; the package supports PyTorch >= 2.6. If one of these APIs is removed
or changes its meaning, `tests/internals/test_pytorch.py` fails.
"""

from collections.abc import Callable
from typing import Any

import torch
from tensorboard.compat.proto.summary_pb2 import Summary
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim import optimizer as optimizer_module
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.tensorboard import SummaryWriter

__all__ = [
    "TorchDispatchMode",
    "argument_names",
    "copy_tensors_",
    "count_forward_hooks",
    "has_forward_hooks",
    "has_step_hooks",
    "is_mutating",
    "map_tensors",
    "output_argument_names",
    "storage_id",
    "tensors_in",
    "write_summary",
]
# `TorchDispatchMode` intercepts every operation below autograd. PyTorch documents it, but has no
# public import path for it.


def tensors_in(tree: Any) -> list[Tensor]:
    """Return all tensors in nested tuples, lists and dictionaries, in order.

    NamedTuples, such as batches, are traversed too. This uses the private `torch.utils._pytree`,
    because its public counterpart, `torch.utils.pytree`, does not exist in PyTorch 2.6.
    """
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def map_tensors(function: Callable[[Tensor], Any], tree: Any) -> Any:
    """Return nested tuples, lists and dictionaries with a function applied to every tensor."""
    return tree_map_only(Tensor, function, tree)


def storage_id(tensor: Tensor) -> int:
    """Return a number that identifies a tensor's storage; a view has the same number as its base.

    The public `data_ptr()` is 0 for every empty tensor, so it does not identify a storage.
    """
    return int(tensor.untyped_storage()._cdata)


def copy_tensors_(destinations: list[Tensor], sources: list[Tensor] | tuple[Tensor, ...]) -> None:
    """Copy `sources` into `destinations` in one call, which is faster than a call per tensor."""
    torch._foreach_copy_(destinations, sources)


def is_mutating(operation: Any) -> bool:
    """Return whether an operation writes to one of its arguments, according to its schema."""
    return bool(operation._schema.is_mutable)


def argument_names(operation: Any) -> list[str]:
    """Return the names of an operation's input arguments, excluding `out` arguments."""
    return [argument.name for argument in operation._schema.arguments if not argument.is_out]


def output_argument_names(operation: Any) -> list[str]:
    """Return the names of an operation's `out` arguments."""
    return [argument.name for argument in operation._schema.arguments if argument.is_out]


def has_forward_hooks(module: nn.Module) -> bool:
    """Return whether a module has forward hooks or forward pre-hooks.

    PyTorch can register hooks, but has no public way to list them.
    """
    return count_forward_hooks(module) > 0


def count_forward_hooks(module: nn.Module) -> int:
    """Return the number of a module's forward hooks and forward pre-hooks."""
    return len(module._forward_hooks) + len(module._forward_pre_hooks)


def has_step_hooks(optimizer: Optimizer) -> bool:
    """Return whether `optimizer.step()` calls any hooks, registered on it or globally.

    PyTorch can register hooks, but has no public way to list them.
    """
    return bool(
        optimizer._optimizer_step_pre_hooks
        or optimizer._optimizer_step_post_hooks
        or optimizer_module._global_optimizer_pre_hooks
        or optimizer_module._global_optimizer_post_hooks
    )


def write_summary(writer: SummaryWriter, summary: Summary, step: int) -> None:
    """Write a prepared summary, such as an encoded GIF image, to TensorBoard.

    The public image methods of `SummaryWriter` encode images themselves and support only single
    frames.

    Args:
        writer: TensorBoard writer.
        summary: Summary protocol buffer to write.
        step: Step at which TensorBoard displays the summary.
    """
    writer._get_file_writer().add_summary(summary, step)  # type: ignore[no-untyped-call]
