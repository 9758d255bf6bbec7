"""Files that a run writes to its directory."""

from pathlib import Path

_WRITTEN_BY_RUNS = (
    "config.yaml",
    "best.ckpt",
    "metrics.csv",
    "timing.csv",
    "lengths.png",
    "returns.png",
    "events.out.tfevents.*",
    "videos/[0-9]*.*",
    "state/rank-*/*.pt",
)
_TEMPORARY = (".tmp-*", "videos/.tmp-*", "state/rank-*/.tmp-*")
_DIRECTORIES = ("state/rank-*", "state", "videos")


def newest_checkpoint(run_directory: Path) -> Path | None:
    """Return the newest checkpoint from which a run can resume, or None if there is none.

    This is `last.ckpt`; if that file is missing, it is the checkpoint `env_steps-N.ckpt` with the
    greatest number N.
    """
    last = run_directory / "last.ckpt"
    if last.exists():
        return last
    numbered = run_directory.glob("env_steps-[0-9]*.ckpt")
    return max(numbered, key=lambda path: int(path.stem.partition("-")[2]), default=None)


def remove_run_files(run_directory: Path) -> None:
    """Delete the files of a run that ended before its first checkpoint; keep all other files."""
    for pattern in (*_WRITTEN_BY_RUNS, *_TEMPORARY):
        for path in run_directory.glob(pattern):
            path.unlink()
    for pattern in _DIRECTORIES:
        for path in run_directory.glob(pattern):
            if not any(path.iterdir()):
                path.rmdir()
