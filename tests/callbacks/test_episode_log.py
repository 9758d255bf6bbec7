from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib
import numpy as np
import pytest
from PIL import Image

from dqn_lightning.callbacks import EpisodeLog
from dqn_lightning.types import Episode


class Module:
    """Records the values that would be logged."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, dict[str, float]]] = []

    def log_metrics(self, values: dict[str, float], env_steps: int) -> None:
        self.rows.append((env_steps, values))

    def log(self, *args: Any, **kwargs: Any) -> None:
        pass


def feed(callback: EpisodeLog, lengths: list[int], directory: Path) -> Module:
    module: Any = Module()
    trainer: Any = SimpleNamespace(log_dir=directory, fast_dev_run=False, is_global_zero=True)
    callback.on_train_start(trainer, module)
    episodes = [Episode(0, length, length / 2, 10 * i) for i, length in enumerate(lengths)]
    rollout: Any = SimpleNamespace(episodes=episodes, on_episode=[])
    callback.on_train_batch_start(trainer, module, rollout, 0)
    for episode in episodes:
        for function in rollout.on_episode:
            function(episode)
    callback.on_train_batch_end(trainer, module, None, rollout, 0)
    callback.on_train_end(trainer, module)
    return module


def test_means_cover_the_most_recent_hundred_episodes(tmp_path: Path) -> None:
    lengths = list(range(1, 251))
    module = feed(EpisodeLog(), lengths, tmp_path)
    assert len(module.rows) == 250
    env_steps, values = module.rows[-1]
    assert env_steps == 2_490
    assert values["train/episode_length"] == 250
    assert values["train/length_mean"] == np.mean(lengths[-100:])
    assert values["train/return_mean"] == np.mean(lengths[-100:]) / 2
    assert module.rows[9][1]["train/length_mean"] == np.mean(lengths[:10])


def test_lengths_and_returns_are_plotted(tmp_path: Path) -> None:
    feed(EpisodeLog(), list(range(1, 151)), tmp_path)
    for name in ("lengths.png", "returns.png"):
        with Image.open(tmp_path / name) as image:
            colors = {color[:3] for _, color in image.getcolors(1_000_000)}
        assert (0xD5, 0x5E, 0x00) in colors  # color of the line of the mean
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["lengths.png", "returns.png"]  # no temporary files


def test_no_mean_is_plotted_before_the_window_is_full(tmp_path: Path) -> None:
    feed(EpisodeLog(), list(range(1, 51)), tmp_path)
    with Image.open(tmp_path / "lengths.png") as image:
        colors = {color[:3] for _, color in image.getcolors(1_000_000)}
    assert (0xD5, 0x5E, 0x00) not in colors


def test_plots_can_be_disabled(tmp_path: Path) -> None:
    feed(EpisodeLog(save_plots=False), [1, 2, 3], tmp_path)
    assert not list(tmp_path.iterdir())


def test_means_after_a_resume_include_earlier_episodes(tmp_path: Path) -> None:
    first = EpisodeLog(save_plots=False)
    feed(first, list(range(1, 121)), tmp_path)
    second = EpisodeLog(save_plots=False)
    second.load_state_dict(first.state_dict())
    module = feed(second, [1_000], tmp_path)
    recent = [*range(22, 121), 1_000]
    assert module.rows[-1][1]["train/length_mean"] == np.mean(recent)


def test_without_a_display_training_continues_without_the_live_plot(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    matplotlib.use("Agg")
    feed(EpisodeLog(live=True), [1, 2, 3], tmp_path)
    assert "episode_log.live" in caplog.text
    assert "display" in caplog.text
    assert (tmp_path / "lengths.png").exists()
