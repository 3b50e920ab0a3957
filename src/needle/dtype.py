"""The data types of tensors: their names, and which of them carry a gradient or are computed wider than stored.

float16 and bfloat16 are formats for storage: an operator reads them as float32, computes in float32, and rounds its
result once. Promotion of mixed types is NumPy's, which follows the array API standard.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import DTypeLike, NDArray

from needle.errors import DTypeError

__all__ = [
    "bfloat16",
    "bool_",
    "float16",
    "float32",
    "float64",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
]

float16 = np.dtype("float16")
bfloat16 = np.dtype(ml_dtypes.bfloat16)
float32 = np.dtype("float32")
float64 = np.dtype("float64")
int8 = np.dtype("int8")
int16 = np.dtype("int16")
int32 = np.dtype("int32")
int64 = np.dtype("int64")
uint8 = np.dtype("uint8")
uint16 = np.dtype("uint16")
uint32 = np.dtype("uint32")
uint64 = np.dtype("uint64")
bool_ = np.dtype("bool")

_DTYPES = {
    str(dtype): dtype
    for dtype in (
        *(float16, bfloat16, float32, float64),
        *(int8, int16, int32, int64, uint8, uint16, uint32, uint64),
        bool_,
    )
}
# NumPy's one-letter codes of float16 and bfloat16: comparing a letter is the quickest test there is.
NARROW_FLOAT_CODES = float16.char + bfloat16.char


def as_dtype(dtype: DTypeLike) -> np.dtype[np.generic]:
    """Return the NumPy dtype that a name, a Python type or a dtype stands for.

    Raises:
        DTypeError: Needle has no such dtype.
    """
    try:
        found = np.dtype(dtype)
    except TypeError:
        found = None
    if found is None or str(found) not in _DTYPES:
        raise DTypeError(f"no dtype {dtype!r}; there are {', '.join(_DTYPES)}")
    return found


def is_floating(dtype: np.dtype[np.generic]) -> bool:
    """Tell whether `dtype` is one of the floating-point types, bfloat16 included."""
    return dtype.kind == "f" or dtype == bfloat16


def is_narrow(dtype: np.dtype[np.generic]) -> bool:
    """Tell whether `dtype` is float16 or bfloat16, which operators compute in float32."""
    return dtype.char in NARROW_FLOAT_CODES


def cast(array: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return an array in another dtype.

    Integers are made of floating-point numbers by cutting off the fraction. Which one NumPy makes of a number that they
    do not hold depends on the processor, and on where in the array it is: here the nearest that there is, and 0 of NaN.
    """
    if dtype.kind not in "iu" or not is_floating(array.dtype) or not array.size:
        return array.astype(dtype)
    array = array.astype(float32) if is_narrow(array.dtype) else array  # compared and converted sooner
    limits = np.iinfo(dtype)
    below, above = float(limits.min) - 1, float(limits.max + 1)
    with np.errstate(invalid="ignore"):
        if below < float(array.min()) and float(array.max()) < above:
            return array.astype(dtype)
        found = np.asarray(array).astype(dtype)
    found[array <= below] = limits.min
    found[array >= above] = limits.max
    found[np.isnan(array)] = 0
    return found
