"""What needs a GPU: `pytest tests/test_gpu.py` on a machine that has one."""

import os

import numpy as np
import pytest
import torch

from dqn_lightning.replay import RandomMirror, RandomShift
from dqn_lightning.types import Batch
from tests.processes import ROOT, on_machines
from tests.test_family import train
from tests.test_ranks import saved
from tests.test_resume import CARTPOLE_SHORT, differences

ACCELERATOR = os.environ.get("DQN_LIGHTNING_TEST_ACCELERATOR", "gpu")
"""`cpu` tries out these tests themselves where there is no GPU."""

DEVICE = "cuda" if ACCELERATOR == "gpu" else ACCELERATOR
pytestmark = pytest.mark.skipif(
    ACCELERATOR == "gpu" and not torch.cuda.is_available(), reason="there is no GPU"
)
DDP = "--trainer.strategy=lightning.pytorch.strategies.DDPStrategy"
BACKEND = "--trainer.strategy.process_group_backend"


FIT = (
    "fit",
    "--trainer.logger=false",
    "--trainer.enable_progress_bar=false",
    f"--trainer.accelerator={ACCELERATOR}",
    "--data.rollout_env_steps=50",
    *CARTPOLE_SHORT,
)


# NCCL wants a GPU for each rank; gloo lets "machines" share one.
@pytest.mark.parametrize(("backend", "number"), [("nccl", 1), ("gloo", 1), ("gloo", 2)])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.timeout(600)
def test_ranks_train_and_go_on_as_the_same_run(backend: str, number: int, precision: str) -> None:
    if ACCELERATOR == "cpu" and backend == "nccl":
        pytest.skip("NCCL is for GPUs")
    flags = (DDP, f"{BACKEND}={backend}", f"--trainer.precision={precision}")
    for name, steps in {"one": 1_600, "two": 900}.items():
        length = f"--data.total_env_steps={steps}"
        on_machines(number, *FIT, *flags, length, f"--run_name={name}")
    went_on = ("fit", "--ckpt_path=last", "--run_name=two", "--data.total_env_steps=1600")
    on_machines(number, *went_on)
    runs = [saved(f"checkpoints/{name}", number) for name in ("one", "two")]
    for run in runs:
        run["callbacks"] = {k: v for k, v in run["callbacks"].items() if "Timing" not in k}
    assert runs[0]["clock"][2] > 300
    assert differences(*runs) == []


@pytest.mark.parametrize("number", [1, 2])
def test_statistics_can_be_shared_by_all_ranks(number: int) -> None:
    """SyncBatchNorm, which is for GPUs only."""
    if ACCELERATOR == "cpu":
        pytest.skip("SyncBatchNorm is for GPUs")
    config = str(ROOT / "configs" / "pytorch_tutorial.yaml")
    flags = (DDP, f"{BACKEND}=gloo", "--trainer.sync_batchnorm=true", "--trainer.accelerator=gpu")
    on_machines(number, "fit", "--config", config, *flags, "--data.total_env_steps=600")


@pytest.mark.parametrize(
    "switches",
    [
        ("c51", "double", "dueling", "n_step", "prioritized", "noisy"),
        ("qrdqn", "double", "prioritized"),
        ("iqn", "dueling", "noisy"),
        ("munchausen", "noisy"),
        ("double", "rescaled", "changing n_step"),
    ],
    ids=" + ".join,
)
def test_the_family_trains_alike_with_both_engines(switches: tuple[str, ...]) -> None:
    captured = "traced" if ACCELERATOR == "cpu" else "cudagraph"
    eager, fast = (
        train(switches, engine, accelerator=ACCELERATOR).online.state_dict()
        for engine in ("eager", captured)
    )
    for name, value in eager.items():
        assert torch.isfinite(value).all()
        # Not to the bit: a GPU adds up C51's projection in an order of its own.
        torch.testing.assert_close(fast[name], value, rtol=1e-3, atol=1e-4)


def test_pictures_are_augmented_there_as_on_the_host() -> None:
    pictures = torch.randint(0, 256, (30, 2, 7, 9), dtype=torch.uint8)
    actions, zeros, rows = torch.zeros(30, dtype=torch.int64), torch.zeros(30), torch.arange(30)
    batch = Batch(pictures, actions, zeros, zeros, pictures.flip(0), zeros, rows)
    there = Batch(*(tensor.to(DEVICE) for tensor in batch))
    for augmentation in (RandomShift(columns=3, rows=2), RandomMirror((1, 0))):
        changed = [augmentation(given, np.random.default_rng(5)) for given in (batch, there)]
        assert all(torch.equal(a, b.cpu()) for a, b in zip(*changed, strict=True))
        assert not torch.equal(changed[0].obs, pictures)
