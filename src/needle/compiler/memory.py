"""Where a program's own buffers lie: one arena, in which buffers that are never needed together share a place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from needle.compiler.loops import Buffer

__all__ = ["Arena", "plan_memory"]

# A cache line, and the widest vector.
_ALIGNMENT = 64


@dataclass(frozen=True, slots=True)
class Arena:
    """The size of the arena in bytes, and each buffer's offset in it."""

    size: int
    offsets: dict[Buffer, int]


def plan_memory(uses: Sequence[Sequence[Buffer]]) -> Arena:
    """Place buffers, given for each step in order the buffers that it touches.

    A buffer lives from the first step that touches it to the last. Each is put, largest first, at the lowest place
    where no buffer lies that lives at the same time.
    """
    lives: dict[Buffer, tuple[int, int]] = {}
    for step, buffers in enumerate(uses):
        for buffer in buffers:
            lives[buffer] = (lives.get(buffer, (step, step))[0], step)
    offsets: dict[Buffer, int] = {}
    placed = _Placed(len(lives))
    for buffer in sorted(lives, key=lambda one: -_size(one)):
        offsets[buffer] = placed.put(_size(buffer), *lives[buffer])
    return Arena(placed.end, offsets)


class _Placed:
    """The buffers that have a place, in the order of their places: where each begins and ends, and when it lives."""

    def __init__(self, most: int) -> None:
        self.count, self.end = 0, 0
        # Rows: the first byte, the byte after the last, the first step of its life, the last.
        self.rows = np.zeros((4, most), dtype=np.int64)

    def put(self, size: int, first: int, last: int) -> int:
        """Find the lowest place for a buffer of a life from one step to another, and take it."""
        starts, ends, begins, overs = self.rows[:, : self.count]
        beside = (begins <= last) & (overs >= first)
        # Gaps are between where all before have ended, and where the next one begins.
        before = np.concatenate([[0], np.maximum.accumulate(ends[beside])])
        fits = starts[beside] - before[:-1] >= size
        offset = int(before[fits.argmax() if fits.any() else -1])
        place = int(np.searchsorted(starts, offset))
        self.rows[:, place + 1 : self.count + 1] = self.rows[:, place : self.count].copy()
        self.rows[:, place] = offset, offset + size, first, last
        self.count += 1
        self.end = max(self.end, offset + size)
        return offset


def _size(buffer: Buffer) -> int:
    """Return the bytes of a buffer, rounded up so that the next one is aligned."""
    return -(-max(buffer.size * buffer.dtype.itemsize, 1) // _ALIGNMENT) * _ALIGNMENT
