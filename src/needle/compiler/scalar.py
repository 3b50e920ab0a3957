"""How each elementwise function is computed on one element, in LLVM's instructions.

The meaning is NumPy's: NaN stays NaN through maximum, integers divide as Python's do, a cast to a narrower integer
keeps the low bits. Only a cast that depends on the processor in NumPy is what `needle.dtype.cast` says. Nothing is
fused: `multiply_adds` has done so where it is wanted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from needle.compiler.ir import SSA, Function, constant, llvm_type
from needle.compiler.math import FUNCTIONS
from needle.dtype import bfloat16
from needle.errors import CompileError

__all__ = [
    "EXTREMUM_STEPS",
    "emit_bits",
    "emit_call",
    "emit_combine",
    "emit_extremum",
    "extremum_start",
    "is_extremum",
    "reduction_start",
]

_FLOAT_BINARY = {"add": "fadd", "subtract": "fsub", "multiply": "fmul", "divide": "fdiv"}
_INTEGER_BINARY = {"add": "add", "subtract": "sub", "multiply": "mul", "left_shift": "shl"}
_BITWISE = {"bitwise_and": "and", "bitwise_or": "or", "bitwise_xor": "xor"}
_COMPARISONS = {
    "equal": ("oeq", "eq", "eq"),
    "not_equal": ("une", "ne", "ne"),
    "less": ("olt", "slt", "ult"),
    "less_equal": ("ole", "sle", "ule"),
    "greater": ("ogt", "sgt", "ugt"),
    "greater_equal": ("oge", "sge", "uge"),
}
_FLOAT_INTRINSICS = {
    "absolute": "fabs",
    "sqrt": "sqrt",
    "floor": "floor",
    "ceil": "ceil",
    "rint": "rint",
    "trunc": "trunc",
}
_SINGLE = np.dtype(np.float32)
_LOGICAL = {"logical_and": "and", "logical_or": "or", "logical_xor": "xor"}


def is_float(dtype: np.dtype[Any]) -> bool:
    """Tell whether LLVM's floating-point instructions apply."""
    return dtype.kind not in "iub"


def emit_call(f: Function, name: str, arguments: list[SSA], kinds: list[np.dtype[Any]], result: np.dtype[Any]) -> SSA:
    """Emit the elementwise function `name` of arguments of dtypes `kinds`.

    Raises:
        CompileError: there is no code for it.
    """
    if name == "cast":
        return emit_cast(f, arguments[0], kinds[0], result)
    if name == "after":
        return arguments[0]
    if name == "where":
        return f.select(*arguments)
    if bfloat16 in kinds:
        wide = [emit_cast(f, one, kind, _SINGLE) for one, kind in zip(arguments, kinds, strict=True)]
        found = emit_call(f, name, wide, [_SINGLE] * len(wide), _SINGLE if result == bfloat16 else result)
        return emit_cast(f, found, _SINGLE, result) if result == bfloat16 else found
    emitter = _emit_float if is_float(kinds[0]) else _emit_integer
    emitted = _emit_any(f, name, arguments, kinds[0]) or emitter(f, name, arguments, kinds[0])
    if emitted is None:
        raise CompileError(f"no code for {name} of {kinds[0]}")
    return emitted


def _emit_any(f: Function, name: str, arguments: list[SSA], kind: np.dtype[Any]) -> SSA | None:
    """Emit what is written alike for all dtypes."""
    if name in _COMPARISONS:
        floating, signed, unsigned = _COMPARISONS[name]
        return f.compare(floating if is_float(kind) else signed if kind.kind == "i" else unsigned, *arguments)
    if name in _LOGICAL:
        return f.binary(_LOGICAL[name], *(_truth(f, one, kind) for one in arguments))
    if name == "logical_not":
        return f.binary("xor", _truth(f, arguments[0], kind), SSA("true", "i1"))
    if name == "square":
        return emit_call(f, "multiply", [arguments[0], arguments[0]], [kind, kind], kind)
    if name == "reciprocal":
        one = SSA(constant(1, kind), llvm_type(kind))
        return emit_call(f, "divide", [one, arguments[0]], [kind, kind], kind)
    if name == "sign":
        return _emit_sign(f, arguments[0], kind)
    return None


def _truth(f: Function, value: SSA, kind: np.dtype[Any]) -> SSA:
    return value if kind.kind == "b" else emit_cast(f, value, kind, np.dtype(bool))


def _emit_sign(f: Function, a: SSA, kind: np.dtype[Any]) -> SSA:
    """Emit −1, 0 or 1; NaN and the zeros stay themselves."""
    zero = SSA(constant(0, kind), a.type)
    one = SSA(constant(1, kind), a.type)
    above = emit_call(f, "greater", [a, zero], [kind, kind], np.dtype(bool))
    if kind.kind in "ub":
        return f.select(above, one, zero)
    minus_one = SSA(constant(-1, kind), a.type)
    below = emit_call(f, "less", [a, zero], [kind, kind], np.dtype(bool))
    rest = emit_call(f, "add", [a, zero], [kind, kind], kind)
    return f.select(above, one, f.select(below, minus_one, rest))


def _emit_float(f: Function, name: str, arguments: list[SSA], kind: np.dtype[Any]) -> SSA | None:
    a = arguments[0]
    if name in _FLOAT_BINARY:
        return f.binary(_FLOAT_BINARY[name], *arguments)
    if name == "multiply_add":
        return f.intrinsic("fmuladd", *arguments)
    if name in ("maximum", "minimum", "copysign"):
        return f.intrinsic(name, *arguments)
    if name in _FLOAT_INTRINSICS:
        return f.intrinsic(_FLOAT_INTRINSICS[name], a)
    if name == "negative":
        return f.emit(a.type, f"fneg {a}")
    if name in ("isfinite", "isinf"):
        infinity = SSA(constant(np.inf, kind), a.type)
        return f.compare("olt" if name == "isfinite" else "oeq", f.intrinsic("fabs", a), infinity)
    if name == "isnan":
        return f.compare("uno", a, a)
    if name == "signbit":
        bits = f.emit(f"i{kind.itemsize * 8}", f"bitcast {a} to i{kind.itemsize * 8}")
        return f.compare("slt", bits, SSA("0", bits.type))
    if name in ("remainder", "floor_divide"):
        return _emit_float_division(f, name, arguments, kind)
    return _emit_function(f, name, arguments, kind)


def _emit_function(f: Function, name: str, arguments: list[SSA], kind: np.dtype[Any]) -> SSA | None:
    """Emit a call of one of the compiler's own elementary functions."""
    if kind.itemsize == 2:
        single = np.dtype(np.float32)
        wide = [emit_cast(f, one, kind, single) for one in arguments]
        result = _emit_function(f, name, wide, single)
        return None if result is None else emit_cast(f, result, single, kind)
    function = FUNCTIONS.get((name, str(kind)))
    if function is None:
        return None
    f.declarations.add(f"needs {name} {kind}")
    return f.emit(arguments[0].type, f"call {arguments[0].type} @{function}({', '.join(map(str, arguments))})")


def _emit_float_division(f: Function, name: str, arguments: list[SSA], kind: np.dtype[Any]) -> SSA:
    """Emit the remainder that has the divisor's sign, or the quotient that goes with it."""
    a, b = arguments
    zero = SSA(constant(0, kind), a.type)
    rest = f.binary("frem", a, b)
    is_zero = f.compare("oeq", rest, zero)
    differ = f.compare("une", f.intrinsic("copysign", b, rest), b)
    adjusted = f.select(differ, f.binary("fadd", rest, b), rest)
    remainder = f.select(is_zero, f.intrinsic("copysign", zero, b), adjusted)
    if name == "remainder":
        return remainder
    return f.intrinsic("rint", f.binary("fdiv", f.binary("fsub", a, remainder), b))


def _emit_integer(f: Function, name: str, arguments: list[SSA], kind: np.dtype[Any]) -> SSA | None:
    a = arguments[0]
    if name in _BITWISE:
        return f.binary(_BITWISE[name], *arguments)
    if kind.kind == "b" and name in ("add", "maximum"):
        return f.binary("or", *arguments)
    if kind.kind == "b" and name in ("multiply", "minimum"):
        return f.binary("and", *arguments)
    if name in _INTEGER_BINARY:
        return f.binary(_INTEGER_BINARY[name], *arguments)
    if name in ("maximum", "minimum"):
        return f.intrinsic(("u" if kind.kind == "u" else "s") + name[:3], *arguments)
    if name == "right_shift":
        return f.binary("ashr" if kind.kind == "i" else "lshr", *arguments)
    if name == "negative":
        return f.binary("sub", SSA("0", a.type), a)
    if name == "invert":
        return f.binary("xor", a, SSA("true" if kind.kind == "b" else "-1", a.type))
    if name == "absolute":
        return a if kind.kind in "ub" else f.intrinsic("smax", a, f.binary("sub", SSA("0", a.type), a))
    if name in ("floor_divide", "remainder"):
        return _emit_integer_division(f, name, arguments, kind)
    if name == "power":
        f.declarations.add(f"needs ipow {a.type}")
        return f.emit(a.type, f"call {a.type} @needle.ipow.{a.type}({arguments[0]}, {arguments[1]})")
    constants = {"isfinite": "true", "isnan": "false", "isinf": "false"}
    if name in constants:
        return SSA(constants[name], "i1")
    return a if name in ("floor", "ceil", "trunc", "rint") else None


def _emit_integer_division(f: Function, name: str, arguments: list[SSA], kind: np.dtype[Any]) -> SSA:
    """Emit division that rounds down, 0 where the divisor is 0, as NumPy has it."""
    a, b = arguments
    zero, one = SSA("0", a.type), SSA("1", a.type)
    by_zero = f.compare("eq", b, zero)
    # The least number divided by −1 overflows, which traps on some machines: −a is the same bits.
    by_minus_one = f.compare("eq", b, SSA("-1", b.type)) if kind.kind == "i" else SSA("false", "i1")
    unsafe = f.binary("or", by_zero, by_minus_one)
    divisor = f.select(unsafe, one, b)
    sign = "s" if kind.kind == "i" else "u"
    quotient = f.binary(f"{sign}div", a, divisor)
    rest = f.binary("sub", a, f.binary("mul", quotient, divisor))
    if kind.kind == "i":
        crossed = f.compare("slt", f.binary("xor", rest, divisor), zero)
        inexact = f.binary("and", crossed, f.compare("ne", rest, zero))
        quotient = f.binary("sub", quotient, f.emit(a.type, f"zext {inexact} to {a.type}"))
        rest = f.select(inexact, f.binary("add", rest, divisor), rest)
        quotient = f.select(by_minus_one, f.binary("sub", zero, a), quotient)
        rest = f.select(by_minus_one, zero, rest)
    return f.select(by_zero, zero, quotient if name == "floor_divide" else rest)


def emit_cast(f: Function, a: SSA, kind: np.dtype[Any], result: np.dtype[Any]) -> SSA:
    """Emit a conversion between dtypes."""
    source, target = llvm_type(kind), llvm_type(result)
    if kind == result:
        return a
    if bfloat16 in (kind, result):
        return _emit_bfloat16_cast(f, a, kind, result)
    if source == target:
        return a
    if result.kind == "b":
        zero = SSA(constant(0, kind), a.type)
        return f.compare("une" if is_float(kind) else "ne", a, zero)
    if is_float(kind) and is_float(result):
        return _emit_float_cast(f, a, kind, result)
    if is_float(kind):
        return _emit_float_to_integer(f, a, kind, result)
    if is_float(result):
        return f.emit(target, f"{'sitofp' if kind.kind == 'i' else 'uitofp'} {a} to {target}")
    if result.itemsize < kind.itemsize:
        return f.emit(target, f"trunc {a} to {target}")
    return f.emit(target, f"{'sext' if kind.kind == 'i' else 'zext'} {a} to {target}")


def _emit_bfloat16_cast(f: Function, a: SSA, kind: np.dtype[Any], result: np.dtype[Any]) -> SSA:
    """Emit a conversion from or to bfloat16, which is the upper half of a float32."""
    if kind == bfloat16:
        wide = f.emit("i32", f"zext {a} to i32")
        single = f.emit("float", f"bitcast {f.binary('shl', wide, SSA('16', 'i32'))} to float")
        return emit_cast(f, single, _SINGLE, result)
    single = emit_cast(f, a, kind, _SINGLE)
    bits = f.emit("i32", f"bitcast {single} to i32")
    # To the nearest, and of two that are as near to the even one. A NaN must not become infinite by it.
    odd = f.binary("and", f.binary("lshr", bits, SSA("16", "i32")), SSA("1", "i32"))
    nearest = f.binary("add", bits, f.binary("add", odd, SSA("32767", "i32")))
    quiet = f.binary("or", bits, SSA("4194304", "i32"))
    chosen = f.select(f.compare("uno", single, single), quiet, nearest)
    return f.emit("i16", f"trunc {f.binary('lshr', chosen, SSA('16', 'i32'))} to i16")


def _emit_float_cast(f: Function, a: SSA, kind: np.dtype[Any], result: np.dtype[Any]) -> SSA:
    target = llvm_type(result)
    if kind.itemsize == 8 and result.itemsize == 2:  # no processor's instruction, but a call where there is none
        a = f.emit("float", f"fptrunc {a} to float")
    return f.emit(target, f"{'fpext' if kind.itemsize < result.itemsize else 'fptrunc'} {a} to {target}")


def _emit_float_to_integer(f: Function, a: SSA, kind: np.dtype[Any], result: np.dtype[Any]) -> SSA:
    """Emit the conversion to an integer: the nearest that there is, 0 of NaN, as `needle.dtype.cast`."""
    target = llvm_type(result)
    name = f"llvm.fpto{'s' if result.kind == 'i' else 'u'}i.sat.{target}.{_mangled(kind)}"
    f.declarations.add(f"declare {target} @{name}({a.type})")
    return f.emit(target, f"call {target} @{name}({a})")


def _mangled(kind: np.dtype[Any]) -> str:
    return {"float16": "f16", "float32": "f32", "float64": "f64"}[str(kind)]


# ---------------------------------------------------------------------------------------------- reductions


def reduction_start(function: str, dtype: np.dtype[Any]) -> str:
    """Return the number that a reduction starts from, as LLVM writes it."""
    if function in ("reduce_sum", "reduce_prod"):
        return constant(function == "reduce_prod", dtype)
    lowest = function in ("reduce_max", "argmax")
    if is_float(dtype):
        return constant(-np.inf if lowest else np.inf, dtype)
    if dtype.kind == "b":
        return constant(not lowest, dtype)
    limits = np.iinfo(dtype)
    return constant(limits.min if lowest else limits.max, dtype)


def emit_combine(f: Function, function: str, so_far: SSA, value: SSA, dtype: np.dtype[Any]) -> SSA:
    """Emit one step of a reduction. Sums and products may be done in any order, which is fixed when compiling."""
    if dtype != bfloat16 and is_float(dtype) and function in ("reduce_sum", "reduce_prod"):
        return f.binary("fadd reassoc" if function == "reduce_sum" else "fmul reassoc", so_far, value)
    name = {"reduce_sum": "add", "reduce_prod": "multiply", "reduce_max": "maximum", "reduce_min": "minimum"}[function]
    return emit_call(f, name, [so_far, value], [dtype, dtype], dtype)


# The largest and the smallest of floating-point numbers are found among their bits, as whole numbers, which every
# processor compares in vectors, in any order, without a thought for NaN. Bits with a sign are ordered as the numbers
# are where these are positive; among negative numbers those with the largest bits are the smallest. And the bits of NaN
# are above those of infinity, of either sign. So three numbers tell all: the largest of the bits with a sign, and the
# smallest and the largest of those without.
EXTREMUM_STEPS = ("smax", "umin", "umax")


def is_extremum(function: str, dtype: np.dtype[Any]) -> bool:
    """Tell whether a reduction looks for the largest or the smallest of floating-point numbers."""
    return function in ("reduce_max", "reduce_min") and is_float(dtype)


def emit_bits(f: Function, value: SSA, dtype: np.dtype[Any]) -> SSA:
    """Emit a floating-point number's bits as a whole number."""
    type_ = f"i{dtype.itemsize * 8}"
    return value if value.type == type_ else f.emit(type_, f"bitcast {value} to {type_}")


def emit_extremum(f: Function, function: str, found: Sequence[SSA], dtype: np.dtype[Any]) -> SSA:
    """Emit the largest (or smallest) number, NaN where there was one, given what `EXTREMUM_STEPS` found."""
    top, least, most = found
    type_ = top.type
    infinity, negative_infinity = (_bits_of(number, dtype) for number in (np.inf, -np.inf))
    zero = SSA("0", type_)
    if function == "reduce_max":
        best = f.select(f.compare("sge", top, zero), top, least)
        nan = f.compare("ugt", most, SSA(negative_infinity, type_))
    else:
        best = f.select(f.compare("slt", most, zero), most, least)
        nan = f.compare("sgt", top, SSA(infinity, type_))
    best = f.select(nan, most if function == "reduce_max" else top, best)
    return best if llvm_type(dtype) == type_ else f.emit(llvm_type(dtype), f"bitcast {best} to {llvm_type(dtype)}")


def _bits_of(number: float, dtype: np.dtype[Any]) -> str:
    unsigned = np.asarray(number, dtype).view(f"u{dtype.itemsize}")
    return str(int(unsigned))


def extremum_start(function: str, dtype: np.dtype[Any]) -> str:
    """Return the bits that a search for the largest (or smallest) number starts from."""
    return _bits_of(-np.inf if function == "reduce_max" else np.inf, dtype)
