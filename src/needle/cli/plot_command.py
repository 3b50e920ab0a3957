"""`needle plot`: curves of runs in one picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from needle.cli.run_folders import Run, find_run, read_run
from needle.cli.show import new_console, printable
from needle.errors import CheckpointError, SettingError
from needle.train import check_writable, compare_curves, write_file

__all__ = ["run"]

_KINDS = {".png": "png", ".svg": "svg"}


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
