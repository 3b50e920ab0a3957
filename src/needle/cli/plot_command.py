"""`needle plot`: curves of runs in one picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from needle.cli.parser import add_command
from needle.cli.run_folders import Run, find_run, read_run
from needle.cli.show import new_console, printable
from needle.errors import CheckpointError, SettingError
from needle.train import check_writable, compare_curves, write_file

__all__ = ["add_to", "run"]

_KINDS = {".png": "png", ".svg": "svg"}


def add_to(commands: Any) -> None:
    """Add the command, with its options."""
    parser = add_command(
        commands,
        "plot",
        run,
        help="draw the curves of runs into one picture",
        description="Draw the curves of runs into one picture: a panel for each metric, a colour for each run.\n"
        "Training data is dashed, test and validation data solid. Needs matplotlib.",
        epilog="examples:\n"
        "  needle plot latest\n"
        "  needle plot digits-20260101-120000 digits-20260101-130000 --output lr.svg\n"
        "  needle plot runs/* --metric test_error --metric lr",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run's folder, its name in runs/, or `latest`")
    parser.add_argument(
        "--metric",
        action="append",
        metavar="NAME",
        help="what to draw, once for each panel: loss, train_loss, test_error, lr, ... "
        "(default: loss, and error or perplexity)",
    )
    parser.add_argument(
        "--output",
        default="curves-compare.png",
        metavar="FILE",
        help="the picture, .png or .svg (default: curves-compare.png)",
    )


def run(arguments: Any) -> int:
    """Draw the curves of runs into a file."""
    console = new_console()
    output = Path(arguments.output)
    kind = _kind(output)
    runs = [read_run(folder) for folder in dict.fromkeys(map(find_run, arguments.runs))]
    drawn = [one for one in runs if one.rows]
    if not drawn:
        raise CheckpointError(f"there is nothing to draw: no epoch of {', '.join(arguments.runs)} is over yet")
    picture = compare_curves(_named(drawn), arguments.metric or (), kind=kind)
    write_file(output, picture)
    notes = [f"note: {one.folder.name}: {note}" for one in runs for note in one.metrics.faults]
    notes += [f"note: {one.folder.name}: no epoch is over yet, left out" for one in runs if not one.rows]
    for line in (*notes, f"{len(drawn)} run{'s' * (len(drawn) > 1)} drawn into {output}"):
        console.print(printable(console, line), markup=False)
    return 0


def _kind(output: Path) -> str:
    """Return the kind of picture that a file's name asks for.

    Raises:
        SettingError: another kind than there is, or the file cannot be there.
        DataError: its folder cannot be written.
    """
    if output.suffix.lower() not in _KINDS:
        raise SettingError(f"--output: a picture's name ends in {' or '.join(_KINDS)}, got {output}")
    if not output.parent.is_dir():
        raise SettingError(f"--output: there is no folder {output.parent}")
    if output.is_dir():
        raise SettingError(f"--output: {output} is a folder")
    check_writable(output.parent)
    return _KINDS[output.suffix.lower()]


def _named(runs: Sequence[Run]) -> dict[str, Any]:
    """Return the rows of runs by their folders' names, or whole paths where names are alike."""
    names = [one.folder.name for one in runs]
    is_unique = len(set(names)) == len(names)
    return {one.folder.name if is_unique else str(one.folder): one.rows for one in runs}
