"""Steps that are alike but for their buffers are rendered once: those of an unrolled loop, the layers of a model."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np

from needle.compiler.loops import Buffer
from needle.compiler.rendered import RenderedKernel
from needle.compiler.steps import Step

__all__ = ["Renderings", "form_of"]

# What a step is called and where it came from does not change what it does.
_LABELS = {"name", "sources"}


class Renderings:
    """Renders steps, those that are alike once.

    Args:
        render: makes the functions of a step.
    """

    def __init__(self, render: Callable[[Step], Sequence[RenderedKernel]]) -> None:
        self._render = render
        self._known: dict[Hashable, tuple[tuple[Buffer, ...], Sequence[RenderedKernel]]] = {}

    def __call__(self, step: Step) -> list[RenderedKernel]:
        """Return the functions of a step, with its own buffers."""
        form, buffers = form_of(step)
        if form not in self._known:
            self._known[form] = buffers, self._render(step)
            return list(self._known[form][1])
        others, phases = self._known[form]
        own = dict(zip(others, buffers, strict=True))
        # What the functions keep between them is a buffer of its own for each step: steps may run side by side.
        for buffer in dict.fromkeys(buffer for phase in phases for buffer in phase.buffers):
            own.setdefault(buffer, Buffer(buffer.name, buffer.shape, buffer.dtype))
        return [replace(phase, buffers=tuple(own[buffer] for buffer in phase.buffers)) for phase in phases]


def form_of(step: Step) -> tuple[Hashable, tuple[Buffer, ...]]:
    """Return what is the same of steps that differ in their buffers and labels only, and a step's buffers in order.

    A value that is used twice is told from two equal ones: it is computed once.
    """
    buffers: dict[Buffer, int] = {}
    seen: dict[int, int] = {}
    parts: list[Hashable] = []

    def form(value: Any) -> Hashable:
        if isinstance(value, Buffer):
            return "buffer", buffers.setdefault(value, len(buffers)), value.shape, value.dtype
        if isinstance(value, tuple):
            return tuple(form(one) for one in value)
        if not is_dataclass(value):
            return value if isinstance(value, (Hashable, np.dtype)) else repr(value)
        if id(value) not in seen:
            own = tuple(form(getattr(value, name)) for name in _names(type(value)))
            seen[id(value)] = len(parts)
            parts.append((type(value), own))
        return "part", seen[id(value)]

    form(step)
    return tuple(parts), tuple(buffers)


_field_names: dict[type, tuple[str, ...]] = {}


def _names(kind: Any) -> tuple[str, ...]:
    if kind not in _field_names:
        _field_names[kind] = tuple(one.name for one in fields(kind) if one.name not in _LABELS)
    return _field_names[kind]
