"""The command line: where data, module, callbacks and trainer meet."""

import ctypes
import json
import logging
import os
import signal
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only
from rich.console import Console

from dqn_lightning import ranks
from dqn_lightning.arguments import RUNS, check_fits, name_of, read_checkpoint, with_config
from dqn_lightning.callbacks import (
    Checkpoints,
    EpisodeLog,
    FullState,
    GradientClamp,
    Health,
    Progress,
    RankWatch,
    TargetSync,
    Timing,
)
from dqn_lightning.callbacks.run_folder import RunFolder
from dqn_lightning.callbacks.stop_on_signal import EXIT_CODES, StopOnSignal
from dqn_lightning.commands import OUR_COMMANDS, Commands
from dqn_lightning.datamodule import DQNDataModule
from dqn_lightning.errors import ConfigError, NonFiniteError, RankLostError
from dqn_lightning.evaluation import Summary
from dqn_lightning.module import NO_16_MIXED, DQNModule

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_NOT_OURS = {
    "gradient_clip_val": (None, "gradient_clamp"),
    "accumulate_grad_batches": (1, "data.batch_size"),
}
"""Flags of the Trainer that cannot work, their defaults, and what to use instead."""


def main(
    arguments: Sequence[str] | None = None, default_configs: Mapping[str, Path] | None = None
) -> int:
    """Run a command; gives the exit code.

    0: done. 1: the run failed. 2: a setting cannot work. 130, 143, 75: stopped by SIGINT (Ctrl-C),
    SIGTERM or SIGUSR1, and saved.

    Args:
        arguments: What stands on the command line after the program's name.
        default_configs: Command → configuration of one that is given none.
    """
    _quieten()
    _keep_freed_memory()
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        cli = DQNCLI(args=with_config(given, default_configs or {}))
    except (ConfigError, MisconfigurationException) as error:
        return _failed(error, 2)
    except (NonFiniteError, RankLostError, OSError) as error:
        return _failed(error, 1)
    except KeyboardInterrupt:
        return EXIT_CODES[signal.SIGINT]
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):  # Lightning makes 1 of Ctrl-C
            return EXIT_CODES[signal.SIGINT]
        raise
    received = cli.stop_on_signal.received
    # One rank speaks for all: launchers take any other's exit code for a failure.
    return 0 if received is None or cli.trainer.global_rank > 0 else EXIT_CODES[received]


class DQNCLI(LightningCLI):
    """`fit`, `validate`, `test` and `predict` with one folder per run, and our own `Commands`.

    Signatures are the schema: see `DQNDataModule`, `DQNModule` and the callbacks for the flags.
    """

    datamodule: DQNDataModule
    model: DQNModule

    def __init__(self, args: list[str]) -> None:
        self.stop_on_signal = StopOnSignal()
        self.rank_watch = RankWatch()
        self.checkpoint: dict[str, Any] | None = None
        self._console = Console(soft_wrap=True)
        super().__init__(
            DQNModule,
            DQNDataModule,
            trainer_class=Commands,
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

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Commands, and which of their arguments are no flags."""
        ours = {name: {"model", "datamodule"} for name in OUR_COMMANDS}
        return {**LightningCLI.subcommands(), **ours}

    # Parsing ------------------------------------------------------------------------------------

    def setup_parser(self, *args: Any, **kwargs: Any) -> None:
        """Make the parser, whose help names the command that does not come here too."""
        super().setup_parser(*args, **kwargs)
        self.parser.epilog = (
            "One more command: plot RUN [RUN ...] draws what runs have measured (plot --help)."
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the run's name, threads, and the callbacks that have settings of their own."""
        parser.add_argument(
            "--run_name",
            type=str | None,
            default=None,
            help="Name of the run's folder in checkpoints/; the configs' names if not given.",
        )
        parser.add_argument(
            "--num_threads",
            type=int | None,
            default=None,
            help="Threads of PyTorch on the CPU; small networks are fastest with 1.",
        )
        parser.add_lightning_class_args(TargetSync, "target_sync")
        parser.add_lightning_class_args(GradientClamp, "gradient_clamp")
        parser.add_lightning_class_args(EpisodeLog, "episode_log")
        parser.add_lightning_class_args(Health, "health")
        parser.add_class_arguments(Checkpoints, "checkpoints")
        for name in ("obs_shape", "num_actions", "obs_classes"):
            parser.link_arguments(f"data.{name}", f"model.{name}", apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse; the arguments may differ from the command line's by the configuration added."""
        self.config = parser.parse_args(args)

    def _parse_ckpt_path(self) -> None:
        """Leave the settings alone: flags and configuration win over the checkpoint's."""

    def _set_seed(self) -> None:
        """Seed everything, or say which flag is wrong."""
        try:
            super()._set_seed()
        except ValueError as error:
            raise ConfigError(f"seed_everything: {error}") from error

    # Making -------------------------------------------------------------------------------------

    def before_instantiate_classes(self) -> None:
        """Refuse what cannot work, and set the number of threads."""
        trainer = self._get(self.config, "trainer")
        for flag, (default, ours) in _NOT_OURS.items():
            if trainer.get(flag) != default:
                raise ConfigError(
                    f"trainer.{flag}: updates are made inside a rollout, where Lightning cannot "
                    f"do this; use {ours}"
                )
        name = self._get(self.config, "run_name")
        if name is not None and (Path(name).name != name or name == ".."):
            raise ConfigError(f"run_name: must be a plain name of a folder, got {name!r}")
        if str(trainer.get("precision")) in ("16", "16-mixed"):
            raise ConfigError(NO_16_MIXED)  # on a CPU, Lightning would quietly take another one
        if str(trainer.get("strategy")).startswith(("ddp_spawn", "ddp_fork", "ddp_notebook")):
            raise ConfigError(
                f"trainer.strategy: {trainer.strategy} is for notebooks; use ddp, which starts the "
                "command line once per rank"
            )
        num_threads = self._get(self.config, "num_threads")
        if num_threads is not None:
            if num_threads < 1:
                raise ConfigError(f"num_threads: must be at least 1, got {num_threads}")
            torch.set_num_threads(num_threads)
        path = self._get(self.config, "ckpt_path")
        if path is not None:  # looked at before anything is made or written
            self.checkpoint = read_checkpoint(Path(path))

    def instantiate_classes(self) -> None:
        """Make data, module, callbacks and trainer; what they refuse is a setting's fault."""
        try:
            super().instantiate_classes()
        except ValueError as error:
            raise ConfigError(str(error)) from error

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The trainer with our callbacks; only `fit` logs and writes into a folder."""
        trainer = self._get(self.config_init, "trainer")
        if self.subcommand != "fit":
            return super().instantiate_trainer(logger=False, enable_progress_bar=False)
        callbacks: list[Any] = [self._get(self.config_init, "checkpoints")]
        if trainer.enable_checkpointing is False:
            callbacks = []
        given = trainer.callbacks or []
        own_bar = any(isinstance(callback, ProgressBar) for callback in given)
        if trainer.enable_progress_bar is not False and not own_bar:
            callbacks.append(Progress())
        default_logger = trainer.logger in (None, True)
        self.run_folder = RunFolder(
            RUNS, self._run_name(), self._config_text, self._resumed_folder(), default_logger
        )
        trainer.callbacks = [
            self.run_folder,
            self.rank_watch,
            self.stop_on_signal,
            Timing(),
            FullState(),
            *callbacks,
            *given,
        ]
        if default_logger:
            kwargs["logger"] = False
        return super().instantiate_trainer(**kwargs)

    def after_instantiate_classes(self) -> None:
        """See whether processes and checkpoint fit; of one that holds weights only, take those."""
        started, wanted = _num_started(), self.trainer.world_size
        if started not in (1, wanted):
            raise ConfigError(
                f"trainer.devices, trainer.num_nodes: {started} processes were started, but these "
                f"ask for {wanted}"
            )
        if self.checkpoint is None:
            return
        path = Path(self._get(self.config_init, "ckpt_path"))
        check_fits(path, self.checkpoint, self.model)
        if self.subcommand == "fit" and not self._goes_on:
            self.model.load_state_dict(self.checkpoint["state_dict"])
            self.config_init["fit"]["ckpt_path"] = None
            rank_zero_info(f"{path} holds weights only: a new run starts from them")

    @property
    def _goes_on(self) -> bool:
        """Whether the checkpoint is one of a run that can go on."""
        return self.checkpoint is not None and "optimizer_states" in self.checkpoint

    def _run_name(self) -> str:
        configs = [str(path) for path in self._get(self.config, "config") or []]
        return self._get(self.config, "run_name") or name_of(configs) or "run"

    def _resumed_folder(self) -> Path | None:
        """The checkpoint's folder, if its run is to go on under its own name."""
        if not self._goes_on:
            return None
        beside = Path(self._get(self.config, "ckpt_path")).parent / "config.yaml"
        if not beside.is_file():
            return None
        own_name = yaml.safe_load(beside.read_text()).get("run_name")
        return beside.parent if own_name == self._run_name() else None

    def _config_text(self, run_name: str) -> str:
        config = self.config["fit"].clone()
        for name in ("config", *self._subcommand_method_arguments["fit"]):
            config.pop(name, None)
        config["run_name"] = run_name
        text: str = self._parser("fit").dump(config, skip_none=False)
        return text

    # Running ------------------------------------------------------------------------------------

    def fit(self, **kwargs: Any) -> None:
        """Train; a signal ends the run after its current step, and what it has is saved."""
        try:
            with self.stop_on_signal.listening(self.datamodule.stop):
                self.trainer.fit(**kwargs)
        except RuntimeError as error:
            if self.rank_watch.lost is None:
                raise
            raise RankLostError(self.rank_watch.lost) from error

    @rank_zero_only
    def after_fit(self) -> None:
        """Say what was reached and where it is."""
        folder = self.run_folder.path
        if folder is None:
            return
        clock = self.model.clock
        lines = {
            "reached": f"{clock.env_steps:,} environment steps, {clock.episodes:,} episodes"
            f"{' of rank 0' if ranks.count() > 1 else ''}, {clock.grad_steps:,} updates"
        }
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]  # untyped there
            if isinstance(callback, Timing):
                lines["time"] = f"{callback.elapsed_s:.1f} s"
            if isinstance(callback, Checkpoints) and callback.best is not None:
                lines["best evaluation"] = (
                    f"{callback.best:.1f} at environment step {callback.best_env_steps:,}"
                )
        names = (
            "config.yaml",
            "best.ckpt",
            "last.ckpt",
            "metrics.csv",
            "durations.png",
            "returns.png",
        )
        files = ", ".join(name for name in names if (folder / name).exists())
        lines["files"] = f"{folder}{os.sep}: {files}"
        if (folder / "best.ckpt").exists():
            lines["test it"] = f"python train.py test --ckpt_path {folder / 'best.ckpt'}"
            lines["watch it"] = f"python train.py play --ckpt_path {folder / 'best.ckpt'}"
        elif (every := self.datamodule.rhythm.eval_every_env_steps) is not None:
            lines["no best.ckpt"] = f"no evaluation was due (data.eval_every_env_steps {every:,})"
        for name, text in lines.items():
            self._console.print(f"[bold]{name:<16}[/]{text}", highlight=False)

    def validate(self, **kwargs: Any) -> None:
        """Play `data.eval_episodes` episodes and print their returns."""
        self.trainer.validate(**{**kwargs, "verbose": False})
        self._report()

    def test(self, **kwargs: Any) -> None:
        """Play `data.test_episodes` episodes, print their returns and write `test.json`."""
        self.trainer.test(**{**kwargs, "verbose": False})
        summary = self._report()
        path = kwargs.get("ckpt_path")
        if path is None or not self.trainer.is_global_zero:
            return
        result = {
            "env_id": self.datamodule.factory.env_id,
            **summary._asdict(),
            "env_steps": self.model.clock.env_steps,
            "grad_steps": self.model.clock.grad_steps,
            "seed": self.datamodule.test_seed,
        }
        file = Path(path).parent / "test.json"
        file.write_text(json.dumps(result, indent=2) + "\n")
        self._console.print(f"written to {file}")

    def predict(self, **kwargs: Any) -> None:
        """Write actions and action values to `predictions.pt` beside the checkpoint."""
        predictions: list[Any] = self.trainer.predict(**kwargs) or []
        path = kwargs.get("ckpt_path")
        file = (Path(path).parent if path else Path()) / "predictions.pt"
        torch.save(predictions, file)
        actions = sum(len(p["action"]) for p in predictions)
        self._console.print(f"{actions:,} actions with their values written to {file}")

    def _report(self) -> Summary:
        summary = self.model.summary
        assert summary is not None
        if self.trainer.is_global_zero:
            weights = ", untrained weights" if self.checkpoint is None else ""
            self._console.print(
                f"{self.datamodule.factory.env_id}{weights}: "
                f"return [bold]{summary.return_mean:.1f}[/] ± {summary.return_std:.1f} "
                f"over {summary.episodes} episodes "
                f"(least {summary.return_min:.1f}, greatest {summary.return_max:.1f})",
                highlight=False,
            )
        return summary


def _num_started() -> int:
    """How many processes torchrun or srun has started, or 1."""
    by_torchrun = os.environ["WORLD_SIZE"] if torch.distributed.is_torchelastic_launched() else 1
    return max(int(by_torchrun), int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)))


def _failed(error: Exception, exit_code: int) -> int:
    rank = f" (rank {ranks.own()})" if ranks.count() > 1 else ""
    print(f"error{rank}: {error}", file=sys.stderr)
    return exit_code


def _quieten() -> None:
    """Keep Lightning's advertisements and its complaints about what we do on purpose to itself."""
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.rank_zero"):
        logging.getLogger(name).addFilter(_is_ours)
    for pattern in (
        ".*isinstance\\(treespec, LeafSpec\\).*",
        ".*GPU available but not used.*",
        ".*callbacks used to create the checkpoint need to be provided.*",
    ):
        warnings.filterwarnings("ignore", pattern)


def _keep_freed_memory() -> None:
    """Keep freed blocks of up to 256 MiB in the process, where the C library is glibc.

    It gives large blocks back to the system at once, which then clears every page of the next one:
    a third of the time of an update of convolutions.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library
        return
    for parameter in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD):
        mallopt(parameter, 256 * 2**20)


def _is_ours(record: logging.LogRecord) -> bool:
    noise = ("GPU available", "TPU available", "HPU available", "Tip:", "`Trainer.fit` stopped")
    return not any(word in record.getMessage() for word in noise)
