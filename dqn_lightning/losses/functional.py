"""The formulas: pure functions of tensors that give one value per row of the batch.

Names carry time: `q_tm1` are the values at the row's observation, `q_t` those at the next one.
Every function checks ranks, because [B] against [B, 1] broadcasts to [B, B] without a word.
"""

import torch
from torch import Tensor


def _check_ranks(rank: int, **tensors: Tensor) -> None:
    for name, tensor in tensors.items():
        if tensor.ndim != rank:
            raise ValueError(f"{name} must have rank {rank}, got shape {tuple(tensor.shape)}")


def q_learning(
    q_tm1: Tensor, a_tm1: Tensor, r_t: Tensor, discount_t: Tensor, q_t: Tensor
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

    Returns:
        Temporal differences [B].

    Raises:
        ValueError: If a tensor has the wrong rank.

    >>> q_learning(torch.tensor([[1.0, 2.0]]), torch.tensor([0]), torch.tensor([1.0]),
    ...            torch.tensor([0.5]), torch.tensor([[3.0, 4.0]]))
    tensor([2.])
    """
    _check_ranks(2, q_tm1=q_tm1, q_t=q_t)
    _check_ranks(1, a_tm1=a_tm1, r_t=r_t, discount_t=discount_t)
    with torch.no_grad():
        target = r_t + discount_t * q_t.amax(dim=1)
    return target - q_tm1.gather(1, a_tm1[:, None]).squeeze(1)


def double_q_learning(
    q_tm1: Tensor,
    a_tm1: Tensor,
    r_t: Tensor,
    discount_t: Tensor,
    q_t_value: Tensor,
    q_t_selector: Tensor,
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

    Returns:
        Temporal differences [B].

    Raises:
        ValueError: If a tensor has the wrong rank.

    >>> double_q_learning(torch.tensor([[1.0, 2.0]]), torch.tensor([0]), torch.tensor([1.0]),
    ...                   torch.tensor([0.5]), torch.tensor([[3.0, 4.0]]),
    ...                   torch.tensor([[9.0, 8.0]]))
    tensor([1.5000])
    """
    _check_ranks(2, q_tm1=q_tm1, q_t_value=q_t_value, q_t_selector=q_t_selector)
    _check_ranks(1, a_tm1=a_tm1, r_t=r_t, discount_t=discount_t)
    with torch.no_grad():
        best = q_t_selector.argmax(dim=1, keepdim=True)
        target = r_t + discount_t * q_t_value.gather(1, best).squeeze(1)
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
