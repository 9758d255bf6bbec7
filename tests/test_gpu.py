"""Training on a GPU; skipped on machines without one."""

import os

import numpy as np
import pytest
import torch

from dqn_lightning.engines import CUDAGraph, Eager
from dqn_lightning.replay import RandomMirror, RandomShift
from dqn_lightning.types import Batch
from tests.helpers.engines import batches, make, state
from tests.helpers.processes import ROOT, on_machines
from tests.helpers.states import CARTPOLE_SHORT, differences, read_run
from tests.helpers.variants import train

ACCELERATOR = os.environ.get("DQN_LIGHTNING_TEST_ACCELERATOR", "gpu")
"""Set to `cpu` to check the tests themselves on a machine without a GPU."""

DEVICE = "cuda" if ACCELERATOR == "gpu" else ACCELERATOR
pytestmark = pytest.mark.skipif(
    ACCELERATOR == "gpu" and not torch.cuda.is_available(), reason="requires a GPU"
)
DDP = "--trainer.strategy=lightning.pytorch.strategies.DDPStrategy"
BACKEND = "--trainer.strategy.process_group_backend"


FIT = (
    "fit",
    "--trainer.logger=false",
    "--trainer.enable_progress_bar=false",
    f"--trainer.accelerator={ACCELERATOR}",
    "--data.schedule.rollout_env_steps=50",
    *CARTPOLE_SHORT,
)


# NCCL requires one GPU per rank; with gloo, the simulated machines share one.
@pytest.mark.parametrize(("backend", "number"), [("nccl", 1), ("gloo", 1), ("gloo", 2)])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.processes
@pytest.mark.timeout(600)
def test_a_resumed_run_equals_an_uninterrupted_one(
    backend: str, number: int, precision: str
) -> None:
    if ACCELERATOR == "cpu" and backend == "nccl":
        pytest.skip("NCCL requires a GPU")
    flags = (DDP, f"{BACKEND}={backend}", f"--trainer.precision={precision}")
    for name, steps in {"one": 1_600, "two": 900}.items():
        length = f"--data.schedule.total_env_steps={steps}"
        on_machines(number, *FIT, *flags, length, f"--run_name={name}")
    resume = ("fit", "--ckpt_path=last", "--run_name=two", "--data.schedule.total_env_steps=1600")
    on_machines(number, *resume)
    runs = [read_run(f"checkpoints/{name}", number) for name in ("one", "two")]
    for run in runs:
        run["callbacks"] = {k: v for k, v in run["callbacks"].items() if "Timing" not in k}
    assert runs[0]["dqn_lightning"]["progress"]["grad_steps"] > 300
    assert differences(*runs) == []


@pytest.mark.processes
@pytest.mark.parametrize("number", [1, 2])
def test_sync_batch_norm_trains_on_all_ranks(number: int) -> None:
    """The engine `auto` then runs eagerly, because SyncBatchNorm communicates within updates."""
    if ACCELERATOR == "cpu":
        pytest.skip("SyncBatchNorm requires a GPU")
    config = str(ROOT / "configs" / "pytorch_tutorial.yaml")
    flags = (DDP, f"{BACKEND}=gloo", "--trainer.sync_batchnorm=true", "--trainer.accelerator=gpu")
    on_machines(number, "fit", "--config", config, *flags, "--data.schedule.total_env_steps=600")


@pytest.mark.parametrize(
    "methods",
    [
        ("c51", "double", "dueling", "n_step", "prioritized", "noisy"),
        ("qrdqn", "double", "prioritized"),
        ("iqn", "dueling", "noisy"),
        ("munchausen", "noisy"),
        ("double", "rescaled", "scheduled n_step"),
    ],
    ids=" + ".join,
)
def test_variants_of_dqn_train_equally_with_both_engines(methods: tuple[str, ...]) -> None:
    fast_engine = "recorded" if ACCELERATOR == "cpu" else "cudagraph"
    eager, fast = (
        train(methods, engine, accelerator=ACCELERATOR).online.state_dict()
        for engine in ("eager", fast_engine)
    )
    for name, value in eager.items():
        assert torch.isfinite(value).all()
        # Not equal to the bit: the order of summation in C51's projection varies on a GPU.
        torch.testing.assert_close(fast[name], value, rtol=1e-3, atol=1e-4)


def test_image_augmentations_are_the_same_on_the_gpu_and_the_cpu() -> None:
    images = torch.randint(0, 256, (30, 2, 7, 9), dtype=torch.uint8)
    actions, zeros, rows = torch.zeros(30, dtype=torch.int64), torch.zeros(30), torch.arange(30)
    batch = Batch(images, actions, zeros, zeros, images.flip(0), zeros, rows)
    batch_on_device = Batch(*(tensor.to(DEVICE) for tensor in batch))
    for augmentation in (RandomShift(columns=3, rows=2), RandomMirror((1, 0))):
        changed = [augmentation(b, np.random.default_rng(5)) for b in (batch, batch_on_device)]
        assert all(torch.equal(a, b.cpu()) for a, b in zip(*changed, strict=True))
        assert not torch.equal(changed[0].obs, images)


@pytest.mark.skipif(ACCELERATOR == "cpu", reason="requires a GPU")
@pytest.mark.parametrize("optimizer", ["adam", "fused_adam", "radam", "momentum", "adagrad"])
def test_captured_updates_follow_a_learning_rate_schedule(optimizer: str) -> None:
    results = []
    for kind in (Eager, CUDAGraph):
        engine = make(kind, optimizer=optimizer, device=DEVICE)
        schedule = torch.optim.lr_scheduler.LinearLR(engine.optimizer, 1.0, 0.1, total_iters=50)
        for batch in batches(num_batches=50):
            engine.update(Batch(*(tensor.to(DEVICE) for tensor in batch)))
            schedule.step()
        (group,) = engine.optimizer.state_dict()["param_groups"]
        assert type(group["lr"]) is float
        assert not group.get("capturable")
        results.append(state(engine.online))
    torch.testing.assert_close(results[1], results[0], rtol=1e-3, atol=1e-4)
