"""Changing what a Tensor's numbers are stored as, and where."""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike

from needle.autograd import Tensor, TensorOp
from needle.device import Array, Device, array_namespace, device_of
from needle.dtype import as_dtype, cast, float32, is_floating, is_narrow

__all__ = ["Cast", "ToDevice", "astype", "to_device"]


class Cast(TensorOp):
    """y = a in another dtype."""

    name = "astype"
    computes_wide = False

    def __init__(self, dtype: DTypeLike) -> None:
        self.dtype = as_dtype(dtype)
        self.differentiable = is_floating(self.dtype)

    def compute(self, a: Array) -> Array:
        if isinstance(a, np.ndarray) and not is_narrow(self.dtype):
            return cast(a, self.dtype)
        with np.errstate(over="ignore"):  # what float16 cannot hold is infinite
            return array_namespace(a).astype(a, self.dtype)

    def gradient(self, out_grad: Tensor, node: Tensor) -> Tensor:
        dtype = node.inputs[0].dtype
        return astype(out_grad, dtype) if is_floating(dtype) else out_grad


def astype(a: Tensor, dtype: DTypeLike) -> Tensor:
    """Return the values in another dtype; integers and booleans made of them carry no gradient.

    Integers are made of other numbers by cutting off the fraction. What the dtype does not hold becomes the nearest
    that it does (300.0 is 127 in int8, -1.0 is 0 in uint8, infinity the largest), and NaN becomes 0, on every
    processor. An integer in a narrower dtype keeps its lowest bits. `ndl.debug_nan` names a cast that makes integers
    of NaN.

    Raises:
        DTypeError: no such dtype.

    Gradient:
        The adjoint in the dtype of `a`; as it is where `a` is made of integers, which would cut it off.
    """
    return Cast(dtype)(a)


def widened(a: Tensor) -> Tensor:
    """Return a Tensor of float16 or bfloat16 as float32; another one as it is.

    For gradients of several operators, which would each round their result: the sum of adjoints is rounded once.
    """
    return astype(a, float32) if is_narrow(a.dtype) else a


class ToDevice(TensorOp):
    """y = a on another device."""

    name = "to_device"
    computes_wide = False

    def __init__(self, device: Device) -> None:
        self.device = device

    def compute(self, a: Array) -> Array:
        # Traced arrays, which are nowhere yet, stay so; another device's arrays have `get`, which gives NumPy's.
        if isinstance(a, self.device.array_type) or not hasattr(a, "get"):
            return array_namespace(a).asarray(a, copy=True)
        return self.device.array(a.get(), dtype=a.dtype)

    def gradient(self, out_grad: Tensor, node: Tensor) -> Tensor:
        return to_device(out_grad, device_of(node.inputs[0].realize_cached_data()))


def to_device(a: Tensor, device: Device) -> Tensor:
    """Copy a Tensor to a device. The gradient moves back."""
    return ToDevice(device)(a)
