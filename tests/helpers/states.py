"""Read everything that a run saved, and compare it with another run."""

from pathlib import Path
from typing import Any

import torch

_PENDING_COLUMNS = ("obs", "episode_step", "is_reset")  # the others are not known yet


def differences(ours: Any, theirs: Any, place: str = "") -> list[str]:
    """Return the places at which two nested states differ in any bit."""
    if type(ours) is not type(theirs):
        return [place]
    if isinstance(ours, torch.Tensor):
        return [] if torch.equal(ours, theirs) else [place]
    if isinstance(ours, dict):
        if ours.keys() != theirs.keys():
            return [f"{place}: {ours.keys() ^ theirs.keys()}"]
        return [d for k in ours for d in differences(ours[k], theirs[k], f"{place}/{k}")]
    if isinstance(ours, (list, tuple)):
        if len(ours) != len(theirs):
            return [f"{place}: {len(ours)} and {len(theirs)}"]
        pairs = enumerate(zip(ours, theirs, strict=True))
        return [d for i, pair in pairs for d in differences(*pair, f"{place}/{i}")]
    return [] if ours == theirs else [f"{place}: {ours} and {theirs}"]


def read_checkpoint(directory: str | Path, name: str = "last.ckpt") -> dict[str, Any]:
    """Return the content of a checkpoint."""
    content: dict[str, Any] = torch.load(Path(directory, name), weights_only=True)
    return content


def progress_of(directory: str | Path, name: str = "last.ckpt") -> dict[str, Any]:
    """Return the counts of a run in a checkpoint."""
    progress: dict[str, Any] = read_checkpoint(directory, name)["dqn_lightning"]["progress"]
    return progress


def read_run(directory: str | Path, num_ranks: int = 1) -> dict[str, Any]:
    """Return everything that a run saved, except for wall-clock times and its identifier.

    The result does not depend on how the rows of the replay are divided into files.
    """
    directory = Path(directory)
    last, best = read_checkpoint(directory), directory / "best.ckpt"
    state_files = last["full_state"]["files"]
    assert len(state_files) == num_ranks
    return {
        **{key: last[key] for key in ("state_dict", "optimizer_states", "lr_schedulers")},
        "dqn_lightning": without_run_id(last["dqn_lightning"]),
        "callbacks": {k: v for k, v in last["callbacks"].items() if not k.startswith("Timing")},
        "ranks": [
            read_rank(directory / "state" / f"rank-{rank}", name)
            for rank, name in enumerate(state_files)
        ],
        "best": read_checkpoint(directory, best.name)["state_dict"] if best.exists() else None,
        "metrics": (directory / "metrics.csv").read_text(),
    }


def read_rank(directory: Path, name: str) -> dict[str, Any]:
    """Return a rank's state, with complete `rows` by column and the `pending` row."""
    state: dict[str, Any] = torch.load(directory / name, weights_only=True)
    pieces = state.pop("pieces")
    columns = [torch.load(directory / file, weights_only=True)["rows"] for *_, file in pieces]
    joined = {column: torch.cat([piece[column] for piece in columns]) for column in columns[0]}
    start, pending = pieces[0][0], state["collector"]["replay"]["time"]
    oldest = max(start, pending - state["collector"]["replay"]["slots"] + 1)
    rows = {name: column[oldest - start : pending - start] for name, column in joined.items()}
    newest = {name: joined[name][pending - start] for name in _PENDING_COLUMNS}
    return {**without_run_id(state), "rows": rows, "pending": newest}


def without_run_id(state: dict[str, Any]) -> dict[str, Any]:
    """Return a state that contains `progress`, without the identifier of the run."""
    return {**state, "progress": {k: v for k, v in state["progress"].items() if k != "run_id"}}


def assert_same_run(first: str | Path, second: str | Path, num_ranks: int = 1) -> None:
    """Compare two run directories bit for bit; the runs must have learned something."""
    ours, theirs = read_run(first, num_ranks), read_run(second, num_ranks)
    assert all(rank["rows"]["action"].numel() > 50 for rank in ours["ranks"])
    assert ours["dqn_lightning"]["progress"]["grad_steps"] > 0
    assert differences(ours, theirs) == []


CARTPOLE_SHORT = (
    "--data.schedule.learning_starts_env_steps=200",
    "--data.schedule.train_every_env_steps=8",
    "--data.schedule.updates_per_train=4",
    "--data.evaluation.every_env_steps=400",
    "--data.evaluation.episodes=3",
    "--trainer.log_every_n_steps=7",
)
