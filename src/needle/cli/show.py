"""What the commands print: tables, on a terminal and in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

__all__ = ["confusion_table", "figures_table", "new_console", "percent", "probability_table"]


def new_console() -> Console:
    """Return a console for standard output, which leaves numbers and words uncoloured but where told."""
    return Console(highlight=False, soft_wrap=not sys.stdout.isatty())


def percent(share: float) -> str:
    """Return a share as a percentage, at the precision of one image in ten thousand."""
    return f"{100 * share:.2f} %"


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
