"""The pass that has large activations computed again in the backward pass, where what they are made of is kept anyway.

The gradient of a weight multiplies by the activation that the weight was multiplied by: GELU's result, say, waits from
the forward pass to the backward one, and so does what it was computed from, for GELU's own gradient. To compute it once
more takes some operations for each element, the product some hundreds; and it is in a cache then. Small arrays stay:
they are in a cache in any case.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence, Set

from needle.compiler.buffer_choice import base_of, choose_buffers
from needle.compiler.graph import Graph, Node
from needle.compiler.host import Host
from needle.compiler.primitives import ELEMENTWISE, PRIMITIVES, PRODUCTS

__all__ = ["with_activations_again"]

# Arrays from so many second caches on are computed again.
_LARGE = 4
# What is computed again takes at most so many operations an element: a function or two.
_MOST_OPERATIONS = 40
# An activation with its axes in another order, or others, is read where it lies.
_VIEWS = frozenset({"reshape", "permute"})


def with_activations_again(graph: Graph, host: Host) -> Graph:
    """Return a graph in which products of the backward pass have activations of their own where that saves memory."""
    large = [node for node in graph.nodes() if _is_large(node, host)]
    again = _Uses(graph).again(large) if large else {}
    if not again:
        return graph
    copies: dict[Node, Node] = {}

    def change(node: Node, inputs: tuple[Node, ...]) -> Node:
        if node in again:
            inputs = tuple(
                _on_copy(old, new, again[node], copies) for old, new in zip(node.inputs, inputs, strict=True)
            )
        return node.with_inputs(inputs)

    return graph.rewritten(change)


def _is_large(node: Node, host: Host) -> bool:
    size = math.prod(node.shape) * node.dtype.itemsize
    return node.primitive in ELEMENTWISE and size >= _LARGE * host.second_cache_bytes


def _on_copy(old: Node, new: Node, expressions: dict[Node, Set[Node]], copies: dict[Node, Node]) -> Node:
    """Return a product's operand, seen on a copy of the activation that it is a view of, where there is to be one."""
    if old in expressions:
        if old not in copies:
            copies[old] = _copy(old, new, expressions[old], {})
        return copies[old]
    if old.primitive not in _VIEWS:
        return new
    return new.with_inputs((_on_copy(old.inputs[0], new.inputs[0], expressions, copies),))


def _copy(old: Node, new: Node, expression: Set[Node], made: dict[Node, Node]) -> Node:
    """Return an expression's node once more, made of nodes of its own down to what is kept; each is `made` once."""
    if old not in expression:
        return new
    if old not in made:
        inputs = tuple(_copy(*pair, expression, made) for pair in zip(old.inputs, new.inputs, strict=True))
        made[old] = Node(new.primitive, inputs, new.params, new.shape, new.dtype, new.source)
    return made[old]


class _Uses:
    """Who uses what in a graph, and what comes before what."""

    def __init__(self, graph: Graph) -> None:
        self.nodes = graph.nodes()
        self.number = {node: number for number, node in enumerate(self.nodes)}
        chosen, cheap = choose_buffers(graph)
        self.with_buffer = chosen - cheap
        self.returned = {base_of(node) for node in graph.outputs}
        self.users = graph.users()
        self.before: dict[Node, int] = {}  # as the bits of a number
        for node in self.nodes:
            bits = 0
            for one in node.inputs:
                bits |= self.before[one] | 1 << self.number[one]
            self.before[node] = bits

    def again(self, activations: Sequence[Node]) -> dict[Node, dict[Node, Set[Node]]]:
        """Return the products that are to have activations of their own, and the nodes that these are made of."""
        again: dict[Node, dict[Node, Set[Node]]] = {}
        for node in activations:
            if not self._may_be_again(node):
                continue
            products = sorted(self._readers(node), key=self.number.__getitem__)
            first, later = products[0], [one for one in products[1:] if self._comes_after(one, products[0])]
            expression = self._expression(node)
            if later and expression is not None and self._is_kept(node, expression, first):
                for one in later:
                    again.setdefault(one, {})[node] = expression
        return again

    def _may_be_again(self, node: Node) -> bool:
        if node not in self.with_buffer or node in self.returned:
            return False
        readers = list(self._readers(node))
        return len(readers) > 1 and all(one.primitive in PRODUCTS for one in readers)

    def _readers(self, node: Node) -> Iterator[Node]:
        """Yield what reads a node or a view of it."""
        for one in self.users.get(node, ()):
            if one.primitive in _VIEWS:
                yield from self._readers(one)
            else:
                yield one

    def _comes_after(self, node: Node, other: Node) -> bool:
        return bool(self.before[node] >> self.number[other] & 1)

    def _expression(self, node: Node) -> Set[Node] | None:
        """Return the nodes between one and the buffers that it is computed from; None where they are too many."""
        found: set[Node] = set()
        waiting = [node]
        while waiting:
            one = waiting.pop()
            if one in found or (one is not node and one in self.with_buffer):
                continue
            found.add(one)
            waiting += one.inputs
        operations = sum(PRIMITIVES[one.primitive].cost for one in found if one.primitive in ELEMENTWISE)
        return found if operations <= _MOST_OPERATIONS else None

    def _is_kept(self, node: Node, expression: Set[Node], first: Node) -> bool:
        """Tell whether the large arrays that an expression reads are read again after a product anyway."""
        sources = {one for inner in expression for one in inner.inputs if one not in expression}
        large = [one for one in sources if 2 * math.prod(one.shape) >= math.prod(node.shape)]
        return all(self._is_read_after(one, first, node) for one in large)

    def _is_read_after(self, source: Node, first: Node, node: Node) -> bool:
        """Tell whether something beside a node is computed from a buffer after a product."""
        waiting, seen = list(self.users.get(source, ())), {node}
        while waiting:
            one = waiting.pop()
            if one in seen:
                continue
            seen.add(one)
            if self._comes_after(one, first):
                return True
            if one not in self.with_buffer:
                waiting += self.users.get(one, ())
        return False
