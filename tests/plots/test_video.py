"""Frames and files of videos made from hand-written steps."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageSequence

from dqn_lightning.plots.frames import BarScale, draw_step
from dqn_lightning.plots.video import FrameSampler, TimedFrame, read_as_gif, write_video
from dqn_lightning.types import PlayedStep

GREEDY, OTHER, INK = (0xD5, 0x5E, 0x00), (0x56, 0xB4, 0xE9), (0x33, 0x33, 0x33)
LEFT, RIGHT = 720 + 36, 720 + 240 - 84  # of the bars; a 30 x 20 image is enlarged 24 times


def played(q_values: list[float], action: int | None = None, step: int = 0) -> PlayedStep:
    image = np.full((20, 30, 3), 20 * min(step, 12), np.uint8)
    return PlayedStep(image, np.array(q_values, np.float32), action, step, float(step))


def frame_of(q_values: list[float], action: int | None = None) -> Image.Image:
    scale = BarScale()
    scale.widen(np.array(q_values))
    return draw_step(played(q_values, action), "episode 1", scale)


def spans(frame: Image.Image, color: tuple[int, int, int]) -> list[tuple[int, int]]:
    """Return the first and last column of each bar of a color, from top to bottom."""
    rows = np.all(np.asarray(frame)[:, 720:] == color, axis=2)
    columns = [tuple(720 + row.nonzero()[0][[0, -1]]) for row in rows if row.any()]
    return [span for i, span in enumerate(columns) if i == 0 or columns[i - 1] != span]


def test_bar_lengths_are_proportional_and_the_greedy_bar_has_its_own_color() -> None:
    frame = frame_of([1.0, 4.0, 2.0], action=1)
    ((start, end),) = spans(frame, GREEDY)
    assert (start, end) == (LEFT + 1, RIGHT)  # the zero line covers the first column
    assert spans(frame, OTHER) == [(LEFT + 1, LEFT + 30), (LEFT + 1, LEFT + 60)]


def test_bars_of_negative_values_extend_to_the_left_of_zero() -> None:
    frame = frame_of([-1.0, 3.0, -0.5], action=1)
    zero = LEFT + 30
    assert spans(frame, GREEDY) == [(zero + 1, RIGHT)]
    assert spans(frame, OTHER) == [(LEFT, zero - 1), (LEFT + 15, zero - 1)]
    only_below = frame_of([-2.0, -4.0], action=0)
    assert spans(only_below, GREEDY) == [(LEFT + 60, RIGHT - 1)]
    assert spans(only_below, OTHER) == [(LEFT, RIGHT - 1)]


def test_only_the_action_taken_is_highlighted_and_none_after_the_last_step() -> None:
    frame = frame_of([2.0, 2.0], action=0)
    assert spans(frame, GREEDY) == spans(frame, OTHER) == [(LEFT + 1, RIGHT)]
    last = frame_of([2.0, 2.0], action=None)
    assert not spans(last, GREEDY)
    assert spans(frame_of([0.0, 0.0], action=0), INK)  # no bars, and no division by zero


def test_the_range_of_the_bars_never_shrinks() -> None:
    scale = BarScale()
    for value, high in ((0.3, 0.3), (41.0, 50.0), (2.0, 50.0), (-0.01, 50.0)):
        scale.widen(np.array([value]))
        assert scale.high == pytest.approx(high)
    assert scale.low == pytest.approx(-0.01)


@pytest.mark.parametrize("num_actions", [1, 18, 200])
def test_frames_have_room_for_any_number_of_actions(num_actions: int) -> None:
    frame = frame_of([1.0] * num_actions, action=num_actions - 1)
    greedy = np.all(np.asarray(frame) == GREEDY, axis=2).any(axis=1).nonzero()[0]
    assert greedy[-1] < frame.height - 32  # above the caption
    assert frame.height == (512 if num_actions < 200 else 200 * 4 + 37 + 1 + 32)
    assert frame.width % 2 == frame.height % 2 == 0


def timed_frames(render_fps: float, fps: float, last: int) -> list[TimedFrame]:
    played_steps = [played([1.0], 0, step) for step in range(last)]
    return list(
        FrameSampler(render_fps, fps).timed_frames(
            [*played_steps, played([1.0], None, last)], "episode 1"
        )
    )


def steps(made: list[TimedFrame]) -> list[int]:
    return [timed_frame.frame.getpixel((0, 0))[0] // 20 for timed_frame in made]


def test_steps_are_skipped_so_that_the_video_plays_in_real_time() -> None:
    made = timed_frames(render_fps=50, fps=25, last=7)
    assert steps(made) == [0, 2, 4, 6, 7]  # always with the last step
    assert [timed_frame.seconds for timed_frame in made] == [0.04] * 4 + [1.0]
    assert steps(timed_frames(render_fps=30, fps=25, last=9)) == [0, 2, 3, 4, 5, 6, 8, 9]


def test_no_step_is_repeated_if_the_environment_is_slower_than_the_video() -> None:
    made = timed_frames(render_fps=4, fps=25, last=3)
    assert steps(made) == [0, 1, 2, 3]
    assert [timed_frame.seconds for timed_frame in made] == [0.25] * 3 + [1.0]


@pytest.mark.parametrize("suffix", ["gif", "webp"])
def test_a_written_video_has_the_frames_and_durations_that_were_given(suffix: str) -> None:
    path = Path(f"video.{suffix}")
    made = timed_frames(render_fps=30, fps=30, last=9)
    size = write_video(path, iter(made))
    assert size.frames == 10
    assert size.seconds == pytest.approx(1.3)
    with Image.open(path) as video:
        assert video.size == made[0].frame.size
        frames = [frame.convert("RGB") for frame in ImageSequence.Iterator(video)]
        lengths = [frame.info["duration"] for frame in frames]
    assert sum(lengths) == 1_300
    assert lengths[-1] == 1_000
    for frame, timed_frame in zip(frames, made, strict=True):
        difference = np.asarray(frame).astype(int) - np.asarray(timed_frame.frame)
        assert np.abs(difference).max() <= 16  # intermediate colors at the edges of letters
    assert [path.name for path in Path().iterdir()] == [f"video.{suffix}"]


def test_white_and_the_colors_of_the_bars_are_preserved() -> None:
    made = timed_frames(render_fps=50, fps=25, last=60)
    write_video(Path("video.gif"), made)
    with Image.open("video.gif") as video:
        video.seek(15)
        colors = {color for _, color in video.convert("RGB").getcolors(1_000)}
    assert {(255, 255, 255), GREEDY} <= colors


def test_colors_that_first_appear_in_a_late_frame_are_approximated() -> None:
    white = Image.new("RGB", (64, 64), "white")
    late = Image.new("RGB", (64, 64), (250, 90, 0))
    write_video(Path("video.gif"), [*[TimedFrame(white, 0.1)] * 60, TimedFrame(late, 0.1)])
    with Image.open("video.gif") as video:
        video.seek(video.n_frames - 1)
        assert video.convert("RGB").getpixel((5, 5)) == (255, 85, 0)


def test_every_animation_can_be_read_as_a_gif() -> None:
    made = timed_frames(render_fps=50, fps=25, last=6)
    for suffix in ("gif", "webp"):
        path = Path(f"video.{suffix}")
        write_video(path, made)
        gif = Path("other.gif")
        gif.write_bytes(read_as_gif(path))
        with Image.open(gif) as video:
            assert (video.format, video.n_frames) == ("GIF", 4)
            lengths = [frame.info["duration"] for frame in ImageSequence.Iterator(video)]
        assert lengths == [40, 40, 40, 1_000]
