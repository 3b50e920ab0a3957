"""The pass that compiles a function once where several phases would have the same: the layers of a model are alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from needle.compiler.ir import Function
from needle.compiler.render import RenderedKernel

__all__ = ["share_functions"]


def share_functions(phases: Sequence[RenderedKernel]) -> list[RenderedKernel]:
    """Return the phases, those whose functions differ in nothing but their names with the same function.

    A function knows its buffers as parameters only, so that equal text means equal work.
    """
    known: dict[str, Function] = {}
    return [replace(phase, function=known.setdefault(_text(phase.function), phase.function)) for phase in phases]


def _text(function: Function) -> str:
    """Return a function's text without its name, which also begins the names of those that only it calls."""
    return function.text().replace(f"@{function.name}", "@")
