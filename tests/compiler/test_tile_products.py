"""Products of bfloat16 by tile registers, where the processor has them."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("llvmlite")

from needle.compiler.host import host
from needle.compiler.thread_count import set_num_threads

from .compiled import assert_compiles, compile_function
from .narrow_products import FUNCTIONS, narrow, wide

needs_tiles = pytest.mark.skipif(not host().has_tiles, reason="this processor has no tile registers for bfloat16")


@needs_tiles
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_tiles_give_what_float32_gives(name: str, threads: int) -> None:
    function, arrays = FUNCTIONS[name]
    set_num_threads(threads)
    try:
        compiled = compile_function(function, *arrays)
        assert "widening_matmul" in compiled.simplified.show()
        # A result that is rounded to bfloat16 may fall on the other side; sums of thousands differ by their order.
        assert_compiles(function, *arrays, rtol=1e-2 if "narrow" in name else 1e-4)
    finally:
        set_num_threads(None)


@needs_tiles
def test_what_is_not_finite_comes_out() -> None:
    a, b = narrow(64, 64), narrow(64, 64)
    a[3, 5], a[40, 0] = np.nan, np.inf
    (y,) = compile_function(lambda a, b: wide(a) @ wide(b), a, b)((a, b))
    assert np.isnan(y[3]).all()
    assert not np.isfinite(y[40]).any()
    rest = [row for row in range(64) if row not in (3, 40)]
    assert np.isfinite(y[rest]).all()
