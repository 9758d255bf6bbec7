import numpy as np
import pytest
import torch
from torch import Tensor

from dqn_lightning.interaction.evaluation import Evaluation
from tests.helpers.settings import make_datamodule


def make_evaluation(episodes: int, epsilon: float = 0.0) -> Evaluation:
    return make_datamodule("toy/Walk-v0", eval_epsilon=epsilon)._evaluation(episodes, seed=5)


def always_action_2(obs: Tensor) -> Tensor:
    return torch.full((len(obs),), 2)


@pytest.mark.parametrize("episodes", [1, 7, 45])
def test_the_episodes_are_divided_evenly_among_the_environments(episodes: int) -> None:
    played = make_evaluation(episodes)(always_action_2)
    assert len(played) == episodes
    shares = np.bincount([episode.env for episode in played])
    assert shares.max() - shares.min() <= 1


def test_short_episodes_are_not_overrepresented() -> None:
    """Lengths are uniform in 1 to 7, so their mean is 4.

    The mean of the first episodes to finish would be smaller.
    """
    lengths = [episode.length for episode in make_evaluation(400)(always_action_2)]
    assert np.mean(lengths) == pytest.approx(4.0, abs=0.35)


def test_every_call_plays_the_same_episodes_with_and_without_exploration() -> None:
    for epsilon in (0.0, 0.5):
        evaluation = make_evaluation(10, epsilon)
        assert evaluation(always_action_2) == evaluation(always_action_2)


@pytest.mark.parametrize("vectorization", ["single", "async"])
def test_an_evaluation_can_be_repeated_after_environments_were_closed(
    vectorization: str,
) -> None:
    data = make_datamodule("toy/Walk-v0", vectorization=vectorization)
    evaluation = data._evaluation(4, seed=5)
    played = evaluation(always_action_2)
    data.teardown("fit")
    assert evaluation(always_action_2) == played
    data.teardown("fit")


def test_epsilon_changes_the_episodes() -> None:
    assert make_evaluation(10, 0.0)(always_action_2) != make_evaluation(10, 1.0)(always_action_2)


def test_an_evaluation_does_not_use_global_random_generators() -> None:
    torch.manual_seed(0)
    np.random.seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    make_evaluation(10, 0.5)(always_action_2)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]
