"""The pass by which values are kept in one form only: activations instead of what they are made of, with their border.

The gradient of a ReLU asks where its input was positive. That is where its result is, which the next layer keeps
anyhow. A convolution wants its image with zeros around it: what else reads the image can do so inside of that copy.
"""

from __future__ import annotations

import math
from collections import Counter

from needle.compiler.buffer_choice import choose_buffers
from needle.compiler.graph import Graph, Node, make_node
from needle.compiler.primitives import ELEMENTWISE
from needle.compiler.simplify import scalar_of

__all__ = ["keep_one_form"]

# A border that makes an array larger than this is not read for what is inside.
_WIDEST_BORDER = 2.0


def keep_one_form(graph: Graph) -> Graph:
    """Return a graph of the same outputs, bit for bit, that keeps fewer values from one kernel to another."""
    return _read_inside_of_borders(_ask_results_for_signs(graph))


def _ask_results_for_signs(graph: Graph) -> Graph:
    """Write x > 0 as max(x, 0) > 0 where that maximum is computed too; both are false for a NaN."""
    maxima = {node.inputs[0]: node for node in graph.nodes() if node.primitive == "maximum" and _against_zero(node)}
    new: dict[Node, Node] = {}
    for node in graph.nodes():
        if node in new:
            continue
        inputs = tuple(new[one] for one in node.inputs)
        if node.primitive == "greater" and _against_zero(node) and node.inputs[0] in maxima:
            result = maxima[node.inputs[0]]
            # Its other operand is a number, perhaps not met yet, that no pass changes.
            new.setdefault(result, result.with_inputs((inputs[0], result.inputs[1])))
            inputs = (new[result], inputs[1])
        new[node] = node.with_inputs(inputs)
    return Graph(graph.inputs, tuple(new[node] for node in graph.outputs))


def _against_zero(node: Node) -> bool:
    return scalar_of(node.inputs[1]) == 0


def _read_inside_of_borders(graph: Graph) -> Graph:
    """Give what is kept with a border and without one a single home, the one with the border."""
    borders = _borders(graph)
    new: dict[Node, Node] = {}
    bordered: dict[Node, Node] = {}
    inside: dict[Node, Node] = {}
    for node in graph.nodes():
        if node in borders.values():
            new[node] = bordered[node.inputs[0]]
            continue
        new[node] = node.with_inputs(tuple(inside.get(one) or new[one] for one in node.inputs))
        if node in borders:
            widths = borders[node].params["widths"]
            bordered[node] = make_node("pad", (new[node],), borders[node].source, **borders[node].params)
            start = tuple(before for before, _ in widths)
            stop = tuple(before + length for (before, _), length in zip(widths, node.shape, strict=True))
            one = (1,) * len(start)
            inside[node] = make_node("slice", (bordered[node],), node.source, start=start, stop=stop, step=one)
    return Graph(graph.inputs, tuple(new[node] for node in graph.outputs))


def _borders(graph: Graph) -> dict[Node, Node]:
    """Return for each value that is kept, and used with a border and otherwise too, the node that adds the border."""
    nodes = graph.nodes()
    uses = Counter(one for node in nodes for one in node.inputs)
    kept, _ = choose_buffers(graph)
    found: dict[Node, Node] = {}
    for node in nodes:
        if node.primitive != "pad" or any(node.params["widths"][-1]):
            continue
        (value,) = node.inputs
        is_small = math.prod(node.shape) <= _WIDEST_BORDER * math.prod(value.shape)
        if (
            value in kept
            and value.primitive in ELEMENTWISE
            and value not in graph.outputs
            and uses[value] > 1
            and is_small
        ):
            found.setdefault(value, node)
    return found
