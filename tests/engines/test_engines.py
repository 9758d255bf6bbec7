"""All engines compute the same results as the eager one, or give the reason why they cannot."""

import copy
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dqn_lightning import distributed
from dqn_lightning.callbacks.gradient_clamp import GradientClamp
from dqn_lightning.engines import (
    CUDAGraph,
    Eager,
    Recorded,
    WithFallback,
    declare_pure,
    make_engine,
)
from dqn_lightning.errors import ConfigError, NotRecordableError
from dqn_lightning.losses import C51, DQN, IQN, QRDQN, Munchausen, ObjectiveOutput
from dqn_lightning.networks import MLP, QNetwork, ValueHead
from dqn_lightning.types import Batch
from tests.helpers import training
from tests.helpers.engines import (
    CLAMP,
    NETWORKS,
    OPTIMIZERS,
    TRANSFORMS,
    batches,
    make,
    state,
    train,
)


def assert_equals_eager(lr: Callable[[int], float] | None = None, **settings: Any) -> None:
    network = settings.get("network", "mlp")
    (expected, expected_weights), (actual, weights) = (
        train(make(kind, **settings), batches(network), lr) for kind in (Eager, Recorded)
    )
    assert torch.equal(weights, expected_weights)
    assert torch.equal(actual, expected)


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("loss", ["huber", "squared"])
@pytest.mark.parametrize("network", NETWORKS)
def test_recorded_equals_eager_for_every_network(network: str, loss: Any, double: bool) -> None:
    assert_equals_eager(network=network, objective=DQN(loss, double))


OBJECTIVES: dict[str, Any] = {
    "rescaled": DQN(rescaled=True),
    "rescaled, double": DQN("squared", double=True, rescaled=True),
    "munchausen": DQN(munchausen=Munchausen()),
    "c51": C51(v_min=-3, v_max=3),
    "c51, double": C51(11, v_min=-3, v_max=3, double=True),
    "qrdqn": QRDQN(num_quantiles=20),
    "qrdqn, double": QRDQN(num_quantiles=5, kappa=0, double=True),
    "qrdqn, munchausen": QRDQN(num_quantiles=5, munchausen=Munchausen()),
    "iqn": IQN(),
    "iqn, double": IQN(double=True),
    "iqn, munchausen": IQN(munchausen=Munchausen()),
}


@pytest.mark.parametrize(
    "switches", [{}, {"dueling": True, "noisy": True}], ids=["plain", "dueling and noisy"]
)
@pytest.mark.parametrize("objective", ["plain", *OBJECTIVES])
def test_recorded_equals_eager_for_every_objective_and_head(objective: str, switches: Any) -> None:
    assert_equals_eager(objective=OBJECTIVES.get(objective, DQN()), **switches)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_trains_in_mixed_precision(objective: str) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False):
        settings = {"objective": OBJECTIVES[objective], "dueling": True, "noisy": True}
        exact, rounded = (
            train(make(kind, **settings), batches(num_batches=20))[1] for kind in (Eager, Recorded)
        )
    assert torch.isfinite(exact).all()
    torch.testing.assert_close(rounded, exact, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_recorded_equals_eager_for_every_objective_on_images(objective: str) -> None:
    assert_equals_eager(network="cnn", objective=OBJECTIVES[objective], dueling=True, noisy=True)


@pytest.mark.parametrize("transforms", TRANSFORMS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_recorded_equals_eager_for_every_optimizer_and_transform(
    optimizer: str, transforms: str
) -> None:
    assert_equals_eager(optimizer=optimizer, transforms=transforms)


@pytest.mark.parametrize("lr", [lambda i: 1e-3 / (1 + i), lambda i: 1e-3 * 0.5 ** (i // 30)])
@pytest.mark.parametrize("optimizer", ["fused_adam", "momentum", "adam"])
def test_changes_of_the_learning_rate_take_effect(
    optimizer: str, lr: Callable[[int], float]
) -> None:
    assert_equals_eager(optimizer=optimizer, lr=lr)


def test_added_and_removed_transforms_take_effect() -> None:
    def weights(kind: Any) -> Tensor:
        transforms: list[Any] = []
        engine = make(kind, transforms=transforms)
        for i, batch in enumerate(batches(num_batches=60)):
            if i == 20:
                transforms.append(CLAMP._clamp_norm)
            if i == 40:
                transforms.clear()
            engine.update(batch)
        return torch.cat([p.detach().flatten() for p in engine.online.parameters()])

    assert torch.equal(weights(Eager), weights(Recorded))


def test_the_batch_size_may_change() -> None:
    def data() -> Iterator[Batch]:
        for size in (16, 7, 16):
            yield from batches(num_batches=5, size=size)

    results = []
    for kind in (Eager, Recorded):
        engine = make(kind)
        results.append([engine.update(batch).loss.clone() for batch in data()])
    assert all(map(torch.equal, *results))


@declare_pure
def index_by_integers(online: Any, target: Any, batch: Batch) -> ObjectiveOutput:
    """Select action values by indexing with integer tensors."""
    chosen = online(batch.obs).q_values[torch.arange(len(batch.action)), batch.action]
    with torch.no_grad():
        best = target(batch.next_obs).q_values.amax(1)
    error = batch.reward + batch.discount * best - chosen
    return ObjectiveOutput(error**2, error.detach().abs())


def test_indexing_by_integers_is_recorded() -> None:
    assert_equals_eager(objective=index_by_integers)


def test_gradients_that_a_user_computes_do_not_affect_updates() -> None:
    results = []
    for kind in (Eager, Recorded):
        engine = make(kind)
        for i, batch in enumerate(batches(num_batches=30)):
            if i in (3, 17):  # for example, to log them
                engine.online.zero_grad()
                engine.online(batch.obs).q_values.sum().backward()
            engine.update(batch)
        results.append(state(engine.online))
    assert torch.equal(*results)


class Counting(torch.optim.SGD):
    """Decays the weights at every 20th step; keeps the number of steps in a list."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.calls = [0]

    def step(self, closure: Any = None) -> Any:
        result = super().step(closure)
        self.calls[0] += 1
        if self.calls[0] % 20 == 0:
            with torch.no_grad():
                for parameter in self.param_groups[0]["params"]:
                    parameter.mul_(0.9)
        return result


class CountingInState(Counting):
    """Also keeps the number of steps as a plain number in the optimizer's state."""

    def step(self, closure: Any = None) -> Any:
        self.state["calls"] = self.calls[0]
        self.state["history"] = {"of": [torch.tensor(1.0)]}
        return super().step(closure)


@pytest.mark.parametrize("optimizer", [Counting, CountingInState])
def test_the_steps_of_custom_optimizers_are_not_recorded(
    optimizer: type, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(OPTIMIZERS, "custom", partial(optimizer, lr=1e-2))
    with caplog.at_level("INFO", "lightning.pytorch.utilities.rank_zero"):
        assert_equals_eager(optimizer="custom")
    (message,) = caplog.messages
    assert message.startswith(f"model.optimizer: the steps of {optimizer.__name__} are executed")


@pytest.mark.parametrize("engine", ["eager", "recorded"])
def test_a_custom_optimizer_trains_with(engine: Any) -> None:
    module, data = training.make(
        module={"optimizer": partial(CountingInState, lr=1e-2), "engine": engine}
    )
    training.train(module, data)
    assert module.progress.grad_steps == 251


def test_hooks_of_the_optimizer_are_called() -> None:
    engine, calls = make(Recorded), []
    engine.optimizer.register_step_post_hook(lambda *_: calls.append(1))
    train(engine, batches(num_batches=10))
    assert len(calls) == 10


def test_the_grad_attributes_of_parameters_hold_the_gradients() -> None:
    engines = [make(kind, transforms="norm") for kind in (Eager, Recorded)]
    for batch in batches(num_batches=6):
        for engine in engines:
            engine.online.zero_grad()
            engine.update(batch)
        gradients = [[p.grad for p in engine.online.parameters()] for engine in engines]
        assert all(map(torch.equal, *gradients))


@pytest.mark.parametrize("optimizer", ["fused_adam", "momentum", "sgd"])
@pytest.mark.parametrize("number", [0, 1, 20])
def test_the_optimizer_state_is_saved_per_parameter(optimizer: str, number: int) -> None:
    eager, fast = (make(kind, optimizer=optimizer) for kind in (Eager, Recorded))
    for engine in (eager, fast):
        train(engine, batches(num_batches=number)) if number else None
    saved = [copy.deepcopy(engine.optimizer.state_dict()) for engine in (eager, fast)]
    fast.close()
    saved.append(fast.optimizer.state_dict())
    for saved_state in saved[1:]:
        assert saved_state["param_groups"] == saved[0]["param_groups"]
        assert saved_state["state"].keys() == saved[0]["state"].keys()
        for ours, theirs in zip(
            saved_state["state"].values(), saved[0]["state"].values(), strict=True
        ):
            assert ours.keys() == theirs.keys()
            for name, value in ours.items():
                assert value is theirs[name] or torch.equal(value, theirs[name])


@pytest.mark.parametrize(
    ("before", "after"), [(Eager, Recorded), (Recorded, Eager), (Recorded, Recorded)]
)
def test_training_continues_with_another_engine(before: Any, after: Any) -> None:
    data = list(batches(num_batches=40))
    whole = make(Eager)
    _, expected = train(whole, iter(data))
    first = make(before)
    train(first, iter(data[:20]))
    second = make(Eager)
    second.online.load_state_dict(first.online.state_dict())
    second.target.load_state_dict(first.target.state_dict())
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    parts = (second.online, second.target, DQN(), second.optimizer, [])
    _, weights = train(after(*parts), iter(data[20:]))
    assert torch.equal(weights, expected)


@declare_pure
def branch_on_a_value(online: Any, target: Any, batch: Batch) -> ObjectiveOutput:
    output = DQN()(online, target, batch)
    return output._replace(loss=output.loss * (2.0 if output.loss.mean() > 0.1 else 1.0))


@declare_pure
def index_by_mask(online: Any, target: Any, batch: Batch) -> ObjectiveOutput:
    output = DQN()(online, target, batch)
    kept = output.loss[output.loss > 0.1]
    return output._replace(loss=output.loss + kept.sum())


@declare_pure
def scale_with_numpy(online: Any, target: Any, batch: Batch) -> ObjectiveOutput:
    output = DQN()(online, target, batch)
    scale = float(np.abs(batch.reward.numpy()).max())
    return output._replace(loss=output.loss * scale)


class Annealed:
    """Declared to be pure, but reads an attribute that changes slightly at every call."""

    is_pure: ClassVar[bool] = True

    def __init__(self) -> None:
        self.scale = 1.0

    def __call__(self, online: Any, target: Any, batch: Batch) -> ObjectiveOutput:
        self.scale *= 0.99995
        output = DQN()(online, target, batch)
        return output._replace(loss=output.loss * self.scale)


def test_a_pure_objective_that_is_not_pure_is_noticed() -> None:
    with pytest.raises(NotRecordableError, match="reads something besides its arguments"):
        train(make(Recorded, objective=Annealed()), batches(num_batches=3))


@pytest.mark.parametrize(
    "layer", [partial(nn.LSTM, batch_first=True), partial(nn.Embedding, sparse=True)]
)
def test_layers_that_cannot_be_recorded_train_eagerly(layer: Any) -> None:
    class Torso(nn.Module):
        def __init__(self, obs_shape: Any) -> None:
            super().__init__()
            self.layer = layer(4, 8)

        def forward(self, obs: Tensor) -> Tensor:
            if isinstance(self.layer, nn.LSTM):
                return self.layer(obs[:, None])[0][:, -1]
            return self.layer((obs > 0).long()).flatten(1)

    NETWORKS["other"] = (Torso, (4,), torch.float32)
    eager = make(Eager, network="other", optimizer="sgd")
    automatic = make(
        partial(make_engine, "auto", torch.device("cpu")), network="other", optimizer="sgd"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for batch in batches(num_batches=10):
            eager.update(batch)
            automatic.update(batch)
    assert torch.equal(state(automatic._engine.online), state(eager.online))


@pytest.mark.parametrize(
    ("objective", "reason"),
    [
        (branch_on_a_value, "data-dependent"),
        (index_by_mask, "data-dependent"),
        (scale_with_numpy, "reads something besides its arguments"),
    ],
)
def test_auto_falls_back_to_eager_with_one_warning(objective: Any, reason: str) -> None:
    eager = make(Eager, objective=objective)
    automatic = make(partial(make_engine, "auto", torch.device("cpu")), objective=objective)
    assert automatic.name == "recorded"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for batch in batches(num_batches=20):
            eager.update(batch)
            automatic.update(batch)
    assert [reason in str(warning.message) for warning in caught] == [True]
    assert automatic.name == "eager"
    assert torch.equal(state(automatic._engine.online), state(eager.online))
    with pytest.raises(NotRecordableError, match=f"model.engine: .*{reason}"):
        train(make(Recorded, objective=objective), batches(num_batches=3))


def test_networks_with_forward_hooks_are_executed_eagerly() -> None:
    online = QNetwork((4,), 3, MLP, ValueHead)
    seen: list[int] = []
    online.torso.register_forward_hook(lambda *_: seen.append(1))
    parts = (online, copy.deepcopy(online), DQN(), torch.optim.SGD(online.parameters()), [])
    with pytest.warns(UserWarning, match="auto uses eager because a layer has forward hooks"):
        engine = make_engine("auto", torch.device("cpu"), *parts)
    assert isinstance(engine, WithFallback)
    for batch in batches(num_batches=4):
        engine.update(batch)
    assert len(seen) >= 4


def test_cudagraph_requires_a_gpu() -> None:
    with pytest.raises(NotRecordableError, match="cudagraph is for cuda"):
        make(CUDAGraph)


def test_auto_executes_convolutions_eagerly_on_the_cpu_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        automatic = make(partial(make_engine, "auto", torch.device("cpu")), network="cnn")
        explicit = make(partial(make_engine, "recorded", torch.device("cpu")), network="cnn")
    assert automatic.name == "eager"
    assert explicit.name == "recorded"


class Scaled:
    """An objective with an attribute that a callback may change."""

    def __init__(self) -> None:
        self.scale = 1.0

    def __call__(self, online: Any, target: Any, batch: Batch) -> ObjectiveOutput:
        output = DQN()(online, target, batch)
        return output._replace(loss=output.loss * self.scale)


def losses_with_a_changed_attribute(name: Any, warning: str | None = None) -> list[Tensor]:
    objective = Scaled()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        engine = make(partial(make_engine, name, torch.device("cpu")), objective=objective)
        losses = []
        for i, batch in enumerate(batches(num_batches=6)):
            if i == 3:
                objective.scale = 0.0
            losses.append(engine.update(batch).loss.clone())
    assert [warning in str(c.message) for c in caught] == ([True] if warning else [])
    return losses


def test_auto_does_not_freeze_an_objectives_own_state() -> None:
    eager = losses_with_a_changed_attribute("eager")
    auto = losses_with_a_changed_attribute("auto", warning="is_pure")
    assert all(map(torch.equal, auto, eager))
    assert auto[-1].count_nonzero() == 0


def test_recorded_refuses_an_objective_that_is_not_declared_to_be_pure() -> None:
    with pytest.raises(NotRecordableError, match=r"Scaled is not declared .*is_pure") as caught:
        make(Recorded, objective=Scaled())
    assert isinstance(caught.value, ConfigError)


def test_recorded_does_not_freeze_the_attributes_of_a_transform() -> None:
    def weights(kind: Any) -> Tensor:
        clamp = GradientClamp(norm=0.05)
        engine = make(kind, transforms=[clamp._clamp_norm])
        for i, batch in enumerate(batches(num_batches=20)):
            if i == 10:
                clamp.norm = 0.001
            engine.update(batch)
        return state(engine.online)

    assert torch.equal(weights(Eager), weights(Recorded))


def test_recorded_does_not_freeze_what_an_undeclared_transform_reads() -> None:
    def weights(kind: Any) -> Tensor:
        scale = {"now": 1.0}

        def transform(gradients: list[Tensor]) -> list[Tensor]:
            return [scale["now"] * gradient for gradient in gradients]

        engine = make(kind, optimizer="sgd", transforms=[transform])
        for i, batch in enumerate(batches(num_batches=20)):
            if i == 10:
                scale["now"] = 0.1
            engine.update(batch)
        return state(engine.online)

    assert torch.equal(weights(Eager), weights(Recorded))


def test_hooks_added_to_the_optimizer_after_the_recording_are_called() -> None:
    engine, calls = make(Recorded), []
    train(engine, batches(num_batches=10))
    handle = engine.optimizer.register_step_pre_hook(lambda *_: calls.append(1))
    train(engine, batches(num_batches=5))
    handle.remove()
    train(engine, batches(num_batches=5))
    assert len(calls) == 5


def reports_of_two_ranks(monkeypatch: pytest.MonkeyPatch, fails_at: int | None) -> list[list[Any]]:
    """Simulate a second rank that fails at the given report; returns all reports."""
    reports: list[list[Any]] = []

    def all_gather(value: Any) -> list[Any]:
        reports.append([value, "its reason" if len(reports) == fails_at else None])
        return reports[-1]

    monkeypatch.setattr(distributed, "all_gather", all_gather)
    return reports


@pytest.mark.filterwarnings("ignore:model.engine")
@pytest.mark.parametrize(("fails_at", "num_reports"), [(0, 1), (1, 2), (2, 3), (None, 3)])
def test_all_ranks_fall_back_if_one_of_them_does(
    fails_at: int | None, num_reports: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ranks report when they construct the engine, record an update and verify the recording."""
    settings = {"network": "random"}  # dropout: undoing an update restores the generator
    expected = train(make(Eager, **settings), batches("random", num_batches=10))
    reports = reports_of_two_ranks(monkeypatch, fails_at)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        engine = make(partial(make_engine, "auto", torch.device("cpu")), **settings)
        online, target, optimizer = parts_of(engine)
        engine.online, engine.target, engine.optimizer = online, target, optimizer
        actual = train(engine, batches("random", num_batches=10))
    assert engine.name == ("recorded" if fails_at is None else "eager")
    assert ["rank 1: its reason" in str(c.message) for c in caught] == [True] * (
        fails_at is not None
    )
    assert len(reports) == num_reports
    assert all(map(torch.equal, actual, expected))


def parts_of(engine: WithFallback) -> tuple[Any, Any, Any]:
    """Return online network, target network and optimizer of the engine in use."""
    inner: Any = engine._engine
    return inner.online, inner.target, inner.optimizer


def test_a_failure_on_this_rank_is_reported_to_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    reports = reports_of_two_ranks(monkeypatch, fails_at=None)
    with pytest.raises(NotRecordableError, match=r"rank 0: .*data-dependent"):
        train(make(Recorded, objective=branch_on_a_value), batches(num_batches=3))
    assert [report[0] is None for report in reports] == [True, False]


def test_sync_batch_norm_is_refused_with_several_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    def synchronized(obs_shape: Any) -> nn.Module:
        return nn.Sequential(nn.Linear(*obs_shape, 8), nn.SyncBatchNorm(8))

    monkeypatch.setitem(NETWORKS, "synchronized", (synchronized, (4,), torch.float32))
    make(Recorded, network="synchronized")
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    with pytest.raises(NotRecordableError, match="SyncBatchNorm communicates"):
        make(Recorded, network="synchronized")
