"""What a device is: a place that arrays live in, and the array namespace that computes there.

A new device is one file: a subclass of `Device` that says its name, its array type and its array namespace.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, ClassVar

import numpy as np
from numpy.typing import DTypeLike

from needle.device import random
from needle.dtype import as_dtype
from needle.errors import DeviceError

__all__ = ["Array", "Device", "array_namespace", "device_of"]

# Whatever implements the array API standard: numpy.ndarray here, other libraries' arrays on other devices.
Array = Any


class Device:
    """A place that arrays live in.

    A subclass sets `name` and `array_type` and gives `array_namespace`. Draws are made on the host and moved, so
    that the same seed gives the same numbers on every device.
    """

    name: ClassVar[str]
    array_type: ClassVar[type | tuple[type, ...]]
    _known: ClassVar[list[Device]] = []

    @property
    def array_namespace(self) -> Any:
        """The module of array functions that computes on this device."""
        raise NotImplementedError

    def enabled(self) -> bool:
        """Tell whether this machine has the device."""
        return True

    def array(self, values: Any, dtype: DTypeLike | None = None) -> Array:
        """Copy `values` (anything array-like on the host) to this device."""
        return self.array_namespace.array(values, dtype=None if dtype is None else as_dtype(dtype))

    def full(self, shape: tuple[int, ...], fill_value: float, dtype: DTypeLike = "float32") -> Array:
        """Make an array of one value."""
        return self.array_namespace.full(shape, fill_value, dtype=as_dtype(dtype))

    def zeros(self, *shape: int, dtype: DTypeLike = "float32") -> Array:
        """Make an array of zeros."""
        return self.full(shape, 0, dtype)

    def ones(self, *shape: int, dtype: DTypeLike = "float32") -> Array:
        """Make an array of ones."""
        return self.full(shape, 1, dtype)

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike = "float32") -> Array:
        """Make an array whose values are not set."""
        return self.array_namespace.empty(shape, dtype=as_dtype(dtype))

    def rand(self, *shape: int) -> Array:
        """Draw float64 numbers from U[0, 1): one `np.random.rand(*shape)`."""
        return self.array(random.rand(*shape))

    def randn(self, *shape: int) -> Array:
        """Draw float64 numbers from N(0, 1): one `np.random.randn(*shape)`."""
        return self.array(random.randn(*shape))

    def randint(self, low: int, high: int, size: int | tuple[int, ...]) -> Array:
        """Draw int64 numbers from low to high − 1: one `np.random.randint(low, high, size)`."""
        return self.array(random.randint(low, high, size))

    def one_hot(self, n: int, indices: Array, dtype: DTypeLike = "float32") -> Array:
        """Return rows of the n × n identity matrix, one for each index."""
        xp = self.array_namespace
        return xp.eye(n, dtype=as_dtype(dtype))[indices]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device) and other.name == self.name

    def __hash__(self) -> int:
        return hash(self.name)

    def __repr__(self) -> str:
        return f"needle.{self.name}()"

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        Device._known.append(cls())


def device_of(array: Array) -> Device:
    """Return the device that a raw array lives on.

    Raises:
        DeviceError: no device has arrays of this type.
    """
    for device in Device._known:
        if isinstance(array, device.array_type):
            return device
    raise DeviceError(f"no device holds arrays of type {type(array).__name__}")


def array_namespace(array: Array) -> Any:
    """Return the array API namespace of a raw array: the module whose functions compute on it."""
    if type(array) is np.ndarray:
        return np
    namespace: ModuleType = array.__array_namespace__()
    return namespace
