"""What this machine can do at most, measured once a process: multiply-adds, and copying arrays of a size."""

from __future__ import annotations

import ctypes
import threading
import time
from functools import cache

import numpy as np

from needle.compiler.host import host
from needle.compiler.native import compile_object, load_object

__all__ = ["copy_limit", "multiply_add_limit"]

_REPEATS = 5


@cache
def multiply_add_limit(threads: int) -> float:
    """Return the floating-point operations a second, in float32, of independent multiply-adds on so many threads."""
    chains = min(host().vector_registers - 4, 24)
    lanes = host().vector_bytes // 4
    vector = f"<{lanes} x float>"
    loops = "\n  ".join(f"%c{i} = phi {vector} [ %ones, %start ], [ %d{i}, %loop ]" for i in range(chains))
    fma = f"call {vector} @llvm.fma.v{lanes}f32({vector} %ones, {vector} %ones, {vector}"
    steps = "\n  ".join(f"%d{i} = {fma} %c{i})" for i in range(chains))
    sums = "\n  ".join(f"%s{i} = fadd {vector} %d{i}, {f'%s{i - 1}' if i else '%ones'}" for i in range(chains))
    text = f"""
declare {vector} @llvm.fma.v{lanes}f32({vector}, {vector}, {vector})
define void @limit(i64 %count, ptr %out) {host().attributes} "target-features"="{host().features}" {{
start:
  %ones = load {vector}, ptr %out, align 4
  br label %loop
loop:
  %i = phi i64 [ 0, %start ], [ %i1, %loop ]
  {loops}
  {steps}
  %i1 = add i64 %i, 1
  %more = icmp slt i64 %i1, %count
  br i1 %more, label %loop, label %done
done:
  {sums}
  store {vector} %s{chains - 1}, ptr %out, align 4
  ret void
}}
"""
    address, engine = load_object(compile_object(text), "limit")
    function = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_void_p)(address)
    count = 100_000
    rates = []
    for _ in range(_REPEATS):
        outs = [np.zeros(64, np.float32) for _ in range(threads)]
        # The others run longer, so that they are busy all the while.
        workers = [threading.Thread(target=function, args=(count * 4, out.ctypes.data)) for out in outs[1:]]
        for worker in workers:
            worker.start()
        start = time.perf_counter()
        function(count, outs[0].ctypes.data)
        rates.append(2 * lanes * chains * count * threads / (time.perf_counter() - start))
        for worker in workers:
            worker.join()
    del engine
    return max(rates)


@cache
def _copy_limit(log_size: int) -> float:
    size = max(2**log_size // 2, 64)
    source, target = np.ones(size, np.uint8), np.zeros(size, np.uint8)
    repeats = max(1, 2**22 // size)
    best = float("inf")
    for _ in range(_REPEATS):
        start = time.perf_counter()
        for _ in range(repeats):
            np.copyto(target, source)
        best = min(best, (time.perf_counter() - start) / repeats)
    return 2 * size / best


def copy_limit(size: int) -> float:
    """Return the bytes a second that one thread reads and writes when it copies, `size` bytes being touched in all.

    Small arrays stay in the caches, large ones do not; rounded to the next power of two.
    """
    return _copy_limit(max(size - 1, 4096).bit_length())
