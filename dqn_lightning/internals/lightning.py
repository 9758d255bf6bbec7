"""Access to private Lightning APIs, and a LightningCLI for custom commands.

Checked against Lightning 2.5.0 and 2.6.6. If one of the private attributes is removed,
`tests/internals/test_lightning.py` fails with a message that names the attribute and the feature
that depends on it.
"""

import re
import threading
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any, NoReturn

from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import (
    GradientAccumulationScheduler,
    StochasticWeightAveraging,
    Timer,
)
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from dqn_lightning.errors import ConfigError
from dqn_lightning.internals.jsonargparse import refusal_in

NO_16_MIXED = (
    "trainer.precision: 16-mixed needs a gradient scaler, which updates inside a rollout bypass; "
    "use bf16-mixed"
)

IGNORED_WARNINGS = (
    ".*has `__len__` defined.*",  # see `ReplayDataset`
    ".*your dataloader is not resumable.*",  # FullState saves the state of the dataset
    r".*`self.log\('(eval|test)/.*sync_dist=True.*",  # all ranks log the same gathered values
)
"""Patterns that match Lightning's warnings about behavior that is intended here."""

UNREACHABLE_HOOKS = {
    "backward": "the objective or `DQNModule.grad_transforms`",
    "clip_gradients": "the GradientClamp callback",
    "configure_gradient_clipping": "the GradientClamp callback",
    "lr_scheduler_step": "`model.lr_scheduler`, which is stepped after every update",
    "on_after_backward": "`DQNModule.grad_transforms`",
    "on_before_backward": "`DQNModule.grad_transforms`",
    "on_before_optimizer_step": "`DQNModule.grad_transforms`",
    "on_before_zero_grad": "`DQNModule.after_update`",
    "optimizer_step": "`DQNModule.after_update`, or a custom optimizer",
    "optimizer_zero_grad": "`DQNModule.after_update`",
}
"""Hooks that Lightning never calls in this project, and what to use instead.

Updates run inside a rollout, with an optimizer that Lightning does not wrap.
"""


@contextmanager
def ignored_warnings(patterns: Iterable[str]) -> Iterator[None]:
    """Ignore warnings that match any of the patterns within a `with` block."""
    with warnings.catch_warnings():
        for pattern in patterns:
            warnings.filterwarnings("ignore", pattern)
        yield


def unreachable_hooks(owner: Any, base: type) -> dict[str, str]:
    """Find overridden hooks that Lightning never calls, because updates run inside a rollout.

    Args:
        owner: Module or callback to check.
        base: Class whose own hooks do not count as overridden.

    Returns:
        A dictionary from the name of each such hook to what to use instead.
    """
    return {
        name: instead
        for name, instead in UNREACHABLE_HOOKS.items()
        if hasattr(base, name) and _overrides(owner, base, name)
    }


def _overrides(owner: Any, base: type, name: str) -> bool:
    """Return whether an object overrides a method of `base`, in its class or as an attribute.

    LambdaCallback, for example, sets hooks as attributes of the object.
    """
    return name in vars(owner) or getattr(type(owner), name) is not getattr(base, name)


def start_new_run(trainer: Trainer) -> None:
    """Reset the step and epoch counts of a trainer that has already run `fit`.

    Otherwise, Lightning would continue counting, and would skip the second fit if the first fit had
    reached `max_steps` or `max_epochs`.
    """
    set_global_step(trainer, 0)
    trainer.fit_loop.epoch_progress.reset()


def set_global_step(trainer: Trainer, grad_steps: int) -> None:
    """Set `trainer.global_step`, which Lightning advances only in its own optimizer wrapper."""
    progress: Any = trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
    progress.total.ready = progress.total.completed = grad_steps


def grad_step_counter(trainer: Trainer) -> Callable[[], None]:
    """Return a function that increments `trainer.global_step` by one."""
    progress: Any = trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress

    def count() -> None:
        progress.increment_ready()
        progress.increment_completed()

    return count


def set_logging_step(trainer: Trainer, env_steps: int) -> None:
    """Set the step at which Lightning and callbacks such as LearningRateMonitor log values."""
    # 2 less than the step, because Lightning counts from 0 and adds 1 after a batch.
    trainer.fit_loop.epoch_loop._batches_that_stepped = env_steps - 2


def prepare_fit(trainer: Trainer, has_evaluations: bool) -> None:
    """Check settings that Lightning cannot apply to rollouts, and schedule validation by rollouts.

    Lightning is configured to validate after any batch, not only at the end of an epoch, so that
    callbacks such as EarlyStopping can act during an epoch; `evaluate_after_this_batch` selects the
    batches.

    Args:
        trainer: Trainer that is about to fit; its callbacks are not set up yet.
        has_evaluations: Whether the run has evaluations. If not, Lightning's sanity check is
            skipped, because it would be an evaluation.

    Raises:
        ConfigError: If a setting of the trainer or a callback cannot be applied.
    """
    for name in ("min_steps", "min_epochs"):
        if getattr(trainer, name):
            raise ConfigError(
                f"trainer.{name}: cannot extend a run; use data.schedule.total_env_steps"
            )
    for callback in trainer.callbacks:  # type: ignore[attr-defined]  # untyped there
        if isinstance(callback, (GradientAccumulationScheduler, StochasticWeightAveraging)):
            raise ConfigError(
                f"trainer.callbacks: {type(callback).__name__} changes Lightning's updates, but "
                "updates run inside a rollout"
            )
    trainer.check_val_every_n_epoch = None
    trainer.val_check_interval = 1
    if hasattr(trainer, "_val_check_time_interval"):  # since Lightning 2.6
        trainer._val_check_time_interval = None
    if not has_evaluations:
        trainer.num_sanity_val_steps = 0


def evaluate_after_this_batch(trainer: Trainer, due: bool) -> None:
    """Make Lightning run a validation after the current batch if and only if `due` is true."""
    trainer.val_check_batch = 1 if due else float("inf")


def call_at_max_time(trainer: Any, stop: Callable[[], None]) -> threading.Timer | None:
    """Start a thread that calls a function when `trainer.max_time` is over.

    Lightning itself checks the time only at the end of a batch, which is a whole rollout. A thread
    costs nothing per environment step, and also ends evaluations.

    Args:
        trainer: Trainer that is about to start training.
        stop: Function to call in the thread.

    Returns:
        The thread, which can be canceled; None if the time is not limited.
    """
    timers = [callback for callback in trainer.callbacks if isinstance(callback, Timer)]
    seconds = [left for timer in timers if (left := timer.time_remaining()) is not None]
    if not seconds:
        return None
    thread = threading.Timer(max(0.0, min(seconds)), stop)
    thread.daemon = True
    thread.start()
    return thread


def is_fitting(module: LightningModule) -> bool:
    """Return whether the module is attached to a trainer that is running `fit`.

    The public `module.trainer` raises an exception if the module has no trainer.
    """
    trainer = module._trainer
    return trainer is not None and trainer.state.fn == TrainerFn.FITTING


def is_restoring(trainer: Trainer) -> bool:
    """Return whether the trainer is restoring a checkpoint, or failed while doing so."""
    return bool(trainer._checkpoint_connector._loaded_checkpoint)


def keep_buffers_per_rank(trainer: Trainer) -> None:
    """Prevent DistributedDataParallel from copying rank 0's buffers to all other ranks."""
    wrapped = trainer.strategy.model
    if isinstance(wrapped, DistributedDataParallel):
        wrapped.broadcast_buffers = False


def check_trainer(trainer: Trainer) -> None:
    """Check that the trainer's settings are compatible with updates inside a rollout.

    Raises:
        ConfigError: If a setting is not compatible.
    """
    if trainer.precision == "16-mixed":
        raise ConfigError(NO_16_MIXED)
    for name in ("overfit_batches", "limit_val_batches", "limit_test_batches"):
        if 0 < (limit := getattr(trainer, name)) < 1:
            raise ConfigError(
                f"trainer.{name}: an evaluation is a single batch, of which there is no part "
                f"{limit}; use data.evaluation.episodes or data.evaluation.test_episodes"
            )
    if trainer.world_size > 1 and not isinstance(trainer.strategy, DDPStrategy):
        raise ConfigError(
            f"trainer.strategy: {type(trainer.strategy).__name__} splits a network or its batch, "
            "which rollouts do not support; use ddp"
        )
    on_cpu = trainer.strategy.root_device.type == "cpu"
    if on_cpu and getattr(trainer.strategy, "_layer_sync", None):
        raise ConfigError("trainer.sync_batchnorm: PyTorch supports it on GPUs only")


def check_hooks(module: LightningModule, base: type) -> None:
    """Check that a module and its trainer's callbacks override only hooks that Lightning calls.

    Args:
        module: Module to check, attached to its trainer.
        base: Class whose own hooks do not count as overridden.

    Raises:
        ConfigError: If the module overrides a hook that Lightning never calls here. For a callback,
            a warning is issued instead, because it may also be intended for other modules.
    """
    for hook, instead in unreachable_hooks(module, base).items():
        raise ConfigError(_never_called(module, hook, instead))
    for callback in module.trainer.callbacks:  # type: ignore[attr-defined]  # untyped there
        for hook, instead in unreachable_hooks(callback, Callback).items():
            rank_zero_warn(_never_called(callback, hook, instead))


def _never_called(owner: Any, hook: str, instead: str) -> str:
    name = type(owner).__name__
    return f"{name}.{hook} is never called, because updates run inside a rollout; use {instead}"


_NO_CONFIG_FILE = re.compile(r"""Parser key "(.*)":\s*Unable to load config ['"](.*)['"]""")


_TYPE = re.compile(r"<class '(?:[\w.]+\.)?(\w+)'>|typing\.|collections\.abc\.")
_DETAILS = ("Subtypes: ", "Errors:", "Expected a", "Given value")
"""First words of the lines of a message of jsonargparse that `in_one_line` leaves out."""


class _Parser(LightningArgumentParser):
    """Parser that raises an error instead of printing its usage, which exceeds 100 lines."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise a `ConfigError` with a message that explains how to correct the arguments.

        Nested parsers, which parse `init_args`, raise the original error instead; the outermost
        parser includes it in its own message.
        """
        if not self.exit_on_error:
            super().error(message, ex)
        parser = getattr(ex, "subcommand_parser", None) or self
        if refusal := refusal_in(message):
            key = re.match(r'Parser key "([^"]*)"', message)
            raise ConfigError(f"{key[1]}: {refusal}" if key else refusal) from ex
        if no_file := _NO_CONFIG_FILE.match(message):
            flag, value = no_file.groups()
            raise ConfigError(
                f"--{flag}: there is no file {value}; set single settings by flags, --{flag}.NAME"
            ) from ex
        if unknown := re.match("unrecognized arguments: (--[^ =]+)", message):
            similar = get_close_matches(unknown[1], parser._option_string_actions, n=1)
            message += "".join(f"; did you mean {flag}?" for flag in similar)
        message = in_one_line(re.sub(r'Parser key "([^"]*)":\s*', r"\1: ", message))
        raise ConfigError(f"{message}; see {parser.prog.replace(' [options]', '')} --help") from ex


def in_one_line(message: str) -> str:
    r"""Shorten jsonargparse's message about an invalid value to one line.

    Such a message lists the types of the setting, and why the value matches none of them. If the
    value names a class, only the problem with this class matters.

    >>> in_one_line(
    ...     "n_step: Does not validate against any of the Union subtypes\n  Errors:\n"
    ...     "    - Expected a <class 'int'>\n    - Expected a <class 'NoneType'>\n"
    ...     "  Given value type: <class 'str'>\n  Given value: many"
    ... )
    "n_step: expected int or None, got 'many'"
    """
    message = re.sub(r"- Expected a path but .* not accessible or invalid\n?\s*", "", message)
    if problem := re.search(r"- Problem with given class_path .*", message, re.DOTALL):
        flag = message.partition(": ")[0]
        message = f"{flag}: {problem[0].removeprefix('- ')}"
    elif expected := re.findall(r"Expected an? (.*?)(?:\. Got value: .*)?$", message, re.MULTILINE):
        flag, given = message.partition(": ")[0], re.split("(?:Given|Got) value: ", message)[-1]
        *others, last = [_TYPE.sub(r"\1", kind).replace("NoneType", "None") for kind in expected]
        types = f"{', '.join(others)} or {last}" if others else last
        message = f"{flag}: expected {types}, got {given!r}"
    lines = [line.strip().removeprefix("- ") for line in message.replace(": - ", ": ").splitlines()]
    return " ".join(line for line in lines if not line.startswith(_DETAILS))


class CommandLine(LightningCLI):
    """LightningCLI whose commands are functions instead of Trainer methods.

    Each function takes the CommandLine as its first argument, `cli`; its other arguments are
    available as flags. Invalid arguments raise a `ConfigError`; other errors raised by constructors
    propagate unchanged.

    Args:
        commands: Function for each command, by command name. The first line of a function's
            docstring is the command's help.
        **kwargs: Keyword arguments for LightningCLI.

    Attributes:
        unsaved_flags: Flags that `dump_settings` omits.
    """

    unsaved_flags: tuple[str, ...] = ("config",)

    def __init__(self, commands: Mapping[str, Callable[..., None]], **kwargs: Any) -> None:
        self.commands = commands
        super().__init__(parser_class=_Parser, **kwargs)

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]  # static there
        """Return a dictionary from command names to empty sets, as LightningCLI requires."""
        return {name: set() for name in self.commands}

    def _add_subcommands(self, parser: LightningArgumentParser, **kwargs: Any) -> None:
        self._subcommand_parsers: dict[str, LightningArgumentParser] = {}
        group = parser.add_subcommands()
        for name, function in self.commands.items():
            summary = (function.__doc__ or "").partition("\n")[0]
            subparser = self.init_parser(description=summary, **kwargs.get(name, {}))
            self._add_arguments(subparser)
            added = subparser.add_function_arguments(function, skip={"cli"})
            self._subcommand_method_arguments[name] = added
            self._subcommand_parsers[name] = subparser
            group.add_subcommand(name, subparser, help=summary)

    def instantiate_classes(self) -> None:
        """Instantiate the classes of all settings.

        If a constructor raises an error, jsonargparse would report all types that the setting may
        have. This method raises the original error instead.

        Raises:
            ConfigError: If a setting is invalid or has the wrong type.
        """
        failures: list[Exception] = []

        def instantiate(class_type: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            try:
                if class_type is nn.Module:  # the class of the empty setting {}
                    raise ConfigError("name the class of a network")
                return class_type(*args, **kwargs)
            except (ConfigError, MisconfigurationException) as error:
                failures.append(self._with_flag(error, class_type, kwargs))
                raise failures[-1] from error
            except Exception as error:
                failures.append(error)
                raise

        self.parser.add_instantiator(instantiate, object)
        try:
            super().instantiate_classes()
        except ValueError as error:
            if not _is_raised_by("jsonargparse", error):
                raise
            raise (failures[-1] if failures else ConfigError(in_one_line(str(error)))) from None

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Create the trainer.

        Raises:
            ConfigError: If the trainer rejects a setting.
        """
        try:
            return super().instantiate_trainer(**kwargs)
        except ConfigError:
            raise
        except (MisconfigurationException, RuntimeError, TypeError, ValueError) as error:
            raise ConfigError(self._with_trainer_flag(str(error))) from error

    def _with_trainer_flag(self, message: str) -> str:
        """Return a message of Lightning's, preceded by the trainer's flag whose name it contains.

        If it contains no name of a flag, the flag is the one whose value it contains.
        """
        settings = vars(self.setting("trainer"))
        words = re.findall(r"\w+", message)
        named = [word for word in words if word in settings]
        named += [name for name, value in settings.items() if value in words]
        flag = ".".join(["trainer", *named[:1]])
        return f"{flag}: {' '.join(message.split())}"

    def _with_flag(
        self, error: Exception, class_type: Callable[..., Any], arguments: dict[str, Any]
    ) -> Exception:
        """Return an error whose message starts with the flag that selected the failing class.

        The original error is returned if its message already contains the flag.

        Args:
            error: Error raised by a constructor.
            class_type: Class whose constructor raised the error.
            arguments: Arguments of the constructor.
        """
        for key, value in _class_settings(self.config[self.subcommand]):
            name = value.class_path.rpartition(".")[2]
            init_args = value.get("init_args")
            same_arguments = (vars(init_args) if init_args else {}) == arguments
            if name == getattr(class_type, "__name__", None) and same_arguments:
                is_named = key.partition(".")[0] in str(error)
                return error if is_named else ConfigError(f"{key}: {error}")
        return error

    def _parse_ckpt_path(self) -> None:
        """Do nothing, so that saved hyperparameters do not override flags and config files."""

    def _set_seed(self) -> None:
        try:
            super()._set_seed()
        except ValueError as error:
            raise ConfigError(f"seed_everything: {error}") from error

    def _run_subcommand(self, subcommand: str) -> None:
        names = self._subcommand_method_arguments[subcommand]
        flags = {name: self.setting(name) for name in names}
        self.commands[subcommand](self, **flags)

    def setting(self, name: str) -> Any:
        """Return a parsed setting of the current command, such as `trainer` or `ckpt_path`."""
        return self._get(self.config, name)

    def instance(self, name: str) -> Any:
        """Return the object created from a setting of the current command, such as `trainer`."""
        return self._get(self.config_init, name)

    def dump_settings(self, **changes: Any) -> str:
        """Return the command's settings as YAML.

        Flags that the command's function defines, and `unsaved_flags`, are omitted.

        Args:
            **changes: Settings to replace, by flag name.
        """
        name = str(self.subcommand)
        config = self.config[name].clone()
        for flag in (*self.unsaved_flags, *self._subcommand_method_arguments[name]):
            config.pop(flag, None)
        for flag, value in changes.items():
            config[flag] = value
        text: str = self._parser(name).dump(config, skip_none=False)
        return text


def _class_settings(config: Namespace) -> Iterator[tuple[str, Namespace]]:
    """Yield the flag and the setting of each class, including the members of lists."""
    for key, value in config.items(branches=True):
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, Namespace) and "class_path" in each:
                yield key, each


def _is_raised_by(package: str, error: Exception) -> bool:
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return str(frame.f_globals["__name__"]).startswith(f"{package}.")
