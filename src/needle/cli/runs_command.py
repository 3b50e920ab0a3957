"""`needle runs`: a list of runs, or some of them side by side."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from needle.cli.parser import add_command, one_of
from needle.cli.run_folders import FIELDS, Run, find_run, is_run, read_run, runs_in
from needle.cli.runs import RUNS
from needle.cli.show import new_console, percent, print_columns, printable

__all__ = ["add_to", "run"]

# Options that differ between any two runs, or say nothing about what comes out.
_UNTOLD = {"output_dir"}
_ABSENT, _UNKNOWN = "-", "?"


def add_to(commands: Any) -> None:
    """Add the command, with its options."""
    parser = add_command(
        commands,
        "runs",
        run,
        help="list runs with their figures, or compare some of them",
        description="List runs with their figures, or put some of them side by side, with the options in which they\n"
        "differ. Loss, error and perplexity are those on test or validation data. A run is finished when its model\n"
        "is saved, and interrupted when it has written nothing for far longer than an epoch takes.",
        epilog="examples:\n"
        "  needle runs\n"
        "  needle runs --sort best_error\n"
        "  needle runs digits-20260101-120000 latest\n"
        "  needle runs --json experiments > runs.json",
    )
    parser.add_argument(
        "runs",
        nargs="*",
        metavar="RUN",
        help="a folder of runs to list (default: runs/), or runs to compare: folders, names in runs/, or `latest`",
    )
    parser.add_argument(
        "--sort",
        type=one_of(*FIELDS),
        metavar="FIELD",
        help=f"lowest first: {', '.join(FIELDS)} (default: by name)",
    )
    parser.add_argument("--json", action="store_true", help="print everything that is known of each run, as JSON")


def run(arguments: Any) -> int:
    """List the runs of a folder, or compare those that are named."""
    console = new_console()
    folders, is_comparison = _chosen(arguments.runs)
    runs = _sorted([read_run(folder) for folder in folders], arguments.sort)
    if arguments.json:
        print(json.dumps([one.to_json() for one in runs], indent=1))
        return 0
    if not runs:
        place = arguments.runs[0] if arguments.runs else f"{RUNS}/"
        console.print(printable(console, f"there are no runs in {place} yet: `needle train` makes one"), markup=False)
        return 0
    _compare(console, runs) if is_comparison else _list(console, runs)
    for note, names in _notes(runs).items():
        console.print(printable(console, f"note: {', '.join(names)}: {note}"), markup=False)
    return 0


def _chosen(named: Sequence[str]) -> tuple[list[Path], bool]:
    """Return the folders of the runs to show, and whether side by side.

    Raises:
        CheckpointError: a name is that of no run and of no folder.
    """
    if not named:
        return (runs_in(RUNS) if RUNS.is_dir() else []), False
    place = Path(named[0])
    if len(named) == 1 and place.is_dir() and not is_run(place):
        return runs_in(place), False
    return list(dict.fromkeys(map(find_run, named))), True


def _sorted(runs: list[Run], field: str | None) -> list[Run]:
    """Return runs by rising `field`, those that do not know it last; in the order that they have where it is None."""
    if field is None:
        return runs
    values = {one.folder: one.to_json()[field] for one in runs}
    known = [one for one in runs if values[one.folder] is not None]
    return sorted(known, key=lambda one: values[one.folder]) + [one for one in runs if values[one.folder] is None]


def _notes(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Return what could not be read, and the runs of which each is so."""
    names: dict[str, list[str]] = {}
    for one in runs:
        for note in (*one.notes, *one.metrics.faults):
            names.setdefault(note, []).append(one.folder.name)
    return names


# ------------------------------------------------------------------------------------------------------- cells


def _text(value: object) -> str:
    return _ABSENT if value is None else str(value)


def _figure(value: float | None) -> str:
    return _ABSENT if value is None else f"{value:.4f}"


def _share(value: float | None) -> str:
    return _ABSENT if value is None else percent(value)


def _perplexity(value: float | None) -> str:
    return _ABSENT if value is None else f"{value:,.2f}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return _ABSENT
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02} min"


def _epochs(one: Run) -> str:
    return f"{one.epochs}/{_UNKNOWN if one.planned_epochs is None else one.planned_epochs}"


def _score(one: Run, which: str) -> str:
    """Return the error of a run on images, the perplexity of one on a text."""
    value = getattr(one, which)("perplexity")
    return _share(getattr(one, which)("error")) if value is None else _perplexity(value)


# -------------------------------------------------------------------------------------------------------- list


def _list(console: Console, runs: Sequence[Run]) -> None:
    scores = _scores(runs)
    score = "err/ppl" if len(scores) > 1 else "".join(scores) or "error"
    columns: dict[str, Callable[[Run], str]] = {
        "run": lambda one: one.folder.name,
        "data": lambda one: _text(one.data),
        "model": lambda one: _text(one.model),
        "epochs": _epochs,
        "best loss": lambda one: _figure(one.best("loss")),
        "last loss": lambda one: _figure(one.last("loss")),
        f"best {score}": lambda one: _score(one, "best"),
        f"last {score}": lambda one: _score(one, "last"),
        "time": lambda one: _duration(one.seconds),
        "state": lambda one: one.state,
    }
    rows = [[cell(one) for cell in columns.values()] for one in runs]
    optional = ["last loss", f"last {score}", "time", "model", "data"]
    print_columns(console, list(columns), rows, left={"run", "data", "model", "state"}, optional=optional)


def _scores(runs: Iterable[Run]) -> list[str]:
    runs = list(runs)
    return [name for name in ("error", "perplexity") if any(one.last(name) is not None for one in runs)]


# -------------------------------------------------------------------------------------------------- comparison


def _compare(console: Console, runs: Sequence[Run]) -> None:
    """Print figures side by side, then the options and circumstances in which the runs differ; of one run, all."""
    names = [one.folder.name for one in runs]
    titles = names if len(set(names)) == len(names) else [str(one.folder) for one in runs]
    _section(console, "", titles, _figure_rows(runs))
    differ = "" if len(runs) == 1 else " that differ"
    options = [one.options for one in runs]
    _section(console, f"options{differ}", titles, _rows(options, _UNTOLD))
    _section(console, f"circumstances{differ}", titles, _rows([_circumstances(one) for one in runs]))


def _section(console: Console, title: str, names: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    found = list(rows)
    if not found:
        return
    if title:
        console.print()
    print_columns(console, [title, *names], found, left={title})


def _figure_rows(runs: Sequence[Run]) -> Iterator[list[str]]:
    def row(name: str, cell: Callable[[Run], str]) -> list[str]:
        return [name, *map(cell, runs)]

    yield row("state", lambda one: one.state)
    yield row("data", lambda one: _text(one.data))
    yield row("model", lambda one: _text(one.model))
    yield row("epochs", _epochs)
    shown = {"loss": _figure, "error": _share, "perplexity": _perplexity}
    for metric in ("loss", *_scores(runs)):
        for which in ("best", "last"):
            yield [f"{which} {metric}", *(shown[metric](getattr(one, which)(metric)) for one in runs)]
    yield row("last train loss", lambda one: _figure(one.rows[-1].get("train_loss") if one.rows else None))
    yield row("time", lambda one: _duration(one.seconds))


def _rows(of_runs: Sequence[Mapping[str, Any]], untold: Collection[str] = ()) -> Iterator[list[str]]:
    """Yield a row for each name whose values differ among the runs that have it; all of them for one run."""
    for name in dict.fromkeys(name for values in of_runs for name in values):
        known = [json.dumps(values[name], sort_keys=True) for values in of_runs if name in values]
        if name not in untold and (len(of_runs) == 1 or len(set(known)) > 1):
            yield [name, *(_option(values[name]) if name in values else _UNKNOWN for values in of_runs)]


def _option(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else _text(value)


def _circumstances(one: Run) -> dict[str, Any]:
    record = one.record
    if record is None:
        return {} if one.recipe is None else dict(one.recipe.versions)
    commit = None if record.commit is None else record.commit[:12] + (" + changes" if record.dirty else "")
    place = {"system": record.system, "processor": record.processor, "cores": record.cores}
    return {**record.versions, **place, "commit": commit}
