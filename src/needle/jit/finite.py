"""Finding the operator that first made a NaN or an infinity: `NEEDLE_DEBUG=nan`, or `with ndl.debug_nan():`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from needle import tracing
from needle.compiler.user_code import user_source
from needle.dtype import is_floating
from needle.errors import NonFiniteError, SettingError

__all__ = [
    "FiniteWatch",
    "debug_nan",
    "hidden_nan_error",
    "hides_nan",
    "is_finite",
    "non_finite_error",
    "watch_from_environment",
]


class FiniteWatch(tracing.Observer):
    """Looks at every operator's result as it is computed."""

    def operator(self, op: Any, result: Any, operands: Sequence[Any]) -> None:
        """Raise where finite operands gave a result that is not, or where a cast made integers of NaN.

        Raises:
            NonFiniteError: they did.
        """
        if hides_nan(op.called, result, operands):
            raise hidden_nan_error(op.called, str(user_source() or ""), operands[0])
        if is_finite(result) or not all(map(is_finite, operands)):
            return
        raise non_finite_error(op.called, str(user_source() or ""), result)


def is_finite(array: Any) -> bool:
    """Tell whether all elements of an array (or of a tuple of them) are finite."""
    if isinstance(array, tuple):
        return all(map(is_finite, array))
    if not isinstance(array, (np.ndarray, np.generic)) or not is_floating(array.dtype):
        return True
    return bool(np.isfinite(array).all())


def hides_nan(name: str, result: Any, operands: Sequence[Any]) -> bool:
    """Tell whether an operator is a cast that made integers of NaN, which nobody sees from there on."""
    is_cast = name == "astype" and isinstance(result, (np.ndarray, np.generic)) and result.dtype.kind in "iu"
    return is_cast and not is_finite(operands[0]) and bool(np.isnan(operands[0]).any())


def hidden_nan_error(name: str, source: str, operand: Any) -> NonFiniteError:
    """Say where a cast was that made integers of NaN."""
    where = f" at {source}" if source else ""
    return NonFiniteError(
        f"{name}{where} made integers of NaN: {int(np.isnan(operand).sum())} of {operand.size} elements of "
        f"its operand {operand.dtype} {operand.shape}"
    )


def non_finite_error(name: str, source: str, result: Any) -> NonFiniteError:
    """Say which operator it was, where, and what it made."""
    parts = result if isinstance(result, tuple) else (result,)
    array = np.asarray(next(one for one in parts if not is_finite(one)))
    wrong = ~np.isfinite(array)
    kinds = [kind for kind, found in (("NaN", np.isnan(array).any()), ("infinity", np.isinf(array).any())) if found]
    where = f" at {source}" if source else ""
    return NonFiniteError(
        f"{name}{where} made {' and '.join(kinds)} of finite numbers: {int(wrong.sum())} of {array.size} elements of "
        f"its result {array.dtype} {array.shape}"
    )


_watch = FiniteWatch()


@contextmanager
def debug_nan() -> Iterator[None]:
    """Raise inside the block where an operator makes a NaN or an infinity of finite numbers, eager or compiled.

    And where a cast to integers makes a NaN vanish, wherever it came from.

    The error names the operator and the line of the program that called it. Each result is looked at, which takes time:
    the environment variable NEEDLE_DEBUG=nan does the same for a whole program. It is looked up when Needle is imported
    and in each call of a compiled function; set while a program runs, it is seen from the next such call on, in what
    runs eagerly after it too.

    Raises:
        NonFiniteError: an operator did. State that a compiled function would have changed is as before.

    Example:
        >>> import numpy as np
        >>> import needle as ndl
        >>> with np.errstate(divide="ignore"), ndl.debug_nan():
        ...     ndl.log(ndl.Tensor([1.0, 0.0]))
        Traceback (most recent call last):
        ...
        needle.errors.NonFiniteError: log... made infinity of finite numbers: 1 of 2 elements of its result float64 (2,)
    """
    with tracing.recording(_watch):
        yield


def is_watching() -> bool:
    """Tell whether results are looked at now."""
    return isinstance(tracing.recorder(), FiniteWatch)


# Whether NEEDLE_DEBUG was found to ask for it.
from_environment = False


def watch_from_environment() -> None:
    """Look at every result of this process, or do so no more, as NEEDLE_DEBUG says now.

    Raises:
        SettingError: NEEDLE_DEBUG says something else.
    """
    global from_environment  # noqa: PLW0603  a setting of the process
    wanted = os.environ.get("NEEDLE_DEBUG", "")
    if wanted not in ("", "0", "nan"):
        raise SettingError(f"NEEDLE_DEBUG is nan, or not set; got {wanted!r}")
    if (wanted == "nan") is not from_environment:
        from_environment = wanted == "nan"
        tracing.watch_always(_watch if from_environment else None)
