"""Run several ranks in one test, and run commands as a user would."""

import multiprocessing
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.strategies import DDPStrategy

from dqn_lightning import DQNDataModule, DQNModule, distributed
from dqn_lightning.cli.main import main

ROOT = Path(__file__).parents[2]
QUIET: dict[str, Any] = {
    "max_epochs": -1,
    "accelerator": "cpu",
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
}


def in_ranks(world_size: int, function: Callable[[], Any]) -> list[Any]:
    """Call a function on every rank, in forked processes with gloo; return the results by rank."""
    store = Path("store").resolve()

    def run(rank: int) -> None:
        torch.set_num_threads(1)
        dist.init_process_group(
            "gloo",
            init_method=f"file://{store}",
            world_size=world_size,
            rank=rank,
            timeout=timedelta(seconds=60),
        )
        torch.save(function(), f"result-{rank}.pt")
        dist.destroy_process_group()

    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=run, args=(rank,)) for rank in range(world_size)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(90)
    store.unlink(missing_ok=True)
    assert [process.exitcode for process in processes] == [0] * world_size
    return [torch.load(f"result-{rank}.pt", weights_only=False) for rank in range(world_size)]


def fit_in_ranks(
    world_size: int,
    make: Callable[[], tuple[DQNModule, DQNDataModule]],
    *callbacks: Callback,
    ckpt_path: str | None = None,
    **trainer: Any,
) -> None:
    """Fit on several ranks, in forked processes with gloo, as in a notebook."""
    module, data = make()
    ranks_trainer = Trainer(
        strategy=DDPStrategy(start_method="fork"),
        devices=world_size,
        callbacks=list(callbacks),
        **{"logger": False, **QUIET, **trainer},
    )
    ranks_trainer.fit(module, datamodule=data, ckpt_path=ckpt_path)


def main_in_ranks(
    *arguments: Sequence[str],
    default_configs: dict[str, Path] | None = None,
    port: int | None = None,
    timeout: float = 60.0,
) -> list[tuple[int | None, str]]:
    """Run the command line on several simulated machines, in forked processes with one rank each.

    Args:
        *arguments: Arguments of each rank.
        default_configs: Default config file for each command.
        port: Port to which rank 0 listens; by default one that is free.
        timeout: Seconds after which the ranks are killed.

    Returns:
        Exit code and error output of each rank.
    """
    port = free_port() if port is None else port

    def run(rank: int) -> None:
        sys.stderr = open(f"errors-{rank}", "w", buffering=1)  # noqa: SIM115
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        os.environ |= {"NODE_RANK": str(rank), "LOCAL_RANK": "0"}
        flags = (
            f"--trainer.num_nodes={len(arguments)}",
            "--trainer.devices=1",
            "--trainer.strategy=ddp",
        )
        code = main([*arguments[rank], *flags], default_configs)
        distributed.destroy_process_group()
        os._exit(code)

    context = multiprocessing.get_context("fork")
    ranks = [
        context.Process(target=run, args=(rank,), daemon=True) for rank in range(len(arguments))
    ]
    for process in ranks:
        process.start()
    deadline = time.monotonic() + timeout
    for process in ranks:
        process.join(max(0.0, deadline - time.monotonic()))
    for process in ranks:
        process.kill()
    return [(each.exitcode, Path(f"errors-{i}").read_text()) for i, each in enumerate(ranks)]


def free_port() -> int:
    """Return a port that is not in use."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def command(*arguments: str) -> list[str]:
    """Return the command `python train.py …`."""
    return [sys.executable, str(ROOT / "train.py"), *arguments]


def torchrun(*options: str) -> list[str]:
    """Return the command `torchrun … train.py`; append the program's arguments."""
    return [sys.executable, "-m", "torch.distributed.run", *options, str(ROOT / "train.py")]


def on_machines(num_machines: int, *arguments: str, timeout: float = 110.0) -> None:
    """Run a command on several simulated machines: torchrun agents with one rank each."""
    port = free_port()
    machines = []
    for rank in range(num_machines):
        node = (f"--node_rank={rank}", "--master_addr=127.0.0.1", f"--master_port={port}")
        launcher = torchrun(f"--nnodes={num_machines}", "--nproc_per_node=1", *node)
        trainer_flags = (f"--trainer.num_nodes={num_machines}", "--trainer.devices=1")
        machines.append(
            subprocess.Popen(
                [*launcher, *arguments, *trainer_flags],
                env=environment(),
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    errors = [machine.communicate(timeout=timeout)[1] for machine in machines]
    assert [machine.returncode for machine in machines] == [0] * num_machines, "\n".join(errors)


def finish(arguments: list[str], timeout: float = 110.0) -> subprocess.CompletedProcess[str]:
    """Run a command and return its result; it does not inherit this process's rank variables."""
    return subprocess.run(
        arguments, capture_output=True, text=True, timeout=timeout, env=environment()
    )


def environment() -> dict[str, str]:
    """Return the environment variables, without those that a launcher of ranks sets."""
    launcher_prefixes = (
        "RANK",
        "MASTER_",
        "WORLD_SIZE",
        "LOCAL_",
        "NODE_RANK",
        "PL_",
        "TORCHELASTIC",
    )
    return {
        name: value for name, value in os.environ.items() if not name.startswith(launcher_prefixes)
    }
