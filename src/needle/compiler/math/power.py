"""x to the power y, 2^(y log₂ x), with a logarithm that has more digits than the result.

In single precision it is computed in double precision, to 33 bits; in double precision as a sum of two doubles.
"""

from __future__ import annotations

import math

from needle.compiler.math.coefficients import COEFFICIENTS, LN2, LOG2_E
from needle.compiler.math.exponential import exp_tail, scaled_exp
from needle.compiler.math.logarithm import split
from needle.compiler.math.value import (
    DOUBLE,
    SINGLE,
    Value,
    absolute,
    bits,
    clamp,
    fast_two_sum,
    fma,
    number,
    polynomial,
    rint,
    select,
    to_format,
)

__all__ = ["power"]


def power(x: Value, y: Value) -> Value:
    """Return xʸ, with the special values of IEEE 754's pow."""
    a = absolute(x)
    magnitude = magnitude_double(a, y) if x.format is DOUBLE else magnitude_single(a, y)
    magnitude = select(a.equals(1.0), 1.0, with_extremes(magnitude, a, y))
    half = y * 0.5
    whole = y.equals(rint(y))
    odd = half.differs(rint(half))
    sign = select(odd, bits(x) & x.format.sign_bit, 0)
    signed = number(bits(magnitude) | select(whole, sign, 0))
    below_zero = select(x < 0.0, select(x > -math.inf, x.of_same_type(math.nan), magnitude), magnitude)
    result = select(whole, signed, below_zero)
    result = select(x.unordered(y), x + y, result)
    return select(y.equals(0.0), 1.0, select(x.equals(1.0), 1.0, result))


def with_extremes(magnitude: Value, a: Value, y: Value) -> Value:
    """Return the power, or its limit where y is infinite or a is 0 or infinite."""
    grows = number(bits(a - 1.0) ^ (bits(y) & y.format.sign_bit)) > 0.0
    limit = select(grows, math.inf, a.of_same_type(0.0))
    extreme_base = select(a.equals(0.0), a.of_same_type(math.inf), a)
    largest = select(extreme_base > absolute(y), extreme_base, absolute(y))
    return select(largest.equals(math.inf), limit, magnitude)


def magnitude_single(a: Value, y: Value) -> Value:
    """Return aʸ of float32 numbers, a positive and finite, by a logarithm in double precision."""
    e, f = (to_format(part, DOUBLE) for part in split(a))
    log2 = fma(f, polynomial(f, COEFFICIENTS["LOG2", "float64"]), e)
    t = clamp(to_format(y, DOUBLE) * log2, -151.0, 129.0)
    n = (t + DOUBLE.rounder) - DOUBLE.rounder
    r = to_format(t - n, SINGLE) * LN2["float32"][0]
    return scaled_exp(exp_tail(r, r), to_format(n, SINGLE) + (SINGLE.rounder + 2 * SINGLE.bias))


def magnitude_double(a: Value, y: Value) -> Value:
    """Return aʸ of float64 numbers, a positive and finite."""
    high, low = log2_in_two(a)
    t = y * high
    rest = fma(y, high, -t) + y * low
    limited = clamp(t, -1076.0, 1025.0)
    rest = select(limited.equals(t), rest, 0.0)
    rounder = DOUBLE.rounder + 2 * DOUBLE.bias
    shifted = limited + rounder
    r = limited - (shifted - rounder)
    ln2, ln2_low = LN2["float64"]
    r = fma(r, ln2, fma(r, ln2_low, rest * ln2))
    return scaled_exp(exp_tail(r, r), shifted)


def log2_in_two(a: Value) -> tuple[Value, Value]:
    """Return log₂ a as a sum of two doubles, right to about 66 bits.

    log(1 + f) = 2 atanh s with s = f / (2 + f); s, s³/3 and the product with 2 / log 2 are kept as sums of two.
    """
    e, f = split(a)
    below = f + 2.0
    s = f / below
    below_low = f - (below - 2.0)
    s_low = fma(-s, below_low, fma(-s, below, f)) / below
    z = s * s
    z_low = fma(s, s, -z) + 2.0 * (s * s_low)
    cube = s * z
    cube_low = fma(s, z, -cube) + fma(s, z_low, s_low * z)
    third = cube * (1 / 3)
    third_low = fma(cube, 1 / 3, -third) + fma(cube_low, 1 / 3, cube * _THIRD_LOW)
    tail = cube * z * polynomial(z, COEFFICIENTS["ATANH", "float64"])
    total, lost = fast_two_sum(s, third)
    total, total_low = fast_two_sum(total, lost + (s_low + (third_low + tail)))
    scale, scale_low = (2.0 * part for part in LOG2_E["float64"])
    product = total * scale
    product_low = fma(total, scale, -product) + fma(total, scale_low, total_low * scale)
    high, lost = fast_two_sum(select(e.equals(0.0), product, e), select(e.equals(0.0), e, product))
    return high, lost + product_low


_THIRD_LOW = 1 / 3 * 2.0**-54  # 1/3 less its double: (1/3) 2⁻⁵⁴ exactly
