"""Frames and files of films, by hand-made moments."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageSequence

from dqn_lightning.plots.film import Camera, Shot, gif_of, write_film
from dqn_lightning.plots.frames import Scale, draw_moment
from dqn_lightning.types import Moment

GREEDY, OTHER, INK = (0xD5, 0x5E, 0x00), (0x56, 0xB4, 0xE9), (0x33, 0x33, 0x33)
LEFT, RIGHT = 720 + 36, 720 + 240 - 84  # of the bars, beside a picture of 30 x 20 made 24 times so


def moment(q_values: list[float], action: int | None = None, step: int = 0) -> Moment:
    picture = np.full((20, 30, 3), 20 * min(step, 12), np.uint8)
    return Moment(picture, np.array(q_values, np.float32), action, step, float(step))


def frame_of(q_values: list[float], action: int | None = None) -> Image.Image:
    scale = Scale()
    scale.widen(np.array(q_values))
    return draw_moment(moment(q_values, action), "episode 1", scale)


def spans(frame: Image.Image, colour: tuple[int, int, int]) -> list[tuple[int, int]]:
    """First and last column of each bar of that colour, from the top down."""
    rows = np.all(np.asarray(frame)[:, 720:] == colour, axis=2)
    columns = [tuple(720 + row.nonzero()[0][[0, -1]]) for row in rows if row.any()]
    return [span for i, span in enumerate(columns) if i == 0 or columns[i - 1] != span]


def test_bars_are_as_long_as_their_values_and_the_greedy_one_stands_out() -> None:
    frame = frame_of([1.0, 4.0, 2.0], action=1)
    ((start, end),) = spans(frame, GREEDY)
    assert (start, end) == (LEFT + 1, RIGHT)  # the line of 0 is drawn over the first column
    assert spans(frame, OTHER) == [(LEFT + 1, LEFT + 30), (LEFT + 1, LEFT + 60)]


def test_values_below_zero_go_to_the_left_of_its_line() -> None:
    frame = frame_of([-1.0, 3.0, -0.5], action=1)
    zero = LEFT + 30
    assert spans(frame, GREEDY) == [(zero + 1, RIGHT)]
    assert spans(frame, OTHER) == [(LEFT, zero - 1), (LEFT + 15, zero - 1)]
    only_below = frame_of([-2.0, -4.0], action=0)
    assert spans(only_below, GREEDY) == [(LEFT + 60, RIGHT - 1)]
    assert spans(only_below, OTHER) == [(LEFT, RIGHT - 1)]


def test_of_equal_values_the_one_taken_stands_out_and_after_the_end_none() -> None:
    frame = frame_of([2.0, 2.0], action=0)
    assert spans(frame, GREEDY) == spans(frame, OTHER) == [(LEFT + 1, RIGHT)]
    last = frame_of([2.0, 2.0], action=None)
    assert not spans(last, GREEDY)
    assert spans(frame_of([0.0, 0.0], action=0), INK)  # no values to see, and no division by 0


def test_the_scale_never_shrinks() -> None:
    scale = Scale()
    for value, high in ((0.3, 0.3), (41.0, 50.0), (2.0, 50.0), (-0.01, 50.0)):
        scale.widen(np.array([value]))
        assert scale.high == pytest.approx(high)
    assert scale.low == pytest.approx(-0.01)


@pytest.mark.parametrize("num_actions", [1, 18, 200])
def test_any_number_of_actions_fits(num_actions: int) -> None:
    frame = frame_of([1.0] * num_actions, action=num_actions - 1)
    greedy = np.all(np.asarray(frame) == GREEDY, axis=2).any(axis=1).nonzero()[0]
    assert greedy[-1] < frame.height - 32  # above the caption
    assert frame.height == (512 if num_actions < 200 else 200 * 4 + 37 + 1 + 32)
    assert frame.width % 2 == frame.height % 2 == 0


def shots(render_fps: float, fps: float, last: int) -> list[Shot]:
    moments = [moment([1.0], 0, step) for step in range(last)]
    return list(Camera(render_fps, fps).shots([*moments, moment([1.0], None, last)], "episode 1"))


def steps(made: list[Shot]) -> list[int]:
    return [shot.frame.getpixel((0, 0))[0] // 20 for shot in made]


def test_steps_are_left_out_so_that_time_runs_as_in_the_environment() -> None:
    made = shots(render_fps=50, fps=25, last=7)
    assert steps(made) == [0, 2, 4, 6, 7]  # the last one always
    assert [shot.seconds for shot in made] == [0.04] * 4 + [1.0]
    assert steps(shots(render_fps=30, fps=25, last=9)) == [0, 2, 3, 4, 5, 6, 8, 9]


def test_no_step_is_shown_twice_where_the_environment_is_slow() -> None:
    made = shots(render_fps=4, fps=25, last=3)
    assert steps(made) == [0, 1, 2, 3]
    assert [shot.seconds for shot in made] == [0.25] * 3 + [1.0]


@pytest.mark.parametrize("suffix", ["gif", "webp"])
def test_a_film_opens_with_the_frames_size_and_time_it_was_given(suffix: str) -> None:
    path = Path(f"film.{suffix}")
    made = shots(render_fps=30, fps=30, last=9)
    size = write_film(path, iter(made))
    assert size.frames == 10
    assert size.seconds == pytest.approx(1.3)
    with Image.open(path) as film:
        assert film.size == made[0].frame.size
        frames = [frame.convert("RGB") for frame in ImageSequence.Iterator(film)]
        durations = [frame.info["duration"] for frame in frames]
    assert sum(durations) == 1_300
    assert durations[-1] == 1_000
    for frame, shot in zip(frames, made, strict=True):
        difference = np.asarray(frame).astype(int) - np.asarray(shot.frame)
        assert np.abs(difference).max() <= 16  # of colours between two, as at the edges of letters
    assert [path.name for path in Path().iterdir()] == [f"film.{suffix}"]


def test_white_and_the_bars_keep_their_colours_in_a_film() -> None:
    made = shots(render_fps=50, fps=25, last=60)
    write_film(Path("film.gif"), made)
    with Image.open("film.gif") as film:
        film.seek(15)
        colours = {colour for _, colour in film.convert("RGB").getcolors(1_000)}
    assert {(255, 255, 255), GREEDY} <= colours


def test_colours_that_come_late_are_there_too() -> None:
    white = Image.new("RGB", (64, 64), "white")
    late = Image.new("RGB", (64, 64), (250, 90, 0))
    write_film(Path("film.gif"), [*[Shot(white, 0.1)] * 60, Shot(late, 0.1)])
    with Image.open("film.gif") as film:
        film.seek(film.n_frames - 1)
        assert film.convert("RGB").getpixel((5, 5)) == (255, 85, 0)


def test_every_film_can_be_had_as_a_gif() -> None:
    made = shots(render_fps=50, fps=25, last=6)
    for suffix in ("gif", "webp"):
        path = Path(f"film.{suffix}")
        write_film(path, made)
        gif = Path("other.gif")
        gif.write_bytes(gif_of(path))
        with Image.open(gif) as film:
            assert (film.format, film.n_frames) == ("GIF", 4)
            durations = [frame.info["duration"] for frame in ImageSequence.Iterator(film)]
        assert durations == [40, 40, 40, 1_000]
