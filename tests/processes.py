"""Several ranks in one test, and whole commands as a user starts them."""

import multiprocessing
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.strategies import DDPStrategy

from dqn_lightning import DQNDataModule, DQNModule

ROOT = Path(__file__).parents[1]
QUIET: dict[str, Any] = {
    "max_epochs": -1,
    "accelerator": "cpu",
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
}


def in_ranks(number: int, function: Callable[[], Any]) -> list[Any]:
    """What a function gives on each of so many ranks (forked processes, gloo)."""
    store = Path("store").resolve()

    def run(rank: int) -> None:
        torch.set_num_threads(1)
        dist.init_process_group(
            "gloo",
            init_method=f"file://{store}",
            world_size=number,
            rank=rank,
            timeout=timedelta(seconds=60),
        )
        torch.save(function(), f"result-{rank}.pt")
        dist.destroy_process_group()

    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=run, args=(rank,)) for rank in range(number)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(90)
    store.unlink(missing_ok=True)
    assert [process.exitcode for process in processes] == [0] * number
    return [torch.load(f"result-{rank}.pt", weights_only=False) for rank in range(number)]


def fit_in_ranks(
    number: int,
    make: Callable[[], tuple[DQNModule, DQNDataModule]],
    *callbacks: Callback,
    ckpt_path: str | None = None,
    **trainer: Any,
) -> None:
    """Train in so many ranks, as a notebook would (forked processes, gloo)."""
    module, data = make()
    fitted = Trainer(
        strategy=DDPStrategy(start_method="fork"),
        devices=number,
        callbacks=list(callbacks),
        **{"logger": False, **QUIET, **trainer},
    )
    fitted.fit(module, datamodule=data, ckpt_path=ckpt_path)


def command(*arguments: str) -> list[str]:
    """`python train.py …`."""
    return [sys.executable, str(ROOT / "train.py"), *arguments]


def torchrun(*options: str) -> list[str]:
    """`torchrun … train.py`, to be followed by the program's arguments."""
    return [sys.executable, "-m", "torch.distributed.run", *options, str(ROOT / "train.py")]


def on_machines(number: int, *arguments: str, timeout: float = 110.0) -> None:
    """Run a command on so many "machines", agents of torchrun on this one with a rank each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    machines = []
    for rank in range(number):
        place = (f"--node_rank={rank}", "--master_addr=127.0.0.1", f"--master_port={port}")
        launched = torchrun(f"--nnodes={number}", "--nproc_per_node=1", *place)
        cluster = (f"--trainer.num_nodes={number}", "--trainer.devices=1")
        machines.append(
            subprocess.Popen(
                [*launched, *arguments, *cluster],
                env=environment(),
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    errors = [machine.communicate(timeout=timeout)[1] for machine in machines]
    assert [machine.returncode for machine in machines] == [0] * number, "\n".join(errors)


def finish(arguments: list[str], timeout: float = 110.0) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; it knows nothing of what this process has to do with ranks."""
    return subprocess.run(
        arguments, capture_output=True, text=True, timeout=timeout, env=environment()
    )


def environment() -> dict[str, str]:
    """The environment without what a launcher may have left in it."""
    ours = ("RANK", "MASTER_", "WORLD_SIZE", "LOCAL_", "NODE_RANK", "PL_", "TORCHELASTIC")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}
