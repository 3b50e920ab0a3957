"""The pass that divides chains of short steps into lanes: rows that go through all of the steps by themselves.

The steps of a recurrence wait for each other, and each is too short to be worth a meeting of all threads at its end.
But what becomes of one row of the batch does not depend on the others: a thread may take some rows through all time
steps, and meets the others at the end only. So each step becomes several, one for each lane, of fewer rows.
What lanes pass on from step to step gets buffers of their own. A row's numbers are the same in every division.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias, TypeVar

from needle.compiler.graph import Node
from needle.compiler.loops import (
    Buffer,
    Gather,
    Kernel,
    Load,
    Place,
    Reduce,
    Stage,
    Store,
    walk,
    with_buffers,
    with_places,
)
from needle.compiler.operand import Operand
from needle.compiler.rendered import Lane
from needle.compiler.schedule import loop_step
from needle.compiler.steps import Contraction, Loop, Program, Step

__all__ = ["LaneStep", "in_lanes", "is_worth_a_loop", "lanes_of_loop"]

# Chains of fewer products than this are left as they are.
_SHORTEST_CHAIN = 6
# A lane has at least so many rows: each of them goes through the whole right operand of every product.
_FEWEST_ROWS = 8
# What threads lose by meeting after a step, in multiply-adds of one of them.
_MEETING = 300_000

# Products of more multiply-adds are worth meetings of all threads.
_LONGEST_PRODUCT = 10_000_000

_S = TypeVar("_S", bound=Stage)
_Key: TypeAlias = tuple[int, Buffer]  # a number of rows, and a buffer that steps of so many write


@dataclass(frozen=True, slots=True)
class LaneStep:
    """A step, the name of the program's step that it is, or a part of, and the lane that it is part of, if any."""

    step: Step
    name: str
    lane: Lane | None = None


@dataclass(frozen=True, slots=True)
class _Rows:
    """How rows lie in a buffer: so many, `stride` elements apart, all of them in each piece of count · stride."""

    count: int
    stride: int


@dataclass(slots=True)
class _Chain:
    """Steps that depend on each other by rows."""

    rows: int
    steps: list[int] = field(default_factory=list)
    written: list[_Key] = field(default_factory=list)
    depth: int = 0  # the products on the longest way through it
    work: int = 0  # the multiply-adds of the largest product


def in_lanes(program: Program, processors: int) -> list[LaneStep]:
    """Return the steps of a program, those of chains divided into at most as many lanes as there are processors."""
    finder = _Finder(program)
    slicers_of: dict[int, list[tuple[Lane, _Slicer]]] = {}
    for index, chain in enumerate(finder.chains()):
        count = _count_lanes(chain, processors)
        if count > 1:
            private = _private_buffers(program, chain, finder)
            bounds = [chain.rows * lane // count for lane in range(count + 1)]
            slicers = [
                (Lane(index, lane), _Slicer(chain, range(bounds[lane], bounds[lane + 1]), lane, private, finder))
                for lane in range(count)
            ]
            slicers_of.update(dict.fromkeys(chain.steps, slicers))
    result: list[LaneStep] = []
    for number, step in enumerate(program.steps):
        pieces = [LaneStep(slicer.slice(number, step), step.name, lane) for lane, slicer in slicers_of.get(number, ())]
        result += pieces or [LaneStep(step, step.name)]
    return result


def lanes_of_loop(loop: Loop, processors: int) -> list[list[Step]]:
    """Return the steps of a loop's body, for each of the lanes that it is worth dividing into; one of all else."""
    body = loop.body
    whole = [list(body.steps)]
    carried = list(body.inputs[: len(loop.starts)])
    if not carried or not all(one.shape and one.size for one in carried):
        return whole
    rows = carried[0].shape[0]
    if any(one.shape[0] != rows for one in carried):
        return whole
    finder = _Finder(body, carried)
    chains = finder.chains()
    inside = {number for chain in chains for number in chain.steps}
    chain = _Chain(rows, sorted(inside), [], _SHORTEST_CHAIN, max(chain.work for chain in chains))
    count = _count_lanes(chain, processors)
    if len(inside) < len(body.steps) or any(one.rows != rows for one in chains) or count < 2:
        return whole
    carried_on = [body.outputs[place][0] for place in loop.places[: len(carried)]]
    if any(finder.written.get((rows, one)) != _Rows(rows, one.size // rows) for one in carried_on):
        return whole
    private = _private_buffers(body, chain, finder)
    bounds = [rows * lane // count for lane in range(count + 1)]
    slicers = [_Slicer(chain, range(*bounds[lane : lane + 2]), lane, private, finder) for lane in range(count)]
    return [[slicer.slice(number, step) for number, step in enumerate(body.steps)] for slicer in slicers]


def is_worth_a_loop(node: Node, processors: int) -> bool:
    """Tell whether a loop is as fast as its steps written out, which threads share one by one."""
    if node.params["counted"]:
        return True
    buffers = [Buffer("", one.shape, one.dtype) for one in node.inputs]
    body = node.params["body"]
    results = {number: Buffer("", one.shape, one.dtype) for number, one in enumerate(body.outputs)}
    loop = loop_step("", node, buffers, results)
    if any(0 in one.shape for one in (*body.inputs, *body.outputs)):
        return False
    if processors == 1 or (not loop.starts and loop.length >= processors) or len(lanes_of_loop(loop, processors)) > 1:
        return True
    return sum(map(_work, loop.body.steps)) < _MEETING


def _work(step: Step) -> int:
    """Return about how many operations there are in a step."""
    if isinstance(step, Loop):
        return step.length * sum(map(_work, step.body.steps))
    if isinstance(step, Contraction):
        return math.prod(step.out.shape) * step.a.shape[-1]
    return math.prod(step.shape) * len(step.stages)


def _count_lanes(chain: _Chain, processors: int) -> int:
    """Return into how many lanes a chain is worth dividing; 1 where into none."""
    count = min(processors, chain.rows // _FEWEST_ROWS)
    if chain.depth < _SHORTEST_CHAIN or count < 2:
        return 1
    return count if chain.work / count - chain.work / processors < _MEETING else 1


def _private_buffers(program: Program, chain: _Chain, finder: _Finder) -> set[Buffer]:
    """Return the buffers of rows that nothing but the steps of a chain touches."""
    outside = {*program.inputs, *(one for one, _ in program.constants), *(one for one, _ in program.outputs)}
    inside = set(chain.steps)
    written: set[Buffer] = set()
    for number, step in enumerate(program.steps):
        (written if number in inside else outside).update((*step.reads(), *step.writes()))
    return {
        buffer
        for buffer in written - outside
        if (chain.rows, buffer) in finder.written and buffer.size == chain.rows * finder.stride(chain, buffer)
    }


class _Finder:
    """Finds the steps that go row by row, and which of them follow each other.

    Attributes:
        written: how rows lie in the buffers that such steps write, by the number of rows that the steps go through.
        axis: along which axis of its loops a step, given by its number, goes through rows.
    """

    def __init__(self, program: Program, carried: Sequence[Buffer] = ()) -> None:
        self.written: dict[_Key, _Rows] = {}
        self.axis: dict[int, int] = {}
        self._read: dict[_Key, set[_Rows | None]] = {}
        self._chain_of: dict[_Key, _Chain] = {}
        self._depth: dict[_Key, int] = {}
        self._found: list[_Chain] = []
        self._whole = carried[0].shape[0] if carried else None
        for buffer in carried:
            self._begin(buffer)
        for number, step in enumerate(program.steps):
            if isinstance(step, Contraction):
                self._add_product(number, step)
            elif isinstance(step, Kernel):
                self._add_kernel(number, step)

    def chains(self) -> list[_Chain]:
        """Return the chains."""
        return [chain for chain in self._found if chain.steps or self._whole is not None]

    def stride(self, chain: _Chain, buffer: Buffer) -> int:
        """Return how far apart the rows of a buffer are that steps of a chain write."""
        return self.written[chain.rows, buffer].stride

    def _begin(self, buffer: Buffer) -> None:
        """Have the one chain of a loop's body begin with a buffer, whose first axis are the rows."""
        if not self._found:
            self._found.append(_Chain(buffer.shape[0]))
        key = buffer.shape[0], buffer
        self.written[key], self._chain_of[key] = _Rows(key[0], buffer.size // key[0]), self._found[0]
        self._found[0].written.append(key)

    def _add_product(self, number: int, step: Contraction) -> None:
        narrow = step.a.buffer.dtype != step.out.dtype or step.out.dtype.itemsize < 4 or step.out.dtype.kind != "f"
        flat = len(step.a.axes) == 2 and step.out.shape == (step.a.shape[0], step.b.shape[1])
        if narrow or not flat or step.a.clips or len(step.a.axes[0]) > 1 or not step.out.size or not step.a.shape[1]:
            return
        walks = [*step.a.axes[0], *step.a.axes[1]]
        place = Place(step.a.offset, tuple(stride for _, stride in walks))
        of_a = _rows(place, [length for length, _ in walks], 0)
        read = [(step.a.buffer, of_a), (step.b.buffer, None)]
        shape = step.out.shape
        written: list[tuple[Buffer, _Rows | None]] = [(step.out, _Rows(*shape))]
        for store in step.epilogue:
            written.append((store.buffer, _rows(store.place, shape, 0)))
            read += [(buffer, _rows(at, shape, 0)) for buffer, at in _loads(store) if buffer is not step.out]
        work = math.prod(shape) * step.a.shape[1]
        if work <= _LONGEST_PRODUCT:
            self._add(number, 0, shape[0], read, written, work)

    def _add_kernel(self, number: int, step: Kernel) -> None:
        if not all(isinstance(stage, (Store, Reduce)) for stage in step.stages):
            return
        touched = {*step.reads(), *step.writes()}
        for axis, count in enumerate(step.shape):
            follows = any((count, buffer) in self._chain_of for buffer in step.reads())
            if axis not in step.reduced and (follows if self._whole is None else count == self._whole):
                read, written = [], []
                for stage in step.stages:
                    written += [(stage.buffer, _rows(stage.place, step.shape, axis))] * (stage.buffer in touched)
                    read += [(one, _rows(at, step.shape, axis)) for one, at in _loads(stage) if one in touched]
                if self._add(number, axis, count, read, written, 0):
                    return

    def _add(  # noqa: PLR0917  what is known of a step
        self,
        number: int,
        axis: int,
        count: int,
        read: Sequence[tuple[Buffer, _Rows | None]],
        written: Sequence[tuple[Buffer, _Rows | None]],
        work: int,
    ) -> bool:
        """Add a step to the chain that it follows, where all that it touches of it lies by the same rows."""
        new: dict[Buffer, _Rows] = {}
        for buffer, rows in written:
            key = count, buffer
            if rows is None or new.setdefault(buffer, rows) != rows or self.written.get(key, rows) != rows:
                return False
            if not self._read.get(key, set()) <= {rows}:
                return False
        for buffer, rows in read:
            if new.get(buffer, rows) != rows or self.written.get((count, buffer), rows) != rows:
                return False
        chain = self._joined([(count, buffer) for buffer, _ in (*read, *written)], count)
        depth = int(work > 0) + max((self._depth.get((count, buffer), 0) for buffer, _ in read), default=0)
        for buffer, rows in read:
            self._read.setdefault((count, buffer), set()).add(rows)
        for buffer, rows in new.items():
            key = count, buffer
            self.written[key], self._chain_of[key] = rows, chain
            chain.written.append(key)
            self._depth[key] = max(depth, self._depth.get(key, 0))
        chain.steps.append(number)
        chain.depth = max(chain.depth, depth)
        chain.work = max(chain.work, work)
        self.axis[number] = axis
        return True

    def _joined(self, keys: Sequence[_Key], count: int) -> _Chain:
        """Return the chain that wrote buffers, several joined, or a new one."""
        found = list({id(chain): chain for chain in map(self._chain_of.get, keys) if chain is not None}.values())
        if not found:
            self._found.append(_Chain(count))
            return self._found[-1]
        first, *others = sorted(found, key=lambda chain: -len(chain.written))
        for other in others:
            first.steps += other.steps
            first.depth, first.work = max(first.depth, other.depth), max(first.work, other.work)
            other.steps = []
            first.written += other.written
            self._chain_of.update(dict.fromkeys(other.written, first))
            other.written = []
        return first


def _loads(stage: Stage) -> Iterator[tuple[Buffer, Place]]:
    """Yield what a stage loads, each with its place; what is gathered lies anywhere."""
    for value in walk(stage.value):
        if isinstance(value, Load):
            yield value.buffer, value.place
        elif isinstance(value, Gather):
            yield value.buffer, Place(0, (0,) * len(value.place.strides))


def _rows(place: Place, shape: Sequence[int], axis: int) -> _Rows | None:
    """Return how rows lie where a place is: None where points of different rows may have the same place."""
    count, stride = shape[axis], place.strides[axis]
    if stride <= 0:
        return None
    within = place.offset % (count * stride)
    for other, (length, step) in enumerate(zip(shape, place.strides, strict=True)):
        if other != axis and length > 1 and step % (count * stride):
            if step < 0:
                return None
            within += (length - 1) * step
    return _Rows(count, stride) if within < stride else None


class _Slicer:
    """Makes the step of one lane out of a step of a chain."""

    def __init__(self, chain: _Chain, rows: range, lane: int, private: set[Buffer], finder: _Finder) -> None:
        self.rows = rows
        self.lane = lane
        self.finder = finder
        self.own = {buffer: self._piece(buffer, finder.stride(chain, buffer)) for buffer in private}

    def slice(self, number: int, step: Step) -> Step:
        """Return the step of this lane's rows."""
        name = f"{step.name}_{self.lane}"
        touched = {*step.reads(), *step.writes()}
        if isinstance(step, Kernel):
            axis = self.finder.axis[number]
            shape = (*step.shape[:axis], len(self.rows), *step.shape[axis + 1 :])
            return replace(step, name=name, shape=shape, stages=self._stages(step.stages, axis, touched, self.own))
        assert isinstance(step, Contraction)
        columns = step.out.shape[1]
        is_own = step.out in self.own
        out = self.own[step.out] if is_own else self._piece(step.out, columns)
        epilogue = self._stages(step.epilogue, 0, touched - {step.out}, {**self.own, step.out: out})
        if step.keeps_out and not is_own:
            place = Place(0, (columns, 1))
            kept = Store(step.out, self._moved(place, 0), Load(out, place, out.dtype))
            epilogue = (kept, *epilogue)
        a = self._operand(step.a)
        return replace(step, name=name, a=a, out=out, epilogue=epilogue, keeps_out=step.keeps_out and is_own)

    def _piece(self, buffer: Buffer, columns: int) -> Buffer:
        return Buffer(f"{buffer.name}_{self.lane}", (len(self.rows), columns), buffer.dtype)

    def _operand(self, a: Operand) -> Operand:
        """Return this lane's rows of a left operand."""
        ((_, stride),) = a.axes[0]
        start = 0 if a.buffer in self.own else self.rows.start * stride
        rows = ((len(self.rows), stride),)
        return replace(a, buffer=self.own.get(a.buffer, a.buffer), offset=a.offset + start, axes=(rows, a.axes[1]))

    def _stages(
        self, stages: tuple[_S, ...], axis: int, shared: set[Buffer], instead: Mapping[Buffer, Buffer]
    ) -> tuple[_S, ...]:
        """Return stages for these rows: they begin further on in buffers that lanes share, and at 0 in all others."""

        def moved(buffer: Buffer | None, place: Place) -> Place:
            is_whole = buffer is None or (buffer in shared and buffer not in self.own)
            return self._moved(place, axis) if is_whole else place

        return with_buffers(with_places(stages, moved), instead)

    def _moved(self, place: Place, axis: int) -> Place:
        return place.shifted(self.rows.start * place.strides[axis])
