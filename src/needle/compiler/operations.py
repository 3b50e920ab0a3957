"""How much arithmetic a traced graph asks for, before anything is simplified or fused."""

from __future__ import annotations

import math

from needle.compiler.graph import Node
from needle.compiler.primitives import ELEMENTWISE, PRODUCTS, REDUCTIONS

__all__ = ["floating_point_operations"]

_FUNCTIONS = ELEMENTWISE - {"where", "cast", "after"}
_OF_ALL_ELEMENTS = REDUCTIONS | {"cumsum", "scatter_add"}


def floating_point_operations(node: Node) -> int:
    """Return the floating-point operations of one node; a multiply-add is two, an elementary function one.

    Movement, choices, casts and arithmetic of integers are none.

    Example:
        >>> import numpy as np
        >>> from needle.compiler.graph import input_node, make_node
        >>> a, b = input_node((2, 3), np.dtype("float32")), input_node((3, 4), np.dtype("float32"))
        >>> floating_point_operations(make_node("matmul", (a, b)))
        48
    """
    if not node.inputs or node.inputs[0].dtype.kind != "f":
        return 0
    if node.primitive in PRODUCTS:
        return 2 * math.prod(node.shape) * node.inputs[0].shape[-1]
    if node.primitive in _OF_ALL_ELEMENTS:
        return math.prod(node.inputs[0].shape)
    return math.prod(node.shape) if node.primitive in _FUNCTIONS else 0
