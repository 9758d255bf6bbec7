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
    ObservationEncoder,
    Orthogonal,
    QNetwork,
    ValueHead,
)


def test_uint8_observations_are_scaled_to_one() -> None:
    layer = ObservationEncoder((1, 2, 2))
    assert layer(torch.full((1, 1, 2, 2), 255, dtype=torch.uint8)).tolist() == [[[[1, 1], [1, 1]]]]


def test_discrete_observations_become_concatenated_one_hot_vectors() -> None:
    layer = ObservationEncoder((2,), obs_classes=(2, 3))
    assert layer.out_shape == (5,)
    assert layer(torch.tensor([[1, 2], [0, 0]])).tolist() == [[0, 1, 0, 0, 1], [1, 0, 1, 0, 0]]


def test_other_dtypes_are_converted_to_float32() -> None:
    for dtype in (torch.int8, torch.float64):
        assert ObservationEncoder((2,))(torch.ones(1, 2, dtype=dtype)).dtype == torch.float32


def test_an_mlp_has_the_given_widths_activation_and_initialization() -> None:
    torch.manual_seed(0)
    torso = MLP((4, 3), widths=(50, 7), activation=nn.Tanh, initialization=Normal(0.1))
    linears = list(torso.layers)
    assert [(layer.in_features, layer.out_features) for layer in linears] == [(12, 50), (50, 7)]
    assert isinstance(torso.activation, nn.Tanh)
    assert linears[0].weight.std().item() == pytest.approx(0.1, rel=0.1)
    assert torso(torch.randn(5, 4, 3)).shape == (5, 7)


def test_orthogonal_initialization_makes_orthogonal_weights() -> None:
    weight = MLP((8,), widths=(8,), initialization=Orthogonal(2.0)).layers[0].weight
    torch.testing.assert_close(weight @ weight.T, 4 * torch.eye(8), atol=1e-5, rtol=0)


def test_the_number_of_features_is_determined_by_a_forward_pass() -> None:
    def convolutions(obs_shape: tuple[int, ...]) -> nn.Module:
        return nn.Sequential(nn.Conv2d(obs_shape[0], 4, 3), nn.BatchNorm2d(4), nn.Flatten())

    network = QNetwork((3, 10, 12), 5, torso=convolutions, head=ValueHead)
    assert network.training
    assert (
        network.torso[1].num_batches_tracked == 0
    )  # the forward pass did not update the statistics
    assert network(torch.zeros(2, 3, 10, 12, dtype=torch.uint8)).q_values.shape == (2, 5)


def test_a_torso_whose_output_is_not_flat_is_rejected() -> None:
    with pytest.raises(ValueError, match=r"features.* Conv2d .*\[1, 4, 8, 8\].*Flatten"):
        QNetwork((3, 10, 10), 2, torso=lambda s: nn.Conv2d(s[0], 4, 3), head=ValueHead)


def test_a_torso_for_observations_of_another_shape_is_rejected() -> None:
    with pytest.raises(ValueError, match=r"model\.network: Linear .* of shape \[4\]"):
        QNetwork((4,), 2, torso=lambda _: nn.Linear(7, 5), head=ValueHead)


def test_a_head_has_the_given_initialization() -> None:
    torch.manual_seed(0)
    network = QNetwork(
        (4,), 2, partial(MLP, widths=(300,)), partial(ValueHead, initialization=Normal(5))
    )
    assert network.head.values.actions.weight.std().item() == pytest.approx(5, rel=0.1)


def test_the_default_cnn_is_the_network_of_the_nature_paper() -> None:
    network = QNetwork((4, 84, 84), 6, torso=CNN, head=ValueHead)
    assert sum(p.numel() for p in network.parameters()) == 1_687_206  # as published
    kinds = [type(layer) for layer in network.torso.convolutions]
    assert kinds == [nn.Conv2d, nn.ReLU] * 3 + [nn.Flatten]


@pytest.mark.parametrize(("height", "width"), [(40, 90), (80, 180), (29, 31)])
def test_a_cnn_supports_images_of_any_size(height: int, width: int) -> None:
    torso = partial(CNN, channels=(16, 32, 32), kernel_sizes=(5, 5, 5), strides=(2, 2, 2))
    for widths in ((), (7,)):
        network = QNetwork((3, height, width), 2, partial(torso, widths=widths), ValueHead)
        assert network(torch.zeros(2, 3, height, width)).q_values.shape == (2, 2)


def test_kernels_and_strides_may_differ_in_height_and_width() -> None:
    torso = CNN((4, 40, 90), (8, 6), ((40, 7), (1, 5)), ((1, 3), 2), widths=(3,))
    first, _, second, *_ = torso.convolutions
    assert first.weight.shape == (8, 4, 40, 7)
    assert second.weight.shape == (6, 8, 1, 5)
    assert torso.linear.layers[0].in_features == 6 * 12  # (90 - 7) // 3 + 1 = 28 positions, then 12
    assert torso(torch.rand(2, 4, 40, 90)).shape == (2, 3)


def test_batch_norm_is_applied_between_convolution_and_relu() -> None:
    torso = CNN((3, 40, 90), (16, 32), (5, 5), (2, 2), batch_norm=True, widths=())
    kinds = [type(layer) for layer in torso.convolutions]
    assert kinds == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU] * 2 + [nn.Flatten]


@pytest.mark.parametrize(
    ("obs_shape", "kwargs", "message"),
    [
        ((4,), {}, r"model\.network: CNN .*\[channels, height, width\], got \[4\]"),
        ((3, 20, 20), {}, r"model\.network: .*20 x 20 .*too small"),
        (
            (3, 84, 84),
            {"strides": (2,)},
            r"channels, kernel_sizes and strides .* got 3, 3 and 1",
        ),
    ],
)
def test_a_cnn_rejects_invalid_shapes_and_settings(
    obs_shape: tuple[int, ...], kwargs: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        CNN(obs_shape, **kwargs)


def test_frame_difference_passes_newest_minus_older_frame_to_the_torso() -> None:
    torso = FrameDifference((6, 2, 2), torso=lambda shape: nn.Flatten())
    older, newest = torch.rand(5, 3, 2, 2), torch.rand(5, 3, 2, 2)
    assert torch.equal(torso(torch.cat([older, newest], 1)), (newest - older).flatten(1))
    torso_shapes = []
    FrameDifference((8,), torso=lambda shape: torso_shapes.append(tuple(shape)) or nn.Identity())
    assert torso_shapes == [(4,)]


def test_frame_difference_is_scaled() -> None:
    torso = FrameDifference((2, 3), torso=lambda shape: nn.Identity(), scale=4.0)
    assert torso(torch.tensor([[[1.0, 2.0, 3.0], [1.5, 2.0, 1.0]]])).tolist() == [
        [[2.0, 0.0, -8.0]]
    ]


def test_frame_and_differences_passes_the_centered_newest_frame_and_all_differences() -> None:
    torso = FrameAndDifferences(
        (6, 2, 2), torso=lambda shape: nn.Identity(), num_frames=3, scale=10.0
    )
    frames = torch.rand(5, 3, 2, 2, 2)
    first, second, newest = frames.unbind(1)
    means = torch.stack([frame.mean() for frame in newest])
    parts = [newest - means[:, None, None, None], second - first, newest - second]
    torch.testing.assert_close(torso(frames.flatten(1, 2)), 10 * torch.cat(parts, 1))
    torso_shapes = []
    FrameAndDifferences((8, 5), torso=lambda shape: torso_shapes.append(shape) or nn.Identity())
    assert torso_shapes == [(8, 5)]


@pytest.mark.parametrize(("num_frames", "frame_stack"), [(1, 2), (4, 4)])
def test_frame_and_differences_rejects_another_number_of_frames(
    num_frames: int, frame_stack: int
) -> None:
    message = rf"data\.replay\.frame_stack {frame_stack}, .*\[3, 40, 90\]"
    with pytest.raises(ValueError, match=message):
        FrameAndDifferences((3, 40, 90), num_frames=num_frames)


def test_frame_difference_rejects_a_single_frame() -> None:
    with pytest.raises(ValueError, match=r"data\.replay\.frame_stack 2, .*\[3, 40, 90\]"):
        FrameDifference((3, 40, 90))
