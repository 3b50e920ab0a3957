"""Kernels: the small loop language between the graph and machine code::

    kernel  = a shape to loop over, axes of it to reduce over (the others are the grid), and stages run in order
    stage   = Reduce   combine a value over the reduced axes, and write the result once a grid point
            | Store    write a value at every point, or once a grid point
            | Scan     write running sums along the one reduced axis
            | Scatter  add values into a buffer at places that are values themselves
    value   = Load(buffer, place) | Number | Position(place) | Call(function, values)
            | Within(value, bounds)   a value where places are inside bounds, and a number elsewhere
    place   = offset + Σ stride · axis   (of a Gather: plus stride · an index that is a value)

Points of the grid are independent of each other. A stage may read what an earlier one wrote at the same point. A
kernel knows no target: it says what is computed and in which order. `show` prints it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, TypeVar

import numpy as np

__all__ = [
    "Buffer",
    "Call",
    "Gather",
    "Kernel",
    "Load",
    "Number",
    "Place",
    "Position",
    "Reduce",
    "Scan",
    "Scatter",
    "Stage",
    "Store",
    "Value",
    "Within",
]


@dataclass(frozen=True, slots=True, eq=False)
class Buffer:
    """A piece of memory that holds one array, row by row without gaps."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    @property
    def strides(self) -> tuple[int, ...]:
        """How many elements apart neighbours along each axis are."""
        strides, step = [], 1
        for length in reversed(self.shape):
            strides.append(step)
            step *= length
        return tuple(reversed(strides))


@dataclass(frozen=True, slots=True)
class Place:
    """A whole number that depends on the kernel's axes: offset + Σ strides[i] · axis i."""

    offset: int
    strides: tuple[int, ...]

    def __add__(self, other: Place) -> Place:
        return Place(self.offset + other.offset, tuple(a + b for a, b in zip(self.strides, other.strides, strict=True)))

    def scaled(self, factor: int) -> Place:
        """Multiply by a number."""
        return Place(self.offset * factor, tuple(stride * factor for stride in self.strides))

    def shifted(self, number: int) -> Place:
        """Add a number."""
        return Place(self.offset + number, self.strides)

    def __str__(self) -> str:
        terms = [f"{'' if s == 1 else f'{s}*'}i{axis}" for axis, s in enumerate(self.strides) if s]
        if self.offset or not terms:
            terms.append(str(self.offset))
        return " + ".join(terms)


@dataclass(frozen=True, slots=True)
class Load:
    """An element of a buffer."""

    buffer: Buffer
    place: Place
    dtype: np.dtype[Any]

    def __str__(self) -> str:
        return f"{self.buffer.name}[{self.place}]"


@dataclass(frozen=True, slots=True)
class Number:
    """One number that is known when compiling; its bits, so that NaN and −0 are told apart."""

    bits: bytes
    dtype: np.dtype[Any]

    @property
    def value(self) -> Any:
        """The number."""
        return np.frombuffer(self.bits, dtype=self.dtype)[0]

    def __str__(self) -> str:
        return str(self.value)


@dataclass(frozen=True, slots=True)
class Position:
    """A place as a value."""

    place: Place
    dtype: np.dtype[Any]

    def __str__(self) -> str:
        return f"({self.place})"


@dataclass(frozen=True, slots=True, eq=False)
class Gather:
    """An element of a buffer whose place is moved by a value: buffer[place + stride · index], index from 0 to last."""

    buffer: Buffer
    place: Place
    stride: int
    last: int
    index: Value
    dtype: np.dtype[Any]

    def __str__(self) -> str:
        return f"{self.buffer.name}[{self.place} + {self.stride}*{self.index}]"


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """An elementwise function of values."""

    function: str
    arguments: tuple[Value, ...]
    dtype: np.dtype[Any]

    def __str__(self) -> str:
        name = f"cast_{self.dtype}" if self.function == "cast" else self.function
        return f"{name}({', '.join(map(str, self.arguments))})"


@dataclass(frozen=True, slots=True, eq=False)
class Within:
    """A value where 0 ≤ place < length for each of some bounds, and a number elsewhere, where it is not computed."""

    value: Value
    bounds: tuple[tuple[Place, int], ...]
    dtype: np.dtype[Any]
    outside: float = 0.0

    def __str__(self) -> str:
        inside = " and ".join(f"0 <= {place} < {length}" for place, length in self.bounds)
        return f"({self.value} if {inside} else {self.outside:g})"


Value: TypeAlias = Load | Number | Position | Gather | Call | Within


@dataclass(frozen=True, slots=True)
class Reduce:
    """Combine a value over all reduced axes and write the result, separately at each point of the grid."""

    buffer: Buffer
    place: Place
    function: str  # reduce_sum, reduce_prod, reduce_max, reduce_min, argmax or argmin
    value: Value

    def __str__(self) -> str:
        return f"{self.buffer.name}[{self.place}] = {self.function} of {self.value}"


@dataclass(frozen=True, slots=True)
class Store:
    """Write a value: at every point, or once a point of the grid."""

    buffer: Buffer
    place: Place
    value: Value
    on_grid_only: bool = False

    def __str__(self) -> str:
        return f"{self.buffer.name}[{self.place}] = {self.value}"


@dataclass(frozen=True, slots=True)
class Scan:
    """Write the sum of a value over all points of the reduced axis up to each one."""

    buffer: Buffer
    place: Place
    value: Value

    def __str__(self) -> str:
        return f"{self.buffer.name}[{self.place}] = running sum of {self.value}"


@dataclass(frozen=True, slots=True)
class Scatter:
    """Add a value to the element at place + stride · index, in the order of the reduced axes."""

    buffer: Buffer
    place: Place
    stride: int
    last: int
    index: Value
    value: Value

    def __str__(self) -> str:
        return f"{self.buffer.name}[{self.place} + {self.stride}*{self.index}] += {self.value}"


Stage: TypeAlias = Reduce | Store | Scan | Scatter
_S = TypeVar("_S", bound=Stage)


@dataclass(frozen=True, slots=True)
class Kernel:
    """Loops over `shape`; `reduced` names the axes that are not part of the grid.

    The buffers in `inner` are nobody else's: what lies there is gone when a point of the grid is done.
    """

    name: str
    shape: tuple[int, ...]
    reduced: tuple[int, ...]
    stages: tuple[Stage, ...]
    sources: tuple[str, ...] = ()
    inner: tuple[Buffer, ...] = ()

    @property
    def grid(self) -> tuple[int, ...]:
        """The axes whose points are independent of each other."""
        return tuple(axis for axis in range(len(self.shape)) if axis not in self.reduced)

    def reads(self) -> list[Buffer]:
        """Return the buffers that are loaded, each once, but for inner ones."""
        found = dict.fromkeys(buffer for stage in self.stages for buffer in buffers_read(stage))
        return [buffer for buffer in found if buffer not in self.inner]

    def writes(self) -> list[Buffer]:
        """Return the buffers that are stored to, each once, but for inner ones."""
        return [buffer for buffer in dict.fromkeys(stage.buffer for stage in self.stages) if buffer not in self.inner]

    def show(self) -> str:
        """Print the kernel as loops."""
        axes = ", ".join(f"i{axis} < {self.shape[axis]}" for axis in self.grid)
        inner = ", ".join(f"i{axis} < {self.shape[axis]}" for axis in self.reduced)
        lines = [f"kernel {self.name}" + (f"  # {', '.join(self.sources)}" if self.sources else "")]
        lines.append(f"  for {axes or 'once'}:")
        for loop in inner_loops(self):
            depth = "    "
            if inner and not (isinstance(loop[0], Store) and loop[0].on_grid_only):
                lines.append(f"    for {inner}:")
                depth = "      "
            lines += [depth + str(stage) for stage in loop]
        return "\n".join(lines)


def inner_loops(kernel: Kernel) -> list[list[Stage]]:
    """Group the stages into the loops that run one after another at each point of the grid.

    Stages share a loop as long as none needs what a reduction of the same loop finds.
    """
    loops: list[list[Stage]] = []
    finished_later: set[Buffer] = set()
    for stage in kernel.stages:
        on_grid = isinstance(stage, Store) and stage.on_grid_only
        last = loops[-1] if loops else None
        last_on_grid = last is not None and isinstance(last[0], Store) and last[0].on_grid_only
        if last is None or on_grid != last_on_grid or finished_later & set(buffers_read(stage)):
            loops.append([])
            finished_later = set()
        loops[-1].append(stage)
        if not isinstance(stage, Store):
            finished_later.add(stage.buffer)
    return loops


def in_few_loops(stages: Sequence[Stage]) -> tuple[Stage, ...]:
    """Order stages so that those that need not wait for each other come in the same loop.

    Each goes into the first loop after those that it needs a reduction of; what is computed once a grid point comes
    between that loop and the next one.
    """
    ready: dict[Buffer, tuple[int, bool]] = {}
    places: list[tuple[int, bool]] = []
    for stage in stages:
        needed = [ready[buffer] for buffer in buffers_read(stage) if buffer in ready]
        loop, on_grid = max(needed, default=(0, False))
        if isinstance(stage, Store) and stage.on_grid_only:
            place = loop, True
            ready[stage.buffer] = place
        else:
            place = loop + on_grid, False
            ready[stage.buffer] = place if isinstance(stage, Store) else (place[0], True)
        places.append(place)
    order = sorted(range(len(stages)), key=places.__getitem__)
    return tuple(stages[number] for number in order)


def buffers_read(stage: Stage) -> list[Buffer]:
    """Return the buffers that a stage loads, each once."""
    roots = [stage.value, stage.index] if isinstance(stage, Scatter) else [stage.value]
    loads = (value for root in roots for value in walk(root))
    return list(dict.fromkeys(value.buffer for value in loads if isinstance(value, (Load, Gather))))


def buffers_and_places(stage: Stage) -> Iterator[tuple[Buffer | None, Place]]:
    """Yield all places of a stage, each with the buffer that it is in; None for places that are values themselves."""
    yield stage.buffer, stage.place
    roots = [stage.value, stage.index] if isinstance(stage, Scatter) else [stage.value]
    for root in roots:
        for value in walk(root):
            if isinstance(value, (Load, Gather)):
                yield value.buffer, value.place
            elif isinstance(value, Position):
                yield None, value.place
            elif isinstance(value, Within):
                yield from ((None, place) for place, _ in value.bounds)


def with_places(stages: Sequence[_S], change: Callable[[Buffer | None, Place], Place]) -> tuple[_S, ...]:
    """Return stages with each place changed, given the buffer that it is in (None for those that are values)."""
    return _rewritten(stages, {}, change)


def with_buffers(stages: Sequence[_S], instead: Mapping[Buffer, Buffer]) -> tuple[_S, ...]:
    """Return stages with other buffers in the place of some."""
    return _rewritten(stages, instead, lambda _, place: place)


def _rewritten(
    stages: Sequence[_S], instead: Mapping[Buffer, Buffer], change: Callable[[Buffer | None, Place], Place]
) -> tuple[_S, ...]:
    """Return stages with other buffers and places; `change` is given the buffers that there were."""
    memo: dict[int, Value] = {}

    def value(old: Value) -> Value:
        if id(old) not in memo:
            memo[id(old)] = changed(old)
        return memo[id(old)]

    def changed(old: Value) -> Value:
        if isinstance(old, Call):
            return Call(old.function, tuple(map(value, old.arguments)), old.dtype)
        if isinstance(old, Number):
            return old
        if isinstance(old, Position):
            return replace(old, place=change(None, old.place))
        if isinstance(old, Within):
            bounds = tuple((change(None, place), length) for place, length in old.bounds)
            return replace(old, value=value(old.value), bounds=bounds)
        moved = replace(old, buffer=instead.get(old.buffer, old.buffer), place=change(old.buffer, old.place))
        return replace(moved, index=value(moved.index)) if isinstance(moved, Gather) else moved

    def stage(old: _S) -> _S:
        buffer, place = instead.get(old.buffer, old.buffer), change(old.buffer, old.place)
        moved = replace(old, buffer=buffer, place=place, value=value(old.value))
        return replace(moved, index=value(moved.index)) if isinstance(moved, Scatter) else moved

    return tuple(map(stage, stages))


def walk(root: Value) -> Iterator[Value]:
    """Yield a value and all that it is made of, each once."""
    seen: set[int] = set()
    stack = [root]
    while stack:
        value = stack.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        yield value
        if isinstance(value, Call):
            stack.extend(value.arguments)
        elif isinstance(value, Gather):
            stack.append(value.index)
        elif isinstance(value, Within):
            stack.append(value.value)


def zero_place(rank: int) -> Place:
    """Return the place 0 in a kernel of `rank` axes."""
    return Place(0, (0,) * rank)


def axis_places(rank: int) -> tuple[Place, ...]:
    """Return the places that are the axes themselves."""
    return tuple(Place(0, tuple(int(i == axis) for i in range(rank))) for axis in range(rank))


def buffer_place(buffer: Buffer, index: Sequence[Place], rank: int) -> Place:
    """Return where the element at `index` of a buffer lies."""
    place = zero_place(rank)
    for stride, position in zip(buffer.strides, index, strict=True):
        place = place + position.scaled(stride)
    return place


def index_of_place(place: Place, shape: Sequence[int], domain: Sequence[int]) -> list[Place] | None:
    """Return the index along each axis of an array whose elements lie at a place, at each point of a domain.

    None where it is not the index of one element of the array at every point.
    """
    if 0 in shape:
        return None
    left = place
    found: list[Place] = []
    for axis, length in enumerate(shape):
        stride = math.prod(shape[axis + 1 :])
        along = Place(left.offset // stride, tuple(one // stride for one in left.strides))
        left += along.scaled(-stride)
        ends = [one * (n - 1) for one, n in zip(along.strides, domain, strict=True)]
        low = along.offset + sum(end for end in ends if end < 0)
        high = along.offset + sum(end for end in ends if end > 0)
        if low < 0 or high >= length:
            return None
        found.append(along)
    return None if left.offset or any(left.strides) else found
