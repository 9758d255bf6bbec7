from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dqn_lightning import DQNModule
from dqn_lightning.callbacks import Checkpoints, FullState, TargetSync, Video
from dqn_lightning.cli.main import main
from dqn_lightning.errors import ConfigError
from tests.helpers.commands import CARTPOLE, SHORT
from tests.helpers.settings import make_datamodule

VIDEO = ["--trainer.callbacks+=dqn_lightning.callbacks.Video"]
EVERY = "--trainer.callbacks.every_n_env_steps"
FORMAT = "--trainer.callbacks.format"


def fit(*flags: str) -> Path:
    assert main(["fit", "--config", str(CARTPOLE), *SHORT, *flags]) == 0
    return Path("checkpoints/cartpole")


def videos(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "videos").glob("*"))


@pytest.mark.parametrize(
    ("every", "expected"),
    [(200, ["200", "400", "600"]), (250, ["400", "600"]), (600, ["600"]), (601, [])],
)
def test_a_video_follows_the_first_evaluation_that_reaches_a_multiple(
    every: int, expected: list[str]
) -> None:
    run = fit(*VIDEO, f"{EVERY}={every}", "--data.env.id=toy/Drawn-v0")
    assert videos(run) == [f"{env_steps}.gif" for env_steps in expected]


@pytest.mark.parametrize("kind", ["gif", "webp"])
def test_the_video_shows_the_first_evaluation_episode_and_is_in_tensorboard(kind: str) -> None:
    run = fit(*VIDEO, f"{EVERY}=400", f"{FORMAT}={kind}", "--data.env.id=toy/Drawn-v0")
    with Image.open(run / "videos" / f"400.{kind}") as video:
        assert video.n_frames == 10
        size = video.size
    events = EventAccumulator(str(run))
    events.Reload()
    (image,) = events.Images("eval/video")
    assert (image.step, image.width, image.height) == (400, *size)
    assert image.encoded_image_string.startswith(b"GIF89a")


def test_a_run_is_the_same_with_and_without_videos() -> None:
    run = fit(*VIDEO, f"{EVERY}=1")
    assert videos(run) == ["200.gif", "400.gif", "600.gif"]
    plain = run.with_name("plain")
    fit("--run_name=plain")
    assert (run / "metrics.csv").read_bytes() == (plain / "metrics.csv").read_bytes()
    theirs, ours = (torch.load(at / "last.ckpt", weights_only=True) for at in (plain, run))
    for name, value in theirs["state_dict"].items():
        assert torch.equal(value, ours["state_dict"][name]), name
    states = [next((at / "state" / "rank-0").glob("600-*.pt")) for at in (plain, run)]
    plain_generators, generators = (torch.load(s, weights_only=True)["generators"] for s in states)
    assert str(plain_generators) == str(generators)


def test_a_resumed_run_records_the_remaining_videos() -> None:
    drawn = "--data.env.id=toy/Drawn-v0"
    run = fit(*VIDEO, f"{EVERY}=300", "--data.schedule.total_env_steps=400", drawn)
    assert videos(run) == ["400.gif"]
    (run / "videos" / "400.gif").unlink()
    assert main(["fit", f"--ckpt_path={run}/last.ckpt", "--data.schedule.total_env_steps=800"]) == 0
    assert videos(run) == ["600.gif"]  # the video at 400 is not recorded again; 900 is not reached


def test_fast_dev_run_records_no_videos() -> None:
    assert main(["fit", "--config", str(CARTPOLE), *SHORT, *VIDEO, "--trainer.fast_dev_run=1"]) == 0
    assert not list(Path().iterdir())


def test_an_environment_that_cannot_render_is_rejected_before_anything_is_written(
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["fit", "--config", str(CARTPOLE), *SHORT, *VIDEO, "--data.env.id=toy/Walk-v0"]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert "data.env.id" in error
    assert "toy/Walk-v0" in error
    assert not list(Path().iterdir())


@pytest.mark.parametrize("settings", [{"every_n_env_steps": 0}, {"fps": 0.0}])
def test_numbers_must_be_positive(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"Video: {next(iter(settings))} .*positive.* 0"):
        Video(**settings)


def test_from_python_videos_are_saved_in_the_loggers_directory() -> None:
    data = make_datamodule(
        "toy/Drawn-v0",
        total_env_steps=100,
        learning_starts_env_steps=50,
        eval_every_env_steps=100,
        eval_episodes=1,
        require_replay=False,
    )
    logger = TensorBoardLogger("logs", name="", version="")
    callbacks = [TargetSync(every_n_grad_steps=10), Checkpoints(), FullState(), Video(50)]
    trainer = Trainer(
        max_epochs=-1,
        accelerator="cpu",
        logger=logger,
        callbacks=callbacks,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(DQNModule(data.obs_shape, data.num_actions), datamodule=data)
    assert videos(Path("logs")) == ["100.gif"]
