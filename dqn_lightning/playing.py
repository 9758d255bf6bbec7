"""Plays an episode to be looked at."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dqn_lightning.collector import Collector
from dqn_lightning.errors import ConfigError
from dqn_lightning.types import Moment, Observations


def play_episode(
    collector: Collector, q_values: Callable[[Tensor], Tensor], seed: int
) -> Iterator[Moment]:
    """Play greedily; gives every moment from the reset to the state that the episode ends in.

    The environments are stepped as moments are asked for.

    Args:
        collector: Of one environment that draws, as `DQNDataModule.drawing_collector` makes it.
        q_values: Observations [1, …] → action values [1, A]; asked once for each moment.
        seed: The episode's.

    Raises:
        ConfigError: If the environment draws no picture [H, W, 3].
        EnvironmentFailure: If it raised.
    """
    collector.reset(seed)
    values, picture = _look(collector, q_values)
    step = 0
    while True:
        action = int(values.argmax())
        yield Moment(picture, values, action, step, float(collector.returns[0]))
        ended = collector.step(partial(_decided, action))
        step += 1
        values, picture = _look(collector, q_values)
        if ended:
            yield Moment(picture, values, None, step, ended[0].episode_return)
            return


def _decided(action: int, obs: Observations) -> NDArray[np.int64]:
    return np.array([action])


def _look(
    collector: Collector, q_values: Callable[[Tensor], Tensor]
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    obs = torch.as_tensor(collector.replay.current_obs())
    (picture,) = cast(Any, collector.envs.render())
    if np.ndim(picture) != 3 or picture.shape[2] != 3:
        raise ConfigError(f"data.env_id: the environment draws no picture but {type(picture)}")
    return q_values(obs)[0].float().numpy(force=True), picture
