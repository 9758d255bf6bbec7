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
    """Keeps what would go to the loggers."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, dict[str, float]]] = []

    def log_metrics(self, values: dict[str, float], env_steps: int) -> None:
        self.rows.append((env_steps, values))

    def log(self, *args: Any, **kwargs: Any) -> None:
        pass


def feed(callback: EpisodeLog, durations: list[int], folder: Path) -> Module:
    module: Any = Module()
    trainer: Any = SimpleNamespace(log_dir=folder, fast_dev_run=False, is_global_zero=True)
    callback.on_train_start(trainer, module)
    episodes = [Episode(0, d, d / 2, 10 * i) for i, d in enumerate(durations)]
    rollout: Any = SimpleNamespace(episodes=episodes, on_episode=[])
    callback.on_train_batch_start(trainer, module, rollout, 0)
    for episode in episodes:
        for call in rollout.on_episode:
            call(episode)
    callback.on_train_batch_end(trainer, module, None, rollout, 0)
    callback.on_train_end(trainer, module)
    return module


def test_means_are_of_the_newest_hundred(tmp_path: Path) -> None:
    durations = list(range(1, 251))
    module = feed(EpisodeLog(), durations, tmp_path)
    assert len(module.rows) == 250
    env_steps, values = module.rows[-1]
    assert env_steps == 2_490
    assert values["train/episode_length"] == 250
    assert values["train/length_mean"] == np.mean(durations[-100:])
    assert values["train/return_mean"] == np.mean(durations[-100:]) / 2
    assert module.rows[9][1]["train/length_mean"] == np.mean(durations[:10])


def test_pictures_of_durations_and_returns_are_drawn(tmp_path: Path) -> None:
    feed(EpisodeLog(), list(range(1, 151)), tmp_path)
    for name in ("durations.png", "returns.png"):
        with Image.open(tmp_path / name) as picture:
            colours = {colour[:3] for _, colour in picture.getcolors(1_000_000)}
        assert (0xD5, 0x5E, 0x00) in colours  # the line of the mean, in its colour
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["durations.png", "returns.png"]  # nothing half-written


def test_no_mean_is_drawn_before_there_are_a_hundred(tmp_path: Path) -> None:
    feed(EpisodeLog(), list(range(1, 51)), tmp_path)
    with Image.open(tmp_path / "durations.png") as picture:
        colours = {colour[:3] for _, colour in picture.getcolors(1_000_000)}
    assert (0xD5, 0x5E, 0x00) not in colours


def test_no_picture_on_request(tmp_path: Path) -> None:
    feed(EpisodeLog(picture=False), [1, 2, 3], tmp_path)
    assert not list(tmp_path.iterdir())


def test_it_goes_on_where_it_stopped(tmp_path: Path) -> None:
    first = EpisodeLog(picture=False)
    feed(first, list(range(1, 121)), tmp_path)
    second = EpisodeLog(picture=False)
    second.load_state_dict(first.state_dict())
    module = feed(second, [1_000], tmp_path)
    newest = [*range(22, 121), 1_000]
    assert module.rows[-1][1]["train/length_mean"] == np.mean(newest)


def test_a_live_window_is_asked_for_in_vain_where_there_is_no_display(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    matplotlib.use("Agg")
    feed(EpisodeLog(live=True), [1, 2, 3], tmp_path)
    assert "episode_log.live: there is no display; durations.png is drawn" in caplog.text
    assert (tmp_path / "durations.png").exists()
