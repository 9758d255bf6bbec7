"""The LightningCLI that builds datamodule, module, callbacks and trainer, and runs a command."""

import ctypes
import logging
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import LightningArgumentParser
from rich.console import Console

from dqn_lightning.callbacks import (
    Checkpoints,
    Diagnostics,
    EpisodeLog,
    FullState,
    GradientClamp,
    Progress,
    RankWatch,
    TargetSync,
    Timing,
)
from dqn_lightning.callbacks.run_directory import RunDirectory
from dqn_lightning.callbacks.stop_on_signal import EXIT_CODES, StopOnSignal
from dqn_lightning.cli.arguments import (
    AUTO,
    RUNS,
    check_run_name,
    config_of_checkpoint,
    run_name_of,
    with_config,
)
from dqn_lightning.cli.checkpoint import LoadedCheckpoint
from dqn_lightning.cli.registry import COMMANDS, load
from dqn_lightning.cli.trust import TRUST_FLAG, check_config, check_links, trusted_names_only
from dqn_lightning.datamodule import DQNDataModule
from dqn_lightning.errors import ConfigError
from dqn_lightning.internals.jsonargparse import refuse_untyped_factories
from dqn_lightning.internals.lightning import NO_16_MIXED, CommandLine, ignored_warnings
from dqn_lightning.module import DQNModule

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h

_UNSUPPORTED_TRAINER_FLAGS = {
    "gradient_clip_val": (None, "gradient_clamp"),
    "accumulate_grad_batches": (1, "data.replay.batch_size"),
}
"""Trainer flags that are not supported: default value, and setting to use instead."""

_IGNORED_WARNINGS = (
    ".*isinstance\\(treespec, LeafSpec\\).*",
    ".*GPU available but not used.*",
    ".*callbacks used to create the checkpoint need to be provided.*",
)
_IGNORED_MESSAGES = ("GPU available", "TPU available", "HPU available", "Tip:", "`Trainer.fit` s")


def run(arguments: list[str], default_configs: Mapping[str, Path]) -> int:
    """Parse the arguments, run the command, and return its exit code.

    Args:
        arguments: Arguments after the program's name.
        default_configs: Default config file for each command, by command name; used if the
            arguments specify neither a config nor a checkpoint.

    Raises:
        ConfigError: If a setting is invalid.
    """
    _keep_freed_memory()
    completed = with_config(arguments, default_configs)
    untrusted = config_of_checkpoint(arguments, completed, default_configs)
    with ExitStack() as stack:
        stack.enter_context(_quiet())
        stack.enter_context(ignored_warnings(_IGNORED_WARNINGS))
        if untrusted is not None and TRUST_FLAG not in arguments:
            check_config(untrusted)
            check_links(untrusted.parent)
            stack.enter_context(trusted_names_only(arguments, untrusted))
        cli = DQNCLI(args=completed)
    received = cli.stop_on_signal.received
    # Only rank 0 reports the signal: launchers treat other exit codes of any rank as failures.
    return 0 if received is None or cli.trainer.global_rank > 0 else EXIT_CODES[received]


class DQNCLI(CommandLine):
    """LightningCLI with commands to train, evaluate and inspect DQN agents.

    The flags of a command are defined by the signatures of `DQNDataModule`, `DQNModule`, the
    callbacks and the command's function.

    Args:
        args: Arguments after the program's name.

    Attributes:
        checkpoint: Checkpoint given by `--ckpt_path`, or None.
        run_directory: Callback that creates the run's directory; set only for `fit`.
        stop_on_signal: Callback that stops training on a signal.
        rank_watch: Callback that ends the run if another rank's process dies or stops responding.
        console: Console to which commands print their results.
    """

    unsaved_flags = ("config", TRUST_FLAG.removeprefix("--"))
    datamodule: DQNDataModule
    model: DQNModule
    run_directory: RunDirectory

    def __init__(self, args: list[str]) -> None:
        self.stop_on_signal = StopOnSignal()
        self.rank_watch = RankWatch()
        self.checkpoint: LoadedCheckpoint | None = None
        self.console = Console(soft_wrap=True)
        # The parser of a command takes 0.1 s to build, so build the given one only.
        names = args[:1] if args and args[0] in COMMANDS else COMMANDS
        super().__init__(
            {name: load(name) for name in names if not COMMANDS[name].has_own_parser},
            model_class=DQNModule,
            datamodule_class=DQNDataModule,
            save_config_callback=None,
            seed_everything_default=0,
            trainer_defaults={
                "max_epochs": -1,
                "num_sanity_val_steps": 0,
                "log_every_n_steps": 100,
                "enable_model_summary": False,
                "use_distributed_sampler": False,
            },
            parser_kwargs={"allow_abbrev": False},
            auto_configure_optimizers=False,
            args=args,
        )

    # Parsing ------------------------------------------------------------------------------------

    def setup_parser(self, *args: Any, **kwargs: Any) -> None:
        """Build the parser, whose help also lists the commands that parse their own arguments."""
        super().setup_parser(*args, **kwargs)
        others = [name for name, command in COMMANDS.items() if command.has_own_parser]
        lines = [f"{name}: {COMMANDS[name].help} See {name} --help." for name in others]
        self.parser.description = "Train, evaluate and inspect DQN agents."
        self.parser.epilog = f"More commands: {' '.join(lines)}"

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add flags for the callbacks, the run name and the number of threads.

        Also derive the shapes of the network's input and output from the environment's spaces.
        """
        parser.add_argument(
            "--run_name",
            type=str | None,
            default=None,
            help="Name of the run's directory in checkpoints/; if null, the names of the configs.",
        )
        parser.add_argument(
            "--num_threads",
            type=int | None,
            default=None,
            help="CPU threads for PyTorch (null: its default). Small networks are fastest with 1.",
        )
        parser.add_argument(
            TRUST_FLAG,
            action="store_true",
            help="Let the config.yaml beside the checkpoint name any class, function or file.",
        )
        parser.add_lightning_class_args(TargetSync, "target_sync")
        parser.add_lightning_class_args(GradientClamp, "gradient_clamp")
        parser.add_lightning_class_args(EpisodeLog, "episode_log")
        parser.add_lightning_class_args(Diagnostics, "diagnostics")
        parser.add_class_arguments(Checkpoints, "checkpoints")
        for name in ("obs_shape", "num_actions", "obs_classes"):
            parser.link_arguments(f"data.{name}", f"model.{name}", apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse `args`, not `sys.argv`, which lacks the config added by `with_config`."""
        with refuse_untyped_factories():
            self.config = parser.parse_args(args)

    # Building -----------------------------------------------------------------------------------

    def before_instantiate_classes(self) -> None:
        """Check settings, set the number of threads, and read the checkpoint.

        Raises:
            ConfigError: If a setting is invalid, or the checkpoint cannot be read.
        """
        self._check_trainer_flags()
        check_run_name(self._run_name())
        num_threads = self.setting("num_threads")
        if num_threads is not None:
            if num_threads < 1:
                raise ConfigError(f"num_threads: must be at least 1, got {num_threads}")
            torch.set_num_threads(num_threads)
        path = self.setting("ckpt_path")
        if path not in (None, AUTO):  # before anything is built or written
            self.checkpoint = LoadedCheckpoint(Path(path))

    def _check_trainer_flags(self) -> None:
        trainer = self.setting("trainer")
        for flag, (default, instead) in _UNSUPPORTED_TRAINER_FLAGS.items():
            if trainer.get(flag) != default:
                raise ConfigError(
                    f"trainer.{flag}: updates run inside a rollout, where Lightning cannot do "
                    f"this; use {instead}"
                )
        if str(trainer.get("precision")) in ("16", "16-mixed"):
            raise ConfigError(NO_16_MIXED)  # on a CPU, Lightning would silently choose another
        if str(trainer.get("strategy")).startswith(("ddp_spawn", "ddp_fork", "ddp_notebook")):
            raise ConfigError(
                f"trainer.strategy: {trainer.strategy} is for notebooks; use ddp, which starts the "
                "command line once per rank"
            )

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Create the trainer; only `fit` uses a logger, a progress bar and a run directory."""
        trainer = self.instance("trainer")
        if self.subcommand != "fit":
            return super().instantiate_trainer(logger=False, enable_progress_bar=False)
        default_logger = trainer.logger in (None, True)
        self.run_directory = RunDirectory(
            RUNS,
            self._run_name(),
            lambda name: self.dump_settings(run_name=name),
            self._resumed_directory(),
            default_logger,
            restart=self.setting("ckpt_path") == AUTO,
        )
        trainer.callbacks = [
            self.run_directory,
            self.rank_watch,
            self.stop_on_signal,
            Timing(),
            FullState(),
            *self._optional_callbacks(trainer),
            *(trainer.callbacks or []),
        ]
        if default_logger:
            kwargs["logger"] = False
        return super().instantiate_trainer(**kwargs)

    def _optional_callbacks(self, trainer: Any) -> Iterator[Any]:
        if trainer.enable_checkpointing is not False:
            yield self.instance("checkpoints")
        has_bar = any(isinstance(callback, ProgressBar) for callback in trainer.callbacks or [])
        if trainer.enable_progress_bar is not False and not has_bar:
            yield Progress()

    def after_instantiate_classes(self) -> None:
        """Check that the number of started processes and the checkpoint match the settings.

        Raises:
            ConfigError: If the number of processes or the checkpoint's weights do not match.
        """
        started, expected = _num_started(), self.trainer.world_size
        if started not in (1, expected):
            raise ConfigError(
                f"trainer.devices, trainer.num_nodes: {started} processes were started, but the "
                f"settings ask for {expected}"
            )
        if self.checkpoint is not None:
            self.checkpoint.check_fits(self.model)
        if expected > 1:
            settings = yaml.safe_load(self.dump_settings(run_name=self._run_name()))
            settings["ckpt_path"] = self.setting("ckpt_path")
            self.datamodule.shared_settings = settings

    def _run_name(self) -> str:
        configs = [str(path) for path in self.setting("config") or []]
        return self.setting("run_name") or run_name_of(configs) or "run"

    def _resumed_directory(self) -> Path | None:
        """Return the checkpoint's directory if the run continues there, else None.

        It continues there if the checkpoint is resumable and has the same run name.
        """
        if self.checkpoint is None or not self.checkpoint.is_resumable:
            return None
        directory, name = self.checkpoint.path.parent, self._run_name()
        return directory if name == self.checkpoint.run_name() or directory == RUNS / name else None


def _num_started() -> int:
    """Return the number of processes started by torchrun or srun; 1 without a launcher."""
    torchrun = os.environ["WORLD_SIZE"] if torch.distributed.is_torchelastic_launched() else 1
    return max(int(torchrun), int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)))


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress Lightning's tips and its messages about unused hardware."""
    names = ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.rank_zero")
    loggers = [logging.getLogger(name) for name in names]
    for logger in loggers:
        logger.addFilter(_is_relevant)
    report = threading.excepthook
    threading.excepthook = lambda failure: None if _is_of_tensorboard(failure) else report(failure)
    try:
        yield
    finally:
        threading.excepthook = report
        for logger in loggers:
            logger.removeFilter(_is_relevant)


def _is_of_tensorboard(failure: threading.ExceptHookArgs) -> bool:
    """Return whether TensorBoard's thread failed, whose error the main thread raises again."""
    return type(failure.thread).__module__.startswith("tensorboard.")


def _is_relevant(record: logging.LogRecord) -> bool:
    return not any(words in record.getMessage() for words in _IGNORED_MESSAGES)


def _keep_freed_memory() -> None:
    """Keep freed blocks of up to 256 MiB in the process, if the C library is glibc.

    By default, glibc returns large freed blocks to the operating system, which then zeroes every
    page of the next block. Zeroing takes a third of the update time of a convolutional network.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library
        return
    for parameter in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD):
        mallopt(parameter, 256 * 2**20)
