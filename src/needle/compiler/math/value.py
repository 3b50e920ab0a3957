"""Writing elementary functions as formulas: values with operators that write LLVM IR.

A `Value` is a register in a function that is being written; `a * b + 1` adds the instructions for it. Nothing here
branches: a choice is a `select`, so that a loop around the function can become vector code. Numbers beside values
are rounded to the values' own format.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from needle.compiler.ir import SSA, Function, constant

__all__ = [
    "DOUBLE",
    "SINGLE",
    "Format",
    "Value",
    "absolute",
    "bits",
    "clamp",
    "copysign",
    "fast_two_sum",
    "fma",
    "load",
    "number",
    "polynomial",
    "rint",
    "select",
    "to_format",
    "two_sum",
]

Operand: TypeAlias = "Value | float"


@dataclass(frozen=True, slots=True)
class Format:
    """A floating-point format: its names, and where its exponent lies."""

    dtype: str
    type: str
    integer: str
    fraction: int
    bias: int

    @property
    def rounder(self) -> float:
        """A number so large that adding it rounds to an integer, which then lies in the low bits of the sum."""
        return 1.5 * 2.0**self.fraction

    @property
    def least_normal(self) -> float:
        """The least positive number that has all its digits."""
        return 2.0 ** (1 - self.bias)

    @property
    def sign_bit(self) -> int:
        """The bit of the sign, as a signed integer of the same size."""
        return -(1 << (31 if self.integer == "i32" else 63))

    def round(self, number: float) -> float:
        """Round a number to this format."""
        return float(np.dtype(self.dtype).type(number))


SINGLE = Format("float32", "float", "i32", fraction=23, bias=127)
DOUBLE = Format("float64", "double", "i64", fraction=52, bias=1023)
_FORMATS = {"float": SINGLE, "double": DOUBLE}
_DTYPES: dict[str, np.dtype[Any]] = {
    "float": np.dtype(np.float32),
    "double": np.dtype(np.float64),
    "i32": np.dtype(np.int32),
    "i64": np.dtype(np.int64),
}


@dataclass(frozen=True, slots=True, eq=False)
class Value:
    """A value of the function that is being written: a number, an integer that holds bits, or a condition."""

    function: Function
    ssa: SSA

    @property
    def format(self) -> Format:
        """The format of a number."""
        return _FORMATS[self.ssa.type]

    def _is_number(self) -> bool:
        return self.ssa.type in _FORMATS

    def of_same_type(self, operand: Operand) -> Value:
        """Return the operand, as a value where it is a plain number."""
        if isinstance(operand, Value):
            return operand
        dtype = _DTYPES[self.ssa.type]
        return Value(self.function, SSA(constant(operand, dtype), self.ssa.type))

    def _binary(self, of_numbers: str, of_integers: str, operand: Operand) -> Value:
        operation = of_numbers if self._is_number() else of_integers
        return Value(self.function, self.function.binary(operation, self.ssa, self.of_same_type(operand).ssa))

    def _compare(self, of_numbers: str, of_integers: str, operand: Operand) -> Value:
        predicate = of_numbers if self._is_number() else of_integers
        return Value(self.function, self.function.compare(predicate, self.ssa, self.of_same_type(operand).ssa))

    def __add__(self, other: Operand) -> Value:
        return self._binary("fadd", "add", other)

    def __radd__(self, other: float) -> Value:
        return self.of_same_type(other) + self

    def __sub__(self, other: Operand) -> Value:
        return self._binary("fsub", "sub", other)

    def __rsub__(self, other: float) -> Value:
        return self.of_same_type(other) - self

    def __mul__(self, other: Operand) -> Value:
        return self._binary("fmul", "mul", other)

    def __rmul__(self, other: float) -> Value:
        return self.of_same_type(other) * self

    def __truediv__(self, other: Operand) -> Value:
        return self._binary("fdiv", "sdiv", other)

    def __rtruediv__(self, other: float) -> Value:
        return self.of_same_type(other) / self

    def __neg__(self) -> Value:
        return Value(self.function, self.function.emit(self.ssa.type, f"fneg {self.ssa}"))

    def __and__(self, other: Operand) -> Value:
        return self._binary("", "and", other)

    def __or__(self, other: Operand) -> Value:
        return self._binary("", "or", other)

    def __xor__(self, other: Operand) -> Value:
        return self._binary("", "xor", other)

    def __lshift__(self, other: Operand) -> Value:
        return self._binary("", "shl", other)

    def __rshift__(self, other: Operand) -> Value:
        return self._binary("", "lshr", other)

    def __lt__(self, other: Operand) -> Value:
        return self._compare("olt", "slt", other)

    def __le__(self, other: Operand) -> Value:
        return self._compare("ole", "sle", other)

    def __gt__(self, other: Operand) -> Value:
        return self._compare("ogt", "sgt", other)

    def __ge__(self, other: Operand) -> Value:
        return self._compare("oge", "sge", other)

    def equals(self, other: Operand) -> Value:
        """Whether this is equal to another; NaN is equal to nothing."""
        return self._compare("oeq", "eq", other)

    def unordered(self, other: Operand) -> Value:
        """Whether this or the other is NaN."""
        return self._compare("uno", "", other)

    def differs(self, other: Operand) -> Value:
        """Whether this is not equal to another; NaN differs from everything."""
        return self._compare("une", "ne", other)


def fma(a: Value, b: Operand, c: Operand) -> Value:
    """Return a b + c, rounded once."""
    return _intrinsic("fma", a, a.of_same_type(b), a.of_same_type(c))


def absolute(a: Value) -> Value:
    """Return |a|."""
    return _intrinsic("fabs", a)


def rint(a: Value) -> Value:
    """Return the nearest integer."""
    return _intrinsic("rint", a)


def copysign(a: Operand, sign: Value) -> Value:
    """Return a with another number's sign."""
    return _intrinsic("copysign", sign.of_same_type(a), sign)


def _intrinsic(name: str, *arguments: Value) -> Value:
    function = arguments[0].function
    return Value(function, function.intrinsic(name, *(argument.ssa for argument in arguments)))


def select(condition: Value, a: Operand, b: Operand) -> Value:
    """Return a where the condition holds, else b. One of them at least is a value."""
    known = a if isinstance(a, Value) else b
    assert isinstance(known, Value)
    chosen = condition.function.select(condition.ssa, known.of_same_type(a).ssa, known.of_same_type(b).ssa)
    return Value(condition.function, chosen)


def clamp(a: Value, low: float | None, high: float | None) -> Value:
    """Return a, or the limit that it is beyond. NaN stays NaN: the comparisons do not hold."""
    if high is not None:
        limit = a.of_same_type(high)
        a = select(limit < a, limit, a)
    if low is not None:
        limit = a.of_same_type(low)
        a = select(limit > a, limit, a)
    return a


def bits(a: Value) -> Value:
    """Return the bits of a number as an integer."""
    return _converted("bitcast", a, a.format.integer)


def number(a: Value) -> Value:
    """Return the number that an integer holds the bits of."""
    return _converted("bitcast", a, {"i32": "float", "i64": "double"}[a.ssa.type])


def to_format(a: Value, target: Format) -> Value:
    """Convert a number to another format, or the low bits of an integer to one of the format's size."""
    if a.ssa.type == "i64":
        return _converted("trunc", a, target.integer)
    if a.format == target:
        return a
    return _converted("fpext" if target is DOUBLE else "fptrunc", a, target.type)


def load(table: str, of: Format, index: Value) -> Value:
    """Return an element of a table of constants."""
    address = index.function.emit("ptr", f"getelementptr inbounds {of.type}, ptr {table}, {index.ssa}")
    return Value(index.function, index.function.load(of.type, address, 8))


def _converted(instruction: str, a: Value, target: str) -> Value:
    return Value(a.function, a.function.emit(target, f"{instruction} {a.ssa} to {target}"))


# From so many coefficients on a polynomial is computed by pairs.
_LONG = 5


def polynomial(x: Value, coefficients: Sequence[Operand]) -> Value:
    """Return Σ coefficients[k] xᵏ by Horner's rule, a long one by Horner's rule in x² for pairs of coefficients.

    Each step waits for the one before, about four cycles, in which a processor could begin eight others. By pairs there
    are half as many steps, for one multiplication more.
    """
    terms: list[Operand] = list(coefficients)
    power = x
    if len(terms) >= _LONG:
        pairs = [fma(x, high, low) for low, high in zip(terms[::2], terms[1::2], strict=False)]
        terms, power = [*pairs, *terms[2 * len(pairs) :]], x * x
    total: Value = x.of_same_type(terms[-1])
    for term in reversed(terms[:-1]):
        total = fma(total, power, term)
    return total


def two_sum(a: Value, b: Value) -> tuple[Value, Value]:
    """Return a + b rounded, and what the rounding took (D. Knuth, "Seminumerical Algorithms")."""
    total = a + b
    second = total - a
    return total, (a - (total - second)) + (b - second)


def fast_two_sum(a: Value, b: Value) -> tuple[Value, Value]:
    """Return a + b rounded, and what the rounding took, where |a| is not below |b|."""
    total = a + b
    return total, b - (total - a)
