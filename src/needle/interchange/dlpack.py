"""Taking the arrays of other libraries by the DLPack protocol, without a copy."""

from __future__ import annotations

from typing import Any

import numpy as np

from needle.autograd import Tensor
from needle.dtype import as_dtype
from needle.errors import DeviceError, DTypeError

__all__ = ["from_dlpack"]

_CPU = 1  # DLPack's number for it


def from_dlpack(array: Any, *, requires_grad: bool = False, copy: bool | None = None) -> Tensor:
    """Return a Tensor of another library's array, which shares its memory.

    A later change in place is seen on both sides. The way back is the other library's own `from_dlpack(tensor)`.

    Args:
        array: anything with `__dlpack__`, such as a PyTorch tensor or a JAX array, on the CPU.
        requires_grad: whether `backward` computes a gradient for the Tensor.
        copy: True for memory of its own, False for an error where that cannot be avoided.

    Raises:
        DTypeError: the array does not know the protocol, or holds what Needle has not, such as complex numbers.
        DeviceError: the array is not on the CPU.

    Example:
        >>> import numpy as np
        >>> import needle as ndl
        >>> theirs = np.array([1.0, 2.0])
        >>> ours = ndl.from_dlpack(theirs)
        >>> theirs[0] = 5.0
        >>> ours
        needle.Tensor([5. 2.])
    """
    if not hasattr(array, "__dlpack__"):
        raise DTypeError(f"from_dlpack takes an array that has __dlpack__, got {type(array).__name__}")
    if hasattr(array, "__dlpack_device__") and array.__dlpack_device__()[0] != _CPU:
        raise DeviceError("from_dlpack: the array is not on the CPU: move it there first")
    data = np.from_dlpack(array, copy=copy)
    return Tensor.make_const(data.astype(as_dtype(data.dtype), copy=False), requires_grad)
