"""Small networks, optimizers and batches to run engines with."""

import copy
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dqn_lightning.callbacks.gradient_clamp import GradientClamp
from dqn_lightning.engines import declare_pure
from dqn_lightning.losses import DQN
from dqn_lightning.networks import (
    CNN,
    MLP,
    FrameAndDifferences,
    FrameDifference,
    QNetwork,
    ValueHead,
)
from dqn_lightning.types import Batch

SMALL = {"channels": (4, 8), "kernel_sizes": (4, 3), "strides": (2, 1), "widths": (16,)}


def dropout(obs_shape: Any) -> nn.Module:
    return nn.Sequential(nn.Linear(*obs_shape, 32), nn.Dropout(0.5), nn.LayerNorm(32), nn.SiLU())


NETWORKS: dict[str, Any] = {
    "mlp": (MLP, (4,), torch.float32),
    "tanh": (partial(MLP, widths=(9,), activation=nn.Tanh), (4,), torch.float64),
    "linear": (partial(MLP, widths=()), (2, 3), torch.uint8),
    "cnn": (partial(CNN, **SMALL), (2, 16, 16), torch.uint8),
    "batch_norm": (partial(CNN, **SMALL, batch_norm=True), (2, 16, 16), torch.uint8),
    "difference": (partial(FrameDifference, torso=partial(CNN, **SMALL)), (2, 16, 16), torch.uint8),
    "differences": (
        partial(FrameAndDifferences, torso=partial(CNN, **SMALL)),
        (4, 16, 16),
        torch.uint8,
    ),
    "random": (dropout, (4,), torch.float32),
}
OPTIMIZERS: dict[str, Any] = {
    "adam": partial(torch.optim.Adam, lr=1e-3),
    "fused_adam": partial(torch.optim.Adam, lr=1e-3, fused=True),
    "decayed": partial(torch.optim.AdamW, lr=1e-3, weight_decay=0.1, fused=True),
    "amsgrad": partial(torch.optim.Adam, lr=1e-3, amsgrad=True, fused=True),
    "sgd": partial(torch.optim.SGD, lr=1e-2),
    "momentum": partial(torch.optim.SGD, lr=1e-2, momentum=0.9, nesterov=True, weight_decay=0.01),
    "rmsprop": partial(torch.optim.RMSprop, lr=1e-3),
    "centered": partial(torch.optim.RMSprop, lr=1e-3, centered=True, momentum=0.5),
    "adagrad": partial(torch.optim.Adagrad, lr=1e-2),
    "radam": partial(torch.optim.RAdam, lr=1e-3),
}


@declare_pure
def scale_by_layer(gradients: list[Tensor]) -> list[Tensor]:
    """A custom transform whose result depends on how the gradients are divided into tensors."""
    return [gradient / (1 + gradient.norm()) for gradient in gradients]


CLAMP = GradientClamp(value=0.01, norm=0.05)
TRANSFORMS: dict[str, Any] = {
    "none": [],
    "value": [CLAMP._clamp_value],
    "norm": [CLAMP._clamp_norm],
    "layers": [scale_by_layer, CLAMP._clamp_norm],
}


def make(
    kind: Callable[..., Any],
    network: str = "mlp",
    objective: Any = None,
    optimizer: str = "fused_adam",
    transforms: Any = "none",
    dueling: bool = False,
    noisy: bool = False,
    device: str = "cpu",
) -> Any:
    """Return an engine with new networks and a new optimizer, equal for equal arguments."""
    torso, shape, _ = NETWORKS[network]
    objective = objective or DQN()
    head = partial(getattr(objective, "head", ValueHead), dueling=dueling)
    torch.manual_seed(3)
    online = QNetwork(shape, 3, torso, head, noisy_sigma=0.5 if noisy else None)
    online.to(device)
    target = copy.deepcopy(online).requires_grad_(False)
    made: Optimizer = OPTIMIZERS[optimizer](online.parameters())
    if isinstance(transforms, str):
        transforms = TRANSFORMS[transforms]
    return kind(online, target, objective, made, transforms)


def batches(network: str = "mlp", num_batches: int = 200, size: int = 16) -> Iterator[Batch]:
    _, shape, dtype = NETWORKS[network]
    rng = torch.Generator().manual_seed(5)

    def obs() -> Tensor:
        if dtype == torch.uint8:
            return torch.randint(0, 256, (size, *shape), generator=rng, dtype=dtype)
        return torch.randn(size, *shape, generator=rng, dtype=dtype)

    for _ in range(num_batches):
        yield Batch(
            obs=obs(),
            action=torch.randint(3, (size,), generator=rng),
            reward=torch.randn(size, generator=rng),
            discount=torch.rand(size, generator=rng).round() * 0.9,
            next_obs=obs(),
            weight=torch.rand(size, generator=rng),
            row=torch.arange(size),
        )


def train(engine: Any, data: Iterator[Batch], lr: Callable[[int], float] | None = None) -> Any:
    """Return the loss and priority of every update, and the final weights."""
    torch.manual_seed(11)
    rng = torch.Generator().manual_seed(13)
    outputs = []
    for i, batch in enumerate(data):
        if lr is not None:
            for group in engine.optimizer.param_groups:
                group["lr"] = lr(i)
        noise = engine.online.sample_update_noise(len(batch.row), rng)
        output = engine.update(batch, noise)
        outputs.append(torch.stack([output.loss, output.priority]).clone())
        if i % 10 == 9:
            engine.target.load_state_dict(engine.online.state_dict())
    return torch.stack(outputs), state(engine.online)


def state(network: nn.Module) -> Tensor:
    """Return all parameters and buffers as one vector."""
    return torch.cat([value.flatten().double() for value in network.state_dict().values()])
