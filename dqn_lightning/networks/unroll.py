"""A network as a flat chain of functions, for acting without the cost of calling modules."""

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from dqn_lightning.networks.heads import ValueHead
from dqn_lightning.networks.layers import Observation
from dqn_lightning.networks.q_network import QNetwork
from dqn_lightning.networks.torsos import MLP
from dqn_lightning.types import Act

_Function: TypeAlias = Callable[[Tensor], Tensor]


def greedy_policy(network: QNetwork, training: bool = False) -> Act:
    """Greedy actions of a network, as it is at the time: the same numbers as by calling it.

    On one observation most of the time goes into calling modules within modules, not into their
    arithmetic. The function holds the network's parameters, so it must not outlive them.

    Args:
        network: Its parameters lie on one device; observations are brought there.
        training: Whether it acts in training mode, in place of evaluation mode.
    """
    chain = value_chain(network)
    device = next(network.parameters()).device
    if device.type != "cpu":
        chain.insert(0, lambda obs: obs.to(device))

    def act(obs: Tensor) -> Tensor:
        network.switch(training)
        with torch.inference_mode():
            for function in chain:
                obs = function(obs)
            return obs.argmax(dim=1)

    return act


def value_chain(network: QNetwork) -> list[_Function]:
    """Functions that, one after the other, make action values [B, A] of observations [B, …]."""
    if type(network) is not QNetwork or _is_hooked(network):
        return [lambda obs: network(obs).q_values]
    chain = [*_unrolled(network.observation), *_unrolled(network.torso)]
    if type(network.head) is ValueHead and not _is_hooked(network.head):
        return [*chain, *_unrolled(network.head.values)]
    return [*chain, lambda features: network.head(features).q_values]


def _is_hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _unrolled(module: nn.Module) -> list[_Function]:
    """What calling the module does, step by step; a module that is not known is one step."""
    if _is_hooked(module) or type(module) not in _UNROLL:
        return [module]
    return _UNROLL[type(module)](module)


def _unroll_mlp(torso: Any) -> list[_Function]:
    chain: list[_Function] = [lambda obs: obs.flatten(1)] if torso.flattens else []
    for layer in torso.layers:
        chain += [*_unrolled(layer), *_unrolled(torso.activation)]
    return chain


def _unroll_linear(layer: Any) -> list[_Function]:
    weight, bias = layer.weight, layer.bias
    return [lambda x: functional.linear(x, weight, bias)]


_UNROLL: dict[type[nn.Module], Callable[[Any], list[_Function]]] = {
    MLP: _unroll_mlp,
    Observation: lambda layer: [layer.forward],
    nn.Linear: _unroll_linear,
    nn.ReLU: lambda _: [torch.relu],
    nn.Tanh: lambda _: [torch.tanh],
}
