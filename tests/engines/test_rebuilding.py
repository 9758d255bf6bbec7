from typing import Any

import pytest
import torch

from dqn_lightning import distributed
from dqn_lightning.engines import RebuildingEngine
from tests.helpers.engines import batches, make


def make_rebuilding(name: Any = "recorded") -> tuple[Any, Any, Any]:
    """Return an engine after its first update, its online network and its optimizer."""
    device = torch.device("cpu")
    created: dict[str, Any] = {}

    def create(*parts: Any) -> RebuildingEngine:
        created["optimizer"] = parts[3]
        created["online"] = parts[0]
        return RebuildingEngine(name, device, *parts)

    engine = make(create)
    engine.update(next(batches()))
    engine.remember_tensors()
    return engine, created["online"], created["optimizer"]


def test_an_engine_is_kept_if_nothing_was_replaced() -> None:
    engine, online, _ = make_rebuilding()
    online.load_state_dict(online.state_dict())  # copies in place
    assert not engine.rebuild_if_replaced()


@pytest.mark.parametrize("what", ["parameter", "optimizer state", "hook", "layer"])
def test_an_engine_is_rebuilt_once_if_something_was_replaced(what: str) -> None:
    engine, online, optimizer = make_rebuilding("auto")
    if what == "parameter":
        parameter = next(online.parameters())
        parameter.data = parameter.data.clone()
    elif what == "optimizer state":
        optimizer.load_state_dict(optimizer.state_dict())
        for values in optimizer.state.values():
            values["exp_avg"] = values["exp_avg"].clone()
    elif what == "layer":
        online.add_module("extra", torch.nn.Identity())
    else:
        online.torso.register_forward_hook(lambda *_: None)
    if what == "hook":
        with pytest.warns(UserWarning, match="forward hooks"):
            assert engine.rebuild_if_replaced()
    else:
        assert engine.rebuild_if_replaced()
    assert engine.name == ("eager" if what == "hook" else "recorded")
    assert not engine.rebuild_if_replaced()


def test_all_ranks_rebuild_if_one_of_them_does(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, *_ = make_rebuilding()
    monkeypatch.setattr(distributed, "all_reduce_max", lambda value: 1)
    before = engine._engine
    assert engine.rebuild_if_replaced()
    assert engine._engine is not before
