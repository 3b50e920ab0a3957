"""Mixed precision: in which dtype operators take their inputs inside `with ndl.autocast(…)`.

Each operator's class says of itself what suits it (`Op.precision`); the casts are made where operators are called, in
`needle.autograd`. Here is only what this thread has asked for.
"""

from __future__ import annotations

import threading
from contextlib import ContextDecorator
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from needle.dtype import as_dtype, bfloat16, is_narrow
from needle.errors import DTypeError

__all__ = ["autocast", "autocast_dtype"]

# How many blocks are open in the process. A glance at it is cheaper than at the thread's own setting.
active = 0

_lock = threading.Lock()


class _Setting(threading.local):
    """What this thread has asked for: a narrow dtype, or None; and what it had before each open block."""

    def __init__(self) -> None:
        self.dtype: np.dtype[Any] | None = None
        self.before: list[np.dtype[Any] | None] = []


_setting = _Setting()


def autocast_dtype() -> np.dtype[Any] | None:
    """Return the dtype of the `autocast` around this call, in this thread; None where there is none."""
    return _setting.dtype if active else None


class autocast(ContextDecorator):  # noqa: N801  reads as a statement: `with autocast():`
    """Compute products in a narrow dtype inside the block or the decorated function, and all that is delicate wide.

    - Matrix products and convolutions cast float32 inputs to the narrow dtype, add up in float32, and round each
      result once. Attention and linear layers are made of them.
    - Recurrent layers round the factors of their products likewise; states, gates and outputs stay float32.
    - Reductions, softmax, normalisation, losses, exp, log and powers cast narrow inputs to float32, and so are their
      results.
    - All others take what they get; float32 and narrow together give float32.

    Parameters stay as they are: they are cast where they are used, and their gradients arrive in their own dtype.
    float64 is left alone. Call `backward` inside or outside: it computes in the dtypes of the forward pass.

    float16 has few exponents: losses need a `ndl.optim.GradScaler`. bfloat16 has those of float32 and needs none.

    Args:
        dtype: "bfloat16" or "float16".
        enabled: False turns it off for the block, also within another one.

    Raises:
        DTypeError: another dtype.

    Example:
        >>> import needle as ndl
        >>> a = ndl.Tensor([[1.0, 2.0]], dtype="float32")
        >>> with ndl.autocast():
        ...     y = a @ a.transpose()
        >>> y.dtype, y.sum().dtype
        (dtype(bfloat16), dtype(bfloat16))
        >>> with ndl.autocast():
        ...     y.sum().dtype
        dtype('float32')

    Reference:
        P. Micikevicius et al., "Mixed precision training", 2018.
    """

    def __init__(self, dtype: DTypeLike = bfloat16, enabled: bool = True) -> None:
        found = as_dtype(dtype)
        if not is_narrow(found):
            raise DTypeError(f"autocast: the dtype is bfloat16 or float16, got {found}")
        self.dtype = found if enabled else None

    def __enter__(self) -> None:
        # A decorated function has one object for all threads and calls: what was before is the thread's to know.
        _setting.before.append(_setting.dtype)
        _setting.dtype = self.dtype
        _count(1)

    def __exit__(self, *exception: object) -> None:
        _setting.dtype = _setting.before.pop()
        _count(-1)


class as_before(ContextDecorator):  # noqa: N801  reads as a statement
    """Go back to a setting that `autocast_dtype` returned, inside the block."""

    def __init__(self, dtype: np.dtype[Any] | None) -> None:
        self.dtype = dtype

    def __enter__(self) -> None:
        self.outer = _setting.dtype
        _setting.dtype = self.dtype
        _count(self.dtype is not None)  # with None, operators have nothing to look at

    def __exit__(self, *exception: object) -> None:
        _setting.dtype = self.outer
        _count(-(self.dtype is not None))


def _count(blocks: int) -> None:
    global active  # noqa: PLW0603  a count of the process
    with _lock:
        active += blocks
