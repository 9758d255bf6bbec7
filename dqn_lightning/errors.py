"""Errors that a user can mend."""


class ConfigError(ValueError):
    """A setting that cannot work. The message names the flag, its value and what would be right."""


class NonFiniteError(RuntimeError):
    """The loss or the weights became NaN or infinite; training has stopped."""


class RankLostError(RuntimeError):
    """Another of the processes that train together is gone, so this one cannot go on."""


class EnvironmentFailure(RuntimeError):  # noqa: N818  (it is the environment that failed, not us)
    """An environment raised; its own exception is the cause of this one."""


class UntraceableError(ConfigError):
    """An engine cannot write updates down once and repeat them.

    Attributes:
        reason: Why.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(f"model.engine: {reason}; use auto")
        self.reason = reason
