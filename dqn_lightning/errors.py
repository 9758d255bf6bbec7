"""User-facing exceptions."""


class ConfigError(ValueError):
    """An invalid setting. The message names the flag, its value, and the valid values."""


class NonFiniteError(RuntimeError):
    """Training stopped because a loss, weight, or priority is NaN or infinite."""


class RankLostError(RuntimeError):
    """Distributed training stopped because another rank's process has ended."""


class EnvironmentFailure(RuntimeError):  # noqa: N818  (`EnvironmentError` is a Python builtin)
    """An environment raised an exception, kept as `__cause__` unless it was in a subprocess."""


class NotRecordableError(ConfigError):
    """The chosen engine cannot record the update.

    Args:
        reason: Why the update cannot be recorded.

    Attributes:
        reason: Why the update cannot be recorded.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(f"model.engine: {reason}; use auto")
        self.reason = reason
