"""Uniform numbers from NumPy's Mersenne Twister, made some times as fast: the same numbers, from the same state.

The generator's state is NumPy's own, read and written in place under its lock, so that draws made here and draws made
by NumPy follow each other in one stream.

Reference: M. Matsumoto, T. Nishimura, "Mersenne twister", 1998; 53-bit fractions as in their genrand_res53.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from needle.compiler.cache import cached_object
from needle.compiler.host import host
from needle.compiler.native import compile_object, load_object

__all__ = ["fill_uniform"]


def fill_uniform(bit_generator: Any, out: NDArray[np.float64]) -> None:
    """Fill an array without gaps with what `bit_generator`, a NumPy MT19937, would draw from U[0, 1)."""
    with bit_generator.lock:
        _code().fill(bit_generator.ctypes.state_address, out.ctypes.data, out.size)


class _Code:
    def __init__(self) -> None:
        text = _TEXT + f'attributes #0 = {{ {host().attributes} "target-features"="{host().features}" }}\n'
        address, self.engine = load_object(cached_object(text, compile_object), "fill")
        self.fill = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)(address)


@cache
def _code() -> _Code:
    return _Code()


# The state: 624 words, then the position of the next one as a 32-bit integer. The loops are vectorised by LLVM: words
# depend on words at least 227 places away.
_TEXT = """
define internal i32 @mixed(i32 %this, i32 %next, i32 %far) alwaysinline nounwind {
  %upper = and i32 %this, -2147483648
  %lower = and i32 %next, 2147483647
  %y = or i32 %upper, %lower
  %half = lshr i32 %y, 1
  %bit = and i32 %y, 1
  %all = sub i32 0, %bit
  %matrix = and i32 %all, -1727483681
  %one = xor i32 %far, %half
  %two = xor i32 %one, %matrix
  ret i32 %two
}

define internal void @twist(ptr noalias %key) nounwind #0 {
start:
  br label %first
first:
  %i = phi i64 [ 0, %start ], [ %i1, %first ]
  %i1 = add nuw nsw i64 %i, 1
  %j = add nuw nsw i64 %i, 397
  %p0 = getelementptr inbounds i32, ptr %key, i64 %i
  %p1 = getelementptr inbounds i32, ptr %key, i64 %i1
  %p2 = getelementptr inbounds i32, ptr %key, i64 %j
  %a = load i32, ptr %p0, align 4
  %b = load i32, ptr %p1, align 4
  %c = load i32, ptr %p2, align 4
  %d = call i32 @mixed(i32 %a, i32 %b, i32 %c)
  store i32 %d, ptr %p0, align 4
  %more = icmp ult i64 %i1, 227
  br i1 %more, label %first, label %second
second:
  %k = phi i64 [ 227, %first ], [ %k1, %second ]
  %k1 = add nuw nsw i64 %k, 1
  %l = add nsw i64 %k, -227
  %q0 = getelementptr inbounds i32, ptr %key, i64 %k
  %q1 = getelementptr inbounds i32, ptr %key, i64 %k1
  %q2 = getelementptr inbounds i32, ptr %key, i64 %l
  %e = load i32, ptr %q0, align 4
  %f = load i32, ptr %q1, align 4
  %g = load i32, ptr %q2, align 4
  %h = call i32 @mixed(i32 %e, i32 %f, i32 %g)
  store i32 %h, ptr %q0, align 4
  %again = icmp ult i64 %k1, 623
  br i1 %again, label %second, label %last
last:
  %r0 = getelementptr inbounds i32, ptr %key, i64 623
  %r2 = getelementptr inbounds i32, ptr %key, i64 396
  %m = load i32, ptr %r0, align 4
  %n = load i32, ptr %key, align 4
  %o = load i32, ptr %r2, align 4
  %w = call i32 @mixed(i32 %m, i32 %n, i32 %o)
  store i32 %w, ptr %r0, align 4
  ret void
}

define internal i32 @tempered(i32 %x) alwaysinline nounwind {
  %a = lshr i32 %x, 11
  %b = xor i32 %x, %a
  %c = shl i32 %b, 7
  %d = and i32 %c, -1658038656
  %e = xor i32 %b, %d
  %f = shl i32 %e, 15
  %g = and i32 %f, -272236544
  %h = xor i32 %e, %g
  %i = lshr i32 %h, 18
  %j = xor i32 %h, %i
  ret i32 %j
}

define internal double @fraction(i32 %first, i32 %second) alwaysinline nounwind {
  %a = call i32 @tempered(i32 %first)
  %b = call i32 @tempered(i32 %second)
  %high = lshr i32 %a, 5
  %low = lshr i32 %b, 6
  %x = sitofp i32 %high to double
  %y = sitofp i32 %low to double
  %z = fmul double %x, 6.7108864e+07
  %sum = fadd double %z, %y
  %result = fmul double %sum, 0x3CA0000000000000
  ret double %result
}

define internal void @convert(ptr noalias %words, ptr noalias %out, i64 %count) nounwind #0 {
start:
  %some = icmp sgt i64 %count, 0
  br i1 %some, label %loop, label %done
loop:
  %i = phi i64 [ 0, %start ], [ %i1, %loop ]
  %two = shl nuw nsw i64 %i, 1
  %odd = or i64 %two, 1
  %p0 = getelementptr inbounds i32, ptr %words, i64 %two
  %p1 = getelementptr inbounds i32, ptr %words, i64 %odd
  %a = load i32, ptr %p0, align 4
  %b = load i32, ptr %p1, align 4
  %value = call double @fraction(i32 %a, i32 %b)
  %q = getelementptr inbounds double, ptr %out, i64 %i
  store double %value, ptr %q, align 8
  %i1 = add nuw nsw i64 %i, 1
  %more = icmp slt i64 %i1, %count
  br i1 %more, label %loop, label %done
done:
  ret void
}

define void @fill(ptr %key, ptr %out, i64 %count) nounwind #0 {
start:
  %place = getelementptr inbounds i32, ptr %key, i64 624
  br label %go
go:
  %done = phi i64 [ 0, %start ], [ %after, %block ], [ %after_one, %across ]
  %finished = icmp sge i64 %done, %count
  br i1 %finished, label %over, label %look
look:
  %pos = load i32, ptr %place, align 4
  %empty = icmp sge i32 %pos, 624
  br i1 %empty, label %refill, label %ready
refill:
  call void @twist(ptr %key)
  store i32 0, ptr %place, align 4
  br label %ready
ready:
  %now = phi i32 [ %pos, %look ], [ 0, %refill ]
  %single = icmp eq i32 %now, 623
  br i1 %single, label %across, label %block
across:
  %last = getelementptr inbounds i32, ptr %key, i64 623
  %x = load i32, ptr %last, align 4
  call void @twist(ptr %key)
  %y = load i32, ptr %key, align 4
  %one = call double @fraction(i32 %x, i32 %y)
  %target_one = getelementptr inbounds double, ptr %out, i64 %done
  store double %one, ptr %target_one, align 8
  store i32 1, ptr %place, align 4
  %after_one = add i64 %done, 1
  br label %go
block:
  %wide = sext i32 %now to i64
  %left = sub i64 624, %wide
  %pairs = lshr i64 %left, 1
  %wanted = sub i64 %count, %done
  %less = icmp slt i64 %pairs, %wanted
  %made = select i1 %less, i64 %pairs, i64 %wanted
  %words = getelementptr inbounds i32, ptr %key, i64 %wide
  %target = getelementptr inbounds double, ptr %out, i64 %done
  call void @convert(ptr %words, ptr %target, i64 %made)
  %used = shl i64 %made, 1
  %moved = add i64 %wide, %used
  %moved32 = trunc i64 %moved to i32
  store i32 %moved32, ptr %place, align 4
  %after = add i64 %done, %made
  br label %go
over:
  ret void
}

"""
