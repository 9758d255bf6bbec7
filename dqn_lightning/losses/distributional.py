"""Formulas for distributional Q-learning, with the conventions of `functional`.

A categorical distribution has fixed atoms and learned probabilities. A quantile distribution has
fixed or sampled probabilities (taus) and learned quantiles. In shapes, K is the number of atoms, N
the number of predicted quantiles, and M the number of target samples.
"""

import torch
from torch import Tensor

from dqn_lightning.losses.functional import check_ranks, scaled_log_policy

_MIN_PAIRS_FOR_SORTING = 2_000
"""Number of prediction-target pairs N·M above which `sorted_quantile_huber` is faster."""


def _select(values: Tensor, actions: Tensor) -> Tensor:
    """Return the values [B, K] for each row's action, given values [B, A, K] and actions [B]."""
    index = actions[:, None, None].expand(-1, 1, values.shape[2])
    return values.gather(1, index).squeeze(1)


def categorical_projection(z_p: Tensor, p: Tensor, z_q: Tensor) -> Tensor:
    """Project categorical distributions with the atoms z_p onto the atoms z_q.

    Bellemare, Dabney and Munos 2017, equation 7. Each atom of z_p is first clipped to the range of
    z_q. Its probability is then split between the two nearest atoms of z_q so that the mean is
    preserved. Atom i of z_q thus receives the probability

        sum_j clip(1 - |z_p_j - z_q_i| / dz, 0, 1) p_j

    where z_p_j is already clipped, and dz is the spacing of z_q.

    Args:
        z_p: Atoms [B, J] of the distributions.
        p: Probabilities [B, J] of these atoms.
        z_q: Evenly spaced atoms [K] to project onto, in ascending order; K must be at least 2.

    Returns:
        Probabilities [B, K] of the atoms z_q.

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
    lower = position.floor().clamp(max=last - 1)  # the upper atom, lower + 1, must exist
    p_upper = p * (position - lower)
    index = lower.long()
    projected = p_upper.new_zeros(p.shape[0], last + 1).scatter_add(1, index, p - p_upper)
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
    """Cross-entropy loss of C51: -sum_k target_k ln softmax(logits_tm1(a_tm1))_k.

    Bellemare, Dabney and Munos 2017. The next action is a_t = argmax_a q_t_selector(a). The target
    is the distribution of r_t + discount_t Z, projected onto the atoms, where the return Z is
    distributed over the atoms with probabilities p_t(a_t). No gradient flows through the target.

    Args:
        logits_tm1: Logits [B, A, K] of the atoms.
        a_tm1: Actions taken [B], int64.
        r_t: Rewards [B].
        discount_t: Discounts [B], 0 after terminal states.
        p_t: Target network's probabilities [B, A, K] of the atoms at the next observations.
        q_t_selector: Action values [B, A] that select the next action: the means of p_t, or the
            online network's action values for double Q-learning.
        atoms: Evenly spaced returns [K], ascending.

    Returns:
        Losses [B].

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
        p = _select(p_t, q_t_selector.argmax(dim=1))
        z = torch.addcmul(r_t[:, None], discount_t[:, None], atoms)  # [B, K]
        target = categorical_projection(z, p, atoms)
    log_p_tm1 = _select(logits_tm1, a_tm1).log_softmax(dim=1)
    return -(target * log_p_tm1).sum(dim=1)


def quantile_huber(error: Tensor, taus: Tensor, kappa: float = 1.0) -> Tensor:
    """Quantile Huber loss: sum_i mean_j |tau_i - 1{e_ij < 0}| huber(e_ij) / kappa.

    Dabney et al. 2018a (QR-DQN), equations 9 and 10, divided by kappa as in equation 3 of Dabney et
    al. 2018b (IQN). The loss is summed over predictions i and averaged over targets j. For
    kappa = 0, each term is the quantile regression loss |tau_i - 1{e_ij < 0}| |e_ij|, which is
    minimized by the exact quantile. Only first derivatives are supported.

    Args:
        error: Errors [B, N, M]: target j minus prediction i.
        taus: Probabilities of the predicted quantiles, [N] if shared by all rows, else [B, N].
        kappa: Absolute error above which the loss is linear; 0 for quantile regression.

    Returns:
        Losses [B].

    Raises:
        ValueError: If a tensor has the wrong rank.

    >>> quantile_huber(torch.tensor([[[2.0, -2.0], [0.0, 1.0]]]), torch.tensor([0.25, 0.5]))
    tensor([0.8750])
    """
    check_ranks(3, error=error)
    check_ranks(2 if taus.ndim > 1 else 1, taus=taus)
    # The Huber loss is c (e - c/2) with c = clip(e, -kappa, kappa), and its derivative is c.
    # Treating c as a constant yields the same derivative and needs fewer tensors [B, N, M].
    with torch.no_grad():
        clipped = error.clamp(-kappa, kappa) if kappa > 0 else error.sign()
        slope = (taus[..., None] - (error < 0).to(error.dtype)).abs_().mul_(clipped)
    if kappa > 0:
        loss = slope * torch.sub(error, clipped, alpha=0.5)
        return loss.sum(dim=(1, 2)) / (kappa * error.shape[2])
    return (slope * error).sum(dim=(1, 2)) / error.shape[2]


def sorted_quantile_huber(
    prediction: Tensor, taus: Tensor, target: Tensor, kappa: float = 1.0
) -> Tensor:
    """Quantile Huber loss of the errors e_ij = target_j - prediction_i, computed by sorting.

    Equals `quantile_huber` up to rounding, in O((N + M) log M) time and without a tensor of all
    errors [B, N, M]. For each prediction, the sorted targets fall into four contiguous segments:
    more than kappa below it, at most kappa below, at most kappa above, and more than kappa above.
    The loss of a segment depends only on the number, the sum, and the sum of squares of its
    targets, which are differences of cumulative sums. Only first derivatives with respect to the
    prediction are supported; no gradient flows through the target.

    Args:
        prediction: Predicted quantiles [B, N].
        taus: Probabilities of the predicted quantiles, [N] if shared by all rows, else [B, N].
        target: Samples [B, M] of the target distribution.
        kappa: Absolute error above which the loss is linear, positive.

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
        center = target.mean(dim=1, keepdim=True)  # centering reduces rounding errors
        t, q = (target - center).sort(dim=1).values, prediction - center
        edges = torch.searchsorted(t, torch.cat([q - kappa, q, q + kappa], dim=1))
        edges = torch.unflatten(edges, 1, (3, -1))  # [B, 3, N]
        first, last = torch.zeros_like(edges[:, :1]), torch.full_like(edges[:, :1], num_targets)
        edges = torch.cat([first, edges, last], dim=1)  # [B, 5, N]
        sums = torch.stack([torch.ones_like(t), t, t * t], dim=1).cumsum(dim=2)  # [B, 3, M]
        sums = torch.nn.functional.pad(sums, (1, 0))
        at_edges = sums.gather(2, edges.flatten(1)[:, None].expand(-1, 3, -1))
        segments = torch.diff(torch.unflatten(at_edges, 2, (5, -1)), dim=2)
        n, s, ss = torch.unbind(segments, dim=1)  # number, sum, sum of squares, each [B, 4, N]
        far_below = kappa * (q * n[:, 0] - s[:, 0] - kappa / 2 * n[:, 0])
        far_above = kappa * (s[:, 3] - q * n[:, 3] - kappa / 2 * n[:, 3])
        below, above = ((ss[:, i] - q * (2 * s[:, i] - q * n[:, i])) / 2 for i in (1, 2))
        loss = (1 - taus) * (far_below + below) + taus * (far_above + above)
        pull_down = kappa * n[:, 0] + q * n[:, 1] - s[:, 1]
        pull_up = kappa * n[:, 3] + s[:, 2] - q * n[:, 2]
        slope = (1 - taus) * pull_down - taus * pull_up
    loss = loss + slope * (prediction - prediction.detach())  # adds 0; sets the derivative
    return loss.sum(dim=1) / (kappa * num_targets)


def quantile_regression(
    quantiles_tm1: Tensor, taus: Tensor, a_tm1: Tensor, target: Tensor, kappa: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Quantile Huber loss and temporal difference between an action's quantiles and target samples.

    The loss is `quantile_huber` of target_j - quantiles_tm1(a_tm1)_i (Dabney et al. 2018a, QR-DQN).
    The temporal difference is mean_j target_j - mean_i quantiles_tm1(a_tm1)_i. No gradient flows
    through the target or the temporal difference.

    Args:
        quantiles_tm1: Quantiles [B, A, N] at the observations.
        taus: Probabilities of these quantiles, [N] if shared by all rows, else [B, N].
        a_tm1: Actions taken [B], int64.
        target: Samples [B, M] of the target distribution.
        kappa: Absolute error above which the loss is linear; 0 for quantile regression.

    Returns:
        Losses [B] and temporal differences [B].

    Raises:
        ValueError: If a tensor has the wrong rank.

    >>> quantile_regression(torch.tensor([[[1.0, 3.0]]]), torch.tensor([0.25, 0.75]),
    ...                     torch.tensor([0]), torch.tensor([[3.0]]))
    (tensor([0.3750]), tensor([1.]))
    """
    check_ranks(3, quantiles_tm1=quantiles_tm1)
    check_ranks(2, target=target)
    check_ranks(1, a_tm1=a_tm1)
    prediction = _select(quantiles_tm1, a_tm1)  # [B, N]
    target = target.detach()
    difference = target.mean(dim=1) - prediction.detach().mean(dim=1)
    if kappa > 0 and prediction.shape[1] * target.shape[1] > _MIN_PAIRS_FOR_SORTING:
        return sorted_quantile_huber(prediction, taus, target, kappa), difference
    # Negating the prediction [B, N] here avoids negating a gradient [B, N, M] in the backward pass.
    error = target[:, None, :] + prediction.neg()[:, :, None]  # [B, N, M]
    return quantile_huber(error, taus, kappa), difference


def quantile_q_learning(
    quantiles_tm1: Tensor,
    taus: Tensor,
    a_tm1: Tensor,
    r_t: Tensor,
    discount_t: Tensor,
    quantiles_t: Tensor,
    q_t_selector: Tensor,
    kappa: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Quantile Q-learning: `quantile_regression` with targets r_t + discount_t quantiles_t(a_t).

    The next action is a_t = argmax_a q_t_selector(a). This is QR-DQN (Dabney et al. 2018a) if taus
    are the midpoints of N equal intervals, and IQN (Dabney et al. 2018b) if they are sampled
    uniformly for each row. No gradient flows through the target.

    Args:
        quantiles_tm1: Quantiles [B, A, N] at the observations.
        taus: Probabilities of these quantiles, [N] if shared by all rows, else [B, N].
        a_tm1: Actions taken [B], int64.
        r_t: Rewards [B].
        discount_t: Discounts [B], 0 after terminal states.
        quantiles_t: Target network's quantiles [B, A, M] at the next observations.
        q_t_selector: Action values [B, A] that select the next action: the means of quantiles_t, or
            the online network's action values for double Q-learning.
        kappa: Absolute error above which the loss is linear; 0 for quantile regression.

    Returns:
        Losses [B] and temporal differences [B] between the means.

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
        z_t = _select(quantiles_t, q_t_selector.argmax(dim=1))
        target = torch.addcmul(r_t[:, None], discount_t[:, None], z_t)  # [B, M]
    return quantile_regression(quantiles_tm1, taus, a_tm1, target, kappa)


def soft_quantiles(quantiles_t: Tensor, q_t: Tensor, temperature: float) -> Tensor:
    """Quantiles of the soft value: sum_a pi(a) (quantiles_t(a) - temperature ln pi(a)).

    Vieillard, Pietquin and Geist 2020 (M-IQN), with pi = softmax(q_t / temperature). The target of
    Munchausen quantile regression is r_t + `munchausen_bonus` + discount_t times this result. The
    result carries no gradient.

    Args:
        quantiles_t: Target network's quantiles [B, A, M] at the next observations.
        q_t: Target network's action values [B, A] at the next observations.
        temperature: Temperature of the policy, positive; near 0, the result is approximately the
            quantiles of the greedy action.

    Returns:
        Quantiles [B, M] of the soft value.

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
