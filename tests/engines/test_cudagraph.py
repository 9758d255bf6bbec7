"""The CUDA engine on the CPU, with fake streams and graphs."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from dqn_lightning.engines import CUDAGraph, Eager, declare_pure, optimizer_step
from dqn_lightning.engines.cudagraph import CapturedGraph, CapturedOptimizerStep
from dqn_lightning.engines.op_recorder import OpRecorder
from dqn_lightning.errors import NotRecordableError
from dqn_lightning.losses import DQN, ObjectiveOutput
from tests.helpers.engines import OPTIMIZERS, batches, make, state, train


class FakeCUDA:
    """Stands in for the functions of `torch.cuda` that a capture uses.

    Attributes:
        stream: The current stream.
        calls: What was called, in order.
        fails_at: Method of the graph that raises, if any.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fails_at: str | None = None) -> None:
        self.stream = "default"
        self.calls: list[str] = []
        self.fails_at = fails_at
        cuda = self

        class Graph:
            def replay(self) -> None: ...

        class Capture:
            def __init__(self, graph: Graph) -> None: ...

            def __enter__(self) -> None:
                cuda.stream = "capture"
                cuda.call("capture_begin")

            def __exit__(self, *error: Any) -> None:
                cuda.call("capture_end")
                cuda.stream = "default"

        class Stream:
            def wait_stream(self, other: Any) -> None: ...

        @contextmanager
        def stream_context(stream: Any) -> Iterator[None]:
            yield

        def set_stream(stream: Any) -> None:
            self.stream = stream

        def current_stream() -> Any:
            return Current(self.stream)

        class Current(str):
            def wait_stream(self, other: Any) -> None: ...

        monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
        monkeypatch.setattr(torch.cuda, "graph", Capture)
        monkeypatch.setattr(torch.cuda, "Stream", Stream)
        monkeypatch.setattr(torch.cuda, "stream", stream_context)
        monkeypatch.setattr(torch.cuda, "set_stream", set_stream)
        monkeypatch.setattr(torch.cuda, "current_stream", current_stream)

    def call(self, name: str) -> None:
        self.calls.append(name)
        if name == self.fails_at:
            raise RuntimeError(f"{name} failed\nwith a second line")


class OnCPU(CUDAGraph):
    """The engine with recordings in place of graphs."""

    device_type = "cpu"

    def make_recorder(self) -> OpRecorder:
        return OpRecorder()


@pytest.mark.parametrize("fails_at", ["capture_begin", "capture_end"])
def test_the_previous_stream_is_current_after_a_failed_capture(
    fails_at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda = FakeCUDA(monkeypatch, fails_at)
    with (
        pytest.raises((RuntimeError, NotRecordableError), match=f"{fails_at} failed"),
        CapturedGraph(),
    ):
        assert cuda.stream == "capture"
    assert cuda.stream == "default"


def test_an_error_within_a_capture_is_the_reason_that_is_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cuda = FakeCUDA(monkeypatch)
    with (
        pytest.raises(NotRecordableError, match="operation not permitted") as caught,
        CapturedGraph(),
    ):
        raise RuntimeError("operation not permitted when the stream is capturing\nat line 3")
    assert "at line 3" not in str(caught.value)
    assert cuda.stream == "default"


@declare_pure
def reads_a_value(online: Any, target: Any, batch: Any) -> ObjectiveOutput:
    output = DQN()(online, target, batch)
    return output._replace(loss=output.loss * float(output.priority.mean()))


def test_operations_that_cannot_be_captured_are_found_before_the_capture(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cuda = FakeCUDA(monkeypatch)
    monkeypatch.setattr(OnCPU, "make_recorder", CUDAGraph.make_recorder)
    engine = make(OnCPU, objective=reads_a_value)
    with pytest.raises(NotRecordableError, match="data-dependent"):
        engine.update(next(batches()))
    assert cuda.calls == []


class Capturable(torch.optim.SGD):
    """SGD with step counters on the CPU unless it is capturable; notes its settings."""

    def __init__(self, parameters: Any, lr: float, capturable: bool = False) -> None:
        super().__init__(parameters, lr=lr)
        self.defaults["capturable"] = capturable
        self.param_groups[0]["capturable"] = capturable
        self.seen: list[tuple[bool, bool]] = []

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        (group,) = self.param_groups
        is_tensor = isinstance(group["lr"], Tensor)
        self.seen.append((group["capturable"], is_tensor))
        for parameter in group["params"]:
            counter = self.state[parameter].setdefault("step", torch.tensor(0.0))
            counter.add_(1)
            parameter.sub_(group["lr"] * parameter.grad)


@pytest.fixture
def _capturable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(optimizer_step, "RECORDABLE_OPTIMIZERS", {Capturable})
    OPTIMIZERS["capturable"] = partial(Capturable, lr=1e-2)
    yield
    del OPTIMIZERS["capturable"]


def decay(i: int) -> float:
    return 1e-2 / (1 + i)


@pytest.mark.usefixtures("_capturable")
def test_a_learning_rate_that_always_changes_does_not_prevent_the_capture(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    FakeCUDA(monkeypatch)
    engine = make(OnCPU, optimizer="capturable")
    outputs, weights = train(engine, batches(num_batches=30), decay)
    assert len(engine.optimizer.seen) < 10  # later steps repeat the graph
    expected, expected_weights = train(
        make(Eager, optimizer="capturable"), batches(num_batches=30), decay
    )
    torch.testing.assert_close(outputs, expected)
    torch.testing.assert_close(weights, expected_weights)


@pytest.mark.usefixtures("_capturable")
def test_settings_for_a_capture_do_not_reach_a_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeCUDA(monkeypatch)
    engine = make(OnCPU, optimizer="capturable")
    for i in range(1, 6):
        train(engine, batches(num_batches=1), lambda _, i=i: decay(i))  # type: ignore[misc]
        (group,) = engine.optimizer.state_dict()["param_groups"]
        assert group["capturable"] is False
        assert type(group["lr"]) is float
        assert group["lr"] == decay(i)
    assert set(engine.optimizer.seen) == {(True, True)}


@pytest.mark.usefixtures("_capturable")
def test_settings_are_restored_if_the_optimizer_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeCUDA(monkeypatch)
    engine = make(OnCPU, optimizer="capturable")

    def fails(closure: Any = None) -> None:
        assert engine.optimizer.param_groups[0]["capturable"]
        raise KeyError("a bug")

    engine.optimizer.step = fails
    with pytest.raises(KeyError):
        engine.update(next(batches()))
    assert engine.optimizer.param_groups[0]["capturable"] is False
    assert engine.optimizer.param_groups[0]["lr"] == 1e-2


def test_schedulers_see_plain_learning_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeCUDA(monkeypatch)
    engine = make(OnCPU, optimizer="fused_adam")
    schedule = torch.optim.lr_scheduler.LinearLR(engine.optimizer, 1.0, 0.1, total_iters=10)
    for batch in batches(num_batches=10):
        engine.update(batch)
        schedule.step()
    assert type(engine.optimizer.param_groups[0]["lr"]) is float
    assert all(type(lr) is float for lr in schedule.state_dict()["_last_lr"])
    assert engine.optimizer.param_groups[0]["lr"] == pytest.approx(1e-4)


class OnMeta(CapturedOptimizerStep):
    """Pretends that the gradient lies on the `meta` device."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        class Gradient:
            vector = torch.zeros(1, device="meta")

        super().__init__(Gradient(), optimizer, [], OpRecorder)


@pytest.mark.parametrize(
    ("name", "moved"), [("adagrad", False), ("adam", True), ("fused_adam", False)]
)
def test_only_the_step_counters_of_capturable_optimizers_move(name: str, moved: bool) -> None:
    eager = make(Eager, optimizer=name)
    eager.update(next(batches()))
    optimizer = eager.optimizer
    values = [values["step"].item() for values in optimizer.state.values()]
    step = OnMeta(optimizer)
    devices = {values["step"].device.type for values in optimizer.state.values()}
    assert devices == ({"meta"} if moved else {"cpu"})
    if not moved:
        step.close()
        assert values == [values["step"].item() for values in optimizer.state.values()]


def test_step_counters_move_back_when_the_engine_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    moves: list[str] = []
    monkeypatch.setattr(
        CapturedOptimizerStep, "_move_counters", lambda self, device: moves.append(device.type)
    )
    FakeCUDA(monkeypatch)
    engine = make(OnCPU, optimizer="adam")
    engine.close()
    assert len(moves) == 2
    assert moves[-1] == "cpu"


def test_counters_on_another_device_than_the_graph_prevent_the_capture_of_the_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    FakeCUDA(monkeypatch)
    engine = make(OnCPU, optimizer="sgd")
    engine.optimizer.state[engine.parameters[0]]["step"] = torch.zeros(1, device="meta")
    calls, step = [], engine.optimizer.step
    engine.optimizer.step = lambda: (calls.append(1), step())
    monkeypatch.setattr("dqn_lightning.engines.optimizer_step._join_step_counters", lambda _: None)
    for batch in batches(num_batches=8):
        engine.update(batch)
    assert len(calls) == 8


# PyTorch refuses `capturable=True` on the CPU for the others.
@pytest.mark.parametrize("optimizer", ["fused_adam", "decayed", "sgd", "momentum", "adagrad"])
def test_the_engine_trains_as_eager(optimizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeCUDA(monkeypatch)
    engine = make(OnCPU, optimizer=optimizer, transforms="norm")
    eager = make(Eager, optimizer=optimizer, transforms="norm")
    expected, _ = train(eager, batches(num_batches=20))
    outputs, _ = train(engine, batches(num_batches=20))
    torch.testing.assert_close(outputs, expected)
    torch.testing.assert_close(state(engine.online), state(eager.online))
