"""Greedy policies, with a fast path in NumPy for small networks."""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dqn_lightning.internals.pytorch import has_forward_hooks
from dqn_lightning.networks.heads import ActionStreams, ValueHead
from dqn_lightning.networks.layers import ObservationEncoder
from dqn_lightning.networks.q_network import QNetwork
from dqn_lightning.networks.torsos import MLP
from dqn_lightning.types import Observations, PassNoise, Policy

_Array: TypeAlias = NDArray[Any]
_ArrayFunction: TypeAlias = Callable[[_Array], _Array]


class NoNumpyEquivalent(Exception):  # noqa: N818  (control flow: the caller falls back to PyTorch)
    """Raised if a layer has no NumPy implementation in this module."""


def greedy_policy(
    network: QNetwork, training: bool = False, rng: torch.Generator | None = None
) -> Policy:
    """Return the greedy policy of a network: a function from observations [B, …] to actions [B].

    The policy always uses the network's current parameters.

    In PyTorch, a forward pass of an MLP on a single observation takes 20 to 40 µs, mostly overhead.
    For float32 MLPs on the CPU, the policy therefore computes the forward pass in NumPy. The
    NumPy version takes 5 to 10 µs, shares memory with the parameters, and returns the same values
    up to rounding.

    Args:
        network: Network whose parameters are all on one device; observations are moved to that
            device. The parameters must keep their memory addresses while the policy is in use.
        training: Whether to call the network in training mode instead of evaluation mode.
        rng: Random number generator for the noise of noisy layers, which is sampled separately for
            each observation; None to act without noise.
    """
    try:
        functions = numpy_functions(network)
    except NoNumpyEquivalent:
        return _pytorch_policy(network, training, rng if network.is_noisy else None)

    # Overflow is reported for the loss (`NonFiniteError`), not by NumPy warnings.
    @np.errstate(over="ignore", invalid="ignore")
    def act(obs: _Array) -> NDArray[np.int64]:
        for function in functions:
            obs = function(obs)
        actions: NDArray[np.int64] = obs.argmax(axis=1)
        return actions

    return act


def _pytorch_policy(network: QNetwork, training: bool, rng: torch.Generator | None) -> Policy:
    """Return the greedy policy that calls the network, with layer noise if `rng` is given."""
    device = next(network.parameters()).device

    def act(obs: Observations) -> NDArray[np.int64]:
        network.set_mode(training)
        with torch.inference_mode():
            noise = None if rng is None else PassNoise(network.sample_layer_noise(len(obs), rng))
            values: Tensor = network(torch.as_tensor(obs, device=device), noise).q_values
            return values.argmax(dim=1).numpy(force=True)

    return act


def numpy_functions(network: QNetwork) -> list[_ArrayFunction]:
    """Return NumPy functions that together map observations [B, …] to values [B, A].

    The functions must be applied in order. For a dueling network, the values are the advantages,
    whose argmax equals that of the action values.

    Raises:
        NoNumpyEquivalent: If a layer has forward hooks or no NumPy implementation in this module.
    """
    if (
        type(network) is not QNetwork
        or has_forward_hooks(network)
        or type(network.head) is not ValueHead
    ):
        raise NoNumpyEquivalent
    if has_forward_hooks(network.head):
        raise NoNumpyEquivalent
    layers = (network.obs_encoder, network.torso, network.head.values)
    return [function for layer in layers for function in _convert(layer)]


def _convert(layer: nn.Module) -> list[_ArrayFunction]:
    """Return NumPy functions that, applied in order, compute the layer's forward pass."""
    if has_forward_hooks(layer) or type(layer) not in _CONVERTERS:
        raise NoNumpyEquivalent
    return _CONVERTERS[type(layer)](layer)


def _convert_obs_encoder(layer: Any) -> list[_ArrayFunction]:
    if layer.obs_classes is not None:
        raise NoNumpyEquivalent

    def encode(obs: _Array) -> _Array:
        values: _Array = obs.astype(np.float32, copy=False)
        return values / np.float32(255) if obs.dtype == np.uint8 else values

    return [encode]


def _convert_mlp(torso: Any) -> list[_ArrayFunction]:
    functions: list[_ArrayFunction] = []
    if torso.flattens:
        functions.append(lambda x: x.reshape(len(x), -1))
    if len(torso.norms):
        raise NoNumpyEquivalent
    for layer in torso.layers:
        functions += [*_convert(layer), *_convert(torso.activation)]
    return functions


def _convert_linear(layer: Any) -> list[_ArrayFunction]:
    if layer.weight.dtype != torch.float32 or layer.weight.device.type != "cpu":
        raise NoNumpyEquivalent
    if layer.bias is None:
        raise NoNumpyEquivalent
    weight, bias = layer.weight.detach().numpy().T, layer.bias.detach().numpy()  # share memory

    def apply(x: _Array) -> _Array:
        y: _Array = x.dot(weight)
        y += bias
        return y

    return [apply]


_ZERO = np.float32(0)
_CONVERTERS: dict[type[nn.Module], Callable[[Any], list[_ArrayFunction]]] = {
    MLP: _convert_mlp,
    ObservationEncoder: _convert_obs_encoder,
    # The state's value is the same for all actions, so it does not change the argmax.
    ActionStreams: lambda streams: _convert(streams.actions),
    nn.Linear: _convert_linear,
    nn.Sequential: lambda layers: [f for layer in layers for f in _convert(layer)],
    nn.ReLU: lambda _: [lambda x: np.maximum(x, _ZERO)],
    nn.Tanh: lambda _: [np.tanh],
}
