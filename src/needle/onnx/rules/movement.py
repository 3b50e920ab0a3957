"""ONNX's operators that move, choose or make elements, and tell of shapes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from needle import ops
from needle.autograd import Tensor
from needle.onnx.rules.call import Call, Rule, Value, tensor

__all__ = ["MOVEMENT"]


def _reshape(call: Call, x: Value, shape: Value) -> Tensor:
    y, wanted = tensor(x), call.fixed(shape, "shape")
    if not call.get("allowzero", 0):
        wanted = [y.shape[place] if length == 0 else length for place, length in enumerate(wanted)]
    return ops.reshape(y, tuple(wanted))


def _transpose(call: Call, x: Value) -> Tensor:
    y = tensor(x)
    return ops.permute(y, tuple(call.get("perm", range(y.ndim - 1, -1, -1))))


def _flatten(call: Call, x: Value) -> Tensor:
    y = tensor(x)
    axis = call.get("axis", 1)
    axis = axis + y.ndim if axis < 0 else axis
    return ops.reshape(y, (math.prod(y.shape[:axis]), math.prod(y.shape[axis:])))


def _squeeze(call: Call, x: Value, axes: Value = None) -> Tensor:
    given = call.get("axes") if axes is None else call.fixed(axes, "axes")
    return ops.squeeze(tensor(x), None if given is None else tuple(given))


def _unsqueeze(call: Call, x: Value, axes: Value = None) -> Tensor:
    return ops.expand_dims(tensor(x), tuple(call.get("axes") if axes is None else call.fixed(axes, "axes")))


def _concat(call: Call, *xs: Value) -> Tensor:
    return ops.concatenate(list(map(tensor, xs)), call.get("axis"))


def _split(call: Call, x: Value, sizes: Value = None) -> tuple[Tensor, ...]:
    y, axis = tensor(x), call.get("axis", 0)
    count, length = len(call.results), y.shape[axis]
    each = -(-length // count)
    lengths = call.get("split") if sizes is None else call.fixed(sizes, "split")
    lengths = [min(each, length - each * i) for i in range(count)] if lengths is None else lengths
    ends = np.cumsum(lengths)
    front = (slice(None),) * (axis % y.ndim)
    return tuple(y[(*front, slice(int(end - n), int(end)))] for n, end in zip(lengths, ends, strict=True))


def _slice(  # noqa: PLR0917  ONNX's order
    call: Call, x: Value, starts: Value, ends: Value, axes: Value = None, steps: Value = None
) -> Tensor:
    y = tensor(x)
    start, end = call.fixed(starts, "starts"), call.fixed(ends, "ends")
    places = range(len(start)) if axes is None else call.fixed(axes, "axes")
    step = [1] * len(start) if steps is None else call.fixed(steps, "steps")
    index = [slice(None)] * y.ndim
    for place, one, other, by in zip(places, start, end, step, strict=True):
        length = y.shape[place]
        # An end before the first element is -1 as ONNX counts and None as Python does.
        bounds = slice(one, None if by < 0 and other < -length else other, by).indices(length)
        index[place] = slice(bounds[0], None if by < 0 and bounds[1] < 0 else bounds[1], by)
    return y[tuple(index)]


def _gather(call: Call, x: Value, indices: Value) -> Any:
    axis = call.get("axis", 0)
    if isinstance(x, np.ndarray) and isinstance(indices, np.ndarray):
        return np.take(x, indices, axis)
    y = tensor(x)
    chosen = indices if isinstance(indices, np.ndarray) else tensor(indices)
    return y[(*(slice(None),) * (axis % y.ndim), chosen)]


def _expand(call: Call, x: Value, shape: Value) -> Tensor:
    y = tensor(x)
    return ops.broadcast_to(y, np.broadcast_shapes(y.shape, tuple(call.fixed(shape, "shape"))))


def _tile(call: Call, x: Value, repeats: Value) -> Tensor:
    y, times = tensor(x), call.fixed(repeats, "repeats")
    pairs = [length for pair in zip(times, y.shape, strict=True) for length in pair]
    spread = ops.broadcast_to(ops.expand_dims(y, tuple(range(0, 2 * y.ndim, 2))), tuple(pairs))
    return ops.reshape(spread, tuple(n * length for n, length in zip(times, y.shape, strict=True)))


def _pad(call: Call, x: Value, pads: Value = None, value: Value = None, axes: Value = None) -> Tensor:
    mode: Any = call.get("mode", b"constant").decode()
    if mode not in {"constant", "edge", "reflect", "wrap"}:
        raise call.fail(f"mode {mode}")
    y = tensor(x)
    widths = call.get("pads") if pads is None else call.fixed(pads, "pads")
    places = range(y.ndim) if axes is None else call.fixed(axes, "axes")
    pairs = [(0, 0)] * y.ndim
    for place, before, after in zip(places, widths[: len(widths) // 2], widths[len(widths) // 2 :], strict=True):
        pairs[place] = (max(before, 0), max(after, 0))
    if min(widths, default=0) < 0:
        raise call.fail("negative pads")
    border = 0.0 if value is None or mode != "constant" else float(np.asarray(value).item())
    return ops.pad(y, pairs, border, mode=mode)


def _shape(call: Call, x: Value) -> NDArray[np.int64]:
    assert x is not None
    return np.array(x.shape, dtype=np.int64)[call.get("start", 0) : call.get("end")]


def _range(call: Call, start: Value, limit: Value, delta: Value) -> NDArray[Any]:
    for one in (start, limit, delta):
        call.fixed(one, "a bound")
    numbers: list[Any] = [np.asarray(one) for one in (start, limit, delta)]
    return np.asarray(np.arange(*(one.item() for one in numbers)), dtype=numbers[0].dtype)


def _constant_of_shape(call: Call, shape: Value) -> NDArray[Any]:
    value = call.get("value", np.zeros(1, np.float32))
    return np.full(call.fixed(shape, "shape"), value.item(), value.dtype)


def _one_hot(call: Call, indices: Value, depth: Value, values: Value) -> Tensor:
    (count,) = call.fixed(depth, "depth")
    chosen = tensor(indices)
    off, on = (tensor(values)[i] for i in (0, 1))
    axis = call.get("axis", -1)
    places = ops.where(ops.less(chosen, 0), chosen + count, chosen)
    flags = ops.equal(ops.expand_dims(places, -1), tensor(np.arange(count, dtype=chosen.dtype)))
    order = list(range(flags.ndim - 1))
    order.insert(axis % flags.ndim, flags.ndim - 1)
    return ops.permute(ops.where(flags, on, off), tuple(order))


def _triangle(call: Call, x: Value, k: Value = None) -> Tensor:
    (diagonal,) = [0] if k is None else call.fixed(k, "k")
    return (ops.triu if call.get("upper", 1) else ops.tril)(tensor(x), diagonal)


def _scatter_rows(call: Call, data: Value, indices: Value, updates: Value) -> Tensor:
    if call.get("reduction", b"none") != b"add" or tensor(indices).shape[-1] != 1:
        raise call.fail("anything but adding rows")
    y = tensor(data)
    places = ops.squeeze(tensor(indices), -1)
    flags = ops.equal(ops.expand_dims(places, -1), tensor(np.arange(y.shape[0], dtype=places.dtype)))
    rows = ops.reshape(ops.astype(flags, y.dtype), (-1, y.shape[0]))  # (M, n), a one in each row
    added = ops.matmul(rows.T, ops.reshape(tensor(updates), (rows.shape[0], -1)))
    return y + ops.reshape(added, y.shape)


MOVEMENT: dict[str, Rule] = {
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "Identity": lambda call, x: x,
    "OneHot": _one_hot,
    "Pad": _pad,
    "Range": _range,
    "Reshape": _reshape,
    "ScatterND": _scatter_rows,
    "Shape": _shape,
    "Size": lambda call, x: np.array(tensor(x).size, dtype=np.int64),
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Trilu": _triangle,
    "Unsqueeze": _unsqueeze,
}
