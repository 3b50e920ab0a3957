"""What the benchmarks share: contestants timed in alternating rounds, tables, and the files they go into."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["median_seconds", "print_table"]

Call = Callable[[], object]


def median_seconds(
    contestants: Mapping[str, Call], rounds: int, seconds: float = 0.05, pause: float = 0.02
) -> dict[str, float]:
    """Return each contestant's median time of a call.

    The rounds of all alternate, so that what else the machine does meets all alike. A round makes as many calls as
    take `seconds`, after three that are not timed, and begins with a pause, until the threads of the one before have
    stopped spinning.
    """
    counts = {name: _count(call, seconds) for name, call in contestants.items()}
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, call in contestants.items():
            time.sleep(pause)
            for _ in range(min(3, counts[name])):
                call()
            times[name].append(_time(call, counts[name]) / counts[name])
    return {name: statistics.median(own) for name, own in times.items()}


def _count(call: Call, seconds: float) -> int:
    """Return how many calls take so long; the first calls of all, which compile, are made here."""
    for _ in range(3):
        call()
    return max(1, round(seconds / max(_time(call, 1), 1e-9)))


def _time(call: Call, count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        call()
    return time.perf_counter() - start


def print_table(
    name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], records: object, folder: Path | None
) -> None:
    """Print a Markdown table, whose numbers are aligned right, and write it into a folder with the records as JSON."""
    numeric = [all(str(row[number])[:1] in "0123456789-" for row in rows) for number in range(len(columns))]
    lines = [
        _line(columns),
        _line(["---:" if one else "---" for one in numeric]),
        *map(_line, rows),
    ]
    print("\n".join(lines), flush=True)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
        (folder / f"{name}.json").write_text(json.dumps(records, indent=2) + "\n", encoding="utf-8")


def _line(cells: Sequence[object]) -> str:
    return f"| {' | '.join(map(str, cells))} |"
