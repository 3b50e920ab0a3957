"""The pass that chooses in which order of axes values are computed: permutations move towards the outputs.

An operator that wants its axes in another order permutes them before and after: a convolution of images with the
channels first works on the channels last. What lies between two such operators (a normalization, an activation, a
sum of branches) would be computed in the order in which it was written, across the order in which its operands lie.
So a permutation is done after an elementwise operation and not before, after a reduction, a broadcast, a slice; there
it meets the next operator's permutation back, and both go. What is left is at the outputs, or where a reshape or a
product stands in the way.

Which order is best for a value that only comes in from outside or goes out is not asked: it lies as it lies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from needle.compiler.graph import Graph, Node, make_node
from needle.compiler.primitives import ELEMENTWISE

__all__ = ["sink_permutations"]

_Axes = tuple[int, ...]


def sink_permutations(graph: Graph) -> Graph:
    """Return a graph of the same outputs in which permutations come as late as possible.

    Reductions may add up in another order of axes; all else gives the same bits.
    """

    def sunk(node: Node, inputs: tuple[Node, ...]) -> Node:
        rule = _RULES.get(node.primitive)
        return (rule(node, inputs) if rule is not None else None) or node.with_inputs(inputs)

    return graph.rewritten(sunk)


def permuted(node: Node, axes: _Axes) -> Node:
    """Return a node with its axes in this order, by a cheaper way than a permutation where there is one."""
    if axes == tuple(range(len(axes))):
        return node
    if node.primitive == "permute":
        return permuted(node.inputs[0], tuple(node.params["axes"][axis] for axis in axes))
    shape = tuple(node.shape[axis] for axis in axes)
    if node.primitive == "broadcast":
        return make_node("broadcast", (permuted(node.inputs[0], axes),), node.source, shape=shape)
    longer = [axis for axis in axes if node.shape[axis] != 1]
    if longer == sorted(longer):  # only axes of length 1 change places
        return make_node("reshape", (node,), node.source, shape=shape)
    return make_node("permute", (node,), node.source, axes=axes)


def _inverse(axes: _Axes) -> _Axes:
    return tuple(axes.index(axis) for axis in range(len(axes)))


def _order(node: Node) -> _Axes | None:
    """Return the order of axes that a permutation brings, and None for any other node."""
    return node.params["axes"] if node.primitive == "permute" else None


def _after_elementwise(node: Node, inputs: tuple[Node, ...]) -> Node | None:
    """op(permute(a), permute(b)) = permute(op(a, b)): done where most operands that matter are permuted."""
    orders = [_order(one) for one in inputs if not _is_repeated(one)]
    permutations = [order for order in orders if order is not None]
    if 2 * len(permutations) <= len(orders):
        return None
    # Of orders that are as frequent, the one that leaves the first axes (of samples, mostly) where they are.
    axes = min(permutations, key=lambda order: (-permutations.count(order), order))
    back = _inverse(axes)
    result = make_node(node.primitive, [permuted(one, back) for one in inputs], node.source, **node.params)
    return permuted(result, axes)


def _is_repeated(node: Node) -> bool:
    """Tell whether a node repeats fewer values, so that the order of its axes costs nothing."""
    return node.primitive in ("broadcast", "constant") or node.shape.count(1) >= len(node.shape) - 1


def _after_reduction(node: Node, inputs: tuple[Node, ...]) -> Node | None:
    (a,) = inputs
    order = _order(a)
    if order is None:
        return None
    reduced = tuple(sorted(order[axis] for axis in node.params["axes"]))
    result = make_node(node.primitive, a.inputs, node.source, axes=reduced)
    kept = [axis for axis in range(len(order)) if axis not in reduced]
    wanted = [order[axis] for axis in range(len(order)) if axis not in node.params["axes"]]
    return permuted(result, tuple(kept.index(axis) for axis in wanted))


def _after_broadcast(node: Node, inputs: tuple[Node, ...]) -> Node | None:
    return _after(node, inputs, shape=_back(node.shape, inputs))


def _after_slice(node: Node, inputs: tuple[Node, ...]) -> Node | None:
    bounds = {name: _back(node.params[name], inputs) for name in ("start", "stop", "step")}
    return _after(node, inputs, **bounds)


def _after_pad(node: Node, inputs: tuple[Node, ...]) -> Node | None:
    order = _order(inputs[0])
    if order is not None and _comes_in(inputs[0].inputs[0]):
        return None  # padding copies: what comes in from outside is permuted on the way
    return _after(node, inputs, **{**node.params, "widths": _back(node.params["widths"], inputs)})


def _comes_in(node: Node) -> bool:
    """Tell whether a node is an input, maybe in another dtype."""
    while node.primitive == "cast":
        (node,) = node.inputs
    return node.primitive == "input"


def _after_flip(node: Node, inputs: tuple[Node, ...]) -> Node | None:
    order = _order(inputs[0])
    return _after(node, inputs, axis=tuple(order[axis] for axis in node.params["axis"]) if order else ())


def _after_windows(node: Node, inputs: tuple[Node, ...]) -> Node | None:
    (a,) = inputs
    order = _order(a)
    if order is None:
        return None
    axes = tuple(order[axis] for axis in node.params["axes"])
    windows = make_node("windows", a.inputs, node.source, axes=axes, sizes=node.params["sizes"])
    return permuted(windows, (*order, *range(len(order), len(windows.shape))))


def _after_concat(node: Node, inputs: tuple[Node, ...]) -> Node | None:
    orders = {_order(one) for one in inputs}
    (axes, *others) = orders
    if axes is None or others:
        return None
    joined = make_node("concat", [one.inputs[0] for one in inputs], node.source, axis=axes[node.params["axis"]])
    return permuted(joined, axes)


def _after_reshape(node: Node, inputs: tuple[Node, ...]) -> Node | None:
    """Leave out or put in axes of length 1 before the permutation."""
    (a,) = inputs
    order = _order(a)
    if order is None or [n for n in a.shape if n != 1] != [n for n in node.shape if n != 1]:
        return None
    longer = [axis for axis in order if a.inputs[0].shape[axis] != 1]
    # Axes that are not of length 1 keep their order among each other on both sides: give each of the new axes the
    # rank of the old one it stands for, and those of length 1 the ranks behind.
    ranks = iter(sorted(longer).index(axis) for axis in longer)
    ones = iter(range(len(longer), len(node.shape)))
    axes = tuple(next(ones) if n == 1 else next(ranks) for n in node.shape)
    shape = tuple(node.shape[axis] for axis in _inverse(axes))
    return permuted(make_node("reshape", a.inputs, node.source, shape=shape), axes)


def _after_permute(node: Node, inputs: tuple[Node, ...]) -> Node | None:
    return permuted(inputs[0], node.params["axes"])


def _back(each: tuple[object, ...], inputs: tuple[Node, ...]) -> tuple[object, ...]:
    """Return what belongs to each axis in the order before the permutation."""
    order = _order(inputs[0])
    return tuple(each[axis] for axis in _inverse(order)) if order is not None else tuple(each)


def _after(node: Node, inputs: tuple[Node, ...], **params: object) -> Node | None:
    """Do what a node does before the permutation of its input, with these settings."""
    order = _order(inputs[0])
    if order is None:
        return None
    return permuted(make_node(node.primitive, inputs[0].inputs, node.source, **params), order)


_Rule = Callable[[Node, tuple[Node, ...]], Node | None]

_RULES: Mapping[str, _Rule] = {
    **dict.fromkeys(ELEMENTWISE, _after_elementwise),
    **dict.fromkeys(["reduce_sum", "reduce_prod", "reduce_max", "reduce_min"], _after_reduction),
    "broadcast": _after_broadcast,
    "slice": _after_slice,
    "pad": _after_pad,
    "flip": _after_flip,
    "windows": _after_windows,
    "concat": _after_concat,
    "reshape": _after_reshape,
    "permute": _after_permute,
}
