"""What follows the gradients: transforms and the optimiser's step, from a tape if possible."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim import optimizer as optimizer_module

from dqn_lightning.engines.eager import GradTransform
from dqn_lightning.engines.gradient import Gradient
from dqn_lightning.errors import UntraceableError


class Step:
    """Transforms the gradients and has the optimiser step.

    Of an optimiser's step on a small network four fifths are Python. So it is recorded too, once
    its settings and the transforms have stayed the same for two steps; when they change, it is
    called until they stay again. The first repetition is compared with the optimiser's own step.
    One that asks for numbers, as Adam does unless it is fused or capturable, or counts in Python,
    is called always.

    Args:
        gradient: What is transformed, and what the optimiser's parameters show.
        optimizer: Called, or repeated.
        grad_transforms: Applied in order; the list may still change.
        make_tape: Makes what steps are recorded on.
    """

    def __init__(
        self,
        gradient: Gradient,
        optimizer: Optimizer,
        grad_transforms: Sequence[GradTransform],
        make_tape: Callable[[], Any],
    ) -> None:
        self._gradient = gradient
        self._optimizer = optimizer
        self._grad_transforms = grad_transforms
        self._settings: Any = None  # of the step before, and of the tape
        self._make_tape = make_tape
        self._tape: Any = None
        self._is_trusted = False
        self._can_be_recorded = True

    def __call__(self) -> None:
        """Take the step."""
        groups = self._optimizer.param_groups
        if self._settings != (self._grad_transforms, groups):
            self._settings = list(self._grad_transforms), [dict(group) for group in groups]
            self._tape, self._is_trusted = None, False
            self._take()
        elif self._is_trusted:
            self._tape()
        elif not self._can_be_recorded:
            self._take()
        elif self._tape is None:
            self._record()
        else:
            self._compare(self._tape)

    def _take(self) -> None:
        whole = self._gradient.vector
        for transform in self._grad_transforms:
            if getattr(transform, "is_joint", False):
                (whole,) = transform([whole])
            else:
                parts = transform(self._gradient.parts(whole))
                whole = torch.cat([part.flatten() for part in parts])
        if whole is not self._gradient.vector:
            self._gradient.vector.copy_(whole)
        self._optimizer.step()

    def _record(self) -> None:
        if _is_hooked(self._optimizer):
            self._take()
            return
        _put_counters_together(self._optimizer)
        tape, before, counted = self._make_tape(), self._state(), self._counts()
        try:
            with tape:
                self._take()
            tape.keep()
        except (RuntimeError, UntraceableError):
            self._can_be_recorded = False
            take_back(before)
            self._take()
            return
        if self._counts() != counted:  # it counts in Python
            self._can_be_recorded = False
            return
        self._tape, self._is_trusted = tape, False

    def _compare(self, tape: Any) -> None:
        before = self._state()
        tape()
        repeated = [value for _, value in self._state()]
        take_back(before)
        self._take()
        own = [value for _, value in self._state()]
        self._is_trusted = all(map(agree, repeated, own))
        if not self._is_trusted:
            self._can_be_recorded, self._tape = False, None

    def _counts(self) -> list[Any]:
        """What the optimiser keeps that is no tensor."""
        kept = [vars(self._optimizer), *self._optimizer.state.values()]
        return [v for values in kept for v in values.values() if isinstance(v, (int, float))]

    def _state(self) -> list[tuple[Tensor, Tensor]]:
        """A snapshot of everything that a step changes."""
        groups = self._optimizer.param_groups
        tensors = [
            self._gradient.vector,
            *(p.detach() for group in groups for p in group["params"]),
        ]
        for state in self._optimizer.state.values():
            tensors += [value for value in state.values() if isinstance(value, Tensor)]
        return snapshot(tensors)


def snapshot(tensors: Iterable[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Tensors, and copies of what they hold."""
    return [(tensor, tensor.clone()) for tensor in tensors]


def take_back(taken: list[tuple[Tensor, Tensor]]) -> None:
    """Put back what tensors held when the snapshot was taken."""
    for tensor, value in taken:
        tensor.copy_(value)


def _put_counters_together(optimizer: Optimizer) -> None:
    """Have the steps that are counted, one for each parameter, lie side by side: one operation."""
    counting = [state for state in optimizer.state.values() if "step" in state]
    counts = [state["step"] for state in counting]
    if counts and all(isinstance(count, Tensor) for count in counts):
        for state, count in zip(counting, torch.stack(counts), strict=True):
            state["step"] = count


def _is_hooked(optimizer: Optimizer) -> bool:
    return any(
        (
            optimizer._optimizer_step_pre_hooks,
            optimizer._optimizer_step_post_hooks,
            optimizer_module._global_optimizer_pre_hooks,
            optimizer_module._global_optimizer_post_hooks,
        )
    )


def agree(a: Tensor, b: Tensor) -> bool:
    """Whether two ways to compute a tensor came to the same: to the bit on a CPU."""
    if a.device.type == "cpu":
        return torch.equal(a.nan_to_num(), b.nan_to_num())
    return torch.allclose(a, b, rtol=1e-4, atol=1e-6, equal_nan=True)
