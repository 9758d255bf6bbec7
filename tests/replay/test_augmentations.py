from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dqn_lightning import DQNDataModule
from dqn_lightning.errors import ConfigError
from dqn_lightning.replay import RandomMirror, RandomShift, ReplayBuffer
from dqn_lightning.types import Batch


def pictures(count: int, *shape: int) -> Tensor:
    """No pixel of a picture has the value of another one."""
    pixels = torch.arange(int(np.prod(shape)), dtype=torch.uint8)
    return pixels.reshape(shape).repeat(count, *[1] * len(shape))


def batch_of(obs: Tensor, next_obs: Tensor | None = None, action: int = 0) -> Batch:
    size = len(obs)
    zeros, rows = torch.zeros(size), torch.arange(size)
    actions = torch.full((size,), action)
    return Batch(obs, actions, zeros, zeros, obs if next_obs is None else next_obs, zeros, rows)


def test_a_shifted_picture_repeats_its_edge() -> None:
    shifted = RandomShift(columns=2, rows=0)(
        batch_of(torch.tensor([[[[1, 2, 3, 4]]]], dtype=torch.uint8).repeat(500, 1, 1, 1)),
        np.random.default_rng(0),
    )
    rows, counts = torch.unique(shifted.obs.flatten(1), dim=0, return_counts=True)
    ways = [[1, 1, 1, 2], [1, 1, 2, 3], [1, 2, 3, 4], [2, 3, 4, 4], [3, 4, 4, 4]]
    assert rows.tolist() == ways
    assert counts.min() > 60  # of 100 expected; 4.5 standard deviations


def test_frames_move_together_and_the_next_observation_on_its_own() -> None:
    obs = pictures(200, 2, 6, 7)
    moved = RandomShift(columns=2, rows=1)(batch_of(obs), np.random.default_rng(1))
    ways = {}  # by hand, pixel by pixel
    for down in range(-1, 2):
        for right in range(-2, 3):
            way = [
                [
                    [
                        int(frame[min(max(y - down, 0), 5), min(max(x - right, 0), 6)])
                        for x in range(7)
                    ]
                    for y in range(6)
                ]
                for frame in obs[0]
            ]
            ways[str(way)] = (down, right)
    found = [[ways[str(o.tolist())] for o in part] for part in (moved.obs, moved.next_obs)]
    assert set(found[0]) == set(found[1]) == set(ways.values())
    assert 5 < sum(a == b for a, b in zip(*found, strict=True)) < 30  # one in 15


def test_the_mirror_turns_half_of_the_transitions_with_their_actions() -> None:
    obs, next_obs = pictures(1000, 2, 3, 4), pictures(1000, 2, 3, 4) + 100
    given = batch_of(obs, next_obs, action=2)
    seen = RandomMirror((0, 2, 1))(given, np.random.default_rng(2))
    turned = seen.action == 1
    assert 420 < turned.sum() < 580  # 500 expected; 5 standard deviations
    assert set(seen.action.tolist()) == {1, 2}
    for before, after in ((obs, seen.obs), (next_obs, seen.next_obs)):
        assert torch.equal(after[turned], before[turned].flip(-1))
        assert torch.equal(after[~turned], before[~turned])
    others = ("reward", "discount", "weight", "row")
    assert all(getattr(seen, name) is getattr(given, name) for name in others)


def test_the_replay_keeps_what_was_seen_and_its_generator_decides() -> None:
    def filled() -> ReplayBuffer:
        augmentations = [RandomShift(2, 1), RandomMirror((1, 0))]
        replay = ReplayBuffer(
            50, 1, (1, 5, 6), torch.uint8, augmentations=augmentations,
            rng=np.random.default_rng(3), frame_stack=2,
        )  # fmt: skip
        rng = np.random.default_rng(4)
        replay.begin(rng.integers(0, 256, (1, 1, 5, 6), np.uint8))
        no = np.array([False])
        for _ in range(30):
            obs = rng.integers(0, 256, (1, 1, 5, 6), np.uint8)
            replay.write(rng.integers(0, 2, 1), np.ones(1), no, no, obs)
        return replay

    first, second = filled(), filled()
    rows = np.arange(1, 29)
    before = first.gather(rows)
    drawn = first.draw(20)
    assert not torch.equal(drawn.obs, first.gather(drawn.row.numpy()).obs)
    assert all(map(torch.equal, before, first.gather(rows)))
    state = first.state_dict()
    assert all(map(torch.equal, drawn, second.draw(20)))
    second.load_state_dict(state)
    assert all(map(torch.equal, first.draw(20), second.draw(20)))


def half_a_batch(batch: Batch, rng: np.random.Generator) -> Batch:
    return Batch(*(tensor[:1] for tensor in batch))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RandomShift(columns=-1), "RandomShift's columns must not be negative, got -1"),
        (lambda: RandomMirror((1, 2, 0)), r".*give every action back .*, got \[1, 2, 0\]"),
        (lambda: RandomMirror((0, 2)), r".*give every action back .*, got \[0, 2\]"),
        (lambda: made(RandomShift()), r"RandomShift is for pictures .* the observations are \[4\]"),
        (lambda: made(RandomMirror((0,)), screen=True), r"fails on .* with 2 actions \(index 1 "),
        (lambda: made(half_a_batch), "changes more than the values of a batch"),
        (lambda: made(RandomMirror((0, 2, 1)), screen=True), "changes more than the values"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_at_the_start(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match="data.augmentations: .*" + message):
        make()


def made(augmentation: Any, screen: bool = False) -> DQNDataModule:
    from dqn_lightning.envs import CartPoleScreen

    return DQNDataModule(
        env_kwargs={"render_mode": "rgb_array"} if screen else {},
        wrappers=[CartPoleScreen] if screen else [],
        augmentations=[augmentation],
    )
