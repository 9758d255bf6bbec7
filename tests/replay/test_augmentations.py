from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dqn_lightning import DQNDataModule, EnvSettings, ReplaySettings
from dqn_lightning.envs import CartPoleScreen
from dqn_lightning.errors import ConfigError
from dqn_lightning.replay import RandomMirror, RandomShift, ReplayBuffer
from dqn_lightning.types import Batch


def images(count: int, *shape: int) -> Tensor:
    """Return copies of an image whose pixels all have different values."""
    pixels = torch.arange(int(np.prod(shape)), dtype=torch.uint8)
    return pixels.reshape(shape).repeat(count, *[1] * len(shape))


def batch_of(obs: Tensor, next_obs: Tensor | None = None, action: int = 0) -> Batch:
    size = len(obs)
    zeros, rows = torch.zeros(size), torch.arange(size)
    actions = torch.full((size,), action)
    return Batch(obs, actions, zeros, zeros, obs if next_obs is None else next_obs, zeros, rows)


def test_a_shifted_image_repeats_its_edge_pixels() -> None:
    shifted = RandomShift(columns=2, rows=0)(
        batch_of(torch.tensor([[[[1, 2, 3, 4]]]], dtype=torch.uint8).repeat(500, 1, 1, 1)),
        np.random.default_rng(0),
    )
    rows, counts = torch.unique(shifted.obs.flatten(1), dim=0, return_counts=True)
    expected = [[1, 1, 1, 2], [1, 1, 2, 3], [1, 2, 3, 4], [2, 3, 4, 4], [3, 4, 4, 4]]
    assert rows.tolist() == expected
    assert counts.min() > 60  # of 100 expected; 4.5 standard deviations


def test_frames_are_shifted_together_and_the_next_observation_separately() -> None:
    obs = images(200, 2, 6, 7)
    moved = RandomShift(columns=2, rows=1)(batch_of(obs), np.random.default_rng(1))
    offsets = {}  # expected images, computed pixel by pixel
    for down in range(-1, 2):
        for right in range(-2, 3):
            shifted = [
                [
                    [
                        int(frame[min(max(y - down, 0), 5), min(max(x - right, 0), 6)])
                        for x in range(7)
                    ]
                    for y in range(6)
                ]
                for frame in obs[0]
            ]
            offsets[str(shifted)] = (down, right)
    found = [[offsets[str(o.tolist())] for o in part] for part in (moved.obs, moved.next_obs)]
    assert set(found[0]) == set(found[1]) == set(offsets.values())
    assert 5 < sum(a == b for a, b in zip(*found, strict=True)) < 30  # one in 15


def test_the_mirror_flips_half_of_the_transitions_and_their_actions() -> None:
    obs, next_obs = images(1000, 2, 3, 4), images(1000, 2, 3, 4) + 100
    given = batch_of(obs, next_obs, action=2)
    seen = RandomMirror((0, 2, 1))(given, np.random.default_rng(2))
    mirrored = seen.action == 1
    assert 420 < mirrored.sum() < 580  # 500 expected; 5 standard deviations
    assert set(seen.action.tolist()) == {1, 2}
    for before, after in ((obs, seen.obs), (next_obs, seen.next_obs)):
        assert torch.equal(after[mirrored], before[mirrored].flip(-1))
        assert torch.equal(after[~mirrored], before[~mirrored])
    others = ("reward", "discount", "weight", "row")
    assert all(getattr(seen, name) is getattr(given, name) for name in others)


def test_augmentations_do_not_change_the_replay_and_use_its_generator() -> None:
    def filled() -> ReplayBuffer:
        augmentations = [RandomShift(2, 1), RandomMirror((1, 0))]
        replay = ReplayBuffer(
            50, 1, (1, 5, 6), torch.uint8, augmentations=augmentations,
            rng=np.random.default_rng(3), frame_stack=2,
        )  # fmt: skip
        rng = np.random.default_rng(4)
        replay.reset(rng.integers(0, 256, (1, 1, 5, 6), np.uint8))
        no = np.array([False])
        for _ in range(30):
            obs = rng.integers(0, 256, (1, 1, 5, 6), np.uint8)
            replay.write(rng.integers(0, 2, 1), np.ones(1), no, no, obs)
        return replay

    first, second = filled(), filled()
    rows = np.arange(1, 29)
    before = first.gather(rows)
    sampled = first.sample(20)
    assert not torch.equal(sampled.obs, first.gather(sampled.row.numpy()).obs)
    assert all(map(torch.equal, before, first.gather(rows)))
    state = first.state_dict()
    assert all(map(torch.equal, sampled, second.sample(20)))
    second.load_state_dict(state)
    assert all(map(torch.equal, first.sample(20), second.sample(20)))


def keep_first_row(batch: Batch, rng: np.random.Generator) -> Batch:
    return Batch(*(tensor[:1] for tensor in batch))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RandomShift(columns=-1), "columns.*RandomShift.*-1"),
        (lambda: RandomMirror((1, 2, 0)), r"RandomMirror.*\[1, 2, 0\]"),
        (lambda: RandomMirror((0, 2)), r"RandomMirror.*\[0, 2\]"),
        (lambda: make_datamodule(RandomShift()), r"RandomShift.*images.*\[4\]"),
        (lambda: make_datamodule(RandomMirror((0,)), True), r"RandomMirror.*2 actions.*index 1 "),
        (lambda: make_datamodule(keep_first_row), "keep_first_row.*shape"),
        (lambda: make_datamodule(RandomMirror((0, 2, 1)), True), "action 2.*2 actions"),
    ],
)  # fmt: skip
def test_invalid_augmentations_are_refused_at_startup(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match="data.replay.augmentations: .*" + message):
        make()


def make_datamodule(augmentation: Any, screen: bool = False) -> DQNDataModule:
    """Return a datamodule with one augmentation, for CartPole's state or its screen."""
    env = EnvSettings()
    if screen:
        env = EnvSettings(kwargs={"render_mode": "rgb_array"}, wrappers=[CartPoleScreen])
    return DQNDataModule(env, replay=ReplaySettings(augmentations=[augmentation]))
