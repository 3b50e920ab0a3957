"""The elementary functions of compiled programs, as LLVM IR.

LLVM has no vector code for exp and its kin; these have. Each is one function of one element (two for power and
arctan2) without branches, to be inlined into loops, which LLVM's vectoriser then turns into code as wide as the
processor's vectors. No instruction carries a fast-math flag: NaN, infinities, the sign of zero and subnormal numbers
come out as IEEE 754 has them.

Every function is within 2 ulp in float32 and float64; tests/compiler/test_math.py measures it over all exponents.
Multiply-add instructions are taken for granted, as every processor with AVX2 or NEON has them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from needle.compiler.ir import SSA, Function
from needle.compiler.math import exponential, logarithm, power, trigonometric
from needle.compiler.math.value import DOUBLE, SINGLE, Format, Value

__all__ = ["FUNCTIONS", "math_functions"]

_FORMULAS: dict[str, Callable[..., Value]] = {
    "exp": exponential.exp,
    "exp2": exponential.exp2,
    "expm1": exponential.expm1,
    "log": logarithm.log,
    "log2": logarithm.log2,
    "log10": logarithm.log10,
    "log1p": logarithm.log1p,
    "tanh": exponential.tanh,
    "sin": trigonometric.sin,
    "cos": trigonometric.cos,
    "tan": trigonometric.tan,
    "erf": exponential.erf,
    "power": power.power,
    "sinh": exponential.sinh,
    "cosh": exponential.cosh,
    "arctan": trigonometric.arctan,
    "arctan2": trigonometric.arctan2,
}
_FORMATS = {"float32": SINGLE, "float64": DOUBLE}
_SUFFIXES = {"float32": "f32", "float64": "f64"}
_OF_TWO = ("power", "arctan2")
_WITH_TABLE = ("sin", "cos", "tan")

# The name in LLVM of each function, by its name in NumPy (erf by its own) and dtype.
FUNCTIONS: dict[tuple[str, str], str] = {
    (name, dtype): f"needle.{name}.{suffix}" for name in _FORMULAS for dtype, suffix in _SUFFIXES.items()
}


def math_functions(names_and_dtypes: Iterable[tuple[str, str]]) -> str:
    """Return the LLVM IR that defines functions, such as ("exp", "float32"), and declares what they call."""
    wanted = sorted(set(names_and_dtypes))
    definitions = [_define(name, _FORMATS[dtype]) for name, dtype in wanted]
    declarations = sorted(set().union(*(function.declarations for function, _ in definitions)))
    tables = [trigonometric.constants()] if any((name, "float64") in wanted for name in _WITH_TABLE) else []
    return "\n".join([*declarations, *tables, *(text for _, text in definitions)])


def _define(name: str, of: Format) -> tuple[Function, str]:
    """Write one function."""
    arguments = ("%x", "%y") if name in _OF_TWO else ("%x",)
    function = Function(
        FUNCTIONS[name, of.dtype],
        [f"{of.type} {argument}" for argument in arguments],
        attributes="alwaysinline nounwind willreturn memory(none)",
    )
    result = _FORMULAS[name](*(Value(function, SSA(argument, of.type)) for argument in arguments))
    return function, function.text(of.type, lambda: f"  ret {result.ssa}")
