"""What the commands print: tables, on a terminal and in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.cells import cell_len
from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

__all__ = [
    "confusion_table",
    "figures_table",
    "new_console",
    "percent",
    "print_columns",
    "printable",
    "probability_table",
    "run_time",
]


def new_console() -> Console:
    """Return a console for standard output, which leaves numbers and words uncoloured but where told."""
    return Console(highlight=False, soft_wrap=not sys.stdout.isatty())


def percent(share: float) -> str:
    """Return a share as a percentage, at the precision of one image in ten thousand."""
    return f"{100 * share:.2f} %"


def run_time(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return how long the epochs of a run took, from their rows."""
    return f"{sum(row['seconds'] for row in rows):.1f} s for {len(rows)} epoch{'s' if len(rows) != 1 else ''}"


def printable(console: Console, text: str) -> str:
    """Return a text from a file or a folder's name as the console can print it: no control codes, no line ends."""
    shown = "".join(letter if letter.isprintable() else "?" for letter in text)
    return shown.encode(console.encoding, "replace").decode(console.encoding)


# ----------------------------------------------------------------------------------------------------- tables


def figures_table(rows: Sequence[tuple[str, str, str]]) -> Table:
    """Return a table of train and test figures: (name, train, test) rows."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False)
    table.add_column("")
    table.add_column("train", justify="right")
    table.add_column("test", justify="right", style="bold")
    for row in rows:
        table.add_row(*row)
    return table


def print_columns(
    console: Console,
    titles: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    left: Collection[str],
    optional: Sequence[str] = (),
) -> None:
    """Print a table: on a terminal one that fits its width, elsewhere a line for each row, however long.

    Args:
        console: where to.
        titles: the columns' names.
        rows: each of as many cells as there are columns.
        left: the titles of columns that are aligned left; the others hold numbers.
        optional: the titles of columns that a narrow terminal leaves out, the first of them first. Where there are
            some, only the first column is folded.
    """
    shown = [[printable(console, cell) for cell in row] for row in (titles, *rows)]
    columns = [list(column) for column in zip(*shown, strict=True)]
    if not console.is_terminal:
        console.print(Text("\n".join(_plain_lines(columns, left))))
        return
    kept = _that_fit(columns, optional, console.width)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    for column in kept:
        justify: JustifyMethod = "left" if column[0] in left else "right"
        table.add_column(
            Text(column[0]), justify=justify, overflow="fold", no_wrap=bool(optional) and column is not kept[0]
        )
    for row in list(zip(*kept, strict=True))[1:]:
        table.add_row(*map(Text, row))  # texts, in which brackets are no markup
    console.print(table)
    if len(kept) < len(columns):
        missing = ", ".join(column[0] for column in columns if column not in kept)
        console.print(Text(f"a wider terminal also shows: {missing}", style="dim"))


def _plain_lines(columns: Sequence[Sequence[str]], left: Collection[str]) -> list[str]:
    padded = [_pad(column, column[0] in left) for column in columns]
    return ["  ".join(row).rstrip() for row in zip(*padded, strict=True)]


def _pad(column: Sequence[str], is_left: bool) -> list[str]:
    """Make a column's cells equally wide; some letters take two places."""
    width = max(map(cell_len, column))
    blanks = [" " * (width - cell_len(cell)) for cell in column]
    return [cell + blank if is_left else blank + cell for cell, blank in zip(column, blanks, strict=True)]


def _that_fit(columns: list[list[str]], optional: Sequence[str], width: int) -> list[list[str]]:
    """Return the columns without as many of the `optional` ones as the width asks for, two blanks between any two."""
    kept = columns
    for title in optional:
        if sum(max(map(cell_len, column)) + 2 for column in kept) - 2 <= width:
            break
        kept = [column for column in kept if column[0] != title]
    return kept


def confusion_table(counts: NDArray[np.integer], class_names: Sequence[str]) -> Table:
    """Return a table of which class (row) is taken for which (column), with each class's error.

    Shapes:
        counts: (classes, classes)
    """
    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        title="rows: what it is; columns: what it is taken for",
        title_justify="left",
    )
    table.add_column("", style="bold")
    for name in class_names:
        table.add_column(name, justify="right", overflow="fold")
    table.add_column("error", justify="right")
    for index, row in enumerate(counts):
        total = int(row.sum())
        error = percent(1 - row[index] / total) if total else "-"
        cells = [_cell(int(count), index == column) for column, count in enumerate(row)]
        table.add_row(class_names[index], *cells, error)
    return table


def _cell(count: int, is_right: bool) -> Text:
    if is_right:
        return Text(str(count), style="green")
    return Text(str(count), style="red") if count else Text(".", style="dim")


def probability_table(probabilities: NDArray[np.floating], class_names: Sequence[str], width: int = 30) -> Table:
    """Return a table of classes by falling probability, with a bar for each.

    Shapes:
        probabilities: (classes,)
    """
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_column()
    order = np.argsort(-probabilities, kind="stable")
    for rank, index in enumerate(order):
        share = float(probabilities[index])
        table.add_row(
            class_names[index], percent(share), Text("#" * round(width * share), style="green" if rank == 0 else "")
        )
    return table
