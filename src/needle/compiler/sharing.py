"""The pass that compiles a function once where several phases would have the same: the layers of a model are alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from needle.compiler.ir import Function
from needle.compiler.render import RenderedKernel

__all__ = ["share_functions"]

# Into how many places LLVM may copy a function: each copy is optimised by itself, which takes its time.
_MOST_COPIES = 1


def share_functions(phases: Sequence[RenderedKernel]) -> list[RenderedKernel]:
    """Return the phases, those whose functions differ in nothing but their names with the same function.

    A function knows its buffers as parameters only, so that equal text means equal work.
    """
    known: dict[str, Function] = {}
    shared = [replace(phase, function=known.setdefault(_text(phase.function), phase.function)) for phase in phases]
    uses = Counter[str]()
    for phase in shared:
        # Each chunk of a phase that threads share has a call of its own.
        uses[phase.function.name] += 1 if phase.is_alone else _MOST_COPIES + 1
    for function in known.values():
        if uses[function.name] > _MOST_COPIES and "noinline" not in function.attributes:
            function.attributes = f"noinline {function.attributes}"
    return shared


def _text(function: Function) -> str:
    """Return a function's text without its name, which also begins the names of those that only it calls."""
    return function.text().replace(f"@{function.name}", "@")
