import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dqn_lightning.networks import CNN, MLP, ImplicitQuantileHead, NoisyLinear, QNetwork, ValueHead
from dqn_lightning.networks.acting import greedy_policy
from dqn_lightning.networks.layers import make_noisy


def test_a_noisy_layer_equals_the_formula_of_the_paper() -> None:
    layer = NoisyLinear(3, 2)
    nn.init.normal_(layer.weight_sigma), nn.init.normal_(layer.bias_sigma)
    x, noise = torch.randn(4, 3), torch.randn(1, 5)
    layer.noise = noise
    e_in, e_out = noise[0, :3], noise[0, 3:]
    weight = layer.weight + layer.weight_sigma * torch.outer(e_out, e_in)
    bias = layer.bias + layer.bias_sigma * e_out
    torch.testing.assert_close(layer(x), x @ weight.T + bias)


def test_a_noisy_layer_may_have_no_bias() -> None:
    network = nn.Sequential(nn.Linear(3, 2, bias=False))
    make_noisy(network)
    (layer,) = network
    x, noise = torch.randn(4, 3), torch.randn(1, 5)
    layer.noise = noise
    weight = layer.weight + layer.weight_sigma * torch.outer(noise[0, 3:], noise[0, :3])
    torch.testing.assert_close(layer(x), x @ weight.T)
    torch.testing.assert_close(layer(x[:1]), x[:1] @ weight.T)


def test_noise_for_another_number_of_rows_is_rejected() -> None:
    layer = NoisyLinear(3, 2)
    layer.noise = torch.randn(2, 5)
    with pytest.raises(RuntimeError):
        layer(torch.randn(4, 3))


@pytest.mark.parametrize("shape", [(4, 3), (4, 6, 3)])
def test_each_row_may_have_separate_noise(shape: tuple[int, ...]) -> None:
    layer, x, noise = NoisyLinear(3, 2), torch.randn(shape), torch.randn(4, 5)
    layer.noise = noise
    together = layer(x)
    for i in range(4):
        layer.noise = noise[i : i + 1]
        torch.testing.assert_close(together[i], layer(x[i : i + 1])[0])


def test_make_noisy_replaces_all_linear_layers_and_keeps_their_parameters_as_means() -> None:
    network = nn.Sequential(
        nn.Linear(16, 4), nn.ModuleDict({"deep": nn.Sequential(nn.Linear(4, 2))})
    )
    weights = [p.detach().clone() for p in network.parameters()]
    make_noisy(network, sigma=0.5)
    layers = [m for m in network.modules() if isinstance(m, nn.Linear)]
    assert [type(layer) for layer in layers] == [NoisyLinear, NoisyLinear]
    means = [p for layer in layers for p in (layer.weight, layer.bias)]
    assert all(map(torch.equal, means, weights))
    assert layers[0].weight_sigma.unique().tolist() == [0.125]  # 0.5 / sqrt(16)
    assert layers[1].bias_sigma.unique().tolist() == [0.25]


def test_layer_noise_is_the_signed_square_root_of_a_normal_variable() -> None:
    network = QNetwork((4,), 2, MLP, ValueHead, noisy_sigma=0.5)
    noise = network.sample_layer_noise(200, torch.Generator().manual_seed(0))
    sizes = [
        layer.in_features + layer.out_features
        for layer in network.modules()
        if isinstance(layer, NoisyLinear)
    ]
    assert noise.shape == (200, sum(sizes))
    assert noise.mean().item() == pytest.approx(0, abs=0.01)
    assert noise.square().mean().item() == pytest.approx(math.sqrt(2 / math.pi), abs=0.01)  # E |z|
    assert noise.pow(4).mean().item() == pytest.approx(1, abs=0.02)  # E z^2


def test_online_selector_and_target_have_independent_noise() -> None:
    network = QNetwork((4,), 2, MLP, ImplicitQuantileHead, noisy_sigma=0.5)
    noise: Any = network.sample_update_noise(7, torch.Generator())
    correlations = torch.corrcoef(torch.cat([one_pass.layer_noise for one_pass in noise]))
    assert (correlations - torch.eye(3)).abs().max() < 0.2
    assert not torch.equal(noise.online.taus, noise.target.taus)
    again: Any = network.sample_update_noise(7, torch.Generator())
    assert all(torch.equal(a.layer_noise, b.layer_noise) for a, b in zip(noise, again, strict=True))


def test_deterministic_networks_use_no_random_numbers() -> None:
    rng = torch.Generator()
    before = rng.get_state()
    assert QNetwork((4,), 2, MLP, ValueHead).sample_update_noise(5, rng) is None
    assert torch.equal(rng.get_state(), before)


def test_a_deep_copy_sets_the_noise_of_its_own_layers() -> None:
    network = QNetwork((4,), 2, MLP, ValueHead, noisy_sigma=0.5)
    other, obs = copy.deepcopy(network), torch.randn(3, 4)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    noise = other.sample_update_noise(3, torch.Generator())
    assert noise is not None
    assert torch.equal(network(obs, noise.online).q_values, torch.zeros(3, 2))
    assert other(obs, noise.online).q_values.abs().min() > 0


def test_each_environment_and_step_gets_new_noise() -> None:
    torch.manual_seed(0)
    network = QNetwork((4,), 5, MLP, ValueHead, noisy_sigma=0.5)
    obs = np.ones((300, 4), np.float32)
    assert len(set(greedy_policy(network)(obs))) == 1  # without noise, as in evaluations
    act = greedy_policy(network, rng=torch.Generator())
    first, second = act(obs), act(obs)
    assert len(set(first)) > 1
    assert first.tolist() != second.tolist()


def test_linear_layers_are_noisy_but_convolutions_are_not() -> None:
    network = QNetwork((3, 84, 84), 2, CNN, ValueHead, noisy_sigma=0.5)
    kinds = {type(m) for m in network.modules() if isinstance(m, (nn.Linear, nn.Conv2d))}
    assert kinds == {nn.Conv2d, NoisyLinear}
