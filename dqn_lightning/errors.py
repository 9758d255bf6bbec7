"""User-facing exceptions."""


class ConfigError(ValueError):
    """Error for an invalid setting. The message names the flag, its value, and the valid values."""


class NonFiniteError(RuntimeError):
    """Error that stops training because a loss, weight or priority is NaN or infinite."""


class WriteError(OSError):
    """A file of the run cannot be written; all ranks raise this error together."""


class RankLostError(RuntimeError):
    """Error that stops distributed training because the process of another rank has ended."""


class RunLockedError(RuntimeError):
    """Another process is writing to the run directory."""


class EnvironmentFailure(RuntimeError):  # noqa: N818  (`EnvironmentError` is a Python builtin)
    """Error in an environment.

    If the environment raised an exception, that exception is `__cause__`, or its traceback if the
    environment runs in a worker process. Otherwise there is no cause, and the message describes the
    whole error.
    """


class InvalidEnvironmentError(EnvironmentFailure):
    """An environment returned a value that does not match its spaces, or called `sys.exit`."""


class NotRecordableError(ConfigError):
    """Error of an engine that cannot record the update, or cannot capture it in a CUDA graph.

    Args:
        reason: Why the update cannot be recorded.

    Attributes:
        reason: Why the update cannot be recorded.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(f"model.engine: {reason}; use auto")
        self.reason = reason
