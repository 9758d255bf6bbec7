import pytest
import torch

from dqn_lightning import ConfigError
from dqn_lightning.callbacks import GradientClamp
from dqn_lightning.callbacks.gradient_clamp import clamp_norm, clamp_value


def gradients(scale: float) -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [scale * torch.randn(4, 3), scale * torch.randn(7)]


def test_clamping_agrees_with_pytorch() -> None:
    for scale in (0.01, 1.0, 100.0):
        for ours, clip in (
            (clamp_value, torch.nn.utils.clip_grad_value_),
            (clamp_norm, torch.nn.utils.clip_grad_norm_),
        ):
            parameters = [torch.nn.Parameter(torch.zeros_like(g)) for g in gradients(scale)]
            for parameter, gradient in zip(parameters, gradients(scale), strict=True):
                parameter.grad = gradient
            clip(parameters, 1.5)
            for parameter, gradient in zip(parameters, ours(gradients(scale), 1.5), strict=True):
                torch.testing.assert_close(gradient, parameter.grad, rtol=1e-5, atol=1e-7)


def test_zero_gradients_stay_zero() -> None:
    assert clamp_norm([torch.zeros(3)], 1.0)[0].tolist() == [0, 0, 0]


def test_limits_must_be_positive() -> None:
    with pytest.raises(ConfigError, match=r"gradient_clamp\.value: must be positive, got 0"):
        GradientClamp(value=0)
    with pytest.raises(ConfigError, match=r"gradient_clamp\.norm"):
        GradientClamp(norm=-1)
