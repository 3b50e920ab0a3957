"""About how many operations a kernel does: enough to tell whether a second thread, or a wider loop, is worth it."""

from __future__ import annotations

import math

from needle.compiler.loops import Call, Kernel, Stage, walk
from needle.compiler.math import FUNCTIONS

__all__ = ["kernel_work", "stage_work"]

# What the formula of a function such as exp is, in operations.
_ELEMENTARY = 12


def kernel_work(kernel: Kernel) -> int:
    """Return about how many operations a kernel does."""
    return math.prod(kernel.shape) * sum(stage_work(stage) for stage in kernel.stages)


def stage_work(stage: Stage) -> int:
    """Return about how many operations a stage does at one point."""
    return 1 + sum(_operations(value) for value in walk(stage.value) if isinstance(value, Call))


def _operations(call: Call) -> int:
    """Return about how many instructions a call is: an elementary function is many."""
    return _ELEMENTARY if (call.function, "float32") in FUNCTIONS else 1
