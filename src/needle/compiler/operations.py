"""How much arithmetic a traced graph asks for, before anything is simplified or fused."""

from __future__ import annotations

import math

from needle.compiler.graph import Node
from needle.compiler.primitives import ELEMENTWISE, PRODUCTS

__all__ = ["MOVEMENTS", "floating_point_operations"]

# Primitives that only look at the same numbers in another way.
MOVEMENTS = frozenset({"reshape", "permute", "broadcast", "slice", "windows", "flip"})
_FUNCTIONS = ELEMENTWISE - {"where", "cast", "after"}
_REDUCTIONS = frozenset({"reduce_sum", "reduce_prod", "reduce_max", "reduce_min", "argmax", "argmin", "cumsum"})


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
    if node.primitive in _REDUCTIONS or node.primitive == "scatter_add":
        return math.prod(node.inputs[0].shape)
    return math.prod(node.shape) if node.primitive in _FUNCTIONS else 0
