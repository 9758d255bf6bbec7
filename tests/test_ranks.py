"""Training with several ranks."""

import copy
import multiprocessing
import os
import signal
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from lightning.pytorch import Callback, seed_everything
from torch import nn

from dqn_lightning import ConfigError, DQNModule, distributed
from dqn_lightning.callbacks import (
    Checkpoints,
    EpisodeLog,
    FullState,
    GradientClamp,
    RankWatch,
    TargetSync,
)
from dqn_lightning.engines import Eager
from dqn_lightning.interaction.actor import EpsilonGreedy, ladder
from dqn_lightning.loggers.csv import CSVLogger
from dqn_lightning.losses import DQN, IQN
from dqn_lightning.networks import MLP, QNetwork, ValueHead
from dqn_lightning.replay import Prioritized
from dqn_lightning.schedules import Constant, Linear
from dqn_lightning.types import Batch
from tests.helpers.processes import finish, fit_in_ranks, in_ranks
from tests.helpers.settings import make_datamodule
from tests.helpers.states import differences, read_run

pytestmark = pytest.mark.processes

# Collectives ------------------------------------------------------------------------------------

LIST_THREADS_AT_EXIT = """
import atexit, pathlib, time

def threads():
    return [(task / "comm").read_text() for task in pathlib.Path("/proc/self/task").iterdir()]

atexit.register(lambda: print(*threads()))

import torch.distributed as dist
import dqn_lightning.distributed
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
while not any("gloo" in name for name in threads()):  # a new thread first has its parent's name
    time.sleep(0.01)
print(*threads(), "exit")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="lists threads in /proc")
def test_threads_of_a_process_group_have_ended_when_the_interpreter_exits() -> None:
    result = finish([sys.executable, "-c", LIST_THREADS_AT_EXIT])
    before, after = result.stdout.split("exit")
    assert "gloo" in before
    assert "gloo" not in after


def test_collectives_return_their_input_in_a_single_process() -> None:
    tensors = [torch.ones(2), torch.zeros(1)]
    assert (distributed.world_size(), distributed.rank()) == (1, 0)
    assert distributed.all_reduce_mean(tensors) == tensors
    assert distributed.all_reduce_sum(3, 4) == [3, 4]
    assert distributed.all_reduce_max(5) == 5
    assert distributed.broadcast_value(6) == 6
    assert distributed.all_gather("a") == ["a"]
    assert distributed.all_reduce_min(0.25) == 0.25


@pytest.mark.parametrize("world_size", [2, 3])
def test_collectives_return_the_same_result_on_all_ranks(world_size: int) -> None:
    def call_all() -> Any:
        rank = distributed.rank()
        shared = torch.full((2,), float(rank))
        distributed.broadcast_tensors([shared])
        means = distributed.all_reduce_mean(
            [torch.full((2, 3), float(rank)), torch.tensor([2.0 * rank])]
        )
        return {
            "world_size": distributed.world_size(),
            "means": [mean.tolist() for mean in means],
            "sums": distributed.all_reduce_sum(rank, 1),
            "max": distributed.all_reduce_max(10 - rank),
            "min": distributed.all_reduce_min(2.0**-60 + rank),
            "broadcast": [
                distributed.broadcast_value(7 + rank),
                distributed.broadcast_value(rank == 0),
            ],
            "gathered": distributed.all_gather({"rank": rank}),
            "shared": shared.tolist(),
        }

    mean_rank = (world_size - 1) / 2
    expected = {
        "world_size": world_size,
        "means": [[[mean_rank] * 3] * 2, [2 * mean_rank]],
        "sums": [sum(range(world_size)), world_size],
        "max": 10,
        "min": 2.0**-60,
        "broadcast": [7, 1],
        "gathered": [{"rank": rank} for rank in range(world_size)],
        "shared": [0.0, 0.0],
    }
    assert in_ranks(world_size, call_all) == [expected] * world_size


def test_the_block_with_the_values_of_rank_zero_restores_the_own_values() -> None:
    def read() -> Any:
        tensor = torch.tensor([float(distributed.rank())])
        with distributed.values_of_rank_zero([tensor]):
            inside = tensor.tolist()
        return [inside, tensor.tolist()]

    assert in_ranks(2, read) == [[[0.0], [0.0]], [[0.0], [1.0]]]


def test_each_rank_derives_its_own_seed_and_rank_zero_keeps_the_seed() -> None:
    seeds = in_ranks(2, lambda: [distributed.rank_seed(seed) for seed in (1, 2)])
    assert seeds[0] == [1, 2]
    assert len({*seeds[0], *seeds[1]}) == 4


# Updates ----------------------------------------------------------------------------------------


def make_engine() -> tuple[QNetwork, Eager]:
    torch.manual_seed(0)
    online = QNetwork((4,), 3, partial(MLP, widths=(16, 16)), ValueHead).double()
    target = copy.deepcopy(online).requires_grad_(False)
    with torch.no_grad():
        for parameter in target.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    clamp = GradientClamp(value=0.02)._clamp_value  # so the result depends on what is clamped
    optimizer = torch.optim.Adam(online.parameters(), lr=0.01)
    return online, Eager(online, target, DQN(double=True), optimizer, [clamp])


def make_batch(number: int, size: int) -> Batch:
    generator = torch.Generator().manual_seed(number)
    obs, next_obs = torch.randn(2, size, 4, generator=generator).double()
    reward, discount, weight = torch.rand(3, size, generator=generator).double()
    action = torch.randint(3, (size,), generator=generator)
    return Batch(obs, action, 5 * reward, discount, next_obs, weight, torch.arange(size))


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_with_a_part_of_each_batch_equal_one_process_with_the_whole_batch(
    world_size: int,
) -> None:
    size, updates = 12, 50

    def train() -> list[Any]:
        online, engine = make_engine()
        for i in range(updates):
            batch = make_batch(i, size)
            part = [column.chunk(world_size)[distributed.rank()] for column in batch]
            engine.update(Batch(*part))
        return [p.detach() for p in online.parameters()]

    online, engine = make_engine()
    before = [p.detach().clone() for p in online.parameters()]
    for i in range(updates):
        engine.update(make_batch(i, size))
    for rank_parameters in in_ranks(world_size, train):
        for initial, final, of_rank in zip(
            before, online.parameters(), rank_parameters, strict=True
        ):
            assert not torch.equal(initial, final)
            torch.testing.assert_close(of_rank, final.detach(), rtol=0, atol=1e-10)


# Training ---------------------------------------------------------------------------------------


class BatchNormTorso(nn.Sequential):
    def __init__(self, obs_shape: tuple[int, ...]) -> None:
        super().__init__(nn.Linear(*obs_shape, 16), nn.BatchNorm1d(16), nn.ReLU())


def make(network: Any = None, module: dict[str, Any] | None = None, **settings: Any) -> Any:
    seed_everything(1, verbose=False)
    options = {
        "batch_size": 16,
        "learning_starts_env_steps": 64,
        "total_env_steps": 528,
        "epsilon": 0.3,
        "eval_every_env_steps": None,
        "eval_episodes": 5,
        "rollout_env_steps": 50,
        **settings,
    }
    data = make_datamodule(options.pop("env_id", "CartPole-v1"), **options)
    torso = network or partial(MLP, widths=(16,))
    return DQNModule(data.obs_shape, data.num_actions, network=torso, **(module or {})), data


class RankRecorder(Callback):
    """Saves what each rank did and its final state."""

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.recorded: dict[str, Any] = {
            "clocks": [],
            "synced": [],
            "first_random_numbers": torch.rand(3),
        }
        self.last_target = [p.clone() for p in pl_module.target.parameters()]
        pl_module.after_update.append(partial(self._note, pl_module))

    def _note(self, pl_module: Any, clock: Any) -> None:
        self.recorded["clocks"].append((clock.env_steps, clock.grad_steps))
        target = list(pl_module.target.parameters())
        if not all(map(torch.equal, self.last_target, target)):
            self.recorded["synced"].append(clock.grad_steps)
            self.last_target = [p.clone() for p in target]

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        self.recorded["summary"] = pl_module.summary

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        collector = trainer.datamodule.dataset.collector
        self.recorded |= {
            "counts": collector.progress,
            "rows": collector.replay.read(collector.replay.times),
            "parameters": [p.detach().clone() for p in pl_module.parameters()],
            "buffers": {name: b.clone() for name, b in pl_module.named_buffers()},
            "global_step": trainer.global_step,
        }
        torch.save(self.recorded, f"recording-{trainer.global_rank}.pt")


def recordings(number: int) -> list[dict[str, Any]]:
    return [torch.load(f"recording-{rank}.pt", weights_only=False) for rank in range(number)]


CASES: dict[str, tuple[int, dict[str, Any], dict[str, Any]]] = {
    "plain": (2, {}, {"every_n_grad_steps": 10}),
    "three ranks": (3, {"total_env_steps": 792}, {"every_n_grad_steps": 10}),
    "n-step, vector, stack": (
        2,
        {"n_step": 3, "num_envs": 3, "frame_stack": 2, "train_every_env_steps": 1},
        {"every_n_env_steps": 13},
    ),
    "priorities, n-step, vector": (
        2,
        {"sampler": Prioritized(beta=Linear(0.4, 1.0, 500)), "n_step": 3, "num_envs": 2},
        {"every_n_grad_steps": 10},
    ),
    "noise, random quantiles": (
        2,
        {"module": {"objective": IQN(), "noisy": True, "dueling": True}, "epsilon": 0.0},
        {"every_n_grad_steps": 10},
    ),
    "batch normalization, by episodes": (
        2,
        {"network": BatchNormTorso, "module": {"act_in_train_mode": True}, "num_envs": 2},
        {"every_n_episodes": 2},
    ),
    "short episodes, ladder": (
        2,
        {"env_id": "toy/Walk-v0", "num_envs": 2, "ladder": True},
        {"every_n_env_steps": 7, "tau": 0.1},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_ranks_observe_different_transitions_and_keep_equal_weights(case: str) -> None:
    number, settings, sync = CASES[case]
    fit_in_ranks(
        number,
        partial(make, **settings),
        TargetSync(**sync),
        RankRecorder(),
        GradientClamp(value=0.5),
        EpisodeLog(save_plots=False),
        enable_checkpointing=False,
    )
    first, *others = recordings(number)
    assert first["global_step"] >= 200
    assert len(first["synced"]) > 3
    for other in others:
        for ours, theirs in zip(first["parameters"], other["parameters"], strict=True):
            assert torch.equal(ours, theirs)
        for name in ("clocks", "synced", "global_step"):
            assert first[name] == other[name], name
        assert not torch.equal(first["first_random_numbers"], other["first_random_numbers"])
        assert not torch.equal(first["rows"]["obs"][:50], other["rows"]["obs"][:50])
    for rank in (first, *others):
        assert rank["counts"].env_steps % number == 0  # the own count times the number of ranks


def test_each_rank_has_its_own_batch_normalization_statistics() -> None:
    fit_in_ranks(
        2,
        partial(make, BatchNormTorso),
        TargetSync(every_n_grad_steps=10),
        RankRecorder(),
        enable_checkpointing=False,
    )
    first, second = recordings(2)
    (name,) = (n for n in first["buffers"] if n.startswith("online") and n.endswith("running_mean"))
    assert not torch.equal(first["buffers"][name], second["buffers"][name])


class CollectiveCounter(Callback):
    """Counts all collectives from the third rollout on, including those issued in C++."""

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == 2:
            self.profile = torch.profiler.profile().__enter__()
            self.grad_steps = trainer.global_step

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.profile.__exit__(None, None, None)
        calls = {event.key: event.count for event in self.profile.key_averages()}
        collectives = {key: count for key, count in calls.items() if key.startswith("gloo:")}
        torch.save([collectives, trainer.global_step - self.grad_steps], "collectives.pt")


def test_a_rollout_needs_three_collectives_besides_the_gradients() -> None:
    """They carry Lightning's SIGTERM flag, whether the run is over, and whether to rebuild engines.

    Buffers are not broadcast.
    """
    fit_in_ranks(
        2,
        partial(make, BatchNormTorso, rollout_env_steps=100, total_env_steps=1_000),
        TargetSync(every_n_grad_steps=10),
        CollectiveCounter(),
        enable_checkpointing=False,
    )
    collectives, updates = torch.load("collectives.pt", weights_only=True)
    assert updates == 300
    # Each is sent three times in these rollouts.
    assert collectives == {"gloo:all_reduce": updates + 6, "gloo:broadcast": 3}


def test_an_evaluation_split_across_ranks_equals_the_evaluation_of_one_process() -> None:
    """The network is not trained, because training depends on the number of ranks."""
    settings = {
        "env_id": "toy/Chance-v0",
        "eval_episodes": 7,
        "total_env_steps": 24,
        "eval_every_env_steps": 24,
        "learning_starts_env_steps": 24,
        "module": {"optimizer": partial(torch.optim.SGD, lr=0.0)},
    }
    for number in (1, 2, 3):
        fit_in_ranks(
            number,
            partial(make, **settings),
            TargetSync(every_n_grad_steps=10),
            RankRecorder(),
            enable_checkpointing=False,
        )
        summaries = [recording["summary"] for recording in recordings(number)]
        if number == 1:
            alone = summaries[0]
        assert alone.episodes == 7
        assert summaries == [alone] * number


def test_a_run_limited_by_episodes_ends_on_all_ranks_at_the_end_of_a_rollout() -> None:
    fit_in_ranks(
        2,
        partial(make, env_id="toy/Walk-v0", total_episodes=40, total_env_steps=None),
        TargetSync(every_n_grad_steps=10),
        RankRecorder(),
        enable_checkpointing=False,
    )
    first, second = recordings(2)
    assert first["global_step"] == second["global_step"] > 0
    episodes = first["counts"].episodes + second["counts"].episodes
    assert 40 <= episodes < 40 + 2 * 50
    assert first["counts"].env_steps % 100 == 0


def test_stopping_one_rank_stops_all_ranks() -> None:
    class StopSecond(Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            if trainer.global_rank == 1 and trainer.datamodule.progress.rollout_end == 300:
                trainer.datamodule.stop()

    fit_in_ranks(
        2,
        make,
        TargetSync(every_n_grad_steps=10),
        RankRecorder(),
        StopSecond(),
        enable_checkpointing=False,
    )
    assert [recording["counts"].env_steps for recording in recordings(2)] == [300, 300]


def test_an_evaluation_that_one_rank_stops_has_no_result_on_any_rank() -> None:
    class StopSecondInEvaluation(Callback):
        def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
            if trainer.global_rank == 1 and not trainer.sanity_checking:
                trainer.datamodule.stop()

    fit_in_ranks(
        2,
        partial(make, eval_every_env_steps=100, eval_episodes=2),
        TargetSync(every_n_grad_steps=10),
        RankRecorder(),
        StopSecondInEvaluation(),
        enable_checkpointing=False,
    )
    for recording in recordings(2):
        assert recording["summary"] is None
        assert recording["counts"].env_steps == 100


def test_the_run_of_several_ranks_does_not_depend_on_the_rollout_length() -> None:
    runs = []
    for rollout_env_steps in (1, 7, 200):
        fit_in_ranks(
            2,
            partial(make, rollout_env_steps=rollout_env_steps, num_envs=2),
            TargetSync(every_n_env_steps=11),
            RankRecorder(),
            enable_checkpointing=False,
        )
        runs.append([w["parameters"] + [w["rows"]["obs"]] for w in recordings(2)])
    assert differences(runs[0], runs[1]) == []
    assert differences(runs[0], runs[2]) == []


# Lost ranks -------------------------------------------------------------------------------------


def test_a_frozen_rank_ends_the_other_rank_and_is_named(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    store = Path("store").resolve()

    def run(rank: int) -> None:
        dist.init_process_group("gloo", init_method=f"file://{store}", world_size=2, rank=rank)
        anything: Any = None
        RankWatch(timeout_s=2.0, grace_s=0.5).setup(anything, anything, "fit")
        if rank == 1:
            os.kill(os.getpid(), signal.SIGSTOP)
        distributed.all_reduce_max(rank)  # rank 0 waits here

    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=run, args=(rank,)) for rank in range(2)]
    for process in processes:
        process.start()
    processes[0].join(30)
    processes[1].kill()
    processes[1].join()
    assert processes[0].exitcode == 1
    assert "rank 1 (" in capfd.readouterr().err


def test_a_fit_right_after_a_failed_fit_is_watched_by_a_single_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")

    def fit_twice() -> tuple[int, str | None]:
        anything: Any = None
        watch = RankWatch()
        watch.setup(anything, anything, "fit")
        watch.on_exception(anything, anything, ValueError())
        watch.setup(anything, anything, "fit")
        time.sleep(2.0)  # a thread that was told to end does so within a second
        names = [thread.name for thread in threading.enumerate()]
        distributed.all_reduce_max(0)  # until both ranks have looked
        watch.teardown(anything, anything, "fit")
        return names.count("rank-watch"), watch.lost

    assert in_ranks(2, fit_twice) == [(1, None), (1, None)]


# Exploration ------------------------------------------------------------------------------------


def test_the_epsilon_ladder_equals_that_of_ape_x() -> None:
    rng = np.random.default_rng(0)
    actor = EpsilonGreedy(Constant(0.4), 2, rng, ladder(4))
    obs, steps = torch.zeros(4, 1), 20_000
    greedy = partial(torch.full, (4,), 5)
    explored = np.mean([actor(lambda _: greedy(), obs, 0) != 5 for _ in range(steps)], axis=0)
    wanted = [0.4 ** (1 + 7 * i / 3) for i in range(4)]
    np.testing.assert_allclose(explored, wanted, atol=4 * np.sqrt(0.25 / steps))


def test_the_epsilon_ladder_spans_the_environments_of_all_ranks() -> None:
    def exponents() -> Any:
        data = make_datamodule("toy/Walk-v0", num_envs=2, ladder=True)
        return data.collectors.training(
            torch.device("cpu"), 0, data.progress
        ).actor.exponents.tolist()

    assert np.concatenate(in_ranks(2, exponents)).tolist() == ladder(4).tolist()


# Resuming ---------------------------------------------------------------------------------------


def fit_saved(
    number: int, directory: str, total: int, ckpt_path: str | None = None, **settings: Any
) -> None:
    fit_in_ranks(
        number,
        partial(make, total_env_steps=total, eval_every_env_steps=400, **settings),
        TargetSync(every_n_episodes=2),
        EpisodeLog(save_plots=False),
        FullState(),
        Checkpoints(every_n_env_steps=150, keep_last=2),
        logger=CSVLogger(Path(directory)),
        ckpt_path=ckpt_path,
        log_every_n_steps=7,
    )


@pytest.mark.parametrize(
    "kind",
    [{}, {"network": BatchNormTorso}, {"sampler": Prioritized(uniform_share=0.1)}],
    ids=["MLP", "batch normalization", "priorities"],
)
@pytest.mark.parametrize("half", [400, 430])
def test_a_resumed_run_of_two_ranks_equals_the_uninterrupted_run(half: int, kind: Any) -> None:
    more = {"num_envs": 2, "n_step": 3, **kind}
    for directory in ("one", "two"):
        Path(directory).mkdir()
    fit_saved(2, "one", 800, **more)
    fit_saved(2, "two", half, **more)
    fit_saved(2, "two", 800, "two/last.ckpt", **more)
    ours, theirs = read_run("one", 2), read_run("two", 2)
    assert ours["dqn_lightning"]["progress"]["grad_steps"] > 150
    assert not torch.equal(*(rank["rows"]["obs"] for rank in ours["ranks"]))
    assert differences(ours, theirs) == []


def test_another_number_of_ranks_is_rejected_or_redistributes_the_rows() -> None:
    for directory in ("run", "more", "fewer", "without"):
        Path(directory).mkdir()
    fit_saved(2, "run", 400)
    message = "2 ranks, not 3.*--data.resume.redistribute_replay=true"
    with pytest.raises(Exception, match=message):
        fit_saved(3, "more", 800, "run/last.ckpt")
    fit_saved(3, "more", 600, "run/last.ckpt", redistribute_replay=True)
    fit_saved(1, "fewer", 600, "run/last.ckpt", redistribute_replay=True)
    before = read_run("run", 2)
    for directory, number in (("more", 3), ("fewer", 1)):
        after = read_run(directory, number)
        grad_steps = [run["dqn_lightning"]["progress"]["grad_steps"] for run in (before, after)]
        assert grad_steps[0] < grad_steps[1]
        seen = torch.cat([of_rank["rows"]["obs"] for of_rank in before["ranks"]])
        kept = torch.cat([of_rank["rows"]["obs"] for of_rank in after["ranks"]])
        known = {tuple(obs) for obs in kept.flatten(0, 1).tolist()}
        assert all(tuple(obs) in known for obs in seen.flatten(0, 1).tolist())


def test_state_of_removed_ranks_is_deleted_with_their_last_checkpoint() -> None:
    Path("run").mkdir()
    fit_saved(2, "run", 400)
    assert Path("run/state/rank-1").is_dir()
    fit_saved(1, "run", 450, "run/last.ckpt", redistribute_replay=True)
    assert any(
        Path("run/state/rank-1").iterdir()
    )  # one of the two checkpoints was saved by two ranks
    fit_saved(1, "run", 600, "run/last.ckpt")
    assert {path.name for path in Path("run/state").iterdir()} == {"rank-0"}


def test_state_missing_on_one_rank_is_reported_on_all_ranks() -> None:
    Path("run").mkdir()
    fit_saved(2, "run", 400)
    (state,) = (Path("run") / "state" / "rank-1").glob("400-*")
    state.unlink()
    with pytest.raises(
        Exception, match=r"cannot be read.*\(rank 1\); --data.resume.require_replay=false"
    ):
        fit_saved(2, "run", 800, "run/last.ckpt")
    fit_saved(2, "run", 800, "run/last.ckpt", require_replay=False)


class FullDiskOfRank(Callback):
    """Let one rank's disk be full from a certain rollout on."""

    def __init__(self, rank: int, rollout: int) -> None:
        self.rank, self.rollout = rank, rollout

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        def write(path: Path, content: Any) -> None:
            raise OSError(28, "No space left on device")

        if batch_idx == self.rollout and trainer.global_rank == self.rank:
            Path.write_bytes = write  # type: ignore[method-assign]  # in the process of this rank


@pytest.mark.parametrize("rank", [0, 1])
def test_the_full_disk_of_one_rank_ends_all_ranks_and_keeps_the_last_checkpoint(rank: int) -> None:
    """Issue 22: the other ranks must neither wait for it nor write a checkpoint without it."""
    Path("run").mkdir()
    with pytest.raises(Exception, match=r"WriteError.*cannot be written: No space left") as failure:
        fit_in_ranks(
            2,
            partial(make, total_env_steps=800),
            TargetSync(every_n_episodes=2),
            FullState(),
            Checkpoints(every_n_env_steps=150),
            FullDiskOfRank(rank, 7),
            logger=CSVLogger(Path("run")),
        )
    assert f"run/state/rank-{rank}" in str(failure.value)
    assert not list(Path("run").rglob(".tmp-*"))
    fit_saved(2, "run", 600, "run/last.ckpt")


def test_predict_requires_a_single_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    with pytest.raises(ConfigError, match=r"--trainer\.devices 1"):
        make_datamodule().setup("predict")
