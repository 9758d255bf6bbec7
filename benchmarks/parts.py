"""Compare parts with tianshou's and TorchRL's: prioritized sampling and distributional losses.

    python -m benchmarks.throughput --part parts

The peers' own functions are called with precomputed tensors in place of their networks. One thread,
batches of 128, runs in turn; medians.
"""

import statistics
import time
import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from benchmarks.ratios import of_pairs
from dqn_lightning.losses import distributional
from dqn_lightning.networks.heads import midpoints
from dqn_lightning.replay import Prioritized, ReplayBuffer
from dqn_lightning.replay.samplers import SamplingPool

BATCH, ACTIONS, ROWS = 128, 4, 2**20
Part = Callable[[], object]


def draw_and_update() -> dict[str, Part]:
    """Sample 128 of 2^20 rows by priority with weights, and set their new priorities."""
    chance = np.random.default_rng(0)
    priorities = chance.random(ROWS).astype(np.float32)
    return {
        "dqn_lightning": _ours(priorities),
        "tianshou": _tianshou(priorities),
        "TorchRL": _torchrl(priorities),
    }


def _ours(priorities: Any) -> Part:
    sampler, num_envs = Prioritized(alpha=0.6, beta=0.4), 2**10
    replay = ReplayBuffer(ROWS + num_envs, num_envs, (1,), torch.float32, sampler=sampler)
    replay.reset(np.zeros((num_envs, 1), np.float32))
    none = np.zeros(num_envs, np.bool_)
    for _ in range(ROWS // num_envs):
        zeros = np.zeros(num_envs)
        replay.write(zeros, zeros, none, none, zeros[:, None])
    pool = SamplingPool(replay.rows, replay.samplable, replay.rng, num_envs)
    sampler.sample(pool, BATCH)
    sampler.update(np.asarray(replay.rows), priorities, replay.rows)

    def turn() -> None:
        drawn = sampler.sample(pool, BATCH)
        sampler.update(drawn.rows, priorities[:BATCH], replay.rows)

    return turn


def _tianshou(priorities: Any) -> Part:
    from tianshou.data import PrioritizedReplayBuffer

    buffer = PrioritizedReplayBuffer(ROWS, alpha=0.6, beta=0.4)
    buffer.update_weight(np.arange(ROWS), priorities)
    buffer._size = ROWS  # the content of the rows does not matter

    def turn() -> None:
        rows = buffer.sample_indices(BATCH)
        buffer.get_weight(rows)
        buffer.update_weight(rows, priorities[:BATCH])

    return turn


def _torchrl(priorities: Any) -> Part:
    from torchrl.data import TensorStorage
    from torchrl.data.replay_buffers.samplers import PrioritizedSampler

    sampler = PrioritizedSampler(ROWS, alpha=0.6, beta=0.4)
    storage = TensorStorage(torch.zeros(ROWS))
    storage._len = ROWS  # marks the buffer as full
    sampler.extend(torch.arange(ROWS))
    sampler.update_priority(torch.arange(ROWS), torch.from_numpy(priorities))
    newest = torch.from_numpy(priorities[:BATCH])

    def turn() -> None:
        rows, _ = sampler.sample(storage, BATCH)
        sampler.update_priority(rows, newest)

    return turn


class _Given:
    """A tianshou policy that returns precomputed outputs."""

    def __init__(self, online: Any, target: Any, **attributes: Any) -> None:
        self.online, self.target = online, target
        vars(self).update(attributes)

    def __call__(self, batch: Any, model: Any = "online") -> Any:
        if model != "online":
            return SimpleNamespace(logits=self.target, act=None)
        return SimpleNamespace(logits=self.online(), act=self.best)

    best: Any = None


def c51_loss() -> dict[str, Part]:
    """Compute the loss of C51 with 51 atoms, and its gradient with respect to the logits."""
    from tianshou.algorithm.modelfree.c51 import C51
    from tianshou.data import Batch

    atoms = torch.linspace(-10, 10, 51)
    logits = torch.randn(BATCH, ACTIONS, 51, requires_grad=True)
    next_p = torch.randn(BATCH, ACTIONS, 51).softmax(-1)
    action, reward = torch.randint(ACTIONS, (BATCH,)), torch.randn(BATCH)
    discount, next_q = torch.full((BATCH,), 0.99), torch.randn(BATCH, ACTIONS)

    def ours() -> None:
        loss = distributional.categorical_q_learning(
            logits, action, reward, discount, next_p, next_q, atoms
        )
        torch.autograd.grad(loss.mean(), logits)

    policy = _Given(
        lambda: logits.softmax(-1),
        next_p,
        support=atoms,
        v_min=-10.0,
        v_max=10.0,
        best=next_q.argmax(1).numpy(),
    )
    algorithm = SimpleNamespace(
        policy=policy,
        use_target_network=True,
        model_old=None,
        delta_z=0.4,
        _periodically_update_lagged_network_weights=lambda: None,
        _target_dist=lambda batch: C51._target_dist(algorithm, batch),
        optim=SimpleNamespace(step=lambda loss: torch.autograd.grad(loss, logits)),
    )

    def theirs() -> None:
        returns = reward[:, None] + discount[:, None] * atoms
        batch = Batch(obs_next=reward, act=action.numpy(), returns=returns)
        C51._update_with_batch(algorithm, batch)

    return {"dqn_lightning": ours, "tianshou": theirs}


class _Logits(torch.nn.Module):
    """A TorchRL network that returns precomputed outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = torch.nn.Parameter(torch.randn(BATCH, 51, ACTIONS))

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        return self.logits


def double_c51_loss() -> dict[str, Part]:
    """Compute the loss of C51 with double Q-learning from logits, as TorchRL does."""
    from tensordict import TensorDict
    from torchrl.modules import DistributionalQValueActor
    from torchrl.objectives import DistributionalDQNLoss

    atoms = torch.linspace(-10, 10, 51)
    logits = torch.randn(BATCH, ACTIONS, 51, requires_grad=True)
    selector_logits, target_logits = torch.randn(2, BATCH, ACTIONS, 51)
    action, reward = torch.randint(ACTIONS, (BATCH,)), torch.randn(BATCH)
    discount = torch.full((BATCH,), 0.99)

    def ours() -> None:
        next_q = selector_logits.softmax(-1) @ atoms
        loss = distributional.categorical_q_learning(
            logits, action, reward, discount, target_logits.softmax(-1), next_q, atoms
        )
        torch.autograd.grad(loss.mean(), logits)

    network = DistributionalQValueActor(_Logits(), support=atoms, action_space="categorical")
    objective = DistributionalDQNLoss(network, gamma=0.99, delay_value=True)
    parameters = list(objective.parameters())
    none, observation = torch.zeros(BATCH, 1, dtype=torch.bool), torch.zeros(BATCH, 1)
    after = {"reward": reward[:, None], "done": none, "terminated": none}
    content = {"action": action, "observation": observation}
    batch = TensorDict(content | {"next": after | {"observation": observation}}, [BATCH])

    def theirs() -> None:
        torch.autograd.grad(objective(batch)["loss"], parameters)

    return {"dqn_lightning": ours, "TorchRL": theirs}


def quantile_loss(num_quantiles: int) -> dict[str, Part]:
    """Compute the loss of QR-DQN, and its gradient with respect to the quantiles."""
    from tianshou.algorithm.modelfree.qrdqn import QRDQN
    from tianshou.data import Batch

    quantiles = torch.randn(BATCH, ACTIONS, num_quantiles, requires_grad=True)
    next_quantiles = torch.randn(BATCH, ACTIONS, num_quantiles)
    action, reward = torch.randint(ACTIONS, (BATCH,)), torch.randn(BATCH)
    discount, next_q = torch.full((BATCH,), 0.99), torch.randn(BATCH, ACTIONS)
    taus, best = midpoints(num_quantiles), next_q.argmax(1).numpy()

    def ours() -> None:
        loss, _ = distributional.quantile_q_learning(
            quantiles, taus, action, reward, discount, next_quantiles, next_q
        )
        torch.autograd.grad(loss.mean(), quantiles)

    algorithm = SimpleNamespace(
        policy=_Given(lambda: quantiles, next_quantiles, best=best),
        tau_hat=taus.view(1, -1, 1),
        use_target_network=True,
        model_old=None,
        _periodically_update_lagged_network_weights=lambda: None,
        optim=SimpleNamespace(step=lambda loss: torch.autograd.grad(loss, quantiles)),
    )

    def theirs() -> None:
        chosen = next_quantiles[np.arange(BATCH), best, :]  # as in tianshou's `_target_q`
        returns = reward[:, None] + discount[:, None] * chosen
        QRDQN._update_with_batch(algorithm, Batch(act=action.numpy(), returns=returns))

    return {"dqn_lightning": ours, "tianshou": theirs}


def compare(repeats: int) -> None:
    """Print all comparisons."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="Using a target size")
    warnings.filterwarnings("ignore", message="No target network updater")
    parts: dict[str, tuple[dict[str, Part], int]] = {
        "prioritised, 128 of 2^20 rows": (draw_and_update(), 300),
        "C51, 51 atoms": (c51_loss(), 300),
        "C51, double, from logits": (double_c51_loss(), 300),
        "QR-DQN, 32 quantiles": (quantile_loss(32), 100),
        "QR-DQN, 200 quantiles": (quantile_loss(200), 5),
    }
    print("\nmicroseconds, medians, one thread (in brackets: ratios to ours, of the runs in turn):")
    for name, (programs, number) in parts.items():
        times: dict[str, list[float]] = {program: [] for program in programs}
        for _ in range(repeats + 1):
            for program, part in programs.items():
                started = time.perf_counter()
                for _ in range(number):
                    part()
                times[program].append(1e6 * (time.perf_counter() - started) / number)
        ours = times["dqn_lightning"][1:]
        print(f"  {name:<32}{statistics.median(ours):>10,.0f}", end="")
        for program in list(programs)[1:]:
            theirs = times[program][1:]
            median = f"{program} {statistics.median(theirs):,.0f}"
            print(f"   {median}: {of_pairs(theirs, ours)}", end="")
        print(flush=True)
