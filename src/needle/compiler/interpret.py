"""The reference interpreter: a graph's meaning, one primitive after another, in NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from needle.compiler.graph import Graph, Node
from needle.compiler.primitives import PRIMITIVES
from needle.compiler.repeat import run_loop

__all__ = ["interpret"]


def interpret(graph: Graph, arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
    """Run `graph` on the arrays for its inputs and return its outputs.

    It defines what a graph means: whatever a pass or a renderer makes of the graph must agree with it.
    """
    values: dict[Node, Any] = dict(zip(graph.inputs, arrays, strict=True))
    for node in graph.nodes():
        operands = [values[one] for one in node.inputs]
        if node.primitive == "constant":
            values[node] = node.params["value"]
        elif node.primitive == "repeat":
            values[node] = run_loop(node, operands, interpret)  # a list, which `result` takes apart
        elif node.primitive != "input":
            values[node] = np.asarray(PRIMITIVES[node.primitive].evaluate(*operands, **node.params))
    return [values[node] for node in graph.outputs]
