"""Devices: where arrays live, which array namespace computes there, and where random numbers come from."""

from needle.device.cpu import all_devices, cpu, cpu_numpy, default_device
from needle.device.device import Array, Device, array_namespace, device_of
from needle.device.random import seed

__all__ = [
    "Array",
    "Device",
    "all_devices",
    "array_namespace",
    "cpu",
    "cpu_numpy",
    "default_device",
    "device_of",
    "seed",
]
