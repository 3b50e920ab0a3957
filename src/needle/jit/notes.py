"""What is noted of a call while it is traced: records, which the recorder makes and the program reads."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from needle import tracing
from needle.autograd import Tensor
from needle.compiler import Node
from needle.compiler.repeat import OpenBody

__all__ = [
    "ArgumentPlace",
    "Check",
    "Draw",
    "Effect",
    "GradientPlace",
    "Guard",
    "HostArray",
    "HostScalar",
    "NumberGuard",
    "OperatorResult",
    "Place",
    "Read",
    "StatePlace",
    "StepNotes",
    "TracedLoop",
]


# ------------------------------------------------------------------------------------- where values come from


@dataclass(frozen=True, slots=True)
class ArgumentPlace:
    """The Tensor or array with this number among a call's arguments."""

    number: int


@dataclass(frozen=True, slots=True, eq=False)
class StatePlace:
    """A Tensor that was there before: a parameter, a moment, a running mean."""

    tensor: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class GradientPlace:
    """The gradient of the Tensor at another place."""

    of: Any


Place: TypeAlias = ArgumentPlace | StatePlace | GradientPlace


@dataclass(frozen=True, slots=True, eq=False)
class HostArray:
    """A NumPy array that the function uses, as it is at the time of a call."""

    array: Any


@dataclass(frozen=True, slots=True, eq=False)
class HostScalar:
    """A number that the host computes before each call."""

    number: tracing.HostNumber
    dtype: np.dtype[Any]


# ---------------------------------------------------------------- what is done before each call, in this order


@dataclass(frozen=True, slots=True, eq=False)
class Draw:
    """Random numbers, drawn anew in each call: made, or where it is known how, filled into an array that is kept."""

    make: Callable[[], Any]
    fill: Callable[[Any], None] | None


@dataclass(frozen=True, slots=True, eq=False)
class Read:
    """A number, read anew in each call."""

    read: Callable[[], Any]


@dataclass(frozen=True, slots=True, eq=False)
class Effect:
    """Something done beside computing, and how to take it back."""

    do: Callable[[], None]
    undo: Callable[[], None]


# -------------------------------------------------------------------------- what a program takes for granted


@dataclass(frozen=True, slots=True, eq=False)
class Guard:
    """Something that was read while tracing."""

    read: Callable[[], Hashable]
    expected: Hashable
    what: str


@dataclass(frozen=True, slots=True, eq=False)
class NumberGuard:
    """An answer about a number of the host on which the function's course depends."""

    number: tracing.HostNumber
    question: Callable[[Any], Any]
    expected: Any
    what: str


@dataclass(frozen=True, slots=True, eq=False)
class Check:
    """Values that are looked at in each call, such as class labels; `fails` is whether they are wrong, where known."""

    node: Node
    check: Callable[[Any], None]
    fails: Node | None = None


@dataclass(frozen=True, slots=True, eq=False)
class OperatorResult:
    """What an operator of the function returned. Of the operator itself, which may hold Tensors, its plain settings."""

    name: str
    node: Node
    source: str
    operands: tuple[Node, ...]
    settings: dict[str, Any]


@dataclass(frozen=True, slots=True)
class StepNotes:
    """What is noted of the step of a loop and is not the function's own: what it checks, what its operators return."""

    checks: list[Check] = field(default_factory=list)
    results: list[OperatorResult] = field(default_factory=list)


@dataclass(frozen=True, slots=True, eq=False)
class TracedLoop:
    """A scan that is one loop, as comparing a call with the eager one asks for what its operators return.

    Fields: `result`, the node of its first result; `operators`, of its step; and what the loop is made of.
    """

    result: Node
    operators: tuple[OperatorResult, ...]
    body: OpenBody
    starts: tuple[Node, ...]
    sequences: tuple[Node, ...]
    length: int
    reverse: bool
