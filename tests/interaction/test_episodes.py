from collections import Counter

import numpy as np
import pytest
import torch
from torch import Tensor

from dqn_lightning import DQNDataModule
from dqn_lightning.errors import ConfigError
from dqn_lightning.interaction.episodes import (
    VisitedState,
    play_episode,
    sample_states,
    visit_states,
)
from dqn_lightning.types import Observations, PlayedStep
from tests.helpers.settings import make_datamodule
from tests.helpers.toy import Walk

# Play one episode to watch it --------------------------------------------------------------------


def play(
    data: DQNDataModule, seen: list[Tensor] | None = None, max_steps: int = 99
) -> list[PlayedStep]:
    """Play with action values that favor action 2 in even steps and action 1 in odd steps."""
    inputs: list[Tensor] = [] if seen is None else seen

    def q_values(obs: Tensor) -> Tensor:
        inputs.append(obs.clone())
        even = obs[:, 1] % 2 == 0
        return torch.stack([-obs[:, 1], torch.full((1,), 0.5), even.float()], dim=1)

    return list(play_episode(data.collectors.rendering(), q_values, seed=3, max_steps=max_steps))


def test_every_step_is_yielded_from_the_reset_to_the_last_state() -> None:
    seen: list[Tensor] = []
    played_steps = play(make_datamodule("toy/Drawn-v0"), seen)
    assert [played.step for played in played_steps] == list(range(10))
    assert [played.image[0, 0, 0] for played in played_steps] == list(range(0, 200, 20))
    assert [played.action for played in played_steps] == [2, 1, 2, 1, 2, 1, 2, 1, 2, None]
    # The reward is the action plus a tenth of the step number.
    returns = np.cumsum([0, 2.1, 1.2, 2.3, 1.4, 2.5, 1.6, 2.7, 1.8, 2.9])
    assert [played.episode_return for played in played_steps] == pytest.approx(returns.tolist())
    assert [played.q_values[0] for played in played_steps] == [-step for step in range(10)]
    assert len(seen) == len(played_steps)  # one forward pass per step


def test_a_second_episode_starts_at_step_0_with_a_return_of_0() -> None:
    collector = make_datamodule("toy/Drawn-v0").collectors.rendering()
    values = torch.tensor([[0.0, 1.0, 0.0]])
    first, second = (list(play_episode(collector, lambda _: values, seed, 99)) for seed in (0, 1))
    assert [played.step for played in second] == list(range(10))
    assert second[0].episode_return == 0.0
    assert second[-1].episode_return == first[-1].episode_return


def test_observations_of_a_played_episode_are_stacked_as_in_training() -> None:
    seen: list[Tensor] = []
    play(make_datamodule("toy/Drawn-v0", frame_stack=2), seen)
    assert seen[4][0].tolist() == [0, 3, 0, 4]  # [episode, step] of the two newest frames


def test_an_episode_is_played_with_the_settings_of_evaluation_environments() -> None:
    data = make_datamodule("CartPole-v1", eval_env_kwargs={"max_episode_steps": 4})
    q_values = torch.tensor([[0.0, 1.0]])
    played_steps = list(play_episode(data.collectors.rendering(), lambda _: q_values, 0, 99))
    assert len(played_steps) == 5
    assert played_steps[0].image.shape == (400, 600, 3)
    assert data.collectors.eval_env_factory.env_kwargs == {"max_episode_steps": 4}


def test_an_episode_that_is_too_long_to_watch_is_cut_short() -> None:
    played_steps = play(make_datamodule("toy/Drawn-v0"), max_steps=4)
    assert [played.step for played in played_steps] == [0, 1, 2, 3, 4]
    assert [played.cut_short for played in played_steps] == [False] * 4 + [True]
    assert played_steps[-1].action is None
    assert played_steps[-1].episode_return == pytest.approx(2.1 + 1.2 + 2.3 + 1.4)


def test_an_episode_that_ends_at_the_limit_is_watched_to_its_end() -> None:
    *_, last = play(make_datamodule("toy/Drawn-v0"), max_steps=9)
    assert (last.step, last.cut_short) == (9, False)


@pytest.mark.parametrize("env_id", ["toy/Walk-v0", "toy/Images-v0"])
def test_an_environment_that_cannot_render_is_rejected(env_id: str) -> None:
    with pytest.raises(ConfigError, match=rf"data\.env\.id: {env_id} .*render"):
        make_datamodule(env_id).collectors.rendering()


def test_an_environment_that_renders_no_image_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_datamodule("toy/Drawn-v0")
    monkeypatch.setattr("tests.helpers.toy.Drawn.render", lambda self: None)
    with pytest.raises(ConfigError, match=r"data\.env\.id: .*<class 'NoneType'>"):
        play(data)


# Collect visited states --------------------------------------------------------------------------


def always_action_1(obs: Observations) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.ones(len(obs), np.int64)


def walk_length(seed: int) -> int:
    walk = Walk()
    walk.reset(seed=seed)
    return walk.length


def test_each_state_of_each_episode_is_visited_once() -> None:
    collector = make_datamodule("toy/Walk-v0").eval_collector(6, epsilon=0.0)
    states = list(visit_states(collector, always_action_1, episodes=6, seed=3, max_steps=99))
    assert all(state.obs.tolist() == [0, state.step] for state in states)
    lengths = {env: walk_length(3 + env) for env in range(6)}
    assert len(set(lengths.values())) > 2
    assert Counter(state.episode for state in states) == lengths
    again = list(visit_states(collector, always_action_1, episodes=6, seed=3, max_steps=99))
    assert [state[:2] for state in again] == [state[:2] for state in states]


def test_more_episodes_than_environments_are_played_in_turns() -> None:
    collector = make_datamodule("toy/Walk-v0").eval_collector(4, epsilon=0.0)
    states = list(visit_states(collector, always_action_1, episodes=10, seed=3, max_steps=99))
    assert Counter(state.episode for state in states) == {i: walk_length(3 + i) for i in range(10)}
    assert all(state.obs[1] == state.step for state in states)


def test_episodes_that_are_too_long_are_cut_short_and_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    data = make_datamodule("toy/Endless-v0")
    with caplog.at_level("INFO", "lightning.pytorch.utilities.rank_zero"):
        collector = data.eval_collector(4, epsilon=0.0)
        states = list(visit_states(collector, always_action_1, episodes=6, seed=3, max_steps=5))
    assert Counter(state.episode for state in states) == dict.fromkeys(range(6), 5)
    first, second = caplog.messages
    assert "no time limit of its own" in first
    assert "27,000 steps (data.evaluation.max_steps)" in first
    assert second == "of 6 episodes, 6 cut short after 5 steps (data.evaluation.max_steps)"


def test_a_visited_state_does_not_keep_the_observations_of_other_environments() -> None:
    collector = make_datamodule("toy/Walk-v0").eval_collector(6, epsilon=0.0)
    first, *_ = visit_states(collector, always_action_1, episodes=6, seed=3, max_steps=99)
    assert first.obs.untyped_storage().nbytes() == first.obs.nbytes


def test_observations_of_visited_states_are_stacked_as_in_training() -> None:
    data = make_datamodule("toy/Walk-v0", frame_stack=2)
    states = visit_states(
        data.eval_collector(6, epsilon=0.0), always_action_1, episodes=6, seed=3, max_steps=99
    )
    stacks = {state.step: state.obs.tolist() for state in states}
    assert stacks[0] == [0, 0, 0, 0]
    assert stacks[2] == [0, 1, 0, 2]


def test_every_state_is_sampled_with_equal_probability() -> None:
    states = [VisitedState(i % 2, i, torch.tensor(i)) for i in range(10)]
    rng = np.random.default_rng(0)
    samples = [sample_states(iter(states), 3, rng) for _ in range(3_000)]
    counts = Counter(state.step for sample in samples for state in sample)
    # Each state is expected in 900 of 3 000 samples, with a standard deviation of 25.
    assert sorted(counts) == list(range(10))
    assert all(abs(count - 900) < 100 for count in counts.values())
    assert all(sample == sorted(sample, key=lambda state: state[:2]) for sample in samples)


def test_all_states_are_returned_sorted_if_there_are_fewer_than_requested() -> None:
    states = [VisitedState(i % 2, i, torch.tensor(i)) for i in range(10)]
    sample = sample_states(iter(states), 20, np.random.default_rng(0))
    assert sample == [*states[::2], *states[1::2]]
