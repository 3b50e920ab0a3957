"""What a trace cannot see by itself, and is told here.

A trace sees the operators that a function applies. It does not see what else the function depends on: random numbers,
hyperparameters, a count of steps, the shape of a model. Code that uses such things says so through this module. While
nothing is traced each function here does the plain thing at once: `host_number(read)` is `read()`.

While a function is traced, the thread's recorder turns them into what a compiled call repeats before it runs: draws are
made again, numbers are read again, effects happen again, and a guard that reads something else than it did makes a
new trace.
"""

from __future__ import annotations

import math
import operator
import re
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence, Set
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Protocol, TypeVar

import numpy as np

__all__ = [
    "HostNumber",
    "NotOneLoop",
    "Observer",
    "Recorder",
    "check_values",
    "guard",
    "host_effect",
    "host_number",
    "is_recomputing",
    "loops_written_out",
    "made_state",
    "may_loop",
    "not_one_loop",
    "note_change",
    "recomputing",
    "recorder",
    "recording",
    "watch_always",
]

_T = TypeVar("_T")
Number = Any  # an int or a float

# How many threads record now. A glance at it is cheaper than at the thread's own recorder.
active = 0
# Counts whatever a trace may have taken for granted and that was set anew since, such as a module's attributes.
changes = 0

_local = threading.local()
_lock = threading.Lock()
_default: Recorder | None = None


class Recorder(Protocol):
    """What is told of a function while it runs."""

    def number(self, read: Callable[[], Number]) -> Any:
        """Return what stands for a number that is read anew in each call."""

    def guard(self, read: Callable[[], Hashable], what: str) -> None:
        """Note that the function depends on what `read` returns."""

    def effect(self, do: Callable[[], None], undo: Callable[[], None]) -> None:
        """Note something that each call does beside computing."""

    def creation(self, undo: Callable[[], object]) -> None:
        """Note that state was made which stays, unless the call fails."""

    def draw(
        self, shape: Sequence[int], dtype: Any, make: Callable[[], Any], fill: Callable[[Any], None] | None = None
    ) -> Any:
        """Return what stands for an array of random numbers that is drawn anew in each call."""

    def array(self, array: Any) -> Any:
        """Return what stands for an array of the host that the function uses; None for a copy of it."""

    def check(self, array: Any, check: Callable[[Any], None]) -> None:
        """Have `check` look at an array's values in each call."""

    def operator(self, op: Any, result: Any, operands: Sequence[Any]) -> None:
        """Note an operator (`op.called` is its name), its result, and what it was computed from."""

    def module(self, module: Any) -> None:
        """Note that a module was called."""


def recorder() -> Recorder | None:
    """Return what is told of what this thread does; None for nobody."""
    return getattr(_local, "recorder", _default) if active else None


def watch_always(observer: Recorder | None) -> None:
    """Tell `observer` of what all threads do that do not trace; None for nobody."""
    global active, _default  # noqa: PLW0603  settings of the process
    with _lock:
        active += (observer is not None) - (_default is not None)
        _default = observer


@contextmanager
def recording(recorder: Recorder | None) -> Iterator[None]:
    """Tell `recorder` of what this thread does inside the block; None for nobody."""
    global active  # noqa: PLW0603  a count of the process
    before = getattr(_local, "recorder", _default)
    _local.recorder = recorder
    with _lock:
        active += 1
    try:
        yield
    finally:
        if before is _default:
            del _local.recorder
        else:
            _local.recorder = before
        with _lock:
            active -= 1


def host_number(read: Callable[[], _T]) -> _T:
    """Return `read()`; in a trace, what stands for the number that `read()` returns in each call."""
    current = recorder()
    return read() if current is None else current.number(read)


def host_effect(do: Callable[[], None], undo: Callable[[], None]) -> None:
    """Do something beside computing, such as counting a step; in a trace, once in each call.

    `undo` takes it back where the call then fails.
    """
    current = recorder()
    if current is None:
        do()
    else:
        current.effect(do, undo)


def made_state(undo: Callable[[], object]) -> None:
    """Say that state was made that was not there, such as an optimizer's moments.

    `undo` takes it back where a trace, or the first call of the program that it gives, fails.
    """
    current = recorder()
    if current is not None:
        current.creation(undo)


def check_values(array: Any, check: Callable[[Any], None]) -> None:
    """Have `check` look at an array's values now; in a trace, in each call. It raises where they are wrong.

    A check may have a method `fails` that tells by the array API whether it raises. A program asks that where it can,
    so that the check itself is called only then. Of equal checks of one array one is made.
    """
    if hasattr(array, "check_when_run"):  # a traced array, whose values come later
        array.check_when_run(check)
    else:
        check(array)


def guard(read: Callable[[], Hashable], what: str) -> None:
    """Say that what follows depends on `read()`: where it changes, a compiled function is traced again."""
    current = recorder()
    if current is not None:
        current.guard(read, what)


def is_recomputing() -> bool:
    """Tell whether what runs now ran before, and is only computed again for a gradient: see `ndl.checkpoint`.

    A layer that keeps statistics leaves them alone then.
    """
    return getattr(_local, "recomputing", False)


@contextmanager
def recomputing() -> Iterator[None]:
    """Say that what runs inside the block ran before."""
    before = is_recomputing()
    _local.recomputing = True
    try:
        yield
    finally:
        _local.recomputing = before


class NotOneLoop(BaseException):
    """The steps of a loop are not the same for each element: the function is traced again, loops written out.

    Args:
        why: a clause that says it.
        remedy: a sentence on how they become the same.
    """

    def __init__(
        self,
        why: str = "a step is not the same for each element",
        remedy: str = "Pass what differs in xs, or carry it as a Tensor",
    ) -> None:
        super().__init__(why)
        self.why = why
        self.remedy = remedy


def may_loop() -> bool:
    """Tell whether a loop may be traced as one body for all steps."""
    return getattr(_local, "may_loop", True)


@contextmanager
def loops_written_out(because: NotOneLoop | None = None) -> Iterator[None]:
    """Have loops traced step by step inside the block."""
    before = may_loop(), not_one_loop()
    _local.may_loop, _local.not_one_loop = False, because
    try:
        yield
    finally:
        _local.may_loop, _local.not_one_loop = before


def not_one_loop() -> NotOneLoop | None:
    """Return why loops are traced step by step now; None where they are not, or only within a loop."""
    return getattr(_local, "not_one_loop", None)


def note_change() -> None:
    """Say that something has been set that a trace may depend on, so that guards look closely once."""
    global changes  # noqa: PLW0603  a count of the process
    changes += 1


class Observer:
    """A recorder that lets everything happen as ever: only watches."""

    def number(self, read: Callable[[], Number]) -> Any:
        """Read the number."""
        return read()

    def guard(self, read: Callable[[], Hashable], what: str) -> None:
        """Depend on nothing."""

    def effect(self, do: Callable[[], None], undo: Callable[[], None]) -> None:
        """Do it."""
        do()

    def creation(self, undo: Callable[[], object]) -> None:
        """Let it stay."""

    def draw(
        self, shape: Sequence[int], dtype: Any, make: Callable[[], Any], fill: Callable[[Any], None] | None = None
    ) -> Any:
        """Draw."""
        return make()

    def array(self, array: Any) -> Any:
        """Leave the array to be copied."""
        return None

    def check(self, array: Any, check: Callable[[Any], None]) -> None:
        """Check the values."""
        check(array)

    def operator(self, op: Any, result: Any, operands: Sequence[Any]) -> None:
        """Take no note."""

    def module(self, module: Any) -> None:
        """Take no note."""


class HostNumber:
    """A number of the host that a compiled call computes before it runs: a formula over numbers that are read.

    It combines with numbers as they do among themselves, in double precision, and with arrays as a Python number does:
    it takes on the array's dtype. Where Python needs to know it (`if`, comparison, float()), its present value is
    given, and a guard makes a new trace where the answer changes.

    Args:
        owner: the recorder.
        formula: Python's text for the number, of those that were read in this call: `numbers[0]` is the first.
        value: the number now.
        depth: how many parentheses are around parts of the formula.
    """

    # NumPy's arrays leave arithmetic with these numbers to the methods below.
    __array_ufunc__ = None
    __slots__ = ("depth", "formula", "owner", "value")

    def __init__(self, owner: Any, formula: str, value: Number, depth: int = 1) -> None:
        self.owner = owner
        self.formula = formula
        self.value = value
        self.depth = depth

    @property
    def reads(self) -> Set[int]:
        """Which of the numbers that a call reads are in the formula, by their place."""
        return {int(place) for place in re.findall(r"numbers\[(\d+)\]", self.formula)}

    def function(self) -> Callable[[Sequence[Number]], Number]:
        """Return what computes the number from those that were read in a call."""
        return _function(self.formula)

    def _combine(self, function: Callable[[Any, Any], Any], a: object, b: object) -> Any:
        if not (isinstance(a, _NUMBERS) and isinstance(b, _NUMBERS)):
            return self._with_array(function, a, b)
        (first, value_a, depth_a), (second, value_b, depth_b) = _parts(a), _parts(b)
        formula, depth = f"({first} {_SIGNS[function]} {second})", max(depth_a, depth_b) + 1
        if depth == _DEEPEST:
            formula, depth = f"function({formula!r})(numbers)", 1
        return HostNumber(self.owner, formula, function(value_a, value_b), depth)

    def _with_array(self, function: Callable[[Any, Any], Any], a: object, b: object) -> Any:
        other = b if a is self else a
        if not isinstance(other, np.ndarray):
            return NotImplemented
        array = self.owner.array(other)
        return function(self, array) if a is self else function(array, self)

    def __add__(self, other: object) -> Any:
        return self._combine(operator.add, self, other)

    def __radd__(self, other: object) -> Any:
        return self._combine(operator.add, other, self)

    def __sub__(self, other: object) -> Any:
        return self._combine(operator.sub, self, other)

    def __rsub__(self, other: object) -> Any:
        return self._combine(operator.sub, other, self)

    def __mul__(self, other: object) -> Any:
        return self._combine(operator.mul, self, other)

    def __rmul__(self, other: object) -> Any:
        return self._combine(operator.mul, other, self)

    def __truediv__(self, other: object) -> Any:
        return self._combine(operator.truediv, self, other)

    def __rtruediv__(self, other: object) -> Any:
        return self._combine(operator.truediv, other, self)

    def __pow__(self, other: object) -> Any:
        return self._combine(operator.pow, self, other)

    def __rpow__(self, other: object) -> Any:
        return self._combine(operator.pow, other, self)

    def __neg__(self) -> Any:
        return self._combine(operator.mul, -1, self)

    def _known(self, question: Callable[[Number], Any], what: str) -> Any:
        """Answer a question about the value, and guard the answer."""
        answer = question(self.value)
        self.owner.guard_number(self, question, answer, what)
        return answer

    def __bool__(self) -> bool:
        return bool(self._known(bool, "whether a hyperparameter is 0"))

    def __float__(self) -> float:
        return float(self._known(float, "a hyperparameter's value"))

    def __int__(self) -> int:
        return int(self._known(int, "a hyperparameter's value"))

    def __index__(self) -> int:
        return operator.index(self._known(operator.index, "a hyperparameter's value"))

    def _compare(self, function: Callable[[Any, Any], Any], other: object) -> Any:
        if not isinstance(other, (int, float)):
            return NotImplemented
        return self._known(lambda value: function(value, other), f"a hyperparameter compared with {other}")

    def __lt__(self, other: object) -> Any:
        return self._compare(operator.lt, other)

    def __le__(self, other: object) -> Any:
        return self._compare(operator.le, other)

    def __gt__(self, other: object) -> Any:
        return self._compare(operator.gt, other)

    def __ge__(self, other: object) -> Any:
        return self._compare(operator.ge, other)

    def __eq__(self, other: object) -> Any:
        return self._compare(operator.eq, other)

    def __ne__(self, other: object) -> Any:
        return self._compare(operator.ne, other)

    __hash__ = object.__hash__

    def __repr__(self) -> str:
        return f"HostNumber({self.value})"


_NUMBERS = (int, float, HostNumber)
_SIGNS = {operator.add: "+", operator.sub: "-", operator.mul: "*", operator.truediv: "/", operator.pow: "**"}
# Python reads no text with more than 200 parentheses in each other: what has so many is a function of its own.
_DEEPEST = 100


def _parts(operand: Any) -> tuple[str, Number, int]:
    """Return the formula of a number, its value, and how deep the formula is."""
    if isinstance(operand, HostNumber):
        return operand.formula, operand.value, operand.depth
    plain = operand.item() if isinstance(operand, np.generic) else operand
    return f"({plain!r})", plain, 1


@lru_cache(maxsize=256)
def _function(formula: str) -> Callable[[Sequence[Number]], Number]:
    # Beside digits and signs there are numbers that have none, and formulas as texts.
    names = {"inf": math.inf, "nan": math.nan, "function": _function}
    function: Callable[[Sequence[Number]], Number] = eval(f"lambda numbers: {formula}", names)  # noqa: S307
    return function
