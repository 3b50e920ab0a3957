"""The clock in machine code: `@now` returns nanoseconds, for programs that are timed and for workers that wait."""

from __future__ import annotations

import time

__all__ = ["clock_code"]

_TEXT = """
declare i32 @clock_gettime(i32, ptr)

define internal i64 @now() nounwind noinline {{
  %time = alloca [2 x i64], align 8
  %ignored = call i32 @clock_gettime(i32 {clock}, ptr %time)
  %more = getelementptr i64, ptr %time, i64 1
  %seconds = load i64, ptr %time, align 8
  %rest = load i64, ptr %more, align 8
  %scaled = mul i64 %seconds, 1000000000
  %now = add i64 %scaled, %rest
  ret i64 %now
}}"""


def clock_code() -> str:
    """Return the function as LLVM's text."""
    return _TEXT.format(clock=time.CLOCK_MONOTONIC)
