"""Tiles that are transposed: of products with few columns, whose vectors are along the result's rows.

A vector of sums belongs to one column of the result then. Squares of them are transposed in registers, so that what is
stored are pieces of rows.
"""

from __future__ import annotations

from needle.compiler.ir import SSA, Function, llvm_type
from needle.compiler.loops import Buffer
from needle.compiler.packing import SQUARE, mask_below, offset, store_vector, transposed
from needle.compiler.rendered import RenderedKernel
from needle.compiler.tiles import TilePlace, Tiles

__all__ = ["TurnedTiles"]


class TurnedTiles(Tiles):
    """Writes the function that computes tiles of a product that is turned."""

    def render(self, a: Buffer, b: Buffer) -> RenderedKernel:
        """Return the function."""
        self.f.add(self._turn())
        return super().render(a, b)

    def own_shape(self) -> tuple[int, int]:
        """Return the rows and columns of a tile of the result."""
        return self.tiling.b_width, self.tiling.a_width

    def write_sums(self, place: TilePlace, rows: int, vectors: int) -> None:
        """Write one size's code: the loop, and the store of what is transposed."""
        f, tiling, dtype = self.f, self.tiling, self.step.out.dtype
        lanes, scalar = tiling.lanes, llvm_type(dtype)
        found = f.slot(scalar, tiling.a_width * tiling.b_width)
        starts = [SSA("zeroinitializer", f"<{lanes} x {scalar}>")] * (rows * vectors)
        for number, one in enumerate(self.loop(place, (rows, vectors, self.masks(place, vectors)), starts)):
            i, j = divmod(number, vectors)
            f.store(one, self.moved(found, i * tiling.b_width + j * lanes), dtype.itemsize)
        target = f.address("%out", scalar, place.out) if self.writes_out else self.tile
        height = f.intrinsic("smin", place.columns_left, f.integer(vectors * lanes))
        f.do(f"call void @{f.name}.turn({target}, {found}, {height}, i64 {rows})")
        if self.step.epilogue:
            self.epilogue.call(f, target, (place.out, place.first_column), (height, -(-rows // lanes)))

    def _turn(self) -> Function:
        """Return the function that stores `height` rows of the result, `width` of its columns, of a tile's sums."""
        parameters = ["ptr noalias %out", "ptr noalias %sums", "i64 %height", "i64 %width"]
        f = Function(f"{self.f.name}.turn", parameters, "nounwind noinline #0")
        dtype, lanes, apart = self.step.out.dtype, min(SQUARE, self.tiling.lanes), self.tiling.b_width
        scalar, align = llvm_type(dtype), dtype.itemsize
        vector, height, width = f"<{lanes} x {scalar}>", SSA("%height", "i64"), SSA("%width", "i64")
        square = f.slot(scalar, lanes * lanes)
        with f.loop(f.integer(0), height, lanes) as row, f.loop(f.integer(0), width, lanes) as column:
            places = [offset(f, [column, row], (apart, 1), i * apart) for i in range(lanes)]
            sums = [f.load(vector, f.address("%sums", scalar, place), align) for place in places]
            for i, one in enumerate(transposed(f, sums)):
                f.store(one, f.address(square.name, scalar, f.integer(i * lanes)), align)
            mask = mask_below(f, f.binary("sub", width, column), lanes)
            left = f.intrinsic("smin", f.binary("sub", height, row), f.integer(lanes))
            with f.loop(f.integer(0), left) as number:
                one = f.load(vector, f.address(square.name, scalar, offset(f, [number], (lanes,))), align)
                place = offset(f, [f.binary("add", row, number), column], (self.epilogue.row_stride, 1))
                store_vector(f, one, f.address("%out", scalar, place), mask, align)
        return f
