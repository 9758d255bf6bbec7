"""Several processes that train together."""

import copy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, seed_everything
from torch import nn

from dqn_lightning import ConfigError, DQNDataModule, DQNModule, ranks
from dqn_lightning.actor import EpsilonGreedy, ladder
from dqn_lightning.callbacks import Checkpoints, EpisodeLog, FullState, GradientClamp, TargetSync
from dqn_lightning.csv_log import CSVLog
from dqn_lightning.engines import Eager
from dqn_lightning.losses import DQN, IQN
from dqn_lightning.networks import MLP, QNetwork, ValueHead
from dqn_lightning.replay import Prioritized
from dqn_lightning.schedules import Constant, Linear
from dqn_lightning.types import Batch
from tests.processes import fit_in_ranks, in_ranks
from tests.test_resume import differences

# What ranks tell each other ---------------------------------------------------------------------


def test_one_process_talks_to_nobody() -> None:
    tensors = [torch.ones(2), torch.zeros(1)]
    assert (ranks.count(), ranks.own()) == (1, 0)
    assert ranks.mean(tensors) == tensors
    assert ranks.total(3, 4) == [3, 4]
    assert (ranks.greatest(5), ranks.of_first(6), ranks.gather("a")) == (5, 6, ["a"])
    assert ranks.least(0.25) == 0.25


@pytest.mark.parametrize("number", [2, 3])
def test_what_ranks_tell_each_other(number: int) -> None:
    def talk() -> Any:
        own = ranks.own()
        shared = torch.full((2,), float(own))
        ranks.copy_first([shared])
        means = ranks.mean([torch.full((2, 3), float(own)), torch.tensor([2.0 * own])])
        return {
            "count": ranks.count(),
            "mean": [mean.tolist() for mean in means],
            "total": ranks.total(own, 1),
            "greatest": ranks.greatest(10 - own),
            "least": ranks.least(2.0**-60 + own),
            "of first": [ranks.of_first(7 + own), ranks.of_first(own == 0)],
            "gathered": ranks.gather({"rank": own}),
            "copied": shared.tolist(),
        }

    middle = (number - 1) / 2
    wanted = {
        "count": number,
        "mean": [[[middle] * 3] * 2, [2 * middle]],
        "total": [sum(range(number)), number],
        "greatest": 10,
        "least": 2.0**-60,
        "of first": [7, 1],
        "gathered": [{"rank": rank} for rank in range(number)],
        "copied": [0.0, 0.0],
    }
    assert in_ranks(number, talk) == [wanted] * number


# Updates ----------------------------------------------------------------------------------------


def make_engine() -> tuple[QNetwork, Eager]:
    torch.manual_seed(0)
    online = QNetwork((4,), 3, partial(MLP, widths=(16, 16)), ValueHead).double()
    online.observation = nn.Identity()  # in place of what makes single precision of observations
    target = copy.deepcopy(online).requires_grad_(False)
    with torch.no_grad():
        for parameter in target.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    clamp = GradientClamp(value=0.02)._clamp_value  # so it matters what is clamped
    optimizer = torch.optim.Adam(online.parameters(), lr=0.01)
    return online, Eager(online, target, DQN(double=True), optimizer, [clamp])


def make_batch(number: int, size: int) -> Batch:
    chance = torch.Generator().manual_seed(number)
    obs, next_obs = torch.randn(2, size, 4, generator=chance).double()
    reward, discount, weight = torch.rand(3, size, generator=chance).double()
    action = torch.randint(3, (size,), generator=chance)
    return Batch(obs, action, 5 * reward, discount, next_obs, weight, torch.arange(size))


@pytest.mark.parametrize("number", [2, 3])
def test_ranks_with_a_share_of_each_batch_are_one_process_with_all_of_it(number: int) -> None:
    size, updates = 12, 50

    def train() -> list[Any]:
        online, engine = make_engine()
        for i in range(updates):
            share = [column.chunk(number)[ranks.own()] for column in make_batch(i, size)]
            engine.update(Batch(*share))
        return [p.detach() for p in online.parameters()]

    online, engine = make_engine()
    before = [p.detach().clone() for p in online.parameters()]
    for i in range(updates):
        engine.update(make_batch(i, size))
    for of_rank in in_ranks(number, train):
        for then, now, theirs in zip(before, online.parameters(), of_rank, strict=True):
            assert not torch.equal(then, now)
            torch.testing.assert_close(theirs, now.detach(), rtol=0, atol=1e-10)


# Whole trainings --------------------------------------------------------------------------------


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
    data = DQNDataModule(**{"env_id": "CartPole-v1", **options})
    torso = network or partial(MLP, widths=(16,))
    return DQNModule(data.obs_shape, data.num_actions, network=torso, **(module or {})), data


class Witness(Callback):
    """Writes down, for each rank, what it did and what became of it."""

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.seen: dict[str, Any] = {"clocks": [], "synced": [], "first_draw": torch.rand(3)}
        self.newest = [p.clone() for p in pl_module.target.parameters()]
        pl_module.after_update.append(partial(self._note, pl_module))

    def _note(self, pl_module: Any, clock: Any) -> None:
        self.seen["clocks"].append((clock.env_steps, clock.grad_steps))
        target = list(pl_module.target.parameters())
        if not all(map(torch.equal, self.newest, target)):
            self.seen["synced"].append(clock.grad_steps)
            self.newest = [p.clone() for p in target]

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        self.seen["summary"] = pl_module.summary

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        collector = trainer.datamodule.dataset.collector
        self.seen |= {
            "counts": collector.counts,
            "rows": collector.replay.read(collector.replay.times),
            "parameters": [p.detach().clone() for p in pl_module.parameters()],
            "buffers": [b.clone() for b in pl_module.buffers()],
            "global_step": trainer.global_step,
        }
        torch.save(self.seen, f"witness-{trainer.global_rank}.pt")


def witnesses(number: int) -> list[dict[str, Any]]:
    return [torch.load(f"witness-{rank}.pt", weights_only=False) for rank in range(number)]


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
    "batch normalisation, by episodes": (
        2,
        {"network": BatchNormTorso, "module": {"act_in_train_mode": True}, "num_envs": 2},
        {"every_n_episodes": 2},
    ),
    "short episodes, ladder": (
        2,
        {"env_id": "toy/Walk-v0", "num_envs": 2, "epsilon_ladder": True},
        {"every_n_env_steps": 7, "tau": 0.1},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_ranks_see_different_things_and_learn_the_same(case: str) -> None:
    number, settings, sync = CASES[case]
    fit_in_ranks(
        number,
        partial(make, **settings),
        TargetSync(**sync),
        Witness(),
        GradientClamp(value=0.5),
        EpisodeLog(picture=False),
        enable_checkpointing=False,
    )
    first, *others = witnesses(number)
    assert first["global_step"] >= 200
    assert len(first["synced"]) > 3
    for other in others:
        for ours, theirs in zip(first["parameters"], other["parameters"], strict=True):
            assert torch.equal(ours, theirs)
        for name in ("clocks", "synced", "global_step"):
            assert first[name] == other[name], name
        assert not torch.equal(first["first_draw"], other["first_draw"])
        assert not torch.equal(first["rows"]["obs"][:50], other["rows"]["obs"][:50])
    for rank in (first, *others):
        assert rank["counts"].env_steps % number == 0  # each counts the others' steps as its own


def test_statistics_of_batch_normalisation_are_a_ranks_own() -> None:
    fit_in_ranks(
        2,
        partial(make, BatchNormTorso),
        TargetSync(every_n_grad_steps=10),
        Witness(),
        enable_checkpointing=False,
    )
    first, second = witnesses(2)
    assert not torch.equal(first["buffers"][0], second["buffers"][0])


class Counting(Callback):
    """Counts collectives from the third rollout on, those below Python too."""

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
        torch.save([collectives, trainer.global_step - self.grad_steps], "counted.pt")


def test_besides_the_gradients_a_rollout_takes_two_small_messages() -> None:
    """Lightning's flag, and whether the run is over; buffers are not sent around."""
    fit_in_ranks(
        2,
        partial(make, BatchNormTorso, rollout_env_steps=100, total_env_steps=1_000),
        TargetSync(every_n_grad_steps=10),
        Counting(),
        enable_checkpointing=False,
    )
    collectives, updates = torch.load("counted.pt", weights_only=True)
    assert updates == 300
    # Three times: before the fourth and the fifth rollout, and when there is no sixth.
    assert collectives == {"gloo:all_reduce": updates + 3, "gloo:broadcast": 3}


@pytest.mark.filterwarnings("ignore:no update will be made")
def test_evaluations_are_shared_out_and_the_same_as_those_of_one_process() -> None:
    """Of a network that has not learned: what ranks learn from depends on their number."""
    settings = {
        "env_id": "toy/Chance-v0",
        "eval_episodes": 7,
        "total_env_steps": 20,
        "eval_every_env_steps": 20,
        "learning_starts_env_steps": 10_000,
    }
    for number in (1, 2, 3):
        fit_in_ranks(
            number,
            partial(make, **settings),
            TargetSync(every_n_grad_steps=10),
            Witness(),
            enable_checkpointing=False,
        )
        summaries = [witness["summary"] for witness in witnesses(number)]
        if number == 1:
            alone = summaries[0]
        assert alone.episodes == 7
        assert summaries == [alone] * number


def test_a_run_of_some_episodes_ends_for_all_at_a_rollouts_end() -> None:
    fit_in_ranks(
        2,
        partial(make, env_id="toy/Walk-v0", total_episodes=40, total_env_steps=None),
        TargetSync(every_n_grad_steps=10),
        Witness(),
        enable_checkpointing=False,
    )
    first, second = witnesses(2)
    assert first["global_step"] == second["global_step"] > 0
    episodes = first["counts"].episodes + second["counts"].episodes
    assert 40 <= episodes < 40 + 2 * 50
    assert first["counts"].env_steps % 100 == 0


def test_one_rank_that_is_asked_to_stop_stops_all() -> None:
    class StopSecond(Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            if trainer.global_rank == 1 and trainer.datamodule.dataset.boundary == 300:
                trainer.datamodule.stop()

    fit_in_ranks(
        2,
        make,
        TargetSync(every_n_grad_steps=10),
        Witness(),
        StopSecond(),
        enable_checkpointing=False,
    )
    assert [witness["counts"].env_steps for witness in witnesses(2)] == [300, 300]


def test_the_run_does_not_depend_on_the_rollouts_length_on_several_ranks_either() -> None:
    runs = []
    for rollout_env_steps in (1, 7, 200):
        fit_in_ranks(
            2,
            partial(make, rollout_env_steps=rollout_env_steps, num_envs=2),
            TargetSync(every_n_env_steps=11),
            Witness(),
            enable_checkpointing=False,
        )
        runs.append([w["parameters"] + [w["rows"]["obs"]] for w in witnesses(2)])
    assert differences(runs[0], runs[1]) == []
    assert differences(runs[0], runs[2]) == []


# Exploration ------------------------------------------------------------------------------------


def test_the_ladder_of_epsilons_is_apex() -> None:
    rng = np.random.default_rng(0)
    actor = EpsilonGreedy(Constant(0.4), 2, rng, ladder(4))
    obs, steps = torch.zeros(4, 1), 20_000
    greedy = partial(torch.full, (4,), 5)
    explored = np.mean([actor(lambda _: greedy(), obs, 0) != 5 for _ in range(steps)], axis=0)
    wanted = [0.4 ** (1 + 7 * i / 3) for i in range(4)]
    np.testing.assert_allclose(explored, wanted, atol=4 * np.sqrt(0.25 / steps))


def test_the_ladder_reaches_over_the_environments_of_all_ranks() -> None:
    def exponents() -> Any:
        data = DQNDataModule("toy/Walk-v0", num_envs=2, epsilon_ladder=True)
        return data._make_collector().actor.exponents.tolist()

    assert np.concatenate(in_ranks(2, exponents)).tolist() == ladder(4).tolist()


# Going on ---------------------------------------------------------------------------------------


def fit_saved(
    number: int, folder: str, total: int, ckpt_path: str | None = None, **settings: Any
) -> None:
    fit_in_ranks(
        number,
        partial(make, total_env_steps=total, eval_every_env_steps=400, **settings),
        TargetSync(every_n_episodes=2),
        EpisodeLog(picture=False),
        FullState(),
        Checkpoints(every_n_env_steps=150, keep_last=2),
        logger=CSVLog(Path(folder)),
        ckpt_path=ckpt_path,
        log_every_n_steps=7,
    )


def saved(folder: str, number: int) -> dict[str, Any]:
    """Everything a run left behind, but for how its rows are cut into files."""
    run = Path(folder)
    last = torch.load(run / "last.ckpt", weights_only=True)
    of_ranks = []
    for rank, name in enumerate(last["full_state"]["files"]):
        side = run / "state" / f"rank-{rank}"
        state = torch.load(side / name, weights_only=True)
        pieces = [torch.load(side / file, weights_only=True) for *_, file in state.pop("pieces")]
        length = state["collector"]["replay"]["time"]
        rows = {column: torch.cat([p[column] for p in pieces])[:length] for column in pieces[0]}
        of_ranks.append({**state, "rows": rows})
        assert {p.name for p in side.glob("[0-9]*")} >= {name}
    assert len(of_ranks) == number
    wanted = ("state_dict", "optimizer_states", "clock", "told", "means", "callbacks")
    return {
        **{key: last[key] for key in wanted},
        "ranks": of_ranks,
        "metrics": (run / "metrics.csv").read_text(),
    }


@pytest.mark.parametrize(
    "kind",
    [{}, {"network": BatchNormTorso}, {"sampler": Prioritized(uniform_share=0.1)}],
    ids=["MLP", "batch normalisation", "priorities"],
)
@pytest.mark.parametrize("half", [400, 430])
def test_a_run_of_two_ranks_in_two_parts_is_the_run_in_one(half: int, kind: Any) -> None:
    more = {"num_envs": 2, "n_step": 3, **kind}
    for folder in ("one", "two"):
        Path(folder).mkdir()
    fit_saved(2, "one", 800, **more)
    fit_saved(2, "two", half, **more)
    fit_saved(2, "two", 800, "two/last.ckpt", **more)
    ours, theirs = saved("one", 2), saved("two", 2)
    assert ours["clock"][2] > 150
    assert not torch.equal(*(rank["rows"]["obs"] for rank in ours["ranks"]))
    assert differences(ours, theirs) == []


def test_another_number_of_ranks_is_refused_or_deals_the_rows_out_anew() -> None:
    for folder in ("run", "more", "fewer", "without"):
        Path(folder).mkdir()
    fit_saved(2, "run", 400)
    refusal = "made by 2 ranks, not 3; --data.reshare_replay=true deals"
    with pytest.raises(Exception, match=refusal):
        fit_saved(3, "more", 800, "run/last.ckpt")
    fit_saved(3, "more", 600, "run/last.ckpt", reshare_replay=True)
    fit_saved(1, "fewer", 600, "run/last.ckpt", reshare_replay=True)
    before = saved("run", 2)
    for folder, number in (("more", 3), ("fewer", 1)):
        after = saved(folder, number)
        assert after["clock"][2] > before["clock"][2]
        seen = torch.cat([of_rank["rows"]["obs"] for of_rank in before["ranks"]])
        kept = torch.cat([of_rank["rows"]["obs"] for of_rank in after["ranks"]])
        known = {tuple(obs) for obs in kept.flatten(0, 1).tolist()}
        assert all(tuple(obs) in known for obs in seen.flatten(0, 1).tolist())


def test_state_of_ranks_that_are_no_more_goes_with_the_last_checkpoint_of_theirs() -> None:
    Path("run").mkdir()
    fit_saved(2, "run", 400)
    assert Path("run/state/rank-1").is_dir()
    fit_saved(1, "run", 450, "run/last.ckpt", reshare_replay=True)
    assert any(Path("run/state/rank-1").iterdir())  # one of the two checkpoints is still of two
    fit_saved(1, "run", 600, "run/last.ckpt")
    assert {path.name for path in Path("run/state").iterdir()} == {"rank-0"}


def test_state_that_one_rank_misses_is_missed_by_all() -> None:
    Path("run").mkdir()
    fit_saved(2, "run", 400)
    (state,) = (Path("run") / "state" / "rank-1").glob("400-*")
    state.unlink()
    with pytest.raises(Exception, match=r"cannot be read.*\(rank 1\); --data.require_replay=false"):
        fit_saved(2, "run", 800, "run/last.ckpt")
    fit_saved(2, "run", 800, "run/last.ckpt", require_replay=False)


def test_predict_is_for_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "count", lambda: 2)
    with pytest.raises(ConfigError, match=r"--trainer\.devices 1"):
        DQNDataModule().setup("predict")
