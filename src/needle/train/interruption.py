"""Ctrl-C while training: the step is finished and saved first; a second one stops at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Interruption", "TrainingInterrupted", "deferred_interrupt"]


class TrainingInterrupted(KeyboardInterrupt):
    """The user has stopped training between two steps; `folder` is where it can be resumed, None where nowhere."""

    def __init__(self, folder: str | None = None) -> None:
        super().__init__()
        self.folder = folder


class Interruption:
    """Whether Ctrl-C has been pressed."""

    requested = False


@contextmanager
def deferred_interrupt() -> Iterator[Interruption]:
    """Note the first Ctrl-C inside the block instead of raising KeyboardInterrupt; the second one raises it.

    Only in the main thread, and only where Ctrl-C raises KeyboardInterrupt now; elsewhere nothing is changed.

    Example:
        >>> import signal
        >>> from needle.train.interruption import deferred_interrupt
        >>> with deferred_interrupt() as interruption:
        ...     signal.raise_signal(signal.SIGINT)
        ...     interruption.requested
        True
    """
    interruption = Interruption()
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before is not signal.default_int_handler:
        yield interruption
        return

    def note(_signal: int, _frame: FrameType | None) -> None:
        interruption.requested = True
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, note)
    try:
        yield interruption
    finally:
        signal.signal(signal.SIGINT, before)
