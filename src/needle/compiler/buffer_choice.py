"""Which nodes of a graph get memory: all others are computed where they are used."""

from __future__ import annotations

import math
from collections import Counter

from needle.compiler.graph import Graph, Node
from needle.compiler.primitives import ELEMENTWISE, MOVEMENT, PRIMITIVES, PRODUCTS, REDUCTIONS

__all__ = ["ALONE", "base_of", "choose_buffers"]

# Nodes that are kernels of their own, whatever stands beside them.
ALONE = frozenset({"cumsum", "scatter_add", "concat"})
# An elementwise node that is used more than once is computed again up to this many operations.
_CHEAP = 3
# A node that is repeated by broadcasting is computed beforehand from this cost on: one division or root.
_DEAR = 10
# Another kernel that reads what it is made of anyway computes it again up to this cost: one function such as erf.
_DEAREST_AGAIN = 15
# Longer chains get a buffer in between, which bounds the recursion and the size of one loop.
_LONGEST_CHAIN = 60


def choose_buffers(graph: Graph) -> tuple[set[Node], set[Node]]:
    """Return the nodes whose values are written to memory, and those of them that could be computed again instead."""
    nodes = graph.nodes()
    uses = Counter(one for node in nodes for one in node.inputs)
    of_loops = {base_of(one) for node in nodes if node.primitive == "repeat" for one in node.inputs}
    chosen = set(graph.inputs) | {base_of(node) for node in graph.outputs} | of_loops
    cost: dict[Node, int] = {}
    depth: dict[Node, int] = {}
    again: set[Node] = set()
    nested = _nested(graph)
    for node in nodes:
        alone = node.primitive in REDUCTIONS | ALONE | PRODUCTS | {"gather", "pad", "repeat", "result"}
        stored = node in chosen or (alone and node not in nested)
        stored = stored or (node.primitive == "constant" and math.prod(node.shape) != 1)
        elementwise = node.primitive in ELEMENTWISE
        own_cost = PRIMITIVES[node.primitive].cost if elementwise else 0
        cost[node] = sum(cost[one] for one in node.inputs) + own_cost
        depth[node] = 1 + max((depth[one] for one in node.inputs), default=0)
        repeated = elementwise and uses[node] > 1 and cost[node] > _CHEAP
        if node.primitive == "broadcast" and cost[node] >= _DEAR:
            # Computed once, not for each element that it is repeated to.
            chosen.add(base_of(node.inputs[0]))
            cost[node] = 0
        long = cost[node] > 10 * _LONGEST_CHAIN or (elementwise and depth[node] > 2 * _LONGEST_CHAIN)
        if repeated and not (stored or long) and cost[node] <= _DEAREST_AGAIN:
            again.add(node)
        if stored or repeated or long:
            chosen.add(node)
            cost[node] = depth[node] = 0
    operands = [one for node in nodes if node.primitive in PRODUCTS for one in node.inputs]
    sources = {_source_of(one, past="slice") for one in operands if _source_of(one) not in chosen}
    return chosen | sources, again - {_source_of(one) for one in operands} - of_loops


def _nested(graph: Graph) -> set[Node]:
    """Return the joined arrays that are nothing but a part of another one: their parts go right there."""
    users = graph.users()
    found = set()
    for node in graph.nodes():
        if node.primitive != "concat":
            continue
        inner, using = node, users.get(node, [])
        while len(using) == 1 and using[0].primitive == "reshape" and inner not in graph.outputs:
            inner, using = using[0], users.get(using[0], [])
        if len(using) == 1 and using[0].primitive == "concat" and inner not in graph.outputs:
            found.add(node)
    return found


def _source_of(operand: Node, past: str = "") -> Node:
    """Return what an operand of a product is a view of, where it can be read; go `past` no view of that kind."""
    while operand.primitive in MOVEMENT and operand.primitive != past:
        (operand,) = operand.inputs
    return operand


def base_of(node: Node) -> Node:
    """Return the node whose buffer holds a node's values: reshapes are only another shape for it."""
    while node.primitive == "reshape":
        node = node.inputs[0]
    return node
