"""The graph that a trace records: nodes of primitives, each with its shape, its dtype and where it came from.

A node is immutable and knows its inputs, so that a graph is no more than the nodes that its outputs reach. A pass
makes a new graph; nothing is changed in place. Every graph prints as text (`Graph.show`), and `verify` infers every
node again from its primitive's own rule.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from needle.compiler.primitives import PRIMITIVES

__all__ = ["Graph", "Node", "Source", "constant_node", "input_node", "make_node", "verify"]

_NO_PARAMS: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Source:
    """The line of the user's program that made a node."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """One primitive applied to other nodes.

    `params` are the primitive's own settings, such as the axes of a reduction; `source` is None where nobody asked.
    """

    primitive: str
    inputs: tuple[Node, ...]
    params: Mapping[str, Any]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    source: Source | None = None

    def with_inputs(self, inputs: tuple[Node, ...]) -> Node:
        """Return the node of other inputs of the same kinds; itself where they are its own."""
        if inputs == self.inputs:
            return self
        return Node(self.primitive, inputs, self.params, self.shape, self.dtype, self.source)

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]"


def make_node(primitive: str, inputs: Sequence[Node], source: Source | None = None, **params: Any) -> Node:
    """Apply a primitive: its rule gives the node's shape and dtype, or raises what is wrong with the inputs."""
    shape, dtype = PRIMITIVES[primitive].infer(*inputs, **params)
    return Node(primitive, tuple(inputs), MappingProxyType(params) if params else _NO_PARAMS, shape, dtype, source)


def input_node(shape: Sequence[int], dtype: np.dtype[Any]) -> Node:
    """Make a node that stands for an array which the program is given when it runs."""
    return Node("input", (), _NO_PARAMS, tuple(shape), dtype)


def constant_node(value: NDArray[Any]) -> Node:
    """Make a node of an array that is part of the program."""
    return Node("constant", (), MappingProxyType({"value": value}), value.shape, value.dtype)


@dataclass(frozen=True, slots=True)
class Graph:
    """A program: its input nodes, in the order in which arrays are passed, and its output nodes."""

    inputs: tuple[Node, ...]
    outputs: tuple[Node, ...]

    def nodes(self) -> list[Node]:
        """Return all nodes, inputs before what is made of them, each once."""
        order: list[Node] = list(self.inputs)
        seen = set(self.inputs)
        stack = [(root, False) for root in reversed(self.outputs)]
        while stack:
            node, inputs_done = stack.pop()
            if inputs_done:
                order.append(node)
            elif node not in seen:
                seen.add(node)
                stack.append((node, True))
                stack.extend((one, False) for one in reversed(node.inputs))
        return order

    def users(self) -> dict[Node, list[Node]]:
        """Return for each node that some node reads those that do, one as often as it reads it."""
        found: dict[Node, list[Node]] = {}
        for node in self.nodes():
            for one in node.inputs:
                found.setdefault(one, []).append(node)
        return found

    def rewritten(self, change: Callable[[Node, tuple[Node, ...]], Node]) -> Graph:
        """Return a graph of what `change` makes of each node, given what it has made of the node's inputs."""
        new: dict[Node, Node] = {node: node for node in self.inputs}
        for node in self.nodes():
            if node.primitive != "input":
                new[node] = change(node, tuple(new[one] for one in node.inputs))
        return Graph(self.inputs, tuple(new[node] for node in self.outputs))

    def show(self) -> str:
        """Return the graph as text: a line a node, with what it reads, what it gives and where it came from.

        Example:
            >>> import numpy as np
            >>> x = input_node((2, 3), np.dtype("float32"))
            >>> print(Graph((x,), (make_node("reduce_sum", (make_node("exp", (x,)),), axes=(1,)),)).show())
            %0 = input                      float32[2, 3]
            %1 = exp(%0)                    float32[2, 3]
            %2 = reduce_sum(%1, axes=(1,))  float32[2]
            return %2
        """
        nodes = self.nodes()
        names = {node: f"%{i}" for i, node in enumerate(nodes)}
        calls = [f"{names[node]} = {_call(node, names)}" for node in nodes]
        width = max(map(len, calls), default=0)
        lines = [
            f"{call:{width}}  {node}" + (f"  # {node.source}" if node.source else "")
            for call, node in zip(calls, nodes, strict=True)
        ]
        # The body of a loop stands below it.
        for number, node in enumerate(nodes):
            for body in (one for one in node.params.values() if isinstance(one, Graph)):
                lines[number] += "".join(f"\n    {line}" for line in body.show().splitlines())
        return "\n".join([*lines, f"return {', '.join(names[node] for node in self.outputs)}"])


def _call(node: Node, names: Mapping[Node, str]) -> str:
    settings = [f"{key}={_setting(one)}" for key, one in node.params.items() if not isinstance(one, Graph)]
    arguments = [names[one] for one in node.inputs] + settings
    return f"{node.primitive}({', '.join(arguments)})" if arguments else node.primitive


def _setting(value: object) -> str:
    """Print a parameter: small arrays whole, larger ones by their shape."""
    if not isinstance(value, np.ndarray):
        return str(value)
    return str(value.item()) if value.size == 1 else f"array{list(value.shape)}"


def verify(graph: Graph) -> None:
    """Check that every node is what its primitive's rule makes of its inputs, and that every input is listed.

    Raises:
        AssertionError: a pass has built a graph that contradicts itself.
    """
    for node in graph.nodes():
        if node.primitive == "input":
            assert node in graph.inputs, f"the graph reads an input that is not listed: {node}"
        elif node.primitive != "constant":
            expected = PRIMITIVES[node.primitive].infer(*node.inputs, **node.params)
            assert (node.shape, node.dtype) == expected, f"{node.primitive} says {node}, its rule says {expected}"
