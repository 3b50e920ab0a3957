"""The pass that makes two reductions of one over a whole array: along rows, and then over what the rows gave.

The sums of rows can be found where else rows are gone through, such as by a softmax or its gradient, and threads take
rows of their own. One number of everything could be found by one thread only, after all else.
"""

from __future__ import annotations

import math

from needle.compiler.graph import Graph, Node, make_node

__all__ = ["reduce_rows_first"]

_REDUCTIONS = ("reduce_sum", "reduce_prod", "reduce_max", "reduce_min")
# Less is not worth a second step, and shorter rows have no vectors to speak of.
_FEWEST, _SHORTEST_ROW = 16_384, 64


def reduce_rows_first(graph: Graph) -> Graph:
    """Return a graph in which large arrays are reduced to one number in two steps.

    Sums are added in another order: the results are the same but for rounding.
    """

    def reduced(node: Node, inputs: tuple[Node, ...]) -> Node:
        rebuilt = node.with_inputs(inputs)
        return _in_two(rebuilt) if node.primitive in _REDUCTIONS else rebuilt

    return graph.rewritten(reduced)


def _in_two(node: Node) -> Node:
    """Return a reduction of everything in two steps, any other one as it is."""
    (source,) = node.inputs
    rank = len(source.shape)
    whole = len(node.params["axes"]) == rank and math.prod(source.shape) >= _FEWEST and node.dtype == source.dtype
    if not whole or node.dtype.itemsize < 4:  # narrower numbers are added up in a wider type, within one step only
        return node
    first = rank - 1
    while first > 0 and math.prod(source.shape[first:]) < _SHORTEST_ROW:
        first -= 1
    if math.prod(source.shape[:first]) < 2:
        return node
    rows = make_node(node.primitive, (source,), node.source, axes=tuple(range(first, rank)))
    return make_node(node.primitive, (rows,), node.source, axes=tuple(range(first)))
