"""Private attributes of Lightning still exist and mean what `internals.lightning` assumes."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import (
    DeviceStatsMonitor,
    EarlyStopping,
    LambdaCallback,
    LearningRateMonitor,
    ModelCheckpoint,
    RichProgressBar,
)
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.strategies import DDPStrategy

from dqn_lightning import ConfigError, DQNModule
from dqn_lightning import callbacks as our_callbacks
from dqn_lightning.callbacks import TargetSync
from dqn_lightning.internals import lightning as internals
from tests.helpers.commands import CARTPOLE
from tests.helpers.training import QUIET, Recorder, make, train


def trainer_of(**options: Any) -> Trainer:
    return Trainer(**{**QUIET, "enable_checkpointing": False, **options})


def owns(cls: type, name: str) -> Callable[[], Any]:
    """Return a function that raises AttributeError if a class has no such method."""
    return lambda: getattr(cls, name)


def instance_attributes_of_command_line() -> set[str]:
    """Return the attributes that LightningCLI sets while it parses `validate`."""
    from dqn_lightning.cli.app import DQNCLI

    class ParseOnly(DQNCLI):
        def _run_subcommand(self, subcommand: str) -> None:
            pass

    return set(vars(ParseOnly(["validate", "--config", str(CARTPOLE)])))


def epoch_loop() -> Any:
    return trainer_of().fit_loop.epoch_loop


PRIVATE_ATTRIBUTES: dict[str, tuple[Callable[[], Any], str]] = {
    "fit_loop.epoch_loop._batches_that_stepped": (
        lambda: epoch_loop()._batches_that_stepped,
        "the x axis of LearningRateMonitor and DeviceStatsMonitor",
    ),
    "fit_loop.epoch_loop.manual_optimization.optim_step_progress": (
        lambda: epoch_loop().manual_optimization.optim_step_progress.total.completed,
        "trainer.global_step and trainer.max_steps",
    ),
    "fit_loop.epoch_progress.reset": (
        lambda: trainer_of().fit_loop.epoch_progress.reset,
        "a second fit with the same trainer",
    ),
    "Trainer.check_val_every_n_epoch": (
        lambda: trainer_of().check_val_every_n_epoch,
        "evaluations during training",
    ),
    "Trainer.val_check_interval": (
        lambda: trainer_of().val_check_interval,
        "evaluations during training",
    ),
    "Trainer.val_check_batch": (
        lambda: trainer_of().val_check_batch,
        "evaluations that are due after a rollout",
    ),
    "Trainer.state.fn": (lambda: trainer_of().state.fn, "distinguishing fit from validate"),
    "LightningModule._trainer": (
        lambda: LightningModule()._trainer,
        "loading a checkpoint into a module without a trainer",
    ),
    "DDPStrategy._layer_sync": (
        lambda: DDPStrategy()._layer_sync,
        "refusing trainer.sync_batchnorm on CPUs",
    ),
    "LightningArgumentParser._option_string_actions": (
        lambda: LightningArgumentParser()._option_string_actions,
        "suggesting a flag for a misspelled one",
    ),
    "_checkpoint_connector._loaded_checkpoint": (
        lambda: trainer_of()._checkpoint_connector._loaded_checkpoint,
        "reporting a malformed checkpoint",
    ),
    "Trainer.fit_loop.load_state_dict": (
        lambda: trainer_of().fit_loop.load_state_dict,
        "checking a checkpoint before a run directory is created",
    ),
    "Strategy.model": (lambda: trainer_of().strategy.model, "the buffers of each rank"),
    "Strategy.checkpoint_io": (
        lambda: trainer_of().strategy.checkpoint_io,
        "reading the checkpoint of a resumed run only once",
    ),
    **{
        f"LightningCLI.{name}": (owns(LightningCLI, name), depends)
        for name, depends in {
            "_add_subcommands": "commands that are functions",
            "_add_arguments": "the flags of every command",
            "_parse_ckpt_path": "flags that override the checkpoint's hyperparameters",
            "_set_seed": "the error message of --seed_everything",
            "_run_subcommand": "running a command",
            "_get": "reading the settings of the command",
            "_parser": "config.yaml in the run directory",
        }.items()
    },
}
"""How each attribute is accessed, and what depends on it."""


@pytest.mark.parametrize("name", PRIVATE_ATTRIBUTES)
def test_the_private_attribute_exists(name: str) -> None:
    access, depends = PRIVATE_ATTRIBUTES[name]
    try:
        access()
    except AttributeError as error:
        pytest.fail(
            f"Lightning {lightning.__version__} no longer has {name}, which "
            f"dqn_lightning/internals/lightning.py uses for {depends} ({error}); replace it there"
        )


@pytest.mark.parametrize("name", ["_subcommand_method_arguments", "_subcommand_parsers", "config"])
def test_the_command_line_still_sets_the_attribute(name: str) -> None:
    assert name in instance_attributes_of_command_line(), (
        f"LightningCLI of Lightning {lightning.__version__} no longer sets {name}, which "
        "CommandLine in dqn_lightning/internals/lightning.py uses for the flags of commands"
    )


def test_a_private_method_that_is_overridden_is_still_called_by_the_command_line() -> None:
    from dqn_lightning.cli.app import DQNCLI

    calls: list[str] = []
    names = ("_add_subcommands", "_parse_ckpt_path", "_set_seed", "_run_subcommand")

    def recorded(name: str) -> Callable[..., Any]:
        def call(self: Any, *args: Any, **kwargs: Any) -> None:
            calls.append(name)
            if name != "_run_subcommand":
                getattr(DQNCLI, name)(self, *args, **kwargs)

        return call

    recording = type("Recording", (DQNCLI,), {name: recorded(name) for name in names})
    recording(["validate", "--config", str(CARTPOLE)])
    assert sorted(calls) == sorted(names), (
        f"LightningCLI of Lightning {lightning.__version__} no longer calls "
        f"{set(names) - set(calls)}; see CommandLine in dqn_lightning/internals/lightning.py"
    )


# Steps and evaluations --------------------------------------------------------------------------


def test_the_global_step_is_counted_and_reset() -> None:
    module, _ = make()
    trainer = trainer_of()
    trainer.strategy.connect(module)
    assert not module.automatic_optimization
    internals.set_global_step(trainer, 41)
    internals.grad_step_counter(trainer)()
    assert trainer.global_step == 42
    internals.start_new_run(trainer)
    assert (trainer.global_step, trainer.current_epoch) == (0, 0)


def test_callbacks_of_lightning_log_at_the_last_environment_step_of_the_rollout_from_zero() -> None:
    logger = Recorder()
    monitor = LearningRateMonitor("step")
    module, datamodule = make(rollout_env_steps=50)
    train(module, datamodule, monitor, logger=logger, log_every_n_steps=1)
    steps = [step for step, name, _ in logger.rows if name == "lr-Adam"]
    assert [step for step in steps if step > 0] == [49, 99, 149, 199, 249]


def test_validations_follow_exactly_the_batches_that_ask_for_one() -> None:
    module, datamodule = make(rollout_env_steps=20, eval_every_env_steps=60)
    evaluated_at: list[int] = []

    class RecordEvaluations(Callback):
        def on_validation_start(self, trainer: Trainer, pl_module: Any) -> None:
            evaluated_at.append(pl_module.progress.env_steps)

    options: dict[str, Any] = {"val_check_interval": "00:00:10:00", "num_sanity_val_steps": 0}
    if not hasattr(trainer_of(), "_val_check_time_interval"):
        options["val_check_interval"] = 7  # Lightning before 2.6 has no intervals of time
    train(module, datamodule, RecordEvaluations(), **options)
    assert evaluated_at == [60, 120, 180, 240, 300]


def test_a_module_is_fitting_only_while_its_trainer_fits() -> None:
    fitting: dict[str, bool] = {}

    class Ask(Callback):
        def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            fitting["train"] = internals.is_fitting(pl_module)

        def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            fitting["test"] = internals.is_fitting(pl_module)

    module, datamodule = make()
    fitting["no trainer"] = internals.is_fitting(module)
    trainer = train(module, datamodule, Ask())
    trainer.test(module, datamodule=datamodule, verbose=False)
    assert fitting == {"no trainer": False, "train": True, "test": False}


# Warnings ---------------------------------------------------------------------------------------


def test_ignored_warnings_are_ignored_within_the_block_only() -> None:
    before = list(warnings.filters)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with internals.ignored_warnings(["first.*"]):
            warnings.warn("first one", stacklevel=1)
            warnings.warn("second one", stacklevel=1)
        warnings.warn("first again", stacklevel=1)
    assert [str(warning.message) for warning in seen] == ["second one", "first again"]
    assert warnings.filters == before


# Hooks that are never called --------------------------------------------------------------------


@pytest.mark.parametrize("hook", internals.UNREACHABLE_HOOKS)
def test_a_module_that_overrides_a_hook_that_is_never_called_is_refused(hook: str) -> None:
    class Refused(DQNModule):
        pass

    _, datamodule = make()
    setattr(Refused, hook, lambda self, *args, **kwargs: None)
    module = Refused(datamodule.obs_shape, datamodule.num_actions)
    instead = internals.UNREACHABLE_HOOKS[hook]
    with pytest.raises(ConfigError, match=rf"Refused\.{hook} .*{instead.split()[-1]}"):
        train(module, datamodule)


def test_a_hook_that_is_assigned_to_a_module_is_refused() -> None:
    module, datamodule = make()
    module.optimizer_step = lambda *args, **kwargs: None
    with pytest.raises(ConfigError, match=r"DQNModule\.optimizer_step"):
        train(module, datamodule)


@pytest.mark.parametrize(
    "hook", ["on_before_backward", "on_after_backward", "on_before_optimizer_step"]
)
def test_a_callback_with_a_hook_that_is_never_called_is_warned_about(hook: str) -> None:
    class Warned(Callback):
        pass

    setattr(Warned, hook, lambda self, *args, **kwargs: None)
    module, datamodule = make()
    with pytest.warns(UserWarning, match=rf"Warned\.{hook} .*grad_transforms"):
        train(module, datamodule, Warned())


def test_a_hook_that_is_given_to_a_lambda_callback_is_warned_about() -> None:
    callback = LambdaCallback(on_before_zero_grad=lambda *args: None)
    module, datamodule = make()
    with pytest.warns(UserWarning, match=r"LambdaCallback\.on_before_zero_grad .*after_update"):
        train(module, datamodule, callback)


def test_a_subclass_may_override_hooks_that_are_called() -> None:
    started: list[str] = []

    class Allowed(DQNModule):
        def on_train_start(self) -> None:
            super().on_train_start()
            started.append("train")

        def act(self, obs: torch.Tensor) -> torch.Tensor:
            return super().act(obs)

    _, datamodule = make()
    train(Allowed(datamodule.obs_shape, datamodule.num_actions), datamodule)
    assert started == ["train"]


def test_callbacks_may_have_methods_of_their_own_with_the_name_of_a_hook_of_modules() -> None:
    class Own(Callback):
        def backward(self) -> None:
            pass

    assert internals.unreachable_hooks(Own(), Callback) == {}


def our_callback_classes() -> list[type]:
    exported = (getattr(our_callbacks, name) for name in our_callbacks.__all__)
    return [item for item in exported if isinstance(item, type) and issubclass(item, Callback)]


@pytest.mark.parametrize(
    "callback",
    [
        *our_callback_classes(),
        LearningRateMonitor,
        EarlyStopping,
        ModelCheckpoint,
        RichProgressBar,
        DeviceStatsMonitor,
    ],
    ids=lambda callback: callback.__name__,
)
def test_our_callbacks_and_those_of_lightning_have_no_hook_that_is_never_called(
    callback: type[Callback],
) -> None:
    assert internals.unreachable_hooks(callback.__new__(callback), Callback) == {}


def test_callbacks_of_lightning_are_used_without_warnings(tmp_path: Path) -> None:
    module, datamodule = make(eval_every_env_steps=100)
    callbacks = (
        LearningRateMonitor(),
        EarlyStopping("eval/return_mean", mode="max"),
        ModelCheckpoint(tmp_path, monitor="eval/return_mean", mode="max"),
        DeviceStatsMonitor(cpu_stats=False),
        TargetSync(every_n_grad_steps=10),
    )
    options: dict[str, Any] = {"enable_checkpointing": True, "logger": Recorder()}
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*is never called.*")
        train(module, datamodule, *callbacks, **options)
    assert module.progress.env_steps == 300


# Settings of the trainer ------------------------------------------------------------------------


def test_batch_norm_that_is_synchronized_is_refused_on_a_cpu() -> None:
    trainer = trainer_of(strategy="ddp", devices=1, sync_batchnorm=True)
    with pytest.raises(ConfigError, match=r"trainer\.sync_batchnorm"):
        internals.check_trainer(trainer)


def test_a_strategy_that_splits_the_network_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = trainer_of()
    monkeypatch.setattr(Trainer, "world_size", 2)
    name = type(trainer.strategy).__name__
    with pytest.raises(ConfigError, match=rf"trainer\.strategy: {name} .*ddp"):
        internals.check_trainer(trainer)
