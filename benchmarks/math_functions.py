"""Time the compiler's elementary functions against NumPy's own, in nanoseconds an element, on one thread.

The arrays fit into the first or second cache, so that arithmetic is what is measured::

    python benchmarks/math_functions.py                  # all functions, both formats
    python benchmarks/math_functions.py exp tanh float32
"""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Callable

import numpy as np
from rich.console import Console
from rich.table import Table

from needle.compiler.host import host
from needle.compiler.math import FUNCTIONS, math_functions
from needle.compiler.native import compile_object, load_object

ELEMENTS = 8192
OF_TWO = ("power", "arctan2")
LOOP = """
define void @kernel(ptr noalias %x, ptr noalias %y, ptr noalias %out, i64 %n) {attributes} {{
entry:
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
  %x_address = getelementptr {type}, ptr %x, i64 %i
  %y_address = getelementptr {type}, ptr %y, i64 %i
  %out_address = getelementptr {type}, ptr %out, i64 %i
  %a = load {type}, ptr %x_address
  %b = load {type}, ptr %y_address
  %result = call {type} @{function}({arguments})
  store {type} %result, ptr %out_address
  %next = add nuw nsw i64 %i, 1
  %more = icmp slt i64 %next, %n
  br i1 %more, label %loop, label %done
done:
  ret void
}}"""


def nanoseconds(run: Callable[[], object]) -> float:
    """Return the least time of a run, by element."""
    best = float("inf")
    for _ in range(15):
        start = time.perf_counter()
        for _ in range(200):
            run()
        best = min(best, time.perf_counter() - start)
    return best / 200 / ELEMENTS * 1e9


def needle_time(name: str, dtype: str, x: np.ndarray, y: np.ndarray) -> float:
    """Return the time of a compiled loop over one function."""
    type_ = {"float32": "float", "float64": "double"}[dtype]
    arguments = f"{type_} %a, {type_} %b" if name in OF_TWO else f"{type_} %a"
    loop = LOOP.format(attributes=host().attributes, type=type_, function=FUNCTIONS[name, dtype], arguments=arguments)
    address, engine = load_object(compile_object(math_functions([(name, dtype)]) + loop), "kernel")
    function = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 3, ctypes.c_int64)(address)
    out = np.empty_like(x)
    pointers = [ctypes.c_void_p(one.ctypes.data) for one in (x, y, out)]
    taken = nanoseconds(lambda: function(*pointers, ELEMENTS))
    del engine
    return taken


def numpy_time(name: str, x: np.ndarray, y: np.ndarray) -> float | None:
    """Return the time of NumPy's function into an array that is there; none for erf, which NumPy lacks."""
    function, out = getattr(np, name, None), np.empty_like(x)
    if function is None:
        return None
    inputs = (x, y) if name in OF_TWO else (x,)
    return nanoseconds(lambda: function(*inputs, out=out))


def main(chosen: list[str]) -> None:
    """Print the table."""
    table = Table("function", "format", "Needle ns", "NumPy ns", "NumPy / Needle", title=host().cpu)
    dtypes = [one for one in chosen if one.startswith("float")]
    names = [one for one in chosen if one not in dtypes]
    rng = np.random.default_rng(0)
    for name, dtype in FUNCTIONS:
        if (names and name not in names) or (dtypes and dtype not in dtypes):
            continue
        x, y = (rng.uniform(0.1, 4, ELEMENTS).astype(dtype) for _ in range(2))
        ours, theirs = needle_time(name, dtype, x, y), numpy_time(name, x, y)
        compared = ("", "") if theirs is None else (f"{theirs:.3f}", f"{theirs / ours:.2f}")
        table.add_row(name, dtype, f"{ours:.3f}", *compared)
    Console(width=100).print(table)


if __name__ == "__main__":
    main(sys.argv[1:])
