"""exp, exp2, expm1, and what is made of them: tanh, sinh, cosh, erf.

All rest on x = n ln 2 + r with |r| ≤ ln 2 / 2, so that eˣ = 2ⁿ eʳ (W. J. Cody, W. Waite, "Software Manual for the
Elementary Functions", 1980): a polynomial gives eʳ − 1 with all its digits near 0, and 2ⁿ is made of exponent bits.
"""

from __future__ import annotations

from dataclasses import dataclass

from needle.compiler.math.coefficients import COEFFICIENTS, LN2, TWO_OVER_ROOT_PI
from needle.compiler.math.value import (
    DOUBLE,
    Format,
    Value,
    absolute,
    bits,
    clamp,
    copysign,
    fma,
    number,
    polynomial,
    select,
)

__all__ = ["cosh", "erf", "exp", "exp2", "expm1", "scaled_exp", "sinh", "tanh"]


@dataclass(frozen=True, slots=True)
class Reduced:
    """x = n ln 2 + r: eʳ − 1, and the sum whose low bits hold n + `offset`."""

    expm1: Value
    shifted: Value


def reduce(x: Value, offset: int) -> Reduced:
    """Split x = n ln 2 + r. The first product's error is none, the second's is below r's last digit."""
    high, low = LN2[x.format.dtype]
    rounder = x.format.rounder + offset
    shifted = fma(x, 1 / high, rounder)
    n = shifted - rounder
    r = fma(n, -low, fma(n, -high, x))
    return Reduced(expm1_near_zero(r), shifted)


def expm1_near_zero(r: Value) -> Value:
    """Return eʳ − 1 = r + r² q(r) for |r| ≤ ln 2 / 2."""
    return fma(r * r, polynomial(r, COEFFICIENTS["EXP", r.format.dtype]), r)


def power_of_two(shifted: Value) -> Value:
    """Return 2ⁿ, where the low bits hold n + bias: they are the exponent's bits."""
    return number(bits(shifted) << shifted.format.fraction)


def scaled_exp(p: Value, shifted: Value) -> Value:
    """Return 2ⁿ (1 + p), where the low bits of `shifted` hold n + 2 bias.

    In two steps, 2^⌊n/2⌋ and the rest, so that neither leaves the format where only the product does: the last
    multiplication is the only one that rounds a subnormal result, or that overflows.
    """
    whole = bits(shifted)
    half = whole >> 1
    first, second = (number(one << p.format.fraction) for one in (half, whole - half))
    return fma(first, p, first) * second


def exp(x: Value) -> Value:
    """Return eˣ."""
    limits = (-746.0, 710.0) if x.format is DOUBLE else (-104.0, 89.0)
    reduced = reduce(clamp(x, *limits), offset=2 * x.format.bias)
    return scaled_exp(reduced.expm1, reduced.shifted)


def exp2(x: Value) -> Value:
    """Return 2ˣ: x less its nearest integer is exact, and times ln 2 it is the r of the exponential."""
    limits = (-1076.0, 1025.0) if x.format is DOUBLE else (-151.0, 129.0)
    x = clamp(x, *limits)
    rounder = x.format.rounder + 2 * x.format.bias
    shifted = x + rounder
    rest = x - (shifted - rounder)
    high, low = LN2[x.format.dtype]
    return scaled_exp(expm1_near_zero(fma(rest, high, rest * low)), shifted)


def expm1(x: Value) -> Value:
    """Return eˣ − 1; half of it is what is computed, as 2ⁿ may overflow sooner."""
    limits = (-40.0, 710.0) if x.format is DOUBLE else (-18.0, 89.0)
    return odd(2.0 * fraction_of_expm1(clamp(x, *limits), halvings=1), x)


def fraction_of_expm1(x: Value, halvings: int = 0) -> Value:
    """Return (eˣ − 1) / 2^halvings = s (eʳ − 1) + (s − 2^−halvings), s = 2^(n − halvings).

    For x not below −40 (−18 in single precision), where the function is −1 to the last digit.
    """
    reduced = reduce(x, offset=x.format.bias - halvings)
    scale = power_of_two(reduced.shifted)
    return fma(scale, reduced.expm1, scale - 2.0**-halvings)


def odd(y: Value, x: Value) -> Value:
    """Return y with the sign of x; near 0, where parts of y lose digits as subnormal numbers, it is x."""
    return select(absolute(x) < 4.0 * x.format.least_normal, x, copysign(y, x))


def tanh(x: Value) -> Value:
    """Return tanh x = h / (h + 1), h = (e²ᵃ − 1) / 2 with a = |x|; from a = 20 (10) on it is 1 to the last digit.

    The quotient is corrected for what was rounded off h + 1, which would cost a last digit.
    """
    a = clamp(absolute(x), None, 20.0 if x.format is DOUBLE else 10.0)
    half = 0.5 * fraction_of_expm1(a + a)
    below = half + 1.0
    lost = half - (below - 1.0)
    inverse = 1.0 / below
    quotient = half * inverse
    return odd(fma(inverse, fma(-quotient, below, half) - quotient * lost, quotient), x)


def sinh(x: Value) -> Value:
    """Return sinh x = (E + E / (E + 1)) / 2, E = e^|x| − 1. E/4 is what is computed: E itself may overflow sooner."""
    quarter = fraction_of_expm1(clamp(absolute(x), None, largest_hyperbolic(x.format)), halvings=2)
    return odd(2.0 * (quarter + quarter / fma(quarter, 4.0, 1.0)), x)


def cosh(x: Value) -> Value:
    """Return cosh x = h + 1 / (4 h), h = e^|x| / 2."""
    reduced = reduce(clamp(absolute(x), None, largest_hyperbolic(x.format)), offset=x.format.bias - 2)
    scale = power_of_two(reduced.shifted)
    half = 2.0 * fma(scale, reduced.expm1, scale)
    return half + 0.25 / half


def largest_hyperbolic(of: Format) -> float:
    """Return a number whose hyperbolic sine and cosine overflow."""
    return 710.6 if of is DOUBLE else 89.5


def erf(x: Value) -> Value:
    """Return erf x = 1 − exp(−u(a)) with the sign of x, a = |x| and u(a) = 2/√π a + a² q(a).

    u is −log(erfc a), which is smooth: one polynomial serves near 0, where all digits of u matter, and far out, where
    few do. At a = 6 (4) the function is 1 to the last digit.
    """
    a = clamp(absolute(x), None, 6.0 if x.format is DOUBLE else 4.0)
    high, low = TWO_OVER_ROOT_PI[x.format.dtype]
    u = fma(a, high, fma(a * a, polynomial(a, COEFFICIENTS["ERF", x.format.dtype]), a * low))
    return copysign(fraction_of_expm1(-u), x)
