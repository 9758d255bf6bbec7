"""Record a training run of a shipped config, and take a plain tutorial through the same run.

The recording supplies everything random: which actions explore, the random actions themselves, and
which rows each batch contains. The tutorial computes everything else on its own, in its own
environment.
"""

from collections.abc import Iterable
from itertools import accumulate
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from lightning.pytorch import Callback
from torch import Tensor, nn

from dqn_lightning.callbacks import target_sync
from dqn_lightning.cli.app import DQNCLI
from dqn_lightning.cli.main import main
from dqn_lightning.interaction.collector import Collector
from dqn_lightning.types import Clock

CONFIGS = Path(__file__).parents[3] / "configs"

State = dict[str, Tensor]


class Updates:
    """Inputs and results of all updates, one entry per update.

    Attributes:
        before: State of the online network before each update.
        after: State of the online network after each update.
        target: State of the target network during each update.
        losses: Mean losses.
        gradients: Gradients as passed to the optimizer, after clamping.
    """

    def __init__(self) -> None:
        self.before: list[State] = []
        self.after: list[State] = []
        self.target: list[State] = []
        self.losses: list[float] = []
        self.gradients: list[list[Tensor]] = []


class Recorder(Callback):
    """Records a training run.

    Attributes:
        seeds: Seeds that collectors were reset with; the first one is the training collector's.
        initial: Initial state of the online network.
        epsilons: Epsilon of each action.
        actions: All actions, in order.
        explored: Whether each action was random.
        rows: Row numbers of each batch.
        updates: Inputs and results of all updates.
        syncs: The clock at each copy to the target network.
        clock: The newest clock passed to `after_update`.
        datamodule: The run's datamodule.
        callbacks: The run's callbacks.
        collector: The training collector.
        replay: The training replay.
    """

    def __init__(self) -> None:
        self.seeds: list[int] = []
        self.epsilons: list[float] = []
        self.actions: list[int] = []
        self.explored: list[bool] = []
        self.rows: list[list[int]] = []
        self.updates = Updates()
        self.syncs: list[Clock] = []

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.initial = copy_state(pl_module.online)
        self.datamodule, self.callbacks = trainer.datamodule, trainer.callbacks
        self.collector = trainer.datamodule.dataset.collector
        self.replay = self.collector.replay
        actor, sample = self.collector.actor, self.replay.sample
        objective = pl_module.objective

        def recorded_actor(policy: Any, obs: Tensor, env_steps: int) -> Any:
            policy_calls = []
            actions = actor(lambda obs: policy_calls.append(1) or policy(obs), obs, env_steps)
            self.epsilons.append(actor.epsilon(env_steps))
            self.actions.append(int(actions[0]))
            self.explored.append(not policy_calls)
            return actions

        recorded_actor.epsilon = actor.epsilon

        def recorded_sample(batch_size: int, env_steps: int) -> Any:
            batch = sample(batch_size, env_steps)
            self.rows.append(batch.row.tolist())
            self.updates.before.append(copy_state(pl_module.online))
            self.updates.target.append(copy_state(pl_module.target))
            return batch

        def recorded_objective(online: Any, target: Any, batch: Any) -> Any:
            output = objective(online, target, batch)
            self.updates.losses.append(output.loss.mean().item())
            return output

        def record_gradients(gradients: list[Tensor]) -> list[Tensor]:
            self.updates.gradients.append([gradient.clone() for gradient in gradients])
            return gradients

        def after_update(clock: Clock) -> None:
            self.clock = clock
            if clock.grad_steps > len(self.updates.after):
                self.updates.after.append(copy_state(pl_module.online))

        self.collector.actor = recorded_actor
        self.replay.sample = recorded_sample
        pl_module.objective = recorded_objective
        pl_module.grad_transforms.append(record_gradients)
        pl_module.after_update.insert(0, after_update)


def record(config: str, *flags: str) -> Recorder:
    """Train with a shipped config in the current directory, and return the recording."""
    recorder = Recorder()
    instantiate_trainer, reset = DQNCLI.instantiate_trainer, Collector.reset
    sync_target = target_sync.sync_target

    def instantiate_with_recorder(self: Any, **kwargs: Any) -> Any:
        trainer = instantiate_trainer(self, **kwargs)
        trainer.callbacks.append(recorder)
        return trainer

    def recorded_reset(self: Any, seed: int) -> None:
        recorder.seeds.append(seed)
        reset(self, seed)

    def recorded_sync(*arguments: Any) -> None:
        recorder.syncs.append(recorder.clock)
        sync_target(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DQNCLI, "instantiate_trainer", instantiate_with_recorder)
        patch.setattr(Collector, "reset", recorded_reset)
        patch.setattr(target_sync, "sync_target", recorded_sync)
        quiet = ["--trainer.logger=false", "--trainer.enable_progress_bar=false"]
        quiet.append("--trainer.enable_checkpointing=false")
        eager = "--model.engine=eager"  # calls the recording functions in every update
        assert main(["fit", "--config", str(CONFIGS / config), eager, *quiet, *flags]) == 0
    return recorder


class Follower(gym.Wrapper[Any, Any, Any, Any]):
    """The environment of a plain tutorial, which also supplies the recorded random choices.

    The tutorial calls `explore` for each action, `draw` for each batch and `keep` after each
    update.

    Attributes:
        epsilons: Epsilon of each action.
        actions: All actions, in order.
        updates: Inputs and results of all updates.
    """

    def __init__(self, env: gym.Env[Any, Any], recorder: Recorder) -> None:
        super().__init__(env)
        self.recorder = recorder
        self.epsilons: list[float] = []
        self.actions: list[int] = []
        self.updates = Updates()

    def follow(self, tutorial: Any, online: nn.Module, target: nn.Module) -> None:
        """Attach to a tutorial, and initialize its networks with the recorded initial weights."""
        self.tutorial, self.online, self.target = tutorial, online, target
        names, initial = online.state_dict(), self.recorder.initial.values()
        online.load_state_dict(dict(zip(names, initial, strict=True)))
        target.load_state_dict(online.state_dict())

    def explore(self, epsilon: float) -> int | None:
        """Return the recorded action if it was random, else None."""
        choice = len(self.epsilons)
        self.epsilons.append(epsilon)
        return self.recorder.actions[choice] if self.recorder.explored[choice] else None

    def draw(self, count: int) -> list[int]:
        """Return the indices of the recorded batch in a memory of `count` transitions."""
        self.updates.before.append(copy_state(self.online))
        self.updates.target.append(copy_state(self.target))
        rows = self.recorder.rows[len(self.updates.losses)]
        return [transition_of(row, self.tutorial.durations) % count for row in rows]

    def step(self, action: Any) -> Any:
        self.actions.append(action)
        return self.env.step(action)

    def keep(self, loss: float) -> None:
        """Record the result of an update."""
        self.updates.losses.append(loss)
        parameters = self.online.parameters()
        gradients = [p.grad.clone() for p in parameters if p.grad is not None]
        self.updates.gradients.append(gradients)
        self.updates.after.append(copy_state(self.online))


def transition_of(row: int, lengths: list[int]) -> int:
    """Return the number of the transition in a row of the replay, not counting reset rows.

    >>> transition_of(4, lengths=[3, 7])  # row 3 is the reset row between the episodes
    3
    """
    reset_rows = [end + episode for episode, end in enumerate(accumulate(lengths))]
    return row - sum(reset_row < row for reset_row in reset_rows)


def assert_same_updates(ours: Updates, theirs: Updates, tolerance: float = 1e-6) -> None:
    """Assert that no loss, gradient or weight of any update differs by more than the tolerance."""
    assert ours.losses == pytest.approx(theirs.losses, abs=tolerance, rel=0)
    for our_gradients, their_gradients in zip(ours.gradients, theirs.gradients, strict=True):
        assert max_difference(our_gradients, their_gradients) <= tolerance
    for name in ("before", "after", "target"):
        for our_state, their_state in zip(getattr(ours, name), getattr(theirs, name), strict=True):
            assert max_difference(our_state.values(), their_state.values()) <= tolerance, name


def max_difference(ours: Iterable[Tensor], theirs: Iterable[Tensor]) -> float:
    """Return the largest absolute difference over all elements of all tensors."""
    pairs = zip(ours, theirs, strict=True)
    return max((a.double() - b.double()).abs().max().item() for a, b in pairs)


def copy_state(module: nn.Module) -> State:
    """Return copies of a module's parameters and buffers."""
    return {name: value.clone() for name, value in module.state_dict().items()}
