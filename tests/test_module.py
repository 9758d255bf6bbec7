"""The module in a real Trainer: order of calls, independence of rollouts, Lightning's features."""

import copy
import os
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import Logger
from torch import nn

from dqn_lightning import ConfigError, DQNDataModule, DQNModule, Linear, NonFiniteError
from dqn_lightning.callbacks import EpisodeLog, GradientClamp, TargetSync
from dqn_lightning.networks import MLP
from dqn_lightning.replay import Prioritized
from dqn_lightning.types import Clock

QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


class Recorder(Logger):
    """Keeps what is logged."""

    name, version = "recorder", ""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int, str, float]] = []

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        pass

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        assert step is not None
        self.rows += [(step, name, value) for name, value in metrics.items()]


def make(seed: int = 1, module: dict[str, Any] | None = None, **data: Any) -> tuple[Any, Any]:
    seed_everything(seed, verbose=False)
    settings = {
        "learning_starts_env_steps": 50,
        "batch_size": 16,
        "total_env_steps": 300,
        "epsilon": 0.3,
        "eval_every_env_steps": None,
        "eval_episodes": 2,
        **data,
    }
    datamodule = DQNDataModule("CartPole-v1", **settings)
    network = partial(MLP, widths=(16,))
    options = {"network": network, **(module or {})}
    return DQNModule(datamodule.obs_shape, datamodule.num_actions, **options), datamodule


def train(
    module: DQNModule, datamodule: DQNDataModule, *callbacks: Callback, **trainer: Any
) -> Trainer:
    options = {**QUIET, "max_epochs": -1, "enable_checkpointing": False, **trainer}
    if not any(isinstance(callback, TargetSync) for callback in callbacks):
        callbacks = (*callbacks, TargetSync(every_n_grad_steps=10))
    fitted = Trainer(callbacks=list(callbacks), **options)
    fitted.fit(module, datamodule=datamodule)
    return fitted


def weights(module: DQNModule) -> list[torch.Tensor]:
    return [value.clone() for value in module.state_dict().values()]


def equal(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


class Tape(Callback):
    """Writes down the order in which everything inside rollouts is called."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.stale: list[int] = []

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: DQNModule, batch: Any, batch_idx: int
    ) -> None:
        assert batch_idx == 0
        collector = trainer.datamodule.dataset.collector
        engine = pl_module._engine
        newest = weights(pl_module)

        def act_with_newest(*args: Any) -> None:
            if not equal(weights(pl_module)[:4], newest[:4]):
                self.stale.append(trainer.global_step)

        def remember(*args: Any) -> None:
            newest[:] = weights(pl_module)

        self._tape(pl_module, "_policy", before=act_with_newest)
        self._tape(collector.envs, "step")
        self._tape(collector.replay, "write")
        self._tape(collector.replay, "draw")
        self._tape(engine, "update", after=remember)

    def _tape(
        self,
        owner: Any,
        name: str,
        before: Callable[..., None] | None = None,
        after: Callable[..., None] | None = None,
    ) -> None:
        call = getattr(owner, name)

        def taped(*args: Any, **kwargs: Any) -> Any:
            self.calls.append(name)
            if before is not None:
                before()
            result = call(*args, **kwargs)
            if after is not None:
                after()
            return result

        object.__setattr__(owner, name, taped)


def test_acting_and_learning_alternate_strictly_with_the_newest_weights() -> None:
    module, data = make(epsilon=0.0, learning_starts_env_steps=5, batch_size=2, total_env_steps=40)
    tape = Tape()
    train(module, data, tape)
    calls = " ".join(tape.calls)
    collect = "_policy step write "
    reset = "step write "  # the step in which the environment resets asks nobody, teaches nothing
    learning = calls.replace(collect, "C").replace(reset, "R").replace("draw update", "L")
    steps = learning.replace(" ", "").replace("R", "")
    assert steps == "CCCCCL" + "CL" * 35
    assert tape.stale == []


def run(rollout_env_steps: int, **data: Any) -> tuple[Any, ...]:
    module, datamodule = make(
        rollout_env_steps=rollout_env_steps,
        train_every_env_steps=3,
        updates_per_train=2,
        eval_every_env_steps=130,
        **data,
    )
    recorder = Recorder()
    replays = []

    class KeepReplay(Callback):
        def on_train_end(self, trainer: Trainer, pl_module: DQNModule) -> None:
            replay = trainer.datamodule.dataset.collector.replay
            rows = np.array(replay.rows)
            replays.append(replay.gather(rows[replay.drawable(rows)]))

    sync = TargetSync(every_n_env_steps=17)
    train(
        module,
        datamodule,
        KeepReplay(),
        EpisodeLog(picture=False),
        sync,
        logger=recorder,
        log_every_n_steps=7,
    )
    return weights(module), list(replays[0]), sorted(recorder.rows)


@pytest.mark.parametrize(
    "settings",
    [
        {"num_envs": 1},
        {"num_envs": 3},
        {"num_envs": 2, "sampler": Prioritized(), "n_step": Linear(4, 1, 200), "reward_scale": 0.1},
    ],
    ids=["one", "three", "priorities, n that shrinks"],
)
def test_the_run_is_the_same_for_rollouts_of_any_length(settings: dict[str, Any]) -> None:
    first, replay, logged = run(1_000, **settings)
    assert {name for _, name, _ in logged} >= {
        "train/loss",
        "train/epsilon",
        "train/episode_return",
        "eval/return_mean",
    }
    for rollout_env_steps in (1, 7):
        other, other_replay, other_logged = run(rollout_env_steps, **settings)
        assert equal(first, other)
        assert equal(replay, other_replay)
        assert logged == other_logged


def test_every_row_that_was_learnt_from_has_the_priority_that_came_of_it() -> None:
    module, datamodule = make(sampler=Prioritized(alpha=1.0))
    told: list[tuple[torch.Tensor, torch.Tensor]] = []

    class Listen(Callback):
        def on_train_start(self, trainer: Trainer, pl_module: DQNModule) -> None:
            self.replay = trainer.datamodule.dataset.collector.replay
            set_priorities = self.replay.set_priorities

            def listen(rows: torch.Tensor, priority: torch.Tensor) -> None:
                told.append((rows.clone(), priority.clone()))
                set_priorities(rows, priority)

            self.replay.set_priorities = listen

        def on_train_end(self, trainer: Trainer, pl_module: DQNModule) -> None:
            self.leaves = self.replay.state_dict()["sampler"]["leaves"]

    listen = Listen()
    train(module, datamodule, listen)
    assert len(told) == module.clock.grad_steps > 200
    rows, priority = told[-1]
    wanted = (priority.abs() + 1e-6).double()
    torch.testing.assert_close(listen.leaves[rows], wanted)
    assert len(wanted.unique()) > 5


def test_a_sampler_is_copied_for_each_replay_and_evaluations_look_one_step_ahead() -> None:
    _, datamodule = make(sampler=Prioritized(), n_step=Linear(5, 3, 100), reward_clip=0.5)
    training = datamodule._make_collector()
    evaluation = datamodule.eval_collector(2, 0.0)
    samplers = [training.replay.sampler, evaluation.replay.sampler, datamodule.sampler]
    assert len(set(map(id, samplers))) == 3
    assert (training.replay.n_step, evaluation.replay.n_step) == (5, 1)
    assert (training.reward_clip, evaluation.reward_clip) == (0.5, 0.5)
    datamodule.teardown("test")


class Nudge(Callback):
    """A user's own callback between updates: every so often it changes the weights."""

    def on_train_start(self, trainer: Trainer, pl_module: DQNModule) -> None:
        self.online = pl_module.online
        pl_module.after_update.append(self.nudge)

    def nudge(self, clock: Clock) -> None:
        if clock.grad_steps % 25 == 0:
            with torch.no_grad():
                for parameter in self.online.parameters():
                    parameter.mul_(0.99)


@pytest.mark.parametrize(
    "sync",
    [
        {"every_n_grad_steps": 10},
        {"every_n_grad_steps": 1, "tau": 0.01},
        {"every_n_env_steps": 17, "first": 0},
        {"every_n_episodes": 2},
    ],
)
def test_a_run_is_the_same_with_every_engine(sync: dict[str, Any]) -> None:
    def run(engine: str) -> tuple[Any, ...]:
        adam = partial(torch.optim.AdamW, lr=1e-2, weight_decay=0.1, fused=True)
        schedule = partial(torch.optim.lr_scheduler.StepLR, step_size=40, gamma=0.5)
        settings = {"engine": engine, "optimizer": adam, "lr_scheduler": schedule}
        module, data = make(module=settings, eval_every_env_steps=100)
        recorder, ran = Recorder(), []

        class Ran(Callback):
            def on_train_batch_end(self, *args: Any) -> None:
                ran.append(module._engine.name)

        callbacks = (TargetSync(**sync), GradientClamp(value=0.5, norm=1.0), Nudge(), Ran())
        logging: dict[str, Any] = {"logger": recorder, "log_every_n_steps": 7}
        trainer = train(module, data, *callbacks, EpisodeLog(picture=False), **logging)
        return weights(module), recorder.rows, trainer.global_step, set(ran)

    expected, rows, updates, ran = run("eager")
    assert (updates, ran) == (251, {"eager"})
    for engine in ("traced", "auto"):
        ours, our_rows, our_updates, ran = run(engine)
        assert (our_updates, ran) == (updates, {"traced"})
        assert equal(ours, expected)
        assert our_rows == rows


class Exchange(Callback):
    """Does to the module, between rollouts, what callbacks for other purposes do."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.done = False
        self.seen = 0

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: DQNModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step < 60 or self.done:
            return
        self.done = True
        network, optimizer = pl_module.online, trainer.optimizers[0]
        if self.what == "memory":
            for parameter in network.parameters():
                parameter.data = 0.5 * parameter.data
        if self.what == "target":
            values = {name: 0.5 * value for name, value in network.state_dict().items()}
            pl_module.target.load_state_dict(values, assign=True)
        if self.what == "state":
            optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
            for state in optimizer.state.values():
                state["exp_avg"] = torch.zeros_like(state["exp_avg"])
        if self.what == "hook":
            network.torso.register_forward_hook(self.look)
        if self.what == "copy":
            copy.deepcopy(pl_module.online)

    def look(self, *_: Any) -> None:
        self.seen += 1


@pytest.mark.filterwarnings("ignore:model.engine")
@pytest.mark.parametrize("what", ["memory", "target", "state", "hook", "copy"])
def test_engines_notice_what_callbacks_exchange(what: str) -> None:
    def run(engine: str) -> tuple[Any, ...]:
        adam = partial(torch.optim.Adam, lr=1e-2, fused=True)
        settings = {"engine": engine, "optimizer": adam}
        # The network acts in every step: by memory that is no more, it would act otherwise.
        module, data = make(module=settings, rollout_env_steps=10, epsilon=0.0)
        exchange = Exchange(what)
        train(module, data, exchange)
        assert exchange.done
        return weights(module), exchange.seen > 100

    expected, seen = run("eager")
    ours, our_seen = run("auto")
    assert equal(ours, expected)
    assert seen == our_seen == (what == "hook")


def test_what_training_changes_in_the_process_is_put_back() -> None:
    class Fails(Callback):
        def on_train_batch_end(self, *args: Any) -> None:
            raise RuntimeError("enough")

    before = dict(os.environ)
    module, data = make()
    with pytest.raises(RuntimeError, match="enough"):
        train(module, data, Fails())
    assert dict(os.environ) == before
    copy.deepcopy(module.state_dict())


def test_an_engine_that_cannot_be_is_refused() -> None:
    module, data = make(module={"engine": "cudagraph"})
    with pytest.raises(ConfigError, match=r"model\.engine: cudagraph is for cuda, not cpu"):
        train(module, data)


def test_lightning_counts_updates() -> None:
    module, data = make(train_every_env_steps=2)
    trainer = train(module, data)
    assert trainer.global_step == module.clock.grad_steps == 126  # at 50, 52, … 300
    assert module.clock.env_steps == 300


def test_fast_dev_run_makes_one_update_and_one_evaluation() -> None:
    module, data = make(learning_starts_env_steps=10_000)
    before = weights(module)
    trainer = train(module, data, fast_dev_run=True)
    assert trainer.global_step == 1
    assert not equal(before, weights(module))
    assert module.summary is not None


def test_max_steps_are_updates_and_are_not_passed() -> None:
    module, data = make()
    trainer = train(module, data, max_steps=33)
    assert trainer.global_step == 33
    assert module.clock.env_steps == 50 + 32


def test_evaluations_come_when_they_are_due_and_only_then() -> None:
    recorder = Recorder()
    module, data = make(eval_every_env_steps=100, rollout_env_steps=30)
    train(module, data, logger=recorder)
    assert [step for step, name, _ in recorder.rows if name == "eval/return_mean"] == [
        100,
        200,
        300,
    ]


def test_limit_val_batches_switches_evaluations_off() -> None:
    module, data = make(eval_every_env_steps=100)
    train(module, data, limit_val_batches=0)
    assert module.summary is None


def test_early_stopping_watches_evaluations() -> None:
    module, data = make(eval_every_env_steps=60, total_env_steps=3_000)
    stop = EarlyStopping("eval/return_mean", mode="max", stopping_threshold=0.0)
    train(module, data, stop)
    assert module.clock.env_steps == 60


def test_lightnings_own_checkpoints_watch_evaluations(tmp_path: Any) -> None:
    module, data = make(eval_every_env_steps=60)
    keep = ModelCheckpoint(tmp_path / "kept", monitor="eval/return_mean", mode="max")
    train(module, data, keep, enable_checkpointing=True)
    assert keep.best_model_score is not None
    assert list((tmp_path / "kept").glob("*.ckpt"))


def test_learning_rates_are_stepped_after_every_update_and_monitored() -> None:
    recorder = Recorder()
    schedule = partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5)
    module, data = make(module={"lr_scheduler": schedule}, rollout_env_steps=1)
    train(
        module, data, LearningRateMonitor("step"), max_steps=3, logger=recorder, log_every_n_steps=1
    )
    assert module.optimizers().param_groups[0]["lr"] == pytest.approx(1e-3 * 0.5**3)
    assert any(name == "lr-Adam" for _, name, _ in recorder.rows)


def test_bf16_mixed_learns_with_weights_that_move() -> None:
    """Autocast's cache would keep the casts of the first weights for a whole rollout."""
    losses = {}
    for precision in ("bf16-mixed", "32-true"):
        recorder = Recorder()
        module, data = make(rollout_env_steps=1_000, epsilon=1.0)
        train(module, data, precision=precision, logger=recorder, log_every_n_steps=1)
        values = [value for _, name, value in recorder.rows if name == "train/loss"]
        losses[precision] = torch.tensor(values)
    assert len(losses["bf16-mixed"]) == 251
    torch.testing.assert_close(losses["bf16-mixed"], losses["32-true"], rtol=0.1, atol=0.05)


def test_16_mixed_is_refused() -> None:
    module, _ = make()
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    module._trainer = trainer
    trainer._accelerator_connector.precision_plugin.precision = "16-mixed"
    with pytest.raises(ConfigError, match="use bf16-mixed"):
        module.setup("fit")


def test_a_plateau_scheduler_is_refused() -> None:
    module, data = make(module={"lr_scheduler": torch.optim.lr_scheduler.ReduceLROnPlateau})
    with pytest.raises(ConfigError, match="ReduceLROnPlateau"):
        train(module, data)


def test_a_loss_that_is_not_finite_stops_the_run_with_the_step() -> None:
    module, data = make(module={"optimizer": partial(torch.optim.SGD, lr=1e30)})
    with pytest.raises(NonFiniteError, match=r"at update \d+, environment step \d+"):
        train(module, data, log_every_n_steps=5)


def test_a_forgotten_target_sync_is_warned_of() -> None:
    module, data = make()
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        max_steps=1,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with pytest.warns(UserWarning, match="add a TargetSync callback"):
        trainer.fit(module, datamodule=data)


class Features(nn.Module):
    """A user's network."""

    def __init__(self, obs_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(*obs_shape, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.ReLU()
        )

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        return self.layers(obs)


def test_acting_uses_eval_mode_and_learning_train_mode() -> None:
    module, data = make(module={"network": Features})
    trainer = train(module, data)
    obs = torch.randn(5, 4)
    assert torch.equal(module.q_values(obs), module.q_values(obs))  # no dropout
    assert module.online.torso.layers[1].num_batches_tracked == trainer.global_step
    assert module.target.torso.layers[1].num_batches_tracked > 0  # synced, buffers too


def test_acting_in_training_mode_moves_statistics_and_evaluating_does_not() -> None:
    def trained(**settings: Any) -> tuple[DQNModule, int]:
        options = {"network": Features, "act_in_train_mode": True}
        module, data = make(module=options, num_envs=4, **settings)
        return module, train(module, data).global_step

    exploring, updates = trained(epsilon=1.0)
    assert exploring.online.torso.layers[1].num_batches_tracked == updates  # nobody asked it
    acting, updates = trained(epsilon=0.0)
    moved = acting.online.torso.layers[1].num_batches_tracked - updates
    assert 70 < moved <= 85  # once per step of the four environments, boundaries included
    evaluated, _ = trained(epsilon=0.0, eval_every_env_steps=100)
    assert equal(weights(evaluated)[:9], weights(acting)[:9])


@pytest.mark.parametrize("target_acts", [False, True])
def test_the_target_network_acts_on_request(target_acts: bool) -> None:
    options = {"act_with_target": target_acts, "optimizer": partial(torch.optim.SGD, lr=1.0)}
    module, data = make(module=options, epsilon=0.0)
    first = copy.deepcopy(module.target)
    rows: list[torch.Tensor] = []

    class Watch(Callback):
        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            replay = trainer.datamodule.dataset.collector.replay
            every = np.arange(len(replay.rows))
            batch = replay.gather(every[replay.drawable(every)])
            rows.extend([batch.obs, batch.action])

    train(module, data, Watch(), TargetSync(every_n_grad_steps=10_000))  # the first ones for good
    obs, action = rows
    assert torch.equal(first(obs).q_values.argmax(1), action) is target_acts
    acting = module.target if target_acts else module.online
    assert torch.equal(module.q_values(obs), acting(obs).q_values)
    assert torch.equal(module(obs).q_values, acting(obs).q_values)
    assert not torch.equal(module.online(obs).q_values, module.target(obs).q_values)


def test_a_target_network_that_would_act_in_training_mode_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\.act_in_train_mode: is for the online network"):
        make(module={"act_in_train_mode": True, "act_with_target": True})


def test_a_checkpoint_gives_a_network_that_acts(tmp_path: Any) -> None:
    module, data = make()
    trainer = train(module, data)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    torch.load(tmp_path / "a.ckpt", weights_only=True)  # nothing but tensors and plain values
    network = partial(MLP, widths=(16,))
    loaded = DQNModule.load_from_checkpoint(tmp_path / "a.ckpt", network=network)
    obs = torch.randn(7, 4)
    assert torch.equal(loaded.act(obs), module.act(obs))
    assert loaded(obs).q_values.shape == (7, 2)


def test_a_run_goes_on_from_a_checkpoint_and_counts_on(tmp_path: Any) -> None:
    module, data = make()
    train(module, data).save_checkpoint(tmp_path / "a.ckpt")

    def go_on(**settings: Any) -> tuple[DQNModule, Trainer]:
        module, data = make(total_env_steps=600, **settings)
        trainer = Trainer(
            accelerator="cpu",
            logger=False,
            max_epochs=-1,
            enable_progress_bar=False,
            enable_checkpointing=False,
            callbacks=[TargetSync(every_n_grad_steps=10)],
        )
        trainer.fit(module, datamodule=data, ckpt_path=tmp_path / "a.ckpt")
        return module, trainer

    with pytest.raises(ConfigError, match="only where a FullState callback saved"):
        go_on()
    module, trainer = go_on(require_replay=False)
    assert module.clock.env_steps == 600
    assert trainer.global_step == 251 + 251  # the replay is filled for 50 steps before learning


def test_test_and_validate_and_predict_need_no_training() -> None:
    module, data = make(test_episodes=5)
    trainer = Trainer(**QUIET)
    (result,) = trainer.test(module, datamodule=data, verbose=False)
    assert result["test/episodes"] == 5
    (result,) = trainer.validate(module, datamodule=data, verbose=False)
    assert result["eval/episodes"] == 2
    episodes = trainer.predict(module, datamodule=data)
    assert len(episodes) == 2
    for episode in episodes:
        assert len(episode["obs"]) == len(episode["action"]) == episode["episode_return"]
        torch.testing.assert_close(episode["q_values"], module.q_values(episode["obs"]))


def test_predict_takes_a_file_of_observations(tmp_path: Any) -> None:
    obs = torch.randn(9, 4)
    torch.save(obs, tmp_path / "obs.pt")
    module, data = make(observations=str(tmp_path / "obs.pt"))
    trainer = Trainer(**QUIET)
    (prediction,) = trainer.predict(module, datamodule=data)
    assert torch.equal(prediction["action"], module.act(obs))
    torch.save(obs[:, :3], tmp_path / "obs.pt")
    with pytest.raises(ConfigError, match=r"data\.observations: .* wanted \[number, 4\]"):
        trainer.predict(module, datamodule=data)


def test_evaluations_do_not_disturb_training() -> None:
    runs = []
    for every in (None, 40):
        module, data = make(eval_every_env_steps=every)
        train(module, data)
        runs.append(weights(module))
    assert equal(*runs)


def clocks_of(**settings: Any) -> list[Clock]:
    """What `after_update` is told in a run."""
    clocks: list[Clock] = []
    module, data = make(**settings)
    module.after_update.append(clocks.append)
    train(module, data)
    return clocks


def test_after_update_is_called_between_updates_with_the_clock() -> None:
    clocks = clocks_of(train_every_env_steps=10, learning_starts_env_steps=20, total_env_steps=50)
    env_steps = [clock.env_steps for clock in clocks]
    assert env_steps == [19, 20, 29, 30, 39, 40, 49, 50]
    assert [clock.grad_steps for clock in clocks] == [0, 1, 1, 2, 2, 3, 3, 4]


def test_the_clock_never_goes_back_where_several_updates_fall_on_one_step() -> None:
    clocks = clocks_of(train_every_env_steps=10, updates_per_train=3, total_env_steps=70)
    env_steps = [clock.env_steps for clock in clocks]
    assert env_steps == [49, 50, 50, 50, 59, 60, 60, 60, 69, 70, 70, 70]


def test_gradients_are_clamped_in_every_update() -> None:
    module, data = make(module={"optimizer": partial(torch.optim.SGD, lr=1.0)}, total_env_steps=51)
    before = weights(module)
    train(module, data, GradientClamp(value=1e-6))
    moved = max((a - b).abs().max() for a, b in zip(before, weights(module), strict=True))
    assert 0 < moved <= 2e-6 + 1e-7
