"""The table of primitives: everything that a traced program is made of, one row each.

A row holds the primitive's name, its rule (`infer`: shape and dtype from those of the inputs) and its meaning
(`evaluate`: the same in NumPy, which the reference interpreter runs). A new primitive is a new row.

Elementwise primitives are NumPy's own functions on operands of one shape and of the dtypes that NumPy would compute
in: the tracer puts the broadcasts and casts there, so that nothing is implicit from here on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from needle.dtype import cast, is_narrow

__all__ = ["ELEMENTWISE", "MOVEMENT", "PRIMITIVES", "PRODUCTS", "REDUCTIONS", "UFUNC_OF", "Primitive"]

Shape: TypeAlias = tuple[int, ...]
Kind: TypeAlias = tuple[Shape, np.dtype[Any]]


class Operand(Protocol):
    """What a rule needs to know of an input."""

    @property
    def shape(self) -> Shape:
        """The length of each axis."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """The data type."""


@dataclass(frozen=True)
class Primitive:
    """One row of the table.

    Attributes:
        name: what graphs call it.
        infer: `infer(*inputs, **params)` gives (shape, dtype).
        evaluate: `evaluate(*arrays, **params)` gives the array.
        cost: of one element of an elementwise primitive: 1 for one instruction, 10 for a division or a function.
        in_vectors: whether the code that is written for one number is right for a vector of them too.
    """

    name: str
    infer: Callable[..., Kind]
    evaluate: Callable[..., NDArray[Any]]
    cost: int = 10
    in_vectors: bool = False


# -------------------------------------------------------------------------------------------- elementwise

# One instruction each, for a number as for a vector of them.
_ONE_INSTRUCTION: tuple[np.ufunc, ...] = (
    *(np.add, np.subtract, np.multiply, np.maximum, np.minimum, np.negative, np.absolute),
    *(np.equal, np.not_equal, np.less, np.less_equal, np.greater, np.greater_equal),
    *(np.logical_and, np.logical_or, np.logical_not),
)
_ONE_INSTRUCTION_OF_INTEGERS: tuple[np.ufunc, ...] = (np.bitwise_and, np.bitwise_or, np.invert)
_SLOW_INSTRUCTION: tuple[np.ufunc, ...] = (np.divide, np.sqrt, np.square)
_FUNCTIONS: tuple[np.ufunc, ...] = (
    *(np.power, np.remainder, np.floor_divide, np.sign, np.reciprocal),
    *(np.exp, np.exp2, np.expm1, np.log, np.log2, np.log10, np.log1p),
    *(np.sin, np.cos, np.tan, np.arctan, np.arctan2, np.sinh, np.cosh, np.tanh),
    *(np.floor, np.ceil, np.rint, np.trunc),
    *(np.isfinite, np.isnan, np.isinf, np.signbit, np.copysign),
    *(np.logical_xor, np.bitwise_xor, np.left_shift, np.right_shift),
)
_UFUNCS = (*_ONE_INSTRUCTION, *_ONE_INSTRUCTION_OF_INTEGERS, *_SLOW_INSTRUCTION, *_FUNCTIONS)

UFUNC_OF: dict[str, np.ufunc] = {ufunc.__name__: ufunc for ufunc in _UFUNCS}


def _elementwise(ufunc: np.ufunc) -> Primitive:
    def infer(*inputs: Operand) -> Kind:
        assert len({one.shape for one in inputs}) == 1, f"{ufunc.__name__}: operands of different shapes"
        dtypes = tuple(one.dtype for one in inputs)
        resolved = ufunc.resolve_dtypes((*dtypes, None))
        assert resolved[:-1] == dtypes, f"{ufunc.__name__}: operands are not cast to {resolved[:-1]}"
        return inputs[0].shape, resolved[-1]

    def evaluate(*arrays: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(ufunc(*arrays))

    cost = 1 if ufunc in (*_ONE_INSTRUCTION, *_ONE_INSTRUCTION_OF_INTEGERS) else 10
    return Primitive(ufunc.__name__, infer, evaluate, cost, ufunc in (*_ONE_INSTRUCTION, *_SLOW_INSTRUCTION))


def _infer_multiply_add(a: Operand, b: Operand, c: Operand) -> Kind:
    assert (a.shape, a.dtype) == (b.shape, b.dtype) == (c.shape, c.dtype), "multiply_add: operands of different kinds"
    return a.shape, a.dtype


def _evaluate_multiply_add(a: NDArray[Any], b: NDArray[Any], c: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(a * b + c)


def _infer_erf(a: Operand) -> Kind:
    assert a.dtype.kind not in "iub", f"erf: an operand of {a.dtype}"
    return a.shape, a.dtype


def _evaluate_erf(a: NDArray[Any]) -> NDArray[Any]:
    return np.vectorize(math.erf, otypes=[np.float64])(a.astype(np.float64)).astype(a.dtype)


def _infer_where(condition: Operand, a: Operand, b: Operand) -> Kind:
    assert condition.dtype == np.bool_ and a.dtype == b.dtype
    assert condition.shape == a.shape == b.shape
    return a.shape, a.dtype


def _infer_after(a: Operand, b: Operand) -> Kind:
    assert a.shape == b.shape
    return a.shape, a.dtype


def _infer_cast(a: Operand, dtype: np.dtype[Any]) -> Kind:
    return a.shape, dtype


# -------------------------------------------------------------------------------------------- reductions


def _infer_reduction(a: Operand, axes: Sequence[int]) -> Kind:
    return tuple(length for axis, length in enumerate(a.shape) if axis not in axes), a.dtype


def _reduction(name: str, reduce: Callable[..., Any]) -> Primitive:
    def evaluate(a: NDArray[Any], axes: tuple[int, ...]) -> NDArray[Any]:
        return np.asarray(reduce(a, axis=axes))

    return Primitive(name, _infer_reduction, evaluate)


def _sum(a: NDArray[Any], axis: tuple[int, ...]) -> Any:
    return np.sum(a, axis=axis, dtype=a.dtype)


def _prod(a: NDArray[Any], axis: tuple[int, ...]) -> Any:
    return np.prod(a, axis=axis, dtype=a.dtype)


def _infer_arg(a: Operand, axis: int) -> Kind:
    return a.shape[:axis] + a.shape[axis + 1 :], np.dtype(np.int64)


def _infer_cumsum(a: Operand, axis: int) -> Kind:
    return a.shape, a.dtype


# ---------------------------------------------------------------------------------------------- movement


def _infer_reshape(a: Operand, shape: Shape) -> Kind:
    assert np.prod(a.shape, dtype=int) == np.prod(shape, dtype=int), f"reshape {a.shape} to {shape}"
    return shape, a.dtype


def _infer_permute(a: Operand, axes: Shape) -> Kind:
    assert sorted(axes) == list(range(len(a.shape)))
    return tuple(a.shape[axis] for axis in axes), a.dtype


def _infer_broadcast(a: Operand, shape: Shape) -> Kind:
    assert len(a.shape) == len(shape), "broadcast adds no axes: reshape does"
    assert all(n in (1, m) for n, m in zip(a.shape, shape, strict=True)), f"broadcast {a.shape} to {shape}"
    return shape, a.dtype


def _infer_slice(a: Operand, start: Shape, stop: Shape, step: Shape) -> Kind:
    return tuple(len(range(*bounds)) for bounds in zip(start, stop, step, strict=True)), a.dtype


def _evaluate_slice(a: NDArray[Any], start: Shape, stop: Shape, step: Shape) -> NDArray[Any]:
    return a[tuple(slice(*bounds) for bounds in zip(start, stop, step, strict=True))]


def _infer_pad(a: Operand, widths: Sequence[tuple[int, int]], value: float = 0.0) -> Kind:
    return tuple(before + n + after for n, (before, after) in zip(a.shape, widths, strict=True)), a.dtype


def _evaluate_pad(a: NDArray[Any], widths: Sequence[tuple[int, int]], value: float = 0.0) -> NDArray[Any]:
    return np.pad(a, widths, constant_values=value) if a.ndim else a


def _infer_windows(a: Operand, axes: Shape, sizes: Shape) -> Kind:
    lengths = list(a.shape)
    for axis, size in zip(axes, sizes, strict=True):
        lengths[axis] -= size - 1
    assert all(length >= 0 for length in lengths), f"windows of {sizes} do not fit into {a.shape}"
    return (*lengths, *sizes), a.dtype


def _evaluate_windows(a: NDArray[Any], axes: Shape, sizes: Shape) -> NDArray[Any]:
    return np.lib.stride_tricks.sliding_window_view(a, sizes, axis=axes)


def _infer_flip(a: Operand, axis: Shape) -> Kind:
    return a.shape, a.dtype


def _infer_concat(*inputs: Operand, axis: int) -> Kind:
    first = inputs[0]
    total = sum(one.shape[axis] for one in inputs)
    return (*first.shape[:axis], total, *first.shape[axis + 1 :]), first.dtype


def _evaluate_concat(*arrays: NDArray[Any], axis: int) -> NDArray[Any]:
    return np.concatenate(arrays, axis=axis)


# ----------------------------------------------------------------------- contraction, gather and scatter


def _infer_matmul(a: Operand, b: Operand) -> Kind:
    assert a.dtype == b.dtype and len(a.shape) == len(b.shape) >= 2
    assert a.shape[:-2] == b.shape[:-2] and a.shape[-1] == b.shape[-2], f"matmul {a.shape} @ {b.shape}"
    return (*a.shape[:-1], b.shape[-1]), a.dtype


def _infer_widening_matmul(a: Operand, b: Operand) -> Kind:
    assert is_narrow(a.dtype)
    return _infer_matmul(a, b)[0], np.dtype(np.float32)


def _evaluate_widening_matmul(a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
    return np.matmul(a.astype(np.float32), b.astype(np.float32))


def _infer_gather(a: Operand, indices: Operand) -> Kind:
    return (*indices.shape, *a.shape[1:]), a.dtype


def _evaluate_gather(a: NDArray[Any], indices: NDArray[Any]) -> NDArray[Any]:
    return a[indices]


def _infer_scatter_add(values: Operand, indices: Operand, length: int) -> Kind:
    return (length, *values.shape[len(indices.shape) :]), values.dtype


def _evaluate_scatter_add(values: NDArray[Any], indices: NDArray[Any], length: int) -> NDArray[Any]:
    result = np.zeros((length, *values.shape[indices.ndim :]), dtype=values.dtype)
    np.add.at(result, indices, values)
    return result


def _infer_iota(length: int, dtype: np.dtype[Any]) -> Kind:
    return (length,), dtype


def _evaluate_iota(length: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    return np.arange(length, dtype=dtype)


def _infer_repeat(
    *inputs: Operand,
    body: Any,
    length: int,
    carried: int,
    elements: int,
    every: tuple[int, ...],
    counted: bool,
    backwards: bool,
    serial: int | None,
) -> Kind:
    kinds = [(one.shape, one.dtype) for one in inputs]
    if counted:
        assert kinds[carried + elements] == ((), np.dtype(np.int64)), f"{kinds[carried + elements]} counts steps"
    for number, each in zip(range(carried, carried + elements), every, strict=True):
        (steps, *shape), dtype = kinds[number]
        assert length % (steps * each) == 0, f"a loop of {length} steps through {kinds[number]}, {each} steps each"
        kinds[number] = tuple(shape), dtype
    inside = [[(one.shape, one.dtype) for one in side] for side in (body.inputs, body.outputs)]
    assert kinds == inside[0], f"a body of {inside[0]} is given {kinds}"
    assert kinds[:carried] == inside[1][:carried], f"{kinds[:carried]} are carried, {inside[1][:carried]} carried on"
    return (), np.dtype(bool)


def _infer_result(loop: Any, number: int) -> Kind:
    one, params = loop.params["body"].outputs[number], loop.params
    return (one.shape if number < params["carried"] else (params["length"], *one.shape)), one.dtype


def _evaluate_repeat(*arrays: NDArray[Any], **params: Any) -> NDArray[Any]:
    raise AssertionError("the interpreter runs loops itself")


def _evaluate_result(results: NDArray[Any], number: int) -> NDArray[Any]:
    return np.asarray(results[number])


_ROWS = [
    *map(_elementwise, _UFUNCS),
    Primitive("multiply_add", _infer_multiply_add, _evaluate_multiply_add, cost=1, in_vectors=True),
    Primitive("erf", _infer_erf, _evaluate_erf),
    Primitive("where", _infer_where, np.where, cost=1, in_vectors=True),
    # The elements of a, but not before b is there: equal to no other node, so that what is made of it is computed anew.
    Primitive("after", _infer_after, lambda a, b: a, cost=1),
    Primitive("cast", _infer_cast, cast, cost=1),
    _reduction("reduce_sum", _sum),
    _reduction("reduce_prod", _prod),
    _reduction("reduce_max", np.max),
    _reduction("reduce_min", np.min),
    Primitive("argmax", _infer_arg, lambda a, axis: np.asarray(np.argmax(a, axis=axis))),
    Primitive("argmin", _infer_arg, lambda a, axis: np.asarray(np.argmin(a, axis=axis))),
    Primitive("cumsum", _infer_cumsum, lambda a, axis: np.cumsum(a, axis=axis, dtype=a.dtype)),
    Primitive("reshape", _infer_reshape, np.reshape),
    Primitive("permute", _infer_permute, np.transpose),
    Primitive("broadcast", _infer_broadcast, np.broadcast_to),
    Primitive("slice", _infer_slice, _evaluate_slice),
    Primitive("pad", _infer_pad, _evaluate_pad),
    Primitive("windows", _infer_windows, _evaluate_windows),
    Primitive("flip", _infer_flip, np.flip),
    Primitive("concat", _infer_concat, _evaluate_concat),
    Primitive("matmul", _infer_matmul, np.matmul),
    Primitive("widening_matmul", _infer_widening_matmul, _evaluate_widening_matmul),
    Primitive("gather", _infer_gather, _evaluate_gather),
    Primitive("scatter_add", _infer_scatter_add, _evaluate_scatter_add),
    Primitive("iota", _infer_iota, _evaluate_iota),
    # A loop, and one of the arrays that it returns: see `repeat`.
    Primitive("repeat", _infer_repeat, _evaluate_repeat),
    Primitive("result", _infer_result, _evaluate_result),
]

# Those that compute each element of the result from the operands' elements at the same place.
ELEMENTWISE = frozenset(UFUNC_OF) | {"multiply_add", "erf", "where", "cast", "after"}

# Those that make one element of all along some axes.
REDUCTIONS = frozenset({"reduce_sum", "reduce_prod", "reduce_max", "reduce_min", "argmax", "argmin"})

# Those whose elements are elements of the operand, elsewhere.
MOVEMENT = frozenset({"reshape", "permute", "broadcast", "slice", "windows", "flip"})

# Matrix products; the second of float16 or bfloat16, summed in float32, which a pass puts in place of the first.
PRODUCTS = frozenset({"matmul", "widening_matmul"})

PRIMITIVES: dict[str, Primitive] = {row.name: row for row in _ROWS}
