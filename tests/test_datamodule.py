"""The datamodule: environments given in different ways, seeds, and what one fit leaves behind."""

import random
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.wrappers import FlattenObservation
from lightning.pytorch import Callback, Trainer, seed_everything

from dqn_lightning import (
    ConfigError,
    DQNDataModule,
    DQNModule,
    EnvSettings,
    EvaluationSettings,
    Linear,
    ReplaySettings,
    distributed,
)
from dqn_lightning.callbacks import TargetSync
from dqn_lightning.envs import as_env_settings
from dqn_lightning.replay import Prioritized
from dqn_lightning.types import RunProgress
from tests.helpers import toy
from tests.helpers.settings import make_datamodule
from tests.helpers.training import QUIET, Recorder, make, train, weights

# Environments ---------------------------------------------------------------------------------


def make_walk(**kwargs: Any) -> gym.Env[Any, Any]:
    return toy.Walk(**kwargs)


@pytest.mark.parametrize(
    ("env", "env_class"),
    [
        ("toy/Walk-v0", toy.Walk),
        (toy.Walk, toy.Walk),
        (make_walk, toy.Walk),
        (lambda: toy.Chance(), toy.Chance),
        (gym.make("toy/Walk-v0"), toy.Walk),
        (EnvSettings(id="toy/Walk-v0"), toy.Walk),
    ],
    ids=["id", "class", "factory", "lambda", "environment", "settings"],
)
def test_an_environment_can_be_given_as(env: Any, env_class: type) -> None:
    datamodule = DQNDataModule(env)
    assert datamodule.num_actions == 3
    assert isinstance(datamodule.collectors.env_factory.make().unwrapped, env_class)


def test_a_given_environment_keeps_its_arguments() -> None:
    env = gym.make("toy/Walk-v0", fail_at=7, max_episode_steps=5)
    settings = as_env_settings(env)
    assert settings.kwargs == {"fail_at": 7, "max_episode_steps": 5}
    again = DQNDataModule(env).collectors.env_factory.make()
    assert (again.unwrapped.fail_at, again.spec.max_episode_steps) == (7, 5)


def test_a_given_environment_without_a_time_limit_gets_none() -> None:
    env = gym.make("CartPole-v1", max_episode_steps=-1)
    assert DQNDataModule(env).collectors.env_factory.make().spec.max_episode_steps is None


@pytest.mark.parametrize(
    ("env", "words"),
    [
        (toy.Walk(), "spec"),
        (FlattenObservation(gym.make("toy/Walk-v0")), "wrapped"),
        (3, "3"),
        (None, "None"),
        ("toy/Missing-v0", "toy/Missing"),
    ],
    ids=["without a spec", "wrapped", "number", "None", "unknown id"],
)
def test_other_environments_are_refused(env: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=rf"data\.env.*{words}"):
        DQNDataModule(env)


def test_an_environment_with_an_unregistered_spec_is_refused() -> None:
    env = gym.make(gym.envs.registration.EnvSpec("toy/Unregistered-v0", toy.Walk))
    with pytest.raises(ConfigError, match=r"data\.env: .*spec"):
        DQNDataModule(env)


def test_factories_of_the_same_name_do_not_replace_each_other() -> None:
    def named_make(env_class: type) -> Callable[[], gym.Env[Any, Any]]:
        def make() -> gym.Env[Any, Any]:
            return env_class()

        return make

    walk, chance = named_make(toy.Walk), named_make(toy.Chance)
    datamodules = [DQNDataModule(make) for make in (walk, chance, walk)]
    envs = [datamodule.collectors.env_factory.make().unwrapped for datamodule in datamodules]
    assert list(map(type, envs)) == [toy.Walk, toy.Chance, toy.Walk]
    assert datamodules[0].env.id == datamodules[2].env.id


def test_a_class_does_not_replace_a_registered_environment_of_the_same_name() -> None:
    class MountainCar(toy.Walk):
        pass

    MountainCar.__qualname__ = "MountainCar"
    assert "MountainCar-v0" in gym.registry
    settings = as_env_settings(MountainCar)
    assert gym.registry[settings.id].entry_point is MountainCar
    assert gym.registry["MountainCar-v0"].entry_point is not MountainCar


# Settings and collectors ------------------------------------------------------------------------


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"data\.seed: .*-1"):
        DQNDataModule(seed=-1)


def test_a_capacity_that_is_too_small_is_refused_at_startup() -> None:
    with pytest.raises(ConfigError, match=r"data\.replay\.capacity: 8 "):
        DQNDataModule(
            EnvSettings(num_envs=4), replay=ReplaySettings(capacity=8, batch_size=1, n_step=3)
        )


def test_every_replay_has_its_own_sampler_and_evaluations_use_one_step_returns() -> None:
    datamodule = make_datamodule(sampler=Prioritized(), n_step=Linear(5, 3, 100), reward_clip=0.5)
    training = datamodule.collectors.training(torch.device("cpu"), 0, RunProgress())
    evaluation = datamodule.eval_collector(2, 0.0)
    samplers = [training.replay.sampler, evaluation.replay.sampler, datamodule.replay.sampler]
    assert len(set(map(id, samplers))) == 3
    assert (training.replay.n_step, evaluation.replay.n_step) == (5, 1)
    assert (training.reward_clip, evaluation.reward_clip) == (0.5, 0.5)
    datamodule.teardown("test")


def test_evaluations_of_many_episodes_use_at_most_twenty_environments() -> None:
    datamodule = DQNDataModule(evaluation=EvaluationSettings(episodes=50, test_episodes=3))
    (evaluation,) = datamodule.val_dataloader()
    (test,) = datamodule.test_dataloader()
    assert (evaluation.num_envs, evaluation.episodes) == (20, 50)
    assert (test.num_envs, test.episodes) == (3, 3)


@pytest.mark.parametrize("flag", ["min_steps", "min_epochs"])
def test_a_minimum_length_of_training_is_refused(flag: str) -> None:
    with pytest.raises(ConfigError, match=rf"trainer\.{flag}: .*data\.schedule\.total_env_steps"):
        train(*make(), **{flag: 5})


def test_an_evaluation_ends_when_the_time_of_the_run_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started: list[Any] = []

    class ManualTimer(threading.Timer):
        def start(self) -> None:
            started.append(self)

        def join(self, timeout: float | None = None) -> None:
            """Return at once, because the thread is never started."""

    class EndTimeInEvaluation(Callback):
        ends: ClassVar[list[Any]] = []

        def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
            threading.Thread(target=lambda: (time.sleep(0.1), started[-1].function())).start()

        def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
            self.ends.append((pl_module.summary, dict(trainer.callback_metrics)))

    monkeypatch.setattr(threading, "Timer", ManualTimer)
    logger = Recorder()
    settings = {"eval_every_env_steps": 100, "eval_max_steps": 10**9}
    datamodule = make_datamodule("toy/Endless-v0", learning_starts_env_steps=50, **settings)
    module = DQNModule(datamodule.obs_shape, datamodule.num_actions)
    limits = {"max_time": {"hours": 1}, "num_sanity_val_steps": 0}
    train(module, datamodule, EndTimeInEvaluation(), logger=logger, **limits)
    assert [round(timer.interval, -1) for timer in started] == [3_600]
    assert started[0].finished.is_set()  # canceled
    assert EndTimeInEvaluation.ends == [(None, {})]
    assert not [name for _, name, _ in logger.rows if name.startswith("eval/")]
    assert datamodule.progress.env_steps == 100
    assert datamodule.progress.evaluation_pending


def test_training_ends_when_the_time_of_the_run_is_over() -> None:
    module, datamodule = make(total_env_steps=None, eval_every_env_steps=None)
    datamodule.schedule = replace(datamodule.schedule, rollout_env_steps=10**9)
    train(module, datamodule, max_time={"seconds": 1})
    assert datamodule.progress.env_steps > 0


def test_a_run_without_evaluations_has_no_sanity_check() -> None:
    class CountSanityChecks(Callback):
        count = 0

        def on_sanity_check_start(self, *_: Any) -> None:
            self.count += 1

    counts = []
    for every in (None, 100):
        module, datamodule = make(eval_every_env_steps=every, total_env_steps=60)
        callback = CountSanityChecks()
        train(module, datamodule, callback)
        counts.append(callback.count)
    assert counts == [0, 1]


@pytest.mark.parametrize(
    "settings",
    [
        {"learning_starts_env_steps": 40},
        {"learning_starts_env_steps": 40, "total_episodes": 5},
        {"learning_starts_env_steps": 0, "train_every_env_steps": 40},
        {"learning_starts_env_steps": 0, "n_step": 40},
    ],
)
def test_a_run_that_ends_before_its_first_update_is_refused(settings: dict[str, int]) -> None:
    words = (
        r"data\.schedule\.total_env_steps: .* step 30, before its first update at step 40 "
        r"\(see data\.schedule\.learning_starts_env_steps\)"
    )
    with pytest.raises(ConfigError, match=words):
        train(*make(total_env_steps=30, **settings))


@pytest.mark.parametrize(
    ("settings", "trainer"),
    [
        ({"learning_starts_env_steps": 300}, {}),
        ({"total_env_steps": None, "total_episodes": 2, "learning_starts_env_steps": 9_000}, {}),
        ({"learning_starts_env_steps": 301}, {"fast_dev_run": True}),
    ],
    ids=["an update at the last step", "limited by episodes", "fast_dev_run"],
)
def test_a_short_run_is_accepted_with(settings: dict[str, Any], trainer: dict[str, Any]) -> None:
    module, datamodule = make(**settings)
    train(module, datamodule, **trainer)
    assert datamodule.progress.env_steps > 0


def test_a_resumed_run_that_is_over_does_not_need_an_update(tmp_path: Path) -> None:
    module, datamodule = make()
    train(module, datamodule).save_checkpoint(tmp_path / "a.ckpt")
    module, datamodule = make(require_replay=False, learning_starts_env_steps=400)
    callbacks, options = [TargetSync(every_n_grad_steps=10)], {**QUIET, "max_epochs": -1}
    trainer = Trainer(callbacks=callbacks, enable_checkpointing=False, **options)  # type: ignore[arg-type]
    trainer.fit(module, datamodule=datamodule, ckpt_path=tmp_path / "a.ckpt")
    assert datamodule.progress.env_steps == 300
    datamodule.schedule = replace(datamodule.schedule, total_env_steps=350)
    with pytest.raises(ConfigError, match="step 350, before its first update at step 400"):
        trainer.fit(module, datamodule=datamodule, ckpt_path=tmp_path / "a.ckpt")


# What one fit leaves behind ---------------------------------------------------------------------


class StateAtStart(Callback):
    """Records everything that counts a run's progress when training starts."""

    def __init__(self) -> None:
        self.states: list[dict[str, Any]] = []

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        datamodule = trainer.datamodule
        self.states.append(
            {
                "global_step": trainer.global_step,
                "epoch": trainer.current_epoch,
                "progress": {**pl_module.progress.state_dict(), "run_id": ""},
                "run_id": pl_module.progress.run_id,
                "shared": pl_module.progress
                is datamodule.progress
                is datamodule.dataset.collector.progress,
                "rows": len(datamodule.dataset.collector.replay.rows),
                "stop_requested": datamodule.stop_requested,
                "means": pl_module._means.state_dict(),
                "summary": pl_module.summary,
                "updating_s": pl_module.updating_s,
            }
        )


def assert_second_fit_starts_from_zero(start: StateAtStart) -> None:
    first, second = start.states
    assert first.pop("run_id") != second.pop("run_id")
    assert first["shared"]
    assert first["global_step"] == first["epoch"] == first["progress"]["env_steps"] == 0
    assert second == first


@pytest.mark.parametrize("limit", [{}, {"max_steps": 33}, {"max_epochs": 1}])
def test_a_second_fit_with_the_same_trainer_starts_a_new_run(limit: dict[str, int]) -> None:
    module, datamodule = make(eval_every_env_steps=100)
    start = StateAtStart()
    trainer = train(module, datamodule, start, num_sanity_val_steps=0, **limit)
    first = trainer.global_step, datamodule.progress.env_steps
    trainer.fit(module, datamodule=datamodule)
    assert_second_fit_starts_from_zero(start)
    assert (trainer.global_step, datamodule.progress.env_steps) == first


def test_a_second_fit_with_another_trainer_starts_a_new_run() -> None:
    module, datamodule = make(eval_every_env_steps=100)
    start = StateAtStart()
    for _ in range(2):
        trainer = train(module, datamodule, start, num_sanity_val_steps=0)
        assert trainer.global_step == module.progress.grad_steps == 251
    assert_second_fit_starts_from_zero(start)


def test_a_second_fit_with_the_same_trainer_logs_the_same_steps_again() -> None:
    module, datamodule = make(eval_every_env_steps=100)
    logger = Recorder()
    trainer = train(module, datamodule, logger=logger, log_every_n_steps=50)
    steps = [(step, name) for step, name, _ in logger.rows]
    logger.rows.clear()
    trainer.fit(module, datamodule=datamodule)
    assert [(step, name) for step, name, _ in logger.rows] == steps


def test_a_fit_after_a_failed_fit_starts_a_new_run() -> None:
    class FailOnce(Callback):
        failed = False

        def on_train_batch_end(self, *_: Any) -> None:
            if not self.failed:
                self.failed = True
                raise RuntimeError("interrupted")

    module, datamodule = make(rollout_env_steps=70)
    start, fail_once = StateAtStart(), FailOnce()
    options = {**QUIET, "max_epochs": -1, "num_sanity_val_steps": 0, "enable_checkpointing": False}
    trainer = Trainer(callbacks=[start, fail_once], **options)
    module.after_update.append(lambda clock: None)
    with pytest.raises(RuntimeError, match="interrupted"):
        trainer.fit(module, datamodule=datamodule)
    assert datamodule.progress.env_steps == 70
    assert datamodule.dataset is None
    trainer.fit(module, datamodule=datamodule)
    assert_second_fit_starts_from_zero(start)
    assert trainer.global_step == 251


def test_a_fit_after_a_stopped_fit_is_not_stopped() -> None:
    class Stop(Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            trainer.datamodule.stop()

    module, datamodule = make(rollout_env_steps=70)
    train(module, datamodule, Stop())
    assert datamodule.progress.env_steps == 70
    assert not datamodule.stop_requested
    train(module, datamodule)
    assert datamodule.progress.env_steps == 300


def test_a_fit_after_a_stopped_validation_is_not_stopped() -> None:
    class Stop(Callback):
        def on_validation_start(self, trainer: Any, *_: Any) -> None:
            trainer.datamodule.stop()

    module, datamodule = make()
    Trainer(callbacks=[Stop()], **QUIET).validate(module, datamodule=datamodule, verbose=False)
    assert module.summary is None
    train(module, datamodule)
    assert datamodule.progress.env_steps == 300


def test_a_fit_without_a_checkpoint_after_a_resumed_fit_starts_a_new_run(tmp_path: Path) -> None:
    module, datamodule = make(require_replay=False)
    trainer = train(module, datamodule)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    trainer.fit(module, datamodule=datamodule, ckpt_path=tmp_path / "a.ckpt")
    assert datamodule.progress.env_steps == 300  # the run was over
    trainer.fit(module, datamodule=datamodule)
    assert (datamodule.progress.env_steps, trainer.global_step) == (300, 251)


def test_a_validation_between_two_fits_does_not_replace_a_pending_evaluation() -> None:
    class StopInEvaluation(Callback):
        def on_validation_start(self, trainer: Any, *_: Any) -> None:
            trainer.datamodule.stop()

    module, datamodule = make(eval_every_env_steps=100)
    train(module, datamodule, StopInEvaluation(), num_sanity_val_steps=0)
    assert datamodule.progress.evaluation_pending
    Trainer(**QUIET).validate(module, datamodule=datamodule, verbose=False)
    assert module.summary is not None
    assert datamodule.progress.evaluation_pending


# Filters of warnings ----------------------------------------------------------------------------


class Fail(Callback):
    def on_train_batch_end(self, *_: Any) -> None:
        raise RuntimeError("on purpose")

    on_validation_end = on_train_batch_end
    on_test_end = on_train_batch_end


def run_stage(stage: str, *callbacks: Callback) -> None:
    module, datamodule = make()
    if stage == "fit":
        train(module, datamodule, *callbacks)
    else:
        trainer = Trainer(callbacks=list(callbacks), **QUIET)
        getattr(trainer, stage)(module, datamodule=datamodule)


@pytest.mark.parametrize("stage", ["fit", "validate", "test", "predict"])
def test_filters_of_warnings_are_restored_after(stage: str) -> None:
    before = list(warnings.filters)
    run_stage(stage)
    assert warnings.filters == before


@pytest.mark.parametrize("stage", ["fit", "validate", "test"])
def test_filters_of_warnings_are_restored_after_a_failure_in(stage: str) -> None:
    before = list(warnings.filters)
    with pytest.raises(RuntimeError, match="on purpose"):
        run_stage(stage, Fail())
    assert warnings.filters == before


def test_filters_of_warnings_are_restored_if_setup_fails() -> None:
    before = list(warnings.filters)
    with pytest.raises(ConfigError):
        train(*make(), min_steps=5)
    assert warnings.filters == before


def test_filters_of_warnings_are_restored_if_an_environment_cannot_be_closed() -> None:
    class Unclosable(toy.Walk):
        def close(self) -> None:
            raise OSError("cannot be closed")

    before = list(warnings.filters)
    datamodule = DQNDataModule(toy.Walk)
    datamodule.setup("validate")
    datamodule.collectors._open_environments.callback(Unclosable().close)
    with pytest.raises(OSError, match="cannot be closed"):
        datamodule.teardown("validate")
    assert warnings.filters == before


# Seeds of ranks ---------------------------------------------------------------------------------


def simulate_rank(monkeypatch: pytest.MonkeyPatch, rank: int, world_size: int = 2) -> None:
    """Make this process believe that it is one of several ranks, without starting others."""
    monkeypatch.setattr(distributed, "rank", lambda: rank)
    monkeypatch.setattr(distributed, "world_size", lambda: world_size)


def random_streams(seed: int) -> dict[str, Any]:
    """Return the first numbers of every random stream of a rank after `setup`."""
    module, datamodule = make(seed, module={"noisy": True})
    trainer = Trainer(max_epochs=-1, enable_checkpointing=False, **QUIET)
    trainer.datamodule = datamodule  # type: ignore[attr-defined]
    datamodule.trainer = module.trainer = trainer
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # two ranks need a strategy for several devices
        datamodule.setup("fit")
        module.setup("fit")
    collector = datamodule.dataset.collector
    streams = {
        "module.rng": torch.randint(2**40, (3,), generator=module.rng).tolist(),
        "actor": collector.actor.rng.random(3).tolist(),
        "sampler": collector.replay.rng.random(3).tolist(),
        "envs": collector.replay.current_obs().tolist(),
        "torch": torch.randint(2**40, (3,)).tolist(),
        "numpy": np.random.rand(3).tolist(),
        "random": [random.random() for _ in range(3)],
    }
    datamodule.teardown("fit")
    return streams


def test_ranks_of_runs_with_neighboring_seeds_share_no_random_stream(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    streams = []
    for seed, rank in [(1, 0), (1, 1), (2, 0), (2, 1), (3, 0)]:
        with monkeypatch.context() as patch:
            simulate_rank(patch, rank)
            streams.append(random_streams(seed))
    for name in streams[0]:
        values = [str(stream[name]) for stream in streams]
        assert len(set(values)) == len(values), name


def test_rank_zero_has_the_random_streams_of_a_single_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    single = random_streams(1)
    simulate_rank(monkeypatch, rank=0)
    first_of_two = random_streams(1)
    for name in ("module.rng", "actor", "sampler", "envs"):
        assert first_of_two[name] == single[name], name


def test_the_seed_of_a_rank_is_derived_from_the_seed_of_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seeds = {}
    for rank in range(3):
        simulate_rank(monkeypatch, rank, world_size=3)
        seeds[rank] = [distributed.rank_seed(seed) for seed in range(1, 4)]
    assert seeds[0] == [1, 2, 3]
    assert len({*seeds[0], *seeds[1], *seeds[2]}) == 9


def test_a_fit_with_the_same_seed_is_repeated_exactly() -> None:
    results = []
    for _ in range(2):
        module, datamodule = make(seed=5)
        train(module, datamodule)
        results.append(weights(module))
    assert all(map(torch.equal, *results))


def test_the_seed_of_the_data_can_differ_from_the_seed_of_the_weights() -> None:
    observations = []
    for seed in (3, 4):
        seed_everything(1, verbose=False)
        datamodule = make_datamodule(seed=seed)
        collector = datamodule.collectors.training(
            torch.device("cpu"), datamodule._run_seed(), RunProgress()
        )
        observations.append(collector.replay.current_obs().tolist())
        datamodule.teardown("test")
    assert observations[0] != observations[1]
