"""The pass from a graph to kernels: which stages are computed together.

Nodes without a buffer are computed where they are used, with all movement (transposing, slicing, repeating) turned
into places of loads. Nodes with a buffer are the roots of stages; stages that loop over the same shape are put into
one kernel when what they read of each other lies at the same point. So a softmax becomes one kernel of three loops,
and an optimizer's update of a parameter one loop.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace

import numpy as np

from needle.compiler.buffer_choice import ALONE, base_of, choose_buffers
from needle.compiler.graph import Graph, Node
from needle.compiler.lone_kernels import lone_kernels
from needle.compiler.loops import (
    Buffer,
    Kernel,
    Load,
    Place,
    Reduce,
    Stage,
    Store,
    axis_places,
    buffer_place,
    buffers_read,
    in_few_loops,
    zero_place,
)
from needle.compiler.lowering import Lowering, Misaligned, NeedsBuffer
from needle.compiler.operand import Operand, joined_axes, refine, straightened
from needle.compiler.primitives import PRODUCTS, REDUCTIONS
from needle.compiler.steps import Contraction, Loop, Program, Step

__all__ = ["loop_step", "schedule"]


def schedule(graph: Graph) -> Program:
    """Turn a graph into a program of kernels and contractions that computes the same."""
    with_buffer, repeated = choose_buffers(graph)
    while True:
        scheduler = _Scheduler(graph, with_buffer)
        missing = scheduler.place_all()
        assert with_buffer.isdisjoint(missing)
        with_buffer |= missing
        if not missing:
            recomputed, repeated = scheduler.better_recomputed(repeated), set()
            if not recomputed:
                return scheduler.program()
            with_buffer -= recomputed


@dataclass
class _Draft:
    """A kernel in the making."""

    shape: tuple[int, ...]
    reduced: tuple[int, ...]
    roots: dict[Node, Place] = field(default_factory=dict)
    stages: list[Stage] = field(default_factory=list)
    alone: bool = False
    contraction: Contraction | None = None  # whose epilogue the stages are
    known: set[Buffer] = field(default_factory=set)  # what the kernel reads or writes
    loop: Node | None = None  # which is a step of its own

    @property
    def grid_shape(self) -> tuple[int, ...]:
        return tuple(n for axis, n in enumerate(self.shape) if axis not in self.reduced and n != 1)


class _Scheduler:
    """Builds the steps of one program, given which nodes have buffers."""

    def __init__(self, graph: Graph, with_buffer: set[Node]) -> None:
        self.graph = graph
        self.nodes = [node for node in graph.nodes() if node in with_buffer]
        self.buffers: dict[Node, Buffer] = {}
        self.drafts: list[_Draft] = []
        self.steps: dict[int, _Draft] = {}
        self.step_of: dict[Buffer, int] = {}
        # The steps that each comes after: those that it reads from, and as the bits of a number all before those too.
        self.parents: list[set[int]] = []
        self.ancestors: list[int] = []
        self.known_by: dict[Buffer, set[int]] = {}  # the steps that read or write a buffer
        self.reads_of: dict[Node, set[Buffer]] = {}  # of nodes without a buffer
        self.followed = 0  # the bits of the steps that are an ancestor of some other

    def place_all(self) -> set[Node]:
        """Put each node's stage into a kernel; return nodes without a buffer that need one, for another attempt."""
        divided = _divided_results(self.graph)
        for number, node in enumerate(self.nodes):
            letter = {"input": "in", "constant": "const"}.get(node.primitive, "b")
            self.buffers[node] = Buffer(f"{letter}{number}", divided.get(node, node.shape), node.dtype)
        missing: set[Node] = set()
        for node in self.nodes:
            try:
                self._place(node)
            except NeedsBuffer as need:
                missing.add(need.node)
        return missing

    def better_recomputed(self, nodes: Set[Node]) -> set[Node]:
        """Return those of some nodes that other kernels read which also read all that the node is computed from."""
        reads = {number: self._reads_of_step(step) for number, step in self.steps.items()}
        found = set()
        for node in nodes:
            buffer, needed = self.buffers[node], self._reads(node)
            readers = [own for number, own in reads.items() if buffer in own and number != self.step_of[buffer]]
            if readers and all(needed <= own for own in readers):
                found.add(node)
        return found

    def _reads_of_step(self, step: _Draft) -> set[Buffer]:
        if step.loop is not None:
            return set(self._inputs_of(step.loop))
        return {buffer for stage in step.stages for buffer in buffers_read(stage)}

    def program(self) -> Program:
        """Return the program of what was placed."""
        inputs = tuple(self.buffers[node] for node in self.graph.inputs)
        constants = tuple(
            (self.buffers[node], node.params["value"]) for node in self.nodes if node.primitive == "constant"
        )
        outputs, copies = self._outputs(set(inputs) | {buffer for buffer, _ in constants})
        return Program(inputs, constants, outputs, (*self._finished_steps(), *copies))

    def _outputs(self, taken: set[Buffer]) -> tuple[tuple[tuple[Buffer, tuple[int, ...]], ...], list[Kernel]]:
        """Give every output a buffer of its own: one that is an input, or an output twice, is copied."""
        outputs, copies = [], []
        for number, node in enumerate(self.graph.outputs):
            buffer = self.buffers[base_of(node)]
            if buffer in taken:
                copy = Buffer(f"out{number}", buffer.shape, buffer.dtype)
                (place,) = axis_places(1)
                stage = Store(copy, place, Load(buffer, place, buffer.dtype))
                copies.append(Kernel(f"copy{number}", (buffer.size,), (), (stage,)))
                buffer = copy
            taken = taken | {buffer}
            outputs.append((buffer, node.shape))
        return tuple(outputs), copies

    def _place(self, node: Node) -> None:
        """Put a node's stage into a kernel that there is, or into a new one."""
        if node.primitive in ("input", "constant"):
            return
        if node.primitive in PRODUCTS:
            self._place_contraction(node)
        elif node.primitive == "repeat":
            self._place_loop(node)
        elif node.primitive == "result":
            number = self.step_of[self.buffers[node.inputs[0]]]
            self.step_of[self.buffers[node]] = number
            self._know(number, [self.buffers[node]])
        elif node.primitive in ALONE:
            self._place_alone(node)
        elif not self._join(node):
            shape, reduced = _domain(node)
            draft = _Draft(shape, reduced)
            stage, place = self._stage(node, draft)
            self._fill(draft, node, stage, place, self._add(draft, node))

    # -- which step comes after which

    def _place_contraction(self, node: Node) -> None:
        """Make a step of a product; what follows elementwise may join it."""
        contraction = self._contraction(node)
        shape = contraction.out.shape
        place = buffer_place(contraction.out, axis_places(len(shape)), len(shape))
        draft = _Draft(shape, (), {node: place}, contraction=contraction)
        number = self._add(draft, node)
        self._know(number, [contraction.out])
        self._depend(number, contraction.reads())
        self.step_of[contraction.out] = number

    def _place_loop(self, node: Node) -> None:
        """Make a step of a loop. Its own buffer only stands for it: it returns others."""
        number = self._add(_Draft((), (), {node: zero_place(0)}, alone=True, loop=node), node)
        read = self._inputs_of(node)
        self._know(number, read)
        self._depend(number, read)
        self.step_of[self.buffers[node]] = number

    def _inputs_of(self, node: Node) -> list[Buffer]:
        return [self.buffers[base_of(one)] for one in node.inputs]

    def _add(self, step: _Draft, node: Node) -> int:
        number = len(self.ancestors)
        self.steps[number] = step
        self.ancestors.append(0)
        self.parents.append(set())
        return number

    def _depend(self, number: int, buffers: Sequence[Buffer]) -> None:
        """Record that a step reads buffers, and tell the steps that come after it."""
        new = 0
        for buffer in buffers:
            before = self.step_of.get(buffer)
            if before is not None and before != number:
                self.parents[number].add(before)
                new |= 1 << before | self.ancestors[before]
        self.followed |= new
        self.ancestors[number] |= new
        if not self.followed >> number & 1:
            return
        for other, ancestors in enumerate(self.ancestors):
            if ancestors >> number & 1:
                self.ancestors[other] |= new

    def _fill(self, draft: _Draft, node: Node, stage: Stage, place: Place, number: int) -> None:
        draft.stages.append(stage)
        draft.roots[node] = place
        read = buffers_read(stage)
        self._know(number, [self.buffers[node], *(read if draft.contraction is None else ())])
        self.step_of[self.buffers[node]] = number
        self._depend(number, read)

    # -- joining kernels

    def _join(self, node: Node) -> bool:
        """Put a node's stage into the latest kernel that fits, reads or writes something that it reads, and may."""
        shape, reduced = _domain(node)
        needed = self._reads(node)
        candidates = sorted(set().union(*(self.known_by.get(buffer, ()) for buffer in needed)), reverse=True)
        if reduced:
            # It goes through all of what it reads once more, wherever it is, but for what is at hand there.
            candidates.sort(key=lambda number: -sum(one.size for one in needed & self.steps[number].known))
        for number in candidates:
            draft = self.steps[number]
            # Writing a stage down takes long: what speaks against it at first sight comes first.
            if draft.alone or not _fits(node, shape, reduced, draft) or not self._may_run_in(number, needed):
                continue
            if draft.reduced and shape == draft.shape and not _is_worth_a_loop(needed & draft.known, shape):
                continue
            before = draft.reduced
            draft.reduced = reduced or draft.reduced
            try:
                stage, place = self._stage(node, draft)
            except Misaligned:
                draft.reduced = before
                continue
            read = buffers_read(stage)
            left_alone = draft.contraction is not None and self._replaces_an_input(node, read)
            if not left_alone and not draft.known.isdisjoint(read):
                self._fill(draft, node, stage, place, number)
                return True
            draft.reduced = before
        return False

    def _know(self, number: int, buffers: Sequence[Buffer]) -> None:
        """Note buffers that a step reads or writes."""
        self.steps[number].known.update(buffers)
        for buffer in buffers:
            self.known_by.setdefault(buffer, set()).add(number)

    def _reads(self, node: Node) -> set[Buffer]:
        """Return the buffers that a node's stage reads, wherever it is."""
        found: set[Buffer] = set()
        for one in node.inputs:
            if one in self.buffers:
                found.add(self.buffers[one])
            else:
                if one not in self.reads_of:
                    self.reads_of[one] = self._reads(one)
                found |= self.reads_of[one]
        return found

    def _replaces_an_input(self, node: Node, read: Sequence[Buffer]) -> bool:
        """Tell whether a stage makes an output out of an input like it, and may be let write over it: a kernel can."""
        if node not in {base_of(output) for output in self.graph.outputs}:
            return False
        old = (self.buffers[one] for one in self.graph.inputs if (one.shape, one.dtype) == (node.shape, node.dtype))
        return not set(read).isdisjoint(old)

    def _may_run_in(self, number: int, read: Iterable[Buffer]) -> bool:
        """Tell whether nothing that a stage reads has to wait for the kernel itself."""
        for buffer in read:
            before = self.step_of.get(buffer)
            if before is not None and before != number and self.ancestors[before] >> number & 1:
                return False
        return True

    # -- stages

    def _stage(self, node: Node, draft: _Draft) -> tuple[Stage, Place]:
        rank = len(draft.shape)
        lowering = Lowering(self.buffers, rank, draft.roots)
        axes = axis_places(rank)
        buffer = self.buffers[node]
        if node.primitive in REDUCTIONS:
            kept = tuple(axis for axis in range(rank) if axis not in draft.reduced)
            place = buffer_place(buffer, [axes[axis] for axis in kept], rank)
            return Reduce(buffer, place, node.primitive, lowering.value(node.inputs[0], axes)), place
        on_grid = node.shape != draft.shape
        index = _grid_index(node.shape, draft) if on_grid else axes
        place = buffer_place(buffer, index, rank)
        return Store(buffer, place, lowering.compute(node, index), on_grid), place

    def _place_alone(self, node: Node) -> None:
        """Make the kernels of a node that shares none."""
        for shape, reduced, stages in lone_kernels(node, self.buffers):
            draft = _Draft(shape, reduced, alone=True)
            number = self._add(draft, node)
            for stage in stages:
                # The kernels of one node write the same buffer: each comes after the one before.
                self._depend(number, [self.buffers[node]])
                self._fill(draft, node, stage, stage.place, number)

    def _contraction(self, node: Node) -> Contraction:
        in_steps = node.dtype in (np.float32, np.float64)  # others are done by plain loops
        a, b = (self._operand(one, in_steps) for one in node.inputs)
        # Tiles go through both operands' sums in step, and take vectors of the right one's columns.
        if len(b.axes[-1]) > 1 or refine(a.axes[-1], b.axes[-2]) is None:
            raise NeedsBuffer(node.inputs[1 if len(b.axes[-1]) > 1 or len(a.axes[-1]) == 1 else 0])
        if any(refine(one, other) is None for one, other in zip(a.axes[:-2], b.axes[:-2], strict=True)):
            raise NeedsBuffer(node.inputs[0 if len(b.axes[0]) == 1 else 1])
        return Contraction("", a, b, self.buffers[node], _sources([node]))

    def _operand(self, node: Node, in_steps: bool) -> Operand:
        """Find a contraction's operand inside a buffer; its axes may be walks of several steps where `in_steps`."""
        source, groups = (node, None) if node in self.buffers else joined_axes(node)
        rank = len(source.shape)
        value = Lowering(self.buffers, rank, {}).value(source, axis_places(rank))
        if not isinstance(value, Load):
            raise NeedsBuffer(node)
        strides = value.place.strides
        steps = [
            [(source.shape[axis], strides[axis]) for axis in group] for group in groups or [[i] for i in range(rank)]
        ]
        walks = tuple(map(straightened, steps))
        if not in_steps and any(len(walk) > 1 for walk in walks):
            raise NeedsBuffer(node)
        return Operand(value.buffer, value.place.offset, walks)

    # -- the end

    def _finished_steps(self) -> list[Step]:
        """Return the steps in an order in which each comes after those that it depends on.

        Those that nothing depends on come last: what they replace may then lie where the old values lay, which all
        others have read.
        """
        depth: dict[int, int] = {}
        for number in sorted(self.steps, key=lambda number: self.ancestors[number].bit_count()):
            depth[number] = 1 + max((depth[other] for other in self.parents[number]), default=0)
        order = sorted(self.steps, key=lambda number: (not self.followed >> number & 1, depth[number], number))
        readers = self._readers()
        finished: list[Step] = []
        for number in order:
            step = self.steps[number]
            sources = _sources(list(step.roots))
            if step.loop is not None:
                finished.append(self._finished_loop(number, step.loop, sources))
            elif step.contraction is not None:
                finished.append(self._finished_contraction(number, step.contraction, step.stages, sources, readers))
            else:
                stages = in_few_loops(step.stages)
                finished.append(Kernel(f"k{number}", step.shape, step.reduced, stages, sources))
        return finished

    def _readers(self) -> dict[Buffer, set[int]]:
        """Return which steps load a buffer; as a product's operand, none is by the same step."""
        readers: dict[Buffer, set[int]] = {}
        for number, step in self.steps.items():
            for stage in step.stages:
                for buffer in buffers_read(stage):
                    readers.setdefault(buffer, set()).add(number)
            for operand in (step.contraction.a, step.contraction.b) if step.contraction is not None else ():
                readers.setdefault(operand.buffer, set()).add(number)
            for buffer in self._inputs_of(step.loop) if step.loop is not None else ():
                readers.setdefault(buffer, set()).add(number)
        for node in self.graph.outputs:
            readers.setdefault(self.buffers[base_of(node)], set()).add(-1)  # the caller
        return readers

    def _finished_contraction(
        self,
        number: int,
        contraction: Contraction,
        stages: Sequence[Stage],
        sources: tuple[str, ...],
        readers: Mapping[Buffer, set[int]],
    ) -> Contraction:
        epilogue = tuple(stage for stage in stages if isinstance(stage, Store))
        needed = bool(readers.get(contraction.out, set()) - {number})
        return replace(
            contraction, name=f"k{number}", sources=sources, epilogue=epilogue, keeps_out=needed or not epilogue
        )

    def _finished_loop(self, number: int, node: Node, sources: tuple[str, ...]) -> Loop:
        found = {one.params["number"]: self.buffers[one] for one in self.nodes if node in one.inputs}
        return loop_step(f"k{number}", node, self._inputs_of(node), found, sources)


def loop_step(
    name: str, node: Node, inputs: Sequence[Buffer], results: Mapping[int, Buffer], sources: tuple[str, ...] = ()
) -> Loop:
    """Return the step of a loop, given what it reads and the buffers of those of its results that are asked for."""
    params, body = node.params, node.params["body"]
    carried, along = params["carried"], params["carried"] + params["elements"]
    outputs = list(dict.fromkeys(body.outputs))
    return Loop(
        name,
        params["length"],
        params["backwards"],
        schedule(Graph(body.inputs, tuple(outputs))),
        tuple(map(outputs.index, body.outputs)),
        tuple(inputs[:carried]),
        tuple(inputs[carried:along]),
        tuple(inputs[along:]),
        tuple(map(results.get, range(carried))),
        tuple(results.get(n) or _given(name, n, node) for n in range(carried, len(body.outputs))),
        params["every"],
        params["counted"],
        sources,
    )


def _given(name: str, number: int, node: Node) -> Buffer:
    """Return a place for what the steps of a loop give that nobody reads."""
    one = node.params["body"].outputs[number]
    return Buffer(f"{name}_{number}", (node.params["length"], *one.shape), one.dtype)


def _divided_results(graph: Graph) -> dict[Node, tuple[int, ...]]:
    """Return the shapes of matrix products that are used in one other shape only, of the same columns."""
    shapes: dict[Node, set[tuple[int, ...] | None]] = {}
    for node in graph.nodes():
        for one in node.inputs:
            if one.primitive in PRODUCTS:
                keeps_columns = node.primitive == "reshape" and node.shape and node.shape[-1] == one.shape[-1]
                shapes.setdefault(one, set()).add(node.shape if keeps_columns else None)
    whole = set(graph.outputs)
    only = {node: next(iter(found)) for node, found in shapes.items() if len(found) == 1 and node not in whole}
    return {node: shape for node, shape in only.items() if shape is not None}


def _domain(node: Node) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the shape that a node's stage loops over, and the reduced axes."""
    if node.primitive in ("argmax", "argmin"):
        return node.inputs[0].shape, (node.params["axis"],)
    if node.primitive in REDUCTIONS:
        return node.inputs[0].shape, tuple(sorted(node.params["axes"]))
    return node.shape, ()


def _fits(node: Node, shape: tuple[int, ...], reduced: tuple[int, ...], draft: _Draft) -> bool:
    """Tell whether a node's stage can loop over a kernel's shape."""
    if reduced:
        return draft.contraction is None and shape == draft.shape and draft.reduced in ((), reduced)
    on_grid = bool(draft.reduced) and tuple(n for n in node.shape if n != 1) == draft.grid_shape
    return shape == draft.shape or on_grid


def _is_worth_a_loop(shared: Set[Buffer], shape: tuple[int, ...]) -> bool:
    """Tell whether buffers that two stages of a shape share are more than a few numbers: hyperparameters."""
    return max((one.size for one in shared), default=0) > 1 or math.prod(shape) == 1


def _grid_index(shape: tuple[int, ...], draft: _Draft) -> tuple[Place, ...]:
    """Return the index, for a node with one element a grid point, at a point of the kernel."""
    rank = len(draft.shape)
    axes = axis_places(rank)
    grid = iter(axis for axis in range(rank) if axis not in draft.reduced and draft.shape[axis] != 1)
    return tuple(zero_place(rank) if n == 1 else axes[next(grid)] for n in shape)


def _sources(nodes: Sequence[Node]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(str(node.source) for node in nodes if node.source))
