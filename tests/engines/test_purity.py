from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import pytest
from torch import nn

from dqn_lightning.engines import declare_pure, is_declared_pure
from dqn_lightning.losses import C51, DQN, IQN, QRDQN, Munchausen


@pytest.mark.parametrize(
    "objective", [DQN(), C51(), QRDQN(), IQN(), DQN(munchausen=Munchausen())], ids=repr
)
def test_the_objectives_of_the_package_are_declared_to_be_pure(objective: Any) -> None:
    assert is_declared_pure(objective)


def test_a_subclass_that_overrides_call_does_not_inherit_the_declaration() -> None:
    class Renamed(DQN):
        pass

    class Changed(DQN):
        def __call__(self, *args: Any) -> Any:
            return super().__call__(*args)

    class Declared(Changed):
        is_pure: ClassVar[bool] = True

    @dataclass(frozen=True)
    class Withdrawn(DQN):
        is_pure: ClassVar[bool] = False

    kinds: list[Any] = [Renamed, Changed, Declared, Withdrawn]
    assert [is_declared_pure(kind()) for kind in kinds] == [True, False, True, False]


def test_a_module_that_overrides_forward_does_not_inherit_the_declaration() -> None:
    class Pure(nn.Module):
        is_pure: ClassVar[bool] = True

    class Changed(Pure):
        def forward(self) -> None: ...

    assert is_declared_pure(Pure())
    assert not is_declared_pure(Changed())
    assert not is_declared_pure(nn.Identity())


def test_functions_and_methods_are_declared_by_a_decorator() -> None:
    class Owner:
        @declare_pure
        def declared(self) -> None: ...

        def undeclared(self) -> None: ...

    @declare_pure
    def function() -> None: ...

    assert is_declared_pure(function)
    assert is_declared_pure(partial(function))
    assert is_declared_pure(Owner().declared)
    assert not is_declared_pure(Owner().undeclared)
    assert not is_declared_pure(lambda: None)
    assert not is_declared_pure(partial(print))
