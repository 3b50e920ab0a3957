"""Operands of matrix products inside a buffer: how each of their axes is walked through.

An axis of a matrix need not lie evenly in memory. The rows of an image's windows, joined into one axis, go through the
image along one stride within a line, and along others from line to line: such an axis is a walk of several steps. So a
convolution is a matrix product of what lies in memory already.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from needle.compiler.graph import Node
from needle.compiler.loops import Buffer

__all__ = ["Clip", "Operand", "Walk", "joined_axes", "refine", "share_left", "straightened"]

# (length, stride in elements) of each step, the outermost first.
Walk: TypeAlias = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Clip:
    """A condition on where a matrix has elements: 0 ≤ start + row_stride · row + sum_stride · step < length.

    `row` is the coordinate along one step of the rows' walk, `step` that along one of the sums' walk; all else of the
    matrix is 0, and not in memory. So some rows have shorter sums than others.

    Attributes:
        row_step: which step of the rows' walk; None where all rows are alike.
        sum_step: which step of the sums' walk.
    """

    row_step: int | None
    sum_step: int
    row_stride: int
    sum_stride: int
    start: int
    length: int

    def inside(self, row: int, steps: int) -> range:
        """Return which of so many steps are inside at a row's coordinate."""
        first = self.start + self.row_stride * row
        end = (self.length - 1 - first) // self.sum_stride + 1
        return range(max(0, -(first // self.sum_stride)), max(0, min(steps, end)))


def share_left(clips: Sequence[Clip], rows: Sequence[int], sums: Sequence[int]) -> float:
    """Return which part of sums is left, given the lengths of the rows' steps and of the sums'."""
    left = 1.0
    for clip in clips:
        count = 1 if clip.row_step is None else rows[clip.row_step]
        steps = sums[clip.sum_step]
        left *= sum(len(clip.inside(row, steps)) for row in range(count)) / (count * steps)
    return left


@dataclass(frozen=True, slots=True)
class Operand:
    """A matrix (with batch axes) inside a buffer: its first element's place, and the walk along each axis.

    `clips` says which of its elements are not there, and 0. The first element may be one of them.
    """

    buffer: Buffer
    offset: int
    axes: tuple[Walk, ...]
    clips: tuple[Clip, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """The length of each axis."""
        return tuple(math.prod(length for length, _ in walk) for walk in self.axes)

    @property
    def share(self) -> float:
        """Which part of its rows' sums is left, where they are clipped."""
        rows, sums = ([length for length, _ in walk] for walk in self.axes[-2:])
        return share_left(self.clips, rows, sums)

    def __str__(self) -> str:
        walks = ", ".join(" ".join(f"{length}@{stride}" for length, stride in walk) for walk in self.axes)
        walks += " clipped" if self.clips else ""
        return f"{self.buffer.name}[{self.offset}: {walks}]" if self.offset else f"{self.buffer.name}[{walks}]"


def straightened(steps: Sequence[tuple[int, int]]) -> Walk:
    """Return a walk of as few steps as possible, one at least."""
    found: list[tuple[int, int]] = []
    for length, stride in steps:
        if length == 1:
            continue
        if found and found[-1][1] == stride * length:
            found[-1] = (found[-1][0] * length, stride)
        else:
            found.append((length, stride))
    return tuple(found) or ((math.prod(length for length, _ in steps), 0),)


def refine(a: Walk, b: Walk) -> tuple[list[int], list[int], list[int]] | None:
    """Return lengths and both strides of the steps in which two walks of one length can be gone together.

    None where a step of one ends in the middle of a step of the other.
    """
    lengths: list[int] = []
    strides: tuple[list[int], list[int]] = ([], [])
    left = [list(a), list(b)]
    while left[0] and left[1]:
        (one, one_stride), (other, other_stride) = left[0].pop(), left[1].pop()
        length = math.gcd(one, other)
        if length not in (one, other) or (length == 1 and one != other):
            return None
        for walk, whole, stride in zip(left, (one, other), (one_stride, other_stride), strict=True):
            if whole > length:
                walk.append((whole // length, stride * length))
        lengths.insert(0, length)
        strides[0].insert(0, one_stride)
        strides[1].insert(0, other_stride)
    return lengths, *strides


def joined_axes(node: Node) -> tuple[Node, list[list[int]]]:
    """Return what a node of joined and exchanged axes is made of, and which axes of that each of its own axes is."""
    groups = [[axis] for axis in range(len(node.shape))]
    while node.primitive == "permute":
        order = node.params["axes"]
        groups = [[order[axis] for axis in group] for group in groups]
        (node,) = node.inputs
    if node.primitive != "reshape":
        return node, groups
    (source,) = node.inputs
    parts = _parts(source.shape, node.shape)
    if parts is None:
        return node, groups
    return source, [[part for axis in group for part in parts[axis]] for group in groups]


def _parts(shape: Sequence[int], joined: Sequence[int]) -> list[list[int]] | None:
    """Return which axes of `shape` each axis of `joined` is made of; None where one was divided."""
    if 0 in shape:
        return None
    axis = 0
    parts: list[list[int]] = []
    for length in joined:
        group: list[int] = []
        size = 1
        while size < length:
            size *= shape[axis]
            group.append(axis)
            axis += 1
        if size != length:
            return None
        parts.append(group)
    return parts
