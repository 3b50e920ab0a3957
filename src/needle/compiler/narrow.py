"""The pass that finds products of float16 and bfloat16.

An operator that takes narrow numbers and sums in float32 is traced as casts and a product of float32. Where both
operands are casts, the product can as well be taken of the narrow numbers, whose products are exact in float32: half as
much is moved, the cast is done where operands are copied for the product anyway, and processors have instructions for
it (`products` says which are used). A product that is narrow itself, of a user's own operator, sums in float32 too, as
NumPy's does, and is rounded once.
"""

from __future__ import annotations

import numpy as np

from needle.compiler.graph import Graph, Node, make_node
from needle.dtype import is_narrow

__all__ = ["narrow_products"]

_MOVEMENT = ("reshape", "broadcast", "permute", "slice", "windows", "flip", "pad")


def narrow_products(graph: Graph) -> Graph:
    """Return a graph in which products of what was cast from a narrow dtype take it as it was.

    It is the same graph where nothing is narrow.
    """
    if not any(is_narrow(node.dtype) for node in graph.nodes()):
        return graph
    return graph.rewritten(_rebuilt)


def _rebuilt(node: Node, inputs: tuple[Node, ...]) -> Node:
    if node.primitive == "matmul" and is_narrow(node.dtype) and node.inputs[0].shape[-1]:
        return make_node("cast", (make_node("widening_matmul", inputs, node.source),), node.source, dtype=node.dtype)
    narrow = [_before_cast(one) for one in inputs]
    if node.primitive in _MOVEMENT and narrow[0] is not None:
        # What is moved while it is narrow is half as much.
        moved = make_node(node.primitive, (narrow[0],), node.source, **node.params)
        return make_node("cast", (moved,), node.source, dtype=node.dtype)
    a, b = narrow if node.primitive == "matmul" else (None, None)
    if a is not None and b is not None and a.dtype == b.dtype and a.shape[-1]:
        return make_node("widening_matmul", (a, b), node.source)
    return node.with_inputs(inputs)


def _before_cast(node: Node) -> Node | None:
    """Return what a node was cast to float32 from, where that is narrow."""
    is_cast = node.primitive == "cast" and node.dtype == np.float32 and is_narrow(node.inputs[0].dtype)
    return node.inputs[0] if is_cast else None
