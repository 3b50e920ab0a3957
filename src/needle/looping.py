"""A scan as one loop of a compiled program: the step is traced once, for all elements, and so is its gradient.

The step is called with stand-ins for what is carried and for an element, and what it does with them is the body of a
loop (see `compiler.repeat`). The loop is one operator. Its gradient is another loop, from the last step made to the
first: what it needs of the steps, the first loop gives then too, and adjoints of what all steps read, such as weights,
are added up where they can be had at once, as the product of all steps' factors.

A step that is not the same for each element (it draws random numbers, counts, or writes to a Tensor) is no body:
`NotOneLoop` has the function traced again, with all steps written out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from needle import tracing
from needle.autograd import Tensor, TensorTuple, TensorTupleOp, enable_grad, gradients_of, is_recording, nodes_made
from needle.checkpointing import reached_outside
from needle.compiler import Graph, Node, TracedArray, input_node
from needle.compiler.primitives import ELEMENTWISE, MOVEMENT, PRIMITIVES
from needle.compiler.repeat import OpenBody, are_same, depends_on, results_of, with_inputs
from needle.compiler.simplify import scalar_of
from needle.compiler.stepwise_sums import StepwiseSums
from needle.compiler.user_code import user_source
from needle.compiler.written_out import warn_of_steps
from needle.device import Array
from needle.jit.arguments import flatten, map_leaves
from needle.jit.notes import Check, TracedLoop
from needle.jit.recorder import Recorder
from needle.ops import make_tuple

__all__ = ["loop_over", "warn_if_written_out"]

# Fewer steps are written out: their compiler sees more of each, and a loop is not much quicker to plan.
_FEWEST_STEPS = 16
# About how many nodes of a graph there are with its gradient, for each that there is without.
_WITH_GRADIENT = 3
# What is found by so many operations from what is there anyway is not kept from the loop for its gradient.
_CHEAP, _MOST_AGAIN = 1, 24

Step = Callable[[Any, Any], tuple[Any, Any]]


def loop_over(step: Step, carry: Any, xs: Any, steps: int, reverse: bool) -> tuple[Any, Any] | None:
    """Return what a scan returns, as one loop; None where nothing is traced or a loop is not worth it.

    Args:
        step: takes what is carried and the elements, returns what is carried on and a result, and checks both.
        carry, xs: what to begin with, and the sequences: Tensors, and containers of them.
        steps: how many there are.
        reverse: whether the last element comes first.

    Raises:
        NotOneLoop: the step is not the same for each element.
    """
    recorder = tracing.recorder()
    starts, sequences = flatten(carry), flatten(xs)
    if not isinstance(recorder, Recorder) or steps < _FEWEST_STEPS or not tracing.may_loop():
        return None
    if not all(isinstance(one, Tensor) for one in (*starts, *sequences)):
        return None
    serial = recorder.new_loop()
    body = _Body(recorder, step, carry, xs)
    body.check_all(recorder, body.notes.checks, _nodes(sequences))
    found: list[Tensor] = []
    if body.outputs:
        op = LoopOver(recorder, body, steps, reverse, serial)
        found = [
            one if inside.requires_grad else one.detach()
            for one, inside in zip(op(*starts, *sequences, *body.outside), body.outputs, strict=True)
        ]
    rest = iter(found)
    last = map_leaves(lambda _: next(rest), body.carry_on)
    return last, map_leaves(lambda _: next(rest), body.result)


def warn_if_written_out(steps: int, before: Any, after: Any) -> None:
    """Warn where a scan that has been traced step by step will take long to compile.

    Args:
        steps: how many there are.
        before, after: what the scan began with, and what came of it.
    """
    failure = tracing.not_one_loop()
    found = [one for one in flatten(after) if isinstance(one, Tensor)]
    if failure is None or steps < _FEWEST_STEPS or not isinstance(tracing.recorder(), Recorder):
        return
    known = _nodes([one for one in flatten(before) if isinstance(one, Tensor)])
    made = len(Graph((), _nodes(found)).nodes()) - len(Graph((), known).nodes())
    made *= _WITH_GRADIENT if any(one.requires_grad for one in found) else 1
    warn_of_steps(user_source(), steps, made, failure.why, failure.remedy)


class _Body:
    """A step traced with stand-ins.

    Attributes:
        carried, elements: the stand-ins.
        carry_on, result: what the step returns.
        outputs: the Tensors in them.
        outside: the Tensors that the step uses from outside, and that require a gradient.
        nodes: the body.
    """

    def __init__(self, recorder: Recorder, step: Step, carry: Any, xs: Any) -> None:
        starts = flatten(carry)
        kinds = [(one.shape, one.dtype) for one in starts]
        self.own = tuple(input_node(*kind) for kind in kinds)
        self.of_elements = tuple(input_node(one.shape[1:], one.dtype) for one in flatten(xs))
        self.elements = [
            _stand_in(node, one.requires_grad) for node, one in zip(self.of_elements, flatten(xs), strict=True)
        ]
        self.checked: set[tuple[Any, ...]] = set()
        needs = [one.requires_grad for one in starts]
        while True:
            self._trace(recorder, step, carry, xs, needs)
            on = flatten(self.carry_on)
            if [(one.shape, one.dtype) for one in on] != kinds or not _is_same(carry, self.carry_on):
                raise tracing.NotOneLoop
            new = [before or one.requires_grad for before, one in zip(needs, on, strict=True)]
            if new == needs:
                break
            needs = new
        first = _nodes(self.outputs)
        self._trace(recorder, step, carry, xs, needs)
        if not are_same(first, _nodes(self.outputs)):
            raise tracing.NotOneLoop
        count = len(on)
        nodes = _nodes(self.outputs)
        self.nodes = OpenBody(self.own, self.of_elements, nodes[:count], nodes[count:])

    def _trace(self, recorder: Recorder, step: Step, carry: Any, xs: Any, needs: Sequence[bool]) -> None:
        self.carried = [_stand_in(node, needed) for node, needed in zip(self.own, needs, strict=True)]
        own, elements = iter(self.carried), iter(self.elements)
        with recorder.same_each_time() as self.notes, tracing.loops_written_out(), nodes_made() as made:
            self.carry_on, self.result = step(
                map_leaves(lambda _: next(own), carry), map_leaves(lambda _: next(elements), xs)
            )
            self.outputs = [*flatten(self.carry_on), *flatten(self.result)]
            if not all(isinstance(one, Tensor) for one in self.outputs):
                raise tracing.NotOneLoop
        found = [one for one in self.outputs if one.requires_grad]
        self.outside = reached_outside(found, made, {*self.carried, *self.elements})

    def check_all(self, recorder: Recorder, checks: Sequence[Check], sequences: Sequence[Node]) -> None:
        """Have checks of each step's values made of all steps' values at once.

        Raises:
            NotOneLoop: what is checked is no element as it is.
        """
        all_of = dict(zip(self.of_elements, sequences, strict=True))
        before = set(self.checked)
        for check in checks:
            casts, node = [], check.node
            while node.primitive in ("reshape", "permute", "cast"):
                casts += [node.dtype] if node.primitive == "cast" else []
                (node,) = node.inputs
            if node not in all_of:
                raise tracing.NotOneLoop(
                    "a step looks up by indices or labels that it computes", "Compute them before the scan"
                )
            array = TracedArray(all_of[node])
            for dtype in reversed(casts):
                array = array.astype(dtype)
            # The gradient asks for what was asked for before.
            if (node, *casts) not in before:
                self.checked.add((node, *casts))
                recorder.check(array, check.check)


def _stand_in(node: Node, requires_grad: bool) -> Tensor:
    return Tensor.make_const(TracedArray(node), requires_grad)


def _nodes(tensors: Sequence[Tensor]) -> tuple[Node, ...]:
    return tuple(_node(one.realize_cached_data()) for one in tensors)


def _node(array: Array) -> Node:
    node: Node = TracedArray.namespace.asarray(array).node
    return node


def _is_same(before: Any, now: Any) -> bool:
    """Tell whether two values are the same but for their Tensors."""
    try:
        return bool(map_leaves(lambda _: None, before) == map_leaves(lambda _: None, now))
    except Exception:  # what a user's objects do when they are compared is theirs
        return False


class LoopOver(TensorTupleOp):
    """(last, results) of a step repeated along sequences. Inputs: what is carried, the sequences, what steps read."""

    name = "scan"
    computes_wide = False

    def __init__(self, recorder: Recorder, body: _Body, length: int, reverse: bool, serial: int) -> None:
        self.length = length
        self.reverse = reverse
        self.body = body
        self.recorder = recorder
        self.serial = serial
        self.extra: list[Node] = []  # what else each step gives, for the gradient

    def compute(self, *inputs: Array) -> tuple[Array, ...]:
        carried, along = len(self.body.own), len(self.body.own) + len(self.body.of_elements)
        nodes = [_node(one) for one in inputs[:along]]
        self.starts, self.sequences = nodes[:carried], nodes[carried:]
        results = self._results()[: len(self.body.outputs)]
        operators, parts = tuple(self.body.notes.results), (tuple(self.starts), tuple(self.sequences))
        loop = TracedLoop(results[0], operators, self.body.nodes, *parts, self.length, self.reverse)
        self.recorder.scans.append(loop)
        return tuple(map(TracedArray, results))

    def _results(self) -> tuple[Node, ...]:
        """Return all that the loop returns, what its gradient needs last."""
        nodes = self.body.nodes
        given = (*nodes.given, *self.extra)
        body = OpenBody(nodes.carried, nodes.elements, nodes.next, given)
        return results_of(body.node(self.starts, self.sequences, self.length, self.reverse, self.serial))

    def gradient(self, out_grad: TensorTuple, node: TensorTuple) -> list[Tensor | None]:
        if is_recording():
            raise tracing.NotOneLoop("its gradient is differentiated again", "Make fewer steps in one call")
        grads = _nodes(out_grad.tuple())
        with self.recorder.same_each_time() as notes, tracing.loops_written_out():
            back = _Backwards(self, grads)
        self.body.check_all(self.recorder, notes.checks, self.sequences)
        return [None if one is None else Tensor.make_const(TracedArray(one)) for one in back.adjoints()]

    # ---------------------------------------------------------------------------- what is kept for the gradient

    def kept(self, wanted: Sequence[Node]) -> list[Node]:
        """Return, for values of the body, the sequences of what they are at each step."""
        given = [*self.body.nodes.given, *self.extra]
        self.extra += [one for one in wanted if one not in given]
        given = [*self.body.nodes.given, *self.extra]
        results = self._results()[len(self.body.own) :]
        return [results[given.index(one)] for one in wanted]


class _Backwards:
    """The gradient of a loop: a loop from the last step made to the first."""

    def __init__(self, op: LoopOver, grads: Sequence[Node]) -> None:
        self.op, self.body, self.grads = op, op.body, grads
        count = len(self.body.own)
        # What nobody asked for has no adjoint; of what is carried it gets one from the step after.
        self.carried = [n for n in range(count) if self.body.carried[n].requires_grad and not _is_missing(grads[n])]
        while True:
            found = self._trace()
            reached = [n for n, one in zip(self._wanted_carries(), found, strict=False) if one is not None]
            if set(reached) <= set(self.carried):
                break
            self.carried = sorted({*self.carried, *reached})
        self.found: list[Node | None] = [None if one is None else _node(one.realize_cached_data()) for one in found]

    def _wanted_carries(self) -> list[int]:
        return [number for number, one in enumerate(self.body.carried) if one.requires_grad]

    def _trace(self) -> list[Tensor | None]:
        """Return the adjoints of the stand-ins, and of what steps read, given those of a step's results."""
        body, count = self.body, len(self.body.own)
        self.own: list[Node] = []  # adjoints that are carried, in the order of `carried`
        self.of_grads: list[Node] = []
        self.grad_sequences: list[Node] = []
        adjoints, outputs = [], []
        for number, (one, grad) in enumerate(zip(body.outputs, self.grads, strict=True)):
            if number in self.carried:
                self.own.append(input_node(one.shape, grad.dtype))
            if one.requires_grad and (number in self.carried or (number >= count and not _is_missing(grad))):
                outputs.append(one)
                adjoints.append(self.own[-1] if number in self.carried else self._element(one, grad))
        wanted = [one for one in (*body.carried, *body.elements) if one.requires_grad] + body.outside
        if not outputs:
            return [None] * len(wanted)
        with enable_grad():
            whole = make_tuple(*outputs)
        stand_ins = make_tuple(*(Tensor.make_const(TracedArray(one)) for one in adjoints))
        return list(gradients_of(whole, stand_ins, wanted))  # type: ignore[arg-type]

    def _element(self, one: Tensor, grad: Node) -> Node:
        """Return a result's adjoint at a step: a number where it is the same everywhere."""
        if scalar_of(grad) is not None:
            return _node(TracedArray.namespace.full(one.shape, scalar_of(grad), grad.dtype))
        self.grad_sequences.append(grad)
        self.of_grads.append(input_node(one.shape, grad.dtype))
        return self.of_grads[-1]

    def adjoints(self) -> list[Node | None]:
        """Return the adjoints of the loop's inputs."""
        body, op = self.body, self.op
        carries = self._wanted_carries()
        first, along = len(carries), len(carries) + sum(one.requires_grad for one in body.elements)
        values = [one for one in self.found if one is not None]
        kept = self._worth_keeping(values)
        sequences = op.kept(kept)
        inside = {one: input_node(one.shape, one.dtype) for one in kept}
        rebuilt = iter(with_inputs(values, inside))
        found = [None if one is None else next(rebuilt) for one in self.found]
        elements = (*self.of_grads, *inside.values())
        sums = StepwiseSums(op.length, depends_on([one for one in found if one is not None], {*self.own, *elements}))
        of_outside = [None if one is None else sums.plan(one) for one in found[along:]]
        on = dict(zip(carries, found, strict=False))
        following = [on[n] or _zeros(own) for n, own in zip(self.carried, self.own, strict=True)]
        if [one.dtype for one in following] != [one.dtype for one in self.own]:
            raise tracing.NotOneLoop
        given = [one for one in found[first:along] if one is not None]
        back = OpenBody((*self.own, *sums.totals), elements, (*following, *sums.next_totals), (*given, *sums.wanted))
        starts = [*(self.grads[number] for number in self.carried), *map(_zeros, sums.totals)]
        serial = op.recorder.new_loop()
        loop = back.node(starts, [*self.grad_sequences, *sequences], op.length, not op.reverse, serial)
        results = results_of(loop)
        count = len(back.carried)
        sums.totals_are(results[len(self.own) : count])
        sums.sequences_are(results[count + len(given) :])
        lasts = dict(zip(self.carried, results, strict=False))
        of_elements = iter(results[count:])
        of_inputs = [None if one is None else next(of_elements) for one in found[first:along]]
        found_elements = iter(of_inputs)
        return [
            *(None if on.get(number) is None else lasts[number] for number in range(len(body.carried))),
            *(next(found_elements) if one.requires_grad else None for one in body.elements),
            *(None if one is None else one() for one in of_outside),
        ]

    def _worth_keeping(self, values: Sequence[Node]) -> list[Node]:
        """Return what of the steps the gradient is to be given; all else it finds from that.

        What is dear, and needed, is kept. What is cheap is found again from what is kept anyway.
        """
        nodes = self.body.nodes
        of_steps = depends_on(values, (*nodes.carried, *nodes.elements))
        of_grads = depends_on(values, (*self.own, *self.of_grads))
        order = [one for one in Graph((), tuple(values)).nodes() if one in of_steps and one not in of_grads]
        needed = {_moved_from(one) for node in of_grads for one in node.inputs if one in of_steps - of_grads}
        needed |= {_moved_from(one) for one in values if one in of_steps - of_grads}
        kept = dict.fromkeys(one for one in order if one in needed and not _is_cheap(one))
        for one in order:
            if one not in needed or one in kept:
                continue
            sources = _sources(one, {*kept, *nodes.elements}, of_steps)
            if len(sources) > 1 or any(_size(source) > _size(one) for source in sources):
                kept[one] = None
            else:
                kept.update(dict.fromkeys(sources))
        reached = set(Graph((), with_inputs(values, {one: input_node(one.shape, one.dtype) for one in kept})).nodes())
        return [*kept, *(one for one in (*nodes.elements, *nodes.carried) if one in reached)]


def _is_missing(grad: Node) -> bool:
    """Tell whether an adjoint is the zeros that stand for none."""
    return scalar_of(grad) == 0


def _moved_from(node: Node) -> Node:
    """Return what a node has all elements of, in another place."""
    while node.primitive in ("reshape", "permute", "broadcast", "flip"):
        (node,) = node.inputs
    return node


def _is_cheap(node: Node) -> bool:
    movement = node.primitive in MOVEMENT | {"pad", "concat"}
    return movement or (node.primitive in ELEMENTWISE and PRIMITIVES[node.primitive].cost <= _CHEAP)


def _sources(node: Node, kept: set[Node], of_steps: set[Node]) -> list[Node]:
    """Return what has to be kept, beside what is, to find a cheap node again; itself where that takes too much."""
    found: dict[Node, None] = {}
    pending, seen = [node], 0
    while pending:
        one = pending.pop()
        if one in kept or one not in of_steps:
            continue
        seen += 1
        if not _is_cheap(one):
            found[one] = None
        elif seen > _MOST_AGAIN:
            return [node]
        else:
            pending += one.inputs
    return list(found)


def _size(node: Node) -> int:
    return int(np.prod(node.shape, dtype=int)) * node.dtype.itemsize


def _zeros(like: Node) -> Node:
    return _node(TracedArray.namespace.zeros(like.shape, like.dtype))
