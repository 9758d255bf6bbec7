"""The function `main`: its help, and the exit codes and messages of errors."""

import inspect
import logging
import re
import warnings
from collections import Counter
from importlib import import_module
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch
from lightning.pytorch import Callback
from torch import nn

from dqn_lightning.cli.main import main
from dqn_lightning.cli.registry import COMMANDS, load
from tests.helpers.commands import CARTPOLE, assert_rejected, copy_pretrained, fit

THIS = "tests.cli.test_main"

# The commands ------------------------------------------------------------------------------------


def printed_help(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main([*arguments, "--help"])
    assert stop.value.code == 0
    return " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("name", COMMANDS)
def test_command_is_a_documented_function_in_a_module_of_its_name(name: str) -> None:
    function = load(name)
    assert inspect.isfunction(function)
    assert function is getattr(import_module(f"dqn_lightning.cli.{name}"), name)
    assert function.__doc__


def test_help_lists_every_command_with_its_summary(capsys: pytest.CaptureFixture[str]) -> None:
    output = printed_help(capsys)
    for name, command in COMMANDS.items():
        summary = command.help or (load(name).__doc__ or "").partition("\n")[0]
        assert re.search(rf"\b{name}\b", output)
        assert summary in output


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_lists_its_flags(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    output = printed_help(capsys, name)
    assert ("--window" if name == "plot" else "--data.schedule.total_env_steps") in output


@pytest.mark.parametrize("name", [n for n, c in COMMANDS.items() if not c.has_own_parser])
def test_settings_of_a_command_can_be_printed(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main([name, "--print_config"], default_configs={name: CARTPOLE})
    assert stop.value.code == 0
    assert "id: CartPole-v1" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["traine"]])
def test_missing_or_unknown_command_lists_all_commands(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert_rejected(arguments, ", ".join(COMMANDS), capsys)


# Errors ------------------------------------------------------------------------------------------


class FailingEnv(gym.Env[Any, Any]):
    def __init__(self) -> None:
        raise ValueError("failing environment")


class FailingWrapper(gym.Wrapper[Any, Any, Any, Any]):
    def __init__(self, env: gym.Env[Any, Any]) -> None:
        raise ValueError("failing wrapper")


class FailingTorso(nn.Module):
    def __init__(self, obs_shape: Any) -> None:
        super().__init__()
        raise ValueError("failing torso")


class AttributeErrorTorso(nn.Module):
    def __init__(self, obs_shape: Any) -> None:
        super().__init__()
        self.missing_attribute  # noqa: B018


class KeyErrorTorso(nn.Module):
    def __init__(self, obs_shape: Any) -> None:
        super().__init__()
        {}["missing key"]


class FailingSchedule:
    def __init__(self, factor: float = 1.0) -> None:
        raise ValueError("failing schedule")

    def __call__(self, count: int) -> float:
        return 1.0


class AttributeErrorSchedule(FailingSchedule):
    def __init__(self, factor: float = 1.0) -> None:
        self.missing_attribute  # noqa: B018


class FailingCallback(Callback):
    def __init__(self) -> None:
        raise ValueError("failing callback")


class FailingHook(Callback):
    def on_fit_start(self, *args: Any) -> None:
        raise ValueError("failing hook")


gym.register("test_main/Failing-v0", FailingEnv)


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--data.env.id=test_main/Failing-v0", "ValueError: failing environment"),
        (f"--data.env.wrappers=[{THIS}.FailingWrapper]", "ValueError: failing wrapper"),
        (f"--model.network={THIS}.FailingTorso", "ValueError: failing torso"),
        (f"--model.network={THIS}.AttributeErrorTorso", "AttributeError: .*missing_attribute"),
        (f"--model.network={THIS}.KeyErrorTorso", "KeyError: 'missing key'"),
        (f"--data.exploration.epsilon={THIS}.FailingSchedule", "ValueError: failing schedule"),
        (
            f"--data.exploration.epsilon={THIS}.AttributeErrorSchedule",
            "AttributeError: .*missing_attribute",
        ),
        (f"--trainer.callbacks+={THIS}.FailingCallback", "ValueError: failing callback"),
        (f"--trainer.callbacks+={THIS}.FailingHook", "ValueError: failing hook"),
    ],
)
def test_error_in_a_users_class_prints_its_traceback_and_exits_with_1(
    flag: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    # `SHORT` names an argument of MLP, which other networks do not have.
    arguments = ["fit", "--config", str(CARTPOLE), "--trainer.fast_dev_run=true", flag]
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert "Traceback" in error
    assert Path(__file__).name in error
    assert re.search(rf"^{words}", error, re.MULTILINE), error


def test_loss_that_is_not_finite_is_reported_and_exits_with_1(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert fit("--model.optimizer.init_args.lr=1e30", "--data.evaluation.every_env_steps=null") == 1
    error = capsys.readouterr().err
    assert re.search(r"error: .*loss.* not finite .*update \d+", error)
    assert "Traceback" not in error
    assert not Path("checkpoints/cartpole/last.ckpt").exists()


def test_weights_that_are_not_finite_are_never_saved(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--model.optimizer.init_args.lr=1e38", "--trainer.log_every_n_steps=100000"]
    assert fit(*flags) == 1
    captured = capsys.readouterr()
    assert re.search(r"error: weights .*not finite .*update \d+.* best\.ckpt", captured.err)
    assert "best evaluation" not in captured.out
    assert not list(Path("checkpoints/cartpole").glob("*.ckpt"))


# What a command leaves in this process -----------------------------------------------------------


def filters_of_all_loggers() -> dict[str, list[Any]]:
    loggers = {"": logging.getLogger(), **logging.Logger.manager.loggerDict}
    return {
        name: list(logger.filters)
        for name, logger in loggers.items()
        if isinstance(logger, logging.Logger) and logger.filters
    }


@pytest.mark.parametrize("flag", ["--data.seed=1", "--data.seed=-1"])
def test_filters_of_warnings_and_loggers_are_restored(flag: str) -> None:
    assert fit() == 0  # imports everything that installs filters of its own
    before = list(warnings.filters), filters_of_all_loggers()
    assert fit(flag) == (2 if flag == "--data.seed=-1" else 0)
    assert (list(warnings.filters), filters_of_all_loggers()) == before


def test_checkpoint_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = copy_pretrained("cartpole")
    assert fit() == 0
    loaded: Counter[str] = Counter()
    load_with_torch = torch.load

    def count_and_load(file: Any, *args: Any, **kwargs: Any) -> Any:
        loaded[str(file)] += 1
        return load_with_torch(file, *args, **kwargs)

    monkeypatch.setattr(torch, "load", count_and_load)
    short = "--data.evaluation.env_kwargs.max_episode_steps=3"
    assert main(["test", "--ckpt_path", checkpoint, short]) == 0
    assert main(["play", "--ckpt_path", checkpoint, "--out=video.gif", short]) == 0
    assert loaded == {checkpoint: 2}
    loaded.clear()
    last = "checkpoints/cartpole/last.ckpt"
    assert main(["fit", "--ckpt_path", last, "--data.schedule.total_env_steps=700"]) == 0
    assert loaded[last] == 1
    # Before training it is checked, later searched for references to state files.
    assert loaded.pop("checkpoints/cartpole/best.ckpt") == 2
    assert set(loaded.values()) == {1}  # files in state/ too
