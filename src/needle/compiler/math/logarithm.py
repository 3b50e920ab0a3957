"""log, log2, log10, log1p.

All rest on x = 2ᵉ (1 + f) with √½ ≤ 1 + f < √2, so that log x = e log 2 + log(1 + f), and near x = 1 e is 0 and f
exact: no digits cancel.
"""

from __future__ import annotations

import math

from needle.compiler.math.coefficients import COEFFICIENTS, LN2, LOG2_E, LOG10_2, LOG10_E
from needle.compiler.math.value import Format, Value, bits, copysign, fma, number, polynomial, select

__all__ = ["log", "log1p", "log2", "log10", "log_near_one", "split"]

_ROOT_HALF = {"float32": 0x3F3504F3, "float64": 0x3FE6A09E667F3BCD}  # bits of √½


def split(x: Value) -> tuple[Value, Value]:
    """Return e and f of a positive x = 2ᵉ (1 + f); something finite for others."""
    of = x.format
    lift = of.fraction + 2
    subnormal = x < of.least_normal
    biased, m = exponent_and_mantissa(select(subnormal, x * 2.0**lift, x))
    offset = 2.0**of.fraction + of.bias
    e = number(biased | integer_bits(of)) - select(subnormal, offset + lift, x.of_same_type(offset))
    return e, m - 1.0


def exponent_and_mantissa(x: Value) -> tuple[Value, Value]:
    """Return e + bias as an integer, and 1 + f, of a normal x = 2ᵉ (1 + f).

    With the bits of √½ taken off and those of 1 added, the exponent's bits count from √½ and not from 1.
    """
    of, root_half = x.format, _ROOT_HALF[x.format.dtype]
    one = of.bias << of.fraction
    moved = bits(x) + (one - root_half)
    return moved >> of.fraction, number((moved & ((1 << of.fraction) - 1)) + root_half)


def integer_bits(of: Format) -> int:
    """Return the bits of 2^fraction: with a small integer in the low bits, they are those of 2^fraction + integer."""
    return (of.bias + of.fraction) << of.fraction


def log_near_one(f: Value) -> Value:
    """Return log(1 + f) − f = −f²/2 + f³ q(f)."""
    return f * f * fma(f, polynomial(f, COEFFICIENTS["LOG", f.format.dtype]), -0.5)


def with_limits(y: Value, x: Value, pole: float) -> Value:
    """Return y, or what a logarithm is at its pole (−Inf), below it (NaN), at infinity and NaN (the same)."""
    beyond = select(x.equals(pole), -math.inf, x.of_same_type(math.nan))
    return select(x < math.inf, select(x > pole, y, beyond), x)


def log(x: Value) -> Value:
    """Return log x, to base e."""
    e, f = split(x)
    return with_limits(natural(e, f), x, 0.0)


def natural(e: Value, f: Value) -> Value:
    """Return e log 2 + log(1 + f)."""
    high, low = LN2[f.format.dtype]
    return fma(e, high, f + fma(e, low, log_near_one(f)))


def log2(x: Value) -> Value:
    """Return log x to base 2, exact for powers of 2."""
    e, f = split(x)
    high, low = LOG2_E[x.format.dtype]
    return with_limits(e + fma(f, high, fma(f, low, log_near_one(f) * high)), x, 0.0)


def log10(x: Value) -> Value:
    """Return log x to base 10."""
    e, f = split(x)
    high, low = LOG10_E[x.format.dtype]
    two_high, two_low = LOG10_2[x.format.dtype]
    small = fma(e, two_low, fma(f, low, log_near_one(f) * high))
    return with_limits(fma(e, two_high, fma(f, high, small)), x, 0.0)


def log1p(x: Value) -> Value:
    """Return log(1 + x).

    1 + x rounded gives e; f = 2⁻ᵉ x + (2⁻ᵉ − 1) is then rounded once, and where e = 0 it is x itself.
    """
    of = x.format
    biased, _ = exponent_and_mantissa(x + 1.0)
    scale = number((2 * of.bias + 2 - biased) << of.fraction)  # 4 · 2⁻ᵉ, which is never subnormal
    f = select(biased.equals(of.bias), x, fma(scale, x * 0.25, fma(scale, 0.25, -1.0)))
    e = number(biased | integer_bits(of)) - (2.0**of.fraction + of.bias)
    return with_limits(copysign(natural(e, f), x), x, -1.0)
