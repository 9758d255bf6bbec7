import copy

import torch
from torch import nn

from dqn_lightning.engines import Eager
from dqn_lightning.losses import DQN
from dqn_lightning.networks import MLP, QNetwork, ValueHead
from dqn_lightning.types import Batch


def test_an_update_equals_the_textbook_implementation() -> None:
    torch.manual_seed(0)
    online = QNetwork((4,), 2, MLP, ValueHead)
    target = QNetwork((4,), 2, MLP, ValueHead)
    reference = copy.deepcopy(online)
    optimizer = torch.optim.SGD(online.parameters(), lr=0.1)
    reference_optimizer = torch.optim.SGD(reference.parameters(), lr=0.1)
    engine = Eager(online, target, DQN(), optimizer, [])
    for _ in range(5):
        batch = Batch(
            obs=torch.randn(8, 4),
            action=torch.randint(2, (8,)),
            reward=torch.randn(8),
            discount=torch.rand(8),
            next_obs=torch.randn(8, 4),
            weight=torch.rand(8),
            row=torch.arange(8),
        )
        output = engine.update(batch)
        with torch.no_grad():
            q_target = batch.reward + batch.discount * target(batch.next_obs).q_values.amax(1)
        q_value = reference(batch.obs).q_values[torch.arange(8), batch.action]
        loss = nn.functional.smooth_l1_loss(q_value, q_target, reduction="none")
        reference_optimizer.zero_grad()
        (batch.weight * loss).mean().backward()
        reference_optimizer.step()
        torch.testing.assert_close(output.loss, loss.detach())
        torch.testing.assert_close(output.priority, (q_target - q_value).abs().detach())
    for actual, expected in zip(online.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(actual, expected)


def test_gradient_transforms_are_applied_in_order() -> None:
    network = QNetwork((2,), 2, MLP, ValueHead)
    before = [p.detach().clone() for p in network.parameters()]
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    transforms = [
        lambda gradients: [torch.ones_like(g) for g in gradients],
        lambda gradients: [3 * g for g in gradients],
    ]
    ones = torch.ones(1)
    batch = Batch(torch.ones(1, 2), ones.long(), ones, ones, torch.ones(1, 2), ones, ones.long())
    Eager(network, copy.deepcopy(network), DQN(), optimizer, transforms).update(batch)
    for old, new in zip(before, network.parameters(), strict=True):
        torch.testing.assert_close(old - new, torch.full_like(old, 3.0))
