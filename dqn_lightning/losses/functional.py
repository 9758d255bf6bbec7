"""The formulas: pure functions of tensors, and those for a loss give one value per row.

Names carry time: `q_tm1` are the values at the row's observation, `q_t` those at the next one.
Every function of several tensors checks ranks, because [B] against [B, 1] broadcasts to [B, B]
without a word. Those for distributions of returns are in `distributional`.
"""

import torch
from torch import Tensor


def check_ranks(rank: int, **tensors: Tensor) -> None:
    """Raise a ValueError that names the first tensor with another rank than this."""
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

    Watkins and Dayan 1992; with `q_t` of a target network it is the error of DQN, Mnih et al. 2015.
    No gradient flows through the target.

    Args:
        q_tm1: Action values [B, A].
        a_tm1: Actions taken [B], int64.
        r_t: Rewards [B].
        discount_t: Discounts [B], 0 beyond terminal states.
        q_t: Action values of the next observations [B, A].
        rescaled: Whether action values are those of `rescale`: the target is then
            h(r_t + discount_t h⁻¹(max_a q_t(a))).

    Returns:
        Temporal differences [B].

    Raises:
        ValueError: If a tensor has the wrong rank.

    >>> q_learning(torch.tensor([[1.0, 2.0]]), torch.tensor([0]), torch.tensor([1.0]),
    ...            torch.tensor([0.5]), torch.tensor([[3.0, 4.0]]))
    tensor([2.])
    """
    check_ranks(2, q_tm1=q_tm1, q_t=q_t)
    check_ranks(1, a_tm1=a_tm1, r_t=r_t, discount_t=discount_t)
    with torch.no_grad():
        target = _bellman(r_t, discount_t, q_t.amax(dim=1), rescaled)
    return target - q_tm1.gather(1, a_tm1[:, None]).squeeze(1)


def double_q_learning(
    q_tm1: Tensor,
    a_tm1: Tensor,
    r_t: Tensor,
    discount_t: Tensor,
    q_t_value: Tensor,
    q_t_selector: Tensor,
    rescaled: bool = False,
) -> Tensor:
    """Temporal difference of double Q-learning: one network chooses the action, one values it.

    r_t + discount_t q_t_value(argmax_a q_t_selector(a)) - q_tm1(a_tm1), van Hasselt, Guez and
    Silver 2016: the maximum over noisy values is too large on average, a value chosen by other
    noise is not. No gradient flows through the target.

    Args:
        q_tm1: Action values [B, A].
        a_tm1: Actions taken [B], int64.
        r_t: Rewards [B].
        discount_t: Discounts [B], 0 beyond terminal states.
        q_t_value: Action values of the next observations by the target network [B, A].
        q_t_selector: The same by the online network [B, A].
        rescaled: Whether action values are those of `rescale`, as in `q_learning`.

    Returns:
        Temporal differences [B].

    Raises:
        ValueError: If a tensor has the wrong rank.

    >>> double_q_learning(torch.tensor([[1.0, 2.0]]), torch.tensor([0]), torch.tensor([1.0]),
    ...                   torch.tensor([0.5]), torch.tensor([[3.0, 4.0]]),
    ...                   torch.tensor([[9.0, 8.0]]))
    tensor([1.5000])
    """
    check_ranks(2, q_tm1=q_tm1, q_t_value=q_t_value, q_t_selector=q_t_selector)
    check_ranks(1, a_tm1=a_tm1, r_t=r_t, discount_t=discount_t)
    with torch.no_grad():
        best = q_t_selector.argmax(dim=1, keepdim=True)
        v_t = q_t_value.gather(1, best).squeeze(1)
        target = _bellman(r_t, discount_t, v_t, rescaled)
    return target - q_tm1.gather(1, a_tm1[:, None]).squeeze(1)


def _bellman(r_t: Tensor, discount_t: Tensor, v_t: Tensor, rescaled: bool) -> Tensor:
    if rescaled:
        return rescale(r_t + discount_t * unrescale(v_t))
    return r_t + discount_t * v_t


def rescale(x: Tensor, eps: float = 1e-3) -> Tensor:
    """Returns made smaller: h(x) = sign(x) (sqrt(|x| + 1) - 1) + eps x. Pohlen et al. 2018.

    Networks then predict rewards of any size without clipping them. Computed as
    x (1 / (sqrt(|x| + 1) + 1) + eps), which is the same but loses no digits near 0.

    >>> rescale(torch.tensor([3.0, -8.0]), eps=0.5)
    tensor([ 2.5000, -6.0000])
    """
    return x * ((x.abs() + 1).sqrt() + 1).reciprocal().add(eps)


def unrescale(x: Tensor, eps: float = 1e-3) -> Tensor:
    """Inverse of `rescale`: h⁻¹(x) = sign(x) (((sqrt(1 + 4 eps (|x| + 1 + eps)) - 1) / 2eps)² - 1).

    Pohlen et al. 2018. Their form loses half the digits of float32, so it is computed as
    sign(x) w (w + 2), where w = sqrt(|h⁻¹(x)| + 1) - 1 is the root of eps w² + (1 + 2 eps) w = |x|.

    >>> unrescale(torch.tensor([2.5, -6.0]), eps=0.5)
    tensor([ 3., -8.])
    """
    slope = 1 + 2 * eps
    ratio = 2 / (slope + (slope**2 + 4 * eps * x.abs()).sqrt())  # w / |x|
    return x * ratio * (x.abs() * ratio + 2)


def scaled_log_policy(q: Tensor, temperature: float) -> Tensor:
    """Logarithm of the softmax policy times its temperature: temperature ln softmax(q/temperature).

    (q - v) - temperature ln sum_a exp((q(a) - v) / temperature) with v = max_a q(a): Vieillard,
    Pietquin and Geist 2020, appendix B.1. No exponent is above 0, and what is divided by a small
    temperature is not multiplied by it again, so it is finite however cold the policy is.

    Args:
        q: Action values [B, A].
        temperature: Above 0; the colder, the closer the policy is to the greedy one.

    Returns:
        Values [B, A], none above 0.

    Raises:
        ValueError: If the values have the wrong rank.

    >>> scaled_log_policy(torch.tensor([[5.0, 5.0], [3.0, 7.0]]), temperature=1e-9)
    tensor([[-6.9315e-10, -6.9315e-10],
            [-4.0000e+00,  0.0000e+00]])
    """
    check_ranks(2, q=q)
    advantage = q - q.amax(dim=1, keepdim=True)
    normalizer = (advantage / temperature).logsumexp(dim=1, keepdim=True)
    return torch.sub(advantage, normalizer, alpha=temperature)


def soft_value(q: Tensor, temperature: float) -> Tensor:
    """Value of the softmax policy and its entropy: sum_a pi(a) (q(a) - temperature ln pi(a)).

    As temperature ln pi(a) = q(a) - temperature ln sum_b exp(q(b) / temperature), this is the last
    term, whatever a is: Vieillard, Pietquin and Geist 2020.

    Args:
        q: Action values [B, A].
        temperature: Of the policy, above 0; near 0 this is the maximum.

    Returns:
        Values [B].

    Raises:
        ValueError: If the values have the wrong rank.

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
    """What is added to the reward: alpha max(temperature ln pi(a_tm1), clip).

    Vieillard, Pietquin and Geist 2020, where pi = softmax(q_tm1_target / temperature): an action is
    worth less the less the policy would choose it. No gradient flows.

    Args:
        q_tm1_target: Action values by the target network [B, A].
        a_tm1: Actions taken [B], int64.
        alpha: Weight of the bonus, 0 for none.
        temperature: Of the policy, above 0.
        clip: Lowest scaled logarithm, negative (theirs is l0).

    Returns:
        Bonuses [B], none above 0.

    Raises:
        ValueError: If a tensor has the wrong rank.

    >>> munchausen_bonus(torch.tensor([[9.0, 8.5, 7.0]]).expand(3, 3), torch.arange(3), alpha=0.5)
    tensor([ 0.0000, -0.2500, -0.5000])
    """
    check_ranks(2, q_tm1_target=q_tm1_target)
    check_ranks(1, a_tm1=a_tm1)
    with torch.no_grad():
        scaled = scaled_log_policy(q_tm1_target, temperature)
        return alpha * scaled.gather(1, a_tm1[:, None]).squeeze(1).clamp(clip, 0)


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

    Vieillard, Pietquin and Geist 2020: see `munchausen_bonus` for the bonus, `soft_value` for v_t.
    With alpha 0 and a temperature near 0 it is `q_learning`. No gradient flows through the target.

    Args:
        q_tm1: Action values [B, A].
        a_tm1: Actions taken [B], int64.
        r_t: Rewards [B].
        discount_t: Discounts [B], 0 beyond terminal states.
        q_t: Action values of the next observations by the target network [B, A].
        q_tm1_target: Action values by the target network [B, A].
        alpha: Weight of the bonus, 0 for none.
        temperature: Of the policy, above 0.
        clip: Lowest scaled logarithm in the bonus, negative.

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
    return target - q_tm1.gather(1, a_tm1[:, None]).squeeze(1)


def huber(error: Tensor, delta: float = 1.0) -> Tensor:
    """Huber's loss per element: e²/2 where |e| ≤ delta, else delta (|e| - delta/2). Huber 1964.

    >>> huber(torch.tensor([0.5, -3.0]))
    tensor([0.1250, 2.5000])
    """
    return torch.nn.functional.huber_loss(
        error, torch.zeros_like(error), reduction="none", delta=delta
    )


def squared(error: Tensor) -> Tensor:
    """The squared error per element: e².

    >>> squared(torch.tensor([0.5, -3.0]))
    tensor([0.2500, 9.0000])
    """
    return error * error
