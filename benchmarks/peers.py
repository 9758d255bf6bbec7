"""DQN in other libraries, with the settings of `benchmarks.plain_loop`.

Each function trains for `warm_up + env_steps` environment steps, and times those after the warm-up.
"""

import time
from collections.abc import Callable
from typing import Any

import gymnasium as gym

from benchmarks.plain_loop import (
    BATCH,
    CAPACITY,
    EPSILON,
    EVERY,
    GAMMA,
    LEARNING_RATE,
    LEARNING_STARTS,
    TARGET_EVERY,
)

Wrap = Callable[[Any], Any]


def stable_baselines3(warm_up: int, env_steps: int, wrap: Wrap) -> dict[str, float]:
    """Train Stable-Baselines3's DQN, which always uses the Huber loss and clamps to norm 10."""
    from stable_baselines3 import DQN
    from stable_baselines3.common.callbacks import BaseCallback

    class Watch(BaseCallback):
        started, updates = 0.0, 0

        def _on_step(self) -> bool:
            if self.num_timesteps == warm_up + 1:
                self.started, self.updates = time.perf_counter(), self.model._n_updates
            return True

    model = DQN(
        "MlpPolicy",
        wrap(gym.make("CartPole-v1")),
        learning_rate=LEARNING_RATE,
        buffer_size=CAPACITY,
        learning_starts=LEARNING_STARTS,
        batch_size=BATCH,
        train_freq=EVERY,
        gradient_steps=1,
        target_update_interval=TARGET_EVERY,
        exploration_initial_eps=EPSILON,
        exploration_final_eps=EPSILON,
        policy_kwargs={"net_arch": [120, 84]},
        seed=1,
        device="cpu",
    )
    watch = Watch()
    model.learn(warm_up + env_steps, callback=watch)
    return {
        "seconds": time.perf_counter() - watch.started,
        "env_steps": env_steps,
        "updates": model._n_updates - watch.updates,
    }


def tianshou(warm_up: int, env_steps: int, wrap: Wrap) -> dict[str, float]:
    """Train with tianshou's collector, buffer and algorithm, in a minimal training loop."""
    from tianshou.algorithm import DQN
    from tianshou.algorithm.algorithm_base import policy_within_training_step
    from tianshou.algorithm.modelfree.dqn import DiscreteQLearningPolicy
    from tianshou.algorithm.optim import AdamOptimizerFactory
    from tianshou.data import Collector, CollectStats, VectorReplayBuffer
    from tianshou.env import DummyVectorEnv
    from tianshou.utils.net.common import Net

    envs = DummyVectorEnv([lambda: wrap(gym.make("CartPole-v1"))])
    (action_space,) = envs.action_space
    policy = DiscreteQLearningPolicy(
        model=Net(state_shape=(4,), action_shape=2, hidden_sizes=(120, 84)),
        action_space=action_space,
        eps_training=EPSILON,
    )
    algorithm = DQN(
        policy=policy,
        optim=AdamOptimizerFactory(lr=LEARNING_RATE),
        gamma=GAMMA,
        target_update_freq=TARGET_EVERY // EVERY,
        is_double=False,
    )
    buffer = VectorReplayBuffer(CAPACITY, 1)
    collector = Collector[CollectStats](policy, envs, buffer, exploration_noise=True)
    collector.reset()
    collector.collect(n_step=LEARNING_STARTS)
    updates = 0
    with policy_within_training_step(policy):
        for step in range(LEARNING_STARTS, warm_up + env_steps, EVERY):
            if step == warm_up:
                started, updates_before = time.perf_counter(), updates
            collector.collect(n_step=EVERY)
            algorithm.update(buffer=buffer, sample_size=BATCH)
            updates += 1
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "env_steps": env_steps, "updates": updates - updates_before}


def torchrl(warm_up: int, env_steps: int, wrap: Wrap) -> dict[str, float]:
    """Train with TorchRL's loss, target updater and replay buffer, without its collector."""
    import numpy as np
    import torch
    from tensordict import TensorDict
    from tensordict.nn import TensorDictModule
    from torchrl.data import Categorical, LazyTensorStorage, TensorDictReplayBuffer
    from torchrl.modules import MLP, QValueActor
    from torchrl.objectives import DQNLoss, HardUpdate

    torch.manual_seed(1)
    chance = np.random.default_rng(1)
    network = MLP(
        in_features=4, out_features=2, num_cells=[120, 84], activation_class=torch.nn.ReLU
    )
    actor = QValueActor(
        TensorDictModule(network, ["observation"], ["action_value"]),
        in_keys=["observation"],
        spec=Categorical(2),
        action_space="categorical",
    )
    loss_module = DQNLoss(actor, delay_value=True, action_space="categorical")
    loss_module.make_value_estimator(gamma=GAMMA)
    updater = HardUpdate(loss_module, value_network_update_interval=TARGET_EVERY // EVERY)
    optimizer = torch.optim.Adam(loss_module.parameters(), lr=LEARNING_RATE)
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(CAPACITY), batch_size=BATCH)
    env = wrap(gym.make("CartPole-v1"))
    updates = 0
    obs, _ = env.reset(seed=1)
    for step in range(warm_up + env_steps):
        if step == warm_up:
            started, updates_before = time.perf_counter(), updates
        if chance.random() < EPSILON:
            action = int(chance.integers(2))
        else:
            with torch.no_grad():
                action = int(network(torch.from_numpy(obs)).argmax())
        next_obs, reward, terminated, truncated, _ = env.step(action)
        buffer.add(
            TensorDict(
                {
                    "observation": torch.from_numpy(obs),
                    "action": torch.tensor(action),
                    "next": {
                        "observation": torch.from_numpy(next_obs),
                        "reward": torch.tensor([reward], dtype=torch.float32),
                        "terminated": torch.tensor([terminated]),
                        "done": torch.tensor([terminated or truncated]),
                    },
                }
            )
        )
        obs = env.reset()[0] if terminated or truncated else next_obs
        if step >= LEARNING_STARTS and step % EVERY == 0:
            loss = loss_module(buffer.sample())["loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            updater.step()
            updates += 1
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "env_steps": env_steps, "updates": updates - updates_before}
