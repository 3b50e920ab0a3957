"""Where runs lie: one folder each under `runs/`, and `runs/latest`, a file that names the latest."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from needle.errors import CheckpointError
from needle.train import write_file

__all__ = ["MODEL_OPTIONS", "RUNS", "find_model", "new_run_folder", "remember_latest"]

RUNS = Path("runs")
LATEST = "latest"
# How a command asks for the model that `find_model` finds.
MODEL_OPTIONS: dict[str, Any] = {"metavar": "MODEL", "help": "a run's folder (default: the latest under runs/)"}


def new_run_folder(dataset: str) -> Path:
    """Return a folder that does not exist yet, named for the data set and the time."""
    stamp = RUNS / f"{dataset}-{time.strftime('%Y%m%d-%H%M%S')}"
    folder, count = stamp, 1
    while folder.exists():
        count += 1
        folder = stamp.with_name(f"{stamp.name}-{count}")
    return folder


def remember_latest(folder: Path) -> bool:
    """Note a run as the latest, if it lies in `runs/`; tell whether it does."""
    if folder.resolve().parent != RUNS.resolve():
        return False
    write_file(RUNS / LATEST, f"{folder.name}\n".encode())
    return True


def find_model(named: str | None) -> Path:
    """Return the folder of the model that the user named, or of the latest run.

    Raises:
        CheckpointError: there is none.
    """
    if named is not None:
        return Path(named)
    pointer = RUNS / LATEST
    try:
        name = pointer.read_text().strip()
    except FileNotFoundError:
        raise CheckpointError(f"there is no model in {RUNS}/ yet: run `needle train`, or name a run's folder") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read {pointer}: {error}") from None
    if not name or Path(name).name != name:
        raise CheckpointError(f"{pointer} is damaged: it must hold the name of a folder beside it")
    return RUNS / name
