"""Reading the figures of a run back from `metrics.jsonl`, also while it is being written or where it is damaged."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from needle.train.json_objects import is_number, reject_constant

__all__ = ["METRICS_FILE", "Figures", "Metrics", "read_metrics"]

METRICS_FILE = "metrics.jsonl"
# One epoch's figures that are finite numbers, by name.
Figures = dict[str, Any]


@dataclass(frozen=True)
class Metrics:
    """What could be read of a run's figures.

    Args:
        rows: a row for each epoch, in order, each with at least `epoch`.
        faults: what could not be read, a line each.
    """

    rows: tuple[Figures, ...] = ()
    faults: tuple[str, ...] = ()


def read_metrics(path: str | os.PathLike[str]) -> Metrics:
    """Read the figures of a run, as far as they can be read.

    A last line that is only half there is left out, as is any other that is no row; each is told in `faults`. Where
    there are several rows of an epoch the last one counts. A file that is not there has no rows and no faults.

    Args:
        path: the file, or the run's folder.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from needle.train import read_metrics
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "metrics.jsonl")
        ...     _ = path.write_text('{"epoch": 1, "test_loss": 0.5}\\n{"epoch": 2, "te')
        ...     found = read_metrics(folder)
        >>> found.rows
        ({'epoch': 1, 'test_loss': 0.5},)
        >>> found.faults
        ('metrics.jsonl: the last line, 2, is half written and left out',)
    """
    path = Path(path)
    path = path / METRICS_FILE if path.is_dir() and path.name != METRICS_FILE else path
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return Metrics()
    except OSError as error:
        return Metrics(faults=(f"cannot read {path.name}: {error.strerror or error}",))
    lines = data.decode(errors="replace").split("\n")
    return _read_lines(lines, path.name)


def _read_lines(lines: Sequence[str], name: str) -> Metrics:
    rows, faults = [], []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        row = _row(line)
        if row is not None:
            rows.append(row)
        elif number == len(lines):  # every whole line ends with "\n": this one does not
            faults.append(f"{name}: the last line, {number}, is half written and left out")
        else:
            faults.append(f"{name}: line {number} is no row of figures and left out")
    return Metrics(in_order(rows), tuple(faults))


def in_order(rows: Sequence[Figures]) -> tuple[Figures, ...]:
    """Return one row for each epoch, the last there is, by rising epoch."""
    by_epoch = {row["epoch"]: row for row in rows}
    return tuple(by_epoch[epoch] for epoch in sorted(by_epoch))


def _row(line: str) -> Figures | None:
    try:
        row = json.loads(line, parse_constant=reject_constant)
    except (ValueError, RecursionError):
        return None
    return figures_of(row)


def figures_of(row: object) -> Figures | None:
    """Return the finite numbers of a row, None where it is none of an epoch."""
    if not isinstance(row, dict) or type(row.get("epoch")) is not int:
        return None
    return {name: value for name, value in row.items() if is_number(value) and _is_finite(value)}


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number that no float holds
        return False
