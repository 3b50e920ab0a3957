"""The pass from a graph to kernels: which nodes get a buffer, and which are computed together.

Nodes without a buffer are computed where they are used, with all movement (transposing, slicing, repeating) turned
into places of loads. Nodes with a buffer are the roots of stages; stages that loop over the same shape are put into
one kernel when what they read of each other lies at the same point. So a softmax becomes one kernel of three loops,
and an optimizer's update of a parameter one loop.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeAlias

import numpy as np

from needle.compiler.graph import Graph, Node
from needle.compiler.loops import (
    Buffer,
    Call,
    Gather,
    Kernel,
    Load,
    Number,
    Place,
    Position,
    Reduce,
    Scan,
    Scatter,
    Stage,
    Store,
    Value,
    Within,
    axis_places,
    buffer_place,
    buffers_read,
    in_few_loops,
    index_of_place,
    zero_place,
)
from needle.compiler.operand import Operand, joined_axes, refine, straightened
from needle.compiler.primitives import ELEMENTWISE, PRODUCTS

__all__ = ["Contraction", "Program", "choose_buffers", "schedule"]

_REDUCTIONS = frozenset({"reduce_sum", "reduce_prod", "reduce_max", "reduce_min", "argmax", "argmin"})
_MOVEMENT = frozenset({"reshape", "permute", "broadcast", "slice", "windows", "flip"})
# Roots that are kernels of their own, whatever stands beside them.
_ALONE = frozenset({"cumsum", "scatter_add", "concat"})
# An elementwise node that is used more than once is computed again up to this many operations.
_CHEAP = 3
# A node that is repeated by broadcasting is computed beforehand from this cost on: one division or root.
_DEAR = 10
# Another kernel that reads what it is made of anyway computes it again up to this cost: one function such as erf.
_DEAREST_AGAIN = 15
# So many parts of a joined array, of one shape, are written by one kernel: each is a stream of memory of its own.
_MOST_TOGETHER = 8
# Longer chains get a buffer in between, which bounds the recursion and the size of one loop.
_LONGEST_CHAIN = 60


@dataclass(frozen=True, slots=True)
class Contraction:
    """out = a @ b over the last two axes; the batch axes before them are equal.

    The shape of `out` may divide the batch axes and rows in another way, as what follows does. `epilogue` is computed
    from the sums where they lie, over the axes of `out`, which it loads at its own place only. Where nothing else reads
    them, `keeps_out` is false, and they need not be written.
    """

    name: str
    a: Operand
    b: Operand
    out: Buffer
    sources: tuple[str, ...] = ()
    epilogue: tuple[Store, ...] = ()
    keeps_out: bool = True

    def reads(self) -> list[Buffer]:
        """Return the buffers of the operands, and those that the epilogue loads."""
        loaded = (buffer for store in self.epilogue for buffer in buffers_read(store) if buffer is not self.out)
        return list(dict.fromkeys([self.a.buffer, self.b.buffer, *loaded]))

    def writes(self) -> list[Buffer]:
        """Return the buffers of the results."""
        return [self.out] * self.keeps_out + [store.buffer for store in self.epilogue]

    def show(self) -> str:
        """Print the contraction in a line."""
        source = f"  # {', '.join(self.sources)}" if self.sources else ""
        lines = [f"contraction {self.name}{source}", f"  {self.out.name}{list(self.out.shape)} = {self.a} @ {self.b}"]
        return "\n".join([*lines, *(f"    {store}" for store in self.epilogue)])


Step: TypeAlias = Kernel | Contraction
# Where an index lies at each point of a domain.
_Locate: TypeAlias = Callable[[Sequence[Place], Sequence[int]], Place]


@dataclass(frozen=True, slots=True)
class Program:
    """Steps in the order in which they run, and the buffers that come from and go to the caller.

    `outputs` pairs each graph output's buffer with its shape, since a reshape of a buffer is the buffer itself.
    """

    inputs: tuple[Buffer, ...]
    constants: tuple[tuple[Buffer, np.ndarray], ...]
    outputs: tuple[tuple[Buffer, tuple[int, ...]], ...]
    steps: tuple[Step, ...]

    def show(self) -> str:
        """Print all steps."""
        returned = ", ".join(f"{buffer.name}{list(shape)}" for buffer, shape in self.outputs)
        return "\n".join([*(step.show() for step in self.steps), f"return {returned}"])


class _NeedsBuffer(Exception):  # noqa: N818  a wish, not an error
    """A node cannot be computed where it is used: it must have a buffer."""

    def __init__(self, node: Node) -> None:
        self.node = node


class _Misaligned(Exception):  # noqa: N818  a finding, not an error
    """A stage reads another point of what its own kernel writes: it needs a kernel of its own."""


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


# ------------------------------------------------------------------------------------------------ buffers


def choose_buffers(graph: Graph) -> tuple[set[Node], set[Node]]:
    """Return the nodes whose values are written to memory, and those of them that could be computed again instead."""
    nodes = graph.nodes()
    uses = Counter(one for node in nodes for one in node.inputs)
    chosen = set(graph.inputs) | {_base(node) for node in graph.outputs}
    cost: dict[Node, int] = {}
    depth: dict[Node, int] = {}
    again: set[Node] = set()
    nested = _nested(graph)
    for node in nodes:
        alone = node.primitive in _REDUCTIONS | _ALONE | PRODUCTS | {"gather", "pad"}
        stored = node in chosen or (alone and node not in nested)
        stored = stored or (node.primitive == "constant" and math.prod(node.shape) != 1)
        elementwise = node.primitive in ELEMENTWISE
        cost[node] = sum(cost[one] for one in node.inputs) + elementwise * _weight(node.primitive)
        depth[node] = 1 + max((depth[one] for one in node.inputs), default=0)
        repeated = elementwise and uses[node] > 1 and cost[node] > _CHEAP
        if node.primitive == "broadcast" and cost[node] >= _DEAR:
            # Computed once, not for each element that it is repeated to.
            chosen.add(_base(node.inputs[0]))
            cost[node] = 0
        long = cost[node] > 10 * _LONGEST_CHAIN or (elementwise and depth[node] > 2 * _LONGEST_CHAIN)
        if repeated and not (stored or long) and cost[node] <= _DEAREST_AGAIN:
            again.add(node)
        if stored or repeated or long:
            chosen.add(node)
            cost[node] = depth[node] = 0
    operands = [one for node in nodes if node.primitive in PRODUCTS for one in node.inputs]
    sources = {_source_of(one, past="slice") for one in operands if _source_of(one) not in chosen}
    return chosen | sources, again - {_source_of(one) for one in operands}


def _nested(graph: Graph) -> set[Node]:
    """Return the joined arrays that are nothing but a part of another one: their parts go right there."""
    nodes = graph.nodes()
    users: dict[Node, list[Node]] = {}
    for node in nodes:
        for one in node.inputs:
            users.setdefault(one, []).append(node)
    found = set()
    for node in nodes:
        if node.primitive != "concat":
            continue
        inner, using = node, users.get(node, [])
        while len(using) == 1 and using[0].primitive == "reshape" and inner not in graph.outputs:
            inner, using = using[0], users.get(using[0], [])
        if len(using) == 1 and using[0].primitive == "concat" and inner not in graph.outputs:
            found.add(node)
    return found


def _source_of(operand: Node, past: str = "") -> Node:
    """Return what an operand of a product is a view of, where it can be read; go `past` no view of that kind."""
    while operand.primitive in _MOVEMENT and operand.primitive != past:
        (operand,) = operand.inputs
    return operand


def _weight(primitive: str) -> int:
    return 1 if primitive in _ONE_INSTRUCTION else 10


_ONE_INSTRUCTION = frozenset(
    {
        "absolute",
        "add",
        "after",
        "bitwise_and",
        "bitwise_or",
        "cast",
        "equal",
        "greater",
        "greater_equal",
        "invert",
        "less",
        "less_equal",
        "logical_and",
        "logical_not",
        "logical_or",
        "maximum",
        "minimum",
        "multiply",
        "negative",
        "not_equal",
        "subtract",
        "where",
    }
)


def _base(node: Node) -> Node:
    """Return the node whose buffer holds a node's values: reshapes are only another shape for it."""
    while node.primitive == "reshape":
        node = node.inputs[0]
    return node


# ---------------------------------------------------------------------------------------------- lowering


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

    @property
    def grid_shape(self) -> tuple[int, ...]:
        return tuple(n for axis, n in enumerate(self.shape) if axis not in self.reduced and n != 1)


class _Lowering:
    """Turns nodes into values at a point of one kernel."""

    def __init__(self, buffers: dict[Node, Buffer], rank: int, own: dict[Node, Place]) -> None:
        self.buffers = buffers
        self.rank = rank
        self.own = own
        self.memo: dict[tuple[Node, tuple[Place, ...]], Value] = {}

    def value(self, node: Node, index: tuple[Place, ...]) -> Value:
        """Return the element of `node` at `index`."""
        if node in self.buffers:
            return self._load(node, buffer_place(self.buffers[node], index, self.rank))
        key = (node, index)
        if key not in self.memo:
            self.memo[key] = self.compute(node, index)
        return self.memo[key]

    def compute(self, node: Node, index: tuple[Place, ...]) -> Value:
        """Return the element of `node` at `index`, computed here even where the node has a buffer."""
        special = {
            "constant": self._constant,
            "iota": self._position,
            "reshape": self._reshaped,
            "pad": self._padded,
            "gather": self._gathered,
        }
        if node.primitive in special:
            return special[node.primitive](node, index)
        if node.primitive in _MOVEMENT:
            return self.value(node.inputs[0], moved_index(node, index, self.rank))
        return Call(node.primitive, tuple(self.value(one, index) for one in node.inputs), node.dtype)

    def _load(self, node: Node, place: Place) -> Value:
        if node in self.own and self.own[node] != place:
            raise _Misaligned
        return Load(self.buffers[node], place, node.dtype)

    def _constant(self, node: Node, _: tuple[Place, ...]) -> Value:
        return Number(node.params["value"].tobytes(), node.dtype)

    def _position(self, node: Node, index: tuple[Place, ...]) -> Value:
        return Position(index[0], node.dtype)

    def _reshaped(self, node: Node, index: tuple[Place, ...]) -> Value:
        inner = _base(node)
        if inner in self.buffers:
            flat = Buffer("", node.shape, node.dtype)
            return self._load(inner, buffer_place(flat, index, self.rank))
        (source,) = node.inputs
        return self.value(source, reshaped_index(source, node.shape, index, self.rank))

    def _padded(self, node: Node, index: tuple[Place, ...]) -> Value:
        """Return the element of what is padded, and one number around it."""
        (inner,) = node.inputs
        moved = [place.shifted(-before) for place, (before, _) in zip(index, node.params["widths"], strict=True)]
        limits = zip(moved, inner.shape, node.params["widths"], strict=True)
        bounds = tuple((place, length) for place, length, around in limits if any(around))
        return Within(self.value(inner, tuple(moved)), bounds, node.dtype, node.params.get("value", 0.0))

    def _gathered(self, node: Node, index: tuple[Place, ...]) -> Value:
        source, indices = node.inputs
        count = len(indices.shape)
        flat = Buffer("", source.shape, source.dtype)
        place = buffer_place(flat, (zero_place(self.rank), *index[count:]), self.rank)
        position = self.value(indices, index[:count])
        return self._element_of(source, source, place, position)

    def _element_of(self, source: Node, whole: Node, place: Place, position: Value) -> Value:
        """Return the element of `source` that one of `whole`, of as many elements, stands for at a place."""
        base = _base(source)
        if base in self.buffers:
            if base in self.own:
                raise _Misaligned
            stride = math.prod(whole.shape[1:])
            return Gather(self.buffers[base], place, stride, whole.shape[0] - 1, position, base.dtype)
        if base.primitive == "cast":  # cheaper than an array of what all elements were cast to
            return Call("cast", (self._element_of(base.inputs[0], whole, place, position),), base.dtype)
        raise _NeedsBuffer(base)


def moved_index(node: Node, index: tuple[Place, ...], rank: int) -> tuple[Place, ...]:
    """Return where in its input a movement finds the element at `index` of its result."""
    (source,) = node.inputs
    params = node.params
    if node.primitive == "broadcast":
        zero = zero_place(rank)
        return tuple(zero if n == 1 else place for n, place in zip(source.shape, index, strict=True))
    if node.primitive == "permute":
        order = params["axes"]
        return tuple(index[order.index(axis)] for axis in range(len(order)))
    if node.primitive == "windows":
        moved = list(index[: len(source.shape)])
        for axis, within in zip(params["axes"], index[len(source.shape) :], strict=True):
            moved[axis] = moved[axis] + within
        return tuple(moved)
    if node.primitive == "slice":
        starts_steps = zip(index, params["start"], params["step"], strict=True)
        return tuple(place.scaled(step).shifted(start) for place, start, step in starts_steps)
    flipped = params["axis"]
    return tuple(
        place.scaled(-1).shifted(node.shape[axis] - 1) if axis in flipped else place for axis, place in enumerate(index)
    )


def reshaped_index(source: Node, shape: Sequence[int], index: tuple[Place, ...], rank: int) -> tuple[Place, ...]:
    """Return where in `source` a reshape to `shape` finds the element at `index`.

    Axes that stay, split or vanish have such a place. Axes that were joined have not (it takes a division).

    Raises:
        _NeedsBuffer: the source's axes were joined.
    """
    result = [zero_place(rank)] * len(source.shape)
    inner = [axis for axis, n in enumerate(source.shape) if n != 1]
    outer = [axis for axis, n in enumerate(shape) if n != 1]
    while inner and outer:
        axis = inner.pop()
        length, place = 1, zero_place(rank)
        while outer and length < source.shape[axis]:
            part = outer.pop()
            place = place + index[part].scaled(length)
            length *= shape[part]
        if length != source.shape[axis]:
            raise _NeedsBuffer(source)
        result[axis] = place
    return tuple(result)


# --------------------------------------------------------------------------------------------- scheduling


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
            except _NeedsBuffer as need:
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
            buffer = self.buffers[_base(node)]
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
        elif node.primitive in _ALONE:
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
        candidates = set().union(*(self.known_by.get(buffer, ()) for buffer in self._reads(node)))
        for number in sorted(candidates, reverse=True):
            draft = self.steps[number]
            if draft.alone or not _fits(node, shape, reduced, draft):
                continue
            before = draft.reduced
            draft.reduced = reduced or draft.reduced
            try:
                stage, place = self._stage(node, draft)
            except _Misaligned:
                draft.reduced = before
                continue
            read = buffers_read(stage)
            left_alone = draft.contraction is not None and self._replaces_an_input(node, read)
            if not left_alone and not draft.known.isdisjoint(read) and self._may_run_in(number, read):
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
        if node not in {_base(output) for output in self.graph.outputs}:
            return False
        old = (self.buffers[one] for one in self.graph.inputs if (one.shape, one.dtype) == (node.shape, node.dtype))
        return not set(read).isdisjoint(old)

    def _may_run_in(self, number: int, read: Sequence[Buffer]) -> bool:
        """Tell whether nothing that a stage reads has to wait for the kernel itself."""
        for buffer in read:
            before = self.step_of.get(buffer)
            if before is not None and before != number and self.ancestors[before] >> number & 1:
                return False
        return True

    # -- stages

    def _stage(self, node: Node, draft: _Draft) -> tuple[Stage, Place]:
        rank = len(draft.shape)
        lowering = _Lowering(self.buffers, rank, draft.roots)
        axes = axis_places(rank)
        buffer = self.buffers[node]
        if node.primitive in _REDUCTIONS:
            kept = tuple(axis for axis in range(rank) if axis not in draft.reduced)
            place = buffer_place(buffer, [axes[axis] for axis in kept], rank)
            return Reduce(buffer, place, node.primitive, lowering.value(node.inputs[0], axes)), place
        on_grid = node.shape != draft.shape
        index = _grid_index(node.shape, draft) if on_grid else axes
        place = buffer_place(buffer, index, rank)
        return Store(buffer, place, lowering.compute(node, index), on_grid), place

    def _place_alone(self, node: Node) -> None:
        """Make the kernels of a node that shares none."""
        makers = {
            "cumsum": self._cumsum,
            "scatter_add": self._scatter_add,
            "concat": self._concat,
        }
        for shape, reduced, stages in makers[node.primitive](node):
            draft = _Draft(shape, reduced, alone=True)
            number = self._add(draft, node)
            for stage in stages:
                # The kernels of one node write the same buffer: each comes after the one before.
                self._depend(number, [self.buffers[node]])
                self._fill(draft, node, stage, stage.place, number)

    def _cumsum(self, node: Node) -> list[tuple[tuple[int, ...], tuple[int, ...], list[Stage]]]:
        axes = axis_places(len(node.shape))
        buffer = self.buffers[node]
        value = _Lowering(self.buffers, len(axes), {}).value(node.inputs[0], axes)
        scan = Scan(buffer, buffer_place(buffer, axes, len(axes)), value)
        return [(node.shape, (node.params["axis"],), [scan])]

    def _scatter_add(self, node: Node) -> list[tuple[tuple[int, ...], tuple[int, ...], list[Stage]]]:
        values, indices = node.inputs
        rank, count = len(values.shape), len(indices.shape)
        axes = axis_places(rank)
        buffer = self.buffers[node]
        lowering = _Lowering(self.buffers, rank, {})
        place = buffer_place(buffer, (zero_place(rank), *axes[count:]), rank)
        index = lowering.value(indices, axes[:count])
        value = lowering.value(values, axes)
        scatter = Scatter(buffer, place, buffer.strides[0], buffer.shape[0] - 1, index, value)
        return [self._zeros(buffer), (values.shape, tuple(range(count)), [scatter])]

    def _zeros(self, buffer: Buffer) -> tuple[tuple[int, ...], tuple[int, ...], list[Stage]]:
        (place,) = axis_places(1)
        zero = Number(np.zeros((), buffer.dtype).tobytes(), buffer.dtype)
        return (buffer.size,), (), [Store(buffer, place, zero)]

    def _concat(self, node: Node) -> list[tuple[tuple[int, ...], tuple[int, ...], list[Stage]]]:
        buffer = self.buffers[node]

        def locate(index: Sequence[Place], domain: Sequence[int]) -> Place:
            return buffer_place(buffer, index, len(domain))

        kernels: list[tuple[tuple[int, ...], tuple[int, ...], list[Stage]]] = []
        for part, stage in self._copies(node, buffer, locate, {}):
            # A copy is as fast by itself; what is computed may be so of the same operands.
            alike = bool(kernels) and kernels[-1][0] == part.shape and not isinstance(stage.value, Load)
            if alike and len(kernels[-1][2]) < _MOST_TOGETHER:
                kernels[-1][2].append(stage)
            else:
                kernels.append((part.shape, (), [stage]))
        return kernels

    def _copies(
        self, node: Node, buffer: Buffer, locate: _Locate, lowerings: dict[int, _Lowering]
    ) -> Iterator[tuple[Node, Stage]]:
        """Yield the parts of a joined array, and what writes each into a buffer: `locate` tells where an index lies.

        What parts of one rank have in common is lowered once (`lowerings`), and so computed once.
        """
        start = 0
        for part in node.inputs:
            place = partial(_shifted, locate, node.params["axis"], start)
            start += part.shape[node.params["axis"]]
            inner = part
            while inner.primitive == "reshape" and inner not in self.buffers:
                (inner,) = inner.inputs
            if inner.primitive == "concat" and inner not in self.buffers:
                yield from self._copies(inner, buffer, partial(_reshaped, place, inner, part.shape), lowerings)
            else:
                axes = axis_places(len(part.shape))
                lowering = lowerings.setdefault(len(axes), _Lowering(self.buffers, len(axes), {}))
                value = lowering.value(part, axes)
                yield part, Store(buffer, place(axes, part.shape), value)

    def _contraction(self, node: Node) -> Contraction:
        in_steps = node.dtype in (np.float32, np.float64)  # others are done by plain loops
        a, b = (self._operand(one, in_steps) for one in node.inputs)
        # Tiles go through both operands' sums in step, and take vectors of the right one's columns.
        if len(b.axes[-1]) > 1 or refine(a.axes[-1], b.axes[-2]) is None:
            raise _NeedsBuffer(node.inputs[1 if len(b.axes[-1]) > 1 or len(a.axes[-1]) == 1 else 0])
        if any(refine(one, other) is None for one, other in zip(a.axes[:-2], b.axes[:-2], strict=True)):
            raise _NeedsBuffer(node.inputs[0 if len(b.axes[0]) == 1 else 1])
        return Contraction("", a, b, self.buffers[node], _sources([node]))

    def _operand(self, node: Node, in_steps: bool) -> Operand:
        """Find a contraction's operand inside a buffer; its axes may be walks of several steps where `in_steps`."""
        source, groups = (node, None) if node in self.buffers else joined_axes(node)
        rank = len(source.shape)
        value = _Lowering(self.buffers, rank, {}).value(source, axis_places(rank))
        if not isinstance(value, Load):
            raise _NeedsBuffer(node)
        strides = value.place.strides
        steps = [
            [(source.shape[axis], strides[axis]) for axis in group] for group in groups or [[i] for i in range(rank)]
        ]
        walks = tuple(map(straightened, steps))
        if not in_steps and any(len(walk) > 1 for walk in walks):
            raise _NeedsBuffer(node)
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
            if step.contraction is not None:
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
        for node in self.graph.outputs:
            readers.setdefault(self.buffers[_base(node)], set()).add(-1)  # the caller
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


def _shifted(locate: _Locate, axis: int, start: int, index: Sequence[Place], domain: Sequence[int]) -> Place:
    """Return where an index lies that is counted from `start` along an axis."""
    return locate([one.shifted(start) if number == axis else one for number, one in enumerate(index)], domain)


def _reshaped(
    locate: _Locate, node: Node, shape: tuple[int, ...], index: Sequence[Place], domain: Sequence[int]
) -> Place:
    """Return where an index of a node lies, given where one of its reshape to `shape` does."""
    flat = buffer_place(Buffer("", node.shape, node.dtype), index, len(domain))
    found = index_of_place(flat, shape, domain)
    if found is None:
        raise _NeedsBuffer(node)
    return locate(found, domain)


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
    if node.primitive in _REDUCTIONS:
        return node.inputs[0].shape, tuple(sorted(node.params["axes"]))
    return node.shape, ()


def _fits(node: Node, shape: tuple[int, ...], reduced: tuple[int, ...], draft: _Draft) -> bool:
    """Tell whether a node's stage can loop over a kernel's shape."""
    if reduced:
        return draft.contraction is None and shape == draft.shape and draft.reduced in ((), reduced)
    on_grid = bool(draft.reduced) and tuple(n for n in node.shape if n != 1) == draft.grid_shape
    return shape == draft.shape or on_grid


def _grid_index(shape: tuple[int, ...], draft: _Draft) -> tuple[Place, ...]:
    """Return the index, for a node with one element a grid point, at a point of the kernel."""
    rank = len(draft.shape)
    axes = axis_places(rank)
    grid = iter(axis for axis in range(rank) if axis not in draft.reduced and draft.shape[axis] != 1)
    return tuple(zero_place(rank) if n == 1 else axes[next(grid)] for n in shape)


def _sources(nodes: Sequence[Node]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(str(node.source) for node in nodes if node.source))
