"""Derive the polynomials of `needle.compiler.math`: weighted minimax fits, in many digits.

Prints `src/needle/compiler/math/coefficients.py`. Coefficients are rounded to their format one after the other, lowest
power first, and the others are fitted again after each, so that the later ones make up for the rounding of the earlier.
Needs mpmath (which is not among Needle's dependencies) and half a minute::

    python scripts/minimax.py > src/needle/compiler/math/coefficients.py
    ruff format src/needle/compiler/math/coefficients.py
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

import mpmath
import numpy as np
from mpmath import mp, mpf
from numpy.typing import NDArray

mp.dps = 60
Function = Callable[[mpf], mpf]
Array = NDArray[np.float64]
LN2 = mpmath.log(2)


@dataclass(frozen=True)
class Fit:
    """A polynomial of `degree` for `target` on an interval, where an error of 1 counts `weight(x)`."""

    name: str
    target: Function
    weight: Function
    low: mpf
    high: mpf
    degrees: dict[str, int]


def interpolated(one: Fit, degree: int) -> list[mpf]:
    """Return the polynomial that meets the target at Chebyshev's points."""
    nodes = chebyshev_points(one, degree + 1)
    rows = [[x**k for k in range(degree + 1)] for x in nodes]
    return list(mpmath.lu_solve(mpmath.matrix(rows), mpmath.matrix([one.target(x) for x in nodes])))


def improved(one: Fit, polynomial: list[mpf], first: int) -> list[mpf]:
    """Return the polynomial with its coefficients from number `first` on changed to make the largest error least.

    The error is small already, so that double precision is enough to even out what is left of it.
    """
    points = chebyshev_points(one, 40 * len(polynomial))
    weights = [one.weight(x) for x in points]
    errors = [w * remainder(one, polynomial, x) for x, w in zip(points, weights, strict=True)]
    scale = max(map(abs, errors))
    x = np.array([float(p) for p in points])
    middle, half = float(one.low + one.high) / 2, float(one.high - one.low) / 2
    basis = np.polynomial.chebyshev.chebvander((x - middle) / half, len(polynomial) - 1 - first)
    basis *= (x**first * np.array([float(w) for w in weights]))[:, None]
    change = lawson(basis, np.array([float(error / scale) for error in errors]))
    changes = [mpf(0)] * first + powers(change, one)
    return [c + scale * d for c, d in zip(polynomial, changes, strict=True)]


def remainder(one: Fit, polynomial: list[mpf], x: mpf) -> mpf:
    """Return how far the polynomial is below the target."""
    return one.target(x) - mpmath.polyval(polynomial[::-1], x)


def chebyshev_points(one: Fit, count: int) -> list[mpf]:
    """Return points that are dense towards the ends; 0 is none of them."""
    middle, half = (one.low + one.high) / 2, (one.high - one.low) / 2
    return [middle - half * mpmath.cos(mpmath.pi * (i + mpf("0.4999")) / count) for i in range(count)]


def lawson(basis: Array, target: Array) -> Array:
    """Return the coefficients that make the largest error of basis @ coefficients least.

    Least squares, each point weighed more the larger its error was (C. L. Lawson, 1961).
    """
    size = np.abs(basis).max(axis=0)
    emphasis = np.full(len(target), 1 / len(target))
    best, least = np.zeros(len(size)), np.inf
    for _ in range(400):
        root = np.sqrt(emphasis)
        coefficients = np.linalg.lstsq(basis / size * root[:, None], target * root, rcond=None)[0]
        error = np.abs(basis / size @ coefficients - target)
        if error.max() < least:
            best, least = coefficients / size, error.max()
        emphasis *= error
        emphasis /= emphasis.sum()
    return best


def powers(chebyshev: Array, one: Fit) -> list[mpf]:
    """Turn a Chebyshev series on the interval of the fit into powers of x, in many digits."""
    middle, half = (one.low + one.high) / 2, (one.high - one.low) / 2
    before, now = [mpf(1)], [-middle / half, 1 / half]
    total = [mpf(0)] * len(chebyshev)
    for factor in chebyshev:
        total = [t + mpf(factor) * p for t, p in zip(total, before + [mpf(0)] * len(total), strict=False)]
        doubled = times_unit(now, middle, half)
        before, now = now, [a - b for a, b in zip(doubled, before + [mpf(0)] * 2, strict=False)]
    return total


def times_unit(polynomial: list[mpf], middle: mpf, half: mpf) -> list[mpf]:
    """Return 2 u p(x), where u = (x − middle) / half."""
    shifted, same = [mpf(0), *polynomial], [*polynomial, mpf(0)]
    return [2 * (a - middle * b) / half for a, b in zip(shifted, same, strict=True)]


def rounded(one: Fit, kind: str) -> tuple[list[float], mpf]:
    """Fit, round the lowest coefficient that is not rounded yet, fit the rest again, until all are rounded."""
    polynomial = interpolated(one, one.degrees[kind])
    for k in range(len(polynomial)):
        polynomial = improved(one, polynomial, k)
        polynomial[k] = mpf(nearest(polynomial[k], kind))
    samples = [one.low + (one.high - one.low) * i / 2000 for i in range(2001)]
    worst = max(abs(one.weight(x) * (mpmath.polyval(polynomial[::-1], x) - one.target(x))) for x in samples)
    return [float(c) for c in polynomial], worst


def nearest(number: mpf, kind: str) -> float:
    """Round to the format, ties aside."""
    return float(np.float32(float(number))) if kind == "float32" else float(number)


def series(function: Function, head: Function, power: int, x: mpf) -> mpf:
    """Return (function(x) − head(x)) / xᵖ with as many digits as it takes near 0."""
    x = x if abs(x) > mpf(10) ** -9 else mpf(10) ** -9
    with mpmath.workdps(160):
        return (function(x) - head(x)) / x**power


def erf_exponent(x: mpf) -> mpf:
    """Return (−log(1 − erf x) / x − 2/√π) / x."""
    return series(lambda t: -mpmath.log(mpmath.erfc(t)), lambda t: 2 / mpmath.sqrt(mpmath.pi) * t, 2, x)


ONE = mpf(1)
QUARTER_PI = mpmath.pi / 4 * (1 + mpf(2) ** -20)
HALF_LN2 = LN2 / 2 * (1 + mpf(2) ** -12)
ROOT = mpmath.sqrt(2)


def over_square(function: Function, head: Function, power: int) -> Function:
    """Return (function(√z) − head(√z)) / (√z)ᵖ, a function of the square."""
    return lambda z: series(function, head, power, mpmath.sqrt(z))


FITS = [
    Fit(
        "EXP",  # eʳ = 1 + r + r² q(r)
        lambda r: series(mpmath.exp, lambda t: 1 + t, 2, r),
        lambda r: r * r / mpmath.exp(r) if r else mpf(10) ** -30,
        -HALF_LN2,
        HALF_LN2,
        {"float32": 4, "float64": 9},
    ),
    Fit(
        "LOG",  # log(1 + f) = f − f²/2 + f³ q(f)
        lambda f: series(mpmath.log1p, lambda t: t - t * t / 2, 3, f),
        lambda f: abs(f**3 / mpmath.log1p(f)) if f else mpf(10) ** -30,
        1 / ROOT - 1,
        ROOT - 1,
        {"float32": 7, "float64": 18},
    ),
    Fit(
        "LOG2",  # log₂(1 + f) = f q(f), to 33 bits: for powers of float32
        lambda f: series(lambda t: mpmath.log1p(t) / LN2, lambda t: mpf(0), 1, f),
        lambda f: abs(f / mpmath.log1p(f)) * LN2 if f else ONE,
        1 / ROOT - 1,
        ROOT - 1,
        {"float64": 11},
    ),
    Fit(
        "ATANH",  # atanh s = s + s³/3 + s⁵ q(s²): for powers of float64
        over_square(mpmath.atanh, lambda s: s + s**3 / 3, 5),
        lambda z: z**2,
        mpf(10) ** -9,
        (3 - 2 * ROOT) ** 2,
        {"float64": 7},
    ),
    Fit(
        "ERF",  # erf x = 1 − exp(−x (2/√π + x q(x)))
        erf_exponent,
        lambda x: x * x * mpmath.erfc(x) / mpmath.erf(x) if x else mpf(10) ** -30,
        mpf(10) ** -6,
        mpf(6),
        {"float64": 24},
    ),
    Fit(
        "ERF_NEAR",  # erf x = x + x q(x²)
        over_square(mpmath.erf, lambda x: x, 1),
        lambda z: mpmath.sqrt(z) / mpmath.erf(mpmath.sqrt(z)),
        mpf(10) ** -9,
        mpf("1.15") ** 2,
        {"float32": 6},
    ),
    Fit(
        "ERF_FAR",  # erf x = 1 − q(x)⁸
        lambda x: mpmath.erfc(x) ** (ONE / 8),
        lambda x: 8 * mpmath.erfc(x) ** (ONE - ONE / 8) / mpmath.erf(x),
        mpf("1.15"),
        mpf("3.95"),
        {"float32": 6},
    ),
    Fit(
        "TANH",  # tanh x = x + x³ q(x²)
        over_square(mpmath.tanh, lambda x: x, 3),
        lambda z: z**1.5 / mpmath.tanh(mpmath.sqrt(z)),
        mpf(10) ** -9,
        mpf("0.55") ** 2,
        {"float32": 4, "float64": 9},
    ),
    Fit(
        "SINH",  # sinh x = x + x³ q(x²)
        over_square(mpmath.sinh, lambda x: x, 3),
        lambda z: z**1.5 / mpmath.sinh(mpmath.sqrt(z)),
        mpf(10) ** -9,
        ONE,
        {"float32": 3, "float64": 6},
    ),
    Fit(
        "SIN",  # sin r = r + r³ q(r²)
        over_square(mpmath.sin, lambda r: r, 3),
        lambda z: z**1.5 / mpmath.sin(mpmath.sqrt(z)),
        mpf(10) ** -9,
        QUARTER_PI**2,
        {"float32": 2, "float64": 5},
    ),
    Fit(
        "COS",  # cos r = 1 − r²/2 + r⁴ q(r²)
        over_square(mpmath.cos, lambda r: 1 - r * r / 2, 4),
        lambda z: z**2,
        mpf(10) ** -9,
        QUARTER_PI**2,
        {"float32": 2, "float64": 5},
    ),
    Fit(
        "TAN",  # tan r = r + r³ q(r²)
        over_square(mpmath.tan, lambda r: r, 3),
        lambda z: z**1.5 / mpmath.tan(mpmath.sqrt(z)),
        mpf(10) ** -9,
        QUARTER_PI**2,
        {"float32": 6},
    ),
    Fit(
        "ARCTAN",  # arctan x = x + x³ q(x²)
        over_square(mpmath.atan, lambda x: x, 3),
        lambda z: z**1.5 / mpmath.atan(mpmath.sqrt(z)),
        mpf(10) ** -9,
        ONE,
        {"float32": 8, "float64": 19},
    ),
]

PAIRS = {
    "LN2": LN2,
    "LOG2_E": 1 / LN2,
    "LOG10_2": mpmath.log10(2),
    "LOG10_E": 1 / mpmath.log(10),
    "TWO_OVER_ROOT_PI": 2 / mpmath.sqrt(mpmath.pi),
    "TAU": 2 * mpmath.pi,
    "PI": mpmath.pi,
    "HALF_PI": mpmath.pi / 2,
}
INVERSE_TAU_LENGTH = 1280

HEAD = '''"""Constants and coefficients of the elementary functions. Written by scripts/minimax.py.

A constant is the nearest number of a format and what it lacks. Coefficients come lowest power first; each polynomial is
the minimax one on the interval that its function reduces to, and the comment says how far it is off, as a power of two
relative to the function, before any rounding in its evaluation.
"""

from __future__ import annotations

Pair = dict[str, tuple[float, float]]
'''


def written(number: mpf, kind: str) -> str:
    """Return a number of a format as Python reads it."""
    return str(np.float32(float(number))) if kind == "float32" else repr(float(number))


def print_pair(name: str, exact: mpf) -> None:
    """Print a constant as a sum of two numbers of each format."""
    print(f"{name}: Pair = {{")
    for kind in ("float32", "float64"):
        print(f'    "{kind}": ({written(exact, kind)}, {written(exact - nearest(exact, kind), kind)}),')
    print("}")


def print_inverse_tau() -> None:
    """Print the first bits of 1 / 2π, for the reduction of large angles."""
    with mpmath.workprec(INVERSE_TAU_LENGTH + 64):
        digits = f"{int(mpmath.floor(mpf(2) ** INVERSE_TAU_LENGTH / (2 * mpmath.pi))):0{INVERSE_TAU_LENGTH // 4}x}"
    print(f"\n# The first {INVERSE_TAU_LENGTH} bits of 1 / 2π after the point.")
    print("INVERSE_TAU_BITS = int(")
    for start in range(0, len(digits), 80):
        print(f'    "{digits[start : start + 80]}"')
    print("    , 16)")
    print(f"INVERSE_TAU_LENGTH = {INVERSE_TAU_LENGTH}\n")


def print_fit(one: Fit, kind: str) -> None:
    """Print one polynomial."""
    coefficients, worst = rounded(one, kind)
    print(f'    ("{one.name}", "{kind}"): (  # 2^{float(mpmath.log(worst, 2)):.1f}')
    for c in coefficients:
        print(f"        {written(c, kind)},")
    print("    ),", flush=True)


def main(only: list[str]) -> None:
    """Print the module, or only the fits that are named."""
    print(HEAD)
    for name, exact in PAIRS.items():
        print_pair(name, exact)
    print_inverse_tau()
    print("COEFFICIENTS: dict[tuple[str, str], tuple[float, ...]] = {")
    for one in FITS:
        for kind in one.degrees:
            if not only or one.name in only:
                print_fit(one, kind)
    print("}")


if __name__ == "__main__":
    main(sys.argv[1:])
