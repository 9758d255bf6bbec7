"""The formulas for distributions of returns, by the conventions of `functional`.

A categorical distribution has fixed atoms and learns their probabilities; quantiles have fixed or
drawn probabilities (taus) and are learnt themselves. K atoms, N quantiles that are predicted and M
that they are compared with.
"""

import torch
from torch import Tensor

from dqn_lightning.losses.functional import check_ranks, scaled_log_policy

_WORTH_SORTING = 2_000
"""Pairs of a prediction and a target from which on sorting costs less than looking at each."""


def _of_actions(values: Tensor, actions: Tensor) -> Tensor:
    """[B, A, K], [B] → [B, K]."""
    index = actions[:, None, None].expand(-1, 1, values.shape[2])
    return values.gather(1, index).squeeze(1)


def categorical_projection(z_p: Tensor, p: Tensor, z_q: Tensor) -> Tensor:
    """Distributions with atoms z_p as the closest ones with the atoms z_q.

    sum_j clip(1 - |clip(z_p_j, z_q_1, z_q_K) - z_q_i| / dz, 0, 1) p_j, Bellemare, Dabney and Munos
    2017, equation 7: each atom shares its probability between its two neighbours, which keeps
    the mean; atoms beyond the ends give theirs to the ends.

    Args:
        z_p: Atoms [B, J].
        p: Their probabilities [B, J].
        z_q: At least two evenly spaced atoms [K], ascending.

    Returns:
        Probabilities of z_q [B, K].

    Raises:
        ValueError: If a tensor has the wrong rank.

    >>> categorical_projection(torch.tensor([[0.5, 2.0, 9.0]]), torch.tensor([[0.5, 0.25, 0.25]]),
    ...                        torch.tensor([0.0, 2.0, 4.0]))
    tensor([[0.3750, 0.3750, 0.2500]])
    """
    check_ranks(2, z_p=z_p, p=p)
    check_ranks(1, z_q=z_q)
    last = z_q.shape[0] - 1
    position = ((z_p - z_q[0]) / ((z_q[-1] - z_q[0]) / last)).clamp(0, last)
    lower = position.floor().clamp(max=last - 1)  # so that there always is an upper one
    p_upper = p * (position - lower)
    index = lower.long()
    projected = p.new_zeros(p.shape[0], last + 1).scatter_add(1, index, p - p_upper)
    projected[:, 1:].scatter_add_(1, index, p_upper)
    return projected


def categorical_q_learning(
    logits_tm1: Tensor,
    a_tm1: Tensor,
    r_t: Tensor,
    discount_t: Tensor,
    p_t: Tensor,
    q_t_selector: Tensor,
    atoms: Tensor,
) -> Tensor:
    """Cross-entropy of C51: -sum_k target_k ln softmax(logits_tm1(a_tm1))_k.

    Bellemare, Dabney and Munos 2017: the target is r_t + discount_t Z, projected onto the atoms,
    with Z distributed as p_t(argmax_a q_t_selector(a)). No gradient flows through it.

    Args:
        logits_tm1: Logits of the atoms' probabilities [B, A, K].
        a_tm1: Actions taken [B], int64.
        r_t: Rewards [B].
        discount_t: Discounts [B], 0 beyond terminal states.
        p_t: Probabilities at the next observations by the target network [B, A, K].
        q_t_selector: Action values that choose among them [B, A]: their means, or the online
            network's for double Q-learning.
        atoms: Evenly spaced returns [K], ascending.

    Returns:
        Cross-entropies [B].

    Raises:
        ValueError: If a tensor has the wrong rank.

    >>> categorical_q_learning(torch.zeros(1, 1, 2), torch.tensor([0]), torch.tensor([1.0]),
    ...                        torch.tensor([0.0]), torch.tensor([[[0.5, 0.5]]]),
    ...                        torch.tensor([[0.5]]), torch.tensor([0.0, 1.0]))  # ln 2
    tensor([0.6931])
    """
    check_ranks(3, logits_tm1=logits_tm1, p_t=p_t)
    check_ranks(2, q_t_selector=q_t_selector)
    check_ranks(1, a_tm1=a_tm1, r_t=r_t, discount_t=discount_t, atoms=atoms)
    with torch.no_grad():
        p = _of_actions(p_t, q_t_selector.argmax(dim=1))
        z = torch.addcmul(r_t[:, None], discount_t[:, None], atoms)  # [B, K]
        target = categorical_projection(z, p, atoms)
    log_p_tm1 = _of_actions(logits_tm1, a_tm1).log_softmax(dim=1)
    return -(target * log_p_tm1).sum(dim=1)


def quantile_huber(error: Tensor, taus: Tensor, delta: float = 1.0) -> Tensor:
    """Huber's loss of quantile regression: sum_i mean_j |tau_i - 1{e_ij < 0}| huber(e_ij) / delta.

    Dabney et al. 2018a (QR-DQN), equations 9 and 10, divided by delta as in equation 3 of 2018b
    (IQN): the sum is over predictions, the mean over targets. With delta 0 it is
    |tau_i - 1{e_ij < 0}| |e_ij|, whose minimum is the quantile itself. Differentiable once.

    Args:
        error: Target j minus prediction i [B, N, M].
        taus: Probabilities of the predicted quantiles, the same for all rows [N] or not [B, N].
        delta: Size of the error from which on the loss is linear.

    Returns:
        Losses [B].

    Raises:
        ValueError: If a tensor has the wrong rank.

    >>> quantile_huber(torch.tensor([[[2.0, -2.0], [0.0, 1.0]]]), torch.tensor([0.25, 0.5]))
    tensor([0.8750])
    """
    check_ranks(3, error=error)
    check_ranks(2 if taus.ndim > 1 else 1, taus=taus)
    # Huber's loss is c (e - c/2) with c = clip(e, -delta, delta), and its derivative is c:
    # differentiated with c held fixed it gives just that, with fewer tensors [B, N, M].
    with torch.no_grad():
        clipped = error.clamp(-delta, delta) if delta > 0 else error.sign()
        slope = (taus[..., None] - (error < 0).to(error.dtype)).abs_().mul_(clipped)
    if delta > 0:
        loss = slope * torch.sub(error, clipped, alpha=0.5)
        return loss.sum(dim=(1, 2)) / (delta * error.shape[2])
    return (slope * error).sum(dim=(1, 2)) / error.shape[2]


def sorted_quantile_huber(
    prediction: Tensor, taus: Tensor, target: Tensor, delta: float = 1.0
) -> Tensor:
    """`quantile_huber` of all differences target_j - prediction_i, which are never made.

    For N predictions and M sorted targets in (N + M) log M steps, not N M: those targets that lie
    more than delta below a prediction, up to delta below, up to delta above, and beyond, stand side
    by side, and what is summed over such a stretch is a difference of two running sums: of numbers,
    values and squares. Differentiable once.

    Args:
        prediction: Quantiles [B, N].
        taus: Their probabilities, the same for all rows [N] or not [B, N].
        target: Samples of the target distribution [B, M].
        delta: Size of an error from which on the loss is linear, above 0.

    Returns:
        Losses [B].

    Raises:
        ValueError: If a tensor has the wrong rank.

    >>> sorted_quantile_huber(torch.tensor([[0.0, 1.0]]), torch.tensor([0.25, 0.5]),
    ...                       torch.tensor([[2.0, -2.0]]))
    tensor([1.5000])
    """
    check_ranks(2, prediction=prediction, target=target)
    check_ranks(2 if taus.ndim > 1 else 1, taus=taus)
    num_targets = target.shape[1]
    with torch.no_grad():
        centre = target.mean(dim=1, keepdim=True)  # small numbers lose fewer digits when squared
        t, q = (target - centre).sort(dim=1).values, prediction - centre
        edges = torch.searchsorted(t, torch.cat([q - delta, q, q + delta], dim=1))
        edges = torch.unflatten(edges, 1, (3, -1))  # [B, 3, N]
        first, last = torch.zeros_like(edges[:, :1]), torch.full_like(edges[:, :1], num_targets)
        edges = torch.cat([first, edges, last], dim=1)  # of four stretches [B, 5, N]
        sums = torch.stack([torch.ones_like(t), t, t * t], dim=1).cumsum(dim=2)  # [B, 3, M]
        sums = torch.nn.functional.pad(sums, (1, 0))
        at_edges = sums.gather(2, edges.flatten(1)[:, None].expand(-1, 3, -1))
        stretches = torch.diff(torch.unflatten(at_edges, 2, (5, -1)), dim=2)
        n, s, ss = torch.unbind(stretches, dim=1)  # each [B, 4, N]
        far_below = delta * (q * n[:, 0] - s[:, 0] - delta / 2 * n[:, 0])
        far_above = delta * (s[:, 3] - q * n[:, 3] - delta / 2 * n[:, 3])
        below, above = ((ss[:, i] - q * (2 * s[:, i] - q * n[:, i])) / 2 for i in (1, 2))
        loss = (1 - taus) * (far_below + below) + taus * (far_above + above)
        pull_down = delta * n[:, 0] + q * n[:, 1] - s[:, 1]
        pull_up = delta * n[:, 3] + s[:, 2] - q * n[:, 2]
        slope = (1 - taus) * pull_down - taus * pull_up
    loss = loss + slope * (prediction - prediction.detach())  # 0, but for its derivative
    return loss.sum(dim=1) / (delta * num_targets)


def quantile_regression(
    quantiles_tm1: Tensor, taus: Tensor, a_tm1: Tensor, target: Tensor, delta: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Quantile Huber loss of an action's quantiles towards samples of what they should be.

    `quantile_huber` of target_j - quantiles_tm1(a_tm1)_i, Dabney et al. 2018a (QR-DQN); and the
    temporal difference mean_j target_j - mean_i quantiles_tm1(a_tm1)_i. No gradient flows through
    the target, nor through the temporal difference.

    Args:
        quantiles_tm1: Quantiles [B, A, N].
        taus: Their probabilities, the same for all rows [N] or not [B, N].
        a_tm1: Actions taken [B], int64.
        target: Samples of the target distribution [B, M].
        delta: Size of an error from which on the loss is linear.

    Returns:
        Losses [B], temporal differences [B].

    Raises:
        ValueError: If a tensor has the wrong rank.

    >>> quantile_regression(torch.tensor([[[1.0, 3.0]]]), torch.tensor([0.25, 0.75]),
    ...                     torch.tensor([0]), torch.tensor([[3.0]]))
    (tensor([0.3750]), tensor([1.]))
    """
    check_ranks(3, quantiles_tm1=quantiles_tm1)
    check_ranks(2, target=target)
    check_ranks(1, a_tm1=a_tm1)
    prediction = _of_actions(quantiles_tm1, a_tm1)  # [B, N]
    target = target.detach()
    difference = target.mean(dim=1) - prediction.detach().mean(dim=1)
    if delta > 0 and prediction.shape[1] * target.shape[1] > _WORTH_SORTING:
        return sorted_quantile_huber(prediction, taus, target, delta), difference
    # Negated while small: the gradient of a difference [B, N, M] would be negated when large.
    error = target[:, None, :] + prediction.neg()[:, :, None]
    return quantile_huber(error, taus, delta), difference


def quantile_q_learning(
    quantiles_tm1: Tensor,
    taus: Tensor,
    a_tm1: Tensor,
    r_t: Tensor,
    discount_t: Tensor,
    quantiles_t: Tensor,
    q_t_selector: Tensor,
    delta: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Q-learning of quantiles: `quantile_regression` towards r_t + discount_t quantiles_t(a_t).

    a_t = argmax_a q_t_selector(a). With the midpoints of N equal intervals as taus this is QR-DQN,
    Dabney et al. 2018a; with taus drawn uniformly for each row it is IQN, Dabney et al. 2018b. No
    gradient flows through the target.

    Args:
        quantiles_tm1: Quantiles [B, A, N].
        taus: Their probabilities, the same for all rows [N] or not [B, N].
        a_tm1: Actions taken [B], int64.
        r_t: Rewards [B].
        discount_t: Discounts [B], 0 beyond terminal states.
        quantiles_t: Quantiles at the next observations by the target network [B, A, M].
        q_t_selector: Action values that choose among them [B, A]: their means, or the online
            network's for double Q-learning.
        delta: Size of an error from which on the loss is linear.

    Returns:
        Losses [B], temporal differences of the means [B].

    Raises:
        ValueError: If a tensor has the wrong rank.

    >>> quantile_q_learning(torch.tensor([[[1.0, 3.0]]]), torch.tensor([0.25, 0.75]),
    ...                     torch.tensor([0]), torch.tensor([1.0]), torch.tensor([0.5]),
    ...                     torch.tensor([[[9.0], [4.0]]]), torch.tensor([[1.0, 2.0]]))
    (tensor([0.3750]), tensor([1.]))
    """
    check_ranks(3, quantiles_t=quantiles_t)
    check_ranks(2, q_t_selector=q_t_selector)
    check_ranks(1, r_t=r_t, discount_t=discount_t)
    with torch.no_grad():
        z_t = _of_actions(quantiles_t, q_t_selector.argmax(dim=1))
        target = torch.addcmul(r_t[:, None], discount_t[:, None], z_t)  # [B, M]
    return quantile_regression(quantiles_tm1, taus, a_tm1, target, delta)


def soft_quantiles(quantiles_t: Tensor, q_t: Tensor, temperature: float) -> Tensor:
    """Quantiles of Munchausen's soft value: sum_a pi(a) (quantiles_t(a) - temperature ln pi(a)).

    Vieillard, Pietquin and Geist 2020 (M-IQN), where pi = softmax(q_t / temperature). For the
    target r_t + `munchausen_bonus` + discount_t of this, for `quantile_regression`. No gradient
    flows.

    Args:
        quantiles_t: Quantiles at the next observations by the target network [B, A, M].
        q_t: Their means, or other action values by the target network [B, A].
        temperature: Of the policy, above 0; near 0 these are the greedy action's quantiles.

    Returns:
        Samples [B, M].

    Raises:
        ValueError: If a tensor has the wrong rank.

    >>> soft_quantiles(torch.tensor([[[0.0, 2.0], [0.0, 4.0]]]), torch.tensor([[1.0, 1.0]]), 1.0)
    tensor([[0.6931, 3.6931]])
    """
    check_ranks(3, quantiles_t=quantiles_t)
    with torch.no_grad():
        scaled = scaled_log_policy(q_t, temperature)
        policy = (scaled / temperature).exp()
        entropy = -(policy * scaled).sum(dim=1, keepdim=True)  # [B, 1]
        return torch.bmm(policy[:, None], quantiles_t).squeeze(1) + entropy
