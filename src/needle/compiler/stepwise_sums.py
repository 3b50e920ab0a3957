"""Sums over all steps of a loop, of values that each step could add to a total.

The adjoint of what all steps read is such a sum. A product's factors of all steps are two matrices whose product is the
sum: one long product instead of a short one and an addition at each step. What moves numbers is done to the sum. Else
the values of all steps are added up where they are few, and a total is carried on where they are many.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from typing import TypeAlias

from needle.compiler.graph import Node, input_node, make_node
from needle.compiler.trace import TracedArray

__all__ = ["StepwiseSums"]

# So many values, of all steps together, are kept to be added up at last.
_FEW = 2**20

_Sum: TypeAlias = Callable[[], Node]
_MOVEMENT = ("reshape", "permute", "slice", "flip", "broadcast")


class StepwiseSums:
    """Plans sums over the steps of a loop, and makes them when the loop is there.

    Args:
        length: how many steps there are.
        varying: the nodes that differ from step to step.

    Attributes:
        wanted: what each step has to give.
        totals, next_totals: what has to be carried beside, from zeros on.
    """

    def __init__(self, length: int, varying: Collection[Node]) -> None:
        self.length = length
        self.varying = varying
        self.wanted: list[Node] = []
        self.totals: list[Node] = []
        self.next_totals: list[Node] = []
        self._sequences: Sequence[Node] = ()
        self._last_totals: Sequence[Node] = ()

    def sequences_are(self, nodes: Sequence[Node]) -> None:
        """Say where what was wanted of each step is, for all steps."""
        self._sequences = nodes

    def totals_are(self, nodes: Sequence[Node]) -> None:
        """Say where the totals are after the last step."""
        self._last_totals = nodes

    def plan(self, node: Node) -> _Sum:  # noqa: PLR0911  a line a kind
        """Return what makes the sum of a node over all steps, once the loop is there."""
        inputs = node.inputs
        if node in self.varying and all(one in self.varying for one in inputs):
            if node.primitive == "matmul":
                return self._product(*inputs)
            if node.primitive == "add":
                first, second = map(self.plan, inputs)
                return lambda: make_node("add", (first(), second()), node.source)
            if node.primitive in _MOVEMENT or (node.primitive == "pad" and not node.params.get("value")):
                whole = self.plan(inputs[0])
                return lambda: make_node(node.primitive, (whole(),), node.source, **node.params)
            if node.primitive == "reduce_sum":
                values = self._all_steps(inputs[0])
                axes = (0, *(axis + 1 for axis in node.params["axes"]))
                return lambda: make_node("reduce_sum", (values(),), node.source, axes=axes)
            if node.primitive == "scatter_add":
                parts = [self._all_steps(one) for one in inputs]
                return lambda: make_node("scatter_add", [one() for one in parts], node.source, **node.params)
        if math.prod(node.shape) * self.length <= _FEW and node.dtype.itemsize >= 4:
            values = self._all_steps(node)
            return lambda: make_node("reduce_sum", (values(),), node.source, axes=(0,))
        return self._total(node)

    def _all_steps(self, node: Node) -> _Sum:
        if node not in self.wanted:
            self.wanted.append(node)
        number = self.wanted.index(node)
        return lambda: self._sequences[number]

    def _total(self, node: Node) -> _Sum:
        total = input_node(node.shape, node.dtype)
        number = len(self.totals)
        self.totals.append(total)
        self.next_totals.append(make_node("add", (total, node), node.source))
        return lambda: self._last_totals[number]

    def _product(self, a: Node, b: Node) -> _Sum:
        """Return what makes Σₜ aₜ @ bₜ: the columns of all aₜ side by side, times the rows of all bₜ."""
        rank = len(a.shape)
        swapped = (*range(rank - 2), rank - 1, rank - 2)
        is_swapped = a.primitive == "permute" and a.params["axes"] == swapped
        of_a = self._all_steps(a.inputs[0] if is_swapped else a)
        of_b = self._all_steps(b)

        def make() -> Node:
            xp = TracedArray.namespace
            left = TracedArray(of_a())
            if not is_swapped:
                left = xp.matrix_transpose(left)
            left, right = (xp.moveaxis(one, 0, rank - 2) for one in (left, TracedArray(of_b())))
            left, right = (
                xp.reshape(one, (*one.shape[: rank - 2], one.shape[rank - 2] * one.shape[rank - 1], one.shape[rank]))
                for one in (left, right)
            )
            whole: Node = xp.matmul(xp.matrix_transpose(left), right).node
            return whole

        return make
