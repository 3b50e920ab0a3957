"""Indexing: choosing elements by position, exactly as NumPy does, and class labels as indices.

The gradient of choosing is adding: each chosen element's adjoint is added to zeros at the place that it came from, as
often as it was chosen. And the gradient of that is choosing again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from needle import tracing
from needle.autograd import Tensor, TensorOp
from needle.device import Array, array_namespace
from needle.dtype import int64
from needle.errors import AxisError, DataError, DTypeError

__all__ = ["GetItem", "OneHot", "ScatterAdd", "Tril", "Triu", "getitem", "one_hot", "tril", "triu"]


def as_class_indices(labels: Array, num_classes: int, called: str = "labels") -> Array:
    """Return class labels of any integer or floating-point dtype as integers, checked; `called` so in the error.

    Raises:
        DataError: a label is no whole number from 0 to num_classes − 1.
    """
    tracing.check_values(labels, _LabelCheck(num_classes, called))
    return labels if labels.dtype.kind in "iu" else array_namespace(labels).astype(labels, int64)


@dataclass(frozen=True, slots=True)
class _LabelCheck:
    """The check that values are class labels."""

    num_classes: int
    called: str

    def __call__(self, labels: Array) -> None:
        check_class_labels(labels, self.num_classes, self.called)

    def fails(self, labels: Array) -> Array:
        """Return whether the check raises, as an array of no axes."""
        xp = array_namespace(labels)
        whole = xp.astype(labels, int64)
        wrong = (whole < 0) | (whole >= self.num_classes)
        if labels.dtype.kind == "u" and labels.dtype.itemsize == int64.itemsize:
            wrong = labels >= self.num_classes
        elif labels.dtype.kind not in "iu":
            wrong = wrong | (xp.astype(whole, labels.dtype) != labels)
        return xp.any(wrong)


# For each dtype of integers, the unsigned one of its size, in which negative numbers are at least so large.
_UNSIGNED = {
    np.dtype(f"{kind}{size}"): (np.dtype(f"u{size}"), 1 << (8 * size - 1)) for kind in "iu" for size in (1, 2, 4, 8)
}


def check_class_labels(labels: Array, num_classes: int, called: str = "labels") -> None:
    """Check that labels are whole numbers from 0 to num_classes − 1.

    Raises:
        DataError: one is not.
    """
    if not labels.size:
        return
    if type(labels) is np.ndarray and labels.dtype in _UNSIGNED:
        dtype, least_negative = _UNSIGNED[labels.dtype]
        unsigned = labels.view(dtype)
        # In a fraction of the time that `min` and `max` take for some hundred labels.
        if num_classes <= least_negative and unsigned.item(unsigned.argmax()) < num_classes:
            return
    is_integer = labels.dtype.kind in "iu"
    xp = array_namespace(labels)
    if is_integer and labels.min() >= 0 and labels.max() < num_classes:
        return
    indices = labels if is_integer else xp.astype(xp.where(xp.isfinite(labels), labels, -1), xp.int64)
    wrong = (indices < 0) | (indices >= num_classes) | (indices != labels)
    if xp.any(wrong):
        first = int(xp.argmax(xp.reshape(wrong, (-1,))))
        position = tuple(map(int, np.unravel_index(first, labels.shape)))
        value = xp.reshape(labels, (-1,))[first].item()
        raise DataError(f"{called} are whole numbers from 0 to {num_classes - 1}, got {value} at position {position}")


class GetItem(TensorOp):
    """y = a[index]."""

    name = "getitem"
    computes_wide = False

    def __init__(self, index: Any) -> None:
        self.index = _as_raw_index(index)

    def compute(self, a: Array) -> Array:
        try:
            return a[self.index]
        except IndexError as error:
            raise AxisError(str(error)) from None

    def gradient(self, out_grad: Tensor, node: Tensor) -> Tensor:
        return ScatterAdd(node.inputs[0].shape, self.index)(out_grad)


def getitem(a: Tensor, index: Any) -> Tensor:
    """Choose elements by position, as NumPy does.

    Args:
        a: the Tensor.
        index: integers, slices, None, Ellipsis, integer or boolean arrays (Tensors, NumPy arrays or lists), or a tuple
            of these.

    Returns:
        The chosen elements; sharing memory with `a` where the index is made of integers and slices only.

    Raises:
        AxisError: an index out of range, or more of them than axes.
        DTypeError: an index that is none of the above.

    Gradient:
        Zeros, with the adjoint added at the chosen places.

    Example:
        >>> import needle as ndl
        >>> x = ndl.Tensor([[1.0, 2.0], [3.0, 4.0]])
        >>> x[:, -1]
        needle.Tensor([2. 4.])
        >>> x[[0, 0], [1, 1]].sum().backward()
        >>> x.grad
        needle.Tensor([[0. 2.] [0. 0.]])
    """
    return GetItem(index)(a)


def _as_raw_index(index: Any) -> Any:
    """Return an index with Tensors and lists as arrays.

    Raises:
        DTypeError: a part of it is no index.
    """
    if isinstance(index, tuple):
        return tuple(map(_as_raw_index, index))
    if isinstance(index, Tensor):
        index = index.realize_cached_data()
    elif isinstance(index, np.integer):
        index = int(index)
    elif isinstance(index, np.ndarray):
        index = _kept(index)
    if isinstance(index, list):
        index = _array_of_list(index)
    if index is None or index is Ellipsis or isinstance(index, (slice, int, np.bool_)):
        return index
    if hasattr(index, "dtype") and index.dtype.kind in "iub":
        return index
    what = f"an array of {index.dtype}" if hasattr(index, "dtype") else repr(index)
    raise DTypeError(f"getitem: an index is made of integers, slices, None, Ellipsis, masks and arrays, not {what}")


def _kept(index: Any) -> Any:
    """Return an index array as it is now, for the gradient; in a trace, as it is in each call."""
    recorder = tracing.recorder()
    if recorder is None:
        return index.copy()
    if index.dtype.kind != "b":
        return recorder.array(index)
    recorder.guard(index.tobytes, "a mask")  # how many elements it chooses is part of the program
    return index.copy()


def _array_of_list(index: list[Any]) -> Any:
    try:
        array = np.asarray(index)
        return array if array.size else array.astype(np.int64)
    except ValueError:
        raise DTypeError("getitem: a list in an index is no array: its rows differ in length") from None


def _is_basic(index: Any) -> bool:
    """Tell whether an index names every element once at most, so that adding is writing."""
    parts = index if isinstance(index, tuple) else (index,)
    return all(part is None or part is Ellipsis or type(part) in (slice, int) for part in parts)


class ScatterAdd(TensorOp):
    """y = zeros, with a added at index."""

    name = "scatter_add"

    def __init__(self, shape: tuple[int, ...], index: Any) -> None:
        self.shape = shape
        self.index = index
        self.computes_wide = not _is_basic(index)  # many small numbers may be added up

    def compute(self, a: Array) -> Array:
        xp = array_namespace(a)
        if hasattr(xp, "scatter_add"):  # arrays that cannot be changed bring their own
            return xp.scatter_add(self.shape, self.index, a)
        result = xp.zeros(self.shape, dtype=a.dtype)
        if _is_basic(self.index):
            result[self.index] = a
        else:
            np.add.at(result, self.index, a)
        return result

    def gradient(self, out_grad: Tensor, node: Tensor) -> Tensor:
        return GetItem(self.index)(out_grad)


class OneHot(TensorOp):
    """y[…, c] = 1 if a[…] = c, else 0."""

    name = "one_hot"
    differentiable = False
    computes_wide = False

    def __init__(self, num_classes: int, dtype: Any = "float32") -> None:
        self.num_classes = num_classes
        self.dtype = np.dtype(dtype)

    def compute(self, a: Array) -> Array:
        xp = array_namespace(a)
        indices = as_class_indices(a, self.num_classes)
        return xp.astype(xp.expand_dims(indices, axis=-1) == xp.arange(self.num_classes), self.dtype)


def one_hot(a: Tensor, num_classes: int, dtype: Any = "float32") -> Tensor:
    """Make a row for each class label: 1 at the class, 0 elsewhere.

    Shapes:
        a: any, of whole numbers in any dtype.
        result: (*a.shape, num_classes).

    Raises:
        DataError: a label is no whole number from 0 to num_classes − 1.
    """
    return OneHot(num_classes, dtype)(a)


class Triangle(TensorOp):
    """The part of matrices on one side of a diagonal."""

    computes_wide = False

    def __init__(self, k: int = 0) -> None:
        self.k = k

    def gradient(self, out_grad: Tensor, node: Tensor) -> Tensor:
        return type(self)(self.k)(out_grad)


class Tril(Triangle):
    """y = a on and below diagonal k, 0 above."""

    name = "tril"

    def compute(self, a: Array) -> Array:
        return array_namespace(a).tril(_matrices(a), k=self.k)


def tril(a: Tensor, k: int = 0) -> Tensor:
    """Keep the elements of matrices on and below diagonal k (0 is the main one, positive ones lie above it).

    Shapes:
        a: (…, rows, columns).
        result: the same.
    """
    return Tril(k)(a)


class Triu(Triangle):
    """y = a on and above diagonal k, 0 below."""

    name = "triu"

    def compute(self, a: Array) -> Array:
        return array_namespace(a).triu(_matrices(a), k=self.k)


def triu(a: Tensor, k: int = 0) -> Tensor:
    """Keep the elements of matrices on and above diagonal k; shapes are those of `tril`."""
    return Triu(k)(a)


def _matrices(a: Array) -> Array:
    if a.ndim < 2:
        raise AxisError(f"takes matrices (two axes or more), got shape {a.shape}")
    return a
