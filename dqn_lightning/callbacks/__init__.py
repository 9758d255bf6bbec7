"""Lightning callbacks for target sync, checkpoints, logging, videos, and supervision of ranks."""

from dqn_lightning.callbacks.checkpoints import Checkpoints
from dqn_lightning.callbacks.diagnostics import Diagnostics
from dqn_lightning.callbacks.episode_log import EpisodeLog
from dqn_lightning.callbacks.full_state import FullState
from dqn_lightning.callbacks.gradient_clamp import GradientClamp
from dqn_lightning.callbacks.progress import Progress
from dqn_lightning.callbacks.rank_watch import RankWatch
from dqn_lightning.callbacks.target_sync import TargetSync
from dqn_lightning.callbacks.timing import Timing
from dqn_lightning.callbacks.video import Video

__all__ = [
    "Checkpoints",
    "Diagnostics",
    "EpisodeLog",
    "FullState",
    "GradientClamp",
    "Progress",
    "RankWatch",
    "TargetSync",
    "Timing",
    "Video",
]
