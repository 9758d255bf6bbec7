"""The command `play`."""

import re
import sys
import time
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from PIL import Image

from dqn_lightning.cli.main import main
from dqn_lightning.plots import video
from tests.helpers.commands import CARTPOLE, CONFIGS, assert_rejected, copy_pretrained

DRAWN = ["play", "--config", str(CARTPOLE), "--data.env.id=toy/Drawn-v0"]
"""Episodes of 9 steps at 5 frames per second, played with untrained weights."""


@pytest.mark.parametrize("suffix", ["gif", "webp"])
def test_play_writes_a_video(suffix: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*DRAWN, "--out", f"video.{suffix}", "--episodes=2"]) == 0
    output = capsys.readouterr().out
    played = re.findall(r"Drawn-v0, untrained weights: return [\d.]+ in 9 steps", output)
    assert len(played) == 2
    size = Path(f"video.{suffix}").stat().st_size / 1_000
    # Two episodes, each with 9 frames of 0.2 s and a last one of 1 s.
    assert f"video.{suffix} (20 frames, 5.6 s, {size:.0f} kB)" in output
    assert [path.name for path in Path().iterdir()] == [f"video.{suffix}"]
    with Image.open(f"video.{suffix}") as image:
        assert image.n_frames == 20


def test_play_reports_an_episode_that_is_cut_short(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*DRAWN, "--out=video.gif", "--data.evaluation.max_steps=4"]) == 0
    assert "in 4 steps, cut short (data.evaluation.max_steps)" in capsys.readouterr().out


def test_play_needs_only_a_checkpoint_and_plays_like_test(
    capsys: pytest.CaptureFixture[str],
) -> None:
    checkpoint = copy_pretrained("cartpole")
    short = "--data.evaluation.env_kwargs.max_episode_steps=20"
    assert main(["play", "--ckpt_path", checkpoint, "--out=video.gif", short]) == 0
    played = capsys.readouterr().out
    assert main(["test", "--ckpt_path", checkpoint, short]) == 0
    (tested,) = re.findall(r"return ([\d.]+)", capsys.readouterr().out)
    assert re.search(rf"^CartPole-v1: return {tested} in 20 steps", played)


@pytest.mark.parametrize("config", ["pytorch_tutorial", "taxi", "mountaincar"])
def test_play_renders_whatever_render_mode_the_config_sets(config: str) -> None:
    flags = ["--data.evaluation.env_kwargs.max_episode_steps=3", "--out=video.gif"]
    assert main(["play", "--config", str(CONFIGS / f"{config}.yaml"), *flags]) == 0
    with Image.open("video.gif") as image:
        assert image.n_frames > 2


def test_window_shows_frames_at_their_speed_until_it_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pygame = pytest.importorskip("pygame")
    shown: list[tuple[float, tuple[int, int], int]] = []

    def flip() -> None:
        window = pygame.display.get_surface()
        shown.append((time.monotonic(), window.get_size(), window.get_at((0, 0))[0]))
        if len(shown) == 4:
            pygame.event.post(pygame.event.Event(pygame.QUIT))

    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    monkeypatch.setattr("dqn_lightning.cli.play.has_display", lambda: True)
    monkeypatch.setattr(pygame.display, "flip", flip)
    assert main(DRAWN) == 0
    times, sizes, brightness = zip(*shown, strict=True)
    assert brightness == (0, 20, 40, 60)  # nothing after the window was closed
    assert sizes[0] == (720 + 240, 480 + 32)
    assert times[3] - times[0] > 0.55  # 3 frames of 0.2 s
    assert not pygame.display.get_init()


def test_window_that_cannot_be_opened_is_reported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pygame = pytest.importorskip("pygame")
    pygame.display.quit()  # environments that render start all of pygame
    monkeypatch.setenv("SDL_VIDEODRIVER", "nonsense")
    monkeypatch.setattr("dqn_lightning.cli.play.has_display", lambda: True)
    assert_rejected(DRAWN, r"--out: .*window", capsys)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], r"--out: .*display.* --out video\.gif"),
        (["--out=video.avi"], r"--out: video\.avi .*\.gif, \.webp or \.mp4"),
        (["--out=video.txt"], r"--out: video\.txt .*\.gif, \.webp or \.mp4"),
        (["--out=nowhere/video.gif"], r"--out: nowhere/video\.gif .*directory nowhere"),
        (["--out=video.mp4"], r"--out: \.mp4 .*pip install -e '\.\[video\]'"),
        (["--out=x.gif", "--episodes=0"], r"--episodes: must be positive, got 0"),
        (["--out=x.gif", "--fps=0"], r"--fps: must be positive, got 0"),
        (["--out=x.gif", "--data.env.id=toy/Walk-v0"], r"toy/Walk-v0 .*render"),
        (["--out=x.gif", "--ckpt_path=x.ckpt"], r"--ckpt_path: x\.ckpt "),
    ],
)
def test_invalid_settings_are_rejected_and_nothing_is_written(
    flags: list[str],
    words: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    monkeypatch.setattr(video, "find_spec", lambda name: None)
    assert_rejected([*DRAWN, *flags], words, capsys)
    assert not list(Path().iterdir())


def test_play_without_checkpoint_or_config_asks_for_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert_rejected(["play", "--out=video.gif"], r"play .*--ckpt_path .*--config", capsys)


def test_failed_write_keeps_an_existing_video_and_leaves_no_other_file(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def save_to_full_disk(*args: Any, **kwargs: Any) -> None:
        raise OSError("No space left on device")

    Path("video.gif").write_text("older")
    monkeypatch.setattr(Image.Image, "save", save_to_full_disk)
    assert_rejected([*DRAWN, "--out=video.gif"], r"--out: video\.gif .*No space left", capsys)
    assert [path.read_text() for path in Path().iterdir()] == ["older"]


def test_mp4_encoder_receives_frames_at_a_constant_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fake `imageio_ffmpeg` records its calls."""
    received: list[Any] = []

    def write_frames(path: str, size: tuple[int, int], **settings: Any) -> Any:
        received.append((size, settings))
        Path(path).touch()
        while True:
            received.append((yield))

    fake = ModuleType("imageio_ffmpeg")
    fake.write_frames = write_frames  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", fake)
    monkeypatch.setattr(video, "find_spec", lambda name: ModuleSpec(name, None))
    assert main([*DRAWN, "--out=video.mp4"]) == 0
    (size, settings), *frames = received
    assert settings["fps"] == pytest.approx(5)
    assert len(frames) == 9 + 5  # the last frame is shown for a second
    assert {len(frame) for frame in frames} == {size[0] * size[1] * 3}
    assert [frame[0] for frame in frames] == [*range(0, 180, 20), *[180] * 5]
