"""Engines give eager's numbers, for anything that can be configured, or say why they cannot."""

import copy
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dqn_lightning.callbacks.gradient_clamp import GradientClamp
from dqn_lightning.engines import Automatic, CUDAGraph, Eager, Traced, make_engine
from dqn_lightning.errors import UntraceableError
from dqn_lightning.losses import C51, DQN, IQN, QRDQN, Munchausen, ObjectiveOutput
from dqn_lightning.networks import (
    CNN,
    MLP,
    FrameAndDifferences,
    FrameDifference,
    QNetwork,
    ValueHead,
)
from dqn_lightning.types import Batch

SMALL = {"channels": (4, 8), "kernel_sizes": (4, 3), "strides": (2, 1), "widths": (16,)}


def dropout(obs_shape: Any) -> nn.Module:
    return nn.Sequential(nn.Linear(*obs_shape, 32), nn.Dropout(0.5), nn.LayerNorm(32), nn.SiLU())


NETWORKS: dict[str, Any] = {
    "mlp": (MLP, (4,), torch.float32),
    "tanh": (partial(MLP, widths=(9,), activation=nn.Tanh), (4,), torch.float64),
    "linear": (partial(MLP, widths=()), (2, 3), torch.uint8),
    "cnn": (partial(CNN, **SMALL), (2, 16, 16), torch.uint8),
    "batch_norm": (partial(CNN, **SMALL, batch_norm=True), (2, 16, 16), torch.uint8),
    "difference": (partial(FrameDifference, torso=partial(CNN, **SMALL)), (2, 16, 16), torch.uint8),
    "differences": (
        partial(FrameAndDifferences, torso=partial(CNN, **SMALL)),
        (4, 16, 16),
        torch.uint8,
    ),
    "random": (dropout, (4,), torch.float32),
}
OPTIMIZERS: dict[str, Any] = {
    "adam": partial(torch.optim.Adam, lr=1e-3),
    "fused_adam": partial(torch.optim.Adam, lr=1e-3, fused=True),
    "decayed": partial(torch.optim.AdamW, lr=1e-3, weight_decay=0.1, fused=True),
    "amsgrad": partial(torch.optim.Adam, lr=1e-3, amsgrad=True, fused=True),
    "sgd": partial(torch.optim.SGD, lr=1e-2),
    "momentum": partial(torch.optim.SGD, lr=1e-2, momentum=0.9, nesterov=True, weight_decay=0.01),
    "rmsprop": partial(torch.optim.RMSprop, lr=1e-3),
    "centered": partial(torch.optim.RMSprop, lr=1e-3, centered=True, momentum=0.5),
    "adagrad": partial(torch.optim.Adagrad, lr=1e-2),
    "radam": partial(torch.optim.RAdam, lr=1e-3),
}


def by_layer(gradients: list[Tensor]) -> list[Tensor]:
    """A user's transform, which does care how gradients are divided."""
    return [gradient / (1 + gradient.norm()) for gradient in gradients]


CLAMP = GradientClamp(value=0.01, norm=0.05)
TRANSFORMS: dict[str, Any] = {
    "none": [],
    "value": [CLAMP._clamp_value],
    "norm": [CLAMP._clamp_norm],
    "layers": [by_layer, CLAMP._clamp_norm],
}


def engine(
    kind: Callable[..., Any],
    network: str = "mlp",
    objective: Any = None,
    optimizer: str = "fused_adam",
    transforms: Any = "none",
    dueling: bool = False,
    noisy: bool = False,
) -> Any:
    torso, shape, _ = NETWORKS[network]
    objective = objective or DQN()
    head = partial(getattr(objective, "head", ValueHead), dueling=dueling)
    torch.manual_seed(3)
    online = QNetwork(shape, 3, torso, head, noisy_sigma=0.5 if noisy else None)
    target = copy.deepcopy(online).requires_grad_(False)
    made: Optimizer = OPTIMIZERS[optimizer](online.parameters())
    if isinstance(transforms, str):
        transforms = TRANSFORMS[transforms]
    return kind(online, target, objective, made, transforms)


def batches(network: str = "mlp", number: int = 200, size: int = 16) -> Iterator[Batch]:
    _, shape, dtype = NETWORKS[network]
    chance = torch.Generator().manual_seed(5)

    def obs() -> Tensor:
        if dtype == torch.uint8:
            return torch.randint(0, 256, (size, *shape), generator=chance, dtype=dtype)
        return torch.randn(size, *shape, generator=chance, dtype=dtype)

    for _ in range(number):
        yield Batch(
            obs=obs(),
            action=torch.randint(3, (size,), generator=chance),
            reward=torch.randn(size, generator=chance),
            discount=torch.rand(size, generator=chance).round() * 0.9,
            next_obs=obs(),
            weight=torch.rand(size, generator=chance),
            row=torch.arange(size),
        )


def learn(subject: Any, data: Iterator[Batch], lr: Callable[[int], float] | None = None) -> Any:
    """Every loss and priority, and the weights in the end."""
    torch.manual_seed(11)
    chance = torch.Generator().manual_seed(13)
    given = []
    for i, batch in enumerate(data):
        if lr is not None:
            for group in subject.optimizer.param_groups:
                group["lr"] = lr(i)
        draws = subject.online.draws(len(batch.row), chance)
        output = subject.update(batch, draws)
        given.append(torch.stack([output.loss, output.priority]).clone())
        if i % 10 == 9:
            subject.target.load_state_dict(subject.online.state_dict())
    return torch.stack(given), state(subject.online)


def state(network: nn.Module) -> Tensor:
    """Parameters and statistics, side by side."""
    return torch.cat([value.flatten().double() for value in network.state_dict().values()])


def assert_as_eager(lr: Callable[[int], float] | None = None, **settings: Any) -> Any:
    network = settings.get("network", "mlp")
    (expected, wanted), (given, weights) = (
        learn(engine(kind, **settings), batches(network), lr) for kind in (Eager, Traced)
    )
    assert (weights - wanted).norm() / wanted.norm() < 1e-6
    torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-5)
    return weights, wanted


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("loss", ["huber", "squared"])
@pytest.mark.parametrize("network", NETWORKS)
def test_every_network_and_objective_learns_as_eager_to_the_bit(
    network: str, loss: Any, double: bool
) -> None:
    weights, wanted = assert_as_eager(network=network, objective=DQN(loss, double))
    assert torch.equal(weights, wanted)  # the operations are the same ones


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


@pytest.mark.parametrize("switches", [{}, {"dueling": True, "noisy": True}], ids=["bare", "full"])
@pytest.mark.parametrize("objective", ["plain", *OBJECTIVES])
def test_every_objective_and_head_learns_as_eager(objective: str, switches: Any) -> None:
    weights, wanted = assert_as_eager(objective=OBJECTIVES.get(objective, DQN()), **switches)
    assert torch.equal(weights, wanted)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_learns_in_mixed_precision(objective: str) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False):
        settings = {"objective": OBJECTIVES[objective], "dueling": True, "noisy": True}
        exact, rounded = (
            learn(engine(kind, **settings), batches(number=20))[1] for kind in (Eager, Traced)
        )
    assert torch.isfinite(exact).all()
    torch.testing.assert_close(rounded, exact, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_learns_from_pictures_as_eager(objective: str) -> None:
    assert_as_eager(network="cnn", objective=OBJECTIVES[objective], dueling=True, noisy=True)


@pytest.mark.parametrize("transforms", TRANSFORMS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_and_transform_learns_as_eager(optimizer: str, transforms: str) -> None:
    weights, wanted = assert_as_eager(optimizer=optimizer, transforms=transforms)
    assert torch.equal(weights, wanted)


@pytest.mark.parametrize("lr", [lambda i: 1e-3 / (1 + i), lambda i: 1e-3 * 0.5 ** (i // 30)])
@pytest.mark.parametrize("optimizer", ["fused_adam", "momentum", "adam"])
def test_learning_rates_take_effect(optimizer: str, lr: Callable[[int], float]) -> None:
    assert_as_eager(optimizer=optimizer, lr=lr)


def test_transforms_that_come_and_go_take_effect() -> None:
    def weights(kind: Any) -> Tensor:
        transforms: list[Any] = []
        subject = engine(kind, transforms=transforms)
        for i, batch in enumerate(batches(number=60)):
            if i == 20:
                transforms.append(CLAMP._clamp_norm)
            if i == 40:
                transforms.clear()
            subject.update(batch)
        return torch.cat([p.detach().flatten() for p in subject.online.parameters()])

    assert torch.equal(weights(Eager), weights(Traced))


def test_batches_may_change_their_size() -> None:
    def data() -> Iterator[Batch]:
        for size in (16, 7, 16):
            yield from batches(number=5, size=size)

    results = []
    for kind in (Eager, Traced):
        subject = engine(kind)
        results.append([subject.update(batch).loss.clone() for batch in data()])
    assert all(map(torch.equal, *results))


def by_index(online: Any, target: Any, batch: Batch) -> ObjectiveOutput:
    """A common way to write it: by a tensor of integers."""
    chosen = online(batch.obs).q_values[torch.arange(len(batch.action)), batch.action]
    with torch.no_grad():
        best = target(batch.next_obs).q_values.amax(1)
    error = batch.reward + batch.discount * best - chosen
    return ObjectiveOutput(error**2, error.detach().abs())


def test_indexing_by_integers_is_recorded() -> None:
    weights, wanted = assert_as_eager(objective=by_index)
    assert torch.equal(weights, wanted)


def test_gradients_of_a_users_own_do_no_harm() -> None:
    results = []
    for kind in (Eager, Traced):
        subject = engine(kind)
        for i, batch in enumerate(batches(number=30)):
            if i in (3, 17):  # as who logs the gradient of something
                subject.online.zero_grad()
                subject.online(batch.obs).q_values.sum().backward()
            subject.update(batch)
        results.append(state(subject.online))
    assert torch.equal(*results)


class Counting(torch.optim.SGD):
    """Keeps a number in Python, and does something by it."""

    def step(self, closure: Any = None) -> Any:
        result = super().step(closure)
        self.calls = getattr(self, "calls", 0) + 1
        if self.calls % 5 == 0:
            with torch.no_grad():
                for parameter in self.param_groups[0]["params"]:
                    parameter.mul_(0.9)
        return result


def test_optimizers_that_count_in_python_are_called() -> None:
    OPTIMIZERS["counting"] = partial(Counting, lr=1e-2)
    weights, wanted = assert_as_eager(optimizer="counting")
    assert torch.equal(weights, wanted)


def test_hooks_of_the_optimizer_are_called() -> None:
    subject, calls = engine(Traced), []
    subject.optimizer.register_step_post_hook(lambda *_: calls.append(1))
    learn(subject, batches(number=10))
    assert len(calls) == 10


def test_parameters_show_their_gradients() -> None:
    subjects = [engine(kind, transforms="norm") for kind in (Eager, Traced)]
    for batch in batches(number=6):
        for subject in subjects:
            subject.online.zero_grad()
            subject.update(batch)
        gradients = [[p.grad for p in subject.online.parameters()] for subject in subjects]
        assert all(map(torch.equal, *gradients))


@pytest.mark.parametrize("optimizer", ["fused_adam", "momentum", "sgd"])
@pytest.mark.parametrize("number", [0, 1, 20])
def test_the_optimizers_state_is_saved_by_layers(optimizer: str, number: int) -> None:
    eager, fast = (engine(kind, optimizer=optimizer) for kind in (Eager, Traced))
    for subject in (eager, fast):
        learn(subject, batches(number=number)) if number else None
    saved = [copy.deepcopy(subject.optimizer.state_dict()) for subject in (eager, fast)]
    fast.close()
    saved.append(fast.optimizer.state_dict())
    for state in saved[1:]:
        assert state["param_groups"] == saved[0]["param_groups"]
        assert state["state"].keys() == saved[0]["state"].keys()
        for ours, theirs in zip(state["state"].values(), saved[0]["state"].values(), strict=True):
            assert ours.keys() == theirs.keys()
            for name, value in ours.items():
                assert value is theirs[name] or torch.equal(value, theirs[name])


@pytest.mark.parametrize(("before", "after"), [(Eager, Traced), (Traced, Eager), (Traced, Traced)])
def test_training_goes_on_with_another_engine(before: Any, after: Any) -> None:
    data = list(batches(number=40))
    whole = engine(Eager)
    _, expected = learn(whole, iter(data))
    first = engine(before)
    learn(first, iter(data[:20]))
    second = engine(Eager)
    second.online.load_state_dict(first.online.state_dict())
    second.target.load_state_dict(first.target.state_dict())
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    parts = (second.online, second.target, DQN(), second.optimizer, [])
    _, weights = learn(after(*parts), iter(data[20:]))
    assert torch.equal(weights, expected)


def by_value(online: Any, target: Any, batch: Batch) -> ObjectiveOutput:
    output = DQN()(online, target, batch)
    return output._replace(loss=output.loss * (2.0 if output.loss.mean() > 0.1 else 1.0))


def by_mask(online: Any, target: Any, batch: Batch) -> ObjectiveOutput:
    output = DQN()(online, target, batch)
    kept = output.loss[output.loss > 0.1]
    return output._replace(loss=output.loss + kept.sum())


def by_numpy(online: Any, target: Any, batch: Batch) -> ObjectiveOutput:
    output = DQN()(online, target, batch)
    scale = float(np.abs(batch.reward.numpy()).max())
    return output._replace(loss=output.loss * scale)


class Annealed:
    """Reads a number of its own, which hardly changes."""

    def __init__(self) -> None:
        self.scale = 1.0

    def __call__(self, online: Any, target: Any, batch: Batch) -> ObjectiveOutput:
        self.scale *= 0.99995
        output = DQN()(online, target, batch)
        return output._replace(loss=output.loss * self.scale)


def test_an_objective_that_anneals_is_noticed() -> None:
    with pytest.raises(UntraceableError, match="read more than networks and batch"):
        learn(engine(Traced, objective=Annealed()), batches(number=3))


@pytest.mark.parametrize(
    "layer", [partial(nn.LSTM, batch_first=True), partial(nn.Embedding, sparse=True)]
)
def test_layers_with_operations_of_another_kind_learn_all_the_same(layer: Any) -> None:
    class Torso(nn.Module):
        def __init__(self, obs_shape: Any) -> None:
            super().__init__()
            self.layer = layer(4, 8)

        def forward(self, obs: Tensor) -> Tensor:
            if isinstance(self.layer, nn.LSTM):
                return self.layer(obs[:, None])[0][:, -1]
            return self.layer((obs > 0).long()).flatten(1)

    NETWORKS["other"] = (Torso, (4,), torch.float32)
    eager = engine(Eager, network="other", optimizer="sgd")
    automatic = engine(
        partial(make_engine, "auto", torch.device("cpu")), network="other", optimizer="sgd"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for batch in batches(number=10):
            eager.update(batch)
            automatic.update(batch)
    assert torch.equal(state(automatic._engine.online), state(eager.online))


@pytest.mark.parametrize(
    ("objective", "reason"),
    [
        (by_value, "gives Python what depends on numbers"),
        (by_mask, "gives Python what depends on numbers"),
        (by_numpy, "it must read more than networks and batch"),
    ],
)
def test_what_cannot_be_recorded_is_executed_eager_with_one_warning(
    objective: Any, reason: str
) -> None:
    eager = engine(Eager, objective=objective)
    automatic = engine(partial(make_engine, "auto", torch.device("cpu")), objective=objective)
    assert automatic.name == "traced"
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for batch in batches(number=20):
            eager.update(batch)
            automatic.update(batch)
    assert [reason in str(warning.message) for warning in said] == [True]
    assert automatic.name == "eager"
    assert torch.equal(state(automatic._engine.online), state(eager.online))
    with pytest.raises(UntraceableError, match=f"model.engine: .*{reason}"):
        learn(engine(Traced, objective=objective), batches(number=3))


def test_hooks_are_python_so_networks_with_hooks_are_executed_eager() -> None:
    online = QNetwork((4,), 3, MLP, ValueHead)
    seen: list[int] = []
    online.torso.register_forward_hook(lambda *_: seen.append(1))
    parts = (online, copy.deepcopy(online), DQN(), torch.optim.SGD(online.parameters()), [])
    with pytest.warns(UserWarning, match="auto is eager here: a layer has forward hooks"):
        subject = make_engine("auto", torch.device("cpu"), *parts)
    assert isinstance(subject, Automatic)
    for batch in batches(number=4):
        subject.update(batch)
    assert len(seen) >= 4


def test_a_graph_needs_a_gpu() -> None:
    with pytest.raises(UntraceableError, match="cudagraph is for cuda"):
        engine(CUDAGraph)
