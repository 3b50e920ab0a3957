"""exp, exp2, expm1, and what is made of them: tanh, sinh, cosh, erf.

All rest on x = n ln 2 + r with |r| ≤ ln 2 / 2, so that eˣ = 2ⁿ eʳ (W. J. Cody, W. Waite, "Software Manual for the
Elementary Functions", 1980): a polynomial gives eʳ − 1 with all its digits near 0, and 2ⁿ is made of exponent bits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from needle.compiler.math.coefficients import COEFFICIENTS, LN2, TWO_OVER_ROOT_PI
from needle.compiler.math.value import (
    DOUBLE,
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
    """x = n ln 2 + r + s: the number r, the little s that it lacks, the sum whose low bits hold n + `offset`."""

    r: Value
    s: Value
    shifted: Value


def reduce(x: Value, offset: int) -> Reduced:
    """Split x = n ln 2 + r + s. The first product less x is exact."""
    high, low = LN2[x.format.dtype]
    rounder = x.format.rounder + offset
    shifted = fma(x, 1 / high, rounder)
    n = shifted - rounder
    rough = fma(n, -high, x)
    r = fma(n, -low, rough)
    return Reduced(r, fma(n, -low, rough - r), shifted)


def exp_tail(r: Value, more: float | Value) -> Value:
    """Return eʳ − 1 − r + more = r² q(r) + more for |r| ≤ ln 2 / 2."""
    return fma(r * r, polynomial(r, COEFFICIENTS["EXP", r.format.dtype]), more)


def power_of_two(shifted: Value) -> Value:
    """Return 2ⁿ, where the low bits hold n + bias: they are the exponent's bits."""
    return number(bits(shifted) << shifted.format.fraction)


def scaled_exp(p: Value, shifted: Value) -> Value:
    """Return 2ⁿ (1 + p), where the low bits of `shifted` hold n + 2 bias.

    In two steps, 2^⌊n/2⌋ and the rest, so that neither leaves the format where only the product does: the last
    multiplication is the only one that rounds a subnormal result, or that overflows. From n = −2 bias, the least n that
    there may be, both are 0, and so is the result: far out it is not computed as a subnormal number that rounds to 0,
    which takes processors several times as long. What an attention hides has such exponents.
    """
    whole = bits(shifted)
    half = whole >> 1
    first, second = (number(one << p.format.fraction) for one in (half, whole - half))
    return fma(first, p, first) * second


def exp(x: Value) -> Value:
    """Return eˣ."""
    lowest = -2 * x.format.bias * math.log(2)
    reduced = reduce(clamp(x, lowest, 710.0 if x.format is DOUBLE else 89.0), offset=2 * x.format.bias)
    return scaled_exp(exp_tail(reduced.r, reduced.r), reduced.shifted)


def exp2(x: Value) -> Value:
    """Return 2ˣ: x less its nearest integer is exact, and times ln 2 it is the r of the exponential."""
    x = clamp(x, -2.0 * x.format.bias, 1025.0 if x.format is DOUBLE else 129.0)
    rounder = x.format.rounder + 2 * x.format.bias
    shifted = x + rounder
    rest = x - (shifted - rounder)
    high, low = LN2[x.format.dtype]
    r = fma(rest, high, rest * low)
    return scaled_exp(exp_tail(r, r), shifted)


def expm1(x: Value) -> Value:
    """Return eˣ − 1; half of it is what is computed, as 2ⁿ may overflow sooner."""
    limits = (-40.0, 710.0) if x.format is DOUBLE else (-18.0, 89.0)
    y = copysign(2.0 * fraction_of_expm1(clamp(x, *limits), halvings=1), x)
    return select(absolute(x) < 4.0 * x.format.least_normal, x, y)  # where half of it may be subnormal


def fraction_of_expm1(x: Value, halvings: int = 0) -> Value:
    """Return (eˣ − 1) / 2^halvings = t + k r + (k − 2^−halvings), k = 2^(n − halvings) and t = k (eʳ − 1 − r).

    The small t is added last. For x not below −40 (−18 in single precision): there, it is −1 to the last digit.
    """
    reduced = reduce(x, offset=x.format.bias - halvings)
    scale = power_of_two(reduced.shifted)
    linear = fma(scale, reduced.r, scale - 2.0**-halvings)
    return fma(scale, exp_tail(reduced.r, reduced.s), linear)


def tanh(x: Value) -> Value:
    """Return tanh x = 1 − 2 / (e²ᵃ + 1), a = |x|, and below 0.55 a polynomial. From a = 20 (10) on it is 1."""
    a = clamp(absolute(x), None, 20.0 if x.format is DOUBLE else 10.0)
    far = 1.0 - 2.0 / (fraction_of_exp(a + a) + 1.0)
    return copysign(select(a < 0.55, odd_polynomial(a, "TANH"), far), x)


def odd_polynomial(x: Value, name: str) -> Value:
    """Return x + x³ q(x²)."""
    z = x * x
    return fma(x * z, polynomial(z, COEFFICIENTS[name, x.format.dtype]), x)


def fraction_of_exp(x: Value, halvings: int = 0) -> Value:
    """Return eˣ / 2^halvings, for x where neither is subnormal nor overflows."""
    reduced = reduce(x, offset=x.format.bias - halvings)
    scale = power_of_two(reduced.shifted)
    return fma(scale, exp_tail(reduced.r, reduced.r), scale)


def half_exp_of_size(x: Value) -> Value:
    """Return e^|x| / 2, which overflows only where the hyperbolic sine and cosine do."""
    return 2.0 * fraction_of_exp(clamp(absolute(x), None, 710.6 if x.format is DOUBLE else 89.5), halvings=2)


def sinh(x: Value) -> Value:
    """Return sinh x = h − 1 / (4 h), h = e^|x| / 2, and below 1 a polynomial."""
    half, a = half_exp_of_size(x), absolute(x)
    return copysign(select(a < 1.0, odd_polynomial(a, "SINH"), half - 0.25 / half), x)


def cosh(x: Value) -> Value:
    """Return cosh x = h + 1 / (4 h), h = e^|x| / 2."""
    half = half_exp_of_size(x)
    return half + 0.25 / half


def erf(x: Value) -> Value:
    """Return erf x, which is 1 to the last digit from |x| = 6 (4) on."""
    return _erf_by_exponent(x) if x.format is DOUBLE else _erf_by_power(x)


def _erf_by_exponent(x: Value) -> Value:
    """Return 1 − exp(−u(a)) with the sign of x, a = |x| and u(a) = 2/√π a + a² q(a).

    u is −log(erfc a), which is smooth: one polynomial serves near 0, where all digits of u matter, and far out, where
    few do.
    """
    a = clamp(absolute(x), None, 6.0)
    high, low = TWO_OVER_ROOT_PI[x.format.dtype]
    u = fma(a, high, fma(a * a, polynomial(a, COEFFICIENTS["ERF", x.format.dtype]), a * low))
    return copysign(fraction_of_expm1(-u), x)


def _erf_by_power(x: Value) -> Value:
    """Return x + x q(x²) below 1.15, and from there on 1 − q(a)⁸ with the sign of x, a = |x|: erfc a is 0.1 and less.

    The polynomials are of one degree, so that choosing their coefficients is all that it takes to have both: it costs
    no multiplication.
    """
    a = clamp(absolute(x), None, 3.95)
    is_near = a < 1.15
    both = zip(COEFFICIENTS["ERF_NEAR", x.format.dtype], COEFFICIENTS["ERF_FAR", x.format.dtype], strict=True)
    chosen = [select(is_near, a.of_same_type(near), far) for near, far in both]
    q = polynomial(select(is_near, a * a, a), chosen)
    fourth = (q * q) * (q * q)
    return select(is_near, fma(x, q, x), copysign(fma(-fourth, fourth, 1.0), x))
