"""Greedy actions, without the cost of calling modules where the network is small."""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dqn_lightning.networks.heads import ActionStreams, ValueHead
from dqn_lightning.networks.layers import Observation, is_hooked
from dqn_lightning.networks.q_network import QNetwork
from dqn_lightning.networks.torsos import MLP
from dqn_lightning.types import Act, Draw, Observations

_Array: TypeAlias = NDArray[Any]
_Function: TypeAlias = Callable[[_Array], _Array]


class _NotKnown(Exception):  # noqa: N818  (not an error)
    """A layer that numpy has no function for here."""


def greedy_policy(
    network: QNetwork, training: bool = False, rng: torch.Generator | None = None
) -> Act:
    """Greedy actions of a network, with its parameters as they are at the time.

    On one observation an MLP takes PyTorch 20 to 40 µs, most of it on the way to the arithmetic.
    numpy takes 5 to 10, on the same memory; the values are the same but for rounding. It is used
    for float32 MLPs on the CPU; any other network is called.

    Args:
        network: Its parameters lie on one device, and stay where they are in memory; observations
            are brought there.
        training: Whether it acts in training mode, in place of evaluation mode.
        rng: Source of the noise of noisy layers, new for each observation; none if None.
    """
    try:
        functions = value_functions(network)
    except _NotKnown:
        return _calling(network, training, rng if network.is_noisy else None)

    @np.errstate(over="ignore", invalid="ignore")  # said of the loss, in time
    def act(obs: _Array) -> NDArray[np.int64]:
        for function in functions:
            obs = function(obs)
        actions: NDArray[np.int64] = obs.argmax(axis=1)
        return actions

    return act


def _calling(network: QNetwork, training: bool, rng: torch.Generator | None) -> Act:
    device = next(network.parameters()).device

    def act(obs: Observations) -> NDArray[np.int64]:
        network.switch(training)
        with torch.inference_mode():
            draw = None if rng is None else Draw(network.draw_noise(len(obs), rng))
            values: Tensor = network(torch.as_tensor(obs, device=device), draw).q_values
            return values.argmax(dim=1).numpy(force=True)

    return act


def value_functions(network: QNetwork) -> list[_Function]:
    """Functions of numpy that, one after the other, make values [B, A] of observations [B, …].

    Of a dueling head it is the advantages: the greatest is the same.
    """
    if type(network) is not QNetwork or is_hooked(network) or type(network.head) is not ValueHead:
        raise _NotKnown
    if is_hooked(network.head):
        raise _NotKnown
    layers = (network.observation, network.torso, network.head.values)
    return [function for layer in layers for function in _functions(layer)]


def _functions(layer: nn.Module) -> list[_Function]:
    if is_hooked(layer) or type(layer) not in _FUNCTIONS:
        raise _NotKnown
    return _FUNCTIONS[type(layer)](layer)


def _observation(layer: Any) -> list[_Function]:
    if layer.obs_classes is not None:
        raise _NotKnown

    def convert(obs: _Array) -> _Array:
        values: _Array = obs.astype(np.float32, copy=False)
        return values / np.float32(255) if obs.dtype == np.uint8 else values

    return [convert]


def _mlp(torso: Any) -> list[_Function]:
    functions: list[_Function] = []
    if torso.flattens:
        functions.append(lambda x: x.reshape(len(x), -1))
    if len(torso.norms):
        raise _NotKnown
    for layer in torso.layers:
        functions += [*_functions(layer), *_functions(torso.activation)]
    return functions


def _linear(layer: Any) -> list[_Function]:
    if layer.weight.dtype != torch.float32 or layer.weight.device.type != "cpu":
        raise _NotKnown
    if layer.bias is None:
        raise _NotKnown
    weight, bias = layer.weight.detach().numpy().T, layer.bias.detach().numpy()

    def apply(x: _Array) -> _Array:
        y: _Array = x.dot(weight)
        y += bias
        return y

    return [apply]


_ZERO = np.float32(0)
_FUNCTIONS: dict[type[nn.Module], Callable[[Any], list[_Function]]] = {
    MLP: _mlp,
    Observation: _observation,
    ActionStreams: lambda streams: _functions(streams.actions),  # the state's value is for all
    nn.Linear: _linear,
    nn.Sequential: lambda layers: [f for layer in layers for f in _functions(layer)],
    nn.ReLU: lambda _: [lambda x: np.maximum(x, _ZERO)],
    nn.Tanh: lambda _: [np.tanh],
}
