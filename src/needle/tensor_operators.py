"""The signs and methods of a Tensor, each one call of an operator from `needle.ops`.

`needle.ops` is built on Tensor, and Tensor's methods need `needle.ops`. So the methods are kept here, apart from the
differentiation in `needle.autograd`, and reach the operators through `TensorOperators.operators`, which `needle.ops`
fills in when it is imported.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from needle.compiler import TracedArray
from needle.errors import DTypeError, ShapeError

if TYPE_CHECKING:
    from needle import ops
    from needle.autograd import Tensor
    from needle.device import Device

__all__ = ["Axes", "Operand", "Scalar", "TensorOperators"]

Scalar: TypeAlias = "float | int | bool | np.generic"
Operand: TypeAlias = "Tensor | Scalar | NDArray[Any]"
Axes: TypeAlias = "int | Sequence[int] | None"


class TensorOperators:
    """The signs (`+`, `@`, `[]`) and methods of a Tensor."""

    __slots__ = ()

    operators: ClassVar[Any]
    # NumPy must not take `array + tensor` apart element by element: it leaves the sum to Tensor.__radd__.
    __array_ufunc__ = None

    if TYPE_CHECKING:
        operators = ops

        @property
        def shape(self) -> tuple[int, ...]:
            """The length of each axis."""

        @property
        def dtype(self) -> np.dtype[Any]:
            """The data type."""

        def numpy(self) -> NDArray[Any]:
            """Return the values."""

        def realize_cached_data(self) -> Any:
            """Return the raw data."""

    # ------------------------------------------------------------------------------------------ arithmetic

    def __add__(self: Tensor, other: Operand) -> Tensor:
        if isinstance(other, TensorOperators):
            return self.operators.add(self, other)
        if is_scalar(other):
            return self.operators.add_scalar(self, other)
        return self.operators.add(self, as_operand(other))

    __radd__ = __add__

    def __sub__(self: Tensor, other: Operand) -> Tensor:
        if is_scalar(other):
            return self.operators.add_scalar(self, -as_number(other))
        return self.operators.add(self, self.operators.negate(as_operand(other)))

    def __rsub__(self: Tensor, other: Operand) -> Tensor:
        return self.operators.negate(self) + other

    def __mul__(self: Tensor, other: Operand) -> Tensor:
        if isinstance(other, TensorOperators):
            return self.operators.multiply(self, other)
        if is_scalar(other):
            return self.operators.mul_scalar(self, other)
        return self.operators.multiply(self, as_operand(other))

    __rmul__ = __mul__

    def __truediv__(self: Tensor, other: Operand) -> Tensor:
        if isinstance(other, TensorOperators):
            return self.operators.divide(self, other)
        if is_scalar(other):
            return self.operators.divide_scalar(self, other)
        return self.operators.divide(self, as_operand(other))

    def __rtruediv__(self: Tensor, other: Operand) -> Tensor:
        return self.operators.divide(constant_beside(self, other), self)

    def __pow__(self: Tensor, other: Operand) -> Tensor:
        if isinstance(other, TensorOperators):
            return self.operators.power(self, other)
        if is_scalar(other):
            return self.operators.power_scalar(self, other)
        return self.operators.power(self, as_operand(other))

    def __rpow__(self: Tensor, other: Operand) -> Tensor:
        return self.operators.power(constant_beside(self, other), self)

    def __matmul__(self: Tensor, other: Tensor | NDArray[Any]) -> Tensor:
        return self.operators.matmul(self, as_operand(other))

    def __rmatmul__(self: Tensor, other: NDArray[Any]) -> Tensor:
        return self.operators.matmul(as_operand(other), self)

    def __neg__(self: Tensor) -> Tensor:
        return self.operators.negate(self)

    def __pos__(self: Tensor) -> Tensor:
        return self

    def __abs__(self: Tensor) -> Tensor:
        return self.operators.abs(self)

    def matmul(self: Tensor, other: Tensor) -> Tensor:
        """Return the matrix product: `needle.ops.matmul`."""
        return self.operators.matmul(self, other)

    # ------------------------------------------------- comparison (`==` stays identity: Tensors are dict keys)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, (int, float, np.ndarray, np.generic)):
            self._warn_of_identity("==", "ndl.equal(a, b) elementwise, or a.item() == b")
        return self is other

    def __ne__(self, other: object) -> bool:
        if isinstance(other, (int, float, np.ndarray, np.generic)):
            self._warn_of_identity("!=", "ndl.not_equal(a, b) elementwise, or a.item() != b")
        return self is not other

    __hash__ = object.__hash__

    def _warn_of_identity(self, sign: str, instead: str) -> None:
        """Say that a Tensor is compared with a number, which it never is: hardly ever is that what was meant."""
        always = "False" if sign == "==" else "True"
        warnings.warn(
            f"{sign} between a Tensor and a number or an array tells whether they are one object, and is always "
            f"{always}: write {instead}",
            stacklevel=3,
        )

    def __lt__(self: Tensor, other: Operand) -> Tensor:
        return self.operators.less(self, other)

    def __le__(self: Tensor, other: Operand) -> Tensor:
        return self.operators.less_equal(self, other)

    def __gt__(self: Tensor, other: Operand) -> Tensor:
        return self.operators.greater(self, other)

    def __ge__(self: Tensor, other: Operand) -> Tensor:
        return self.operators.greater_equal(self, other)

    # ------------------------------------------------------------------------------------ shape and indexing

    def __getitem__(self: Tensor, index: Any) -> Tensor:
        return self.operators.getitem(self, index)

    def __len__(self) -> int:
        if not self.shape:
            raise ShapeError("len(): a Tensor of no axes has no length")
        return self.shape[0]

    def __iter__(self: Tensor) -> Iterator[Tensor]:
        return (self[i] for i in range(len(self)))

    def __contains__(self, value: object) -> bool:
        """Tell whether a number is among the elements."""
        data = self.realize_cached_data()
        if type(data) is TracedArray:
            data.look_for_value()
        if not is_scalar(value):
            raise DTypeError(f"in: a number may be among a Tensor's elements, got {_kind(value)}")
        return bool((self.numpy() == value).any())

    def reshape(self: Tensor, *shape: int | Sequence[int]) -> Tensor:
        """Return the same elements in another shape: `needle.ops.reshape`."""
        return self.operators.reshape(self, shape_argument(shape))

    def broadcast_to(self: Tensor, *shape: int | Sequence[int]) -> Tensor:
        """Return the elements repeated to a larger shape: `needle.ops.broadcast_to`."""
        return self.operators.broadcast_to(self, shape_argument(shape))

    def transpose(self: Tensor, axes: tuple[int, int] | None = None) -> Tensor:
        """Swap two axes, the last two where none are named: `needle.ops.transpose`."""
        return self.operators.transpose(self, axes)

    def permute(self: Tensor, *axes: int | Sequence[int]) -> Tensor:
        """Return the axes in another order: `needle.ops.permute`."""
        return self.operators.permute(self, shape_argument(axes))

    @property
    def T(self: Tensor) -> Tensor:  # noqa: N802  the field's name
        """The matrix transposed: the last two axes swapped."""
        return self.operators.transpose(self)

    def squeeze(self: Tensor, axes: Axes = None) -> Tensor:
        """Drop axes of length 1: `needle.ops.squeeze`."""
        return self.operators.squeeze(self, axes)

    def expand_dims(self: Tensor, axes: int | Sequence[int]) -> Tensor:
        """Insert axes of length 1: `needle.ops.expand_dims`."""
        return self.operators.expand_dims(self, axes)

    def flatten(self: Tensor) -> Tensor:
        """Return all elements along one axis."""
        return self.operators.reshape(self, (-1,))

    # ------------------------------------------------------------------------------------------- reductions

    def sum(self: Tensor, axes: Axes = None, keepdims: bool = False) -> Tensor:
        """Sum over axes, all where None: `needle.ops.summation`."""
        return self.operators.summation(self, axes, keepdims)

    def mean(self: Tensor, axes: Axes = None, keepdims: bool = False) -> Tensor:
        """Average over axes: `needle.ops.mean`."""
        return self.operators.mean(self, axes, keepdims)

    def var(self: Tensor, axes: Axes = None, keepdims: bool = False) -> Tensor:
        """Return the biased variance over axes: `needle.ops.var`."""
        return self.operators.var(self, axes, keepdims)

    def prod(self: Tensor, axes: Axes = None, keepdims: bool = False) -> Tensor:
        """Multiply over axes: `needle.ops.prod`."""
        return self.operators.prod(self, axes, keepdims)

    def max(self: Tensor, axes: Axes = None, keepdims: bool = False) -> Tensor:
        """Return the largest element over axes: `needle.ops.max`."""
        return self.operators.max(self, axes, keepdims)

    def min(self: Tensor, axes: Axes = None, keepdims: bool = False) -> Tensor:
        """Return the smallest element over axes: `needle.ops.min`."""
        return self.operators.min(self, axes, keepdims)

    def argmax(self: Tensor, axis: int | None = None, keepdims: bool = False) -> Tensor:
        """Return where the largest element is: `needle.ops.argmax`."""
        return self.operators.argmax(self, axis, keepdims)

    def argmin(self: Tensor, axis: int | None = None, keepdims: bool = False) -> Tensor:
        """Return where the smallest element is: `needle.ops.argmin`."""
        return self.operators.argmin(self, axis, keepdims)

    # ------------------------------------------------------------------------------------------ elementwise

    def exp(self: Tensor) -> Tensor:
        """Return e to the power of each element."""
        return self.operators.exp(self)

    def log(self: Tensor) -> Tensor:
        """Return the natural logarithm of each element."""
        return self.operators.log(self)

    def sqrt(self: Tensor) -> Tensor:
        """Return the square root of each element."""
        return self.operators.sqrt(self)

    def tanh(self: Tensor) -> Tensor:
        """Return the hyperbolic tangent of each element."""
        return self.operators.tanh(self)

    def abs(self: Tensor) -> Tensor:
        """Return the absolute value of each element."""
        return self.operators.abs(self)

    def clip(self: Tensor, low: float | None = None, high: float | None = None) -> Tensor:
        """Limit each element to [low, high]."""
        return self.operators.clip(self, low, high)

    # ------------------------------------------------------------------------------------- leaving the graph

    def astype(self: Tensor, dtype: DTypeLike) -> Tensor:
        """Return the values in another dtype: `needle.ops.astype`."""
        return self.operators.astype(self, dtype)

    def to(self: Tensor, device: Device | None = None, dtype: DTypeLike | None = None) -> Tensor:
        """Return this Tensor on `device` and in `dtype`; itself where it is so already."""
        moved = self if device is None or device == self.device else self.operators.to_device(self, device)
        return moved if dtype is None or moved.dtype == dtype else moved.astype(dtype)

    def item(self) -> Any:
        """Return the one element as a Python number."""
        data = self.realize_cached_data()
        if type(data) is TracedArray:
            return data.item()
        values = self.numpy()
        if values.size != 1:
            raise ShapeError(f"a Tensor of shape {self.shape} has {values.size} elements: only one makes a number")
        return values.reshape(()).item()

    def tolist(self) -> Any:
        """Return the elements as nested Python lists."""
        return self.numpy().tolist()

    def __float__(self) -> float:
        return float(self._only_value())

    def __int__(self) -> int:
        return int(self._only_value())

    def __bool__(self) -> bool:
        return bool(self._only_value())

    def __format__(self, spec: str) -> str:
        """Return the text of the one element as `spec` says, such as ".3f"; with no `spec`, that of all."""
        if not spec:
            return str(self)
        data = self.realize_cached_data()
        if type(data) is not TracedArray and data.size != 1:
            raise ShapeError(
                f"format: {spec!r} is for one number, and a Tensor of shape {self.shape} has {data.size}: reduce it "
                "first, such as by .mean(), or print .numpy()"
            )
        return format(self._only_value(), spec)

    def _only_value(self) -> Any:
        """Return the one element; while traced, what refuses to be a number and says why."""
        data = self.realize_cached_data()
        return data if type(data) is TracedArray else self.item()

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        """Return the values for NumPy: without a copy where that is possible, and then not to be written to."""
        data = self.realize_cached_data()
        if type(data) is not np.ndarray:
            return np.asarray(data if type(data) is TracedArray else data.get(), dtype=dtype)
        view = data.view()
        view.flags.writeable = False
        return np.array(view, dtype=dtype, copy=copy)

    def __dlpack__(self, **options: Any) -> Any:
        """Give the values to another library, which shares their memory: no copy, no graph."""
        return self._shared().__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        """Tell another library where the values are."""
        device: tuple[int, int] = self._shared().__dlpack_device__()
        return device

    def _shared(self) -> Any:
        data = self.realize_cached_data()
        return np.asarray(data) if type(data) is TracedArray else data


def is_scalar(value: object) -> bool:
    """Tell whether an operand is one number: a Python or NumPy number, or a NumPy array of no axes."""
    return isinstance(value, (float, int, np.generic)) or (isinstance(value, np.ndarray) and value.ndim == 0)


def as_number(value: Any) -> Any:
    """Return a scalar operand as a Python number, which takes on the dtype of the Tensor beside it.

    Raises:
        DTypeError: it is not one number.
    """
    if isinstance(value, (bool, int, float)) and not isinstance(value, np.generic):
        return value
    if isinstance(value, (np.ndarray, np.generic)) and value.size == 1:
        return value.item()
    raise DTypeError(f"expected one number, got {_kind(value)}")


def as_operand(value: object) -> Tensor:
    """Return an operand of a sign as a Tensor: itself, or a constant made of a NumPy array."""
    tensor = TensorOperators.operators.Tensor
    if isinstance(value, tensor):
        return value
    if isinstance(value, np.ndarray):
        return tensor(value, requires_grad=False)
    raise DTypeError(f"a Tensor combines with Tensors, numbers and NumPy arrays, not with {_kind(value)}")


def constant_beside(tensor: Tensor, value: ArrayLike) -> Tensor:
    """Return a number as a constant in the dtype that it has beside `tensor`, or a NumPy array as it is."""
    if not is_scalar(value):
        return as_operand(value)
    number = as_number(value)
    dtype = tensor.dtype
    if dtype.kind in "iub":
        fits = dtype.kind == "b" or not isinstance(number, int) or _holds(dtype, number)
        dtype = np.result_type(dtype, number if fits else np.min_scalar_type(number))
    return TensorOperators.operators.Tensor(number, device=tensor.device, dtype=dtype, requires_grad=False)


def _holds(dtype: np.dtype[Any], number: int) -> bool:
    """Tell whether an integer dtype has this number."""
    limits = np.iinfo(dtype)
    return bool(limits.min <= number <= limits.max)


def shape_argument(shape: tuple[int | Sequence[int], ...]) -> tuple[int, ...]:
    """Accept `f(2, 3)` and `f((2, 3))` alike."""
    if len(shape) == 1 and not isinstance(shape[0], (int, np.integer)):
        return tuple(shape[0])
    return tuple(int(length) for length in shape)  # type: ignore[arg-type]


def _kind(value: object) -> str:
    return f"{type(value).__name__} of shape {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
