"""Traced arrays: they answer the array API, compute nothing, and record what was asked of them.

An operator's `compute` is run on `TracedArray`s as it would be on NumPy's arrays. Each call makes a node of the graph
with the shape and the dtype that NumPy's result would have; what is implicit in NumPy (broadcasting, promotion,
negative indices) becomes nodes of its own. NumPy's own functions work on traced arrays too, through
`__array_ufunc__` and `__array_function__`, so that an operator written with `np.` traces as well.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, NoReturn

import numpy as np
from numpy.typing import NDArray

from needle import tracing
from needle.compiler.graph import Node, constant_node, make_node
from needle.compiler.primitives import UFUNC_OF
from needle.compiler.user_code import trace_error, uncompiled_error, user_source
from needle.errors import TraceError

__all__ = ["TracedArray", "apply_ufunc", "as_node", "node_dtype"]


class TracedArray:
    """An array that is not there yet: a shape, a dtype, and the node that will compute it."""

    __slots__ = ("__weakref__", "node")

    # The module of functions for traced arrays, which is built on this class and puts itself here.
    namespace: ClassVar[Any]

    def __init__(self, node: Node) -> None:
        self.node = node

    @property
    def shape(self) -> tuple[int, ...]:
        """The length of each axis."""
        return self.node.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """The data type."""
        return self.node.dtype

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.node.shape)

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.node.shape)

    @property
    def T(self) -> TracedArray:  # noqa: N802  the array API's name
        """The axes in reverse order."""
        return self.namespace.permute_dims(self, tuple(reversed(range(self.ndim))))

    # ------------------------------------------------------------------------- how other code finds functions

    def __array_namespace__(self, api_version: str | None = None) -> Any:
        return self.namespace

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        if method == "reduce":
            return self.namespace.reduce_by_ufunc(ufunc, *inputs, **options)
        if method != "__call__" or options:
            raise uncompiled_error(f"np.{ufunc.__name__}.{method} with {sorted(options)}")
        if ufunc is np.matmul:
            return self.namespace.matmul(*inputs)
        return apply_ufunc(ufunc, *inputs)

    def __array_function__(self, function: Callable[..., Any], types: Any, args: Any, options: Any) -> Any:
        known = getattr(self.namespace, function.__name__, None)
        if known is None:
            raise uncompiled_error(f"np.{function.__name__}", function.__name__ in _OF_NO_FIXED_SHAPE)
        return known(*args, **options)

    # ---------------------------------------------------------------------------------------------- operators

    def __add__(self, other: Any) -> TracedArray:
        return apply_ufunc(np.add, self, other)

    def __radd__(self, other: Any) -> TracedArray:
        return apply_ufunc(np.add, other, self)

    def __sub__(self, other: Any) -> TracedArray:
        return apply_ufunc(np.subtract, self, other)

    def __rsub__(self, other: Any) -> TracedArray:
        return apply_ufunc(np.subtract, other, self)

    def __mul__(self, other: Any) -> TracedArray:
        return apply_ufunc(np.multiply, self, other)

    def __rmul__(self, other: Any) -> TracedArray:
        return apply_ufunc(np.multiply, other, self)

    def __truediv__(self, other: Any) -> TracedArray:
        return apply_ufunc(np.divide, self, other)

    def __rtruediv__(self, other: Any) -> TracedArray:
        return apply_ufunc(np.divide, other, self)

    def __floordiv__(self, other: Any) -> TracedArray:
        return apply_ufunc(np.floor_divide, self, other)

    def __mod__(self, other: Any) -> TracedArray:
        return apply_ufunc(np.remainder, self, other)

    def __pow__(self, other: Any) -> TracedArray:
        return apply_ufunc(np.power, self, other)

    def __rpow__(self, other: Any) -> TracedArray:
        return apply_ufunc(np.power, other, self)

    def __matmul__(self, other: Any) -> TracedArray:
        return self.namespace.matmul(self, other)

    def __rmatmul__(self, other: Any) -> TracedArray:
        return self.namespace.matmul(other, self)

    def __neg__(self) -> TracedArray:
        return apply_ufunc(np.negative, self)

    def __abs__(self) -> TracedArray:
        return apply_ufunc(np.absolute, self)

    def __invert__(self) -> TracedArray:
        return apply_ufunc(np.invert, self)

    def __and__(self, other: Any) -> TracedArray:
        return apply_ufunc(np.bitwise_and, self, other)

    def __or__(self, other: Any) -> TracedArray:
        return apply_ufunc(np.bitwise_or, self, other)

    def __xor__(self, other: Any) -> TracedArray:
        return apply_ufunc(np.bitwise_xor, self, other)

    __rand__, __ror__, __rxor__ = __and__, __or__, __xor__

    def __lshift__(self, other: Any) -> TracedArray:
        return apply_ufunc(np.left_shift, self, other)

    def __rshift__(self, other: Any) -> TracedArray:
        return apply_ufunc(np.right_shift, self, other)

    def __eq__(self, other: object) -> TracedArray:  # type: ignore[override]
        return apply_ufunc(np.equal, self, other)

    def __ne__(self, other: object) -> TracedArray:  # type: ignore[override]
        return apply_ufunc(np.not_equal, self, other)

    def __lt__(self, other: Any) -> TracedArray:
        return apply_ufunc(np.less, self, other)

    def __le__(self, other: Any) -> TracedArray:
        return apply_ufunc(np.less_equal, self, other)

    def __gt__(self, other: Any) -> TracedArray:
        return apply_ufunc(np.greater, self, other)

    def __ge__(self, other: Any) -> TracedArray:
        return apply_ufunc(np.greater_equal, self, other)

    __hash__ = object.__hash__

    # ------------------------------------------------------------------------------- methods that NumPy's have

    def astype(self, dtype: Any, copy: bool = True) -> TracedArray:
        """Return the elements in another dtype."""
        return self.namespace.astype(self, dtype)

    def reshape(self, *shape: Any) -> TracedArray:
        """Return the elements in another shape."""
        return self.namespace.reshape(self, shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape)

    def transpose(self, *axes: Any) -> TracedArray:
        """Return the axes in another order, reversed where none is given."""
        order = axes[0] if len(axes) == 1 and not isinstance(axes[0], int) else axes
        return self.namespace.permute_dims(self, order) if order else self.T

    def sum(self, axis: Any = None, dtype: Any = None, keepdims: bool = False) -> TracedArray:
        """Sum over axes."""
        return self.namespace.sum(self, axis=axis, dtype=dtype, keepdims=keepdims)

    def mean(self, axis: Any = None, keepdims: bool = False) -> TracedArray:
        """Average over axes."""
        return self.namespace.mean(self, axis=axis, keepdims=keepdims)

    def max(self, axis: Any = None, keepdims: bool = False) -> TracedArray:
        """Return the largest element over axes."""
        return self.namespace.max(self, axis=axis, keepdims=keepdims)

    def min(self, axis: Any = None, keepdims: bool = False) -> TracedArray:
        """Return the smallest element over axes."""
        return self.namespace.min(self, axis=axis, keepdims=keepdims)

    def copy(self) -> TracedArray:
        """Return this array: a traced array never changes."""
        return self

    def __getitem__(self, index: Any) -> TracedArray:
        return self.namespace.take_by_index(self, index)

    def check_when_run(self, check: Callable[[NDArray[Any]], None]) -> None:
        """Have `check` look at the values in each run; it raises where they are wrong."""
        current = tracing.recorder()
        if current is not None:
            current.check(self, check)

    # --------------------------------------------------------------------- what needs the values: not while tracing

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("an array of no axes has no length")
        return self.shape[0]

    def __iter__(self) -> Iterator[TracedArray]:
        return (self[i] for i in range(len(self)))

    def __bool__(self) -> bool:
        raise self._without_values(
            "a branch on a value (if, while, and, or, not, bool())",
            "choose with ndl.where, or decide outside and pass a Python bool or number, each of which gets its program",
        )

    def __float__(self) -> float:
        raise self._without_values("float() of a value", _OUTSIDE)

    def __int__(self) -> int:
        raise self._without_values("int() of a value", _OUTSIDE)

    def __index__(self) -> int:
        raise self._without_values("a value as a number of Python", "pass the number itself, or index with the Tensor")

    def __array__(self, *_: Any, **__: Any) -> NoReturn:
        raise self._without_values("the values as a NumPy array (np.asarray, numpy(), tolist())", _OUTSIDE)

    def __format__(self, spec: str) -> str:
        if not spec:
            return str(self)
        raise self._without_values(f"the value written as {spec!r} says", _OUTSIDE)

    def look_for_value(self) -> NoReturn:
        """Refuse to tell whether a value is among the elements."""
        raise self._without_values("whether a value is in a Tensor (in)", _OUTSIDE)

    def get(self) -> NoReturn:
        """Refuse to give the values to the host."""
        self.__array__()

    def item(self) -> NoReturn:
        """Refuse: there is no value yet."""
        raise self._without_values("the value of an element", _OUTSIDE)

    def _without_values(self, what: str, remedy: str) -> TraceError:
        """Return the error for what needs values."""
        if tracing.recorder() is not None:
            return trace_error(f"{what} needs values, and a function has none while it is compiled", remedy)
        made = f" at {self.node.source}" if self.node.source else ""
        return TraceError(
            f"this Tensor was made{made} while a function was compiled, and never gets values: return it from "
            "the function"
        )

    @property
    def placeholder(self) -> str:
        """What is printed in the place of values."""
        return f"traced: {self.node}, no values while the function is compiled"

    def __repr__(self) -> str:
        return f"TracedArray({self.node})"


_OUTSIDE = (
    "return the Tensor from the function and look at it outside, or run without compiling (NEEDLE_JIT=0, or "
    "with ndl.jit.disabled():)"
)
# NumPy's functions whose result is as long as the values say.
_OF_NO_FIXED_SHAPE = frozenset(
    {"argwhere", "compress", "extract", "flatnonzero", "nonzero", "trim_zeros", "unique", "union1d", "intersect1d"}
)


def traced(primitive: str, *inputs: Node, **params: Any) -> TracedArray:
    """Record one primitive."""
    return TracedArray(make_node(primitive, inputs, user_source(), **params))


def node_dtype(value: Any) -> Any:
    """Return an operand's dtype, or the Python type of a number, which takes on the other operand's."""
    if isinstance(value, (bool, np.bool_)):
        return np.dtype(bool)
    if type(value) in (int, float):
        return type(value)
    if isinstance(value, tracing.HostNumber):
        return type(value.value)
    if hasattr(value, "dtype"):
        return value.dtype
    raise TraceError(f"a traced array does not combine with {type(value).__name__}")


def as_node(value: Any, dtype: np.dtype[Any] | None = None) -> Node:
    """Return the node of an operand: a traced array's own, or a constant; cast to `dtype` where given."""
    if isinstance(value, tracing.HostNumber):
        return value.owner.number_node(value, np.asarray(value.value, dtype=dtype).dtype)
    node = value.node if isinstance(value, TracedArray) else constant_node(np.asarray(value, dtype=dtype))
    if dtype is None or node.dtype == dtype:
        return node
    return make_node("cast", (node,), user_source(), dtype=dtype)


def broadcast_node(node: Node, shape: Sequence[int]) -> Node:
    """Repeat a node to `shape`: first the missing axes, then those of length 1."""
    shape = tuple(shape)
    if len(node.shape) < len(shape):
        padded = (1,) * (len(shape) - len(node.shape)) + node.shape
        node = make_node("reshape", (node,), user_source(), shape=padded)
    return node if node.shape == shape else make_node("broadcast", (node,), user_source(), shape=shape)


def apply_ufunc(ufunc: np.ufunc, *operands: Any) -> TracedArray:
    """Record an elementwise function of NumPy, with the broadcasts and casts that NumPy would do."""
    if ufunc.__name__ not in UFUNC_OF:
        raise uncompiled_error(f"np.{ufunc.__name__}")
    dtypes = tuple(map(node_dtype, operands))
    loop = ufunc.resolve_dtypes((*dtypes, *[None] * ufunc.nout))
    shape = np.broadcast_shapes(*map(_shape, operands))
    nodes = [as_node(one, dtype) for one, dtype in zip(operands, loop, strict=False)]
    return traced(ufunc.__name__, *(broadcast_node(node, shape) for node in nodes))


def _shape(operand: Any) -> tuple[int, ...]:
    if isinstance(operand, tracing.HostNumber):
        return ()
    return operand.shape if isinstance(operand, TracedArray) else np.shape(operand)


def as_axes(axis: Any, ndim: int) -> tuple[int, ...]:
    """Return an axis argument as a tuple of numbers from 0 to ndim − 1."""
    if axis is None:
        return tuple(range(ndim))
    listed = axis if isinstance(axis, (tuple, list)) else (axis,)
    return tuple(operator.index(one) % ndim for one in listed)
