"""Initialisers: Tensors of constants, of random numbers, and of the spreads that keep a deep network's signals alive.

Each makes one draw of the final shape through `needle.device.random`, in float64, scales and shifts it there, and
rounds it to the dtype asked for last, so that a seed gives the same numbers in every dtype up to that rounding.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from needle.autograd import Tensor
from needle.device import Array, Device, cpu
from needle.dtype import as_dtype
from needle.errors import ShapeError
from needle.ops.indexing import as_class_indices

__all__ = [
    "constant",
    "kaiming_normal",
    "kaiming_uniform",
    "one_hot",
    "ones",
    "ones_like",
    "rand",
    "randb",
    "randn",
    "xavier_normal",
    "xavier_uniform",
    "zeros",
    "zeros_like",
]


def rand(
    *shape: int,
    low: float = 0.0,
    high: float = 1.0,
    device: Device | None = None,
    dtype: DTypeLike = "float32",
    requires_grad: bool = False,
) -> Tensor:
    """Draw from the uniform distribution U[low, high).

    Shapes:
        result: `shape`.

    Args:
        shape: the lengths, one argument each.
        low: the least value.
        high: the bound that no value reaches.
        device: where the result lives; the CPU where not given.
        dtype: of the result.
        requires_grad: whether `backward` computes a gradient for it; off, since most draws are not trained.

    Example:
        >>> import needle as ndl
        >>> ndl.init.rand(2, 3, low=-1).shape
        (2, 3)
    """
    place = _place(device)
    draws = place.rand(*shape)
    return _tensor(draws if (low, high) == (0, 1) else draws * (high - low) + low, dtype, requires_grad)


def randn(
    *shape: int,
    mean: float = 0.0,
    std: float = 1.0,
    device: Device | None = None,
    dtype: DTypeLike = "float32",
    requires_grad: bool = False,
) -> Tensor:
    """Draw from the normal distribution N(mean, std²).

    Shapes:
        result: `shape`.

    Args:
        shape: the lengths, one argument each.
        mean: the centre.
        std: the standard deviation.
        device: where the result lives; the CPU where not given.
        dtype: of the result.
        requires_grad: whether `backward` computes a gradient for it.
    """
    draws = _place(device).randn(*shape)
    return _tensor(draws if (mean, std) == (0, 1) else draws * std + mean, dtype, requires_grad)


def randb(
    *shape: int,
    p: float = 0.5,
    device: Device | None = None,
    dtype: DTypeLike = "bool",
    requires_grad: bool = False,
) -> Tensor:
    """Draw booleans that are true with probability `p`: a uniform draw ≤ p.

    Shapes:
        result: `shape`.
    """
    return _tensor(_place(device).rand(*shape) <= p, dtype, requires_grad)


def constant(
    *shape: int,
    c: float = 1.0,
    device: Device | None = None,
    dtype: DTypeLike = "float32",
    requires_grad: bool = False,
) -> Tensor:
    """Make a Tensor of one value.

    Shapes:
        result: `shape`.
    """
    return Tensor.make_const(_place(device).full(shape, c, dtype), requires_grad)


def ones(
    *shape: int, device: Device | None = None, dtype: DTypeLike = "float32", requires_grad: bool = False
) -> Tensor:
    """Make a Tensor of ones.

    Shapes:
        result: `shape`.
    """
    return constant(*shape, c=1, device=device, dtype=dtype, requires_grad=requires_grad)


def zeros(
    *shape: int, device: Device | None = None, dtype: DTypeLike = "float32", requires_grad: bool = False
) -> Tensor:
    """Make a Tensor of zeros.

    Shapes:
        result: `shape`.
    """
    return constant(*shape, c=0, device=device, dtype=dtype, requires_grad=requires_grad)


def ones_like(array: Tensor, *, device: Device | None = None, requires_grad: bool = False) -> Tensor:
    """Make a Tensor of ones in another's shape and dtype, on its device where none is named."""
    return _constant_like(array, 1, device, requires_grad)


def zeros_like(array: Tensor, *, device: Device | None = None, requires_grad: bool = False) -> Tensor:
    """Make a Tensor of zeros in another's shape and dtype, on its device where none is named."""
    return _constant_like(array, 0, device, requires_grad)


def one_hot(
    n: int,
    i: Tensor,
    device: Device | None = None,
    dtype: DTypeLike = "float32",
    requires_grad: bool = False,
) -> Tensor:
    """Make a row for each class index: 1 at the class, 0 elsewhere.

    Formula::

        y[…, c] = 1 if i[…] = c, else 0

    Shapes:
        i: any.
        result: (*i.shape, n).

    Args:
        n: the number of classes.
        i: the class indices, 0 to n − 1, in any integer or floating-point dtype.
        device: where the result lives; the device of `i` where not given.
        dtype: of the result.
        requires_grad: whether `backward` computes a gradient for it.

    Raises:
        DataError: an index is no whole number from 0 to n − 1.

    Example:
        >>> import needle as ndl
        >>> ndl.init.one_hot(3, ndl.Tensor([2, 0]))
        needle.Tensor([[0. 0. 1.] [1. 0. 0.]])
    """
    place = i.device if device is None else device
    indices = as_class_indices(i.realize_cached_data(), n)
    return Tensor.make_const(place.one_hot(n, indices, dtype), requires_grad)


def xavier_uniform(fan_in: int, fan_out: int, gain: float = 1.0, **options: Any) -> Tensor:
    """Draw weights that keep the variance of signals and of gradients, from a uniform distribution.

    Formula::

        U(−a, a)   with a = gain · √(6 / (fan_in + fan_out))

    Shapes:
        result: (fan_in, fan_out), or `shape=` where given.

    Args:
        fan_in: the number of inputs of each unit.
        fan_out: the number of outputs that each input feeds.
        gain: a factor for the non-linearity that follows; 1 suits tanh near 0 and no non-linearity.
        options: `shape`, `device`, `dtype`, `requires_grad` as in `rand`.

    Reference:
        X. Glorot, Y. Bengio, "Understanding the difficulty of training deep feedforward neural networks", 2010,
        equation 16.
    """
    bound = gain * math.sqrt(6 / _positive_fan(fan_in + fan_out))
    return rand(*_shape(fan_in, fan_out, options), low=-bound, high=bound, **options)


def xavier_normal(fan_in: int, fan_out: int, gain: float = 1.0, **options: Any) -> Tensor:
    """Draw weights that keep the variance of signals and of gradients, from a normal distribution.

    Formula::

        N(0, std²)   with std = gain · √(2 / (fan_in + fan_out))

    Shapes:
        result: (fan_in, fan_out), or `shape=` where given.

    Args:
        fan_in: the number of inputs of each unit.
        fan_out: the number of outputs that each input feeds.
        gain: a factor for the non-linearity that follows.
        options: `shape`, `device`, `dtype`, `requires_grad` as in `randn`.

    Reference:
        X. Glorot, Y. Bengio, "Understanding the difficulty of training deep feedforward neural networks", 2010,
        equation 12.
    """
    std = gain * math.sqrt(2 / _positive_fan(fan_in + fan_out))
    return randn(*_shape(fan_in, fan_out, options), std=std, **options)


def kaiming_uniform(
    fan_in: int,
    fan_out: int,
    shape: tuple[int, ...] | str | None = None,
    nonlinearity: str = "relu",
    **options: Any,
) -> Tensor:
    """Draw weights that keep the variance of signals through ReLUs, from a uniform distribution.

    Formula::

        U(−b, b)   with b = √2 · √(3 / fan_in)

    Shapes:
        result: (fan_in, fan_out), or `shape`.

    Args:
        fan_in: the number of inputs of each unit; for a convolution, channels × receptive field.
        fan_out: the number of outputs.
        shape: another shape for the result, the fans staying what they are. A string here is taken as
            `nonlinearity`, which older programs pass third.
        nonlinearity: "relu", the only one that the gain √2 is right for.
        options: `device`, `dtype`, `requires_grad` as in `rand`.

    Raises:
        AssertionError: another non-linearity.

    Reference:
        K. He et al., "Delving deep into rectifiers", 2015, equation 10.
    """
    shape, options = _kaiming_options(shape, nonlinearity, options)
    bound = math.sqrt(2) * math.sqrt(3 / _positive_fan(fan_in))
    return rand(*(shape or (fan_in, fan_out)), low=-bound, high=bound, **options)


def kaiming_normal(
    fan_in: int,
    fan_out: int,
    shape: tuple[int, ...] | str | None = None,
    nonlinearity: str = "relu",
    **options: Any,
) -> Tensor:
    """Draw weights that keep the variance of signals through ReLUs, from a normal distribution.

    Formula::

        N(0, std²)   with std = √2 / √fan_in

    Shapes:
        result: (fan_in, fan_out), or `shape`.

    Args:
        fan_in: the number of inputs of each unit; for a convolution, channels × receptive field.
        fan_out: the number of outputs.
        shape: another shape for the result, the fans staying what they are. A string here is taken as
            `nonlinearity`, which older programs pass third.
        nonlinearity: "relu", the only one that the gain √2 is right for.
        options: `device`, `dtype`, `requires_grad` as in `randn`.

    Raises:
        AssertionError: another non-linearity.

    Reference:
        K. He et al., "Delving deep into rectifiers", 2015, equation 10.
    """
    shape, options = _kaiming_options(shape, nonlinearity, options)
    std = math.sqrt(2) / math.sqrt(_positive_fan(fan_in))
    return randn(*(shape or (fan_in, fan_out)), std=std, **options)


def _place(device: Device | None) -> Device:
    return cpu() if device is None else device


def _tensor(array: Array, dtype: DTypeLike, requires_grad: bool) -> Tensor:
    """Wrap a fresh array in a Tensor of `dtype`. A draw of no shape is a NumPy scalar and becomes an array."""
    wanted = as_dtype(dtype)
    array = np.asarray(array) if isinstance(array, (np.generic, float)) else array
    return Tensor.make_const(array.astype(wanted, copy=False), requires_grad and wanted.kind != "b")


def _constant_like(array: Tensor, c: float, device: Device | None, requires_grad: bool) -> Tensor:
    place = array.device if device is None else device
    return constant(*array.shape, c=c, device=place, dtype=array.dtype, requires_grad=requires_grad)


def _positive_fan(fan: int) -> int:
    if fan <= 0:
        raise ShapeError(f"an initialiser needs at least one input and output, got fans that make {fan}")
    return fan


def _shape(fan_in: int, fan_out: int, options: dict[str, Any]) -> tuple[int, ...]:
    shape = options.pop("shape", None)
    return (fan_in, fan_out) if shape is None else tuple(shape)


def _kaiming_options(
    shape: tuple[int, ...] | str | None, nonlinearity: str, options: dict[str, Any]
) -> tuple[tuple[int, ...] | None, dict[str, Any]]:
    shape, nonlinearity = (None, shape) if isinstance(shape, str) else (shape, nonlinearity)
    if nonlinearity != "relu":
        raise AssertionError(f"kaiming initialisers know the nonlinearity 'relu' only, got {nonlinearity!r}")
    return (None if shape is None else tuple(shape)), options
