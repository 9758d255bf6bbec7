from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from dqn_lightning.networks import (
    CNN,
    MLP,
    FrameAndDifferences,
    FrameDifference,
    Normal,
    Observation,
    Orthogonal,
    QNetwork,
    ValueHead,
)


def test_pictures_are_scaled_to_one() -> None:
    layer = Observation((1, 2, 2))
    assert layer(torch.full((1, 1, 2, 2), 255, dtype=torch.uint8)).tolist() == [[[[1, 1], [1, 1]]]]


def test_classes_become_one_hot_vectors_side_by_side() -> None:
    layer = Observation((2,), obs_classes=(2, 3))
    assert layer.out_shape == (5,)
    assert layer(torch.tensor([[1, 2], [0, 0]])).tolist() == [[0, 1, 0, 0, 1], [1, 0, 1, 0, 0]]


def test_bits_and_doubles_become_floats() -> None:
    for dtype in (torch.int8, torch.float64):
        assert Observation((2,))(torch.ones(1, 2, dtype=dtype)).dtype == torch.float32


def test_an_mlp_has_the_widths_activation_and_initialisation_it_is_given() -> None:
    torch.manual_seed(0)
    torso = MLP((4, 3), widths=(50, 7), activation=nn.Tanh, initialization=Normal(0.1))
    linears = list(torso.layers)
    assert [(layer.in_features, layer.out_features) for layer in linears] == [(12, 50), (50, 7)]
    assert isinstance(torso.activation, nn.Tanh)
    assert linears[0].weight.std().item() == pytest.approx(0.1, rel=0.1)
    assert torso(torch.randn(5, 4, 3)).shape == (5, 7)


def test_orthogonal_weights_are() -> None:
    weight = MLP((8,), widths=(8,), initialization=Orthogonal(2.0)).layers[0].weight
    torch.testing.assert_close(weight @ weight.T, 4 * torch.eye(8), atol=1e-5, rtol=0)


def test_the_number_of_features_is_found_by_trying() -> None:
    def convolutions(obs_shape: tuple[int, ...]) -> nn.Module:
        return nn.Sequential(nn.Conv2d(obs_shape[0], 4, 3), nn.BatchNorm2d(4), nn.Flatten())

    network = QNetwork((3, 10, 12), 5, torso=convolutions, head=ValueHead)
    assert network.training
    assert network.torso[1].num_batches_tracked == 0  # trying taught it nothing
    assert network(torch.zeros(2, 3, 10, 12, dtype=torch.uint8)).q_values.shape == (2, 5)


def test_a_network_that_makes_no_features_is_refused_with_the_reason() -> None:
    with pytest.raises(ValueError, match=r"features .*Conv2d makes \[1, 4, 8, 8\].*Flatten"):
        QNetwork((3, 10, 10), 2, torso=lambda s: nn.Conv2d(s[0], 4, 3), head=ValueHead)


def test_a_network_for_other_observations_is_refused_with_their_shape() -> None:
    with pytest.raises(ValueError, match=r"model\.network: Linear .* of shape \[4\]"):
        QNetwork((4,), 2, torso=lambda _: nn.Linear(7, 5), head=ValueHead)


def test_a_head_can_be_initialised_too() -> None:
    torch.manual_seed(0)
    network = QNetwork(
        (4,), 2, partial(MLP, widths=(300,)), partial(ValueHead, initialization=Normal(5))
    )
    assert network.head.values.actions.weight.std().item() == pytest.approx(5, rel=0.1)


def test_a_cnn_is_the_network_of_the_nature_paper_unless_told_otherwise() -> None:
    network = QNetwork((4, 84, 84), 6, torso=CNN, head=ValueHead)
    assert sum(p.numel() for p in network.parameters()) == 1_687_206  # as published
    kinds = [type(layer) for layer in network.torso.convolutions]
    assert kinds == [nn.Conv2d, nn.ReLU] * 3 + [nn.Flatten]


@pytest.mark.parametrize(("height", "width"), [(40, 90), (80, 180), (29, 31)])
def test_a_cnns_features_are_computed_for_any_picture(height: int, width: int) -> None:
    torso = partial(CNN, channels=(16, 32, 32), kernel_sizes=(5, 5, 5), strides=(2, 2, 2))
    for widths in ((), (7,)):
        network = QNetwork((3, height, width), 2, partial(torso, widths=widths), ValueHead)
        assert network(torch.zeros(2, 3, height, width)).q_values.shape == (2, 2)


def test_kernels_and_steps_may_be_higher_than_wide() -> None:
    torso = CNN((4, 40, 90), (8, 6), ((40, 7), (1, 5)), ((1, 3), 2), widths=(3,))
    first, _, second, *_ = torso.convolutions
    assert first.weight.shape == (8, 4, 40, 7)
    assert second.weight.shape == (6, 8, 1, 5)
    assert torso.linear.layers[0].in_features == 6 * 12  # (90 - 7) // 3 + 1 = 28 places, then 12
    assert torso(torch.rand(2, 4, 40, 90)).shape == (2, 3)


def test_batch_norm_stands_between_convolution_and_relu() -> None:
    torso = CNN((3, 40, 90), (16, 32), (5, 5), (2, 2), batch_norm=True, widths=())
    kinds = [type(layer) for layer in torso.convolutions]
    assert kinds == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU] * 2 + [nn.Flatten]


@pytest.mark.parametrize(
    ("obs_shape", "kwargs", "words"),
    [
        ((4,), {}, r"CNN needs pictures \[channels, height, width\], the observations are \[4\]"),
        ((3, 20, 20), {}, "pictures of 20 x 20 are too small"),
        (
            (3, 84, 84),
            {"strides": (2,)},
            r"as many channels \(3\) as kernel_sizes .* strides \(1\)",
        ),
    ],
)
def test_a_cnn_that_cannot_be_is_refused(
    obs_shape: tuple[int, ...], kwargs: Any, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        CNN(obs_shape, **kwargs)


def test_another_torso_is_given_the_newest_frame_minus_the_one_before() -> None:
    torso = FrameDifference((6, 2, 2), torso=lambda shape: nn.Flatten())
    older, newest = torch.rand(5, 3, 2, 2), torch.rand(5, 3, 2, 2)
    assert torch.equal(torso(torch.cat([older, newest], 1)), (newest - older).flatten(1))
    made_for = []
    FrameDifference((8,), torso=lambda shape: made_for.append(tuple(shape)) or nn.Identity())
    assert made_for == [(4,)]


def test_a_difference_can_be_made_larger() -> None:
    torso = FrameDifference((2, 3), torso=lambda shape: nn.Identity(), scale=4.0)
    assert torso(torch.tensor([[[1.0, 2.0, 3.0], [1.5, 2.0, 1.0]]])).tolist() == [
        [[2.0, 0.0, -8.0]]
    ]


def test_another_torso_is_given_the_newest_frame_less_its_mean_and_all_differences() -> None:
    torso = FrameAndDifferences(
        (6, 2, 2), torso=lambda shape: nn.Identity(), num_frames=3, scale=10.0
    )
    frames = torch.rand(5, 3, 2, 2, 2)
    first, second, newest = frames.unbind(1)
    means = torch.stack([frame.mean() for frame in newest])
    parts = [newest - means[:, None, None, None], second - first, newest - second]
    torch.testing.assert_close(torso(frames.flatten(1, 2)), 10 * torch.cat(parts, 1))
    made_for = []
    FrameAndDifferences((8, 5), torso=lambda shape: made_for.append(shape) or nn.Identity())
    assert made_for == [(8, 5)]


@pytest.mark.parametrize(("num_frames", "wanted"), [(1, 2), (4, 4)])
def test_frames_that_are_not_so_many_are_refused(num_frames: int, wanted: int) -> None:
    words = rf"data\.frame_stack {wanted}, the observations are \[3, 40, 90\]"
    with pytest.raises(ValueError, match=words):
        FrameAndDifferences((3, 40, 90), num_frames=num_frames)


def test_a_difference_of_one_frame_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"data\.frame_stack 2, the observations are \[3, 40, 90\]"
    ):
        FrameDifference((3, 40, 90))
