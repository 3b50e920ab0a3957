"""Two fields of every Tensor, its data and its gradient, that tell the recorder of a thread when they are used.

They take the place of the ordinary fields while some thread traces: `Value` itself costs nothing more when none does.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from needle import autograd, tracing
from needle.autograd import Value

if TYPE_CHECKING:
    from needle.jit.recorder import Recorder

__all__ = ["own_data", "watching"]


class _WatchedField:
    """Stands in for a field of Value while some thread traces; other threads find the field as ever."""

    def __init__(self, slot: Any, read: str, write: str) -> None:
        self.slot = slot
        self.read = read
        self.write = write

    def __get__(self, value: Any, owner: type | None = None) -> Any:
        if value is None:
            return self
        recorder = tracing.recorder()
        if recorder is None:
            return self.slot.__get__(value, owner)
        return getattr(recorder, self.read)(value, self.slot)

    def __set__(self, value: Any, new: Any) -> None:
        recorder = tracing.recorder()
        if recorder is None:
            self.slot.__set__(value, new)
        else:
            getattr(recorder, self.write)(value, self.slot, new)


_SLOTS = {"cached_data": vars(Value)["cached_data"], "grad": vars(Value)["grad"]}
_WATCHED = {
    "cached_data": _WatchedField(_SLOTS["cached_data"], "read_data", "write_data"),
    "grad": _WatchedField(_SLOTS["grad"], "read_gradient", "write_gradient"),
}
_lock = threading.Lock()
_watching = 0


def own_data(value: Value) -> Any:
    """Return what a Tensor's field for data holds, whoever watches it."""
    return _SLOTS["cached_data"].__get__(value)


@contextmanager
def watching(recorder: Recorder) -> Iterator[None]:
    """Have `recorder` follow what this thread does inside the block."""
    with _fields_watched(), tracing.recording(recorder), _eager_mode():
        yield


@contextmanager
def _fields_watched() -> Iterator[None]:
    global _watching  # noqa: PLW0603  how many traces there are in the process
    with _lock:
        _watching += 1
        if _watching == 1:
            _install(_WATCHED)
    try:
        yield
    finally:
        with _lock:
            _watching -= 1
            if not _watching:
                _install(_SLOTS)


def _install(fields: dict[str, Any]) -> None:
    for name, field in fields.items():
        setattr(Value, name, field)


@contextmanager
def _eager_mode() -> Iterator[None]:
    """Apply operators to traced arrays at once, whatever the mode outside."""
    before = autograd.LAZY_MODE
    autograd.LAZY_MODE = False
    try:
        yield
    finally:
        autograd.LAZY_MODE = before
