"""Loops in a graph: one body for all steps, instead of a copy of it for each.

    repeat(starts…, sequences…, captured…; body, length, carried, elements, every, counted, backwards)

The body is a graph of its own. Its inputs are the values that are carried from step to step, the elements of the
sequences at this step, and what all steps read. A sequence goes on to its next element `every` so many steps, and
begins anew at its end. Where the steps are `counted`, the first of what all steps read says how many of them are made;
what the others would give is not defined. Its first outputs are the next carried values, the others what each
step gives. `result(repeat; number)` is a carried value after the last step, or what all steps gave, stacked along a
new first axis at the places of their elements.

A loop that is found to need more of each step, for its gradient, is made anew with more outputs. `serial` tells that
two are the same loop, None that there is no other; `with_one_form_each` leaves the one with most outputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from needle.compiler.graph import Graph, Node, constant_node, input_node, make_node

__all__ = [
    "OpenBody",
    "are_same",
    "depends_on",
    "has_loops",
    "results_of",
    "unrolled",
    "with_bodies",
    "with_inputs",
    "with_one_form_each",
    "without_unused_results",
]

# Rows of numbers that every step can make for itself.
_MADE_INSIDE = frozenset({"constant", "broadcast", "reshape", "cast", "iota"})


@dataclass(frozen=True)
class OpenBody:
    """A body as it was traced: its nodes may read nodes outside, which `node` finds.

    Fields: `carried`, `elements`, the inputs that are carried, and those that are elements of sequences; `next`, what
    is carried on; `given`, what each step gives.
    """

    carried: tuple[Node, ...]
    elements: tuple[Node, ...]
    next: tuple[Node, ...]
    given: tuple[Node, ...]

    def node(  # noqa: PLR0917  a loop's parts
        self,
        starts: Sequence[Node],
        sequences: Sequence[Node],
        length: int,
        backwards: bool,
        serial: int | None = None,
        every: Sequence[int] | None = None,
        steps: Node | None = None,
    ) -> Node:
        """Return the loop as a node; `steps` is how many are made, all where it is None."""
        own = (*self.carried, *self.elements)
        outputs = (*self.next, *self.given)
        captured = _captured(outputs, own)
        if steps is not None:
            captured = [steps, *(one for one in captured if one is not steps)]
        inside = {one: input_node(one.shape, one.dtype) for one in captured}
        fresh = {one: input_node(one.shape, one.dtype) for one in own}
        body = Graph((*fresh.values(), *inside.values()), with_inputs(outputs, {**fresh, **inside}))
        return make_node(
            "repeat",
            (*starts, *sequences, *captured),
            body=body,
            length=length,
            carried=len(self.carried),
            elements=len(self.elements),
            every=(1,) * len(self.elements) if every is None else tuple(every),
            counted=steps is not None,
            backwards=backwards,
            serial=serial,
        )


def results_of(loop: Node) -> tuple[Node, ...]:
    """Return the nodes of all that a loop returns."""
    return tuple(make_node("result", (loop,), number=number) for number in range(len(loop.params["body"].outputs)))


def has_loops(graph: Graph) -> bool:
    """Tell whether a graph has a loop."""
    return any(node.primitive == "repeat" for node in graph.nodes())


def depends_on(outputs: Sequence[Node], sources: Collection[Node]) -> set[Node]:
    """Return the nodes among those that `outputs` are made of that are made of some of `sources`, and these."""
    found = set(sources)
    for node in Graph((), tuple(outputs)).nodes():
        if node not in found and not found.isdisjoint(node.inputs):
            found.add(node)
    return found


def are_same(ones: Sequence[Node], others: Sequence[Node]) -> bool:
    """Tell whether two lists of nodes are made of the same nodes in the same way."""
    if len(ones) != len(others):
        return False
    seen: set[tuple[Node, Node]] = set()
    pending = list(zip(ones, others, strict=True))
    while pending:
        pair = one, other = pending.pop()
        if one is other or pair in seen:
            continue
        seen.add(pair)
        kind, other_kind = ((n.primitive, n.shape, n.dtype, len(n.inputs), n.params.keys()) for n in pair)
        if kind != other_kind or one.primitive == "input":
            return False
        if not all(_are_equal(value, other.params[name]) for name, value in one.params.items()):
            return False
        pending += zip(one.inputs, other.inputs, strict=True)
    return True


def _are_equal(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    return type(one) is type(other) and bool(one == other)


def _captured(outputs: Sequence[Node], own: Collection[Node]) -> list[Node]:
    """Return the nodes outside that a body reads: what is the same in each step is computed once, before the loop."""
    varying = depends_on(outputs, own)
    numbers: dict[Node, bool] = {}  # nodes that repeat one number, or count
    for node in Graph((), tuple(outputs)).nodes():
        small = node.primitive != "constant" or node.params["value"].size == 1
        numbers[node] = node.primitive in _MADE_INSIDE and small and all(numbers[one] for one in node.inputs)
    read = [*outputs, *(one for node in Graph((), tuple(outputs)).nodes() if node in varying for one in node.inputs)]
    return list(dict.fromkeys(_repeated(one) for one in read if one not in varying and not numbers[one]))


def _repeated(node: Node) -> Node:
    """Return what a node only repeats: each step repeats it for itself, and reads no more than that."""
    source = node
    while node.primitive in ("broadcast", "reshape"):
        (node,) = node.inputs
        if math.prod(node.shape) < math.prod(source.shape):
            source = node
    return source


def with_inputs(outputs: Sequence[Node], instead: Mapping[Node, Node]) -> tuple[Node, ...]:
    """Return nodes with other nodes in the place of some that they are made of."""
    new = dict(instead)
    pending = [(node, False) for node in reversed(outputs)]
    while pending:
        node, is_ready = pending.pop()
        if node in new:
            continue
        if is_ready:
            new[node] = node.with_inputs(tuple(new[one] for one in node.inputs))
        else:
            pending.append((node, True))
            pending += [(one, False) for one in reversed(node.inputs) if one not in new]
    return tuple(new[node] for node in outputs)


# -------------------------------------------------------------------------------------------------- passes


def with_one_form_each(graph: Graph) -> Graph:
    """Return a graph in which each loop is there once, with all that is wanted of it."""
    best: dict[int, Node] = {}
    for node in graph.nodes():
        if node.primitive == "repeat" and node.params["serial"] is not None:
            other = best.setdefault(node.params["serial"], node)
            if len(node.params["body"].outputs) > len(other.params["body"].outputs):
                best[node.params["serial"]] = node
    instead = {}
    for node in graph.nodes():
        if node.primitive == "repeat" and best.get(node.params["serial"], node) is not node:
            instead[node] = best[node.params["serial"]]
    return Graph(graph.inputs, _replaced(graph.outputs, instead))


def _replaced(outputs: Sequence[Node], instead: Mapping[Node, Node]) -> tuple[Node, ...]:
    """Return nodes with others in the place of some, which are rebuilt likewise."""
    new: dict[Node, Node] = {}
    pending = [(node, False) for node in reversed(outputs)]
    while pending:
        node, is_ready = pending.pop()
        if node in new:
            continue
        now = node
        while now in instead:
            now = instead[now]
        if is_ready:
            new[node] = now.with_inputs(tuple(new[one] for one in now.inputs))
            new.setdefault(now, new[node])
        else:
            pending.append((node, True))
            pending += [(one, False) for one in reversed(now.inputs) if one not in new]
    return tuple(new[node] for node in outputs)


def with_bodies(graph: Graph, change: Callable[[Graph], Graph]) -> Graph:
    """Return a graph with the body of each loop changed; constants that are no single number come from outside."""
    instead = {}
    for node in graph.nodes():
        if node.primitive == "repeat":
            body = change(node.params["body"])
            arrays = [one for one in body.nodes() if one.primitive == "constant" and one.params["value"].size != 1]
            inside = {one: input_node(one.shape, one.dtype) for one in arrays}
            outputs = with_inputs(body.outputs, {**dict(zip(body.inputs, body.inputs, strict=True)), **inside})
            body = Graph((*body.inputs, *inside.values()), outputs)
            outside = [constant_node(one.params["value"]) for one in arrays]
            instead[node] = make_node("repeat", (*node.inputs, *outside), node.source, **{**node.params, "body": body})
    return Graph(graph.inputs, _replaced(graph.outputs, instead)) if instead else graph


def without_unused_results(graph: Graph) -> Graph:
    """Return a graph whose loops give what somebody reads, and each value once.

    What is carried and also given needs no place of its own: the last one is the last that was given.
    """
    while True:
        used: dict[Node, set[int]] = {}
        for node in graph.nodes():
            if node.primitive == "result":
                used.setdefault(node.inputs[0], set()).add(node.params["number"])
        instead: dict[Node, Node] = {}
        for loop, numbers in used.items():
            if not loop.params["counted"]:
                instead.update(_with_results(loop, numbers, graph))
        new = Graph(graph.inputs, _replaced(graph.outputs, instead))
        # A loop that is given less leaves more to others that nobody reads.
        if _count_given(new) == _count_given(graph):
            return new
        graph = new


def _count_given(graph: Graph) -> int:
    return sum(len(node.params["body"].outputs) for node in graph.nodes() if node.primitive == "repeat")


def _with_results(loop: Node, used: set[int], graph: Graph) -> dict[Node, Node]:
    """Return what to put in the place of the results of a loop that gives only what is used."""
    body, carried, length = loop.params["body"], loop.params["carried"], loop.params["length"]
    backwards = loop.params["backwards"]
    inputs = dict(zip(body.inputs, loop.inputs, strict=True))
    elements = _step_by_step(loop)
    # What a step is given is there without it.
    made = [body.outputs[number] for number in sorted(used) if number >= carried]
    made = [body.outputs[body.inputs.index(one)] if one in body.inputs[:carried] else one for one in made]
    given = list(dict.fromkeys(one for one in made if one not in elements))
    new = _read_less(loop, (*body.outputs[:carried], *given))

    def sequence(output: Node, source: Any) -> Node:
        if output in elements:
            return inputs[output]
        return make_node("result", (new,), source, number=carried + given.index(output))

    found: dict[Node, Node] = {}
    for node in graph.nodes():
        if node.primitive != "result" or node.inputs[0] is not loop:
            continue
        number = node.params["number"]
        output = body.outputs[number]
        if number >= carried and output in body.inputs[:carried]:
            following = sequence(body.outputs[body.inputs.index(output)], node.source)
            found[node] = _one_later(inputs[output], following, backwards)
        elif number >= carried:
            found[node] = sequence(output, node.source)
        elif output in given:
            found[node] = _element(sequence(output, node.source), 0 if backwards else length - 1)
        else:
            found[node] = make_node("result", (new,), node.source, number=body.outputs.index(output))
    return found


def _step_by_step(loop: Node) -> list[Node]:
    """Return the inputs of a loop's body that are another element of a sequence in each step."""
    body, carried, length = loop.params["body"], loop.params["carried"], loop.params["length"]
    numbers = enumerate(loop.params["every"], carried)
    return [body.inputs[n] for n, every in numbers if every == 1 and loop.inputs[n].shape[0] == length]


def _one_later(start: Node, sequence: Node, backwards: bool) -> Node:
    """Return what each step was given of what the one before carried on."""
    length, *rest = sequence.shape
    first = make_node("reshape", (start,), shape=(1, *rest))
    begin, end = (1, length) if backwards else (0, length - 1)
    if begin == end:
        return first
    zeros, ones = (0,) * len(rest), (1,) * len(sequence.shape)
    others = make_node("slice", (sequence,), start=(begin, *zeros), stop=(end, *rest), step=ones)
    return make_node("concat", (others, first) if backwards else (first, others), axis=0)


def _read_less(loop: Node, outputs: tuple[Node, ...]) -> Node:
    """Return a loop of these outputs that is given only what they are made of."""
    body, params = loop.params["body"], loop.params
    carried, along = params["carried"], params["carried"] + params["elements"]
    reached = set(Graph((), outputs).nodes())
    kept = [n for n, one in enumerate(body.inputs) if n < carried or one in reached]
    params = {
        **params,
        "body": Graph(tuple(body.inputs[n] for n in kept), outputs),
        "elements": sum(carried <= n < along for n in kept),
        "every": tuple(params["every"][n - carried] for n in kept if carried <= n < along),
    }
    return make_node("repeat", [loop.inputs[n] for n in kept], loop.source, **params)


def _element(sequence: Node, t: int) -> Node:
    """Return one element of a sequence."""
    rest = sequence.shape[1:]
    start, stop, step = (t, *(0 for _ in rest)), (t + 1, *rest), (1,) * (1 + len(rest))
    return make_node("reshape", (make_node("slice", (sequence,), start=start, stop=stop, step=step),), shape=rest)


def unrolled(graph: Graph, chosen: Collection[Node]) -> Graph:
    """Return a graph in which some loops are written out, step by step."""
    results: dict[Node, tuple[Node, ...]] = {}
    new: dict[Node, Node] = {}
    for node in graph.nodes():
        inputs = tuple(new[one] for one in node.inputs)
        if node in chosen:
            results[node] = _written_out(node, inputs)
            new[node] = node
        elif node.primitive == "result" and node.inputs[0] in results:
            new[node] = results[node.inputs[0]][node.params["number"]]
        else:
            new[node] = node.with_inputs(inputs)
    return Graph(graph.inputs, tuple(new[node] for node in graph.outputs))


def _written_out(loop: Node, inputs: Sequence[Node]) -> tuple[Node, ...]:
    assert not loop.params["counted"], "how many steps there are is known when the program runs"
    body, length = loop.params["body"], loop.params["length"]
    carried, elements = loop.params["carried"], loop.params["elements"]
    state, sequences, captured = inputs[:carried], inputs[carried : carried + elements], inputs[carried + elements :]
    given: list[tuple[Node, ...]] = [()] * length
    for t in reversed(range(length)) if loop.params["backwards"] else range(length):
        own = (*state, *(_element(one, n) for one, n in zip(sequences, _numbers(loop, t), strict=True)), *captured)
        outputs = with_inputs(body.outputs, dict(zip(body.inputs, own, strict=True)))
        state, given[t] = outputs[:carried], outputs[carried:]
    stacked = (
        make_node("concat", [make_node("reshape", (part,), shape=(1, *part.shape)) for part in parts], axis=0)
        for parts in zip(*given, strict=True)
    )
    return (*state, *stacked)


def _numbers(loop: Node, t: int) -> list[int]:
    """Return which element of each sequence a step gets."""
    sequences = loop.inputs[loop.params["carried"] :]
    return [t // every % one.shape[0] for one, every in zip(sequences, loop.params["every"], strict=False)]


# ----------------------------------------------------------------------------------------------- the meaning


def run_loop(loop: Node, arrays: Sequence[Any], run: Callable[[Graph, Sequence[Any]], list[Any]]) -> list[Any]:
    """Return what a loop returns for arrays, given how to run its body."""
    body, length = loop.params["body"], loop.params["length"]
    carried, elements = loop.params["carried"], loop.params["elements"]
    state = list(arrays[:carried])
    sequences, captured = arrays[carried : carried + elements], arrays[carried + elements :]
    given = [[np.zeros(one.shape, one.dtype) for one in body.outputs[carried:]]] * length
    order = range(length)[::-1] if loop.params["backwards"] else range(length)
    for t in order[: int(captured[0])] if loop.params["counted"] else order:
        own = [one[n] for one, n in zip(sequences, _numbers(loop, t), strict=True)]
        outputs = run(body, [*state, *own, *captured])
        state, given[t] = outputs[:carried], outputs[carried:]
    return [*state, *(np.stack(parts) for parts in zip(*given, strict=True))]
