import math

import pytest
import torch
from torch import nn

from dqn_lightning.networks import (
    MLP,
    CategoricalHead,
    ImplicitQuantileHead,
    QNetwork,
    QuantileHead,
    ValueHead,
)
from dqn_lightning.networks.acting import greedy_policy, numpy_functions
from dqn_lightning.types import PassNoise

HEADS = [ValueHead, CategoricalHead, QuantileHead, ImplicitQuantileHead]


def test_the_advantages_of_a_dueling_head_have_mean_zero() -> None:
    head = ValueHead(4, 3, dueling=True)
    features = torch.randn(5, 4)
    before = head(features).q_values
    torch.testing.assert_close(before.mean(1, keepdim=True), head.values.state(features))
    with torch.no_grad():
        head.values.actions[-1].bias += 7.0  # the same for all actions
    torch.testing.assert_close(head(features).q_values, before)


@pytest.mark.parametrize("head", HEADS)
def test_stream_width_adds_a_hidden_layer_to_each_stream(head: type[nn.Module]) -> None:
    made = head(4, 3, dueling=True, stream_width=6)
    widths = [layer.out_features for layer in made.modules() if isinstance(layer, nn.Linear)]
    assert widths.count(6) == 2
    assert made(torch.randn(5, 4)).q_values.shape == (5, 3)


@pytest.mark.parametrize("head", HEADS)
def test_features_are_the_input_of_the_head(head: type[nn.Module]) -> None:
    network = QNetwork((2,), 3, lambda shape: MLP(shape, widths=(6, 5)), head, obs_classes=(4, 3))
    obs = torch.tensor([[0, 2], [3, 1]])
    features = network.features(obs)
    assert features.shape == (2, 5)
    torch.testing.assert_close(network.head(features).q_values, network(obs).q_values)


def test_the_action_value_of_a_categorical_head_is_the_mean_of_the_distribution() -> None:
    head = CategoricalHead(1, 2, num_atoms=3, v_min=-1.0, v_max=3.0)
    assert head.atoms.tolist() == [-1.0, 1.0, 3.0]
    with torch.no_grad():
        head.logits.actions.weight.zero_()
        bias = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]).log()
        head.logits.actions.bias.copy_(bias.flatten())
    torch.testing.assert_close(head(torch.ones(1, 1)).q_values, torch.tensor([[0.5, 2.4]]))
    with pytest.raises(ValueError, match=r"model\.head: .*v_min < v_max, got .*51.* 1.* 1"):
        CategoricalHead(1, 2, v_min=1, v_max=1)


def test_a_quantile_head_uses_midpoints_and_its_action_value_is_the_mean() -> None:
    head = QuantileHead(4, 3, num_quantiles=4)
    output = head(torch.randn(5, 4))
    assert output.taus.tolist() == [0.125, 0.375, 0.625, 0.875]
    assert output.quantiles.shape == (5, 3, 4)
    torch.testing.assert_close(output.q_values, output.quantiles.sum(2) / 4)


def test_implicit_quantiles_equal_the_formula_of_the_paper() -> None:
    head = ImplicitQuantileHead(6, 3, num_cosines=5)
    features, taus = torch.randn(2, 6), torch.rand(2, 4)
    output = head(features, taus)
    for b in range(2):
        for k in range(4):
            cosines = [math.cos(math.pi * i * float(taus[b, k])) for i in range(5)]
            embedded = head.embedding(torch.tensor(cosines)).relu()
            expected = head.quantiles.actions(features[b] * embedded)
            torch.testing.assert_close(output.quantiles[b, :, k], expected)
    torch.testing.assert_close(output.q_values, output.quantiles.mean(2))
    assert head(features).taus[:2].tolist() == [1 / 64, 3 / 64]  # the fixed taus


@pytest.mark.parametrize("dueling", [False, True])
@pytest.mark.parametrize("width", [None, 5])
def test_the_numpy_path_selects_the_actions_of_a_dueling_network(
    dueling: bool, width: int | None
) -> None:
    def head(ins: int, outs: int) -> nn.Module:
        return ValueHead(ins, outs, dueling, width)

    network = QNetwork((4,), 3, MLP, head)
    assert numpy_functions(network)
    obs = torch.randn(1_000, 4)
    selected = greedy_policy(network)(obs.numpy())
    assert selected.tolist() == network(obs).q_values.argmax(1).tolist()


@pytest.mark.parametrize("head", HEADS)
def test_a_forward_pass_without_noise_is_deterministic(head: type[nn.Module]) -> None:
    network = QNetwork((4,), 3, MLP, head, noisy_sigma=0.5)
    obs, rng = torch.randn(5, 4), torch.Generator()
    before = network(obs).q_values
    noise = network.sample_update_noise(5, rng)
    assert noise is not None
    assert not torch.equal(network(obs, noise.online).q_values, before)
    assert torch.equal(network(obs).q_values, before)
    assert torch.equal(network(obs, PassNoise()).q_values, before)
