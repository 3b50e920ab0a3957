"""The pass that finds deviations from a mean in blocks of rows: each is read from memory once, and then from a cache.

A variance, Σ (x − m)² over the rows of each column, waits for the mean m of all rows: by then the first rows have left
the caches. But with the mean mᵦ of a block of n rows, and dᵦ = mᵦ − m (Chan, Golub and LeVeque, 1983)::

    Σ (x − m)²  = Σᵦ [ Σ (x − mᵦ)² + dᵦ (2 Σ (x − mᵦ) + n dᵦ) ]
    Σ g (x − m) = Σᵦ [ Σ g (x − mᵦ) + dᵦ Σ g ]

which is as exact: x is never squared without a mean taken away, and the sum of deviations makes up for the rounding of
mᵦ. What a product has that is the same for all rows is
taken out of its sum. So a batch normalisation reads its input twice, and what comes back to it twice.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial, reduce

import numpy as np

from needle.compiler.graph import Graph, Node, constant_node, make_node
from needle.compiler.host import Host
from needle.compiler.primitives import PRODUCTS
from needle.compiler.simplify import scalar_of

__all__ = ["find_moments_in_blocks"]

# Blocks of fewer rows would have as much to write as to read, and so small an array is in a cache anyway.
_FEWEST_ROWS, _FEWEST_BLOCKS = 8, 8
_MOVEMENT = ("reshape", "broadcast")


@dataclass(frozen=True, slots=True, eq=False)
class _Centred:
    """x − m over the first axes of x: its node, x, the sum that m is made of, m without them, and blocks of x."""

    node: Node
    x: Node
    total: Node
    mean: Node
    count: int  # of the first axes
    blocks: int

    @property
    def block_shape(self) -> tuple[int, ...]:
        """The shape of x with its first axis divided into blocks."""
        return self.blocks, self.x.shape[0] // self.blocks, *self.x.shape[1:]

    @property
    def rows_of_block(self) -> int:
        """How many elements of each column a block has."""
        return math.prod(self.block_shape[1 : self.count + 1])


def find_moments_in_blocks(graph: Graph, host: Host) -> Graph:
    """Return a graph whose variances over many rows, and sums beside them, are found in blocks.

    Sums are added in another order: the results are the same but for rounding.
    """
    nodes = graph.nodes()
    centred = {node: found for node in nodes if (found := _centred(node, host)) is not None}
    squared = {one for node in nodes if (one := _squared(node, centred)) is not None}
    if not squared:
        return graph
    return _Rewriter(graph, {one.node: one for one in squared}).graph()


def _centred(node: Node, host: Host) -> _Centred | None:
    """Return what a node is if it takes the mean over the first axes from a large array; None for any other."""
    if node.primitive != "subtract" or node.inputs[1].primitive != "broadcast" or node.dtype.itemsize < 4:
        return None
    x, mean = node.inputs[0], _moved_from(node.inputs[1])
    if mean.primitive != "divide" or node.dtype.kind != "f":
        return None
    total = _moved_from(mean.inputs[0])
    if total.primitive != "reduce_sum" or total.inputs[0] is not x:
        return None
    axes = total.params["axes"]
    count = len(axes)
    rows = math.prod(x.shape[:count])
    is_mean = axes == tuple(range(count)) and scalar_of(mean.inputs[1]) == rows and mean.dtype == x.dtype == total.dtype
    if not is_mean or not _lies_behind(node.inputs[1], count, total.shape):
        return None
    blocks = _count_blocks(x, count, host)
    return None if blocks is None else _Centred(node, x, total, mean, count, blocks)


def _moved_from(node: Node) -> Node:
    while node.primitive in _MOVEMENT:
        (node,) = node.inputs
    return node


def _lies_behind(node: Node, count: int, columns: Sequence[int]) -> bool:
    """Tell whether a broadcast repeats an array of so many columns along the first axes and nothing else."""
    (source,) = node.inputs
    padded = (1,) * (len(node.shape) - len(source.shape)) + source.shape
    return padded[:count] == (1,) * count and padded[count:] == tuple(columns) == node.shape[count:]


def _count_blocks(x: Node, count: int, host: Host) -> int | None:
    """Return into how many blocks the first axis falls: few, of which a cache holds two; None where there are none."""
    size = math.prod(x.shape) * x.dtype.itemsize
    if _moved_from(x).primitive in PRODUCTS and size <= host.second_cache_bytes:
        return None  # what follows a product column by column finds it in a cache
    most = min(host.second_cache_bytes // 4, size // _FEWEST_BLOCKS)
    length, others = x.shape[0], math.prod(x.shape[1:count])
    for blocks in range(_FEWEST_BLOCKS, length + 1):
        if length % blocks == 0 and size // blocks <= most:
            is_worth_it = size > host.second_cache_bytes // 4 and length // blocks * others >= _FEWEST_ROWS
            return blocks if is_worth_it else None
    return None


def _squared(node: Node, centred: dict[Node, _Centred]) -> _Centred | None:
    """Return the deviations whose squares a node adds up, None where it does not."""
    if node.primitive != "reduce_sum" or node.inputs[0].primitive != "multiply":
        return None
    a, b = node.inputs[0].inputs
    found = centred.get(a)
    return found if a is b and found is not None and node.params["axes"] == found.total.params["axes"] else None


class _Rewriter:
    """Makes the new graph. A sum in blocks is made once for all that need it."""

    def __init__(self, graph: Graph, centred: Mapping[Node, _Centred]) -> None:
        self.old = graph
        self.new: dict[Node, Node] = {node: node for node in graph.inputs}
        self.centred = centred
        self.sums: dict[tuple[_Centred, tuple[Node, ...]], Node] = {}
        products = [_Product(node, centred) for node in graph.nodes() if node.primitive == "reduce_sum"]
        self.products = {one.node: one for one in products}
        # What else is summed in blocks, beside which deviations.
        self.beside = {one.others: one.deviations[0] for one in products if len(one.deviations) == 1 and one.others}
        self.beside.update({(one.x,): one for one in centred.values()})

    def graph(self) -> Graph:
        """Return the new graph."""
        for node in self.old.nodes():
            if node.primitive != "input":
                self.new[node] = self._sum(node) or self._as_it_was(node)
        return Graph(self.old.inputs, tuple(self.new[node] for node in self.old.outputs))

    def _as_it_was(self, node: Node) -> Node:
        return node.with_inputs(tuple(self.new[one] for one in node.inputs))

    def _sum(self, node: Node) -> Node | None:
        """Return what adds up the sums of a sum's blocks, None where it stays."""
        product = self.products.get(node)
        if product is None:
            return None
        deviations, others = product.deviations, product.others
        one = deviations[0] if deviations else self.beside.get(others)
        if one is None or node.params["axes"] != one.total.params["axes"] or node.inputs[0].shape != one.x.shape:
            return None
        scale = 1
        if others == (one.x,) and not deviations:
            # Of the means, so that nothing needs the sums of blocks later than the deviations from those do.
            found, scale = self._block_mean(one), one.rows_of_block
        elif not deviations:
            found = self._sum_of_blocks(one, others)
        elif len(deviations) == 1 and others:
            moved = _call("multiply", self._distance(one), self._sum_of_blocks(one, others))
            found = _call("add", self._sum_of_blocks(one, others, 1), moved)
        elif not others and len(deviations) == 2 and deviations[0] is deviations[1]:
            distance, rest = self._distance(one), self._sum_of_blocks(one, (), 1)
            twice = _call(
                "add", _call("add", rest, rest), _call("multiply", distance, _repeat(one.rows_of_block, rest))
            )
            moved = _call("multiply", distance, twice)
            found = _call("add", self._sum_of_blocks(one, (), 2), moved)
        else:
            return None
        found = make_node("reduce_sum", (found,), node.source, axes=(0,))
        if scale != 1:
            found = _call("multiply", found, _repeat(scale, found))
        for factor in product.repeated:
            column = make_node("reshape", (self.new[factor.inputs[0]],), node.source, shape=node.shape)
            found = _call("multiply", found, column)
        return found

    def _sum_of_blocks(self, one: _Centred, factors: tuple[Node, ...], deviations: int = 0) -> Node:
        """Return, of each block, the sum of a product of some nodes and so many deviations from the block's mean."""
        key = one, (*factors, *[one.node] * deviations)
        if key not in self.sums:
            parts = [make_node("reshape", (self.new[factor],), shape=one.block_shape) for factor in factors]
            if deviations:
                parts += [self._deviation(one)] * deviations
            product = reduce(partial(_call, "multiply"), parts)
            axes = tuple(range(1, one.count + 1))
            self.sums[key] = make_node("reduce_sum", (product,), one.node.source, axes=axes)
        return self.sums[key]

    def _deviation(self, one: _Centred) -> Node:
        """Return what an element differs by from the mean of its block."""
        mean = self._block_mean(one)
        column = make_node("reshape", (mean,), shape=(one.blocks, *(1,) * one.count, *mean.shape[1:]))
        x = make_node("reshape", (self.new[one.x],), shape=one.block_shape)
        return _call("subtract", x, make_node("broadcast", (column,), shape=one.block_shape))

    def _block_mean(self, one: _Centred) -> Node:
        total = self._sum_of_blocks(one, (one.x,))
        return _call("divide", total, _repeat(one.rows_of_block, total))

    def _distance(self, one: _Centred) -> Node:
        """Return what the mean of each block differs by from that of all."""
        mean = self._block_mean(one)
        whole = make_node("reshape", (self.new[one.mean],), shape=(1, *mean.shape[1:]))
        return _call("subtract", mean, make_node("broadcast", (whole,), shape=mean.shape))


class _Product:
    """A sum's operand as a product: of deviations, of factors that are the same for all rows, and of others."""

    def __init__(self, node: Node, centred: Mapping[Node, _Centred]) -> None:
        self.node = node
        self.centred = centred
        self.count = len(node.params["axes"])
        self.deviations: list[_Centred] = []
        self.repeated: list[Node] = []
        others: list[Node] = []
        self._add(node.inputs[0], others)
        self.others = tuple(sorted(others, key=id))
        if node.params["axes"] != tuple(range(self.count)) or node.dtype != node.inputs[0].dtype:
            self.deviations, self.repeated, self.others = [], [], ()

    def _add(self, node: Node, others: list[Node]) -> None:
        if node in self.centred:
            self.deviations.append(self.centred[node])
        elif self._is_repeated(node):
            self.repeated.append(node)
        elif node.primitive == "multiply" and self._is_mixed(node):
            for one in node.inputs:
                self._add(one, others)
        else:
            others.append(node)

    def _is_repeated(self, node: Node) -> bool:
        return node.primitive == "broadcast" and _lies_behind(node, self.count, self.node.shape)

    def _is_mixed(self, node: Node) -> bool:
        """Tell whether a product has a factor that is a deviation or repeated, and so is worth taking apart."""
        if node.primitive != "multiply":
            return node in self.centred or self._is_repeated(node)
        return any(self._is_mixed(one) for one in node.inputs)


def _call(function: str, a: Node, b: Node) -> Node:
    return make_node(function, (a, b))


def _repeat(number: int, like: Node) -> Node:
    """Return a number in the form of another node."""
    single = constant_node(np.full((1,) * len(like.shape), number, like.dtype))
    return make_node("broadcast", (single,), shape=like.shape)
