"""sin, cos, tan for every finite number, arctan, arctan2.

An angle is first counted in turns, x / 2π, of which only the fraction matters. For a large x the first digits of 1 / 2π
contribute whole turns, and so they are left out; those that follow are multiplied exactly (M. Payne, R. Hanek,
"Radian reduction for trigonometric functions", 1983). The exponent of x chooses among a few windows of digits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from needle.compiler.ir import constant
from needle.compiler.math.coefficients import (
    COEFFICIENTS,
    HALF_PI,
    INVERSE_TAU_BITS,
    INVERSE_TAU_LENGTH,
    PI,
    TAU,
)
from needle.compiler.math.value import (
    DOUBLE,
    SINGLE,
    Value,
    absolute,
    bits,
    copysign,
    fast_two_sum,
    fma,
    load,
    number,
    polynomial,
    rint,
    select,
    to_format,
    two_sum,
)

__all__ = ["arctan", "arctan2", "constants", "cos", "sin", "tan"]

_WINDOW = 26  # exponents of a float32 that share a window of digits
_SECOND_WINDOW_SINGLE = 51  # its least exponent: the first bit that it keeps gives half turns and no whole one


def digits_of_inverse_tau(first: int, scale: int = 0) -> float:
    """Return 53 bits of 1 / 2π, from number `first` after the point on, times 2^scale."""
    last = first + 52
    chunk = (INVERSE_TAU_BITS >> (INVERSE_TAU_LENGTH - last)) & ((1 << 53) - 1)
    return math.ldexp(chunk, scale - last)


def window_of_single(number_of_window: int) -> tuple[float, float]:
    """Return the 106 bits of 1 / 2π that matter to float32 numbers of a window, as two doubles."""
    first = max(1, _SECOND_WINDOW_SINGLE + _WINDOW * (number_of_window - 1) - SINGLE.fraction + 1)
    return digits_of_inverse_tau(first), digits_of_inverse_tau(first + 53)


def reduce_single(a: Value) -> tuple[Value, Value]:
    """Return r (a double) with |r| ≤ π/4 and an integer n, a = n π/2 + r up to whole turns, for a float32 a ≥ 0.

    In double precision: a times the window's first half is a sum of two doubles, of which the larger has its whole
    turns taken off without an error.
    """
    wide = to_format(a, DOUBLE)
    high, low = (wide.of_same_type(part) for part in window_of_single(0))
    for window in (1, 2, 3):
        inside = wide >= 2.0 ** (_SECOND_WINDOW_SINGLE + _WINDOW * (window - 1))
        high, low = (select(inside, *pair) for pair in zip(window_of_single(window), (high, low), strict=True))
    turns = wide * high
    rest = fma(wide, low, fma(wide, high, -turns))
    fraction = turns - rint(turns)
    shifted = fma(fraction + rest, 4.0, DOUBLE.rounder)
    reduced = fma(shifted - DOUBLE.rounder, -0.25, fraction) + rest
    return reduced * TAU["float64"][0], to_format(bits(shifted), SINGLE)


def sine_near_zero(r: Value) -> Value:
    """Return sin r for |r| ≤ π/4."""
    z = r * r
    return fma(r * z, polynomial(z, COEFFICIENTS["SIN", r.format.dtype]), r)


def cosine_near_zero(r: Value) -> Value:
    """Return cos r for |r| ≤ π/4."""
    z = r * r
    return fma(z, fma(z, polynomial(z, COEFFICIENTS["COS", r.format.dtype]), -0.5), 1.0)


def wave_single(x: Value, quarters: int) -> Value:
    """Return sin(|x| + quarters π/2)."""
    wide, quarter = reduce_single(absolute(x))
    r, quarter = to_format(wide, SINGLE), quarter + quarters
    return flipped(select((quarter & 1).equals(0), sine_near_zero(r), cosine_near_zero(r)), quarter)


def flipped(y: Value, quarter: Value) -> Value:
    """Return −y where bit 1 of `quarter` is set, else y."""
    sign = (quarter << (30 if y.format is SINGLE else 62)) & y.format.sign_bit
    return number(bits(y) ^ sign)


def with_sign_of(x: Value, y: Value) -> Value:
    """Return y, or −y where x is negative."""
    return number(bits(y) ^ (bits(x) & x.format.sign_bit))


def sin(x: Value) -> Value:
    """Return sin x."""
    return with_sign_of(x, wave_double(x, 0) if x.format is DOUBLE else wave_single(x, 0))


def cos(x: Value) -> Value:
    """Return cos x = sin(x + π/2)."""
    return wave_double(x, 1) if x.format is DOUBLE else wave_single(x, 1)


def tan(x: Value) -> Value:
    """Return tan x, which is −1 / tan r after an odd number of quarter turns."""
    if x.format is DOUBLE:
        return tan_double(x)
    wide, quarter = reduce_single(absolute(x))
    r = to_format(wide, SINGLE)
    lost = to_format(wide - to_format(r, DOUBLE), SINGLE)
    z = r * r
    near = r + fma(r * z, polynomial(z, COEFFICIENTS["TAN", "float32"]), fma(z, lost, lost))
    return with_sign_of(x, select((quarter & 1).equals(0), near, -1.0 / near))


# ------------------------------------------------------------------------------------------- double precision

_STEP = 32  # exponents of a float64 that share a window
_SECOND_WINDOW = 55  # the exponent where the second window begins; each further one leaves out 32 bits more
_WINDOWS = 32
_FIRST_BIT = 3  # the first bit of 1 / 2π that is set
_TABLE = "@needle.inverse_tau"


def constants() -> str:
    """Return the table of windows as LLVM's text: four doubles each, scaled by 2^(32 window)."""
    parts = [
        digits_of_inverse_tau(_FIRST_BIT + _STEP * window + 53 * part, _STEP * window)
        for window in range(_WINDOWS)
        for part in range(4)
    ]
    written = ", ".join(f"double {constant(part, np.dtype(np.float64))}" for part in parts)
    return f"{_TABLE} = internal unnamed_addr constant [{len(parts)} x double] [{written}], align 64"


def two_product(a: Value, b: Value) -> tuple[Value, Value]:
    """Return a b rounded, and what the rounding took."""
    product = a * b
    return product, fma(a, b, -product)


def fraction(a: Value) -> Value:
    """Return a less the nearest integer, without an error."""
    return a - rint(a)


def turns(a: Value) -> tuple[Value, Value, Value]:
    """Return w + v, |w| ≤ 1/8, and what holds n in its low bits: a / 2π = w + v + n/4 up to whole turns."""
    exponent = bits(a) >> DOUBLE.fraction
    beyond = exponent - (DOUBLE.bias + _SECOND_WINDOW)
    window = select(beyond < 0, 0, beyond) >> 5
    a = number(bits(a) - (window << (DOUBLE.fraction + 5)))
    parts = [load(_TABLE, DOUBLE, (window << 2) + part) for part in range(4)]
    first, after_first = two_product(a, parts[0])
    second, after_second = two_product(a, parts[1])
    third, after_third = two_product(a, parts[2])
    one, two, three = fraction(first), fraction(after_first), fraction(second)
    shifted = fma(one + two + three, 4.0, DOUBLE.rounder)
    total, lost = two_sum(fma(shifted - DOUBLE.rounder, -0.25, one), two)
    total, lost_too = two_sum(total, three)
    rest = lost + lost_too + (after_second + third) + fma(a, parts[3], after_third)
    w = total + rest
    return w, rest - (w - total), bits(shifted)


def reduce_double(a: Value) -> tuple[Value, Value, Value]:
    """Return r + s with |r| ≤ π/4 and an integer n, a = n π/2 + r + s up to whole turns, for a float64 a ≥ 0."""
    w, v, quarter = turns(a)
    high, low = TAU["float64"]
    r = w * high
    s = fma(w, high, -r) + fma(w, low, v * high)
    tiny = a < 2.0**-27  # where 1 / 2π times a may be subnormal, and the sine is a itself
    return select(tiny, a, r), select(tiny, 0.0, s), select(tiny, 0, quarter)


def sine_double(r: Value, s: Value) -> tuple[Value, Value]:
    """Return sin(r + s), and what its rounding took, for |r| ≤ π/4 and s below r's last digit."""
    z = r * r
    return fast_two_sum(r, fma(r * z, polynomial(z, COEFFICIENTS["SIN", "float64"]), s * fma(z, -0.5, 1.0)))


def cosine_double(r: Value, s: Value) -> tuple[Value, Value]:
    """Return cos(r + s), and what its rounding took."""
    z = r * r
    half = z * 0.5
    head, lost = fast_two_sum(r.of_same_type(1.0), -half)
    return fast_two_sum(head, lost + fma(z * z, polynomial(z, COEFFICIENTS["COS", "float64"]), -(r * s)))


def wave_double(x: Value, quarters: int) -> Value:
    """Return sin(|x| + quarters π/2)."""
    a = absolute(x)
    r, s, quarter = reduce_double(a)
    quarter = quarter + quarters
    y = flipped(select((quarter & 1).equals(0), sine_double(r, s)[0], cosine_double(r, s)[0]), quarter)
    return select(a < math.inf, y, x - x)


def tan_double(x: Value) -> Value:
    """Return tan x = sin x / cos x, or −cos x / sin x after an odd number of quarter turns.

    The quotient is corrected for what the rounding of both took.
    """
    a = absolute(x)
    r, s, quarter = reduce_double(a)
    even = (quarter & 1).equals(0)
    sine, cosine = sine_double(r, s), cosine_double(r, s)
    above, above_lost = (select(even, *parts) for parts in zip(sine, cosine, strict=True))
    below, below_lost = (select(even, *parts) for parts in zip(cosine, sine, strict=True))
    inverse = 1.0 / below
    quotient = above * inverse
    lost = fma(-quotient, below, above) + (above_lost - quotient * below_lost)
    y = fma(lost, inverse, quotient)
    y = select(even, y, -y)
    return select(a < math.inf, with_sign_of(x, y), x - x)


# ---------------------------------------------------------------------------------------------------- inverse


def arctan_to_one(t: Value) -> Value:
    """Return arctan t − t for 0 ≤ t ≤ 1."""
    z = t * t
    return t * z * polynomial(z, COEFFICIENTS["ARCTAN", t.format.dtype])


def arctan(x: Value) -> Value:
    """Return arctan x, which is π/2 − arctan(1/x) beyond 1."""
    a = absolute(x)
    beyond = a > 1.0
    t = select(beyond, 1.0, a) / select(beyond, a, a.of_same_type(1.0))
    base = [select(beyond, part, a.of_same_type(0.0)) for part in HALF_PI[x.format.dtype]]
    return copysign(angle_from(base, t, beyond), x)


def angle_from(base: Sequence[Value], t: Value, backward: Value) -> Value:
    """Return base + arctan t, or base − arctan t where `backward`, 0 ≤ t ≤ 1; the smaller parts are added first."""
    high, low = base
    rest = arctan_to_one(t)
    step, step_rest = select(backward, -t, t), select(backward, -rest, rest)
    return high + (step + (step_rest + low))


def arctan2(y: Value, x: Value) -> Value:
    """Return the angle of the point (x, y), between −π and π, counted from the axis that is nearest."""
    a, b = absolute(x), absolute(y)
    steep, left = b > a, bits(x) < 0
    large, small = select(steep, b, a), select(steep, a, b)
    ratio = select(large.equals(small), 1.0, small / large)
    ratio = select(large.equals(0.0), 0.0, ratio)
    parts = zip(HALF_PI[x.format.dtype], PI[x.format.dtype], strict=True)
    base = [select(steep, upright, select(left, flat, a.of_same_type(0.0))) for upright, flat in parts]
    angle = copysign(angle_from(base, ratio, steep ^ left), y)
    return select(x.unordered(y), x + y, angle)
