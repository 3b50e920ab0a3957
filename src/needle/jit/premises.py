"""What a trace has taken for granted beside its arguments and its state, looked at before each call.

Most of it is one object that has to be the same as before: those are looked at first, all in one loop. Where one is
another object, each guard compares in its own way, and says what has changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from needle import autograd, tracing
from needle.jit.array_guard import ArrayValues
from needle.jit.free_objects import EnvironmentGuard, ObjectGuard
from needle.jit.module_guard import ModuleGuard, Snapshot
from needle.jit.notes import Guard

__all__ = ["Mismatch", "Premises"]

# What has changed, its old and its new value.
Mismatch = tuple[str, Any, Any]


class Premises:
    """The guards of one program.

    Args:
        mode: whether graphs were recorded.
        objects: guards for what the function's code names.
        modules: the guard of the modules that were called.
        guards: what else was read while tracing.
    """

    def __init__(
        self,
        mode: bool,
        objects: Iterable[ObjectGuard | EnvironmentGuard],
        modules: ModuleGuard,
        guards: Iterable[Guard],
    ) -> None:
        self.mode = mode
        self.objects = list(objects)
        self.modules = modules
        self.guards = list(guards)
        self._changes_seen = tracing.changes
        self._looked_into: list[ObjectGuard | EnvironmentGuard] = []
        self._same: list[tuple[Callable[[], Any], Any]] = [(autograd.is_recording, mode)]
        for one in self.objects:
            if isinstance(one, EnvironmentGuard) or type(one.expected) in (Snapshot, ArrayValues):
                self._looked_into.append(one)
            else:
                self._same.append((one.read, one.expected))
        # What is a new tuple each time is never the same object.
        self._equal = [one for one in self.guards if isinstance(one.expected, tuple)]
        self._same += [(one.read, one.expected) for one in self.guards if not isinstance(one.expected, tuple)]

    def mismatch(self) -> Mismatch | None:
        """Return what does not hold any more; None where all does."""
        try:
            for read, expected in self._same:
                if read() is not expected:
                    return self._compared()
        except (AttributeError, KeyError, ValueError, IndexError):  # it is gone
            return self._compared()
        for guard in self._looked_into:
            changed = guard.difference()
            if changed is not None:
                return changed
        if self._changes_seen != tracing.changes or self.modules.held:
            found = self._module_mismatch()
            if found is not None:
                return found
        return _inequality(self._equal) if self._equal else None

    def _compared(self) -> Mismatch | None:
        if self.mode != autograd.is_recording():
            return "whether graphs are recorded", self.mode, not self.mode
        for guard in self.objects:
            changed = guard.difference()
            if changed is not None:
                return changed
        return self._module_mismatch() or _inequality(self.guards)

    def _module_mismatch(self) -> Mismatch | None:
        modules = self.modules
        if self._changes_seen != tracing.changes or (modules.held and modules.containers_differ()):
            changed = modules.difference()
            if changed is not None:
                return changed
            self._changes_seen = tracing.changes
        return None


def _inequality(guards: Sequence[Guard]) -> Mismatch | None:
    for guard in guards:
        now = guard.read()
        if now != guard.expected:
            return guard.what, guard.expected, now
    return None
