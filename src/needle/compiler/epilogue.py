"""What follows a matrix product elementwise, computed for one tile at a time while its sums are in the first cache.

The function that is written here loops over a tile's rows and over its columns, first those that fill vectors, so that
LLVM makes vectors of the stores' values. It knows how long the last, shorter piece of a row is. How many vectors there
are it does not know, but that they are whole: loops of a length that LLVM knows are written out element by element
where they are short, and others have a rest to look after.
"""

from __future__ import annotations

from needle.compiler.ir import SSA, Function, llvm_type
from needle.compiler.loops import axis_places, buffer_place, buffers_read
from needle.compiler.matrices import Product
from needle.compiler.packing import coordinates, offset
from needle.compiler.render import render_stores
from needle.compiler.steps import Contraction
from needle.compiler.tiling import Tiling

__all__ = ["Epilogue"]


class Epilogue:
    """The elementwise rest of one contraction.

    Args:
        step: the contraction.
        product: its sizes.
        tiling: its tiles.
        row_stride: how many elements apart rows of a tile's sums lie in memory.

    Attributes:
        writes: the buffers that it stores to.
        reads: the others that it loads, but for the sums.
        pointers: the name of each one's pointer in the functions that use it.
    """

    def __init__(self, step: Contraction, product: Product, tiling: Tiling, row_stride: int) -> None:
        self.step = step
        self.product = product
        self.tiling = tiling
        self.row_stride = row_stride
        self.writes = tuple(store.buffer for store in step.epilogue)
        loaded = [buffer for store in step.epilogue for buffer in buffers_read(store)]
        known = {step.out, *self.writes}
        self.reads = tuple(buffer for buffer in dict.fromkeys(loaded) if buffer not in known)
        self.pointers = {buffer: f"%e{number}" for number, buffer in enumerate([*self.writes, *self.reads])}

    def call(self, f: Function, sums: SSA, first: tuple[SSA, SSA], size: tuple[int | SSA, int]) -> None:
        """Compute the rest of a tile of `size` rows and vectors, given its first element's place and column."""
        begin_column, lanes = first[1], self.tiling.lanes
        left = f.binary("sub", f.integer(self.product.result_columns), begin_column)
        whole = f.intrinsic("smin", f.binary("udiv", left, f.integer(lanes)), f.integer(size[1]))
        pointers = [f"ptr {pointer}" for pointer in self.pointers.values()]
        rows = size[0] if isinstance(size[0], SSA) else f.integer(size[0])
        numbers = [*first, rows, whole, f.integer(size[1])]
        f.do(f"call void @{self.step.name}_tiles.finish({', '.join([*pointers, str(sums), *map(str, numbers)])})")

    def function(self) -> Function:
        """Return the function of a tile."""
        numbers = ["%place", "%column", "%rows", "%whole", "%vectors"]
        pointers = [f"ptr noalias {pointer}" for pointer in [*self.pointers.values(), "%sums"]]
        parameters = [*pointers, *(f"i64 {name}" for name in numbers)]
        f = Function(f"{self.step.name}_tiles.finish", parameters, "nounwind noinline #0")
        lanes, rest = self.tiling.lanes, self.product.result_columns % self.tiling.lanes
        with f.loop(f.integer(0), SSA("%rows", "i64")) as i:
            self._piece(f, i, f.integer(0), f.binary("mul nsw nuw", SSA("%whole", "i64"), f.integer(lanes)))
            if rest:
                with f.when(f.compare("slt", SSA("%whole", "i64"), SSA("%vectors", "i64"))):
                    start = f.binary("mul nsw", SSA("%whole", "i64"), f.integer(lanes))
                    self._piece(f, i, start, f.integer(rest))
        return f

    def _piece(self, f: Function, i: SSA, start: SSA, length: SSA) -> None:
        """Write `length` columns of row `i` from `start` on, all counted within the tile."""
        step = self.step
        rank = len(step.out.shape)
        at = offset(f, [SSA("%place", "i64"), i], (1, self.product.out.outer))
        outer = coordinates(f, f.binary("udiv", at, f.integer(self.product.result_columns)), step.out.shape[:-1])
        place = buffer_place(step.out, axis_places(rank), rank)
        with f.loop(f.integer(0), length) as j:
            within = f.binary("add nsw", start, j)
            column = f.binary("add nsw", SSA("%column", "i64"), within)
            address = f.address("%sums", llvm_type(step.out.dtype), offset(f, [i, within], (self.row_stride, 1)))
            value = f.load(llvm_type(step.out.dtype), address, step.out.dtype.itemsize)
            render_stores(f, self.pointers, [*outer, column], {(step.out, place): value}, step.epilogue)
