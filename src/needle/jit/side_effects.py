"""What a function does to Python beside computing, while it is followed: a program would not do it again.

Draws from generators that Needle knows nothing of would be the same numbers in each call: an error. Other changes of
what the function itself reads (a count, a list that grows) happen in the first call only: a warning.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from needle.autograd import Value
from needle.compiler import TracedArray
from needle.compiler.user_code import warn_user
from needle.errors import TraceError
from needle.jit.free_objects import free_objects
from needle.jit.module_guard import ABSENT, Difference, same
from needle.jit.outside_calls import calls_in, draws_in

__all__ = ["BeforeTrace", "settings_of"]

_SETTINGS = (bool, int, float, str)


class BeforeTrace:
    """How things are before a function is followed."""

    def __init__(self, fn: Callable[..., Any], given: Sequence[Any]) -> None:
        self.name = getattr(fn, "__name__", type(fn).__name__)
        self.numpy: Any = np.random.get_state()
        self.python = random.getstate()
        self.guards = free_objects(fn, given).guards
        found = [*(guard.expected for guard in self.guards), *given]
        self.generators = [(one, _state(one)) for one in found if isinstance(one, (np.random.Generator, random.Random))]

    def check_draws(self, functions: Sequence[Any]) -> None:
        """Refuse random numbers that a program would repeat; the generators go back to where they were.

        Args:
            functions: those that may have drawn, for the message.

        Raises:
            TraceError: the function drew some.
        """
        drawn = self._drawn_from()
        if drawn:
            where = next((f" at {one.file}:{one.line} ({one.name})" for one in draws_in(functions)), "")
            raise TraceError(
                f"{self.name}: the function draws from {drawn}{where}, and a compiled one would repeat the same "
                "numbers: draw with ndl.init.rand, randn or randb, or draw outside of the function and pass what was "
                "drawn"
            )

    def _drawn_from(self) -> str:
        """Return which generator was drawn from, empty for none; all go back to where they were."""
        now: Any = np.random.get_state()
        drawn = "NumPy's global generator" if _differ(self.numpy, now) else ""
        np.random.set_state(self.numpy)
        if random.getstate() != self.python:
            drawn = "Python's random"
            random.setstate(self.python)
        for generator, state in self.generators:
            if repr(_state(generator)) != repr(state):
                drawn = f"a {type(generator).__name__} of its own"
                _set_state(generator, state)
        return drawn

    def go_back(self, modules: Sequence[tuple[Any, dict[str, Any]]]) -> None:
        """Make generators, and the numbers and strings of modules, what they were, as following has failed."""
        self._drawn_from()
        for module, before in modules:
            if module.training != before.get("training", True):
                module.train(not module.training)  # those below have their turn later
            now = settings_of(module)
            for name in {**before, **now}:
                if name not in before and name != "training":
                    delattr(module, name)
                elif name in before and not same(before[name], now.get(name, ABSENT)):
                    setattr(module, name, before[name])

    def warn_of_outside_calls(self, functions: Sequence[Any]) -> None:
        """Warn of the clock and the system's random numbers, whose answer in a compiled function is the first one."""
        for one in dict.fromkeys(calls_in(functions)):
            message = (
                f"{self.name} calls {one.name}. A compiled function does so only while it is followed, and goes on "
                "with that answer: call it outside of the function, and pass the answer as a Tensor where it is needed"
            )
            warnings.warn_explicit(message, UserWarning, one.file, one.line)

    def warn_of_changes(self, modules: Sequence[tuple[Any, dict[str, Any]]]) -> None:
        """Warn of what the function has changed of the numbers, strings and containers that it reads."""
        found = [guard.difference() for guard in self.guards]
        for module, before in modules:
            found += [_changed(module, name, old) for name, old in before.items()]
        for one in found:
            if one is not None and _is_plain_change(*one):
                what, old, new = one
                change = f"sets {what} to {new!r}" if old is ABSENT else f"changes {what} from {old!r} to {new!r}"
                warn_user(
                    f"{self.name} {change}. A compiled function changes Python's objects "
                    "only while it is followed, in its first call: keep what each call changes in a Tensor (in a "
                    "module, an nn.Buffer), or change it outside of the function"
                )


def settings_of(module: Any) -> dict[str, Any]:
    """Return the numbers and strings among a module's attributes."""
    return {name: value for name, value in vars(module).items() if type(value) in _SETTINGS}


def _changed(module: Any, name: str, old: Any) -> Difference | None:
    new = vars(module).get(name, ABSENT)
    return None if same(old, new) else (f"{type(module).__name__}.{name}", old, new)


def _is_plain_change(_: str, old: Any, new: Any) -> bool:
    """Tell whether a program would do otherwise: not where something was made that was not there, which it keeps."""
    if old is ABSENT:
        return isinstance(new, _SETTINGS)
    return old is not None and not isinstance(old, (Value, TracedArray)) and not isinstance(new, (Value, TracedArray))


def _differ(before: Any, after: Any) -> bool:
    return before[2] != after[2] or before[3] != after[3] or not np.array_equal(before[1], after[1])


def _state(generator: Any) -> Any:
    if isinstance(generator, random.Random):
        return generator.getstate()
    return generator.bit_generator.state


def _set_state(generator: Any, state: Any) -> None:
    if isinstance(generator, random.Random):
        generator.setstate(state)
    else:
        generator.bit_generator.state = state
