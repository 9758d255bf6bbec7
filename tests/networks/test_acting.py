from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from dqn_lightning.networks import MLP, QNetwork, ValueHead
from dqn_lightning.networks.acting import _NotKnown, greedy_policy, value_functions


class Unknown(nn.Module):
    """A head and a torso of somebody else's."""

    def __init__(self, ins: object, outs: int = 5) -> None:
        super().__init__()
        size = ins if isinstance(ins, int) else 4
        self.layers = nn.Sequential(nn.Linear(size, outs), nn.Dropout(0.5), nn.BatchNorm1d(outs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


class UnknownHead(ValueHead):
    """Acts on the smallest value."""

    def forward(self, features: torch.Tensor) -> object:
        return super().forward(features)._replace(q_values=-self.values(features))


def actions(network: QNetwork, obs: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return network(obs).q_values.argmax(1)


@pytest.mark.parametrize(
    ("torso", "head"),
    [
        (MLP, ValueHead),
        (partial(MLP, widths=(7, 5, 3), activation=nn.Tanh), ValueHead),
        (partial(MLP, widths=(7,), activation=nn.GELU), ValueHead),
        (partial(MLP, widths=()), ValueHead),
        (MLP, UnknownHead),
        (Unknown, ValueHead),
    ],
)
def test_actions_are_those_of_the_network(torso: object, head: object) -> None:
    torch.manual_seed(0)
    network = QNetwork((4,), 3, torso, head).eval()
    obs = torch.randn(10_000, 4)
    assert np.array_equal(greedy_policy(network)(obs.numpy()), actions(network, obs))
    assert np.array_equal(greedy_policy(network)(obs[:1].numpy()), actions(network, obs[:1]))


@pytest.mark.parametrize(
    ("shape", "obs"),
    [
        ((4,), torch.randn(200, 4, dtype=torch.float64)),
        ((4,), torch.randint(-5, 5, (200, 4))),
        ((2, 3, 4), torch.randint(0, 255, (200, 2, 3, 4), dtype=torch.uint8)),
    ],
)
def test_numpy_computes_the_values_that_calling_the_network_does(
    shape: tuple[int, ...], obs: torch.Tensor
) -> None:
    torch.manual_seed(0)
    network = QNetwork(shape, 3, partial(MLP, widths=(120, 84)), ValueHead)
    values = obs.numpy()
    for function in value_functions(network):
        values = function(values)
    assert values.dtype == "float32"
    expected = network(obs).q_values.detach()
    torch.testing.assert_close(torch.from_numpy(values), expected, rtol=1e-5, atol=1e-6)


def test_numpy_is_used_for_what_it_can_do_alone() -> None:
    assert value_functions(QNetwork((4,), 3, MLP, ValueHead))
    others = [
        QNetwork((4,), 3, MLP, UnknownHead),
        QNetwork((1,), 3, MLP, ValueHead, obs_classes=(5,)),
        QNetwork((4,), 3, MLP, ValueHead).double(),
    ]
    for network in others:
        with pytest.raises(_NotKnown):
            value_functions(network)


def test_weights_are_as_they_are_at_the_time_and_in_eval_mode() -> None:
    torch.manual_seed(0)
    network = QNetwork((4,), 3, Unknown, ValueHead).train()
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
def test_hooks_are_called(place: str) -> None:
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


class Noisy(nn.Linear):
    """Inherits from a layer that is the same in both modes, and is not."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + (torch.randn(self.out_features) if self.training else 0)


def test_layers_that_inherit_from_known_ones_are_switched() -> None:
    def torso(obs_shape: tuple[int, ...]) -> nn.Module:
        return nn.Sequential(Noisy(*obs_shape, 5), nn.ReLU())

    network = QNetwork((4,), 3, torso, ValueHead)
    network.switch(training=False)
    obs = torch.randn(9, 4)
    assert torch.equal(network(obs).q_values, network(obs).q_values)
    network.switch(training=True)
    assert not torch.equal(network(obs).q_values, network(obs).q_values)
