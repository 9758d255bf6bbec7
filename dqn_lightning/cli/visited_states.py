"""Collection of visited states for the commands `embed` and `export`."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from dqn_lightning.cli.arguments import check_positive
from dqn_lightning.cli.checkpoint import load_weights
from dqn_lightning.datamodule import MAX_EVAL_ENVS
from dqn_lightning.interaction.episodes import VisitedState, visit_states

if TYPE_CHECKING:
    from dqn_lightning.cli.app import DQNCLI


def visit_test_states(cli: "DQNCLI", episodes: int) -> Iterator[VisitedState]:
    """Load the checkpoint's weights and play test episodes; yield every visited state.

    Args:
        cli: The command line.
        episodes: Number of episodes to play.

    Raises:
        ConfigError: If `episodes` is not positive.
    """
    check_positive("episodes", episodes)
    load_weights(cli)
    settings = cli.datamodule.evaluation
    num_envs = min(episodes, MAX_EVAL_ENVS)
    collector = cli.datamodule.eval_collector(num_envs, settings.epsilon)
    policy, seed = cli.model.greedy_actions, settings.test_seed
    return visit_states(collector, policy, episodes, seed, settings.max_steps)
