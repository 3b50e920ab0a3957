"""How a matrix product is divided: the tiles of its result, blocks that stay in cache, and which operands are copied.

Everything here is counting: cycles of multiply-adds and loads on the host's registers, and bytes against its caches.
The division does not depend on how many threads there are, so that every number of threads gives the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from needle.compiler.host import Host
from needle.compiler.schedule import Contraction

__all__ = ["Layout", "Product", "Split", "Tiling", "choose_tiling"]

# A multiply-add takes so many cycles, and two can start in each: a tile with fewer sums in flight waits. Of the two
# loads that a cycle could have, this many were measured beside multiply-adds.
_LATENCY, _PORTS, _LOADS = 4, 2, 1.6
# Cycles to set up a tile and to leave it, beside those of its stores.
_TILE_OVERHEAD = 30
# Caches find a line by the low bits of its address: rows that lie a multiple of this apart push each other out.
_ALIAS_BYTES = 1024
# An operand that is read fewer times than this is read where it lies.
_FEW_TILES, _FEW_ROWS = 3, 8
# Sums are not cut shorter than this, and blocks not made wider: columns of the result.
_SHORTEST_CUT, _WIDEST_BLOCK = 256, 1024
# Cycles that a tile waits for each vector of the right operand, which comes from the second cache.
_FAR_LOAD = 0.8


@dataclass(frozen=True, slots=True)
class Split:
    """`total` things spread evenly over `count` parts: the sizes differ by one at most."""

    total: int
    count: int

    @property
    def largest(self) -> int:
        """The size of the first part."""
        return -(-self.total // self.count)

    @property
    def smallest(self) -> int:
        """The size of the last part."""
        return self.total // self.count


@dataclass(frozen=True, slots=True)
class Layout:
    """Where an operand's elements lie: element strides along the batch axes, along the tiles, and along the sums."""

    offset: int
    batch: tuple[int, ...]
    outer: int
    inner: int


@dataclass(frozen=True, slots=True)
class Product:
    """The sizes of a product and where its operands lie; batch axes that share the right operand have become rows."""

    batch: tuple[int, ...]
    rows: int
    columns: int
    inner: int
    item_bytes: int
    a: Layout
    b: Layout

    @classmethod
    def of(cls, step: Contraction) -> Product:
        """Read the sizes from a contraction."""
        *batch, rows, columns = step.out.shape
        *a_batch, a_row, a_inner = step.a.place.strides
        *b_batch, b_inner, b_column = step.b.place.strides
        if not any(b_batch) and _in_step([*a_batch, a_row], [*batch, rows]):
            rows, batch, a_batch, b_batch = rows * math.prod(batch), [], [], []
        a = Layout(step.a.place.offset, tuple(a_batch), a_row, a_inner)
        b = Layout(step.b.place.offset, tuple(b_batch), b_column, b_inner)
        return cls(tuple(batch), rows, columns, step.a.shape[-1], step.out.dtype.itemsize, a, b)


def _in_step(strides: Sequence[int], lengths: Sequence[int]) -> bool:
    """Tell whether axes can be walked through as one."""
    pairs = zip(strides[:-1], strides[1:], lengths[1:], strict=True)
    return all(outer == inner * length for outer, inner, length in pairs)


@dataclass(frozen=True, slots=True)
class Tiling:
    """The division of one product.

    Attributes:
        rows: the result's rows over tiles.
        vectors: its columns, in vectors, over tiles (the panels of the right operand).
        lanes: the elements of a vector.
        inner: the sum's length over blocks.
        block: how many tiles, down and across, are finished before the next block of tiles is begun.
        pack_a: whether the left operand is copied into panels.
        pack_b: and the right one.
    """

    rows: Split
    vectors: Split
    lanes: int
    inner: Split
    block: tuple[int, int]
    pack_a: bool
    pack_b: bool

    @property
    def a_width(self) -> int:
        """The width of a panel of the left operand: whole vectors, so that each step's elements share a line."""
        return -(-self.rows.largest // self.lanes) * self.lanes

    @property
    def b_width(self) -> int:
        """The width of a panel of the right operand."""
        return self.vectors.largest * self.lanes


def choose_tiling(product: Product, host: Host) -> Tiling:
    """Return how to divide a product on this host."""
    lanes = host.vector_bytes // product.item_bytes
    rows, vectors = _choose_tile(product.rows, -(-product.columns // lanes), product.inner, host.vector_registers)
    inner = Split(product.inner, -(-product.inner // _depth(product, host)))
    block = _block(rows, vectors, host.vector_bytes, inner.largest, host)
    pack_a = _is_worth_packing_a(product, vectors, host)
    pack_b = _is_worth_packing_b(product, rows, host)
    return Tiling(rows, vectors, lanes, inner, block, pack_a, pack_b)


def _choose_tile(rows: int, vectors: int, inner: int, registers: int) -> tuple[Split, Split]:
    """Return the split into tiles that takes the fewest cycles, as `_cycles` counts them."""
    candidates = [
        (Split(rows, -(-rows // height)), Split(vectors, -(-vectors // width)))
        for width in range(1, min(vectors, 4) + 1)
        for height in range(1, min(rows, (registers - 1 - width) // width) + 1)
    ]
    return min(candidates, key=lambda pair: _cycles(pair[0], pair[1], inner))


def _cycles(rows: Split, vectors: Split, inner: int) -> float:
    """Count the cycles of a product."""
    total = 0.0
    for height, down in _sizes(rows):
        for width, across in _sizes(vectors):
            sums, loads = height * width, height + width
            step = max(sums / _PORTS, loads / _LOADS, _LATENCY) + _FAR_LOAD * width
            total += down * across * (inner * step + sums + _TILE_OVERHEAD)
    return total


def _sizes(split: Split) -> list[tuple[int, int]]:
    """Return the sizes of a split's parts, each with how many have it."""
    large = split.total - split.smallest * split.count
    pairs = [(split.largest, large), (split.smallest, split.count - large)]
    return [(size, count) for size, count in pairs if count and size]


def _depth(product: Product, host: Host) -> int:
    """Return how long a sum may be before the rows of the right operand that it takes leave the second cache."""
    row_bytes = min(product.columns, _WIDEST_BLOCK) * product.item_bytes
    return max(_SHORTEST_CUT, host.second_cache_bytes // 2 // row_bytes)


def _block(rows: Split, vectors: Split, vector_bytes: int, depth: int, host: Host) -> tuple[int, int]:
    """Return how many tiles down and across keep the right operand's rows, and the sums, in the second cache."""
    half = host.second_cache_bytes // 2
    panel_bytes = vectors.largest * vector_bytes
    across = _even(vectors.count, max(1, half // (panel_bytes * depth)))
    down = _even(rows.count, max(1, half // (panel_bytes * rows.largest * across)))
    return down, across


def _even(count: int, most: int) -> int:
    """Return the size of blocks of at most `most` that are as large as each other."""
    return -(-count // -(-count // most))


def _is_worth_packing_a(product: Product, vectors: Split, host: Host) -> bool:
    """Tell whether the left operand is read badly where it lies: columns in lines of one place in the cache."""
    if product.a.inner == 1 or vectors.count < _FEW_TILES:
        return False
    aliased = (product.a.inner * product.item_bytes) % _ALIAS_BYTES == 0
    return aliased or product.rows * product.inner * product.item_bytes > host.second_cache_bytes


def _is_worth_packing_b(product: Product, rows: Split, host: Host) -> bool:
    """Tell whether the right operand has to be copied to give vectors, or is read so often that a copy is cheap."""
    if product.b.outer != 1 and product.columns > 1:
        return True
    if not host.is_x86 and product.columns % (host.vector_bytes // product.item_bytes):
        return True  # vectors cut off at the edge are slow there
    if rows.count < _FEW_ROWS:
        return False
    aliased = (product.b.inner * product.item_bytes) % (4 * _ALIAS_BYTES) == 0
    read_bytes = rows.count * product.columns * product.inner * product.item_bytes
    return aliased or read_bytes > 4 * host.second_cache_bytes
