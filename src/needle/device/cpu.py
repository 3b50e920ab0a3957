"""The CPU, with NumPy as its array library."""

from __future__ import annotations

from typing import Any

import numpy as np

from needle.compiler import TracedArray
from needle.device import random
from needle.device.device import Array, Device

__all__ = ["CPUDevice", "all_devices", "cpu", "cpu_numpy", "default_device"]


class CPUDevice(Device):
    """The host's processor; its arrays are `numpy.ndarray`."""

    name = "cpu"
    # What is traced will be computed here.
    array_type = (np.ndarray, TracedArray)

    @property
    def array_namespace(self) -> Any:
        """NumPy."""
        return np

    def rand(self, *shape: int) -> Array:
        """Draw float64 numbers from U[0, 1), without the copy that another device needs."""
        return random.rand(*shape)

    def randn(self, *shape: int) -> Array:
        """Draw float64 numbers from N(0, 1), without the copy that another device needs."""
        return random.randn(*shape)

    def randint(self, low: int, high: int, size: int | tuple[int, ...]) -> Array:
        """Draw int64 numbers from low to high − 1, without the copy that another device needs."""
        return random.randint(low, high, size)


_CPU = CPUDevice()


def cpu() -> Device:
    """Return the CPU device.

    Example:
        >>> import needle as ndl
        >>> ndl.cpu()
        needle.cpu()
    """
    return _CPU


def cpu_numpy() -> Device:
    """Return the CPU device: its arrays are NumPy's, so this older name means the same."""
    return _CPU


def default_device() -> Device:
    """Return the device of tensors for which none is named: the CPU."""
    return _CPU


def all_devices() -> list[Device]:
    """Return the devices that Needle knows on this machine."""
    return [device for device in Device._known if device.enabled()]
