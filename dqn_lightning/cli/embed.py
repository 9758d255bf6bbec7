"""The command `embed`, which plots the learned features of visited states."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from matplotlib.figure import Figure

from dqn_lightning.analysis.diagnostics import forward_with_activations
from dqn_lightning.checkpointing.files import atomic_write
from dqn_lightning.cli.checkpoint import untrained_note
from dqn_lightning.cli.visited_states import visit_test_states
from dqn_lightning.errors import ConfigError
from dqn_lightning.interaction.episodes import VisitedState, sample_states
from dqn_lightning.module import DQNModule
from dqn_lightning.plots.embedding import (
    ColorBy,
    Method,
    Points,
    check_embedding_paths,
    draw_points,
    embed_features,
    write_page,
)

if TYPE_CHECKING:
    from dqn_lightning.cli.app import DQNCLI

_MIN_POINTS = 4  # one more than dimensions
_BATCH_SIZE = 256


def embed(
    cli: "DQNCLI",
    ckpt_path: str | None = None,
    method: Method = "pca",
    color: ColorBy = "value",
    points: int = 2_000,
    episodes: int = 10,
    out: str | None = None,
) -> None:
    """Plot the learned features of visited states as points in three dimensions.

    Features are the outputs of the last hidden layer before the head.

    Args:
        cli: The command line.
        ckpt_path: Checkpoint to use; if null, use untrained weights (requires `--config`).
        method: Method to reduce the features to three dimensions: `pca` projects them onto the
            directions of largest variance; `tsne` requires the extra `plots`.
        color: Quantity shown by color: the largest action value, or the state's episode, step or
            greedy action. It can be changed in the interactive page.
        points: Maximum number of visited states to draw.
        episodes: Number of episodes to play with the test seeds.
        out: File to write: an interactive page (`.html`, requires the extra `plots`) or an image
            (`.png`); if null, both are written beside the checkpoint.

    Raises:
        ConfigError: If a flag is invalid, a file cannot be written, or fewer than four states were
            visited.
    """
    if points < _MIN_POINTS:
        raise ConfigError(f"--points: must be at least {_MIN_POINTS}, got {points}")
    directory = Path() if cli.checkpoint is None else cli.checkpoint.path.parent
    files = [directory / f"embedding{suffix}" for suffix in (".html", ".png")]
    if out is not None:
        files = [Path(out)]
    check_embedding_paths(method, files)
    states = sample_states(visit_test_states(cli, episodes), points, np.random.default_rng(0))
    if len(states) < _MIN_POINTS:
        raise ConfigError(f"--episodes: only {len(states)} states were visited; play more episodes")
    embedded = _embed_states(cli, states, method)
    title = f"{cli.datamodule.env.id}: {len(states):,} states of {episodes} episode"
    title += "s" * (episodes > 1) + untrained_note(cli)
    for file in files:
        try:
            with atomic_write(file) as unfinished:
                _write(unfinished, embedded, color, title)
        except OSError as error:
            raise ConfigError(f"--out: {file} cannot be written ({error})") from error
        size = file.stat().st_size / 1e6
        cli.console.print(f"written to {file} ({size:.1f} MB)", highlight=False)


def _embed_states(cli: "DQNCLI", states: list[VisitedState], method: Method) -> Points:
    obs = torch.stack([state.obs for state in states])
    q_values, features = _forward(cli.model, obs)
    positions, axes = embed_features(features, method)
    are_images = len(cli.datamodule.obs_shape) == 3
    channels = cli.datamodule.collectors.frame_shape[0]
    newest = obs[:, -channels:] if are_images else obs
    episode, step = np.array([(state.episode, state.step) for state in states]).T
    return Points(positions, axes, newest.numpy(), q_values.numpy(force=True), episode, step)


def _forward(model: DQNModule, obs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return action values [P, A] and features [P, D] for observations [P, …]."""
    results = [
        forward_with_activations(model.acting_network, part.to(model.device))
        for part in torch.split(obs, _BATCH_SIZE)
    ]
    q_values = torch.cat([output.q_values for output, *_ in results])
    return q_values, torch.cat([features for *_, features in results])


def _write(path: Path, points: Points, color: ColorBy, title: str) -> None:
    if path.suffix == ".html":
        write_page(path, points, color, title)
        return
    figure = Figure(figsize=(8, 6), layout="constrained")
    draw_points(figure, points, color)
    figure.suptitle(title)
    figure.savefig(path, dpi=150)
