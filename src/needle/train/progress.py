"""What one sees of training: on a terminal a bar that lives while an epoch runs, everywhere a line for each epoch."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from needle.train.callbacks import Callback
from needle.train.running import Row

if TYPE_CHECKING:
    from needle.train.trainer import Trainer

__all__ = ["Progress"]

# Columns that are not told: the line's own number, and what the bar tells.
_UNTOLD = {"epoch", "step", "lr", "seconds"}


class Progress(Callback):
    """Shows how training goes.

    Args:
        console: where to; standard output where None.
        unit: what samples are called in the column of the speed, where not as by the trainer.
    """

    def __init__(self, console: Console | None = None, unit: str | None = None) -> None:
        self.console = console or Console(highlight=False, soft_wrap=not sys.stdout.isatty())
        self.unit = unit
        self._bar: Bar | None = None
        self._has_header = False

    def on_fit_start(self, trainer: Trainer) -> None:
        """Show the bar, where there is a terminal."""
        self._has_header = False
        if not self.console.is_terminal:
            return
        columns = (
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(bar_width=None),
            TaskProgressColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(compact=True),
        )
        self._bar = Bar(*columns, console=self.console, transient=True, expand=True)
        self._task = self._bar.add_task("", total=None, epoch=f"{trainer.epoch + 1}/{trainer.epochs}", figures="")
        self._bar.start()

    def on_step(self, trainer: Trainer) -> None:
        """Move the bar."""
        if self._bar is None:
            return
        batches = _length(trainer.train_batches)
        done = None if batches is None else trainer.epoch * batches + trainer.running.batches
        told = [f"{name} {_show(name, value, trainer)}" for name, value in trainer.running.figures().items()]
        speed = f"{trainer.running.samples_per_second:,.0f} {self.unit or trainer.unit}/s"
        self._bar.update(
            self._task,
            total=None if batches is None else trainer.epochs * batches,
            completed=done,
            epoch=f"{trainer.epoch + 1}/{trainer.epochs}",
            figures="  ".join([*(one for one in told if one[-1] != " "), speed]),
        )

    def on_epoch_end(self, trainer: Trainer, row: Row) -> None:
        """Write the epoch's line, and the columns' names above the first."""
        names = [name for name, value in row.items() if name not in _UNTOLD and not isinstance(value, list)]
        titles = [f"{title:>{_width(title)}}" for title in self._titles(names)]
        if not self._has_header:
            self._has_header = True
            self.console.print("   epoch  " + "  ".join(titles))
        values = [f"{_show(name, row[name], trainer):>{len(title)}}" for name, title in zip(names, titles, strict=True)]
        epoch = f"{row['epoch']}/{trainer.epochs}"
        self.console.print(f"{epoch:>8}  " + "  ".join(values))

    def on_fit_end(self, trainer: Trainer) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _titles(self, names: list[str]) -> list[str]:
        """Return columns' titles: what they are of is said once, at the first of a kind."""
        titles: list[str] = []
        seen: set[str] = set()
        for name in names:
            kind, _, rest = name.partition("_")
            if name.endswith("_per_second"):
                titles.append(f"{self.unit or kind}/s")
            elif kind in seen:
                titles.append(rest.replace("_", " "))
            else:
                seen.add(kind)
                titles.append(name.replace("_per_", "/").replace("_", " "))
        return titles


def _width(title: str) -> int:
    return max(len(title), 10 if title.endswith("loss") else 8)


def _length(batches: Any) -> int | None:
    return len(batches) if hasattr(batches, "__len__") else None


def _show(name: str, value: Any, trainer: Trainer) -> str:
    """Return a figure as one would write it: shares in percent, losses with four decimals."""
    if isinstance(value, list):
        return " "
    if name.endswith("loss"):
        return f"{value:.4f}"
    if name.endswith("_per_second"):
        return f"{value:,.0f}"
    is_share = any(metric.is_share and name.endswith(metric.name) for metric in trainer.metrics)
    return f"{100 * value:.2f} %" if is_share else f"{value:.5g}"
