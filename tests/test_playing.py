import numpy as np
import pytest
import torch
from torch import Tensor

from dqn_lightning import DQNDataModule
from dqn_lightning.errors import ConfigError
from dqn_lightning.playing import play_episode
from dqn_lightning.types import Moment


def play(data: DQNDataModule, seen: list[Tensor] | None = None) -> list[Moment]:
    """Play with values by which action 2 is best in every other step, else action 1."""
    asked: list[Tensor] = [] if seen is None else seen

    def q_values(obs: Tensor) -> Tensor:
        asked.append(obs.clone())
        even = obs[:, 1] % 2 == 0
        return torch.stack([-obs[:, 1], torch.full((1,), 0.5), even.float()], dim=1)

    return list(play_episode(data.drawing_collector(), q_values, seed=3))


def test_an_episode_is_shown_from_its_reset_to_its_last_state() -> None:
    seen: list[Tensor] = []
    moments = play(DQNDataModule("toy/Drawn-v0"), seen)
    assert [moment.step for moment in moments] == list(range(10))
    assert [moment.picture[0, 0, 0] for moment in moments] == list(range(0, 200, 20))
    assert [moment.action for moment in moments] == [2, 1, 2, 1, 2, 1, 2, 1, 2, None]
    # The reward is the action, and a tenth for each step that was made.
    returns = np.cumsum([0, 2.1, 1.2, 2.3, 1.4, 2.5, 1.6, 2.7, 1.8, 2.9])
    assert [moment.episode_return for moment in moments] == pytest.approx(returns.tolist())
    assert [moment.q_values[0] for moment in moments] == [-step for step in range(10)]
    assert len(seen) == len(moments)  # the network is asked once for each


def test_every_episode_begins_anew() -> None:
    data = DQNDataModule("toy/Drawn-v0")
    collector = data.drawing_collector()
    values = torch.tensor([[0.0, 1.0, 0.0]])
    first, second = (list(play_episode(collector, lambda _: values, seed)) for seed in (0, 1))
    assert [moment.step for moment in second] == list(range(10))
    assert second[-1].episode_return == first[-1].episode_return


def test_observations_are_stacked_as_in_training() -> None:
    seen: list[Tensor] = []
    play(DQNDataModule("toy/Drawn-v0", frame_stack=2), seen)
    assert seen[4][0].tolist() == [0, 3, 0, 4]  # [episode, step] of the last two


def test_it_is_the_environment_of_evaluations() -> None:
    data = DQNDataModule("CartPole-v1", eval_env_kwargs={"max_episode_steps": 4})
    q_values = torch.tensor([[0.0, 1.0]])
    moments = list(play_episode(data.drawing_collector(), lambda _: q_values, seed=0))
    assert len(moments) == 5
    assert moments[0].picture.shape == (400, 600, 3)
    assert data.eval_factory.env_kwargs == {"max_episode_steps": 4}


@pytest.mark.parametrize("env_id", ["toy/Walk-v0", "toy/Pictures-v0"])
def test_an_environment_that_cannot_draw_is_refused(env_id: str) -> None:
    with pytest.raises(ConfigError, match=rf"data\.env_id: {env_id} cannot draw itself"):
        DQNDataModule(env_id).drawing_collector()


def test_what_is_no_picture_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = DQNDataModule("toy/Drawn-v0")
    monkeypatch.setattr("tests.toy.Drawn.render", lambda self: None)
    with pytest.raises(ConfigError, match="draws no picture but <class 'NoneType'>"):
        play(data)
