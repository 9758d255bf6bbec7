import numpy as np
import pytest
import torch
from torch import Tensor

from dqn_lightning import DQNDataModule
from dqn_lightning.evaluation import Evaluation, summarize
from dqn_lightning.types import Episode


def make(episodes: int, epsilon: float = 0.0, env_id: str = "toy/Walk-v0") -> Evaluation:
    data = DQNDataModule(env_id, eval_epsilon=epsilon)
    return data._evaluation(episodes, seed=5, epsilon=epsilon)


def two(obs: Tensor) -> Tensor:
    return torch.full((len(obs),), 2)


@pytest.mark.parametrize("episodes", [1, 7, 45])
def test_it_plays_as_many_episodes_as_asked_and_every_environment_its_share(episodes: int) -> None:
    played = make(episodes)(two)
    assert len(played) == episodes
    shares = np.bincount([episode.env for episode in played])
    assert shares.max() - shares.min() <= 1


def test_short_episodes_are_not_preferred() -> None:
    """The mean length of 1 to 7 steps is 4; taking whichever end first would give less."""
    lengths = [episode.duration for episode in make(400)(two)]
    assert np.mean(lengths) == pytest.approx(4.0, abs=0.35)


def test_it_plays_the_same_episodes_every_time_and_with_exploration_too() -> None:
    for epsilon in (0.0, 0.5):
        evaluation = make(10, epsilon)
        assert evaluation(two) == evaluation(two)


@pytest.mark.parametrize("vectorization", ["single", "async"])
def test_it_can_be_called_again_after_its_environments_were_closed(vectorization: str) -> None:
    data = DQNDataModule("toy/Walk-v0", vectorization=vectorization)
    evaluation = data._evaluation(4, seed=5, epsilon=0.0)
    played = evaluation(two)
    data.teardown("fit")
    assert evaluation(two) == played
    data.teardown("fit")


def test_epsilon_explores() -> None:
    assert make(10, 0.0)(two) != make(10, 1.0)(two)


def test_it_touches_no_global_random_numbers() -> None:
    torch.manual_seed(0)
    np.random.seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    make(10, 0.5)(two)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]


def test_a_summary_by_hand() -> None:
    summary = summarize([Episode(0, 2, 1.0, 0), Episode(1, 4, 3.0, 0)])
    assert summary == (2, 2.0, 1.0, 1.0, 3.0, 3.0)
