"""The numbers that a program reads anew in each call (a learning rate, a count of steps), and what follows from them.

Most of them are as they were in the call before: what follows from those is not computed again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from needle import tracing
from needle.jit.notes import NumberGuard, Read
from needle.jit.premises import Mismatch

__all__ = ["HostNumbers"]

_UNKNOWN: Any = object()
# The same object of these is the same number later.
_PLAIN = (int, float)


class HostNumbers:
    """The numbers of one program.

    Args:
        reads: how they are read, in order.
        guards: what the trace has taken for granted of them.
    """

    def __init__(self, reads: Iterable[Read], guards: Sequence[NumberGuard]) -> None:
        self._guards = [(one, one.number.function()) for one in guards]
        self._reads = [one.read for one in reads]
        guarded = {place for guard in guards for place in guard.number.reads}
        self._guarded = [(place, self._reads[place]) for place in sorted(guarded)]
        # As they were when the guards held last, and when the scalars were written.
        self._held = [_UNKNOWN] * len(self._reads)
        self._written = [_UNKNOWN] * len(self._reads)
        self._scalars_of: list[list[tuple[Any, NDArray[Any]]]] = [[] for _ in self._reads]

    def scalar(self, number: tracing.HostNumber, dtype: np.dtype[Any]) -> NDArray[Any]:
        """Return an array without axes that `write` keeps equal to a number."""
        scalar = number.function(), np.zeros((), dtype)
        for place in number.reads:
            self._scalars_of[place].append(scalar)
        return scalar[1]

    def mismatch(self) -> Mismatch | None:
        """Return which answer about the numbers, as they are now, has changed."""
        held = self._held
        numbers: list[Any] = [None] * len(held)
        is_as_it_was = True
        for place, read in self._guarded:
            number = numbers[place] = read()
            if number is not held[place]:
                is_as_it_was = False
        if is_as_it_was:
            return None
        for guard, evaluate in self._guards:
            value = evaluate(numbers)
            if guard.question(value) != guard.expected:
                return guard.what, guard.expected, value
        for place, _ in self._guarded:
            held[place] = numbers[place] if type(numbers[place]) in _PLAIN else _UNKNOWN
        return None

    def write(self, numbers: list[Any]) -> None:
        """Give the scalars the values that follow from the numbers of a call."""
        written = self._written
        for place, number in enumerate(numbers):
            if number is written[place]:
                continue
            written[place] = _UNKNOWN  # should a formula fail
            for evaluate, scalar in self._scalars_of[place]:
                scalar[...] = evaluate(numbers)
            if type(number) in _PLAIN:
                written[place] = number
