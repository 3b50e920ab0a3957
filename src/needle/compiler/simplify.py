"""The pass that makes a traced graph smaller without changing what it means.

Rules are applied to each node once, inputs first, until no rule fits: constants are computed, equal nodes become one,
movement of movement becomes one movement, and algebra drops what does nothing. Only rules that hold for every
floating-point number are here: x + 0 stays (it turns −0 into 0), x · 0 stays (it keeps NaN), x · 1 goes.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from needle.compiler.graph import Graph, Node, constant_node, make_node
from needle.compiler.primitives import ELEMENTWISE, PRIMITIVES

__all__ = ["scalar_of", "simplify"]

# Whose operands may change places without a change of any bit.
_COMMUTING = ("add", "multiply")
# A constant this small is computed while compiling; a larger one would only make the program larger.
_LARGEST_FOLDED = 64


def simplify(graph: Graph) -> Graph:
    """Return a graph that computes the same outputs from the same inputs with fewer nodes.

    Every output keeps its shape and dtype, and `interpret` gives the same bits before and after
    (but for the sign of a NaN, of which IEEE 754 says nothing).
    """
    known: dict[Hashable, Node] = {}

    def reduced(node: Node, inputs: tuple[Node, ...]) -> Node:
        found = _reduce_fully(node.with_inputs(inputs))
        return known.setdefault(_identity(found), found)

    return graph.rewritten(reduced)


def _reduce_fully(node: Node) -> Node:
    while True:
        for rule in _RULES:
            replaced = rule(node)
            if replaced is not None:
                node = replaced
                break
        else:
            return node


def _identity(node: Node) -> Hashable:
    """Return what two nodes have in common exactly when they compute the same."""
    if node.primitive == "input":
        return id(node)
    params = tuple((key, _hashable(value)) for key, value in sorted(node.params.items()))
    inputs = map(id, node.inputs)
    return (
        node.primitive,
        tuple(sorted(inputs) if node.primitive in _COMMUTING else inputs),
        params,
        node.shape,
        node.dtype,
    )


def _hashable(value: Any) -> Hashable:
    if isinstance(value, np.ndarray):
        small = value.size <= _LARGEST_FOLDED
        return (value.tobytes() if small else id(value)), value.shape, value.dtype
    return value


def _value(node: Node) -> NDArray[Any] | None:
    return node.params["value"] if node.primitive == "constant" else None


def scalar_of(node: Node) -> Any:
    """Return the one number that a node repeats, or None where it is not such a node."""
    while node.primitive in ("reshape", "broadcast"):
        node = node.inputs[0]
    value = _value(node)
    return value.item() if value is not None and value.size == 1 else None


def _fold_constants(node: Node) -> Node | None:
    """Compute a node of constants, except one that only repeats them."""
    if node.primitive in ("input", "constant", "broadcast", "repeat", "result") or not node.inputs:
        return None
    values = [_value(one) for one in node.inputs]
    if any(value is None for value in values) or np.prod(node.shape) > _LARGEST_FOLDED:
        return None
    with np.errstate(all="ignore"):
        result = PRIMITIVES[node.primitive].evaluate(*values, **node.params)
    return constant_node(np.asarray(result, dtype=node.dtype))


def _compute_scalars_once(node: Node) -> Node | None:
    """Compute an elementwise node of repeated numbers on the numbers alone, and repeat the result."""
    if not node.shape or not node.inputs or node.primitive not in ELEMENTWISE:
        return None
    numbers = [scalar_of(one) for one in node.inputs]
    if any(number is None for number in numbers):
        return None
    arrays = [np.asarray(number, dtype=one.dtype) for number, one in zip(numbers, node.inputs, strict=True)]
    with np.errstate(all="ignore"):
        result = np.asarray(PRIMITIVES[node.primitive].evaluate(*arrays, **node.params), dtype=node.dtype)
    single = constant_node(result.reshape((1,) * len(node.shape)))
    return make_node("broadcast", (single,), node.source, shape=node.shape)


def _drop_movement_that_moves_nothing(node: Node) -> Node | None:
    if node.primitive not in _MOVEMENT or node.shape != node.inputs[0].shape:
        return None
    (moved,) = node.inputs
    identity = {
        "reshape": True,
        "broadcast": True,
        "permute": node.params.get("axes") == tuple(range(len(node.shape))),
        "slice": all(step == 1 for step in node.params.get("step", ())),
        "pad": True,
        "flip": not node.params.get("axis"),
    }
    return moved if identity[node.primitive] else None


def _join_movements(node: Node) -> Node | None:
    """Make one movement of two of a kind."""
    if node.primitive not in ("reshape", "broadcast", "permute") or node.inputs[0].primitive != node.primitive:
        return None
    (first,) = node.inputs
    params = dict(node.params)
    if node.primitive == "permute":
        params["axes"] = tuple(first.params["axes"][axis] for axis in node.params["axes"])
    return make_node(node.primitive, first.inputs, node.source, **params)


def _drop_neutral_numbers(node: Node) -> Node | None:
    """Drop ·1, /1, −0, ^1, which change no number, not even −0, NaN or infinity."""
    neutral = {"multiply": 1, "divide": 1, "subtract": 0, "power": 1}.get(node.primitive)
    if neutral is None or node.inputs[0].dtype != node.dtype:
        return None
    a, b = node.inputs
    if _is_number(b, neutral):
        return a
    return b if node.primitive == "multiply" and _is_number(a, neutral) else None


def _is_number(node: Node, number: int) -> bool:
    """Tell whether a node repeats `number`; −0.0 is not 0 here."""
    found = scalar_of(node)
    return found is not None and found == number and not np.signbit(found)


def _drop_double_negation(node: Node) -> Node | None:
    same = node.primitive in ("negative", "logical_not") and node.inputs[0].primitive == node.primitive
    return node.inputs[0].inputs[0] if same and node.inputs[0].inputs[0].dtype == node.dtype else None


def _subtract_instead_of_adding_the_negative(node: Node) -> Node | None:
    if node.primitive != "add" or node.inputs[1].primitive != "negative":
        return None
    return make_node("subtract", (node.inputs[0], node.inputs[1].inputs[0]), node.source)


def _square_instead_of_power(node: Node) -> Node | None:
    """Write x² as x · x, which NumPy's power does too."""
    if node.primitive != "power" or node.dtype.kind != "f" or scalar_of(node.inputs[1]) != 2:
        return None
    return make_node("multiply", (node.inputs[0], node.inputs[0]), node.source)


def _drop_reduction_over_nothing(node: Node) -> Node | None:
    return node.inputs[0] if node.params.get("axes") == () and node.primitive.startswith("reduce_") else None


def _drop_cast_to_own_dtype(node: Node) -> Node | None:
    return node.inputs[0] if node.primitive == "cast" and node.inputs[0].dtype == node.dtype else None


_MOVEMENT = ("reshape", "broadcast", "permute", "slice", "pad", "flip")

_RULES: tuple[Callable[[Node], Node | None], ...] = (
    _drop_cast_to_own_dtype,
    _drop_reduction_over_nothing,
    _drop_movement_that_moves_nothing,
    _join_movements,
    _drop_neutral_numbers,
    _drop_double_negation,
    _subtract_instead_of_adding_the_negative,
    _square_instead_of_power,
    _compute_scalars_once,
    _fold_constants,
)
