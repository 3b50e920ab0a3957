"""Where a program's own buffers lie: one arena, in which buffers that are never needed together share a place."""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass

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
    placed: list[tuple[int, int, int, int]] = []  # where each begins and ends, and the first and last step of its life
    offsets: dict[Buffer, int] = {}
    for buffer in sorted(lives, key=lambda one: -_size(one)):
        first, last = lives[buffer]
        size, offset = _size(buffer), 0
        for start, end, begin, over in placed:
            if begin <= last and first <= over and offset + size > start and offset < end:
                offset = end
        offsets[buffer] = offset
        insort(placed, (offset, offset + size, first, last))
    return Arena(max((end for _, end, _, _ in placed), default=0), offsets)


def _size(buffer: Buffer) -> int:
    """Return the bytes of a buffer, rounded up so that the next one is aligned."""
    return -(-max(buffer.size * buffer.dtype.itemsize, 1) // _ALIGNMENT) * _ALIGNMENT
