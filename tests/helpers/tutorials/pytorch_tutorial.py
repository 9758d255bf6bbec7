"""The PyTorch tutorial, written plainly from its specification: what ours is compared with.

Nothing of the package is used. Chance is not decided here: whoever runs it says which choices
explore and which rows are drawn.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision import transforms

BATCH_SIZE, CAPACITY, GAMMA = 128, 10_000, 0.999
EPS_START, EPS_END, EPS_DECAY = 0.9, 0.05, 200
TARGET_UPDATE = 10

_smaller = transforms.Compose(
    [
        transforms.ToPILImage(),
        transforms.Resize(40, interpolation=transforms.InterpolationMode.BICUBIC),
        transforms.ToTensor(),
    ]
)


def get_screen(env: Any) -> Tensor:
    """The screen around the cart [3, 40, 90] in [0, 1]."""
    screen = env.render().transpose(2, 0, 1)
    _, height, width = screen.shape
    screen = screen[:, int(height * 0.4) : int(height * 0.8)]
    cartpole, view = env.unwrapped, int(width * 0.6)
    cart = int(cartpole.state[0] * (width / (cartpole.x_threshold * 2)) + width / 2.0)
    if cart < view // 2:
        columns = slice(view)
    elif cart > width - view // 2:
        columns = slice(-view, None)
    else:
        columns = slice(cart - view // 2, cart + view // 2)
    screen = np.ascontiguousarray(screen[:, :, columns], dtype=np.float32) / 255
    return _smaller(torch.from_numpy(screen)).to(torch.get_default_dtype())


class Net(nn.Module):
    """Three convolutions with batch normalisation, one linear layer."""

    def __init__(self, height: int = 40, width: int = 90, actions: int = 2) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, kernel_size=5, stride=2), nn.BatchNorm2d(16)
        self.conv2, self.bn2 = nn.Conv2d(16, 32, kernel_size=5, stride=2), nn.BatchNorm2d(32)
        self.conv3, self.bn3 = nn.Conv2d(32, 32, kernel_size=5, stride=2), nn.BatchNorm2d(32)
        for _ in range(3):
            height, width = (height - 5) // 2 + 1, (width - 5) // 2 + 1
        self.head = nn.Linear(32 * height * width, actions)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, H, W] → [B, A]."""
        x = functional.relu(self.bn1(self.conv1(x)))
        x = functional.relu(self.bn2(self.conv2(x)))
        x = functional.relu(self.bn3(self.conv3(x)))
        return self.head(x.flatten(1))


class Transition(NamedTuple):
    """What the memory holds; `next_state` is None at an episode's end."""

    state: Tensor
    action: Tensor
    next_state: Tensor | None
    reward: Tensor


@dataclass
class Tutorial:
    """The training loop.

    Args:
        env: CartPole without a time limit, drawing into arrays.
        explore: Given epsilon, the random action of this choice, or None for the greedy one.
        draw: Given the number of transitions, which of them make up the batch.
        on_update: Called after each update with its loss.
    """

    env: Any
    explore: Callable[[float], int | None]
    draw: Callable[[int], list[int]]
    on_update: Callable[[float], None] = lambda loss: None
    policy_net: Net = field(default_factory=Net)
    target_net: Net = field(default_factory=Net)
    durations: list[int] = field(default_factory=list)
    steps_done: int = 0

    def __post_init__(self) -> None:
        self.target_net.load_state_dict(self.policy_net.state_dict())
        self.target_net.eval()
        self.optimizer = torch.optim.RMSprop(self.policy_net.parameters())
        self.memory: list[Transition] = []

    def select_action(self, state: Tensor) -> int:
        """Epsilon-greedy; the network stays in training mode, and does not run at random."""
        decay = math.exp(-self.steps_done / EPS_DECAY)
        self.steps_done += 1
        action = self.explore(EPS_END + (EPS_START - EPS_END) * decay)
        if action is not None:
            return action
        with torch.no_grad():
            return int(self.policy_net(state[None]).argmax(1))

    def push(self, transition: Transition) -> None:
        """Remember, in place of the oldest if the memory is full."""
        if len(self.memory) < CAPACITY:
            self.memory.append(transition)
        else:
            self.memory[(self.steps_done - 1) % CAPACITY] = transition

    def optimize(self) -> None:
        """One update, once there is a batch."""
        if len(self.memory) < BATCH_SIZE:
            return
        batch = Transition(
            *zip(*(self.memory[i] for i in self.draw(len(self.memory))), strict=True)
        )
        running = torch.tensor([state is not None for state in batch.next_state])
        next_states = torch.stack([state for state in batch.next_state if state is not None])
        values = self.policy_net(torch.stack(batch.state)).gather(
            1, torch.stack(batch.action)[:, None]
        )
        next_values = torch.zeros(BATCH_SIZE)
        with torch.no_grad():
            next_values[running] = self.target_net(next_states).max(1).values
        expected = torch.stack(batch.reward) + GAMMA * next_values
        loss = functional.smooth_l1_loss(values, expected[:, None])
        self.optimizer.zero_grad()
        loss.backward()
        for parameter in self.policy_net.parameters():
            parameter.grad.clamp_(-1, 1)
        self.optimizer.step()
        self.on_update(loss.item())

    def play(self, episodes: int, seed: int) -> None:
        """Train for so many episodes."""
        for episode in range(episodes):
            self.env.reset(seed=seed if episode == 0 else None)
            last = current = get_screen(self.env)
            state: Tensor | None = current - last
            for step in count(1):
                assert state is not None
                action = self.select_action(state)
                _, reward, done, _, _ = self.env.step(action)
                last, current = current, get_screen(self.env)
                next_state = None if done else current - last
                self.push(
                    Transition(state, torch.tensor(action), next_state, torch.tensor(float(reward)))
                )
                state = next_state
                self.optimize()
                if done:
                    self.durations.append(step)
                    break
            if episode % TARGET_UPDATE == 0:
                self.target_net.load_state_dict(self.policy_net.state_dict())
