"""Compare the metrics of two runs value by value, to show that a refactoring changed no number.

    python -m benchmarks.compare_metrics OLD_RUN NEW_RUN

Both are run directories of the same config and seed. Log every update with
`--trainer.log_every_n_steps 1`, so that every loss is compared. `RENAMED` maps columns of older
runs to their present names. The exit code is 1 if a value differs.
"""

import csv
import sys
from pathlib import Path

RENAMED = {"health/": "diagnostics/"}
"""Prefixes of columns before and after they were renamed."""


def main(old: Path, new: Path) -> int:
    old_columns, old_rows = read(old)
    new_columns, new_rows = read(new)
    if old_columns != new_columns:
        print(f"columns differ: {sorted(set(old_columns) ^ set(new_columns))}")
        return 1
    differences = [
        f"row {i}, {name}: {old_value} before, {new_value} after"
        for i, (before, after) in enumerate(zip(old_rows, new_rows, strict=False))
        for name, old_value, new_value in zip(old_columns, before, after, strict=True)
        if old_value != new_value
    ]
    num_losses = sum(bool(row[old_columns.index("train/loss")]) for row in old_rows)
    print(f"{len(old_rows)} and {len(new_rows)} rows, {num_losses} losses")
    print(f"{len(differences)} values differ", *differences[:5], sep="\n")
    return int(bool(differences) or len(old_rows) != len(new_rows))


def read(run: Path) -> tuple[list[str], list[list[str]]]:
    """Return the columns, by their present names, and the rows of `metrics.csv`."""
    with (run / "metrics.csv").open(newline="") as lines:
        columns, *rows = csv.reader(lines)
    return [rename(column) for column in columns], rows


def rename(column: str) -> str:
    for old, new in RENAMED.items():
        if column.startswith(old):
            return new + column.removeprefix(old)
    return column


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:3])))
