"""What a run's folder tells: its record, its figures so far, and whether it is finished."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from needle.cli.runs import LATEST, RUNS, find_model
from needle.errors import CheckpointError
from needle.train import Recipe, RunRecord, list_checkpoints, read_recipe, read_run_record
from needle.train.metrics_file import METRICS_FILE, Figures, Metrics, read_metrics
from needle.train.run_record import RUN_FILE
from needle.train.saving import MODEL_FILE

__all__ = ["FIELDS", "Run", "find_run", "is_run", "read_run", "runs_in"]

# What `needle runs --sort` and `--json` call a run's figures.
FIELDS = (
    *("name", "started", "data", "model", "epochs", "best_loss", "last_loss", "best_error", "last_error"),
    *("best_perplexity", "last_perplexity", "seconds", "state"),
)
# What is measured on data that was not trained on: its columns, the first of which that is there counts.
_COLUMNS = {"loss": ("test_loss", "valid_loss"), "error": ("test_error",), "perplexity": ("perplexity",)}
# A run that has written nothing for this many of its longest epochs and a minute has stopped ...
_QUIET_EPOCHS, _QUIET_SECONDS = 3, 60.0
# ... and one whose first epoch is not over yet, after a day.
_QUIET_START_SECONDS = 86_400.0


@dataclass(frozen=True)
class Run:
    """What is known of a run.

    Args:
        folder: where it lies.
        record: how it was started; None where there is no record, or a damaged one.
        recipe: how its model was made, looked at where there is no record.
        metrics: the figures of each epoch, and what could not be read of them.
        state: finished, interrupted, or `running?` where nobody can tell whether it goes on.
        notes: what could not be read besides.
    """

    folder: Path
    record: RunRecord | None
    recipe: Recipe | None
    metrics: Metrics
    state: str
    notes: tuple[str, ...]

    @property
    def rows(self) -> tuple[Figures, ...]:
        """The figures of each epoch."""
        return self.metrics.rows

    @property
    def options(self) -> Mapping[str, Any]:
        """The options of the run, as far as they are known."""
        if self.record is not None:
            return self.record.options
        return {} if self.recipe is None else self.recipe.options

    @property
    def data(self) -> str | None:
        """The name of the data set or of the text."""
        if self.options.get("text"):
            return Path(str(self.options["text"])).name
        named = self.options.get("dataset") or (self.recipe.dataset if self.recipe else None)
        return str(named) if named else None

    @property
    def model(self) -> str | None:
        """The name of the model."""
        named = self.options.get("model") or (self.recipe.architecture if self.recipe else None)
        return str(named) if named else None

    @property
    def epochs(self) -> int:
        """How many epochs were done."""
        return self.rows[-1]["epoch"] if self.rows else 0

    @property
    def planned_epochs(self) -> int | None:
        """How many epochs there were to be."""
        planned = self.options.get("epochs")
        return planned if type(planned) is int else None

    @property
    def seconds(self) -> float | None:
        """How long all epochs together took."""
        found = [row["seconds"] for row in self.rows if "seconds" in row]
        return sum(found) if found else None

    def last(self, metric: str) -> float | None:
        """Return the loss, error or perplexity of the last epoch."""
        values = self._values(metric)
        return values[-1] if values else None

    def best(self, metric: str) -> float | None:
        """Return the lowest loss, error or perplexity of any epoch."""
        return min(self._values(metric), default=None)

    def _values(self, metric: str) -> list[float]:
        for column in _COLUMNS[metric]:
            values = [row[column] for row in self.rows if column in row]
            if values:
                return values
        return []

    def to_json(self) -> dict[str, Any]:
        """Return what JSON can hold of a run: its figures, options, record and what could not be read."""
        record = None if self.record is None else asdict(self.record)
        figures = {
            f"{which}_{metric}": getattr(self, which)(metric) for metric in _COLUMNS for which in ("best", "last")
        }
        return {
            "name": self.folder.name,
            "folder": str(self.folder),
            "started": self.record.started if self.record else None,
            "data": self.data,
            "model": self.model,
            "epochs": self.epochs,
            "planned_epochs": self.planned_epochs,
            **figures,
            "seconds": self.seconds,
            "state": self.state,
            "options": dict(self.options),
            "record": record and {name: value for name, value in record.items() if name != "options"},
            "notes": [*self.notes, *self.metrics.faults],
        }


# ---------------------------------------------------------------------------------------------------- finding


def is_run(folder: Path) -> bool:
    """Tell whether a folder is one of a run: it has a record, figures or checkpoints."""
    return any((folder / name).exists() for name in (RUN_FILE, METRICS_FILE)) or bool(list_checkpoints(folder))


def runs_in(folder: Path) -> list[Path]:
    """Return the folders of all runs in a folder, by name."""
    return sorted(one for one in folder.iterdir() if one.is_dir() and is_run(one))


def find_run(named: str) -> Path:
    """Return the folder of the run that the user named: a path, the name of one in `runs/`, or `latest`.

    Raises:
        CheckpointError: there is none of that name, or it is no run.
    """
    places = [Path(named), RUNS / named, *([find_model(None)] if named == LATEST else [])]
    folder = next((place for place in places if place.is_dir()), None)
    if folder is None:
        raise CheckpointError(f"there is no run {named}, neither here nor in {RUNS}/{_nearest_run(named)}")
    if not is_run(folder):
        raise CheckpointError(f"{folder} is no run: it has neither {RUN_FILE} nor {METRICS_FILE}")
    return folder


def _nearest_run(named: str) -> str:
    names = [one.name for one in runs_in(RUNS)] if RUNS.is_dir() else []
    close = get_close_matches(Path(named).name, names, n=1, cutoff=0.5)
    return f": did you mean {close[0]}?" if close else ""


# ---------------------------------------------------------------------------------------------------- reading


def read_run(folder: Path) -> Run:
    """Read what there is of a run; what is damaged is told in its notes."""
    notes: list[str] = []
    record = _record(folder, notes)
    recipe = _recipe(folder, notes) if record is None else None
    metrics = read_metrics(folder / METRICS_FILE)
    return Run(folder, record, recipe, metrics, _state(folder, metrics.rows), tuple(notes))


def _record(folder: Path, notes: list[str]) -> RunRecord | None:
    if not (folder / RUN_FILE).exists():
        notes.append(f"no {RUN_FILE}: made by an older version, or by a loop of your own")
        return None
    try:
        return read_run_record(folder)
    except CheckpointError as error:
        notes.append(error.rule)
        return None


def _recipe(folder: Path, notes: list[str]) -> Recipe | None:
    if not (folder / MODEL_FILE).exists():
        return None
    try:
        return read_recipe(folder)
    except CheckpointError as error:
        notes.append(error.rule)
        return None


def _state(folder: Path, rows: tuple[Figures, ...]) -> str:
    if (folder / MODEL_FILE).exists():
        return "finished"
    longest = max((row["seconds"] for row in rows if "seconds" in row), default=None)
    patience = _QUIET_START_SECONDS if longest is None else _QUIET_EPOCHS * longest + _QUIET_SECONDS
    return "interrupted" if time.time() - _last_change(folder) > patience else "running?"


def _last_change(folder: Path) -> float:
    times = [folder.stat().st_mtime]
    for path in folder.iterdir():
        with suppress(FileNotFoundError):  # a run that goes on removes old checkpoints
            times.append(path.lstat().st_mtime)
    return max(times)
