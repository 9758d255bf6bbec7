"""MorvanZhou's tutorial, written plainly from its specification: what ours is compared with.

Nothing of the package is used. Chance is not decided here: whoever runs it says which choices
explore and which rows are drawn.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

BATCH_SIZE, LR, EPSILON, GAMMA = 32, 0.01, 0.9, 0.9
TARGET_REPLACE_ITER, MEMORY_CAPACITY = 100, 2_000
STATES, ACTIONS = 4, 2


class Net(nn.Module):
    """4 → 10 → 2, weights from N(0, 0.1)."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.out = nn.Linear(STATES, 10), nn.Linear(10, ACTIONS)
        for layer in (self.fc1, self.out):
            nn.init.normal_(layer.weight, 0, 0.1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 4] → [B, 2]."""
        return self.out(functional.relu(self.fc1(x)))


@dataclass
class Tutorial:
    """The training loop.

    Args:
        env: CartPole without a time limit.
        explore: Given the share of greedy choices, the random action, or None for the greedy one.
        draw: Given the rows of the memory, which of them make up the batch.
        shaped: Whether the published script's reward is stored.
        on_update: Called after each update with its loss.
    """

    env: Any
    explore: Callable[[float], int | None]
    draw: Callable[[int], list[int]]
    shaped: bool
    on_update: Callable[[float], None] = lambda loss: None
    eval_net: Net = field(default_factory=Net)
    target_net: Net = field(default_factory=Net)
    returns: list[float] = field(default_factory=list)
    durations: list[int] = field(default_factory=list)
    copied_before: list[int] = field(default_factory=list)
    learn_step_counter: int = 0
    memory_counter: int = 0

    def __post_init__(self) -> None:
        self.memory = np.zeros((MEMORY_CAPACITY, STATES * 2 + 2))
        self.optimizer = torch.optim.Adam(self.eval_net.parameters(), lr=LR)

    def choose_action(self, state: Any) -> int:
        """Greedy nine times out of ten."""
        action = self.explore(EPSILON)
        if action is not None:
            return action
        with torch.no_grad():
            return int(
                self.eval_net(torch.tensor(state)[None].to(torch.get_default_dtype())).argmax(1)
            )

    def store_transition(self, state: Any, action: int, reward: float, next_state: Any) -> None:
        """In place of the oldest."""
        row = np.hstack((state, [action, reward], next_state))
        self.memory[self.memory_counter % MEMORY_CAPACITY] = row
        self.memory_counter += 1

    def learn(self) -> None:
        """Copy the target if it is time, then one update."""
        if self.learn_step_counter % TARGET_REPLACE_ITER == 0:
            self.copied_before.append(self.learn_step_counter)
            self.target_net.load_state_dict(self.eval_net.state_dict())
        self.learn_step_counter += 1
        batch = torch.FloatTensor(self.memory[self.draw(MEMORY_CAPACITY)])
        batch = batch.to(torch.get_default_dtype())
        states, actions, rewards, next_states = batch.split((STATES, 1, 1, STATES), dim=1)
        values = self.eval_net(states).gather(1, actions.long())
        next_values = self.target_net(next_states).detach().max(1).values[:, None]
        loss = functional.mse_loss(
            values, rewards + GAMMA * next_values
        )  # also beyond terminal states
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.on_update(loss.item())

    def reward_of(self, next_state: Any, reward: float) -> float:
        """The published script's shape, or the reward as it comes."""
        if not self.shaped:
            return reward
        cartpole = self.env.unwrapped
        x, _, theta, _ = (float(value) for value in next_state)
        r1 = (cartpole.x_threshold - abs(x)) / cartpole.x_threshold - 0.8
        end = cartpole.theta_threshold_radians
        r2 = (end - abs(theta)) / end - 0.5
        return r1 + r2

    def play(self, episodes: int, seed: int) -> None:
        """Train for so many episodes."""
        for episode in range(episodes):
            state, _ = self.env.reset(seed=seed if episode == 0 else None)
            episode_return, steps, done = 0.0, 0, False
            while not done:
                action = self.choose_action(state)
                next_state, reward, done, _, _ = self.env.step(action)
                reward = self.reward_of(next_state, reward)
                self.store_transition(state, action, reward, next_state)
                episode_return, steps = episode_return + reward, steps + 1
                if self.memory_counter > MEMORY_CAPACITY:
                    self.learn()
                state = next_state
            self.returns.append(episode_return)
            self.durations.append(steps)
