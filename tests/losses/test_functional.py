from collections.abc import Callable
from math import exp, log, sqrt
from typing import Any

import pytest
import torch
from torch import Tensor

from dqn_lightning.engines.op_recorder import OpRecorder
from dqn_lightning.losses import DQN, functional
from dqn_lightning.types import Batch, QValues


@pytest.fixture(autouse=True)
def fix_seed() -> None:
    torch.manual_seed(0)


def test_q_learning_equals_hand_computed_errors() -> None:
    error = functional.q_learning(
        q_tm1=torch.tensor([[1.0, 5.0], [2.0, 7.0]]),
        a_tm1=torch.tensor([1, 0]),
        r_t=torch.tensor([10.0, 20.0]),
        discount_t=torch.tensor([0.5, 0.0]),
        q_t=torch.tensor([[4.0, 6.0], [100.0, 200.0]]),
    )
    assert error.tolist() == [10 + 0.5 * 6 - 5, 20 - 2]


def test_double_q_learning_equals_hand_computed_errors() -> None:
    error = functional.double_q_learning(
        q_tm1=torch.tensor([[1.0, 5.0], [2.0, 7.0]]),
        a_tm1=torch.tensor([1, 0]),
        r_t=torch.tensor([10.0, 20.0]),
        discount_t=torch.tensor([0.5, 0.0]),
        q_t_value=torch.tensor([[4.0, 6.0], [100.0, 200.0]]),
        q_t_selector=torch.tensor([[3.0, 2.0], [0.0, 1.0]]),
    )
    assert error.tolist() == [10 + 0.5 * 4 - 5, 20 - 2]


def test_column_vectors_that_would_broadcast_to_a_matrix_are_rejected() -> None:
    q, one = torch.zeros(3, 2), torch.zeros(3)
    with pytest.raises(ValueError, match=r"r_t must have rank 1, got shape \(3, 1\)"):
        functional.q_learning(q, one.long(), one[:, None], one, q)
    with pytest.raises(ValueError, match="q_t must have rank 2"):
        functional.q_learning(q, one.long(), one, one, one)


def test_rescaling_equals_hand_computed_values() -> None:
    assert functional.rescale(torch.tensor([0.0, 3.0, -15.0]), eps=0.0).tolist() == [0, 1, -3]
    assert functional.unrescale(torch.tensor([0.0, 1.0, -3.0]), eps=0.0).tolist() == [0, 3, -15]
    assert functional.rescale(torch.tensor([8.0]), eps=0.25).tolist() == [2 + 0.25 * 8]


def test_rescaling_equals_the_published_formulas() -> None:
    x = torch.randn(100, dtype=torch.float64) * 100
    for eps in (1e-3, 1e-2, 0.5):
        signs = [1 if number > 0 else -1 for number in x.tolist()]
        expected = [
            sign * (sqrt(abs(number) + 1) - 1) + eps * number
            for sign, number in zip(signs, x.tolist(), strict=True)
        ]
        torch.testing.assert_close(functional.rescale(x, eps), torch.tensor(expected).to(x))
        expected = [
            sign * (((sqrt(1 + 4 * eps * (abs(number) + 1 + eps)) - 1) / (2 * eps)) ** 2 - 1)
            for sign, number in zip(signs, x.tolist(), strict=True)
        ]
        torch.testing.assert_close(
            functional.unrescale(x, eps),
            torch.tensor(expected, dtype=x.dtype),
            rtol=1e-6,
            atol=1e-9,
        )


def test_rescale_and_unrescale_are_inverse_in_single_precision() -> None:
    small = torch.logspace(-6, 4, 1001)
    x = torch.cat([-small, torch.zeros(1), small])
    torch.testing.assert_close(functional.unrescale(functional.rescale(x)), x, rtol=2e-6, atol=0)
    torch.testing.assert_close(functional.rescale(functional.unrescale(x)), x, rtol=2e-6, atol=0)


def test_rescaled_targets_add_the_reward_to_the_unrescaled_value() -> None:
    h, inverse = functional.rescale, functional.unrescale
    q_tm1, q_t, selector = (torch.randn(8, 3, dtype=torch.float64) * 5 for _ in range(3))
    a_tm1 = torch.randint(3, (8,))
    r_t, discount_t = torch.randn(8, dtype=torch.float64), torch.rand(8, dtype=torch.float64)
    single = functional.q_learning(q_tm1, a_tm1, r_t, discount_t, q_t, rescaled=True)
    double = functional.double_q_learning(
        q_tm1, a_tm1, r_t, discount_t, q_t, selector, rescaled=True
    )
    for row in range(8):
        prediction = q_tm1[row, a_tm1[row]]
        target = h(r_t[row] + discount_t[row] * inverse(q_t[row].max()))
        torch.testing.assert_close(single[row], target - prediction)
        target = h(r_t[row] + discount_t[row] * inverse(q_t[row, selector[row].argmax()]))
        torch.testing.assert_close(double[row], target - prediction)


def naive_log_policy(q: Tensor, temperature: float) -> Tensor:
    """Logarithm of the softmax policy, computed from its definition."""
    rows = []
    for row in q.tolist():
        weights = [exp(value / temperature) for value in row]
        rows.append([log(weight / sum(weights)) for weight in weights])
    return torch.tensor(rows, dtype=q.dtype)


def test_scaled_log_policy_equals_its_definition() -> None:
    q = torch.randn(8, 3, dtype=torch.float64)
    for temperature in (0.1, 1.0, 10.0):
        expected = naive_log_policy(q, temperature)
        scaled = functional.scaled_log_policy(q, temperature)
        torch.testing.assert_close(scaled, temperature * expected)


def test_scaled_log_policy_equals_hand_computed_probabilities() -> None:
    q = torch.tensor([[0.0, log(3.0)], [2 * log(4.0), 0.0]], dtype=torch.float64)
    torch.testing.assert_close(
        functional.scaled_log_policy(q, 1.0).exp()[0], torch.tensor([0.25, 0.75]).double()
    )
    torch.testing.assert_close(
        (functional.scaled_log_policy(q, 2.0) / 2).exp()[1], torch.tensor([0.8, 0.2]).double()
    )


@pytest.mark.parametrize("temperature", [1e-6, 1e-30, 1e-40])
def test_scaled_log_policy_at_low_temperature_is_the_difference_to_the_best_value(
    temperature: float,
) -> None:
    scaled = functional.scaled_log_policy(torch.tensor([[100.0, 300.0, -50.0]]), temperature)
    torch.testing.assert_close(scaled, torch.tensor([[-200.0, 0.0, -350.0]]))


def test_munchausen_q_learning_equals_hand_computed_errors() -> None:
    # Row 0: both policies are uniform over two actions, temperature ln pi = -ln 2.
    # Row 1: the action taken is worse by 3, which is clipped to -1; the transition is terminal.
    error = functional.munchausen_q_learning(
        q_tm1=torch.tensor([[1.0, 9.0], [9.0, 2.0]]),
        a_tm1=torch.tensor([0, 1]),
        r_t=torch.tensor([10.0, 20.0]),
        discount_t=torch.tensor([0.5, 0.0]),
        q_t=torch.tensor([[6.0, 6.0], [7.0, 8.0]]),
        q_tm1_target=torch.tensor([[5.0, 5.0], [6.0, 3.0]]),
        alpha=0.5,
        temperature=1.0,
    )
    expected = [10 - 0.5 * log(2) + 0.5 * (6 + log(2)) - 1, 20 - 0.5 - 2]
    torch.testing.assert_close(error, torch.tensor(expected))


def test_munchausen_q_learning_equals_a_naive_loop() -> None:
    alpha, temperature, clip = 0.7, 0.5, -0.6
    q_tm1, q_t, q_tm1_target = (torch.randn(16, 3, dtype=torch.float64) for _ in range(3))
    a_tm1 = torch.randint(3, (16,))
    r_t, discount_t = torch.randn(16, dtype=torch.float64), torch.rand(16, dtype=torch.float64)
    error = functional.munchausen_q_learning(
        q_tm1, a_tm1, r_t, discount_t, q_t, q_tm1_target, alpha, temperature, clip
    )
    bonus = functional.munchausen_bonus(q_tm1_target, a_tm1, alpha, temperature, clip)
    log_tm1 = naive_log_policy(q_tm1_target, temperature)
    log_t = naive_log_policy(q_t, temperature)
    clipped = 0
    for row in range(16):
        scaled = temperature * log_tm1[row, a_tm1[row]].item()
        clipped += scaled < clip
        torch.testing.assert_close(bonus[row].item(), alpha * min(max(scaled, clip), 0))
        value = sum(
            exp(log_t[row, a]) * (q_t[row, a].item() - temperature * log_t[row, a].item())
            for a in range(3)
        )
        target = r_t[row].item() + bonus[row].item() + discount_t[row].item() * value
        torch.testing.assert_close(error[row].item(), target - q_tm1[row, a_tm1[row]].item())
    assert 0 < clipped < 16


@pytest.mark.parametrize("temperature", [1e-6, 1e-30, 1e-40])
def test_munchausen_with_alpha_0_at_low_temperature_equals_q_learning(temperature: float) -> None:
    q_tm1, q_t, q_tm1_target = (torch.randn(16, 3) * 100 for _ in range(3))
    transition = (q_tm1, torch.randint(3, (16,)), torch.randn(16), torch.rand(16), q_t)
    torch.testing.assert_close(
        functional.munchausen_q_learning(*transition, q_tm1_target, 0.0, temperature),
        functional.q_learning(*transition),
    )


def errors_of(x: Tensor, y: Tensor) -> list[Tensor]:
    """Return every error with predictions x and targets computed from y, both [4, 3]."""
    transition = (x, torch.arange(4) % 3, y[:, 0], y[:, 1], y)
    return [
        functional.q_learning(*transition),
        functional.q_learning(*transition, rescaled=True),
        functional.double_q_learning(*transition, y + 1),
        functional.double_q_learning(*transition, y + 1, rescaled=True),
        functional.munchausen_q_learning(*transition, y - 1),
    ]


def test_gradients_flow_only_through_predictions() -> None:
    x, y = (torch.randn(4, 3, requires_grad=True) for _ in range(2))
    for error in errors_of(x, y):
        x.grad = None
        error.sum().backward()
        assert y.grad is None
        assert x.grad is not None
        assert torch.equal(x.grad, -torch.nn.functional.one_hot(torch.arange(4) % 3, 3).float())


def test_errors_can_be_recorded_and_replayed_with_other_inputs() -> None:
    x, y = torch.randn(4, 3), torch.randn(4, 3)
    recorder = OpRecorder()
    with recorder:
        results = errors_of(x, y)
    recorded = recorder.finish(*results)
    x.normal_()
    y.normal_()
    recorder()
    expected = errors_of(x, y)
    torch.testing.assert_close(recorded, expected)


B, A, AK = torch.zeros(3), torch.zeros(3, 2), torch.zeros(3, 2, 5)
a = torch.zeros(3, dtype=torch.int64)


@pytest.mark.parametrize(
    ("formula", "arguments", "message"),
    [
        (functional.scaled_log_policy, (AK, 1.0), "q must have rank 2"),
        (functional.soft_value, (B, 1.0), "q must have rank 2"),
        (functional.munchausen_bonus, (B, a), "q_tm1_target must have rank 2"),
        (functional.munchausen_bonus, (A, a[:, None]), "a_tm1 must have rank 1"),
        (functional.munchausen_q_learning, (B, a, B, B, A, A), "q_tm1 must have rank 2"),
        (functional.munchausen_q_learning, (A, A, B, B, A, A), "a_tm1 must have rank 1"),
        (functional.munchausen_q_learning, (A, a, A, B, A, A), "r_t must have rank 1"),
        (functional.munchausen_q_learning, (A, a, B, A, A, A), "discount_t must have rank 1"),
        (functional.munchausen_q_learning, (A, a, B, B, B, A), "q_t must have rank 2"),
        (functional.munchausen_q_learning, (A, a, B, B, A, B), "q_tm1_target must have rank 2"),
    ],
)
def test_tensors_of_the_wrong_rank_are_rejected(
    formula: Callable[..., Tensor], arguments: tuple[object, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        formula(*arguments)


def test_huber_is_quadratic_up_to_kappa_and_linear_beyond() -> None:
    error = torch.linspace(-5, 5, 101)
    for kappa in (0.5, 1.0, 2.0):
        size = error.abs()
        expected = torch.where(size <= kappa, size**2 / 2, kappa * (size - kappa / 2))
        torch.testing.assert_close(functional.huber(error, kappa), expected)


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("loss", ["huber", "squared"])
def test_the_gradient_flows_only_through_the_online_network(loss: str, double: bool) -> None:
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

    def values(network: torch.nn.Module) -> Any:
        return lambda obs, noise: QValues(network(obs))

    output = DQN(loss, double)(values(online), values(target), batch)
    output.loss.mean().backward()
    assert online.weight.grad.abs().sum() > 0
    assert target.weight.grad is None
    assert output.loss.shape == output.priority.shape == (4,)
    assert not output.priority.requires_grad
