from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dqn_lightning.analysis.diagnostics import StateRecorder
from dqn_lightning.interaction.evaluation import Evaluation
from tests.helpers import toy
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


# Episodes that are too long --------------------------------------------------------------------


class SometimesEndless(toy.Walk):
    """A Walk in which episodes of more than 4 steps never end."""

    def step(self, action: Any) -> Any:
        obs, reward, terminated, truncated, info = super().step(action)
        is_endless = self.length > 4
        return obs, reward, terminated and not is_endless, truncated and not is_endless, info


def walk_return(length: int) -> float:
    return 2 * length + sum(range(1, length + 1)) / 10


@pytest.mark.parametrize(("vectorization", "num_envs"), [("single", 1), ("sync", 2), ("async", 2)])
def test_an_episode_that_never_ends_is_cut_short(vectorization: str, num_envs: int) -> None:
    data = make_datamodule("toy/Endless-v0", vectorization=vectorization)
    evaluation = Evaluation(
        lambda n: data.eval_collector(n, 0.0), num_envs=num_envs, episodes=5, seed=5, max_steps=6
    )
    played = evaluation(always_action_2)
    data.teardown("test")
    assert [episode.env for episode in played] == sorted(i % num_envs for i in range(5))
    assert [(episode.length, episode.cut_short) for episode in played] == [(6, True)] * 5
    returns = [episode.episode_return for episode in played]
    assert returns == pytest.approx([walk_return(6)] * 5)


def test_episodes_of_a_native_vector_environment_are_cut_short() -> None:
    data = make_datamodule("CartPole-v1", vectorization="native", eval_max_steps=6)
    played = data._evaluation(30, seed=5)(lambda obs: np.zeros(len(obs), np.int64))
    assert [(e.length, e.episode_return, e.cut_short) for e in played] == [(6, 6.0, True)] * 30


def test_every_environment_plays_its_share_if_some_episodes_are_cut_short() -> None:
    played = make_datamodule(SometimesEndless, eval_max_steps=9)._evaluation(300, seed=5)(
        always_action_2
    )
    assert np.bincount([episode.env for episode in played]).tolist() == [15] * 20
    for episode in played:
        assert episode.length == 9 if episode.cut_short else episode.length <= 4
        assert episode.episode_return == pytest.approx(walk_return(episode.length))
    num_cut_short = sum(episode.cut_short for episode in played)
    assert num_cut_short / 300 == pytest.approx(3 / 7, abs=0.1)  # lengths are uniform in 1 to 7


def test_an_episode_that_ends_exactly_at_the_limit_is_not_cut_short() -> None:
    limited = make_datamodule("toy/Walk-v0", eval_max_steps=7)._evaluation(60, seed=5)
    played = limited(always_action_2)
    assert played == make_evaluation(60)(always_action_2)
    assert max(episode.length for episode in played) == 7


def test_the_episodes_after_a_cut_do_not_depend_on_the_number_of_ranks() -> None:
    data = make_datamodule(SometimesEndless, eval_max_steps=5)
    evaluation = data._evaluation(60, seed=5)
    together = evaluation._play_share(always_action_2, 0, 20)
    halves = [evaluation._play_share(always_action_2, first, 10) for first in (0, 10)]

    def outcomes(share: Any) -> list[Any]:
        return sorted((env, *rest[:2], cut) for env, *rest, cut in share)

    assert outcomes(together) == outcomes([*halves[0], *halves[1]])


def test_observed_returns_do_not_continue_after_a_cut() -> None:
    data = make_datamodule("toy/Endless-v0", eval_max_steps=3)
    evaluation, recorder = data._evaluation(40, seed=5), StateRecorder(1_000)
    evaluation.on_step = recorder.record
    evaluation(always_action_2)
    obs, returns, tails = recorder.finish(gamma=1.0)
    expected = {0: 2.1 + 2.2 + 2.3, 1: 2.2 + 2.3, 2: 2.3}
    assert returns == pytest.approx([expected[step] for step in obs[:, 1].tolist()])
    assert tails.tolist() == [1.0] * len(returns)
