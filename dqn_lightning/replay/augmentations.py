"""Augmentations: drawn batches changed by chance in ways that do not matter for what is learnt."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dqn_lightning.errors import ConfigError
from dqn_lightning.types import Batch


class Augmentation(Protocol):
    """Changes a batch that was drawn; what lies in the replay stays as it is."""

    def __call__(self, batch: Batch, rng: np.random.Generator) -> Batch:
        """The changed batch, of the same shapes and dtypes, by these random numbers alone."""
        ...


def try_out(
    augmentation: Augmentation, obs_shape: tuple[int, ...], obs_dtype: torch.dtype, num_actions: int
) -> None:
    """See on a batch of zeros, with every action in it, whether an augmentation works.

    Raises:
        ConfigError: If it fails, or changes shapes or dtypes, or makes actions that there are not.
    """
    obs = torch.zeros(num_actions, *obs_shape, dtype=obs_dtype)
    action, zeros = torch.arange(num_actions), torch.zeros(num_actions)
    batch = Batch(obs, action, zeros, zeros, obs, zeros, action)
    try:
        changed = augmentation(batch, np.random.default_rng(0))
    except ConfigError:
        raise
    except (IndexError, RuntimeError, TypeError, ValueError) as error:
        raise ConfigError(
            f"data.augmentations: {augmentation} fails on observations {list(obs_shape)} with "
            f"{num_actions} actions ({error})"
        ) from error
    kinds = [[(t.shape, t.dtype) for t in tensors] for tensors in (batch, changed)]
    if kinds[0] != kinds[1] or int(changed.action.max()) >= num_actions:
        raise ConfigError(
            f"data.augmentations: {augmentation} changes more than the values of a batch"
        )


@dataclass(frozen=True)
class RandomShift:
    """Moves each picture by chance; the pixels of its edge are repeated where it moved away.

    All frames of an observation move alike, and the next observation on its own (DrQ: Kostrikov,
    Yarats and Fergus 2021).

    Args:
        columns: Greatest number of pixels to the left or right.
        rows: Greatest number of pixels up or down.

    Raises:
        ConfigError: If a number is negative.
    """

    columns: int = 4
    rows: int = 4

    def __post_init__(self) -> None:
        """Refuse what is no distance."""
        for name, distance in vars(self).items():
            if distance < 0:
                raise ConfigError(
                    f"data.augmentations: RandomShift's {name} must not be negative, got {distance}"
                )

    def __call__(self, batch: Batch, rng: np.random.Generator) -> Batch:
        """Move the pictures [B, C, H, W] of a batch."""
        return batch._replace(
            obs=self._moved(batch.obs, rng), next_obs=self._moved(batch.next_obs, rng)
        )

    def _moved(self, pictures: Tensor, rng: np.random.Generator) -> Tensor:
        _check_pictures(self, pictures)
        for dim, distance in ((2, self.rows), (3, self.columns)):
            if distance:
                side = pictures.shape[dim]
                move = rng.integers(-distance, distance, (len(pictures), 1), endpoint=True)
                pictures = _taken(pictures, np.clip(np.arange(side) - move, 0, side - 1), dim)
        return pictures


@dataclass(frozen=True)
class RandomMirror:
    """Mirrors each transition with probability 1/2: its pictures, left to right, and its action.

    It is for tasks that are the same in the mirror, as CartPole is.

    Args:
        actions: What each action becomes in the mirror.

    Raises:
        ConfigError: If mirroring twice would not give every action back.
    """

    actions: tuple[int, ...]

    def __post_init__(self) -> None:
        """Refuse what is no mirror."""
        actions = self.actions
        if not all(0 <= a < len(actions) and actions[a] == i for i, a in enumerate(actions)):
            raise ConfigError(
                "data.augmentations: RandomMirror's actions must give every action back when "
                f"mirrored twice, got {list(actions)}"
            )

    def __call__(self, batch: Batch, rng: np.random.Generator) -> Batch:
        """Mirror half of the pictures [B, C, H, W] of a batch, and their actions."""
        _check_pictures(self, batch.obs)
        mirrored = rng.random(len(batch.row)) < 0.5
        columns = np.arange(batch.obs.shape[3])
        source = np.where(mirrored[:, None], columns[::-1], columns)
        device = batch.action.device
        partner = torch.tensor(self.actions, device=device)[batch.action]
        return batch._replace(
            obs=_taken(batch.obs, source, 3),
            action=torch.where(torch.from_numpy(mirrored).to(device), partner, batch.action),
            next_obs=_taken(batch.next_obs, source, 3),
        )


def _taken(pictures: Tensor, source: NDArray[np.int64], dim: int) -> Tensor:
    """Pictures [B, C, H, W] with these rows (dim 2) or columns (3) [B, …] of the given ones."""
    if pictures.device.type != "cpu":
        index = torch.from_numpy(source).to(pictures.device)[:, None]  # [B, 1, …]
        return pictures.take_along_dim(index.unsqueeze(5 - dim), dim)
    taken = torch.empty_like(pictures)
    for picture, indices, out in zip(pictures.numpy(), source, taken.numpy(), strict=True):
        picture.take(indices, dim - 1, out, mode="clip")  # a tenth of PyTorch's time
    return taken


def _check_pictures(augmentation: Augmentation, obs: Tensor) -> None:
    if obs.ndim != 4:
        raise ConfigError(
            f"data.augmentations: {type(augmentation).__name__} is for pictures [channels, height, "
            f"width], the observations are {list(obs.shape[1:])}"
        )
