"""Each test names the private PyTorch API that is gone if it fails."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.summary_pb2 import Summary
from torch import Tensor, nn
from torch.optim import optimizer as optimizer_module
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)
from torch.utils.tensorboard import SummaryWriter

from dqn_lightning.internals.pytorch import (
    TorchDispatchMode,
    argument_names,
    copy_tensors_,
    has_forward_hooks,
    has_step_hooks,
    is_mutating,
    map_tensors,
    output_argument_names,
    storage_id,
    tensors_in,
    write_summary,
)
from dqn_lightning.types import PassNoise, UpdateNoise

aten = torch.ops.aten
PRIVATE_APIS: dict[str, Callable[[], Any]] = {
    "torch.utils._python_dispatch.TorchDispatchMode": lambda: (
        torch.utils._python_dispatch.TorchDispatchMode
    ),
    "torch.utils._pytree.tree_leaves": lambda: torch.utils._pytree.tree_leaves,
    "torch.utils._pytree.tree_map_only": lambda: torch.utils._pytree.tree_map_only,
    "UntypedStorage._cdata": lambda: torch.zeros(1).untyped_storage()._cdata,
    "torch._foreach_copy_": lambda: torch._foreach_copy_,
    "OpOverload._schema.is_mutable": lambda: aten.add.Tensor._schema.is_mutable,
    "OpOverload._schema.arguments.is_out": lambda: aten.add.out._schema.arguments[-1].is_out,
    "Module._forward_hooks": lambda: nn.Linear(1, 1)._forward_hooks,
    "Module._forward_pre_hooks": lambda: nn.Linear(1, 1)._forward_pre_hooks,
    "Optimizer._optimizer_step_pre_hooks": lambda: sgd()._optimizer_step_pre_hooks,
    "Optimizer._optimizer_step_post_hooks": lambda: sgd()._optimizer_step_post_hooks,
    "torch.optim.optimizer._global_optimizer_pre_hooks": lambda: (
        optimizer_module._global_optimizer_pre_hooks
    ),
    "torch.optim.optimizer._global_optimizer_post_hooks": lambda: (
        optimizer_module._global_optimizer_post_hooks
    ),
    "SummaryWriter._get_file_writer": lambda: SummaryWriter._get_file_writer,
}


def sgd() -> torch.optim.SGD:
    return torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)


@pytest.mark.parametrize("name", PRIVATE_APIS)
def test_the_private_api_exists(name: str) -> None:
    try:
        PRIVATE_APIS[name]()
    except (AttributeError, ImportError) as error:
        pytest.fail(
            f"PyTorch {torch.__version__} no longer has the private API {name}, which "
            f"dqn_lightning/internals/pytorch.py uses ({error}); replace it there"
        )


def test_views_share_a_storage_and_copies_do_not() -> None:
    x, empty = torch.zeros(4), torch.zeros(0)
    assert storage_id(x) == storage_id(x[1:]) == storage_id(x.view(2, 2))
    assert len({storage_id(x), storage_id(x.clone()), storage_id(empty)}) == 3


def test_tensors_are_found_in_nested_containers() -> None:
    a, b = torch.ones(1), torch.ones(2)
    tree = (UpdateNoise(online=PassNoise(taus=a)), [{"b": b}, None, 3])
    assert [len(tensor) for tensor in tensors_in(tree)] == [1, 2]
    doubled = map_tensors(lambda tensor: 2 * tensor, tree)
    assert torch.equal(doubled[0].online.taus, torch.full((1,), 2.0))
    assert doubled[1][1:] == [None, 3]


def test_several_tensors_are_copied_at_once() -> None:
    destinations = [torch.zeros(2), torch.zeros(3)]
    copy_tensors_(destinations, [torch.ones(2), torch.full((3,), 2.0)])
    assert [tensor.tolist() for tensor in destinations] == [[1, 1], [2, 2, 2]]


def test_schemas_tell_what_an_operation_writes_to() -> None:
    assert is_mutating(aten.add_.Tensor)
    assert not is_mutating(aten.add.Tensor)
    assert argument_names(aten.add.out) == argument_names(aten.add.Tensor)
    assert output_argument_names(aten.add.out) == ["out"]
    assert output_argument_names(aten.add.Tensor) == []


def test_forward_hooks_are_found() -> None:
    layer = nn.Linear(1, 1)
    assert not has_forward_hooks(layer)
    for register in (layer.register_forward_hook, layer.register_forward_pre_hook):
        handle = register(lambda *_: None)
        assert has_forward_hooks(layer)
        handle.remove()
    assert not has_forward_hooks(layer)


def test_step_hooks_are_found() -> None:
    optimizer = sgd()
    assert not has_step_hooks(optimizer)
    for register in (
        optimizer.register_step_pre_hook,
        optimizer.register_step_post_hook,
        register_optimizer_step_pre_hook,
        register_optimizer_step_post_hook,
    ):
        handle = register(lambda *_: None)
        assert has_step_hooks(optimizer)
        handle.remove()
    assert not has_step_hooks(optimizer)


def test_dispatch_modes_see_the_operations_of_the_backward_pass() -> None:
    class Names(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.names: list[str] = []

        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            self.names.append(func.overloadpacket.__name__)
            return func(*args, **(kwargs or {}))

    x: Tensor = torch.ones(3, requires_grad=True)
    with Names() as seen:
        torch.autograd.grad(x.tanh().sum(), x)
    assert "tanh" in seen.names
    assert "tanh_backward" in seen.names


def test_a_prepared_summary_is_written_to_tensorboard(tmp_path: Path) -> None:
    writer = SummaryWriter(str(tmp_path))
    image = Summary.Image(width=3, height=2, colorspace=3, encoded_image_string=b"GIF89a")
    write_summary(writer, Summary(value=[Summary.Value(tag="video", image=image)]), step=7)
    writer.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    (written,) = events.Images("video")
    assert (written.step, written.width, written.height) == (7, 3, 2)
    assert written.encoded_image_string == b"GIF89a"
