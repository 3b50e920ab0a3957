"""A contraction seen as a product of matrices: its sizes, and where its operands lie."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from needle.compiler.operand import Clip, Walk, refine, share_left
from needle.compiler.steps import Contraction

__all__ = ["Layout", "Product"]


@dataclass(frozen=True, slots=True)
class Layout:
    """Where an operand's elements lie: element strides along the batch axes, along the tiles, and along the sums.

    The axes of the sums are nested, the last one innermost.
    """

    offset: int
    batch: tuple[int, ...]
    outer: int
    inner: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Product:
    """The sizes of a product and where its operands lie.

    Rows that do not lie evenly are even along one axis; the others, and those of the batch, are `batch`. So is each
    batch axis along which the right operand repeats: its stride there is 0.

    Attributes:
        batch: the lengths of all axes but rows and columns.
        rows: the length of the axis that tiles are high along.
        columns: the length of the axis that tiles are wide along.
        sums: the lengths of the axes to sum over, the last one innermost.
        item_bytes: an element's size.
        a: the left operand's strides; `outer` is that of the rows.
        b: the right operand's; `outer` is that of the columns.
        out: the result's; `outer` is that of the rows, the columns lie side by side.
        clips: where the left operand has elements: `row_step` is the number of a batch axis.
        is_turned: whether the rows are the result's columns, which lie side by side, and the columns its rows.
    """

    batch: tuple[int, ...]
    rows: int
    columns: int
    sums: tuple[int, ...]
    item_bytes: int
    a: Layout
    b: Layout
    out: Layout
    clips: tuple[Clip, ...] = ()
    is_turned: bool = False

    @property
    def result_columns(self) -> int:
        """How many columns the result has."""
        return self.rows if self.is_turned else self.columns

    def turned(self) -> Product:
        """Return the product that gives the result transposed: vectors are along the left operand's rows."""
        return replace(self, rows=self.columns, columns=self.rows, a=self.b, b=self.a, is_turned=not self.is_turned)

    def in_pairs(self) -> Product:
        """Return the product whose steps take two numbers of the innermost axis of the sum each."""

        def paired(layout: Layout) -> Layout:
            return replace(layout, inner=(*layout.inner[:-1], 2 * layout.inner[-1]))

        *outer, length = self.sums
        return replace(self, sums=(*outer, -(-length // 2)), a=paired(self.a), b=paired(self.b))

    @property
    def inner(self) -> int:
        """How many products each element of the result sums, where none is clipped."""
        return math.prod(self.sums)

    @property
    def share(self) -> float:
        """Which part of all products is left where sums are clipped."""
        return share_left(self.clips, self.batch, self.sums)

    @classmethod
    def candidates(cls, step: Contraction) -> list[Product]:
        """Return the ways to see a contraction: one for each axis that tiles may be high along."""
        a, b = step.a, step.b
        columns = b.shape[-1]
        sums, a_inner, b_inner = _together(a.axes[-1], b.axes[-2])
        size = columns
        axes: list[_Axis] = []
        clipped = {clip.row_step for clip in a.clips}
        for a_walk, b_walk in reversed([*zip(a.axes[:-2], b.axes[:-2], strict=True), (a.axes[-2], None)]):
            lengths = [length for length, _ in a_walk]
            a_strides, b_strides = [stride for _, stride in a_walk], [0] * len(a_walk)
            if b_walk is not None:
                lengths, a_strides, b_strides = _together(a_walk, b_walk)
            steps = enumerate(zip(lengths, a_strides, b_strides, strict=True))
            for number, (length, a_stride, b_stride) in reversed(list(steps)):
                clipped_step = number if b_walk is None and number in clipped else None
                _put_in_front(axes, _Axis(length, (a_stride, b_stride, size), clipped_step))
                size *= length
        found = []
        for place, rows in enumerate(axes):
            a_row, b_row, out_row = rows.strides
            if b_row or rows.clipped is not None:
                continue
            rest = axes[:place] + axes[place + 1 :]
            a_batch, b_batch, out_batch = (tuple(axis.strides[i] for axis in rest) for i in range(3))
            batch_of = {axis.clipped: number for number, axis in enumerate(rest)}
            found.append(
                cls(
                    tuple(axis.length for axis in rest),
                    rows.length,
                    columns,
                    tuple(sums),
                    step.out.dtype.itemsize,
                    Layout(a.offset, a_batch, a_row, tuple(a_inner)),
                    Layout(b.offset, b_batch, b.axes[-1][0][1], tuple(b_inner)),
                    Layout(0, out_batch, out_row, ()),
                    tuple(
                        clip if clip.row_step is None else replace(clip, row_step=batch_of[clip.row_step])
                        for clip in a.clips
                    ),
                )
            )
        return found


@dataclass(frozen=True, slots=True)
class _Axis:
    """An axis of a result: its length, its strides in both operands and the result, and which clipped step it is."""

    length: int
    strides: tuple[int, int, int]
    clipped: int | None


def _together(a: Walk, b: Walk) -> tuple[list[int], list[int], list[int]]:
    found = refine(a, b)
    assert found is not None, "the schedule leaves no walks that cannot be gone together"
    return found


def _put_in_front(axes: list[_Axis], axis: _Axis) -> None:
    """Put an axis before others, joined with the first one where that is even and repeats the right operand too."""
    if axis.length == 1 and axes:
        return
    repeats = axis.strides[1] == 0
    if axes and axes[0].length == 1 and repeats:
        axes[0] = axis
        return
    if axes and axis.clipped is None and axes[0].clipped is None:
        first = axes[0]
        even = all(s == i * first.length for s, i in zip(axis.strides, first.strides, strict=True))
        if first.strides[1] == 0 and repeats and even:
            axes[0] = _Axis(axis.length * first.length, first.strides, None)
            return
    axes.insert(0, axis)
