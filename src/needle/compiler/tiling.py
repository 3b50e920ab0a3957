"""How a matrix product is divided: the tiles of its result, blocks that stay in cache, and which operands are copied.

Everything here is counting: cycles of multiply-adds and loads on the host's registers, and bytes against its caches.
The order of each sum does not depend on how many threads there are, so that every number of threads gives the same
bits; only how many tiles share the panels that they make does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

from needle.compiler.host import Host
from needle.compiler.matrices import Product
from needle.compiler.steps import Contraction
from needle.compiler.thread_count import available_processors

__all__ = ["WORTH_COPYING_TOGETHER", "Split", "Tiling", "choose_tiling", "divide", "least_cycles"]

# A multiply-add takes so many cycles, and two can start in each: a tile with fewer sums in flight waits. Of the two
# loads that a cycle could have, this many were measured beside multiply-adds.
_LATENCY, _PORTS, _LOADS = 4, 2, 1.6
# Cycles to set up a tile and to leave it, beside those of its stores.
_TILE_OVERHEAD = 30
# Cycles to go on from the innermost loop over the sum to the next one.
_LOOP_OVERHEAD = 10
# Caches find a line by the low bits of its address: rows that lie a multiple of this apart push each other out.
_ALIAS_BYTES = 1024
# An operand that is read fewer times than this is read where it lies: columns of the left one, which are asked for
# ahead, by so many panels; rows of the right one by so many tiles.
_FEW_TILES, _FEW_ROWS = 24, 8
# How many blocks there are for each thread, where blocks are what threads take.
_BLOCKS_EACH = 8
# Sums are not cut shorter than this, and blocks not made wider: columns of the result.
_SHORTEST_CUT, _WIDEST_BLOCK = 256, 1024
# How much a panel and a window of an image need together, of the second cache, which the next window finds there.
_OVERLAP = 1.25
# Into how many pieces long sums fall.
_PIECES = 8
# A product that is turned takes longer to compile: it is to be so many times as fast.
_WORTH_TURNING = 1.2
# Loads in a cycle from the first cache; cycles to add up the elements of a vector of sums, one of many, and to copy an
# element of the right operand so that vectors are along the sum.
_NEAR_LOADS, _ADDING_UP, _TURNING = 2, 0.9, 0.4
# Fewer elements than this are copied by one thread; cycles until others have noticed that it is done.
WORTH_COPYING_TOGETHER, _MEETING = 60_000, 1_200
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
class Tiling:
    """The division of one product.

    Attributes:
        rows: the result's rows over tiles.
        vectors: its columns, in vectors, over tiles (the panels of the right operand).
        lanes: the elements of a vector.
        inner: the outermost axis of the sum over cuts.
        second: the next axis of the sum, where cuts are shorter than one step of the outermost.
        pieces: into how many pieces of some cuts sums fall that threads share; each piece has sums of its own.
        all_by_cuts: whether a cut is finished for all blocks before the next one, and not only for those of one block.
        block: how many tiles, down and across, are finished before the next block of tiles is begun.
        pack_a: whether the left operand is copied into panels.
        pack_b: and the right one.
        sum_lanes: how many neighbouring steps of the sum a vector has: more than one where vectors are along the sum.
        packs_in_blocks: whether each block makes the panels that it needs, just before it needs them, instead of one
            copy of the whole right operand.
    """

    rows: Split
    vectors: Split
    lanes: int
    inner: Split
    block: tuple[int, int]
    pack_a: bool
    pack_b: bool
    packs_in_blocks: bool = False
    second: Split = Split(1, 1)
    all_by_cuts: bool = False
    pieces: int = 1
    sum_lanes: int = 1

    @property
    def cuts(self) -> int:
        """Into how many parts sums are cut."""
        return self.inner.count * self.second.count

    @property
    def a_width(self) -> int:
        """The width of a panel of the left operand: whole vectors, so that each step's elements share a line."""
        return -(-self.rows.largest // self.lanes) * self.lanes

    @property
    def b_width(self) -> int:
        """The width of a panel of the right operand."""
        return self.vectors.largest * self.lanes


def choose_tiling(
    step: Contraction, host: Host, packs_once: bool = False, is_alone: bool = False
) -> tuple[Product, Tiling]:
    """Return how to see a contraction as a product, and how to divide that on this host.

    `packs_once` says that others have the same right operand, and will share what is packed; `is_alone` that there is
    nothing else to do while an operand is copied.
    """
    upright = Product.candidates(step)
    along = _along_sums(step, upright, host)
    if along is not None:
        return along
    turned = [one.turned() for one in upright if one.a.outer == 1 and not one.clips]
    product, tiling = divide([*upright, *turned], host, may_pack_in_blocks=not packs_once)
    # The sums of a tile that is turned are stored once, and what follows them wants whole rows of the result.
    if product.is_turned and (tiling.cuts > 1 or (step.epilogue and tiling.rows.count > 1)):
        product, tiling = divide(upright, host, may_pack_in_blocks=not packs_once)
    if is_alone and tiling.pack_b and tiling.cuts == 1 and _is_waited_for(product, tiling):
        tiling = replace(tiling, packs_in_blocks=True, block=(tiling.rows.count, 1))
    return product, (tiling if step.epilogue else _in_pieces(product, tiling))


def _along_sums(step: Contraction, candidates: Sequence[Product], host: Host) -> tuple[Product, Tiling] | None:
    """Return a product whose vectors are along the sum, and how to divide it; None where others are as fast.

    Each tile keeps a vector of sums for each of its elements, and adds up the vectors' elements in the end. Nothing is
    lost where columns are few; but the vectors of all columns have to stay in the first cache.
    """
    found = []
    for product in candidates:
        lanes = host.vector_bytes // product.item_bytes
        steps = -(-product.inner // lanes)
        fits = steps * host.vector_bytes * product.columns <= host.first_cache_bytes
        if product.a.inner != (1,) or product.clips or not fits:
            continue
        columns, rows = _choose_tile(product.columns, product.rows, steps, host.vector_registers)
        if step.epilogue and columns.count > 1:
            continue
        batch, block, pack_b = math.prod(product.batch), (rows.count, columns.count), product.b.inner != (1,)
        packed = math.prod(n for n, stride in zip(product.batch, product.b.batch, strict=True) if stride) * pack_b
        cycles = batch * (_loop_cycles(columns, rows, steps) + _ADDING_UP * product.rows * product.columns)
        cycles += _TURNING * packed * product.columns * product.inner
        tiling = Tiling(rows, columns, 1, Split(product.inner, 1), block, False, pack_b, sum_lanes=lanes)
        found.append((cycles, product, tiling))
    if not found:
        return None
    cycles, product, tiling = min(found, key=lambda choice: choice[0])
    _, other, down, across = _best(candidates, host)
    others = math.prod(other.batch) * _loop_cycles(down, across, other.inner)
    return (product, tiling) if cycles < others else None


def _in_pieces(product: Product, tiling: Tiling) -> Tiling:
    """Return a tiling with sums in pieces, where these are little beside the operands."""
    steps = product.sums[0] * tiling.second.count
    result = math.prod(product.batch) * product.rows * product.columns
    if not tiling.all_by_cuts or steps < _PIECES or product.inner * product.columns < 2 * _PIECES * result:
        return tiling
    # As many cuts in each piece.
    wanted = -(-tiling.inner.count // _PIECES) * _PIECES
    inner = tiling.inner if tiling.cuts % _PIECES == 0 else Split(product.sums[0], min(wanted, product.sums[0]))
    return replace(tiling, inner=inner, pieces=_PIECES)


def divide(candidates: Sequence[Product], host: Host, may_pack_in_blocks: bool = False) -> tuple[Product, Tiling]:
    """Return the best of several ways to see a product, and how to divide it on this host."""
    _, product, rows, vectors = _best(candidates, host)
    lanes = host.vector_bytes // product.item_bytes
    pack_a = _is_worth_packing_a(product, vectors, host)
    pack_b = _is_worth_packing_b(product, rows, host)
    own_block = _packing_block(product, rows, vectors, host) if pack_b and may_pack_in_blocks else None
    cuts = 1 if own_block is not None else -(-product.inner // _depth(product, rows, vectors, host))
    first, next_one, *rest = *product.sums, 1
    inner, second = Split(first, min(cuts, first)), Split(next_one, min(-(-cuts // first), next_one))
    depth = inner.largest * second.largest * math.prod(rest)
    block = own_block or _block(rows, vectors, host.vector_bytes, depth, host)
    result_bytes = math.prod(product.batch) * product.rows * product.columns * product.item_bytes
    all_by_cuts = inner.count * second.count > 1 and result_bytes <= host.second_cache_bytes
    # All tiles of a cut find the right operand's rows in the second cache: more of them still make no copy cheap.
    has_few_readers = math.prod(product.batch) == 1 and rows.count < 2 * _FEW_ROWS
    if all_by_cuts and has_few_readers and not (_has_to_be_packed(product, host) or _is_aliased(product)):
        pack_b = False
    return product, Tiling(
        rows, vectors, lanes, inner, block, pack_a, pack_b, own_block is not None, second, all_by_cuts
    )


def _best(candidates: Sequence[Product], host: Host) -> tuple[float, Product, Split, Split]:
    """Return the cycles of the best of several ways to see a product, that, and its tiles."""
    choices = []
    for product in candidates:
        rows, vectors, cycles = _tiles_across(product, host)
        if product.is_turned:
            cycles = _WORTH_TURNING * (cycles + _turning_cycles(rows, vectors, host.vector_bytes // product.item_bytes))
        choices.append((cycles * math.prod(product.batch), product, rows, vectors))
    return min(choices, key=lambda choice: choice[0])


def least_cycles(candidates: Sequence[Product], host: Host) -> float:
    """Count the cycles of the best of several ways to see a product; infinitely many where there is none."""
    least = math.inf
    for product in candidates:
        rows, vectors, cycles = _tiles_across(product, host)
        cycles += rows.count * vectors.count * product.inner // product.sums[-1] * _LOOP_OVERHEAD
        least = min(least, cycles * product.share * math.prod(product.batch))
    return least


def _tiles_across(product: Product, host: Host) -> tuple[Split, Split, float]:
    """Return the best tiles of a product whose vectors are along its columns, and its cycles."""
    vectors = -(-product.columns * product.item_bytes // host.vector_bytes)
    chosen = _choose_tile(product.rows, vectors, product.inner, host.vector_registers)
    return *chosen, _cycles(*chosen, product.inner)


@cache  # counting goes through a hundred splits, and is asked again: by the schedule, for each way to see a product
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


def _turning_cycles(rows: Split, vectors: Split, lanes: int) -> float:
    """Count the cycles that it takes to transpose tiles square by square, and to store what that gives."""
    squares = sum(down * -(-height // lanes) for height, down in _sizes(rows)) * vectors.total
    return squares * lanes * (math.log2(lanes) / 2 + 1)


def _loop_cycles(rows: Split, vectors: Split, inner: int) -> float:
    """Count the cycles of a product's innermost loops, with what they load in the first cache."""
    steps = [
        (down * across, max(height * width / _PORTS, (height + width) / _NEAR_LOADS, _LATENCY))
        for height, down in _sizes(rows)
        for width, across in _sizes(vectors)
    ]
    return inner * sum(count * cycles for count, cycles in steps)


def _sizes(split: Split) -> list[tuple[int, int]]:
    """Return the sizes of a split's parts, each with how many have it."""
    large = split.total - split.smallest * split.count
    pairs = [(split.largest, large), (split.smallest, split.count - large)]
    return [(size, count) for size, count in pairs if count and size]


def _depth(product: Product, rows: Split, vectors: Split, host: Host) -> int:
    """Return how long a sum may be before what it takes leaves the second cache.

    Where the whole left operand stays there, it is enough that a few panels of the right one do beside it: all rows'
    tiles read a panel before the next one's turn. Where one tile has all rows of a turned product, nobody reads a panel
    again; sums stay whole if there are as many tiles as there would be pieces. Where matrices are windows of an image
    that share a right operand too large for that cache, a panel stays for all of them: neighbours' windows overlap, so
    that the panel and a window may need a little more than there is. Otherwise the right operand's rows have to stay
    there; and the left operand's columns, where tiles share their lines.
    """
    left_bytes = product.rows * product.inner * product.item_bytes
    panel_bytes = vectors.largest * host.vector_bytes * product.inner
    is_read_once = product.is_turned and rows.count == 1 and vectors.count >= _PIECES
    if left_bytes <= host.second_cache_bytes // 2 and (is_read_once or panel_bytes <= host.second_cache_bytes // 8):
        return product.inner
    right_bytes = product.columns * product.inner * product.item_bytes
    is_shared = product.batch and not any(product.b.batch) and product.a.outer != 1
    windows_overlap = is_shared and len(product.sums) > 1 and right_bytes > host.second_cache_bytes
    if windows_overlap and left_bytes + panel_bytes <= _OVERLAP * host.second_cache_bytes:
        return product.inner
    columns = min(product.columns, _WIDEST_BLOCK)
    if product.a.outer == 1:
        columns += min(product.rows, product.a.inner[-1])
    row_bytes = columns * product.item_bytes
    return max(_SHORTEST_CUT, host.second_cache_bytes // 2 // row_bytes)


def _block(rows: Split, vectors: Split, vector_bytes: int, depth: int, host: Host) -> tuple[int, int]:
    """Return how many tiles down and across keep the right operand's rows, and the sums, in the second cache."""
    half = host.second_cache_bytes // 2
    panel_bytes = vectors.largest * vector_bytes
    across = _even(vectors.count, max(1, half // (panel_bytes * depth)))
    down = _even(rows.count, max(1, half // (panel_bytes * rows.largest * across)))
    return down, across


def _packing_block(product: Product, rows: Split, vectors: Split, host: Host) -> tuple[int, int] | None:
    """Return the size of blocks that each make their own panels; None where one copy for all is better.

    The panels are read from the second cache at once and need not go further. There are to be several blocks for each
    thread; where that takes more than one block for the same panels, each of them still has many rows to use them for.
    The left operand goes by once for each block, which must not be too long a way.
    """
    if any(stride == 0 < n - 1 for n, stride in zip(product.batch, product.b.batch, strict=True)):
        return None
    left_bytes = product.rows * product.inner * product.item_bytes
    most = host.second_cache_bytes // 4 // (vectors.largest * host.vector_bytes * product.inner)
    wanted = -(-_BLOCKS_EACH * available_processors() // math.prod(product.batch))
    parts = -(-wanted // vectors.count)
    if most == 0 or left_bytes > 2 * host.second_cache_bytes or rows.count < parts * _FEW_ROWS:
        return None
    return -(-rows.count // parts), _even(vectors.count, max(1, min(most, vectors.count // wanted)))


def _is_waited_for(product: Product, tiling: Tiling) -> bool:
    """Tell whether threads would wait longer for a copy of the right operand than for whoever has most of its panels.

    One thread makes a small copy for all. Where each makes the panels of its own tiles instead, nobody waits before the
    product; but a panel with all of its tiles is much to take at once.
    """
    threads, rows, vectors = available_processors(), tiling.rows, tiling.vectors
    copied = product.columns * product.inner
    if threads == 1 or math.prod(product.batch) > 1 or tiling.packs_in_blocks or copied >= WORTH_COPYING_TOGETHER:
        return False
    most = -(-vectors.count // threads) * vectors.largest
    uneven = _cycles(rows, vectors, product.inner) * (most / vectors.total - 1 / threads)
    return _MEETING + _TURNING * copied * (1 - 1 / threads) > uneven


def _even(count: int, most: int) -> int:
    """Return the size of blocks of at most `most` that are as large as each other."""
    return -(-count // -(-count // most))


def _is_worth_packing_a(product: Product, vectors: Split, host: Host) -> bool:
    """Tell whether the left operand is read badly where it lies: columns in lines of one place in the cache."""
    if product.a.inner[-1] == 1 or vectors.count < _FEW_TILES or product.clips:
        return False
    aliased = (product.a.inner[-1] * product.item_bytes) % _ALIAS_BYTES == 0
    return aliased or product.rows * product.inner * product.item_bytes > host.second_cache_bytes


def _is_worth_packing_b(product: Product, rows: Split, host: Host) -> bool:
    """Tell whether the right operand has to be copied to give vectors, or is read so often that a copy is cheap."""
    if _has_to_be_packed(product, host):
        return True
    repeats = math.prod(n for n, stride in zip(product.batch, product.b.batch, strict=True) if stride == 0)
    readers = rows.count * repeats
    if readers < _FEW_ROWS:
        return False
    read_bytes = readers * product.columns * product.inner * product.item_bytes
    return _is_aliased(product) or read_bytes > 4 * host.second_cache_bytes


def _has_to_be_packed(product: Product, host: Host) -> bool:
    """Tell whether the right operand gives no whole vectors where it lies."""
    if product.b.outer != 1 and product.columns > 1:
        return True
    # Vectors cut off at the edge are slow elsewhere.
    return not host.is_x86 and product.columns % (host.vector_bytes // product.item_bytes) != 0


def _is_aliased(product: Product) -> bool:
    """Tell whether the right operand's rows lie in lines of one place in the cache."""
    return (product.b.inner[-1] * product.item_bytes) % (4 * _ALIAS_BYTES) == 0
