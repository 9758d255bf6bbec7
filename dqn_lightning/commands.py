"""The commands beside Lightning's own."""

from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import Trainer
from matplotlib.figure import Figure
from rich.console import Console
from torch import Tensor

from dqn_lightning.datamodule import DQNDataModule
from dqn_lightning.errors import ConfigError
from dqn_lightning.module import DQNModule
from dqn_lightning.plots.episodes import has_windows
from dqn_lightning.plots.screen import Screen, draw_screen

_LONGEST = 100
"""Steps after which a picture is taken, if the episode has not ended before."""

_SIZE = (12, 3.3)  # inches


class Commands(Trainer):
    """Lightning's Trainer with more commands: each method is one, its arguments are flags."""

    def screen(self, model: DQNModule, datamodule: DQNDataModule, out: str | None = None) -> None:
        """Show what the environment draws, what is stored of it and what the network gets.

        Args:
            model: An untrained network will do.
            datamodule: Makes the environment, which must draw (render_mode rgb_array).
            out: Picture to write, as `screen.png`; a window is opened if None.

        Raises:
            ConfigError: If the observations are no pictures, or there is no display.
        """
        if out is None and not has_windows():
            raise ConfigError("--out: there is no display; name a file, as --out screen.png")
        screen = look(model, datamodule)
        if out is None:
            _show(screen)
        else:
            _save(screen, Path(out))


def look(model: DQNModule, datamodule: DQNDataModule) -> Screen:
    """The moment before an episode ends that is played at random.

    Raises:
        ConfigError: If the observations are no pictures, or the environment does not draw.
    """
    env_id = datamodule.factory.env_id
    if len(datamodule.obs_shape) != 3:
        raise ConfigError(
            f"screen: the observations of {env_id} are no pictures but {datamodule.obs_shape}; "
            "see configs/pytorch_tutorial.yaml for some that are"
        )
    collector = datamodule.eval_collector(num_envs=1, epsilon=1.0)
    if collector.envs.render_mode != "rgb_array":
        raise ConfigError(
            f"screen: {env_id} does not draw; add --data.env_kwargs.render_mode rgb_array"
        )
    collector.reset(datamodule.eval_seed)
    channels = datamodule.obs_shape[0] // datamodule.frame_stack
    for _ in range(_LONGEST):
        stack = torch.as_tensor(collector.replay.current_obs()).clone()
        (rendered,) = cast(Any, collector.envs.render())
        if collector.step(model.greedy_actions):
            break
    network_input = _first_input(model, stack)
    return Screen(rendered, stack[0, -channels:].numpy(), network_input[0].numpy(force=True))


def _first_input(model: DQNModule, obs: Tensor) -> Tensor:
    """What the first layer with weights gets for observations."""
    first = next(m for m in model.online.modules() if any(True for _ in m.parameters(False)))
    inputs: list[Tensor] = []
    hook = first.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    model.q_values(obs)
    hook.remove()
    (given,) = inputs
    return given if given.ndim == 4 else model.online.observation(obs)


def _show(screen: Screen) -> None:
    import matplotlib.pyplot as plt

    draw_screen(plt.figure(figsize=_SIZE, layout="constrained"), screen)
    plt.show()


def _save(screen: Screen, path: Path) -> None:
    figure = Figure(figsize=_SIZE, layout="constrained")
    draw_screen(figure, screen)
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:  # no such folder, or a kind of picture it cannot write
        raise ConfigError(f"--out: {path} cannot be written ({error})") from error
    Console(soft_wrap=True).print(f"written to {path}", highlight=False)
