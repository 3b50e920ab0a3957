"""Where the tiles of a matrix product find their operands: in panels, or where they lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from needle.compiler.elements import Element
from needle.compiler.ir import SSA, Function
from needle.compiler.matrices import Product
from needle.compiler.packing import Panels, offset
from needle.compiler.tiling import Tiling

__all__ = ["Source", "left_panels", "right_panels", "source_of"]


def left_panels(product: Product, tiling: Tiling) -> Panels:
    """Return how the left operand is cut into panels."""
    rows, lanes = product.rows, tiling.lanes
    return Panels(product.a, product.batch, rows, product.sums, tiling.rows, 1, tiling.a_width, lanes)


def right_panels(product: Product, tiling: Tiling) -> Panels:
    """Return how the right operand is cut into panels."""
    columns, lanes = product.columns, tiling.lanes
    return Panels(product.b, product.batch, columns, product.sums, tiling.vectors, lanes, tiling.b_width, lanes)


@dataclass(frozen=True, slots=True)
class Source:
    """Where a tile's operand begins and how it goes on: start + batch · at + panel · number + outer · first element.

    All of it is counted in what `element` says of memory.
    """

    start: int
    batch: tuple[int, ...]
    panel: int
    first: int
    outer: int
    inner: tuple[int, ...]
    element: Element

    @property
    def is_along_sums(self) -> bool:
        """Whether what one step after another takes lies side by side."""
        return self.inner[-1] * self.element.memory.itemsize == self.element.loaded.itemsize

    def begin(self, f: Function, at: Sequence[SSA], number: SSA, first: SSA) -> SSA:
        """Return where the operand of a tile begins."""
        return offset(f, [*at, number, first], [*self.batch, self.panel, self.first], self.start)


def source_of(panels: Panels, is_packed: bool, element: Element) -> Source:
    """Return where tiles find an operand: in panels, or where it lies."""
    if is_packed:
        inner = [panels.width]
        for length in reversed(panels.sums[1:]):
            inner.insert(0, inner[0] * length)
        return Source(0, panels.batch_strides, panels.inner * panels.width, 0, 1, tuple(inner), element)
    layout = panels.layout
    return Source(layout.offset, layout.batch, 0, layout.outer, layout.outer, layout.inner, element)
