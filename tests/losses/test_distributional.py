from collections.abc import Callable
from math import ceil, floor, log

import pytest
import torch
from torch import Tensor

from dqn_lightning.engines.op_recorder import OpRecorder
from dqn_lightning.losses import distributional


@pytest.fixture(autouse=True)
def fix_seed() -> None:
    torch.manual_seed(0)


def naive_projection(z_p: Tensor, p: Tensor, z_q: Tensor) -> Tensor:
    """Algorithm 1 of Bellemare, Dabney and Munos 2017, one atom at a time."""
    first, last = z_q[0].item(), z_q[-1].item()
    spacing = (last - first) / (len(z_q) - 1)
    projected = torch.zeros(len(p), len(z_q), dtype=p.dtype)
    for row in range(len(p)):
        for z, mass in zip(z_p[row].tolist(), p[row].tolist(), strict=True):
            position = (min(max(z, first), last) - first) / spacing
            lower, upper = floor(position), ceil(position)
            if lower == upper:  # the published algorithm loses the mass here
                projected[row, lower] += mass
            else:
                projected[row, lower] += mass * (upper - position)
                projected[row, upper] += mass * (position - lower)
    return projected


def naive_quantile_huber(error: Tensor, taus: Tensor, kappa: float) -> Tensor:
    """Quantile Huber loss, computed one error at a time."""
    losses = []
    for row in range(error.shape[0]):
        loss = 0.0
        for i in range(error.shape[1]):
            tau = (taus[row] if taus.ndim == 2 else taus)[i].item()
            for e in error[row, i].tolist():
                size = abs(e)
                if kappa > 0:
                    size = e**2 / 2 / kappa if size <= kappa else size - kappa / 2
                loss += abs(tau - (e < 0)) * size / error.shape[2]
        losses.append(loss)
    return torch.tensor(losses, dtype=error.dtype)


def random_probabilities(*shape: int) -> Tensor:
    """Random distributions over the last dimension, in double precision."""
    return torch.randn(*shape, dtype=torch.float64).softmax(dim=-1)


def test_projection_splits_the_probability_of_an_atom_between_its_neighbors() -> None:
    projected = distributional.categorical_projection(
        z_p=torch.tensor([[0.25, 1.5], [2.0, 1.0]]),
        p=torch.tensor([[0.5, 0.5], [0.75, 0.25]]),
        z_q=torch.tensor([0.0, 1.0, 2.0]),
    )
    assert projected.tolist() == [[0.375, 0.125 + 0.25, 0.25], [0.0, 0.25, 0.75]]


def test_projection_clips_atoms_outside_the_support_to_its_ends() -> None:
    projected = distributional.categorical_projection(
        z_p=torch.tensor([[-7.0, 1.0, 99.0], [5.0, 6.0, 7.0], [-5.0, -6.0, -7.0]]),
        p=torch.tensor([[0.5, 0.125, 0.375]] * 3),
        z_q=torch.tensor([0.0, 1.0, 2.0]),
    )
    assert projected.tolist() == [[0.5, 0.125, 0.375], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]


@pytest.mark.parametrize("ends", [(-10.0, 10.0), (0.0, 500.0), (-1.3, 0.7)])
def test_projection_moves_the_whole_probability_to_a_coinciding_atom(
    ends: tuple[float, float],
) -> None:
    atoms = torch.linspace(*ends, 51)  # most of them are rounded in float32
    projected = distributional.categorical_projection(
        z_p=atoms[:, None], p=torch.ones(51, 1), z_q=atoms
    )
    torch.testing.assert_close(projected, torch.eye(51), atol=2e-5, rtol=0)
    torch.testing.assert_close(projected.sum(dim=1), torch.ones(51), atol=1e-6, rtol=0)


def test_projection_onto_the_same_atoms_is_the_identity() -> None:
    atoms = torch.linspace(-10, 10, 51)
    p = random_probabilities(8, 51).float()
    projected = distributional.categorical_projection(atoms.expand(8, 51), p, atoms)
    torch.testing.assert_close(projected, p, atol=1e-5, rtol=0)  # positions are rounded


def test_projection_equals_the_published_algorithm() -> None:
    z_p = torch.randn(16, 7, dtype=torch.float64) * 6  # some outside the support
    p = random_probabilities(16, 7)
    z_q = torch.linspace(-4, 8, 13, dtype=torch.float64)
    projected = distributional.categorical_projection(z_p, p, z_q)
    torch.testing.assert_close(projected, naive_projection(z_p, p, z_q))


def test_projection_preserves_the_mass_and_inside_the_support_the_mean() -> None:
    z_q = torch.linspace(-10, 10, 51, dtype=torch.float64)
    z_p = torch.rand(32, 9, dtype=torch.float64) * 20 - 10
    p = random_probabilities(32, 9)
    inside = distributional.categorical_projection(z_p, p, z_q)
    torch.testing.assert_close((inside * z_q).sum(dim=1), (p * z_p).sum(dim=1))
    outside = distributional.categorical_projection(3 * z_p, p, z_q)
    for projected in (inside, outside):
        torch.testing.assert_close(projected.sum(dim=1), p.sum(dim=1))
        assert projected.min() >= 0


def test_categorical_q_learning_equals_a_hand_computed_loss() -> None:
    # Row 0: the next action is 1, whose return is 4 with certainty. The target 1 + 0.5 * 4 = 3 lies
    # between the last two atoms. Row 1 is terminal: its target is 2, the middle atom.
    loss = distributional.categorical_q_learning(
        logits_tm1=torch.tensor([[[0.25, 0.25, 0.5], [9, 9, 9]], [[9, 9, 9], [0.25, 0.5, 0.25]]])
        .double()
        .log(),
        a_tm1=torch.tensor([0, 1]),
        r_t=torch.tensor([1.0, 2.0]).double(),
        discount_t=torch.tensor([0.5, 0.0]).double(),
        p_t=torch.tensor([[[1, 0, 0], [0, 0, 1]], [[1, 0, 0], [0, 0, 1]]]).double(),
        q_t_selector=torch.tensor([[0, 4], [7, 4]]).double(),
        atoms=torch.tensor([0, 2, 4]).double(),
    )
    expected = [-0.5 * log(0.25) - 0.5 * log(0.5), -log(0.5)]
    torch.testing.assert_close(loss, torch.tensor(expected).double())


def test_categorical_q_learning_equals_a_naive_loop() -> None:
    rows, actions, count = 16, 3, 11
    logits = torch.randn(rows, actions, count, dtype=torch.float64)
    a_tm1 = torch.randint(actions, (rows,))
    r_t = torch.randn(rows, dtype=torch.float64)
    discount_t = torch.rand(rows, dtype=torch.float64)
    p_t = random_probabilities(rows, actions, count)
    selector = torch.randn(rows, actions, dtype=torch.float64)
    atoms = torch.linspace(-2, 2, count, dtype=torch.float64)
    loss = distributional.categorical_q_learning(
        logits, a_tm1, r_t, discount_t, p_t, selector, atoms
    )
    expected = torch.zeros_like(loss)
    for row in range(rows):
        values = selector[row].tolist()
        best = values.index(max(values))
        z = r_t[row] + discount_t[row] * atoms
        target = naive_projection(z[None], p_t[row, best][None], atoms)[0]
        p = logits[row, a_tm1[row]].exp() / logits[row, a_tm1[row]].exp().sum()
        expected[row] = -sum(t * q.log() for t, q in zip(target, p, strict=True))
    torch.testing.assert_close(loss, expected)


def test_quantile_huber_sums_over_predictions_and_averages_over_targets() -> None:
    error = torch.ones(1, 2, 3)
    taus = torch.tensor([0.5, 0.5])
    assert distributional.quantile_huber(error, taus).item() == 2 * 0.5 * 0.5
    more_predictions = distributional.quantile_huber(error.repeat(1, 4, 1), taus.repeat(4))
    assert more_predictions.item() == 4 * 0.5
    more_targets = distributional.quantile_huber(error.repeat(1, 1, 4), taus)
    assert more_targets.item() == 0.5


def test_quantile_huber_equals_hand_computed_losses() -> None:
    error = torch.tensor([[[3.0], [-3.0]], [[-1.0], [1.0]]])
    taus = torch.tensor([[0.25, 0.25], [0.75, 0.125]])
    expected = {
        0.0: [0.25 * 3 + 0.75 * 3, 0.25 * 1 + 0.125 * 1],
        1.0: [0.25 * 2.5 + 0.75 * 2.5, 0.25 * 0.5 + 0.125 * 0.5],
        2.0: [0.25 * 2 + 0.75 * 2, 0.25 * 0.25 + 0.125 * 0.25],
    }
    for kappa, losses in expected.items():
        assert distributional.quantile_huber(error, taus, kappa).tolist() == losses


@pytest.mark.parametrize("kappa", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("shape", [(5,), (8, 5)])
def test_quantile_huber_equals_a_naive_loop(shape: tuple[int, ...], kappa: float) -> None:
    error = torch.randn(8, 5, 6, dtype=torch.float64) * 2
    taus = torch.rand(*shape, dtype=torch.float64)
    loss = distributional.quantile_huber(error, taus, kappa)
    torch.testing.assert_close(loss, naive_quantile_huber(error, taus, kappa))


@pytest.mark.parametrize("kappa", [0.0, 1.0])
def test_the_gradient_of_quantile_huber_equals_finite_differences(kappa: float) -> None:
    error = (torch.randn(4, 3, 5, dtype=torch.float64) * 2).requires_grad_()
    taus = torch.rand(4, 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda e: distributional.quantile_huber(e, taus, kappa), error)


@pytest.mark.parametrize("kappa", [0.1, 1.0, 30.0])
@pytest.mark.parametrize("shape", [(5, 7), (40, 60), (1, 1), (3, 200)])
def test_sorted_quantile_huber_has_the_loss_and_gradient_of_quantile_huber(
    shape: tuple[int, int], kappa: float
) -> None:
    prediction = torch.randn(4, shape[0], dtype=torch.float64, requires_grad=True)
    target = 3 * torch.randn(4, shape[1], dtype=torch.float64) + 100
    target[1] = target[1].round()  # ties, and errors of exactly kappa
    with torch.no_grad():
        prediction += 100
        prediction[1] = prediction[1].round()
        prediction[2] += 50  # all predictions are above the targets
    for taus in (torch.rand(shape[0]).double(), torch.rand(4, shape[0]).double()):
        losses = [
            distributional.quantile_huber(target[:, None] - prediction[:, :, None], taus, kappa),
            distributional.sorted_quantile_huber(prediction, taus, target, kappa),
        ]
        torch.testing.assert_close(*losses)
        gradients = [torch.autograd.grad(loss.sum(), prediction)[0] for loss in losses]
        torch.testing.assert_close(*gradients)


def test_sorted_quantile_huber_is_accurate_in_single_precision() -> None:
    quantiles = (torch.randn(8, 2, 200) + 300).requires_grad_()
    target, taus = 20 * torch.randn(8, 200) + 300, (torch.arange(200) + 0.5) / 200
    action = torch.arange(8) % 2
    loss, _ = distributional.quantile_regression(quantiles, taus, action, target)
    error = target[:, None].double() - quantiles[torch.arange(8), action].double()[:, :, None]
    expected = distributional.quantile_huber(error, taus.double())
    torch.testing.assert_close(loss.double(), expected, rtol=1e-4, atol=1e-3)
    (gradient,) = torch.autograd.grad(loss.sum(), quantiles)
    (expected,) = torch.autograd.grad(expected.sum(), quantiles)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-5)


def test_quantile_regression_is_minimized_by_the_quantile() -> None:
    samples = torch.arange(1.0, 101.0)  # their 25 % quantile lies between 25 and 26
    predictions = torch.arange(0.0, 100.0) + 0.5
    error = samples - predictions[:, None, None]  # [100 predictions, 1, 100]
    loss = distributional.quantile_huber(error, torch.tensor([0.25]), kappa=0.0)
    assert predictions[loss.argmin()] == 25.5


def test_quantile_q_learning_equals_a_hand_computed_loss() -> None:
    # Row 0: targets 1 + 0.5 * (4, 8) = (3, 5) against predictions (2, 5), errors (1, 3), (-2, 0).
    # Row 1 is terminal: targets (2, 2) against (0, 2), errors (2, 2), (0, 0).
    loss, difference = distributional.quantile_q_learning(
        quantiles_tm1=torch.tensor([[[9.0, 9.0], [2.0, 5.0]], [[0.0, 2.0], [9.0, 9.0]]]),
        taus=torch.tensor([0.25, 0.75]),
        a_tm1=torch.tensor([1, 0]),
        r_t=torch.tensor([1.0, 2.0]),
        discount_t=torch.tensor([0.5, 0.0]),
        quantiles_t=torch.tensor([[[4.0, 8.0], [0.0, 0.0]], [[7.0, 7.0], [6.0, 6.0]]]),
        q_t_selector=torch.tensor([[1.0, 0.0], [0.0, 1.0]]),
    )
    assert loss.tolist() == [
        (0.25 * 0.5 + 0.25 * 2.5) / 2 + (0.25 * 1.5 + 0.0) / 2,
        (0.25 * 1.5 + 0.25 * 1.5) / 2,
    ]
    assert difference.tolist() == [4 - 3.5, 2 - 1]


@pytest.mark.parametrize("shape", [(4,), (8, 4)])
def test_quantile_q_learning_equals_a_naive_loop(shape: tuple[int, ...]) -> None:
    rows, actions, predicted, compared = 8, 3, 4, 6
    quantiles_tm1 = torch.randn(rows, actions, predicted, dtype=torch.float64)
    quantiles_t = torch.randn(rows, actions, compared, dtype=torch.float64)
    taus = torch.rand(*shape, dtype=torch.float64)
    a_tm1 = torch.randint(actions, (rows,))
    r_t = torch.randn(rows, dtype=torch.float64)
    discount_t = torch.rand(rows, dtype=torch.float64)
    selector = torch.randn(rows, actions, dtype=torch.float64)
    loss, difference = distributional.quantile_q_learning(
        quantiles_tm1, taus, a_tm1, r_t, discount_t, quantiles_t, selector, kappa=0.5
    )
    error = torch.zeros(rows, predicted, compared, dtype=torch.float64)
    for row in range(rows):
        values = selector[row].tolist()
        best = values.index(max(values))
        for i in range(predicted):
            for j in range(compared):
                target = r_t[row] + discount_t[row] * quantiles_t[row, best, j]
                error[row, i, j] = target - quantiles_tm1[row, a_tm1[row], i]
    torch.testing.assert_close(loss, naive_quantile_huber(error, taus, 0.5))
    torch.testing.assert_close(difference, error.mean(dim=(1, 2)))


def test_soft_quantiles_equal_a_naive_loop() -> None:
    quantiles = torch.randn(8, 3, 5, dtype=torch.float64)
    q, temperature = quantiles.mean(dim=2), 0.3
    expected = torch.zeros(8, 5, dtype=torch.float64)
    for row in range(8):
        weights = [(value / temperature).exp() for value in q[row]]
        for a, weight in enumerate(weights):
            policy = weight / sum(weights)
            expected[row] += policy * (quantiles[row, a] - temperature * policy.log())
    torch.testing.assert_close(distributional.soft_quantiles(quantiles, q, temperature), expected)


@pytest.mark.parametrize("temperature", [1e-6, 1e-30, 1e-40])
def test_soft_quantiles_at_low_temperature_are_those_of_the_greedy_action(
    temperature: float,
) -> None:
    quantiles = torch.randn(8, 3, 5) * 100
    q = quantiles.mean(dim=2)
    expected = torch.stack([quantiles[row, q[row].argmax()] for row in range(8)])
    torch.testing.assert_close(distributional.soft_quantiles(quantiles, q, temperature), expected)


def losses_of(x: Tensor, y: Tensor) -> list[Tensor]:
    """Return every loss with predictions x and targets computed from y, both [4, 3, 5]."""
    rows, atoms = torch.arange(4) % 3, torch.linspace(-1, 1, 5)
    means = y.mean(dim=2)
    transition = (rows, means[:, 0], means[:, 1])
    return [
        distributional.categorical_q_learning(x, *transition, y.softmax(dim=2), means, atoms),
        distributional.quantile_q_learning(x, atoms.abs(), *transition, y, means)[0],
        distributional.quantile_regression(
            x, atoms.abs(), rows, distributional.soft_quantiles(y, means, 0.1)
        )[0],
        distributional.quantile_regression(x, atoms.abs(), rows, y[:, 0])[0],
    ]


def test_gradients_flow_only_through_the_predictions_of_the_actions_taken() -> None:
    x, y = (torch.randn(4, 3, 5, requires_grad=True) for _ in range(2))
    for loss in losses_of(x, y):
        assert loss.shape == (4,)
        x.grad = None
        loss.sum().backward()
        assert y.grad is None
        assert x.grad is not None
        taken = torch.nn.functional.one_hot(torch.arange(4) % 3, 3).bool()
        assert torch.equal(x.grad.abs().sum(dim=2) > 0, taken)


def test_quantile_temporal_differences_have_no_gradient() -> None:
    x, target = torch.randn(4, 3, 5, requires_grad=True), torch.randn(4, 2)
    _, difference = distributional.quantile_regression(
        x, torch.rand(5), torch.zeros(4, dtype=torch.int64), target
    )
    assert not difference.requires_grad


def test_losses_and_gradients_can_be_recorded_and_replayed_with_other_inputs() -> None:
    x, y = torch.randn(4, 3, 5, requires_grad=True), torch.randn(4, 3, 5)

    def differentiate() -> list[Tensor]:
        losses = losses_of(x, y)
        return [*losses, *(torch.autograd.grad(loss.sum(), x)[0] for loss in losses)]

    recorder = OpRecorder()
    with recorder:
        results = differentiate()
    recorded = recorder.finish(*results)
    with torch.no_grad():
        x.normal_()
        y.normal_()
    before = [result.clone() for result in recorded]
    recorder()
    for result, old, expected in zip(recorded, before, differentiate(), strict=True):
        torch.testing.assert_close(result, expected)
        assert not torch.allclose(result, old)


B, AK, K = torch.zeros(3), torch.zeros(3, 2, 5), torch.zeros(5)
A = torch.zeros(3, 2)
a = torch.zeros(3, dtype=torch.int64)


@pytest.mark.parametrize(
    ("formula", "arguments", "message"),
    [
        (distributional.categorical_projection, (K, A, K), "z_p must have rank 2"),
        (distributional.categorical_projection, (A, B, K), "p must have rank 2"),
        (distributional.categorical_projection, (A, A, A), "z_q must have rank 1"),
        (distributional.categorical_q_learning, (A, a, B, B, AK, A, K), "logits_tm1 .* rank 3"),
        (distributional.categorical_q_learning, (AK, A, B, B, AK, A, K), "a_tm1 .* rank 1"),
        (distributional.categorical_q_learning, (AK, a, A, B, AK, A, K), "r_t .* rank 1"),
        (distributional.categorical_q_learning, (AK, a, B, A, AK, A, K), "discount_t .* rank 1"),
        (distributional.categorical_q_learning, (AK, a, B, B, A, A, K), "p_t .* rank 3"),
        (distributional.categorical_q_learning, (AK, a, B, B, AK, AK, K), "q_t_selector .* rank 2"),
        (distributional.categorical_q_learning, (AK, a, B, B, AK, A, A), "atoms .* rank 1"),
        (distributional.quantile_huber, (A, B), "error must have rank 3"),
        (distributional.quantile_huber, (AK, AK), "taus must have rank 2"),
        (distributional.quantile_huber, (AK, torch.tensor(0.5)), "taus must have rank 1"),
        (distributional.quantile_regression, (A, K, a, A), "quantiles_tm1 must have rank 3"),
        (distributional.quantile_regression, (AK, K, A, A), "a_tm1 must have rank 1"),
        (distributional.quantile_regression, (AK, K, a, B), "target must have rank 2"),
        (distributional.quantile_q_learning, (AK, K, a, A, B, AK, A), "r_t must have rank 1"),
        (distributional.quantile_q_learning, (AK, K, a, B, A, AK, A), "discount_t .* rank 1"),
        (distributional.quantile_q_learning, (AK, K, a, B, B, A, A), "quantiles_t .* rank 3"),
        (distributional.quantile_q_learning, (AK, K, a, B, B, AK, B), "q_t_selector .* rank 2"),
        (distributional.soft_quantiles, (A, A, 1.0), "quantiles_t must have rank 3"),
        (distributional.soft_quantiles, (AK, B, 1.0), "q must have rank 2"),
    ],
)
def test_tensors_of_the_wrong_rank_are_rejected(
    formula: Callable[..., object], arguments: tuple[object, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        formula(*arguments)
