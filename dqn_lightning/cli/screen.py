"""The command `screen`, which shows how an image is preprocessed for the network."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from matplotlib.figure import Figure
from torch import Tensor

from dqn_lightning.datamodule import DQNDataModule
from dqn_lightning.errors import ConfigError
from dqn_lightning.module import DQNModule
from dqn_lightning.plots.episodes import can_open_windows
from dqn_lightning.plots.screen import Screen, draw_screen

if TYPE_CHECKING:
    from dqn_lightning.cli.app import DQNCLI

_MAX_STEPS = 100
_SIZE_INCHES = (12, 3.3)


def screen(cli: "DQNCLI", out: str | None = None) -> None:
    """Show the rendered image, the frame in the replay, and the network's input side by side.

    Args:
        cli: The command line.
        out: Image file to write, such as `screen.png`; if null, open a window.

    Raises:
        ConfigError: If the observations are not images, the environment does not render, the image
            cannot be written, or there is no display for a window.
    """
    if out is None and not can_open_windows():
        raise ConfigError("--out: there is no display; name a file, such as --out screen.png")
    captured = capture_screen(cli.model, cli.datamodule)
    if out is None:
        _show(captured)
    else:
        _save(captured, Path(out))
        cli.console.print(f"written to {out}", highlight=False)


def capture_screen(model: DQNModule, datamodule: DQNDataModule) -> Screen:
    """Take up to 100 random actions in one episode; return the images before the last action.

    Raises:
        ConfigError: If the observations are not images, or the environment does not render.
    """
    env_id = datamodule.env.id
    if len(datamodule.obs_shape) != 3:
        raise ConfigError(
            f"screen: the observations of {env_id} are not images, their shape is "
            f"{datamodule.obs_shape}; configs/pytorch_tutorial.yaml has images"
        )
    collector = datamodule.eval_collector(num_envs=1, epsilon=1.0)
    if collector.envs.render_mode != "rgb_array":
        raise ConfigError(
            f"screen: {env_id} does not render; add --data.env.kwargs.render_mode rgb_array"
        )
    collector.reset(datamodule.evaluation.seed)
    channels = datamodule.collectors.frame_shape[0]
    for _ in range(_MAX_STEPS):
        stack = torch.as_tensor(collector.replay.current_obs()).clone()
        (rendered,) = cast(Any, collector.envs.render())
        if collector.step(model.greedy_actions):
            break
    network_input = _first_layer_input(model, stack)
    return Screen(rendered, stack[0, -channels:].numpy(), network_input[0].numpy(force=True))


def _first_layer_input(model: DQNModule, obs: Tensor) -> Tensor:
    """Return the preprocessed image [1, C, H, W] that the first layer receives for `obs` [1, …]."""
    network = model.acting_network
    first = next(m for m in network.modules() if any(True for _ in m.parameters(False)))
    inputs: list[Tensor] = []
    hook = first.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    model.q_values(obs)
    hook.remove()
    (first_input,) = inputs
    return first_input if first_input.ndim == 4 else network.obs_encoder(obs)


def _show(captured: Screen) -> None:
    import matplotlib.pyplot as plt

    draw_screen(plt.figure(figsize=_SIZE_INCHES, layout="constrained"), captured)
    plt.show()


def _save(captured: Screen, path: Path) -> None:
    figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
    draw_screen(figure, captured)
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:  # no such directory, or an unsupported format
        raise ConfigError(f"--out: {path} cannot be written ({error})") from error
