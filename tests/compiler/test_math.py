"""The elementary functions of compiled programs against references with more digits, in units in the last place."""

from __future__ import annotations

import ctypes
import math
import re
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest

llvm = pytest.importorskip("llvmlite.binding")

from needle.compiler.host import host  # noqa: E402  (needs llvmlite)
from needle.compiler.math import FUNCTIONS, math_functions  # noqa: E402
from needle.compiler.native import compile_object, load_object  # noqa: E402

Array = np.ndarray[Any, Any]

DTYPES = ("float32", "float64")
OF_TWO = ("power", "arctan2")
OF_ONE = tuple(dict.fromkeys(name for name, _ in FUNCTIONS if name not in OF_TWO))
TWO_ULP = 2.0
LLVM_TYPES = {"float32": "float", "float64": "double"}
HAS_MORE_DIGITS = np.finfo(np.longdouble).nmant > np.finfo(np.float64).nmant
INF, NAN = np.inf, np.nan

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the references overflow where they should


# ---------------------------------------------------------------------------------------------- compiling


def loop_over(name: str, dtype: str, attributes: str) -> str:
    """A function that applies one elementary function to n elements."""
    type_ = LLVM_TYPES[dtype]
    arguments = f"{type_} %a, {type_} %b" if name in OF_TWO else f"{type_} %a"
    return f"""{math_functions([(name, dtype)])}
define void @kernel(ptr noalias %x, ptr noalias %y, ptr noalias %out, i64 %n) {attributes} {{
entry:
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
  %x_address = getelementptr {type_}, ptr %x, i64 %i
  %y_address = getelementptr {type_}, ptr %y, i64 %i
  %out_address = getelementptr {type_}, ptr %out, i64 %i
  %a = load {type_}, ptr %x_address
  %b = load {type_}, ptr %y_address
  %result = call {type_} @{FUNCTIONS[name, dtype]}({arguments})
  store {type_} %result, ptr %out_address
  %next = add nuw nsw i64 %i, 1
  %more = icmp slt i64 %next, %n
  br i1 %more, label %loop, label %done
done:
  ret void
}}"""


@cache
def compiled(name: str, dtype: str) -> Callable[..., Array]:
    address, engine = load_object(compile_object(loop_over(name, dtype, host().attributes)), "kernel")
    function = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 3, ctypes.c_int64)(address)

    def call(x: Any, y: Any = None) -> Array:
        x = np.atleast_1d(np.asarray(x, dtype))
        y = x if y is None else np.atleast_1d(np.asarray(y, dtype))
        out = np.empty_like(x)
        function(x.ctypes.data, y.ctypes.data, out.ctypes.data, x.size)
        return out

    call.engine = engine  # type: ignore[attr-defined]  # what keeps the code alive
    return call


def assembly(name: str, dtype: str, triple: str, cpu: str, features: str) -> str:
    """The optimised loop as the instructions of some processor."""
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    machine = llvm.Target.from_triple(triple).create_target_machine(cpu=cpu, features=features, opt=3)
    module = llvm.parse_assembly(loop_over(name, dtype, '"prefer-vector-width"="512"'))
    module.triple, module.data_layout = triple, str(machine.target_data)
    options = llvm.create_pipeline_tuning_options(speed_level=3)
    options.loop_vectorization = True
    builder = llvm.create_pass_builder(machine, options)
    builder.getModulePassManager().run(module, builder)
    return str(machine.emit_assembly(module))


# ---------------------------------------------------------------------------------------------- measuring


def ulps(got: Array, exact: Array) -> Array:
    """How far `got` is from `exact` (which has more digits), in units in the last place of got's dtype.

    Where one of them is NaN or infinite and the other, rounded, is not the same, the distance is infinite; but the
    last finite number and infinity count as one unit apart.
    """
    info = np.finfo(got.dtype)
    rounded = exact.astype(got.dtype)
    exponent = np.maximum(np.frexp(np.abs(np.where(np.isfinite(rounded), rounded, info.max)))[1], info.minexp + 1)
    unit = np.ldexp(exact.dtype.type(1), exponent - info.nmant - 1)
    largest = exact.dtype.type(info.max)
    limited = np.where(np.isinf(got) | np.isinf(rounded), np.clip(exact, -largest * 2, largest * 2), exact)
    seen = np.where(np.isinf(got), np.copysign(largest + unit, got), got.astype(exact.dtype))
    same = (got == rounded) & ~np.isfinite(got) | np.isnan(got) & np.isnan(exact)
    distance = np.abs(seen - limited) / unit
    return np.where(same, 0, np.where(np.isnan(distance), np.inf, distance))


def check_close(got: Array, exact: Array, limit: float, *inputs: Array) -> None:
    distance = ulps(got, exact)
    worst = int(np.argmax(distance))
    shown = ", ".join(repr(one[worst]) for one in inputs)
    assert distance[worst] <= limit, f"{distance[worst]} ulp at {shown}: {got[worst]!r} for {exact[worst]!r}"
    signed = np.isnan(got) | (np.signbit(got) == np.signbit(exact))
    assert signed.all(), f"sign at {[one[~signed][:5] for one in inputs]}"


def all_exponents(dtype: str, mantissas: int) -> Array:
    """Numbers of every exponent (subnormal, infinite and NaN too) and both signs, mantissas at random and extreme."""
    unsigned, fraction = (np.uint32, 23) if dtype == "float32" else (np.uint64, 52)
    exponents = np.arange(1 << (np.dtype(dtype).itemsize * 8 - 1 - fraction), dtype=np.uint64)
    random = np.random.default_rng(7).integers(0, 1 << fraction, (mantissas, exponents.size), dtype=np.uint64)
    extreme = np.array([0, 1, (1 << fraction) - 1, 1 << (fraction - 1)], np.uint64)[:, None]
    bits = np.concatenate([random, np.broadcast_to(extreme, (4, exponents.size))]) | exponents << np.uint64(fraction)
    positive = bits.astype(unsigned).view(dtype).ravel()
    return np.concatenate([positive, -positive])


def neighbours(points: Array, dtype: str, steps: int = 4) -> Array:
    """The numbers of a dtype around some points, both signs."""
    around = [points.astype(dtype)]
    for _ in range(steps):
        around = [np.nextafter(around[0], -INF), *around, np.nextafter(around[-1], INF)]
    return np.concatenate([*around, *(-one for one in around)])


@cache
def hard_inputs(dtype: str) -> Array:
    """Where ranges meet, where functions are 0, and plainly random numbers of usual sizes."""
    wide = np.longdouble
    counts = np.arange(1200, dtype=wide)
    ln2, pi = np.log(wide(2)), 4 * np.arctan(wide(1))
    meeting = [0.55, 1, 2.0**-27, math.sqrt(0.5), math.sqrt(2), *np.ldexp(1.0, np.arange(20, 110)), 9.01, 19.06, 3.92]
    limits = [88.72284, 89.4159, 103.97, 87.3365, 126, 127, 128, 149.5, 709.7827, 710.4758, 745.13, 708.396, 1074.5]
    points = [(counts + wide(0.5)) * ln2, (counts + 1) * ln2, (counts + 1) * pi / 4, (counts + 1) * 1000 * pi / 4]
    points += [np.array([*meeting, *limits], wide), counts / 2 + wide(0.5), 1 + np.ldexp(wide(1), -np.arange(1, 60))]
    rng = np.random.default_rng(11)
    sizes = [rng.uniform(-size, size, 20_000).astype(dtype) for size in (1e-2, 0.6, 1, 2, 5, 20, 100, 800, 1e4, 1e6)]
    near_one = (1 + rng.uniform(-1, 1, 20_000) * 2.0 ** rng.integers(-22, 0, 20_000)).astype(dtype)
    return np.concatenate([neighbours(np.concatenate(points), dtype), *sizes, near_one])


def erf_exact(x: Array) -> Array:
    """2/√π e^(−x²) Σ 2ᵏ x²ᵏ⁺¹ / (2k + 1)!!, all of whose terms have one sign."""
    clipped = np.clip(x, -6.5, 6.5)
    square = clipped * clipped
    term = total = clipped / np.sqrt(np.arctan(x.dtype.type(1)))
    for k in range(1, 190):
        term = term * square * 2 / (2 * k + 1)
        total = total + term
    return np.where(np.abs(x) > 6.4, np.copysign(x.dtype.type(1), x), total * np.exp(-square))


def exact(name: str, dtype: str, *inputs: Array) -> Array:
    """The function with more digits: NumPy's double precision for single, its extended precision for double."""
    if dtype == "float64" and not HAS_MORE_DIGITS:
        pytest.skip("NumPy has no format with more digits than double here")
    wide = [one.astype(np.float64 if dtype == "float32" else np.longdouble) for one in inputs]
    return np.asarray(erf_exact(*wide) if name == "erf" else getattr(np, name)(*wide))


# ------------------------------------------------------------------------------------------------- accuracy


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", OF_ONE)
def test_function_is_within_two_ulp_over_every_exponent(name: str, dtype: str) -> None:
    x = all_exponents(dtype, 200 if dtype == "float32" else 20)
    check_close(compiled(name, dtype)(x), exact(name, dtype, x), TWO_ULP, x)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", OF_ONE)
def test_function_is_within_two_ulp_where_ranges_meet(name: str, dtype: str) -> None:
    x = hard_inputs(dtype)
    check_close(compiled(name, dtype)(x), exact(name, dtype, x), TWO_ULP, x)


@pytest.mark.parametrize("dtype", DTYPES)
def test_power_is_within_two_ulp(dtype: str) -> None:
    rng = np.random.default_rng(3)
    x = np.concatenate([all_exponents(dtype, 100 if dtype == "float32" else 10), hard_inputs(dtype)])
    reach = 150 if dtype == "float32" else 1076
    within = rng.uniform(-reach, reach, x.size) / np.log2(np.abs(x.astype(np.float64)))
    whole = rng.integers(-20, 20, x.size).astype(np.float64)
    y = np.where(rng.random(x.size) < 0.7, within, np.where(rng.random(x.size) < 0.5, whole, x[::-1])).astype(dtype)
    check_close(compiled("power", dtype)(x, y), exact("power", dtype, x, y), TWO_ULP, x, y)


@pytest.mark.parametrize("dtype", DTYPES)
def test_arctan2_is_within_two_ulp(dtype: str) -> None:
    rng = np.random.default_rng(5)
    y = np.concatenate([all_exponents(dtype, 100 if dtype == "float32" else 10), hard_inputs(dtype)])
    near = y * np.exp(rng.normal(0, 3, y.size)).astype(dtype) * rng.choice([-1, 1], y.size).astype(dtype)
    x = np.where(rng.random(y.size) < 0.8, near, rng.permutation(y))
    check_close(compiled("arctan2", dtype)(y, x), exact("arctan2", dtype, y, x), TWO_ULP, y, x)


@pytest.mark.parametrize(
    ("dtype", "mantissa", "exponent", "near_zero"),
    [("float32", 16367173, 72, "cos"), ("float64", 6381956970095103, 797, "cos")],
)
def test_angle_nearest_to_a_zero_keeps_its_digits(dtype: str, mantissa: int, exponent: int, near_zero: str) -> None:
    """The numbers of each format that are closest to a multiple of π/2 (J.-M. Muller, "Elementary Functions")."""
    x = np.array([math.ldexp(mantissa, exponent)], dtype)
    for name in ("sin", "cos", "tan"):
        check_close(compiled(name, dtype)(x), exact(name, dtype, x), TWO_ULP, x)
    assert 0 < abs(compiled(near_zero, dtype)(x)[0]) < (1e-8 if dtype == "float32" else 1e-18)


# ------------------------------------------------------------------------------------------- special values

SPECIAL = {
    "exp": [(0.0, 1), (-0.0, 1), (INF, INF), (-INF, 0.0), (1e4, INF), (-1e4, 0.0)],
    "exp2": [(0.0, 1), (INF, INF), (-INF, 0.0), (-149, 2.0**-149), (100, 2.0**100), (1e4, INF), (-1e4, 0.0)],
    "expm1": [(0.0, 0.0), (-0.0, -0.0), (INF, INF), (-INF, -1), (-1e4, -1), (1e-40, 1e-40), (1e4, INF)],
    "log": [(0.0, -INF), (-0.0, -INF), (1, 0.0), (INF, INF), (-1, NAN), (-1e-40, NAN), (-INF, NAN)],
    "log2": [(0.0, -INF), (-0.0, -INF), (1, 0.0), (INF, INF), (-1, NAN), (2.0**-149, -149), (2.0**100, 100)],
    "log10": [(0.0, -INF), (-0.0, -INF), (1, 0.0), (INF, INF), (-1, NAN), (1000, 3), (1e10, 10)],
    "log1p": [(0.0, 0.0), (-0.0, -0.0), (-1, -INF), (-2, NAN), (INF, INF), (-INF, NAN), (1e-40, 1e-40)],
    "tanh": [(0.0, 0.0), (-0.0, -0.0), (INF, 1), (-INF, -1), (30, 1), (-30, -1), (1e-40, 1e-40)],
    "sin": [(0.0, 0.0), (-0.0, -0.0), (INF, NAN), (-INF, NAN), (1e-40, 1e-40), (-1e-40, -1e-40)],
    "cos": [(0.0, 1), (-0.0, 1), (INF, NAN), (-INF, NAN), (1e-40, 1)],
    "tan": [(0.0, 0.0), (-0.0, -0.0), (INF, NAN), (-INF, NAN), (1e-40, 1e-40)],
    "erf": [(0.0, 0.0), (-0.0, -0.0), (INF, 1), (-INF, -1), (7, 1), (-7, -1)],
    "sinh": [(0.0, 0.0), (-0.0, -0.0), (INF, INF), (-INF, -INF), (1e4, INF), (-1e4, -INF), (1e-40, 1e-40)],
    "cosh": [(0.0, 1), (-0.0, 1), (INF, INF), (-INF, INF), (1e4, INF), (1e-40, 1)],
    "arctan": [(0.0, 0.0), (-0.0, -0.0), (INF, math.pi / 2), (-INF, -math.pi / 2), (1e-40, 1e-40)],
}
GRID = [0.0, 1.0, INF, 0.5, 2.0, 3.0, 1.5, 1e-40, 1e30, 2.0**24 - 1, 2.0**24, 2.0**53 + 2]


def check_same(got: Array, expected: Array) -> None:
    np.testing.assert_array_equal(got, expected)
    numbers = ~np.isnan(expected)
    np.testing.assert_array_equal(np.signbit(got[numbers]), np.signbit(expected[numbers]))


def check_limits(got: Array, expected: Array) -> None:
    """The same zeros, signs, infinities and NaN; the other numbers may be rounded differently."""
    close = np.isfinite(expected) & (np.abs(got - expected) <= 2 * np.abs(np.spacing(expected)))
    check_same(np.where(close & (expected != 0), np.copysign(expected, got), got), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", OF_ONE)
def test_special_values_are_exact(name: str, dtype: str) -> None:
    x, expected = np.array([*SPECIAL[name], (NAN, NAN), (-NAN, NAN)], dtype).T
    check_same(compiled(name, dtype)(np.ascontiguousarray(x)), expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_power_of_special_values_is_as_ieee_has_it(dtype: str) -> None:
    values = np.array([*GRID, *(-one for one in GRID), NAN], dtype)
    x, y = (one.ravel() for one in np.meshgrid(values, values))
    got = compiled("power", dtype)(x, y)
    expected = np.power(x.astype(np.float64), y.astype(np.float64)).astype(dtype)
    check_limits(got, expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_arctan2_of_special_values_is_as_ieee_has_it(dtype: str) -> None:
    values = np.array([0.0, -0.0, 1, -1, INF, -INF, NAN], dtype)
    y, x = (one.ravel() for one in np.meshgrid(values, values))
    got = compiled("arctan2", dtype)(y, x)
    check_limits(got, np.arctan2(y.astype(np.float64), x.astype(np.float64)).astype(dtype))


# ----------------------------------------------------------------------------------------------- vector code

PROCESSORS = {
    "AVX2": ("x86_64-unknown-linux-gnu", "haswell", "", r"%ymm\d"),
    "AVX-512": ("x86_64-unknown-linux-gnu", "skylake-avx512", "-prefer-256-bit", r"%zmm\d"),
    "NEON": ("aarch64-unknown-linux-gnu", "neoverse-n1", "", r"v\d+\.(4s|2d)"),
}


@pytest.mark.parametrize("processor", PROCESSORS)
@pytest.mark.parametrize(("name", "dtype"), FUNCTIONS)
def test_loop_becomes_vector_code_without_calls(name: str, dtype: str, processor: str) -> None:
    triple, cpu, features, register = PROCESSORS[processor]
    try:
        text = assembly(name, dtype, triple, cpu, features)
    except RuntimeError as error:
        pytest.skip(f"this LLVM knows no {triple}: {error}")
    assert not re.findall(r"\n\t(?:callq?|blr?)\t", text)
    multiply_adds = [line for line in text.splitlines() if re.match(r"\tv?f(n?m|ml)\w+", line)]
    assert sum(bool(re.search(register, line)) for line in multiply_adds) >= 3


@pytest.mark.parametrize(("name", "dtype"), [("exp", "float32"), ("tanh", "float64")])
def test_loop_uses_the_whole_vectors_of_this_processor(name: str, dtype: str) -> None:
    if not host().is_x86 or host().vector_bytes < 32:
        pytest.skip("looks for the registers of AVX and AVX-512")
    triple = llvm.get_process_triple()
    text = assembly(name, dtype, triple, host().cpu, host().features)
    assert re.search(r"vfmadd\w+\s.*%zmm" if host().vector_bytes == 64 else r"vfmadd\w+\s.*%ymm", text)


# ------------------------------------------------------------------------------------------------- interface


def test_text_defines_what_is_asked_for_once() -> None:
    text = math_functions([("exp", "float32"), ("sin", "float64"), ("exp", "float32"), ("cos", "float64")])
    defined = re.findall(r"define internal \w+ @(\S+)\(", text)
    assert sorted(defined) == ["needle.cos.f64", "needle.exp.f32", "needle.sin.f64"]
    assert text.count("@needle.inverse_tau = ") == 1
    declared = [line for line in text.splitlines() if line.startswith("declare")]
    assert len(declared) == len(set(declared))
    llvm.parse_assembly(text).verify()


def test_functions_have_no_branch_and_no_fast_math() -> None:
    text = math_functions(FUNCTIONS)
    assert set(re.findall(r"\bbr .*", text)) <= {"br label %start"}
    assert not re.search(r"\b(fast|nnan|ninf|nsz|reassoc|arcp|afn|contract)\b", text)


def test_function_that_does_not_exist_is_refused() -> None:
    with pytest.raises(KeyError):
        math_functions([("gamma", "float32")])
