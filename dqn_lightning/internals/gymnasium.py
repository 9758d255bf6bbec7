"""Access to private attributes of Gymnasium.

Checked against Gymnasium 1.4.0; the package supports Gymnasium >= 1.1. If one of these attributes
is removed or changes its meaning, `tests/internals/test_gymnasium.py` fails.
"""

from types import TracebackType
from typing import Any

import numpy as np
from gymnasium.envs import registration
from gymnasium.vector import SyncVectorEnv
from numpy.typing import NDArray

RECORDED_ARGUMENTS = "_saved_kwargs"
"""Attribute in which `gymnasium.utils.RecordConstructorArgs` stores constructor arguments.

Every Gymnasium wrapper has this attribute. The arguments never change, so saved states omit them.
"""


def envs_to_reset(envs: SyncVectorEnv) -> NDArray[np.bool_]:
    """Return a mask [N] of the environments that will be reset in the next step.

    Saved states must contain this mask, which `SyncVectorEnv` does not expose publicly.
    """
    return envs._autoreset_envs


def set_envs_to_reset(envs: SyncVectorEnv, mask: NDArray[np.bool_]) -> None:
    """Set the mask [N] of the environments that will be reset in the next step."""
    envs._autoreset_envs = mask


def is_raised_by_make(error: Exception) -> bool:
    """Return whether `gymnasium.make` itself raised the error, rather than the code it called.

    If `make` raises a `TypeError`, the environment's constructor does not accept the arguments. A
    `TypeError` raised inside the constructor is a bug in the environment. Gymnasium does not
    distinguish these cases, so this function inspects the innermost frame of the traceback.
    """
    original = error.__cause__ or error  # `make` adds its arguments to the message
    innermost: TracebackType | None = original.__traceback__
    while innermost is not None and innermost.tb_next is not None:
        innermost = innermost.tb_next
    module: Any = None if innermost is None else innermost.tb_frame.f_globals.get("__name__")
    return bool(module == registration.__name__)
