"""Kernels that write an array with a border of one number: the border's sides and the inside, each in loops of its own.

Asked at every element, whether it lies in the border costs more than the copy. One function does all pieces for a share
of the outermost axis (the samples), which has no border.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from needle.compiler.ir import Function
from needle.compiler.loops import Kernel, Number, Place, Store, Within, with_places
from needle.compiler.render import render_kernel
from needle.compiler.rendered import RenderedKernel

__all__ = ["inside_of", "part_of", "render_bordered"]


def render_bordered(kernel: Kernel) -> RenderedKernel | None:
    """Return the function of a kernel that does nothing but write an array with a border; None for any other."""
    if len(kernel.stages) != 1 or kernel.reduced or not kernel.shape:
        return None
    (stage,) = kernel.stages
    if not isinstance(stage, Store) or not isinstance(stage.value, Within):
        return None
    inside = inside_of(kernel, stage.value)
    if inside is None or inside[0] != (0, kernel.shape[0]):
        return None
    buffers = tuple(dict.fromkeys([*kernel.writes(), *kernel.reads()]))
    pointers = [f"%p{number}" for number in range(len(buffers))]
    parameters = [*(f"ptr noalias {pointer}" for pointer in pointers), "i64 %begin", "i64 %end"]
    function = _Pieces(kernel.name, parameters, "nounwind #0")
    for number, piece in enumerate(_pieces(kernel, stage, stage.value, inside)):
        rendered = render_kernel(_named(piece, f"{kernel.name}_{number}"), outermost_stays=True)
        function.pieces.append(rendered.function)
        function.declarations |= rendered.function.declarations
        given = [pointers[buffers.index(buffer)] for buffer in rendered.buffers]
        arguments = ", ".join(f"ptr {pointer}" for pointer in given)
        function.do(f"call void @{rendered.function.name}({arguments}, i64 %begin, i64 %end)")
    # The border is little beside the inside.
    shared = render_kernel(kernel).shared
    return RenderedKernel(function, buffers, kernel.shape[0], shared, 1)


def inside_of(kernel: Kernel, value: Within) -> list[tuple[int, int]] | None:
    """Return where the inside begins and how long it is along each axis, where each bound is of one axis alone."""
    found = [(0, length) for length in kernel.shape]
    for place, length in value.bounds:
        axes = [axis for axis, stride in enumerate(place.strides) if stride]
        if len(axes) != 1 or place.strides[axes[0]] != 1 or found[axes[0]] != (0, kernel.shape[axes[0]]):
            return None
        begin = -place.offset
        if begin < 0 or begin + length > kernel.shape[axes[0]]:
            return None
        found[axes[0]] = begin, length
    return found


def _pieces(kernel: Kernel, stage: Store, value: Within, inside: Sequence[tuple[int, int]]) -> Iterator[Kernel]:
    """Yield the border's sides, axis by axis, and the inside."""
    dtype = stage.buffer.dtype
    outside = Store(stage.buffer, stage.place, Number(np.full((), value.outside, dtype).tobytes(), dtype))
    region = [(0, length) for length in kernel.shape]
    for axis, (begin, length) in enumerate(inside):
        for side in ((0, begin), (begin + length, kernel.shape[axis] - begin - length)):
            if side[1]:
                yield part_of(kernel, outside, [*region[:axis], side, *region[axis + 1 :]])
        region[axis] = begin, length
    yield part_of(kernel, Store(stage.buffer, stage.place, value.value), region)


def part_of(kernel: Kernel, stage: Store, region: Sequence[tuple[int, int]]) -> Kernel:
    """Return the kernel of a stage over a part of the shape."""

    def moved(_: object, place: Place) -> Place:
        return place.shifted(sum(stride * begin for stride, (begin, _) in zip(place.strides, region, strict=True)))

    return Kernel(kernel.name, tuple(length for _, length in region), (), with_places([stage], moved), kernel.sources)


def _named(kernel: Kernel, name: str) -> Kernel:
    return Kernel(name, kernel.shape, kernel.reduced, kernel.stages, kernel.sources)


@dataclass
class _Pieces(Function):
    """A function and those that it calls."""

    pieces: list[Function] = field(default_factory=list)

    def text(self, result: str = "void", returned: Callable[[], str] | None = None) -> str:
        """Return all of them."""
        return "\n\n".join([*(piece.text() for piece in self.pieces), super().text(result, returned)])
