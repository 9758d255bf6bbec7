"""Formulas for Q-learning as pure functions; loss formulas return one value per row of the batch.

Names follow rlax: the suffix `_tm1` denotes time t - 1 (observation and action), and `_t` denotes
time t (reward and next observation). The functions check the ranks of their tensors, because [B]
and [B, 1] silently broadcast to [B, B]. Formulas for distributions of returns are in
`distributional`.
"""

import torch
from torch import Tensor


def check_ranks(rank: int, **tensors: Tensor) -> None:
    """Raise a `ValueError` naming the first tensor whose number of dimensions is not `rank`."""
    for name, tensor in tensors.items():
        if tensor.ndim != rank:
            raise ValueError(f"{name} must have rank {rank}, got shape {tuple(tensor.shape)}")


def q_learning(
    q_tm1: Tensor,
    a_tm1: Tensor,
    r_t: Tensor,
    discount_t: Tensor,
    q_t: Tensor,
    rescaled: bool = False,
) -> Tensor:
    """Temporal difference of Q-learning: r_t + discount_t max_a q_t(a) - q_tm1(a_tm1).

    Watkins and Dayan 1992; DQN if `q_t` comes from a target network (Mnih et al. 2015). No gradient
    flows through the target.

    Args:
        q_tm1: Action values [B, A] at the observations.
        a_tm1: Actions taken [B], int64.
        r_t: Rewards [B].
        discount_t: Discounts [B], 0 after terminal states.
        q_t: Action values [B, A] at the next observations.
        rescaled: Whether the networks predict values rescaled by h (see `rescale`). The target is
            then h(r_t + discount_t h⁻¹(max_a q_t(a))).

    Returns:
        Temporal differences [B].

    Raises:
        ValueError: If a tensor has the wrong rank.

    >>> q_learning(torch.tensor([[1.0, 2.0]]), torch.tensor([0]), torch.tensor([1.0]),
    ...            torch.tensor([0.5]), torch.tensor([[3.0, 4.0]]))  # 1 + 0.5 * 4 - 1
    tensor([2.])
    """
    check_ranks(2, q_tm1=q_tm1, q_t=q_t)
    check_ranks(1, a_tm1=a_tm1, r_t=r_t, discount_t=discount_t)
    with torch.no_grad():
        target = _bellman_target(r_t, discount_t, q_t.amax(dim=1), rescaled)
    return target - _select(q_tm1, a_tm1)


def double_q_learning(
    q_tm1: Tensor,
    a_tm1: Tensor,
    r_t: Tensor,
    discount_t: Tensor,
    q_t_value: Tensor,
    q_t_selector: Tensor,
    rescaled: bool = False,
) -> Tensor:
    """Temporal difference of double Q-learning: one network selects the action, one evaluates it.

    The result is r_t + discount_t q_t_value(argmax_a q_t_selector(a)) - q_tm1(a_tm1) (van Hasselt,
    Guez and Silver 2016). Using two networks reduces the overestimation that results from
    maximizing over noisy values. No gradient flows through the target.

    Args:
        q_tm1: Action values [B, A] at the observations.
        a_tm1: Actions taken [B], int64.
        r_t: Rewards [B].
        discount_t: Discounts [B], 0 after terminal states.
        q_t_value: Target network's action values [B, A] at the next observations.
        q_t_selector: Online network's action values [B, A] at the next observations.
        rescaled: Whether the networks predict rescaled values, as in `q_learning`.

    Returns:
        Temporal differences [B].

    Raises:
        ValueError: If a tensor has the wrong rank.

    >>> double_q_learning(torch.tensor([[1.0, 2.0]]), torch.tensor([0]), torch.tensor([1.0]),
    ...                   torch.tensor([0.5]), torch.tensor([[3.0, 4.0]]),
    ...                   torch.tensor([[9.0, 8.0]]))  # 1 + 0.5 * 3 - 1
    tensor([1.5000])
    """
    check_ranks(2, q_tm1=q_tm1, q_t_value=q_t_value, q_t_selector=q_t_selector)
    check_ranks(1, a_tm1=a_tm1, r_t=r_t, discount_t=discount_t)
    with torch.no_grad():
        v_t = _select(q_t_value, q_t_selector.argmax(dim=1))
        target = _bellman_target(r_t, discount_t, v_t, rescaled)
    return target - _select(q_tm1, a_tm1)


def _select(q: Tensor, actions: Tensor) -> Tensor:
    """Return the value [B] of each row's action, given values [B, A] and actions [B]."""
    return q.gather(1, actions[:, None]).squeeze(1)


def _bellman_target(r_t: Tensor, discount_t: Tensor, v_t: Tensor, rescaled: bool) -> Tensor:
    """Return targets [B]: r_t + discount_t v_t, or h(r_t + discount_t h⁻¹(v_t)) if rescaled.

    The values v_t [B] belong to the next observations; h is `rescale`.
    """
    if rescaled:
        return rescale(r_t + discount_t * unrescale(v_t))
    return r_t + discount_t * v_t


def rescale(x: Tensor, eps: float = 1e-3) -> Tensor:
    """Compress returns: h(x) = sign(x) (sqrt(|x| + 1) - 1) + eps x (Pohlen et al. 2018).

    A network that predicts h(return) can learn from unclipped rewards. The function computes the
    equivalent form x (1 / (sqrt(|x| + 1) + 1) + eps), which does not lose precision near 0.

    Args:
        x: Returns of any shape.
        eps: Slope of the linear term.

    Returns:
        Rescaled returns of the same shape.

    >>> rescale(torch.tensor([3.0, -8.0]), eps=0.5)
    tensor([ 2.5000, -6.0000])
    """
    return x * ((x.abs() + 1).sqrt() + 1).reciprocal().add(eps)


def unrescale(x: Tensor, eps: float = 1e-3) -> Tensor:
    """Invert `rescale`: h⁻¹(x) = sign(x) (((sqrt(1 + 4 eps (|x| + 1 + eps)) - 1) / (2 eps))² - 1).

    Pohlen et al. 2018. In float32, this formula loses about half of the significant digits. The
    function therefore computes the equivalent form sign(x) w (w + 2), where w is the non-negative
    solution of eps w² + (1 + 2 eps) w = |x|.

    Args:
        x: Rescaled returns of any shape.
        eps: Slope of the linear term.

    Returns:
        Returns of the same shape.

    >>> unrescale(torch.tensor([2.5, -6.0]), eps=0.5)
    tensor([ 3., -8.])
    """
    slope = 1 + 2 * eps
    ratio = 2 / (slope + (slope**2 + 4 * eps * x.abs()).sqrt())  # w / |x|
    return x * ratio * (x.abs() * ratio + 2)


def scaled_log_policy(q: Tensor, temperature: float) -> Tensor:
    """Log-probabilities of the softmax policy, scaled: temperature ln softmax(q / temperature).

    Vieillard, Pietquin and Geist 2020, appendix B.1. The function computes the equivalent form
    (q - v) - temperature ln sum_a exp((q(a) - v) / temperature) with v = max_a q(a), which is
    finite for any positive temperature.

    Args:
        q: Action values [B, A].
        temperature: Temperature of the policy, positive; near 0, the policy is greedy.

    Returns:
        Scaled log-probabilities [B, A], at most 0.

    Raises:
        ValueError: If `q` has the wrong rank.

    >>> scaled_log_policy(torch.tensor([[5.0, 5.0], [3.0, 7.0]]), temperature=1e-9)
    tensor([[-6.9315e-10, -6.9315e-10],
            [-4.0000e+00,  0.0000e+00]])
    """
    check_ranks(2, q=q)
    advantage = q - q.amax(dim=1, keepdim=True)
    normalizer = (advantage / temperature).logsumexp(dim=1, keepdim=True)
    return torch.sub(advantage, normalizer, alpha=temperature)


def soft_value(q: Tensor, temperature: float) -> Tensor:
    """Soft value of the softmax policy: sum_a pi(a) (q(a) - temperature ln pi(a)).

    Vieillard, Pietquin and Geist 2020, with pi = softmax(q / temperature). The sum equals
    temperature ln sum_a exp(q(a) / temperature), the form computed here.

    Args:
        q: Action values [B, A].
        temperature: Temperature of the policy, positive; near 0, the result is the maximum of q.

    Returns:
        Soft values [B].

    Raises:
        ValueError: If `q` has the wrong rank.

    >>> soft_value(torch.tensor([[0.0, 0.0]]), temperature=1.0)  # ln 2
    tensor([0.6931])
    """
    check_ranks(2, q=q)
    best = q.amax(dim=1, keepdim=True)
    normalizer = ((q - best) / temperature).logsumexp(dim=1)
    return torch.add(best.squeeze(1), normalizer, alpha=temperature)


def munchausen_bonus(
    q_tm1_target: Tensor,
    a_tm1: Tensor,
    alpha: float = 0.9,
    temperature: float = 0.03,
    clip: float = -1.0,
) -> Tensor:
    """Munchausen term added to the reward: alpha max(temperature ln pi(a_tm1), clip).

    Vieillard, Pietquin and Geist 2020, with pi = softmax(q_tm1_target / temperature). Actions that
    are unlikely under the policy are penalized. The result carries no gradient.

    Args:
        q_tm1_target: Target network's action values [B, A] at the observations.
        a_tm1: Actions taken [B], int64.
        alpha: Weight of the term; 0 disables it.
        temperature: Temperature of the policy, positive.
        clip: Lower bound on temperature ln pi(a_tm1), negative (l₀ in the paper).

    Returns:
        Bonuses [B], at most 0.

    Raises:
        ValueError: If a tensor has the wrong rank.

    >>> munchausen_bonus(torch.tensor([[9.0, 8.5, 7.0]]).expand(3, 3), torch.arange(3), alpha=0.5)
    tensor([ 0.0000, -0.2500, -0.5000])
    """
    check_ranks(2, q_tm1_target=q_tm1_target)
    check_ranks(1, a_tm1=a_tm1)
    with torch.no_grad():
        scaled = scaled_log_policy(q_tm1_target, temperature)
        return alpha * _select(scaled, a_tm1).clamp(clip, 0)


def munchausen_q_learning(
    q_tm1: Tensor,
    a_tm1: Tensor,
    r_t: Tensor,
    discount_t: Tensor,
    q_t: Tensor,
    q_tm1_target: Tensor,
    alpha: float = 0.9,
    temperature: float = 0.03,
    clip: float = -1.0,
) -> Tensor:
    """Temporal difference of Munchausen Q-learning: r_t + bonus + discount_t v_t - q_tm1(a_tm1).

    Vieillard, Pietquin and Geist 2020, with the bonus from `munchausen_bonus` and v_t =
    `soft_value(q_t)`. For alpha = 0 and a temperature near 0, the result is approximately that of
    `q_learning`. No gradient flows through the target.

    Args:
        q_tm1: Action values [B, A] at the observations.
        a_tm1: Actions taken [B], int64.
        r_t: Rewards [B].
        discount_t: Discounts [B], 0 after terminal states.
        q_t: Target network's action values [B, A] at the next observations.
        q_tm1_target: Target network's action values [B, A] at the observations.
        alpha: Weight of the bonus; 0 disables it.
        temperature: Temperature of the policy, positive.
        clip: Lower bound on the scaled log-probability in the bonus, negative; see
            `munchausen_bonus`.

    Returns:
        Temporal differences [B].

    Raises:
        ValueError: If a tensor has the wrong rank.

    >>> munchausen_q_learning(torch.tensor([[1.0, 2.0]]), torch.tensor([0]), torch.tensor([1.0]),
    ...                       torch.tensor([0.5]), torch.tensor([[3.0, 4.0]]),
    ...                       torch.tensor([[6.0, 9.0]]), alpha=0.5)  # 1 - 0.5 + 0.5 * 4 - 1
    tensor([1.5000])
    """
    check_ranks(2, q_tm1=q_tm1, q_t=q_t, q_tm1_target=q_tm1_target)
    check_ranks(1, a_tm1=a_tm1, r_t=r_t, discount_t=discount_t)
    with torch.no_grad():
        bonus = munchausen_bonus(q_tm1_target, a_tm1, alpha, temperature, clip)
        target = r_t + bonus + discount_t * soft_value(q_t, temperature)
    return target - _select(q_tm1, a_tm1)


def huber(error: Tensor, kappa: float = 1.0) -> Tensor:
    """Huber loss per element: e²/2 if |e| ≤ kappa, else kappa (|e| - kappa/2). Huber 1964.

    Args:
        error: Errors of any shape.
        kappa: Absolute error above which the loss is linear, positive.

    Returns:
        Losses of the same shape.

    >>> huber(torch.tensor([0.5, -3.0]))
    tensor([0.1250, 2.5000])
    """
    return torch.nn.functional.huber_loss(
        error, torch.zeros_like(error), reduction="none", delta=kappa
    )


def squared(error: Tensor) -> Tensor:
    """Squared error per element: e².

    >>> squared(torch.tensor([0.5, -3.0]))
    tensor([0.2500, 9.0000])
    """
    return error * error
