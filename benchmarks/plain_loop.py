"""DQN for CartPole-v1 as a plain PyTorch loop, in the style of CleanRL's single files.

    python -m benchmarks.plain_loop

The baseline for the cost of the algorithm without a framework: one file, one environment in a
`SyncVectorEnv` with episode statistics, a torch network that acts, a ring of numpy arrays, the
squared error and PyTorch's default Adam, neither tuned for speed nor slowed down. The structure and
the settings are those of CleanRL's `dqn.py` (Huang et al. 2022); the code is our own.
"""

import argparse
import random
import time
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch import Tensor, nn
from torch.nn import functional

CAPACITY, BATCH, EVERY, LEARNING_STARTS, TARGET_EVERY = 10_000, 128, 10, 1_000, 500
GAMMA, LEARNING_RATE, EPSILON = 0.99, 2.5e-4, 0.05


class Replay:
    """A ring buffer of transitions."""

    def __init__(self, capacity: int, obs_size: int) -> None:
        self.obs = np.zeros((capacity, obs_size), np.float32)
        self.next_obs = np.zeros((capacity, obs_size), np.float32)
        self.action = np.zeros((capacity, 1), np.int64)
        self.reward = np.zeros((capacity, 1), np.float32)
        self.done = np.zeros((capacity, 1), np.float32)
        self.capacity, self.position, self.full = capacity, 0, False

    def add(self, obs: Any, next_obs: Any, action: Any, reward: Any, done: Any) -> None:
        self.obs[self.position] = obs
        self.next_obs[self.position] = next_obs
        self.action[self.position] = action
        self.reward[self.position] = reward
        self.done[self.position] = done
        self.position += 1
        if self.position == self.capacity:
            self.position, self.full = 0, True

    def sample(self, batch_size: int) -> list[Tensor]:
        rows = np.random.randint(0, self.capacity if self.full else self.position, size=batch_size)
        columns = (self.obs, self.next_obs, self.action, self.reward, self.done)
        return [torch.from_numpy(column[rows]) for column in columns]


def network() -> nn.Module:
    return nn.Sequential(
        nn.Linear(4, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 2)
    )


def train(warm_up: int, env_steps: int, wrap: Any = lambda env: env) -> dict[str, float]:
    """Train for `warm_up + env_steps` environment steps, and time those after the warm-up."""
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)

    def make() -> gym.Env[Any, Any]:
        return gym.wrappers.RecordEpisodeStatistics(wrap(gym.make("CartPole-v1")))

    envs = SyncVectorEnv([make], autoreset_mode=AutoresetMode.SAME_STEP)
    online, target = network(), network()
    target.load_state_dict(online.state_dict())
    optimizer = torch.optim.Adam(online.parameters(), lr=LEARNING_RATE)
    replay = Replay(CAPACITY, 4)
    updates = 0
    returns: list[float] = []

    obs, _ = envs.reset(seed=1)
    for step in range(warm_up + env_steps):
        if step == warm_up:
            started, updates_before = time.perf_counter(), updates
        if random.random() < EPSILON:
            actions = np.array([envs.single_action_space.sample()])
        else:
            actions = torch.argmax(online(torch.Tensor(obs)), dim=1).numpy()
        next_obs, reward, terminated, truncated, infos = envs.step(actions)
        real_next_obs = next_obs.copy()
        if "final_info" in infos:
            returns += infos["final_info"]["episode"]["r"].tolist()
            for i in np.flatnonzero(terminated | truncated):
                real_next_obs[i] = infos["final_obs"][i]
        replay.add(obs, real_next_obs, actions, reward, terminated)
        obs = next_obs

        if step < LEARNING_STARTS:
            continue
        if step % EVERY == 0:
            b_obs, b_next_obs, b_action, b_reward, b_done = replay.sample(BATCH)
            with torch.no_grad():
                next_value = target(b_next_obs).max(dim=1).values
                td_target = b_reward.flatten() + GAMMA * next_value * (1 - b_done.flatten())
            value = online(b_obs).gather(1, b_action).squeeze()
            loss = functional.mse_loss(td_target, value)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            updates += 1
        if step % TARGET_EVERY == 0:
            for parameter, newest in zip(target.parameters(), online.parameters(), strict=True):
                parameter.data.copy_(newest.data)
    seconds = time.perf_counter() - started
    envs.close()
    return {
        "seconds": seconds,
        "env_steps": env_steps,
        "updates": updates - updates_before,
        "return": float(np.mean(returns[-100:])),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--env-steps", type=int, default=50_000)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    result = train(2_000, arguments.env_steps)
    print(
        f"{result['env_steps'] / result['seconds']:,.0f} environment steps/s, "
        f"{result['updates']:,.0f} updates, mean return of the last 100 episodes "
        f"{result['return']:.0f}"
    )


if __name__ == "__main__":
    main()
