"""Which code is the user's own: neither Needle's nor an installed library's; and which line of it is at work.

A file belongs to those in whose folder it lies, as Python has found it: links are not followed.
"""

from __future__ import annotations

import linecache
import os
import sys
import textwrap
import warnings
from functools import lru_cache
from pathlib import Path
from types import CodeType, FrameType

from needle.compiler.graph import Source
from needle.errors import TraceError

__all__ = [
    "PACKAGE",
    "is_users_code",
    "library_folders",
    "source_outside_libraries",
    "trace_error",
    "uncompiled_error",
    "user_frame",
    "user_source",
    "warn_at",
    "warn_user",
]

# Where Needle lies.
PACKAGE = f"{Path(__file__).parents[1]}{os.sep}"


@lru_cache(maxsize=1)
def library_folders() -> tuple[str, ...]:
    """Return where Python's own modules and installed ones lie."""
    import sysconfig  # noqa: PLC0415  slow to load, and only needed by the first trace

    return tuple(f"{sysconfig.get_path(name)}{os.sep}" for name in ("stdlib", "purelib", "platlib"))


def is_users_code(code: CodeType) -> bool:
    """Tell whether code is neither Needle's nor of an installed library."""
    return not code.co_filename.startswith((PACKAGE, *library_folders(), "<frozen"))


def user_source() -> Source | None:
    """Return the innermost line of the call stack that is not Needle's own."""
    frame = user_frame()
    return None if frame is None else Source(frame.f_code.co_filename, frame.f_lineno)


def source_outside_libraries() -> Source | None:
    """Return the innermost line that is of no installed library either, for messages; any but Needle's where none is.

    NumPy, `copy` and others call a Tensor's methods on behalf of a line of the user's.
    """
    frame = user_frame()
    while frame is not None and frame.f_code.co_filename.startswith(library_folders()):
        frame = frame.f_back
    return user_source() if frame is None else Source(frame.f_code.co_filename, frame.f_lineno)


def user_frame() -> FrameType | None:
    """Return the innermost frame of the call stack that is not Needle's own."""
    frame = sys._getframe(1)
    while frame.f_code.co_filename.startswith(PACKAGE):
        if frame.f_back is None:
            return None
        frame = frame.f_back
    return frame


def trace_error(what: str, remedy: str) -> TraceError:
    """Say what cannot be compiled, the line of the user's program that asked for it, and what to do instead."""
    source = source_outside_libraries()
    if source is None:
        return TraceError(f"{what}: {remedy}")
    line = textwrap.shorten(linecache.getline(source.file, source.line), 120, placeholder=" …")
    return TraceError(f"{what}, at {source}: {remedy}" + (f"\n  {line}" if line else ""))


def uncompiled_error(what: str, shape_depends_on_values: bool = False) -> TraceError:
    """Say that a function of NumPy's has no compiled form."""
    if shape_depends_on_values:
        what = f"{what}, whose result is as long as the values say, has no fixed shape and cannot be compiled"
        return trace_error(
            what, "keep the shape and choose with ndl.where, or call it outside of the compiled function"
        )
    return trace_error(f"{what} cannot be compiled", "write it with the functions of needle.ops")


def warn_user(message: str) -> None:
    """Warn at the line of the user's program that has called Needle."""
    warn_at(user_source(), message)


def warn_at(source: Source | None, message: str) -> None:
    """Warn at a line of the user's program, or where none is known, here."""
    if source is None:
        warnings.warn(message, stacklevel=3)
    else:
        warnings.warn_explicit(message, UserWarning, source.file, source.line)
