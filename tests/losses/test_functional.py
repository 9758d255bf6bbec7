import pytest
import torch

from dqn_lightning.losses import DQN, functional
from dqn_lightning.types import Batch, QValues


def test_q_learning_by_hand() -> None:
    error = functional.q_learning(
        q_tm1=torch.tensor([[1.0, 5.0], [2.0, 7.0]]),
        a_tm1=torch.tensor([1, 0]),
        r_t=torch.tensor([10.0, 20.0]),
        discount_t=torch.tensor([0.5, 0.0]),
        q_t=torch.tensor([[4.0, 6.0], [100.0, 200.0]]),
    )
    assert error.tolist() == [10 + 0.5 * 6 - 5, 20 - 2]


def test_double_q_learning_by_hand() -> None:
    error = functional.double_q_learning(
        q_tm1=torch.tensor([[1.0, 5.0], [2.0, 7.0]]),
        a_tm1=torch.tensor([1, 0]),
        r_t=torch.tensor([10.0, 20.0]),
        discount_t=torch.tensor([0.5, 0.0]),
        q_t_value=torch.tensor([[4.0, 6.0], [100.0, 200.0]]),
        q_t_selector=torch.tensor([[3.0, 2.0], [0.0, 1.0]]),
    )
    assert error.tolist() == [10 + 0.5 * 4 - 5, 20 - 2]


def test_columns_are_refused_where_they_would_broadcast_to_a_square() -> None:
    q, one = torch.zeros(3, 2), torch.zeros(3)
    with pytest.raises(ValueError, match=r"r_t must have rank 1, got shape \(3, 1\)"):
        functional.q_learning(q, one.long(), one[:, None], one, q)
    with pytest.raises(ValueError, match="q_t must have rank 2"):
        functional.q_learning(q, one.long(), one, one, one)


def test_huber_is_quadratic_near_zero_and_linear_beyond() -> None:
    error = torch.linspace(-5, 5, 101)
    for delta in (0.5, 1.0, 2.0):
        size = error.abs()
        wanted = torch.where(size <= delta, size**2 / 2, delta * (size - delta / 2))
        torch.testing.assert_close(functional.huber(error, delta), wanted)


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("loss", ["huber", "squared"])
def test_the_gradient_flows_through_the_online_network_only(loss: str, double: bool) -> None:
    online, target = (torch.nn.Linear(2, 3) for _ in range(2))
    batch = Batch(
        obs=torch.randn(4, 2),
        action=torch.tensor([0, 1, 2, 0]),
        reward=torch.randn(4),
        discount=torch.full((4,), 0.9),
        next_obs=torch.randn(4, 2),
        weight=torch.ones(4),
        row=torch.arange(4),
    )
    output = DQN(loss, double)(lambda x: QValues(online(x)), lambda x: QValues(target(x)), batch)
    output.loss.mean().backward()
    assert online.weight.grad.abs().sum() > 0
    assert target.weight.grad is None
    assert output.loss.shape == output.priority.shape == (4,)
    assert not output.priority.requires_grad
