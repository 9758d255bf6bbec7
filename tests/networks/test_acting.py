from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from dqn_lightning.networks import MLP, QNetwork, ValueHead
from dqn_lightning.networks.acting import NoNumpyEquivalent, greedy_policy, numpy_functions


class CustomTorso(nn.Module):
    """A user's torso, whose output depends on the training mode."""

    def __init__(self, ins: object, outs: int = 5) -> None:
        super().__init__()
        size = ins if isinstance(ins, int) else 4
        self.layers = nn.Sequential(nn.Linear(size, outs), nn.Dropout(0.5), nn.BatchNorm1d(outs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


class NegatedHead(ValueHead):
    """A user's subclass of `ValueHead` that negates the values."""

    def forward(self, features: torch.Tensor) -> object:
        return super().forward(features)._replace(q_values=-self.values(features))


def greedy_actions(network: QNetwork, obs: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return network(obs).q_values.argmax(1)


@pytest.mark.parametrize(
    ("torso", "head"),
    [
        (MLP, ValueHead),
        (partial(MLP, widths=(7, 5, 3), activation=nn.Tanh), ValueHead),
        (partial(MLP, widths=(7,), activation=nn.GELU), ValueHead),
        (partial(MLP, widths=()), ValueHead),
        (MLP, NegatedHead),
        (CustomTorso, ValueHead),
    ],
)
def test_the_greedy_policy_maximizes_the_networks_action_values(
    torso: object, head: object
) -> None:
    torch.manual_seed(0)
    network = QNetwork((4,), 3, torso, head).eval()
    obs = torch.randn(10_000, 4)
    assert np.array_equal(greedy_policy(network)(obs.numpy()), greedy_actions(network, obs))
    assert np.array_equal(greedy_policy(network)(obs[:1].numpy()), greedy_actions(network, obs[:1]))


@pytest.mark.parametrize(
    ("shape", "obs"),
    [
        ((4,), torch.randn(200, 4, dtype=torch.float64)),
        ((4,), torch.randint(-5, 5, (200, 4))),
        ((2, 3, 4), torch.randint(0, 255, (200, 2, 3, 4), dtype=torch.uint8)),
    ],
)
def test_the_numpy_path_computes_the_networks_action_values(
    shape: tuple[int, ...], obs: torch.Tensor
) -> None:
    torch.manual_seed(0)
    network = QNetwork(shape, 3, partial(MLP, widths=(120, 84)), ValueHead)
    values = obs.numpy()
    for function in numpy_functions(network):
        values = function(values)
    assert values.dtype == "float32"
    expected = network(obs).q_values.detach()
    torch.testing.assert_close(torch.from_numpy(values), expected, rtol=1e-5, atol=1e-6)


def test_the_numpy_path_is_used_only_for_supported_networks() -> None:
    assert numpy_functions(QNetwork((4,), 3, MLP, ValueHead))
    others = [
        QNetwork((4,), 3, MLP, NegatedHead),
        QNetwork((1,), 3, MLP, ValueHead, obs_classes=(5,)),
        QNetwork((4,), 3, MLP, ValueHead).double(),
    ]
    for network in others:
        with pytest.raises(NoNumpyEquivalent):
            numpy_functions(network)


def test_the_policy_uses_the_current_weights_in_evaluation_mode() -> None:
    torch.manual_seed(0)
    network = QNetwork((4,), 3, CustomTorso, ValueHead).train()
    policy = greedy_policy(network)
    obs = torch.randn(50, 4)
    before = policy(obs)
    assert np.array_equal(before, policy(obs))  # no dropout
    optimizer = torch.optim.SGD(network.parameters(), lr=10.0)
    network(obs).q_values.square().sum().backward()
    optimizer.step()
    assert not np.array_equal(before, policy(obs))
    assert np.array_equal(policy(obs), network.eval()(obs).q_values.argmax(1))


@pytest.mark.parametrize("place", ["network", "torso", "layer", "head", "values"])
def test_acting_calls_forward_hooks(place: str) -> None:
    network = QNetwork((4,), 3, MLP, ValueHead)
    hooked = {
        "network": network,
        "torso": network.torso,
        "layer": network.torso.layers[0],
        "head": network.head,
        "values": network.head.values,
    }
    seen = []
    hooked[place].register_forward_hook(lambda *_: seen.append(1))
    greedy_policy(network)(np.zeros((2, 4), np.float32))
    assert seen == [1]


class ModeDependentLinear(nn.Linear):
    """Subclass of a mode-independent layer that depends on the mode: it adds noise in training."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + (torch.randn(self.out_features) if self.training else 0)


def test_set_mode_switches_subclasses_of_mode_independent_layers() -> None:
    def torso(obs_shape: tuple[int, ...]) -> nn.Module:
        return nn.Sequential(ModeDependentLinear(*obs_shape, 5), nn.ReLU())

    network = QNetwork((4,), 3, torso, ValueHead)
    network.set_mode(training=False)
    obs = torch.randn(9, 4)
    assert torch.equal(network(obs).q_values, network(obs).q_values)
    network.set_mode(training=True)
    assert not torch.equal(network(obs).q_values, network(obs).q_values)
