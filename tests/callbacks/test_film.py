from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dqn_lightning import DQNDataModule, DQNModule
from dqn_lightning.callbacks import Checkpoints, Film, FullState, TargetSync
from dqn_lightning.cli import main
from dqn_lightning.errors import ConfigError
from tests.test_cli import CARTPOLE, SHORT

FILM = ["--trainer.callbacks+=dqn_lightning.callbacks.Film"]
EVERY = "--trainer.callbacks.every_n_env_steps"
FORMAT = "--trainer.callbacks.format"


def fit(*flags: str) -> Path:
    assert main(["fit", "--config", str(CARTPOLE), *SHORT, *flags]) == 0
    return Path("checkpoints/cartpole")


def films(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "films").glob("*"))


@pytest.mark.parametrize(
    ("every", "made"),
    [(200, ["200", "400", "600"]), (250, ["400", "600"]), (600, ["600"]), (601, [])],
)
def test_a_film_follows_the_first_evaluation_that_reaches_a_multiple(
    every: int, made: list[str]
) -> None:
    run = fit(*FILM, f"{EVERY}={every}", "--data.env_id=toy/Drawn-v0")
    assert films(run) == [f"{env_steps}.gif" for env_steps in made]


@pytest.mark.parametrize("kind", ["gif", "webp"])
def test_the_film_is_of_the_first_episode_of_evaluations_and_in_tensorboard(kind: str) -> None:
    run = fit(*FILM, f"{EVERY}=400", f"{FORMAT}={kind}", "--data.env_id=toy/Drawn-v0")
    with Image.open(run / "films" / f"400.{kind}") as film:
        assert film.n_frames == 10
        size = film.size
    events = EventAccumulator(str(run))
    events.Reload()
    (image,) = events.Images("eval/film")
    assert (image.step, image.width, image.height) == (400, *size)
    assert image.encoded_image_string.startswith(b"GIF89a")


def test_a_run_is_the_same_with_films_and_without() -> None:
    run = fit(*FILM, f"{EVERY}=1")
    assert films(run) == ["200.gif", "400.gif", "600.gif"]
    plain = run.with_name("plain")
    fit("--run_name=plain")
    assert (run / "metrics.csv").read_bytes() == (plain / "metrics.csv").read_bytes()
    theirs, ours = (torch.load(at / "last.ckpt", weights_only=True) for at in (plain, run))
    for name, value in theirs["state_dict"].items():
        assert torch.equal(value, ours["state_dict"][name]), name
    states = [next((at / "state" / "rank-0").glob("600-*.pt")) for at in (plain, run)]
    plain_generators, generators = (torch.load(s, weights_only=True)["generators"] for s in states)
    assert str(plain_generators) == str(generators)


def test_a_run_that_goes_on_makes_the_films_that_are_left() -> None:
    drawn = "--data.env_id=toy/Drawn-v0"
    run = fit(*FILM, f"{EVERY}=300", "--data.total_env_steps=400", drawn)
    assert films(run) == ["400.gif"]
    (run / "films" / "400.gif").unlink()
    assert main(["fit", f"--ckpt_path={run}/last.ckpt", "--data.total_env_steps=800"]) == 0
    assert films(run) == ["600.gif"]  # that of 400 is not made again; 900 is not reached


def test_a_dry_run_makes_no_films() -> None:
    assert main(["fit", "--config", str(CARTPOLE), *SHORT, *FILM, "--trainer.fast_dev_run=1"]) == 0
    assert not list(Path().iterdir())


def test_an_environment_that_cannot_draw_is_refused_before_anything_is_written(
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["fit", "--config", str(CARTPOLE), *SHORT, *FILM, "--data.env_id=toy/Walk-v0"]
    assert main(arguments) == 2
    assert "data.env_id: toy/Walk-v0 cannot draw itself" in capsys.readouterr().err
    assert not list(Path().iterdir())


@pytest.mark.parametrize("settings", [{"every_n_env_steps": 0}, {"fps": 0.0}])
def test_numbers_must_be_positive(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"Film: {next(iter(settings))} must be positive, got 0"):
        Film(**settings)


def test_from_python_films_go_into_the_loggers_folder() -> None:
    data = DQNDataModule(
        "toy/Drawn-v0",
        total_env_steps=100,
        learning_starts_env_steps=50,
        eval_every_env_steps=100,
        eval_episodes=1,
        require_replay=False,
    )
    logger = TensorBoardLogger("logs", name="", version="")
    callbacks = [TargetSync(every_n_grad_steps=10), Checkpoints(), FullState(), Film(50)]
    trainer = Trainer(
        max_epochs=-1,
        accelerator="cpu",
        logger=logger,
        callbacks=callbacks,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(DQNModule(data.obs_shape, data.num_actions), datamodule=data)
    assert films(Path("logs")) == ["100.gif"]
