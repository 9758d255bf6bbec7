"""Callbacks: what is done to a run, or made of it, besides learning."""

from dqn_lightning.callbacks.checkpoints import Checkpoints
from dqn_lightning.callbacks.episode_log import EpisodeLog
from dqn_lightning.callbacks.film import Film
from dqn_lightning.callbacks.full_state import FullState
from dqn_lightning.callbacks.gradient_clamp import GradientClamp
from dqn_lightning.callbacks.health import Health
from dqn_lightning.callbacks.progress import Progress
from dqn_lightning.callbacks.rank_watch import RankWatch
from dqn_lightning.callbacks.target_sync import TargetSync
from dqn_lightning.callbacks.timing import Timing

__all__ = [
    "Checkpoints",
    "EpisodeLog",
    "Film",
    "FullState",
    "GradientClamp",
    "Health",
    "Progress",
    "RankWatch",
    "TargetSync",
    "Timing",
]
