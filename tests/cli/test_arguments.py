"""Which config and checkpoint a command uses."""

from pathlib import Path

import pytest

from dqn_lightning.cli.arguments import with_config
from dqn_lightning.errors import ConfigError


def make_run(name: str) -> Path:
    directory = Path("checkpoints", name)
    directory.mkdir(parents=True)
    for file in ("config.yaml", "last.ckpt", "best.ckpt"):
        (directory / file).touch()
    return directory


def test_default_config_is_inserted_if_none_is_given() -> None:
    default = {"fit": Path("default.yaml")}
    assert with_config(["fit", "--a"], default) == ["fit", "--config", "default.yaml", "--a"]
    assert with_config(["--help"], default) == ["--help"]
    assert with_config(["fit", "--help"], default) == ["fit", "--help"]
    assert with_config([], default) == []


@pytest.mark.parametrize("flag", [["--config", "x"], ["--config=x"], ["-c", "x"]])
def test_given_configs_are_moved_before_other_flags(flag: list[str]) -> None:
    default = {"fit": Path("default.yaml")}
    assert with_config(["fit", *flag], default) == ["fit", *flag]
    assert with_config(["fit", "--a", "1", *flag], default) == ["fit", *flag, "--a", "1"]


@pytest.mark.parametrize("command", ["fit", "test"])
@pytest.mark.parametrize("flag", [["--ckpt_path=last"], ["--ckpt_path", "last"]])
@pytest.mark.parametrize(
    ("arguments", "run"),
    [
        ([], "default"),
        (["--run_name=mine"], "mine"),
        (["--config=named.yaml"], "in_config"),
        (["--config", "configs/other.yaml"], "other"),
        (["--config=configs/other.yaml", "-c", "variants/this.yaml"], "other_this"),
    ],
)
def test_last_is_the_newest_checkpoint_of_the_named_run(
    command: str, flag: list[str], arguments: list[str], run: str
) -> None:
    path = make_run(run) / "last.ckpt"
    Path("named.yaml").write_text("run_name: in_config")
    completed = with_config([command, *arguments, *flag], {"fit": Path("configs/default.yaml")})
    assert str(path) in " ".join(completed)
    assert "last" not in completed
    assert "--ckpt_path=last" not in completed


@pytest.mark.parametrize("text", ["- a list", "run_name: [", "run_name: null", "run_name: {a: 1}"])
def test_name_of_the_run_is_that_of_a_config_without_a_valid_run_name(text: str) -> None:
    path = make_run("other") / "last.ckpt"
    Path("other.yaml").write_text(text)  # the parser reports what is wrong
    assert str(path) in with_config(["fit", "--config=other.yaml", "--ckpt_path", "last"], {})


def test_last_belongs_to_the_run_that_is_named_in_the_config() -> None:
    run = make_run("mine")
    Path("settings.yaml").write_text("run_name: mine\n")
    completed = with_config(["fit", "--config=settings.yaml", "--ckpt_path=last"], {})
    assert completed == ["fit", "--config=settings.yaml", f"--ckpt_path={run / 'last.ckpt'}"]


@pytest.mark.parametrize("flag", [["--ckpt_path=auto"], ["--ckpt_path", "auto"]])
def test_auto_is_the_checkpoint_of_the_run_if_it_has_one(flag: list[str]) -> None:
    default = {"fit": Path("mine.yaml")}
    assert with_config(["fit", *flag], default) == ["fit", "--config", "mine.yaml", *flag]
    run = make_run("mine")
    config = ["--config", str(run / "config.yaml")]
    completed = with_config(["fit", *flag], default)
    assert completed[:3] == ["fit", *config]
    assert str(run / "last.ckpt") in completed[-1]


def test_config_beside_the_checkpoint_takes_precedence_over_the_default() -> None:
    run = make_run("mine")
    arguments = ["test", f"--ckpt_path={run}/best.ckpt", "--data.seed=1"]
    completed = with_config(arguments, {"test": Path("default.yaml")})
    assert completed[:3] == ["test", "--config", str(run / "config.yaml")]
    assert completed[-2:] == arguments[-2:]


def test_only_fit_uses_as_many_processes_as_the_run() -> None:
    flag = f"--ckpt_path={make_run('mine')}/best.ckpt"
    assert "--trainer.devices=1" in with_config(["test", flag], {})
    assert "--trainer.devices=1" not in with_config(["fit", flag], {})


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], r"test .*--ckpt_path .*--config"),
        (["--ckpt_path=nowhere.ckpt"], r"--ckpt_path: .*nowhere\.ckpt"),
        (["--ckpt_path=checkpoints"], r"--ckpt_path: checkpoints .*directory.*best\.ckpt"),
        (["--ckpt_path=alone.ckpt"], r"--ckpt_path: .*config\.yaml .*alone\.ckpt.*--config"),
    ],
)
def test_missing_files_are_reported(flags: list[str], words: str) -> None:
    Path("checkpoints").mkdir()
    Path("alone.ckpt").touch()
    with pytest.raises(ConfigError, match=words):
        with_config(["test", *flags], {})
