"""Where a program's own buffers lie: one arena, in which buffers that are never needed together share a place.

What is done side by side in a round has to lie side by side. But within a chunk of several phases, one follows the
other: buffers that a chunk alone touches share a piece of the arena in turns.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass

import numpy as np

from needle.compiler.loops import Buffer
from needle.compiler.rounds import Turn, in_moments

__all__ = ["Arena", "plan_memory", "plan_rounds"]

# A cache line, and the widest vector.
_ALIGNMENT = 64


@dataclass(frozen=True, slots=True)
class Arena:
    """The size of the arena in bytes, and each buffer's offset in it."""

    size: int
    offsets: dict[Buffer, int]


def plan_rounds(rounds: Sequence[Sequence[Turn]], outside: Container[Buffer]) -> Arena:
    """Place the buffers of a program's rounds, but for those that lie outside."""
    users: dict[Buffer, set[tuple[int, int | None]]] = {}
    for number, turns in enumerate(rounds):
        for turn in turns:
            for buffer in turn.phase.buffers:
                users.setdefault(buffer, set()).add((number, turn.owner))
    pieces: dict[Buffer, Arena] = {}
    moments: list[list[Buffer]] = []
    for number, turns in enumerate(rounds):
        for together in in_moments(turns):
            buffers = [one for turn in together for one in turn.phase.buffers if one not in outside]
            if len(together) > 1:
                for owner in dict.fromkeys(turn.owner for turn in together if turn.owner is not None):
                    phases = [turn.phase.buffers for turn in together if turn.owner == owner]
                    inside = [[one for one in phase if users[one] == {(number, owner)}] for phase in phases]
                    inner = plan_memory([[one for one in phase if one not in outside] for phase in inside])
                    piece = Buffer(f"piece{number}_{owner}", (inner.size,), np.dtype(np.uint8))
                    pieces[piece] = inner
                    buffers = [piece, *(one for one in buffers if one not in inner.offsets)]
            moments.append(buffers)
    arena = plan_memory(moments)
    for piece, inner in pieces.items():
        start = arena.offsets.pop(piece)
        arena.offsets.update({buffer: start + offset for buffer, offset in inner.offsets.items()})
    return arena


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
