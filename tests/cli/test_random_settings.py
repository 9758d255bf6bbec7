"""Random command lines of `fit` train, or are rejected with one line that names a setting.

    pytest tests/cli/test_random_settings.py -m processes
    RANDOM_CASES=2000 RANDOM_SEED=7 pytest -s tests/cli/test_random_settings.py -m processes

RANDOM_SEED is the number of the first case. A failing case is printed as a command.
"""

import multiprocessing
import os
import re
import shutil
import signal
import sys
import threading
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from dqn_lightning.cli.main import main
from tests.helpers.commands import CARTPOLE
from tests.helpers.random_settings import IGNORED, Case, all_flags, draw_case

pytestmark = [
    pytest.mark.processes,
    pytest.mark.timeout(0),
    pytest.mark.filterwarnings("default"),  # an unusual setting may be worth a warning
]

NUM_CASES = int(os.environ.get("RANDOM_CASES", 100))
FIRST = int(os.environ.get("RANDOM_SEED", 0))
DEADLINE_S = 60
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
MAY_CHANGE = ("PL_", "SDL_", "CUBLAS_")  # set for the whole process, by Lightning and by us


def test_every_setting_is_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["fit", "--config", str(CARTPOLE), "--print_config"])
    settings = yaml.safe_load(capsys.readouterr().out)
    drawn = {flag for flag, _ in all_flags()}
    groups = {flag.rpartition(".")[0] for flag in drawn}
    ignored = {f"{group}.{name}" for group, names in IGNORED.items() for name in names}
    assert set(leaves(settings, groups)) == drawn | (ignored & set(leaves(settings, groups)))


def leaves(settings: dict[str, Any], groups: set[str], prefix: str = "") -> Iterator[str]:
    for key, value in settings.items():
        name = f"{prefix}{key}"
        if name in groups:
            yield from leaves(value, groups, f"{name}.")
        else:
            yield name


def test_random_settings_train_or_are_rejected(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    outcomes: Counter[Any] = Counter()
    problems = []
    for number in range(FIRST, FIRST + NUM_CASES):
        case, directory = draw_case(number), tmp_path / str(number)
        directory.mkdir()
        os.chdir(directory)
        code, problem = run(case, capfd)
        os.chdir(tmp_path)
        shutil.rmtree(directory, ignore_errors=True)
        outcomes[code] += 1
        if problem:
            problems.append(f"case {number}: {case.command}\n{problem}")
            with capfd.disabled():
                print(f"\n{problems[-1]}", flush=True)
    with capfd.disabled():
        print(f"\nexit codes: {dict(outcomes)}")
    assert not problems, "\n\n".join(problems)
    assert outcomes[0] >= NUM_CASES // 5


def run(case: Case, capfd: pytest.CaptureFixture[str]) -> tuple[Any, str | None]:
    """Run a case; return its exit code, and what is wrong with it, or None."""
    before = process_state()
    try:
        with deadline(DEADLINE_S):
            code: Any = main(case.arguments)
    except BaseException as error:
        code = type(error).__name__
        traceback.print_exc()
    error = capfd.readouterr().err
    changed = differences(before, process_state())
    restore(before)
    checks = {0: check_trained, 2: check_rejected, 1: check_stopped}
    problem = checks[code](case, error) if code in checks else error[-700:]
    if "Traceback" in error:
        problem = error[-700:]
    elif changed:
        problem = f"not restored: {changed}"
    return code, problem and f"exit code {code}: {problem}"


def check_trained(case: Case, error: str) -> str | None:
    if case.settings.get("trainer.fast_dev_run") not in (None, False, 0):
        return None
    if len(list(Path("checkpoints").glob("*/config.yaml"))) != 1:
        return f"no run directory, only {list(Path().rglob('*'))}"
    temporary = list(Path().rglob(".tmp-*"))
    return f"it left {temporary}" if temporary else None


def check_rejected(case: Case, error: str) -> str | None:
    lines = error.splitlines()
    if sum(line.startswith("error") for line in lines) != 1 or lines[-1][:7] != "error: ":
        return f"not one line:\n{error}"
    if left := [str(path) for path in Path().rglob("*")]:
        return f"it left {left}: {lines[-1]}"
    return None if is_named(case, lines[-1]) else f"it names no given flag: {lines[-1]}"


def check_stopped(case: Case, error: str) -> str | None:
    """An extreme learning rate or reward is found only in training."""
    *_, last = error.splitlines()
    return None if re.match("error: .*not finite", last) else error[-700:]


def is_named(case: Case, message: str) -> bool:
    """Return whether a message contains the name of a given setting, or of its group."""
    given = case.names()
    words = [word.strip(".-") for word in re.findall(r"[\w.-]+", message.replace("init_args.", ""))]
    return any(name == word or name.startswith(f"{word}.") for name in given for word in words)


# The process -------------------------------------------------------------------------------------


class TookTooLong(BaseException):
    """The deadline has passed; not an Exception, which `main` would handle."""


@contextmanager
def deadline(seconds: int) -> Iterator[None]:
    def interrupt(*_: Any) -> None:
        raise TookTooLong

    previous = signal.signal(signal.SIGALRM, interrupt)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


def process_state() -> dict[str, Any]:
    """Return the state of this process that a command must leave as it was."""
    variables = {k: v for k, v in os.environ.items() if not k.startswith(MAY_CHANGE)}
    return {
        "warning filters": list(warnings.filters),
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "child processes": [process.name for process in multiprocessing.active_children()],
        "signal handlers": [signal.getsignal(number) for number in SIGNALS],
        "working directory": os.getcwd(),
        "environment variables": variables,
        "default dtype": torch.get_default_dtype(),
        "exception hook": sys.excepthook,
        "umask": _umask(),
    }


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def differences(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    return {name: after[name] for name in before if before[name] != after[name]}


def restore(before: dict[str, Any]) -> None:
    """Restore what a failed command has changed, and what settings change on purpose."""
    os.chdir(before["working directory"])
    for number, handler in zip(SIGNALS, before["signal handlers"], strict=True):
        signal.signal(number, handler)
    torch.set_default_dtype(before["default dtype"])
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(False)
