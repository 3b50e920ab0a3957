"""The pass that finds products of bfloat16, for processors that have instructions for them.

An operator that takes bfloat16 and sums in float32 is traced as casts and a product of float32. Where both operands
are casts, the product can as well be taken of the narrow numbers: their products are exact in float32, so that only the
order of the sums differs.
"""

from __future__ import annotations

import math

import numpy as np

from needle.compiler.graph import Graph, Node, make_node
from needle.dtype import bfloat16

__all__ = ["narrow_products"]

_MOVEMENT = ("reshape", "broadcast", "permute", "slice", "windows", "flip", "pad")
# Fewer rows, columns or steps of the sum leave most of the processor's tiles empty.
_FEWEST = 16
_FEWEST_PRODUCTS = 64**3


def narrow_products(graph: Graph) -> Graph:
    """Return a graph in which large products of what was cast from bfloat16 take it as it was."""
    new: dict[Node, Node] = {node: node for node in graph.inputs}
    for node in graph.nodes():
        if node.primitive == "input":
            continue
        inputs = tuple(new[one] for one in node.inputs)
        new[node] = _rebuilt(node, inputs)
    return Graph(graph.inputs, tuple(new[node] for node in graph.outputs))


def _rebuilt(node: Node, inputs: tuple[Node, ...]) -> Node:
    narrow = [_before_cast(one) for one in inputs]
    if node.primitive in _MOVEMENT and narrow[0] is not None:
        # What is moved while it is narrow is half as much.
        moved = make_node(node.primitive, (narrow[0],), node.source, **node.params)
        return make_node("cast", (moved,), node.source, dtype=node.dtype)
    a, b = narrow if node.primitive == "matmul" else (None, None)
    if a is not None and b is not None and _is_worth_it(a, b):
        return make_node("widening_matmul", (a, b), node.source)
    return Node(node.primitive, inputs, node.params, node.shape, node.dtype, node.source)


def _before_cast(node: Node) -> Node | None:
    """Return what a node was cast to float32 from, where that is bfloat16."""
    is_cast = node.primitive == "cast" and node.dtype == np.float32 and node.inputs[0].dtype == bfloat16
    return node.inputs[0] if is_cast else None


def _is_worth_it(a: Node, b: Node) -> bool:
    rows, inner = math.prod(a.shape[:-1]), a.shape[-1]
    columns = b.shape[-1]
    return min(rows, columns, inner) >= _FEWEST and rows * columns * inner >= _FEWEST_PRODUCTS
