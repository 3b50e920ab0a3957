"""Each primitive of a traced graph in operators of ONNX: one entry a primitive.

Most have an operator of their own. The rest is put together of others, such that rounding is as good as there.
Reference: the Open Neural Network Exchange's operator set 18.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from needle.compiler import Node
from needle.errors import CompileError
from needle.onnx.writer import Writer

__all__ = ["CONVOLUTIONS", "POOLINGS", "WHOLE", "PrimitiveWriter"]

# Nodes of these names stand in for whole operators of Needle that ONNX has too.
CONVOLUTIONS = {"conv": "Conv", "conv_transpose": "ConvTranspose"}
POOLINGS = {"max_pool": "MaxPool", "avg_pool": "AveragePool"}
WHOLE = {**CONVOLUTIONS, **POOLINGS}

Rule: TypeAlias = "Callable[[PrimitiveWriter, Node, Node, Sequence[str]], str]"

_SAME = {
    "add": "Add",
    "subtract": "Sub",
    "multiply": "Mul",
    "divide": "Div",
    "power": "Pow",
    "maximum": "Max",
    "minimum": "Min",
    "negative": "Neg",
    "absolute": "Abs",
    "sign": "Sign",
    "reciprocal": "Reciprocal",
    "exp": "Exp",
    "log": "Log",
    "sqrt": "Sqrt",
    "sin": "Sin",
    "cos": "Cos",
    "tan": "Tan",
    "arctan": "Atan",
    "sinh": "Sinh",
    "cosh": "Cosh",
    "tanh": "Tanh",
    "erf": "Erf",
    "floor": "Floor",
    "ceil": "Ceil",
    "rint": "Round",
    "isnan": "IsNaN",
    "isinf": "IsInf",
    "equal": "Equal",
    "less": "Less",
    "less_equal": "LessOrEqual",
    "greater": "Greater",
    "greater_equal": "GreaterOrEqual",
    "bitwise_and": "BitwiseAnd",
    "bitwise_or": "BitwiseOr",
    "bitwise_xor": "BitwiseXor",
    "invert": "BitwiseNot",
    "where": "Where",
}
# On booleans, arithmetic is logic.
_LOGIC = {
    "add": "Or",
    "multiply": "And",
    "maximum": "Or",
    "minimum": "And",
    "bitwise_and": "And",
    "bitwise_or": "Or",
    "bitwise_xor": "Xor",
    "invert": "Not",
    "logical_and": "And",
    "logical_or": "Or",
    "logical_xor": "Xor",
    "logical_not": "Not",
}
_REDUCTIONS = {
    "reduce_sum": "ReduceSum",
    "reduce_prod": "ReduceProd",
    "reduce_max": "ReduceMax",
    "reduce_min": "ReduceMin",
}
# Their operands may be left to broadcast, as ONNX does by itself.
_BROADCASTING = {*_SAME, *_LOGIC, "not_equal", "remainder", "floor_divide", "matmul"}


class PrimitiveWriter:
    """Writes the nodes of a graph.

    Args:
        writer: what takes the operators.
        names: the names of nodes that are known, such as inputs.
        sizes: the batch's size in the graph and in its twin, which is the same function of another batch.
    """

    def __init__(self, writer: Writer, names: dict[Node, str], sizes: tuple[int, int]) -> None:
        self.writer = writer
        self.names = names
        self.sizes = sizes

    def write(self, node: Node, twin: Node) -> str:
        """Return the name of a node's value, writing it where it is not yet.

        Raises:
            CompileError: ONNX has nothing for the node.
        """
        if node not in self.names:
            self.names[node] = self._write(node, twin)
        return self.names[node]

    @staticmethod
    def knows(primitive: str) -> bool:
        """Tell whether ONNX has something for a primitive."""
        return primitive in _RULES or primitive in _SAME or primitive in _LOGIC

    def _write(self, node: Node, twin: Node) -> str:
        rule = _RULES.get(node.primitive)
        if rule is not None:
            return rule(self, node, twin, [self.names[one] for one in node.inputs])
        if node.inputs and node.inputs[0].dtype.kind == "b" and node.primitive in _LOGIC:
            return self.writer.add(_LOGIC[node.primitive], *self.operands(node))
        if node.primitive in _SAME:
            return self.writer.add(_SAME[node.primitive], *self.operands(node))
        raise CompileError(f"onnx.export: ONNX has no operator for {node.primitive} of {node}")

    def operands(self, node: Node) -> list[str]:
        """Return the names of a node's operands, those that are only repeated as they are before."""
        bare = [one.inputs[0] if one.primitive == "broadcast" else one for one in node.inputs]
        shapes = [one.shape[:-2] if node.primitive == "matmul" else one.shape for one in bare]
        wanted = node.shape[:-2] if node.primitive == "matmul" else node.shape
        if node.primitive not in _BROADCASTING or np.broadcast_shapes(*shapes) != wanted:
            return [self.names[one] for one in node.inputs]
        return [self.names[one] for one in bare]

    def scalar(self, value: float, like: Node) -> str:
        """Return the name of a number in the dtype of a node."""
        return self.writer.array(np.array(value, dtype=like.dtype))

    def lengths(self, values: Sequence[int], others: Sequence[int]) -> str:
        """Return the name of a row of integers, which may depend on the batch."""
        return self.writer.lengths(values, others, self.sizes)


def _constant(to: PrimitiveWriter, node: Node, twin: Node, x: Sequence[str]) -> str:
    value, other = node.params["value"], twin.params["value"]
    if value.shape == other.shape:
        if not np.array_equal(value, other, equal_nan=value.dtype.kind == "f"):
            raise CompileError("onnx.export: a constant depends on the batch's size: leave out batch_axis")
        return to.writer.array(value)
    if np.any(value != value.flat[0]) or value.flat[0] != other.flat[0]:
        raise CompileError("onnx.export: an array's shape depends on the batch's size: leave out batch_axis")
    return to.writer.add("Expand", to.writer.array(value.flat[:1].copy()), to.lengths(node.shape, twin.shape))


def _not_equal(to: PrimitiveWriter, node: Node, twin: Node, x: Sequence[str]) -> str:
    return to.writer.add("Not", to.writer.add("Equal", *to.operands(node)))


def _logical(to: PrimitiveWriter, node: Node, twin: Node, x: Sequence[str]) -> str:
    flags = [
        name if one.dtype.kind == "b" else to.writer.cast(name, np.dtype(bool))
        for name, one in zip(x, node.inputs, strict=True)
    ]
    return to.writer.add(_LOGIC[node.primitive], *flags)


def _remainder(to: PrimitiveWriter, node: Node, twin: Node, x: Sequence[str]) -> str:
    a, b = to.operands(node)
    if node.dtype.kind != "f":
        return to.writer.add("Mod", a, b)
    return to.writer.add("Sub", a, to.writer.add("Mul", to.writer.add("Floor", to.writer.add("Div", a, b)), b))


def _floor_divide(to: PrimitiveWriter, node: Node, twin: Node, x: Sequence[str]) -> str:
    a, b = to.operands(node)
    if node.dtype.kind == "f":
        return to.writer.add("Floor", to.writer.add("Div", a, b))
    return to.writer.add("Div", to.writer.add("Sub", a, to.writer.add("Mod", a, b)), b)


def _square(to: PrimitiveWriter, node: Node, twin: Node, x: Sequence[str]) -> str:
    return to.writer.add("Mul", x[0], x[0])


def _exp2(to: PrimitiveWriter, node: Node, twin: Node, x: Sequence[str]) -> str:
    return to.writer.add("Pow", to.scalar(2, node), x[0])


def _expm1(to: PrimitiveWriter, node: Node, twin: Node, x: Sequence[str]) -> str:
    """Write eˣ − 1 = tanh(x/2) · (eˣ + 1), which loses no digits near 0, and eˣ − 1 as it stands elsewhere."""
    e = to.writer.add("Exp", x[0])
    near = to.writer.add(
        "Mul",
        to.writer.add("Tanh", to.writer.add("Mul", x[0], to.scalar(0.5, node))),
        to.writer.add("Add", e, to.scalar(1, node)),
    )
    is_near = to.writer.add("Less", to.writer.add("Abs", x[0]), to.scalar(1, node))
    return to.writer.add("Where", is_near, near, to.writer.add("Sub", e, to.scalar(1, node)))


def _log1p(to: PrimitiveWriter, node: Node, twin: Node, x: Sequence[str]) -> str:
    """Write ln(1 + x) = ln(u) · x/(u − 1) with u = 1 + x as it is rounded; x itself where u is 1, u where infinite.

    Reference: W. Kahan's formula, as in D. Goldberg, "What every computer scientist should know about floating-point
    arithmetic", 1991, theorem 4.
    """
    one = to.scalar(1, node)
    u = to.writer.add("Add", x[0], one)
    log = to.writer.add("Log", u)
    corrected = to.writer.add("Mul", log, to.writer.add("Div", x[0], to.writer.add("Sub", u, one)))
    plain = to.writer.add("Where", to.writer.add("IsInf", u), log, corrected)
    return to.writer.add("Where", to.writer.add("Equal", u, one), x[0], plain)


def _log_to(base: float) -> Rule:
    def write(to: PrimitiveWriter, node: Node, twin: Node, x: Sequence[str]) -> str:
        return to.writer.add("Div", to.writer.add("Log", x[0]), to.scalar(math.log(base), node))

    return write


def _trunc(to: PrimitiveWriter, node: Node, twin: Node, x: Sequence[str]) -> str:
    return to.writer.add("Mul", to.writer.add("Sign", x[0]), to.writer.add("Floor", to.writer.add("Abs", x[0])))


def _isfinite(to: PrimitiveWriter, node: Node, twin: Node, x: Sequence[str]) -> str:
    if node.inputs[0].dtype.kind != "f":
        return to.writer.add("Equal", x[0], x[0])
    return to.writer.add("Not", to.writer.add("Or", to.writer.add("IsNaN", x[0]), to.writer.add("IsInf", x[0])))


def _cast(to: PrimitiveWriter, node: Node, twin: Node, x: Sequence[str]) -> str:
    return to.writer.cast(x[0], node.dtype)


def _after(to: PrimitiveWriter, node: Node, twin: Node, x: Sequence[str]) -> str:
    return x[0]  # when to compute is the runtime's to decide


def _reduction(to: PrimitiveWriter, node: Node, twin: Node, x: Sequence[str]) -> str:
    axes = node.params["axes"]
    if not axes:
        return x[0]
    operator = _REDUCTIONS[node.primitive]
    if node.dtype.kind != "b":
        return to.writer.add(operator, x[0], to.writer.integers(axes), keepdims=0)
    whole = to.writer.add(operator, to.writer.cast(x[0], np.dtype(np.int32)), to.writer.integers(axes), keepdims=0)
    return to.writer.cast(whole, node.dtype)


def _arg(to: PrimitiveWriter, node: Node, twin: Node, x: Sequence[str]) -> str:
    operator = "ArgMax" if node.primitive == "argmax" else "ArgMin"
    return to.writer.add(operator, x[0], axis=node.params["axis"], keepdims=0)


def _cumsum(to: PrimitiveWriter, node: Node, twin: Node, x: Sequence[str]) -> str:
    return to.writer.add("CumSum", x[0], to.writer.array(np.array(node.params["axis"], dtype=np.int64)))


def _reshape(to: PrimitiveWriter, node: Node, twin: Node, x: Sequence[str]) -> str:
    shape, other = node.params["shape"], twin.params["shape"]
    if x[0] in to.writer.arrays and shape == other:
        is_parameter = x[0] in to.writer.parameters
        return to.writer.array(to.writer.arrays[x[0]].reshape(shape), f"{x[0]}_reshaped", is_parameter=is_parameter)
    differ = [place for place, (one, two) in enumerate(zip(shape, other, strict=True)) if one != two]
    if len(differ) == 1 and 0 not in shape:
        return to.writer.add("Reshape", x[0], to.writer.integers([*shape[: differ[0]], -1, *shape[differ[0] + 1 :]]))
    return to.writer.add("Reshape", x[0], to.lengths(shape, other), allowzero=int(0 in shape))


def _permute(to: PrimitiveWriter, node: Node, twin: Node, x: Sequence[str]) -> str:
    return to.writer.permute(x[0], node.params["axes"])


def _broadcast(to: PrimitiveWriter, node: Node, twin: Node, x: Sequence[str]) -> str:
    return to.writer.add("Expand", x[0], to.lengths(node.shape, twin.shape))


def _slice(to: PrimitiveWriter, node: Node, twin: Node, x: Sequence[str]) -> str:
    before, after = node.inputs[0].shape, twin.inputs[0].shape
    given = [node.params[name] for name in ("start", "stop", "step")]
    others = [twin.params[name] for name in ("start", "stop", "step")]
    bounds = list(zip(*given, *others, before, after, strict=True))
    axes = [
        axis for axis, (*one, length, other_length) in enumerate(bounds) if one != [0, length, 1, 0, other_length, 1]
    ]
    if not axes:
        return x[0]
    start, stop, step = ([one[axis] for axis in axes] for one in given)
    other_start, other_stop, _ = ([one[axis] for axis in axes] for one in others)
    return to.writer.add(
        "Slice",
        x[0],
        to.lengths(start, other_start),
        to.lengths(stop, other_stop),
        to.writer.integers(axes),
        to.writer.integers(step),
    )


def _flip(to: PrimitiveWriter, node: Node, twin: Node, x: Sequence[str]) -> str:
    axes = node.params["axis"]
    last, first = [-1] * len(axes), [np.iinfo(np.int64).min] * len(axes)
    rows = (to.writer.integers(one) for one in (last, first, axes, last))
    return to.writer.add("Slice", x[0], *rows)


def _pad(to: PrimitiveWriter, node: Node, twin: Node, x: Sequence[str]) -> str:
    def row(widths: Sequence[tuple[int, int]]) -> list[int]:
        return [*(before for before, _ in widths), *(after for _, after in widths)]

    value = [to.scalar(node.params["value"], node)] if "value" in node.params else []
    return to.writer.add("Pad", x[0], to.lengths(row(node.params["widths"]), row(twin.params["widths"])), *value)


def _windows(to: PrimitiveWriter, node: Node, twin: Node, x: Sequence[str]) -> str:
    """Write windows as chosen elements: those of each window in a row of a table, one axis after the other."""
    value, rank = x[0], len(node.inputs[0].shape)
    for axis, size in zip(node.params["axes"], node.params["sizes"], strict=True):
        if node.shape[axis] != twin.shape[axis]:
            raise CompileError("onnx.export: windows over the batch's axis: leave out batch_axis")
        rows = np.arange(node.shape[axis], dtype=np.int64)[:, None] + np.arange(size, dtype=np.int64)
        chosen = to.writer.add("Gather", value, to.writer.array(rows), axis=axis)
        rank += 1
        order = [one for one in range(rank) if one != axis + 1]
        value = to.writer.permute(chosen, [*order, axis + 1])
    return value


def _concat(to: PrimitiveWriter, node: Node, twin: Node, x: Sequence[str]) -> str:
    return to.writer.add("Concat", *x, axis=node.params["axis"])


def _matmul(to: PrimitiveWriter, node: Node, twin: Node, x: Sequence[str]) -> str:
    return to.writer.add("MatMul", *to.operands(node))


def _indices(to: PrimitiveWriter, node: Node, name: str) -> str:
    return name if node.dtype in (np.int32, np.int64) else to.writer.cast(name, np.dtype(np.int64))


def _gather(to: PrimitiveWriter, node: Node, twin: Node, x: Sequence[str]) -> str:
    return to.writer.add("Gather", x[0], _indices(to, node.inputs[1], x[1]), axis=0)


def _scatter_add(to: PrimitiveWriter, node: Node, twin: Node, x: Sequence[str]) -> str:
    places = to.writer.cast(x[1], np.dtype(np.int64))
    rows = to.writer.add("Unsqueeze", places, to.writer.integers([-1]))
    zeros = to.writer.add("Expand", to.scalar(0, node), to.lengths(node.shape, twin.shape))
    return to.writer.add("ScatterND", zeros, rows, x[0], reduction="add")


def _iota(to: PrimitiveWriter, node: Node, twin: Node, x: Sequence[str]) -> str:
    length, other = node.params["length"], twin.params["length"]
    if length == other:
        return to.writer.array(np.arange(length, dtype=node.dtype))
    stop = to.writer.add("Squeeze", to.lengths([length], [other]), to.writer.integers([0]))
    zero, one = (to.writer.array(np.array(value, dtype=np.int64)) for value in (0, 1))
    return to.writer.cast(to.writer.add("Range", zero, stop, one), node.dtype)


def _convolution(to: PrimitiveWriter, node: Node, twin: Node, x: Sequence[str]) -> str:
    """Write a convolution of Needle, channels last, in ONNX's layout, channels first."""
    rank = len(node.shape) - 2
    image = to.writer.permute(x[0], (0, rank + 1, *range(1, rank + 1)))
    weight = to.writer.permute(x[1], (rank + 1, rank, *range(rank)))
    settings: dict[str, Any] = {name: list(node.params[name]) for name in ("strides", "pads", "dilations")}
    if node.primitive == "conv_transpose":
        settings["output_padding"] = list(node.params["output_padding"])
    operator = CONVOLUTIONS[node.primitive]
    y = to.writer.add(operator, image, weight, group=node.params["groups"], **settings)
    return to.writer.permute(y, (0, *range(2, rank + 2), 1))


def _pooling(to: PrimitiveWriter, node: Node, twin: Node, x: Sequence[str]) -> str:
    """Write a pooling of Needle, channels last, in ONNX's layout, channels first."""
    rank = len(node.shape) - 2
    image = to.writer.permute(x[0], (0, rank + 1, *range(1, rank + 1)))
    settings = {name: list(value) if isinstance(value, tuple) else value for name, value in node.params.items()}
    return to.writer.permute(to.writer.add(POOLINGS[node.primitive], image, **settings), (0, *range(2, rank + 2), 1))


_RULES: dict[str, Rule] = {
    "constant": _constant,
    "not_equal": _not_equal,
    "logical_and": _logical,
    "logical_or": _logical,
    "logical_xor": _logical,
    "logical_not": _logical,
    "remainder": _remainder,
    "floor_divide": _floor_divide,
    "square": _square,
    "exp2": _exp2,
    "expm1": _expm1,
    "log1p": _log1p,
    "log2": _log_to(2),
    "log10": _log_to(10),
    "trunc": _trunc,
    "isfinite": _isfinite,
    "cast": _cast,
    "after": _after,
    **dict.fromkeys(_REDUCTIONS, _reduction),
    "argmax": _arg,
    "argmin": _arg,
    "cumsum": _cumsum,
    "reshape": _reshape,
    "permute": _permute,
    "broadcast": _broadcast,
    "slice": _slice,
    "flip": _flip,
    "pad": _pad,
    "windows": _windows,
    "concat": _concat,
    "matmul": _matmul,
    "gather": _gather,
    "scatter_add": _scatter_add,
    "iota": _iota,
    **dict.fromkeys(CONVOLUTIONS, _convolution),
    **dict.fromkeys(POOLINGS, _pooling),
}
