"""DQNModule in a real Trainer: the order of calls, rollout lengths, and Lightning's features."""

import copy
import os
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint
from torch import nn

from dqn_lightning import ConfigError, DQNModule, Linear, NonFiniteError
from dqn_lightning.callbacks import EpisodeLog, GradientClamp, TargetSync
from dqn_lightning.networks import MLP
from dqn_lightning.replay import Prioritized
from dqn_lightning.types import Clock
from tests.helpers.training import QUIET, Recorder, equal, make, train, weights


class CallRecorder(Callback):
    """Records the order of calls inside rollouts.

    Attributes:
        calls: Names of the called methods.
        stale_at: Gradient steps at which the policy acted with other weights than the newest ones.
    """

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.stale_at: list[int] = []

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: DQNModule, batch: Any, batch_idx: int
    ) -> None:
        assert batch_idx == 0
        collector = trainer.datamodule.dataset.collector
        engine = pl_module._engine
        newest = weights(pl_module)

        def compare_weights() -> None:
            if not equal(weights(pl_module)[:4], newest[:4]):
                self.stale_at.append(trainer.global_step)

        def remember_weights() -> None:
            newest[:] = weights(pl_module)

        self._record(pl_module, "_policy", before=compare_weights)
        self._record(collector.envs, "step")
        self._record(collector.replay, "write")
        self._record(collector.replay, "sample")
        self._record(engine, "update", after=remember_weights)

    def _record(
        self,
        owner: Any,
        name: str,
        before: Callable[..., None] | None = None,
        after: Callable[..., None] | None = None,
    ) -> None:
        call = getattr(owner, name)

        def recorded(*args: Any, **kwargs: Any) -> Any:
            self.calls.append(name)
            if before is not None:
                before()
            result = call(*args, **kwargs)
            if after is not None:
                after()
            return result

        object.__setattr__(owner, name, recorded)


def test_acting_and_learning_alternate_strictly_with_the_newest_weights() -> None:
    module, data = make(epsilon=0.0, learning_starts_env_steps=5, batch_size=2, total_env_steps=40)
    recorder = CallRecorder()
    train(module, data, recorder)
    calls = " ".join(recorder.calls)
    collect = "_policy step write "
    reset = "step write "  # in a reset row the policy does not act, and no update is due
    learning = calls.replace(collect, "C").replace(reset, "R").replace("sample update", "L")
    steps = learning.replace(" ", "").replace("R", "")
    assert steps == "CCCCCL" + "CL" * 35
    assert recorder.stale_at == []


def run_with_rollouts_of(rollout_env_steps: int, **data: Any) -> tuple[Any, ...]:
    """Return the final weights, the transitions in the replay, and everything that was logged."""
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
            replays.append(replay.gather(rows[replay.samplable(rows)]))

    sync = TargetSync(every_n_env_steps=17)
    train(
        module,
        datamodule,
        KeepReplay(),
        EpisodeLog(save_plots=False),
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
    ids=["one", "three", "priorities and decreasing n"],
)
def test_the_length_of_rollouts_does_not_change_the_run(settings: dict[str, Any]) -> None:
    first, replay, logged = run_with_rollouts_of(1_000, **settings)
    assert {name for _, name, _ in logged} >= {
        "train/loss",
        "train/epsilon",
        "train/episode_return",
        "eval/return_mean",
    }
    for rollout_env_steps in (1, 7):
        other, other_replay, other_logged = run_with_rollouts_of(rollout_env_steps, **settings)
        assert equal(first, other)
        assert equal(replay, other_replay)
        assert logged == other_logged


def test_rows_of_a_batch_get_the_priorities_of_its_update() -> None:
    module, datamodule = make(sampler=Prioritized(alpha=1.0))
    updates: list[tuple[torch.Tensor, torch.Tensor]] = []

    class RecordPriorities(Callback):
        def on_train_start(self, trainer: Trainer, pl_module: DQNModule) -> None:
            self.replay = trainer.datamodule.dataset.collector.replay
            set_priorities = self.replay.set_priorities

            def recorded(rows: torch.Tensor, priority: torch.Tensor) -> None:
                updates.append((rows.clone(), priority.clone()))
                set_priorities(rows, priority)

            self.replay.set_priorities = recorded

        def on_train_end(self, trainer: Trainer, pl_module: DQNModule) -> None:
            self.leaves = self.replay.state_dict()["sampler"]["leaves"]

    recorder = RecordPriorities()
    train(module, datamodule, recorder)
    assert len(updates) == module.progress.grad_steps > 200
    rows, priority = updates[-1]
    expected = (priority.abs() + 1e-6).double()
    torch.testing.assert_close(recorder.leaves[rows], expected)
    assert len(expected.unique()) > 5


class ScaleWeights(Callback):
    """A custom callback that scales the weights after every 25th update."""

    def on_train_start(self, trainer: Trainer, pl_module: DQNModule) -> None:
        self.online = pl_module.online
        pl_module.after_update.append(self.scale_if_due)

    def scale_if_due(self, clock: Clock) -> None:
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
        recorder, engines = Recorder(), []

        class RecordEngine(Callback):
            def on_train_batch_end(self, *args: Any) -> None:
                engines.append(module._engine.name)

        callbacks = (
            TargetSync(**sync),
            GradientClamp(value=0.5, norm=1.0),
            ScaleWeights(),
            RecordEngine(),
        )
        logging: dict[str, Any] = {"logger": recorder, "log_every_n_steps": 7}
        trainer = train(module, data, *callbacks, EpisodeLog(save_plots=False), **logging)
        return weights(module), recorder.rows, trainer.global_step, set(engines)

    expected, rows, updates, engines = run("eager")
    assert (updates, engines) == (251, {"eager"})
    for engine in ("recorded", "auto"):
        ours, our_rows, our_updates, engines = run(engine)
        assert (our_updates, engines) == (updates, {"recorded"})
        assert equal(ours, expected)
        assert our_rows == rows


class Replace(Callback):
    """Replaces a part of the module between two rollouts, as callbacks for other purposes do."""

    def __init__(self, part: str) -> None:
        self.part = part
        self.done = False
        self.num_calls = 0

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: DQNModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step < 60 or self.done:
            return
        self.done = True
        network, optimizer = pl_module.online, trainer.optimizers[0]
        if self.part == "memory":
            for parameter in network.parameters():
                parameter.data = 0.5 * parameter.data
        if self.part == "target":
            values = {name: 0.5 * value for name, value in network.state_dict().items()}
            pl_module.target.load_state_dict(values, assign=True)
        if self.part == "state":
            optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
            for state in optimizer.state.values():
                state["exp_avg"] = torch.zeros_like(state["exp_avg"])
        if self.part == "hook":
            network.torso.register_forward_hook(self.count_calls)
        if self.part == "copy":
            copy.deepcopy(pl_module.online)

    def count_calls(self, *_: Any) -> None:
        self.num_calls += 1


@pytest.mark.filterwarnings("ignore:model.engine")
@pytest.mark.parametrize("part", ["memory", "target", "state", "hook", "copy"])
def test_engines_notice_what_callbacks_replace(part: str) -> None:
    def run(engine: str) -> tuple[Any, ...]:
        adam = partial(torch.optim.Adam, lr=1e-2, fused=True)
        settings = {"engine": engine, "optimizer": adam}
        # Greedy actions show whether the policy still reads the memory of the old weights.
        module, data = make(module=settings, rollout_env_steps=10, epsilon=0.0)
        replace = Replace(part)
        train(module, data, replace)
        assert replace.done
        return weights(module), replace.num_calls > 100

    expected, hook_called = run("eager")
    ours, our_hook_called = run("auto")
    assert equal(ours, expected)
    assert hook_called == our_hook_called == (part == "hook")


def test_environment_variables_are_restored_after_a_failed_fit() -> None:
    class Fails(Callback):
        def on_train_batch_end(self, *args: Any) -> None:
            raise RuntimeError("enough")

    before = dict(os.environ)
    module, data = make()
    with pytest.raises(RuntimeError, match="enough"):
        train(module, data, Fails())
    assert dict(os.environ) == before
    copy.deepcopy(module.state_dict())


def test_an_engine_for_another_device_is_refused() -> None:
    module, data = make(module={"engine": "cudagraph"})
    with pytest.raises(ConfigError, match=r"model\.engine: .*cudagraph.*cpu"):
        train(module, data)


def test_the_global_step_counts_updates() -> None:
    module, data = make(train_every_env_steps=2)
    trainer = train(module, data)
    assert trainer.global_step == module.progress.grad_steps == 126  # at 50, 52, … 300
    assert module.progress.env_steps == 300


def test_fast_dev_run_makes_one_update_and_one_evaluation() -> None:
    module, data = make(learning_starts_env_steps=10_000)
    before = weights(module)
    trainer = train(module, data, fast_dev_run=True)
    assert trainer.global_step == 1
    assert not equal(before, weights(module))
    assert module.summary is not None


def test_training_ends_after_max_steps_updates() -> None:
    module, data = make()
    trainer = train(module, data, max_steps=33)
    assert trainer.global_step == 33
    assert module.progress.env_steps == 50 + 32


def test_evaluations_are_made_when_they_are_due_and_at_no_other_time() -> None:
    recorder = Recorder()
    module, data = make(eval_every_env_steps=100, rollout_env_steps=30)
    train(module, data, logger=recorder)
    assert [step for step, name, _ in recorder.rows if name == "eval/return_mean"] == [
        100,
        200,
        300,
    ]


def test_limit_val_batches_of_zero_disables_evaluations() -> None:
    module, data = make(eval_every_env_steps=100)
    train(module, data, limit_val_batches=0)
    assert module.summary is None


def test_early_stopping_uses_the_results_of_evaluations() -> None:
    module, data = make(eval_every_env_steps=60, total_env_steps=3_000)
    stop = EarlyStopping("eval/return_mean", mode="max", stopping_threshold=0.0)
    train(module, data, stop)
    assert module.progress.env_steps == 60


def test_the_checkpoint_callback_of_lightning_uses_the_results_of_evaluations(
    tmp_path: Any,
) -> None:
    module, data = make(eval_every_env_steps=60)
    keep = ModelCheckpoint(tmp_path / "kept", monitor="eval/return_mean", mode="max")
    train(module, data, keep, enable_checkpointing=True)
    assert keep.best_model_score is not None
    assert list((tmp_path / "kept").glob("*.ckpt"))


def test_the_learning_rate_schedule_is_stepped_after_every_update_and_logged() -> None:
    recorder = Recorder()
    schedule = partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5)
    module, data = make(module={"lr_scheduler": schedule}, rollout_env_steps=1)
    train(
        module, data, LearningRateMonitor("step"), max_steps=3, logger=recorder, log_every_n_steps=1
    )
    assert module.optimizers().param_groups[0]["lr"] == pytest.approx(1e-3 * 0.5**3)
    assert any(name == "lr-Adam" for _, name, _ in recorder.rows)


def test_updates_with_bf16_mixed_use_the_newest_weights() -> None:
    """Autocast would otherwise cache the weights of a rollout's first update."""
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


def test_a_loss_that_is_not_finite_stops_the_run_and_reports_the_step() -> None:
    module, data = make(module={"optimizer": partial(torch.optim.SGD, lr=1e30)})
    with pytest.raises(NonFiniteError, match=r"update \d+, environment step \d+"):
        train(module, data, log_every_n_steps=5)


def test_a_missing_target_sync_is_warned_about() -> None:
    module, data = make()
    trainer = Trainer(**QUIET, enable_checkpointing=False, max_steps=1)
    with pytest.warns(UserWarning, match="TargetSync"):
        trainer.fit(module, datamodule=data)


class Features(nn.Module):
    """A custom torso with batch normalization and dropout."""

    def __init__(self, obs_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(*obs_shape, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.ReLU()
        )

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        return self.layers(obs)


def test_acting_uses_evaluation_mode_and_updates_use_training_mode() -> None:
    module, data = make(module={"network": Features})
    trainer = train(module, data)
    obs = torch.randn(5, 4)
    assert torch.equal(module.q_values(obs), module.q_values(obs))  # without dropout
    assert module.online.torso.layers[1].num_batches_tracked == trainer.global_step
    assert module.target.torso.layers[1].num_batches_tracked > 0  # syncs copy buffers


def test_acting_in_training_mode_updates_batch_norm_statistics_and_evaluating_does_not() -> None:
    def trained(**settings: Any) -> tuple[DQNModule, int]:
        options = {"network": Features, "act_in_train_mode": True}
        module, data = make(module=options, num_envs=4, **settings)
        return module, train(module, data).global_step

    exploring, updates = trained(epsilon=1.0)
    assert exploring.online.torso.layers[1].num_batches_tracked == updates  # never acted
    acting, updates = trained(epsilon=0.0)
    acted = acting.online.torso.layers[1].num_batches_tracked - updates
    assert 70 < acted <= 85  # once per step of the four environments, including reset rows
    evaluated, _ = trained(epsilon=0.0, eval_every_env_steps=100)
    assert equal(weights(evaluated)[:9], weights(acting)[:9])


@pytest.mark.parametrize("target_acts", [False, True])
def test_the_target_network_acts_if_act_with_target_is_true(target_acts: bool) -> None:
    options = {"act_with_target": target_acts, "optimizer": partial(torch.optim.SGD, lr=1.0)}
    module, data = make(module=options, epsilon=0.0)
    first = copy.deepcopy(module.target)
    columns: list[torch.Tensor] = []

    class ReadReplay(Callback):
        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            replay = trainer.datamodule.dataset.collector.replay
            rows = np.arange(len(replay.rows))
            batch = replay.gather(rows[replay.samplable(rows)])
            columns.extend([batch.obs, batch.action])

    train(module, data, ReadReplay(), TargetSync(every_n_grad_steps=10_000))  # never syncs
    obs, action = columns
    assert torch.equal(first(obs).q_values.argmax(1), action) is target_acts
    acting = module.target if target_acts else module.online
    assert torch.equal(module.q_values(obs), acting(obs).q_values)
    assert torch.equal(module(obs).q_values, acting(obs).q_values)
    assert not torch.equal(module.online(obs).q_values, module.target(obs).q_values)


def test_act_in_train_mode_together_with_act_with_target_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\.act_in_train_mode.*model\.act_with_target"):
        make(module={"act_in_train_mode": True, "act_with_target": True})


def test_a_module_loaded_from_a_checkpoint_acts_like_the_saved_one(tmp_path: Any) -> None:
    module, data = make()
    trainer = train(module, data)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    torch.load(tmp_path / "a.ckpt", weights_only=True)  # tensors and plain values only
    network = partial(MLP, widths=(16,))
    loaded = DQNModule.load_from_checkpoint(tmp_path / "a.ckpt", network=network)
    obs = torch.randn(7, 4)
    assert torch.equal(loaded.act(obs), module.act(obs))
    assert loaded(obs).q_values.shape == (7, 2)


def test_a_resumed_run_continues_to_count_steps_and_updates(tmp_path: Any) -> None:
    module, data = make()
    train(module, data).save_checkpoint(tmp_path / "a.ckpt")

    def resume(**settings: Any) -> tuple[DQNModule, Trainer]:
        module, data = make(total_env_steps=600, **settings)
        callbacks = [TargetSync(every_n_grad_steps=10)]
        trainer = Trainer(**QUIET, enable_checkpointing=False, max_epochs=-1, callbacks=callbacks)
        trainer.fit(module, datamodule=data, ckpt_path=tmp_path / "a.ckpt")
        return module, trainer

    with pytest.raises(ConfigError, match=r"data\.resume\.require_replay.*FullState"):
        resume()
    module, trainer = resume(require_replay=False)
    assert module.progress.env_steps == 600
    assert trainer.global_step == 251 + 251  # the replay is filled for 50 steps before learning


def test_test_validate_and_predict_work_without_training() -> None:
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


def test_predict_reads_observations_from_a_file(tmp_path: Any) -> None:
    obs = torch.randn(9, 4)
    torch.save(obs, tmp_path / "obs.pt")
    module, data = make(observations=str(tmp_path / "obs.pt"))
    trainer = Trainer(**QUIET)
    (prediction,) = trainer.predict(module, datamodule=data)
    assert torch.equal(prediction["action"], module.act(obs))
    torch.save(obs[:, :3], tmp_path / "obs.pt")
    with pytest.raises(ConfigError, match=r"data\.observations: .*\[9, 3\].*4\]"):
        trainer.predict(module, datamodule=data)


def test_evaluations_do_not_change_training() -> None:
    runs = []
    for every in (None, 40):
        module, data = make(eval_every_env_steps=every)
        train(module, data)
        runs.append(weights(module))
    assert equal(*runs)


def clocks_of(**settings: Any) -> list[Clock]:
    """Return the clocks that `after_update` is called with in a run."""
    clocks: list[Clock] = []
    module, data = make(**settings)
    module.after_update.append(clocks.append)
    train(module, data)
    return clocks


def test_after_update_is_called_after_each_update_and_before_the_next_one() -> None:
    clocks = clocks_of(train_every_env_steps=10, learning_starts_env_steps=20, total_env_steps=50)
    env_steps = [clock.env_steps for clock in clocks]
    assert env_steps == [19, 20, 29, 30, 39, 40, 49, 50]
    assert [clock.grad_steps for clock in clocks] == [0, 1, 1, 2, 2, 3, 3, 4]


def test_the_clock_does_not_go_back_if_several_updates_are_due_at_one_step() -> None:
    clocks = clocks_of(train_every_env_steps=10, updates_per_train=3, total_env_steps=70)
    env_steps = [clock.env_steps for clock in clocks]
    assert env_steps == [49, 50, 50, 50, 59, 60, 60, 60, 69, 70, 70, 70]


def test_gradients_are_clamped_in_every_update() -> None:
    module, data = make(module={"optimizer": partial(torch.optim.SGD, lr=1.0)}, total_env_steps=51)
    before = weights(module)
    train(module, data, GradientClamp(value=1e-6))
    change = max((a - b).abs().max() for a, b in zip(before, weights(module), strict=True))
    assert 0 < change <= 2e-6 + 1e-7
