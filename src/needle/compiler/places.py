"""The pass that finds the place of an extremum by its value: first the largest number, then the first place of it.

Both go through an array in vectors and keep one number each. To keep a number and its place takes a step after another.
"""

from __future__ import annotations

import numpy as np

from needle.compiler.graph import Graph, Node, constant_node, make_node

__all__ = ["find_places_by_value"]

_EXTREMA = {"argmax": "reduce_max", "argmin": "reduce_min"}
# Shorter axes are gone through step by step as fast.
_SHORTEST = 16


def find_places_by_value(graph: Graph) -> Graph:
    """Return a graph in which argmax and argmin over long axes are two reductions each, of the same results."""

    def found(node: Node, inputs: tuple[Node, ...]) -> Node:
        rebuilt = node.with_inputs(inputs)
        is_long = node.primitive in _EXTREMA and _SHORTEST <= inputs[0].shape[node.params["axis"]] < 2**31
        return _in_two(rebuilt) if is_long else rebuilt

    return graph.rewritten(found)


def _in_two(node: Node) -> Node:
    (source,), axis = node.inputs, node.params["axis"]
    shape = source.shape

    def along(value: Node, one: tuple[int, ...]) -> Node:
        reshaped = make_node("reshape", (value,), node.source, shape=one)
        return make_node("broadcast", (reshaped,), node.source, shape=shape)

    best = make_node(_EXTREMA[node.primitive], (source,), node.source, axes=(axis,))
    found = make_node("equal", (source, along(best, (*shape[:axis], 1, *shape[axis + 1 :]))), node.source)
    if source.dtype.kind not in "iub":  # the first NaN is the place, where there is one
        found = make_node("logical_or", (found, make_node("isnan", (source,), node.source)), node.source)
    place = make_node("iota", (), node.source, length=shape[axis], dtype=np.dtype(np.int32))
    lengths = (*(1,) * axis, shape[axis], *(1,) * (len(shape) - axis - 1))
    none = constant_node(np.full((1,) * len(shape), shape[axis] - 1, np.int32))
    repeated = make_node("broadcast", (none,), node.source, shape=shape)
    places = make_node("where", (found, along(place, lengths), repeated), node.source)
    least = make_node("reduce_min", (places,), node.source, axes=(axis,))
    return make_node("cast", (least,), node.source, dtype=node.dtype)
