"""The passes that compile a function once where several phases would have the same, and pack an operand once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Hashable, Sequence
from dataclasses import replace

from needle.compiler.ir import Function
from needle.compiler.loops import Buffer
from needle.compiler.rendered import RenderedKernel

__all__ = ["share_functions", "share_packed"]

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


def share_packed(phases: Sequence[RenderedKernel], steps_buffers: Container[Buffer]) -> list[RenderedKernel]:
    """Leave out phases that write what another has written: weights that are packed anew in each step of a loop.

    Args:
        phases: in the order in which they run, with functions that are shared.
        steps_buffers: the buffers of the program's steps. All others belong to the phases of one step: one phase writes
            them, and only what a step reads goes in, which is whole by then and stays so.
    """
    known: dict[tuple[Hashable, ...], Buffer] = {}
    instead: dict[Buffer, Buffer] = {}
    writers = Counter(buffer for phase in phases for buffer in phase.writes)
    kept: list[RenderedKernel] = []
    for phase in phases:
        buffers = tuple(instead.get(buffer, buffer) for buffer in phase.buffers)
        written, *read = buffers
        if phase.written == 1 and written not in steps_buffers and writers[written] == 1:
            begins = tuple(phase.begins.get(buffer, 0) for buffer in phase.buffers)
            first = known.setdefault((phase.function.name, *read, *begins), written)
            if first is not written:
                instead[written] = first
                continue
        kept.append(replace(phase, buffers=buffers))
    return kept


def _text(function: Function) -> str:
    """Return a function's text without its name, which also begins the names of those that only it calls."""
    return function.text().replace(f"@{function.name}", "@")
