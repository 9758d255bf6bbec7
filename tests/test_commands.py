"""The commands beside Lightning's own."""

import json
import re
import shutil
import sys
import time
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium as gym
import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from dqn_lightning import DQNDataModule, DQNModule, commands, exporting
from dqn_lightning.cli import main
from dqn_lightning.commands import look
from dqn_lightning.envs import CartPoleScreen
from dqn_lightning.networks import CNN, MLP, FrameDifference
from dqn_lightning.plots import embedding, film
from dqn_lightning.plots.embedding import embed
from dqn_lightning.plots.screen import Screen, draw_screen
from tests.pages import coordinates_of, picture_of, states_of

CONFIGS = Path(__file__).parents[1] / "configs"
TUTORIAL = {"screen": CONFIGS / "pytorch_tutorial.yaml"}


def test_screen_writes_a_picture(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["screen", "--out", "screen.png"], default_configs=TUTORIAL) == 0
    assert "written to screen.png" in capsys.readouterr().out
    assert [path.name for path in Path().iterdir()] == ["screen.png"]
    with Image.open("screen.png") as picture:
        assert picture.size[0] > 1_000
        colours = {colour[:3] for _, colour in picture.convert("RGB").getcolors(10**6)}
    assert {(202, 152, 101), (128, 128, 128)} & colours  # the pole, and where nothing moved


def made(network: Any, frame_stack: int = 2) -> tuple[DQNModule, DQNDataModule]:
    torch.manual_seed(0)
    data = DQNDataModule(
        env_kwargs={"render_mode": "rgb_array"}, wrappers=[CartPoleScreen], frame_stack=frame_stack
    )
    return DQNModule(data.obs_shape, data.num_actions, network=network), data


def small(shape: Any) -> CNN:
    return CNN(shape, channels=(2,), kernel_sizes=(5,), strides=(2,), widths=())


def test_screen_shows_what_the_first_layer_with_weights_gets() -> None:
    screen = look(*made(lambda shape: FrameDifference(shape, torso=small)))
    assert screen.rendered.shape == (400, 600, 3)
    assert (screen.observation.shape, screen.observation.dtype) == ((3, 40, 90), np.uint8)
    assert screen.network_input.shape == (3, 40, 90)
    assert screen.network_input.min() < 0 < screen.network_input.max()
    stacked = look(*made(small))
    assert np.array_equal(stacked.observation, screen.observation)  # the same moment
    assert stacked.network_input.shape == (6, 40, 90)
    newest, older = stacked.network_input[3:], stacked.network_input[:3]
    assert np.array_equal(newest, stacked.observation / np.float32(255))
    assert np.array_equal(newest - older, screen.network_input)


def test_screen_shows_the_pictures_themselves_to_a_network_that_flattens_them() -> None:
    assert look(*made(MLP, frame_stack=1)).network_input.shape == (3, 40, 90)


def test_each_picture_is_drawn_with_its_shape() -> None:
    figure = Figure()
    noise = np.random.default_rng(0)
    screen = Screen(
        noise.integers(0, 256, (8, 6, 3)).astype(np.uint8),
        noise.integers(0, 256, (1, 4, 5)).astype(np.uint8),
        noise.uniform(-0.5, 0.5, (2, 4, 5)).astype(np.float32),
    )
    draw_screen(figure, screen)
    captions = [axes.get_xlabel() for axes in figure.axes]
    assert captions[:2] == ["8 x 6 x 3", "1 x 4 x 5, uint8"]
    assert re.match(r"2 x 4 x 5, -0\.\d\d to 0\.\d\d", captions[2])
    pictures = [axes.images[0].get_array() for axes in figure.axes]
    assert [picture.shape for picture in pictures] == [(8, 6, 3), (4, 5), (8, 5)]
    assert pictures[2].min() >= 0
    assert pictures[2].max() <= 1


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "--out: there is no display; name a file"),
        (["--out=nowhere/screen.png"], r"--out: nowhere/screen\.png cannot be written"),
        (["--out=screen.nonsense"], r"--out: screen\.nonsense cannot be written \(Format"),
        (["--out=x.png", "--config", str(CONFIGS / "cartpole.yaml")], r"no pictures but \(4,\)"),
        (["--out=x.png", "--data.env_kwargs.render_mode=null"], r"--data\.env_kwargs\.render_mode"),
    ],
)
def test_bad_input_is_said(
    flags: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    matplotlib.use("Agg")
    assert main(["screen", *flags], default_configs=TUTORIAL) == 2
    error = capsys.readouterr().err
    assert re.search(words, error), error
    assert not list(Path().iterdir())


def test_an_environment_that_does_not_draw_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--data.env_id=toy/Pictures-v0", "--data.wrappers=[]", "--data.env_kwargs={}"]
    flags += ["--data.eval_env_kwargs={}", "--out=x.png"]
    assert main(["screen", *flags], default_configs=TUTORIAL) == 2
    assert "screen: toy/Pictures-v0 does not draw" in capsys.readouterr().err


# play -------------------------------------------------------------------------------------------

DRAWN = ["play", "--config", str(CONFIGS / "cartpole.yaml"), "--data.env_id=toy/Drawn-v0"]


@pytest.mark.parametrize("suffix", ["gif", "webp"])
def test_play_writes_a_film(suffix: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*DRAWN, "--film", f"film.{suffix}", "--episodes=2"]) == 0
    output = capsys.readouterr().out
    played = re.findall(r"Drawn-v0, untrained weights: return [\d.]+ in 9 steps", output)
    assert len(played) == 2
    size = Path(f"film.{suffix}").stat().st_size / 1_000
    # 9 pictures of a fifth of a second and a last one of one second, twice
    assert f"written to film.{suffix} (20 frames, 5.6 s, {size:.0f} kB)" in output
    assert [path.name for path in Path().iterdir()] == [f"film.{suffix}"]
    with Image.open(f"film.{suffix}") as film:
        assert film.n_frames == 20


def test_play_needs_nothing_but_the_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    short = ["--data.total_env_steps=300", "--data.learning_starts_env_steps=100"]
    short += ["--data.eval_every_env_steps=300", "--data.eval_episodes=1"]
    assert main(["fit", "--config", str(CONFIGS / "cartpole.yaml"), *short]) == 0
    best = "checkpoints/cartpole/best.ckpt"
    capsys.readouterr()
    assert main(["play", "--ckpt_path", best, "--film=film.gif"]) == 0
    played = capsys.readouterr().out
    assert re.search(r"^CartPole-v1: return [\d.]+ in \d+ steps", played)
    assert main(["test", "--ckpt_path", best, "--data.test_episodes=1"]) == 0
    (tested,) = re.findall(r"return ([\d.]+)", capsys.readouterr().out)
    assert f"return {tested} in {float(tested):.0f} steps" in played  # weights and seed of `test`


@pytest.mark.parametrize("config", ["pytorch_tutorial", "taxi", "mountaincar"])
def test_play_draws_whatever_the_config_says_of_drawing(config: str) -> None:
    flags = ["--data.eval_env_kwargs.max_episode_steps=3", "--film=film.gif"]
    assert main(["play", "--config", str(CONFIGS / f"{config}.yaml"), *flags]) == 0
    with Image.open("film.gif") as film:
        assert film.n_frames > 2


def test_the_window_shows_the_film_in_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    pygame = pytest.importorskip("pygame")
    shown: list[tuple[float, tuple[int, ...]]] = []

    def flip() -> None:
        window = pygame.display.get_surface()
        shown.append((time.monotonic(), (*window.get_size(), *window.get_at((0, 0))[:3])))
        if len(shown) == 4:
            pygame.event.post(pygame.event.Event(pygame.QUIT))

    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    monkeypatch.setattr(commands, "has_display", lambda: True)
    monkeypatch.setattr(pygame.display, "flip", flip)
    assert main(DRAWN) == 0
    colours = [what[2] for _, what in shown]
    assert colours == [0, 20, 40, 60]  # until it was closed
    assert shown[0][1][:2] == (720 + 240, 480 + 32)
    assert shown[3][0] - shown[0][0] > 0.55
    assert not pygame.display.get_init()


def test_a_display_that_is_not_there_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pygame = pytest.importorskip("pygame")
    pygame.display.quit()  # it may be open: drawing environments start all of pygame
    monkeypatch.setenv("SDL_VIDEODRIVER", "nonsense")
    monkeypatch.setattr(commands, "has_display", lambda: True)
    assert main(DRAWN) == 2
    assert re.search(r"--film: no window can be opened \(.*\); name", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "--film: there is no display; name a file, as --film film.gif"),
        (["--film=film.avi"], r"--film: film\.avi must end in \.gif, \.webp or \.mp4"),
        (["--film=nowhere/film.gif"], r"film\.gif cannot be written: there is no folder nowhere"),
        (["--film=film.mp4"], r"--film: \.mp4 needs .* pip install -e '\.\[video\]'"),
        (["--film=x.gif", "--episodes=0"], r"--episodes: must be positive, got 0"),
        (["--film=x.gif", "--fps=0"], r"--fps: must be positive, got 0"),
        (["--film=x.gif", "--data.env_id=toy/Walk-v0"], r"toy/Walk-v0 cannot draw itself"),
        (["--film=x.gif", "--ckpt_path=x.ckpt"], r"--ckpt_path: there is no file x\.ckpt"),
    ],
)
def test_what_cannot_be_played_is_said(
    flags: list[str],
    words: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    monkeypatch.setattr(film, "find_spec", lambda name: None)
    assert main([*DRAWN, *flags]) == 2
    error = capsys.readouterr().err
    assert re.search(words, error), error
    assert not list(Path().iterdir())


def test_play_asks_for_weights(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["play", "--film=film.gif"]) == 2
    assert "play needs --ckpt_path FILE (or --config for" in capsys.readouterr().err


def test_a_film_that_cannot_be_written_leaves_nothing_and_the_older_one_as_it_was(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError("No space left on device")

    Path("film.gif").write_text("older")
    monkeypatch.setattr(Image.Image, "save", full)
    assert main([*DRAWN, "--film=film.gif"]) == 2
    assert "--film: film.gif cannot be written (No space left" in capsys.readouterr().err
    assert [path.read_text() for path in Path().iterdir()] == ["older"]


def test_mp4_gets_frames_at_a_steady_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of the package is one that takes notes."""
    seen: list[Any] = []

    def write_frames(path: str, size: tuple[int, int], **settings: Any) -> Any:
        seen.append((size, settings))
        Path(path).touch()
        while True:
            seen.append((yield))

    fake = ModuleType("imageio_ffmpeg")
    fake.write_frames = write_frames  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", fake)
    monkeypatch.setattr(film, "find_spec", lambda name: ModuleSpec(name, None))
    assert main([*DRAWN, "--film=film.mp4"]) == 0
    size, settings = seen[0]
    assert settings["fps"] == pytest.approx(5)
    assert len(seen) == 1 + 9 + 5  # the last frame stays for a second
    assert {len(frame) for frame in seen[1:]} == {size[0] * size[1] * 3}
    assert [frame[0] for frame in seen[1:]] == [*range(0, 180, 20), *[180] * 5]


# embed and export -------------------------------------------------------------------------------

PRETRAINED = Path(__file__).parents[1] / "checkpoints" / "pretrained"


def best(name: str) -> str:
    """The way to a copy of weights that come with the project, which files may lie beside."""
    shutil.copytree(PRETRAINED / name, name)
    return f"{name}/best.ckpt"


def replayed(name: str, episode: int, steps: int) -> list[tuple[Any, Tensor, Tensor]]:
    """What was seen last, action values and features of each step, by Gymnasium's means alone."""
    module = DQNModule.load_from_checkpoint(f"{name}/best.ckpt", map_location="cpu").eval()
    env: Any = gym.make("CartPole-v1", render_mode="rgb_array")
    if name == "cartpole_pixels":
        env = CartPoleScreen(env, grey=True)
    obs, _ = env.reset(seed=DQNDataModule().test_seed + episode)
    stack, seen = [obs] * 4, []
    for _ in range(steps):
        newest = torch.as_tensor(obs)
        if obs.ndim == 3:
            newest = torch.as_tensor(np.concatenate(stack, axis=2)).movedim(2, 0)
        with torch.no_grad():
            values = module.acting(newest[None]).q_values[0]
            features = module.acting.features(newest[None])[0]
        seen.append((obs, values, features))
        obs, *_ = env.step(int(values.argmax()))
        stack = [*stack[1:], obs]
    return seen


@pytest.mark.parametrize("name", ["cartpole", "cartpole_pixels"])
def test_points_are_of_the_states_that_they_claim(name: str) -> None:
    pytest.importorskip("plotly")
    # The last flag is one that Gymnasium's vector version of CartPole does not take: so every
    # episode has a seed of its own, and can be played alone.
    flags = ["--points=30", "--episodes=2", "--data.eval_env_kwargs.max_episode_steps=50"]
    assert main(["embed", "--ckpt_path", best(name), "--out=page.html", *flags]) == 0
    page = Path("page.html").read_text()
    states = states_of(page)
    assert len(states) == 30
    assert {state["text"].split(",")[0] for state in states} == {"episode 0", "episode 1"}
    episodes = [replayed(name, episode, steps=50) for episode in range(2)]
    features = []
    for state in states:
        episode, step, action = map(int, re.findall(r"\d+", state["text"]))
        obs, values, of_state = episodes[episode][step]
        features.append(of_state)
        assert action == values.argmax()
        shown = [float(value) for value in state["values"].split(", ")]
        assert shown == pytest.approx(values.tolist(), rel=1e-3)
        if name == "cartpole":
            assert state["numbers"] == ", ".join(f"{x:.4g}" for x in obs.tolist())
        else:
            assert np.array_equal(picture_of(state["picture"]), obs[..., 0])
    places, _ = embed(torch.stack(features), "pca")
    for axis, of_axis in zip("xyz", places.T, strict=True):
        np.testing.assert_allclose(coordinates_of(page, axis), of_axis, atol=1e-3)


def test_an_embedding_is_of_what_the_head_is_given(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Tensor] = []
    monkeypatch.setattr(commands, "embed", lambda *given: seen.append(given[0]) or embed(*given))
    short = ["--points=150", "--episodes=25", "--out=x.png", "--method=tsne"]
    assert main(["embed", "--config", str(CONFIGS / "cartpole.yaml"), *RAINBOW, *short]) == 0
    assert "written to x.png" in capsys.readouterr().out
    assert len(seen[0]) == 150
    assert (seen[0] >= 0).all()  # it ends with a ReLU
    assert len(seen[0].unique(dim=0)) > 100


RAINBOW = ["--config", str(CONFIGS / "variants" / "rainbow.yaml")]


def test_an_embedding_is_a_page_and_a_picture_beside_the_checkpoint(
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("plotly")
    short = ["--points=20", "--episodes=1", "--color=action"]
    assert main(["embed", "--ckpt_path", best("cartpole"), *short]) == 0
    written = re.findall(r"written to (\S+) \(\d+\.\d MB\)", capsys.readouterr().out)
    assert written == ["cartpole/embedding.html", "cartpole/embedding.png"]
    assert Path(written[0]).is_file()
    with Image.open(written[1]) as picture:
        assert picture.size == (1200, 900)


@pytest.mark.parametrize(
    ("config", "flags"), [("cartpole", ["--data.env_id=toy/Walk-v0"]), ("taxi", [])]
)
def test_whole_numbers_and_short_episodes_are_embedded(config: str, flags: list[str]) -> None:
    pytest.importorskip("plotly")
    flags += ["--episodes=3", "--data.eval_env_kwargs.max_episode_steps=9"]
    assert main(["embed", "--config", str(CONFIGS / f"{config}.yaml"), *flags]) == 0
    page = Path("embedding.html").read_text()
    assert "of 3 episodes, untrained weights" in page
    assert all(re.fullmatch(r"\d+(, \d+)*", state["numbers"]) for state in states_of(page))


def test_too_few_states_are_no_embedding(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--episodes=1", "--data.env_id=toy/Walk-v0", "--out=x.png"]
    flags += ["--data.eval_env_kwargs.max_episode_steps=1"]
    assert main(["embed", "--config", str(CONFIGS / "cartpole.yaml"), *flags]) == 2
    assert "--episodes: too few states were visited (1); play more" in capsys.readouterr().err
    assert not list(Path().iterdir())


def test_export_looks_at_many_short_episodes(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--data.env_id=toy/Walk-v0", "--format=torch_export"]
    flags += ["--data.eval_env_kwargs.max_episode_steps=1"]
    assert main(["export", "--config", str(CONFIGS / "cartpole.yaml"), *flags]) == 0
    said = capsys.readouterr().out
    assert "written to toy-Walk-v0.pt2" in said
    assert "kB, untrained weights); on 256 visited states" in said


def test_what_acts_is_exported_where_that_is_the_target() -> None:
    assert main(["export", "--ckpt_path", best("cartpole_pixels"), "--format=torch_export"]) == 0
    module = DQNModule.load_from_checkpoint("cartpole_pixels/best.ckpt", map_location="cpu")
    obs = torch.randint(0, 256, (3, 4, 40, 90), dtype=torch.uint8)
    values = torch.export.load("cartpole_pixels/best.pt2").module()(obs)
    torch.testing.assert_close(values, module.q_values(obs))
    with torch.no_grad():
        assert not torch.allclose(values, module.online(obs).q_values, atol=1e-3)


@pytest.mark.parametrize("kind", ["onnx", "torch_export", "safetensors"])
def test_export_writes_what_acts(
    kind: exporting.Format, capsys: pytest.CaptureFixture[str]
) -> None:
    for package in exporting.PACKAGES[kind]:
        pytest.importorskip(package)
    assert main(["export", "--ckpt_path", best("cartpole"), f"--format={kind}"]) == 0
    file = Path("cartpole/best").with_suffix(exporting.SUFFIXES[kind])
    assert re.search(rf"written to {file} \(\d+ kB\); on 256 visited", capsys.readouterr().out)
    module = DQNModule.load_from_checkpoint("cartpole/best.ckpt", map_location="cpu")
    obs = torch.randn(5, 4)
    if kind == "safetensors":
        assert json.loads(Path("cartpole/best.spaces.json").read_text()) == {
            "env_id": "CartPole-v1", "obs_shape": [4], "obs_dtype": "float32", "obs_classes": None,
            "frame_stack": 1, "num_actions": 2, "first_action": 0,
        }  # fmt: skip
    elif kind == "torch_export":
        values = torch.export.load(file).module()(obs)
        torch.testing.assert_close(values, module.q_values(obs))
    else:
        import onnxruntime

        (values,) = onnxruntime.InferenceSession(file).run(None, {"obs": obs.numpy()})
        torch.testing.assert_close(torch.from_numpy(values), module.q_values(obs))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["embed", "--points=3"], "--points: must be at least 4, got 3"),
        (["embed", "--episodes=0"], "--episodes: must be positive, got 0"),
        (["embed", "--out=x.svg"], r"--out: x\.svg must end in \.html or \.png"),
        (["embed", "--out=nowhere/x.png"], "there is no folder nowhere"),
        (["embed", "--out=x.png", "--ckpt_path=x.ckpt"], r"--ckpt_path: there is no file x\.ckpt"),
        (["export", "--format=torch_export", "--out=x.onnx"], r"--out: x\.onnx must end in \.pt2"),
        (["export", "--format=torch_export", "--out=no/x.pt2"], "there is no folder no"),
    ],
)
def test_what_cannot_be_taken_elsewhere_is_said(
    flags: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*flags, "--config", str(CONFIGS / "cartpole.yaml")]) == 2
    error = capsys.readouterr().err
    assert re.search(words, error), error
    assert "Traceback" not in error
    assert not list(Path().iterdir())


@pytest.mark.parametrize(
    ("command", "module", "words"),
    [
        (["embed", "--out=x.html"], embedding, r"need plotly \(pip install -e '\.\[plots\]'\)"),
        (["embed", "--out=x.png", "--method=tsne"], embedding, "tsne needs scikit-learn"),
        (["export"], exporting, "onnx needs onnx, onnxscript, onnxruntime: pip install -e"),
        (["export", "--format=safetensors"], exporting, "safetensors needs safetensors: pip"),
    ],
)
def test_missing_extras_are_named(
    command: list[str],
    module: ModuleType,
    words: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "find_spec", lambda _: None)
    assert main([*command, "--config", str(CONFIGS / "cartpole.yaml")]) == 2
    error = capsys.readouterr().err
    assert re.search(words, error), error
    assert not list(Path().iterdir())
