"""Uniform numbers from NumPy's Mersenne Twister, made some times as fast: the same numbers, from the same state.

The generator's state is NumPy's own, read and written in place under its lock, so that draws made here and draws made
by NumPy follow each other in one stream.

Reference: M. Matsumoto, T. Nishimura, "Mersenne twister", 1998; 53-bit fractions as in their genrand_res53.
"""

from __future__ import annotations

import ctypes
import re
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from needle.compiler.cache import cached_object
from needle.compiler.host import host
from needle.compiler.native import compile_object, load_object

__all__ = ["Stream", "fill_uniform"]

# Of NumPy's generator: 624 words of 32 bits, and the position of the next one.
_STATE_BYTES = 625 * 4


def fill_uniform(bit_generator: Any, out: NDArray[np.float64]) -> None:
    """Fill an array without gaps with what `bit_generator`, a NumPy MT19937, would draw from U[0, 1)."""
    with bit_generator.lock:
        _code().fill(bit_generator.ctypes.state_address, out.ctypes.data, out.size)


class Stream:
    """A generator of NumPy's as compiled code uses it: a function that fills arrays with its next draws, and its state.

    Attributes:
        lock: to be held while draws are made.
        function: where the function void (ptr state, ptr out, i64 count) lies.
        state: where the state lies.
    """

    __slots__ = ("function", "lock", "state")

    def __init__(self, bit_generator: Any) -> None:
        self.lock = bit_generator.lock
        self.function = _code().address
        self.state: int = bit_generator.ctypes.state_address

    def save(self) -> bytes:
        """Return the state."""
        return ctypes.string_at(self.state, _STATE_BYTES)

    def restore(self, saved: bytes) -> None:
        """Go back to a state that `save` returned."""
        with self.lock:
            ctypes.memmove(self.state, saved, _STATE_BYTES)


class _Code:
    def __init__(self) -> None:
        text = _spelt_out(_TEXT) + f'attributes #0 = {{ {host().attributes} "target-features"="{host().features}" }}\n'
        self.address, self.engine = load_object(cached_object(text, compile_object), "fill")
        self.fill = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)(self.address)


@cache
def _code() -> _Code:
    return _Code()


def _spelt_out(text: str) -> str:
    """Return LLVM's text with vectors of one constant, `splat (type number)`, as versions before 19 know them."""

    def vector(found: re.Match[str]) -> str:
        return f"<{', '.join([found[1]] * (16 if found[1].startswith('i32') else 8))}>"

    return re.sub(r"splat \(([^)]*)\)", vector, text)


# The state: 624 words, then the position of the next one as a 32-bit integer. Each word of the stream is made of those
# 624, 623 and 227 places before it. So with the state and its successor side by side in memory, vectors of 16 words
# follow each other without gaps, and a pair of words may lie across the two. A pair is one number of 64 bits in memory:
# the first word its lower half, of which the upper 27 bits count, the second its upper half, of which 26 do.
_TEXT = """
declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)

define internal void @twist(ptr noalias %words) nounwind #0 {
start:
  br label %loop
loop:
  %i = phi i64 [ 0, %start ], [ %i1, %loop ]
  %p0 = getelementptr inbounds i32, ptr %words, i64 %i
  %p1 = getelementptr inbounds i32, ptr %p0, i64 1
  %p2 = getelementptr inbounds i32, ptr %p0, i64 397
  %p3 = getelementptr inbounds i32, ptr %p0, i64 624
  %this = load <16 x i32>, ptr %p0, align 64
  %next = load <16 x i32>, ptr %p1, align 4
  %far = load <16 x i32>, ptr %p2, align 4
  %upper = and <16 x i32> %this, splat (i32 -2147483648)
  %lower = and <16 x i32> %next, splat (i32 2147483647)
  %y = or <16 x i32> %upper, %lower
  %half = lshr <16 x i32> %y, splat (i32 1)
  %bit = and <16 x i32> %next, splat (i32 1)
  %all = sub <16 x i32> zeroinitializer, %bit
  %matrix = and <16 x i32> %all, splat (i32 -1727483681)
  %one = xor <16 x i32> %far, %half
  %two = xor <16 x i32> %one, %matrix
  store <16 x i32> %two, ptr %p3, align 64
  %i1 = add nuw nsw i64 %i, 16
  %more = icmp ult i64 %i1, 624
  br i1 %more, label %loop, label %done
done:
  ret void
}

define internal <8 x double> @fractions(ptr %words) alwaysinline nounwind {
  %x = load <16 x i32>, ptr %words, align 4
  %a = lshr <16 x i32> %x, splat (i32 11)
  %b = xor <16 x i32> %x, %a
  %c = shl <16 x i32> %b, splat (i32 7)
  %d = and <16 x i32> %c, splat (i32 -1658038656)
  %e = xor <16 x i32> %b, %d
  %f = shl <16 x i32> %e, splat (i32 15)
  %g = and <16 x i32> %f, splat (i32 -272236544)
  %h = xor <16 x i32> %e, %g
  %i = lshr <16 x i32> %h, splat (i32 18)
  %j = xor <16 x i32> %h, %i
  %pairs = bitcast <16 x i32> %j to <8 x i64>
  %moved = shl <8 x i64> %pairs, splat (i64 21)
  %high = and <8 x i64> %moved, splat (i64 9007199187632128)
  %low = lshr <8 x i64> %pairs, splat (i64 38)
  %both = or <8 x i64> %high, %low
  %value = uitofp <8 x i64> %both to <8 x double>
  %result = fmul <8 x double> %value, splat (double 0x3CA0000000000000)
  ret <8 x double> %result
}

define internal void @convert(ptr noalias %words, ptr noalias %out, i64 %count) nounwind #0 {
start:
  %rest = alloca <8 x double>, align 64
  br label %look
look:
  %i = phi i64 [ 0, %start ], [ %i1, %whole ]
  %two = shl nuw nsw i64 %i, 1
  %p = getelementptr inbounds i32, ptr %words, i64 %two
  %q = getelementptr inbounds double, ptr %out, i64 %i
  %i1 = add nuw nsw i64 %i, 8
  %enough = icmp sle i64 %i1, %count
  br i1 %enough, label %whole, label %end
whole:
  %values = call <8 x double> @fractions(ptr %p)
  store <8 x double> %values, ptr %q, align 8
  br label %look
end:
  %left = sub i64 %count, %i
  %none = icmp eq i64 %left, 0
  br i1 %none, label %done, label %few
few:
  %last = call <8 x double> @fractions(ptr %p)
  store <8 x double> %last, ptr %rest, align 64
  %bytes = shl i64 %left, 3
  call void @llvm.memcpy.p0.p0.i64(ptr %q, ptr %rest, i64 %bytes, i1 false)
  br label %done
done:
  ret void
}

define void @fill(ptr %key, ptr %out, i64 %count) nounwind #0 {
start:
  %place = getelementptr inbounds i32, ptr %key, i64 624
  %words = alloca [1264 x i32], align 64  ; a vector more: the last pairs are read together with what lies behind them
  %following = getelementptr inbounds i32, ptr %words, i64 624
  call void @llvm.memcpy.p0.p0.i64(ptr align 64 %words, ptr align 4 %key, i64 2496, i1 false)
  %first = load i32, ptr %place, align 4
  %begin = sext i32 %first to i64
  br label %go
go:
  %done = phi i64 [ 0, %start ], [ %after, %made ]
  %at = phi i64 [ %begin, %start ], [ %kept, %made ]
  %finished = icmp sge i64 %done, %count
  br i1 %finished, label %over, label %look
look:
  %empty = icmp sge i64 %at, 623
  br i1 %empty, label %refill, label %ready
refill:
  call void @twist(ptr %words)
  br label %ready
ready:
  %end = phi i64 [ 624, %look ], [ 1248, %refill ]
  %left = sub i64 %end, %at
  %pairs = lshr i64 %left, 1
  %wanted = sub i64 %count, %done
  %less = icmp slt i64 %pairs, %wanted
  %some = select i1 %less, i64 %pairs, i64 %wanted
  %source = getelementptr inbounds i32, ptr %words, i64 %at
  %target = getelementptr inbounds double, ptr %out, i64 %done
  call void @convert(ptr %source, ptr %target, i64 %some)
  %after = add i64 %done, %some
  %used = shl i64 %some, 1
  %now = add i64 %at, %used
  br i1 %empty, label %move, label %made
move:
  call void @llvm.memcpy.p0.p0.i64(ptr align 64 %words, ptr align 64 %following, i64 2496, i1 false)
  %back = sub i64 %now, 624
  br label %made
made:
  %kept = phi i64 [ %now, %ready ], [ %back, %move ]
  br label %go
over:
  call void @llvm.memcpy.p0.p0.i64(ptr align 4 %key, ptr align 64 %words, i64 2496, i1 false)
  %kept32 = trunc i64 %at to i32
  store i32 %kept32, ptr %place, align 4
  ret void
}

"""
