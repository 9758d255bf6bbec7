from functools import partial

import pytest
import torch
from torch import nn

from dqn_lightning.networks import MLP, QNetwork, ValueHead
from dqn_lightning.networks.unroll import greedy_policy, value_chain


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
def test_the_chain_computes_what_calling_the_network_does_to_the_bit(
    torso: object, head: object
) -> None:
    torch.manual_seed(0)
    network = QNetwork((4,), 3, torso, head).eval()
    obs = torch.randn(100, 4)
    values = obs
    with torch.inference_mode():
        for function in value_chain(network):
            values = function(values)
        assert torch.equal(values, network(obs).q_values)
        assert torch.equal(greedy_policy(network)(obs), network(obs).q_values.argmax(1))


def test_the_chain_sees_weights_as_they_are_and_eval_mode() -> None:
    torch.manual_seed(0)
    network = QNetwork((4,), 3, Unknown, ValueHead).train()
    policy = greedy_policy(network)
    obs = torch.randn(50, 4)
    before = policy(obs)
    assert torch.equal(before, policy(obs))  # no dropout
    optimizer = torch.optim.SGD(network.parameters(), lr=10.0)
    network(obs).q_values.square().sum().backward()
    optimizer.step()
    assert not torch.equal(before, policy(obs))
    assert torch.equal(policy(obs), network.eval()(obs).q_values.argmax(1))


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
    greedy_policy(network)(torch.randn(2, 4))
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
