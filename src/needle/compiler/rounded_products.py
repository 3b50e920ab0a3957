"""The pass that keeps a product rounded whose largest or smallest is looked for.

A product that is added to something is not rounded before: that is more exact, but another number than the rounded one.
Where x = c·y and m = max x, a softmax relies on x − m ≤ 0. With m rounded and x not, the difference is off by the
rounding of x, which e to the power of it makes a wrong share of, or an infinity.
"""

from __future__ import annotations

from dataclasses import replace

from needle.compiler.graph import Graph, Node
from needle.compiler.primitives import MOVEMENT

__all__ = ["round_products"]

_EXTREMA = frozenset({"reduce_max", "reduce_min", "argmax", "argmin"})
# What gives one of its inputs' elements, or the negative of one: the product's own rounding is still seen.
_SELECTING = frozenset({*MOVEMENT, "maximum", "minimum", "negative", "absolute", "where", "concat", "gather"})


def round_products(graph: Graph) -> Graph:
    """Return a graph in which the products that an extremum is taken of are rounded, wherever they are used."""
    chosen = _products(graph)
    if not chosen:
        return graph

    def rounded(node: Node, inputs: tuple[Node, ...]) -> Node:
        rebuilt = node.with_inputs(inputs)
        return replace(rebuilt, primitive="rounded_multiply") if node in chosen else rebuilt

    return graph.rewritten(rounded)


def _products(graph: Graph) -> set[Node]:
    """Return the products among whose elements are those that an extremum finds."""
    found: set[Node] = set()
    seen: set[Node] = set()
    waiting = [one for node in graph.nodes() if node.primitive in _EXTREMA for one in node.inputs]
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        if node.primitive == "multiply" and node.dtype.kind == "f":
            found.add(node)
        elif node.primitive in _SELECTING:
            waiting += node.inputs
    return found
