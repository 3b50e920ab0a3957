"""Random numbers that a program draws itself, as the first thing that it does, while other threads do something else.

Who calls the program gives it a pair of numbers: where a function lies that fills an array with the next draws, and
what that function takes as the generator's state. Where the first is 0 the arrays are filled already. All draws are one
chunk of the first round, since each begins where the one before has ended.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from needle.compiler.ir import SSA, Function
from needle.compiler.loops import Buffer
from needle.compiler.rendered import RenderedKernel

__all__ = ["GENERATOR", "render_draws"]

# The pair: the function void (ptr state, ptr out, i64 count), and the state.
GENERATOR = Buffer("generator", (2,), np.dtype(np.int64))
# A draw takes as long as so many multiply-adds.
_WORK_EACH = 40


def render_draws(drawn: Sequence[Buffer]) -> list[RenderedKernel]:
    """Return what fills arrays with draws, in order."""
    f = Function("draw", ["ptr noalias %generator", "ptr noalias %out", "i64 %begin", "i64 %end"], "nounwind #0")
    generator = SSA("%generator", "ptr")
    function = f.load("i64", generator, 8)
    with f.when(f.compare("ne", function, f.integer(0))):
        state = f.load("ptr", f.address(generator.name, "ptr", f.integer(1)), 8)
        fill = f.emit("ptr", f"inttoptr {function} to ptr")
        count = f.binary("sub", SSA("%end", "i64"), SSA("%begin", "i64"))
        f.do(f"call void {fill.name}({state}, ptr %out, {count})")
    return [
        RenderedKernel(f, (GENERATOR, one), one.size, False, 2, work=_WORK_EACH * one.size) for one in drawn if one.size
    ]
