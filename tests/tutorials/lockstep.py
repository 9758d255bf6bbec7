"""A run of a shipped config, recorded, and a plain tutorial that is taken through it again.

Chance decides in the run only: which choices explore, with which action, and which rows are drawn.
The tutorial does all else by itself, on an environment of its own.
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
from dqn_lightning.cli import DQNCLI, main
from dqn_lightning.collector import Collector
from dqn_lightning.types import Clock

CONFIGS = Path(__file__).parents[2] / "configs"

State = dict[str, Tensor]


class Updates:
    """What updates started from and what they made, one entry per update.

    Attributes:
        before, after: The online network's state.
        target: The target network's state.
        losses, gradients: Gradients are those that the optimiser gets.
    """

    def __init__(self) -> None:
        self.before: list[State] = []
        self.after: list[State] = []
        self.target: list[State] = []
        self.losses: list[float] = []
        self.gradients: list[list[Tensor]] = []


class Recorder(Callback):
    """Records a run of ours.

    Attributes:
        seeds: What environments were reset with; the first is training's.
        initial: The online network's state at the start.
        epsilons, actions: Of each choice.
        explored: Whether each choice was random; if not, the network was asked.
        rows: Numbers of the rows of each update's batch.
        updates: What they made.
        syncs: The clock at each copy of the target.
        datamodule, callbacks, collector, replay: Of the run.
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
        self.initial = _copied(pl_module.online)
        self.datamodule, self.callbacks = trainer.datamodule, trainer.callbacks
        self.collector = trainer.datamodule.dataset.collector
        self.replay = self.collector.replay
        actor, draw, objective = self.collector.actor, self.replay.draw, pl_module.objective

        def choosing(act: Any, obs: Tensor, env_steps: int) -> Any:
            asked = []
            actions = actor(lambda obs: asked.append(1) or act(obs), obs, env_steps)
            self.epsilons.append(actor.epsilon(env_steps))
            self.actions.append(int(actions[0]))
            self.explored.append(not asked)
            return actions

        choosing.epsilon = actor.epsilon

        def drawing(batch_size: int, env_steps: int) -> Any:
            batch = draw(batch_size, env_steps)
            self.rows.append(batch.row.tolist())
            self.updates.before.append(_copied(pl_module.online))
            self.updates.target.append(_copied(pl_module.target))
            return batch

        def judging(online: Any, target: Any, batch: Any) -> Any:
            output = objective(online, target, batch)
            self.updates.losses.append(output.loss.mean().item())
            return output

        def transforming(gradients: list[Tensor]) -> list[Tensor]:
            self.updates.gradients.append([gradient.clone() for gradient in gradients])
            return gradients

        def after_update(clock: Clock) -> None:
            self.clock = clock
            if clock.grad_steps > len(self.updates.after):
                self.updates.after.append(_copied(pl_module.online))

        self.collector.actor = choosing
        self.replay.draw = drawing
        pl_module.objective = judging
        pl_module.grad_transforms.append(transforming)
        pl_module.after_update.insert(0, after_update)


def record(config: str, *flags: str) -> Recorder:
    """Run a shipped config from the command line, in the working directory; what it did."""
    recorder = Recorder()
    instantiate, reset, sync = DQNCLI.instantiate_trainer, Collector.reset, target_sync.sync

    def with_recorder(self: Any, **kwargs: Any) -> Any:
        trainer = instantiate(self, **kwargs)
        trainer.callbacks.append(recorder)
        return trainer

    def resetting(self: Any, seed: int) -> None:
        recorder.seeds.append(seed)
        reset(self, seed)

    def syncing(*arguments: Any) -> None:
        recorder.syncs.append(recorder.clock)
        sync(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DQNCLI, "instantiate_trainer", with_recorder)
        patch.setattr(Collector, "reset", resetting)
        patch.setattr(target_sync, "sync", syncing)
        quiet = ["--trainer.logger=false", "--trainer.enable_progress_bar=false"]
        quiet.append("--trainer.enable_checkpointing=false")
        assert main(["fit", "--config", str(CONFIGS / config), *quiet, *flags]) == 0
    return recorder


class Follower(gym.Wrapper[Any, Any, Any, Any]):
    """Decides for a plain tutorial what chance decided in a recorded run, and keeps what it makes.

    It is also the tutorial's environment.

    Attributes:
        epsilons, actions: Of each choice.
        updates: What they made.
    """

    def __init__(self, env: gym.Env[Any, Any], recorder: Recorder) -> None:
        super().__init__(env)
        self.recorder = recorder
        self.epsilons: list[float] = []
        self.actions: list[int] = []
        self.updates = Updates()

    def follow(self, tutorial: Any, online: nn.Module, target: nn.Module) -> None:
        """Serve this tutorial, whose online network begins as the recorded run's."""
        self.tutorial, self.online, self.target = tutorial, online, target
        names, initial = online.state_dict(), self.recorder.initial.values()
        online.load_state_dict(dict(zip(names, initial, strict=True)))
        target.load_state_dict(online.state_dict())

    def explore(self, epsilon: float) -> int | None:
        choice = len(self.epsilons)
        self.epsilons.append(epsilon)
        return self.recorder.actions[choice] if self.recorder.explored[choice] else None

    def draw(self, count: int) -> list[int]:
        self.updates.before.append(_copied(self.online))
        self.updates.target.append(_copied(self.target))
        rows = self.recorder.rows[len(self.updates.losses)]
        return [transition_of(row, self.tutorial.durations) % count for row in rows]

    def step(self, action: Any) -> Any:
        self.actions.append(action)
        return self.env.step(action)

    def keep(self, loss: float) -> None:
        self.updates.losses.append(loss)
        parameters = self.online.parameters()
        gradients = [p.grad.clone() for p in parameters if p.grad is not None]
        self.updates.gradients.append(gradients)
        self.updates.after.append(_copied(self.online))


def transition_of(row: int, durations: list[int]) -> int:
    """The number of a row's transition: rows between episodes are none.

    >>> transition_of(4, durations=[3, 7])  # row 3 stands between the episodes
    3
    """
    boundaries = [end + episode for episode, end in enumerate(accumulate(durations))]
    return row - sum(boundary < row for boundary in boundaries)


def assert_same_updates(ours: Updates, theirs: Updates, largest: float = 1e-6) -> None:
    """No element of anything differs by more."""
    assert ours.losses == pytest.approx(theirs.losses, abs=largest, rel=0)
    for mine, its in zip(ours.gradients, theirs.gradients, strict=True):
        assert largest_difference(mine, its) <= largest
    for name in ("before", "after", "target"):
        for state, its_state in zip(getattr(ours, name), getattr(theirs, name), strict=True):
            assert largest_difference(state.values(), its_state.values()) <= largest, name


def largest_difference(ours: Iterable[Tensor], theirs: Iterable[Tensor]) -> float:
    """Over all elements of all tensors."""
    pairs = zip(ours, theirs, strict=True)
    return max((a.double() - b.double()).abs().max().item() for a, b in pairs)


def _copied(module: nn.Module) -> State:
    return {name: value.clone() for name, value in module.state_dict().items()}
