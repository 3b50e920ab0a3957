"""ONNX's operators in those of Needle: what a loaded model is made of, one entry an operator.

A rule gets the call (its attributes) and the values of its inputs: Tensors, or NumPy arrays where a value is known
without the model's inputs, such as a shape; None for one that is left out. It returns a Tensor, an array, or a tuple.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import product
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from needle import ops
from needle.autograd import Tensor
from needle.dtype import is_floating
from needle.errors import CheckpointError, DTypeError
from needle.ops.recurrence import GRURecurrence, LSTMRecurrence, Recurrence, RNNRecurrence

__all__ = ["OPERATORS", "Call"]

Value: TypeAlias = "Tensor | NDArray[Any] | None"


@dataclass(frozen=True)
class Call:
    """One operator of a loaded model: `operator`, its `attributes`, the names of its inputs and results.

    The name of an input or a result that is left out is empty.
    """

    operator: str
    attributes: Mapping[str, Any]
    inputs: tuple[str, ...]
    results: tuple[str, ...]

    def get(self, name: str, default: Any = None) -> Any:
        """Return an attribute, or ONNX's default for it."""
        return self.attributes.get(name, default)

    def fixed(self, value: Value, what: str) -> list[int]:
        """Return whole numbers that must be known without the model's inputs.

        Raises:
            DTypeError: they are computed from the model's inputs.
        """
        if isinstance(value, Tensor):
            raise DTypeError(f"{self.operator}: {what} is computed from values, which is not possible here")
        return [int(one) for one in np.ravel(np.asarray(value))]

    def fail(self, what: str) -> CheckpointError:
        """Return the error for what this operator asks and Needle has not."""
        return CheckpointError(f"the model has {self.operator} with {what}, which Needle has not")


def tensor(value: Any) -> Tensor:
    """Return a value as a Tensor, a constant where it is an array."""
    return value if isinstance(value, Tensor) else Tensor(np.asarray(value), requires_grad=False)


Rule: TypeAlias = Callable[..., Any]


# -------------------------------------------------------------------------------------------- elementwise


def _unary(function: Callable[[Tensor], Tensor]) -> Rule:
    return lambda call, x: function(tensor(x))


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Rule:
    return lambda call, a, b: function(tensor(a), tensor(b))


def _fold(function: Callable[[Tensor, Tensor], Tensor]) -> Rule:
    return lambda call, *xs: reduce(function, map(tensor, xs))


def _divide(call: Call, a: Value, b: Value) -> Tensor:
    a, b = tensor(a), tensor(b)
    if is_floating(a.dtype):
        return a / b
    return ops.astype(ops.sign(quotient := a / b) * ops.floor(ops.abs(quotient)), a.dtype)


def _power(call: Call, a: Value, b: Value) -> Tensor:
    if isinstance(b, np.ndarray) and b.size == 1 and b.ndim == 0:
        return ops.power_scalar(tensor(a), b.item())
    base = tensor(a)
    return ops.power(base, ops.astype(tensor(b), base.dtype))


def _modulo(call: Call, a: Value, b: Value) -> Tensor:
    a, b = tensor(a), tensor(b)
    if call.get("fmod", 0):
        quotient = a / b
        return ops.astype(a - ops.sign(quotient) * ops.floor(ops.abs(quotient)) * b, a.dtype)
    return ops.astype(a - ops.floor(a / b) * b, a.dtype)


def _clip(call: Call, x: Value, low: Value = None, high: Value = None) -> Tensor:
    y = tensor(x)
    y = y if low is None else ops.maximum(y, tensor(low))
    return y if high is None else ops.minimum(y, tensor(high))


def _is_infinite(call: Call, x: Value) -> Tensor:
    y = tensor(x)
    infinite = ops.multiply(_number(_not(ops.isfinite(y))), _number(_not(ops.isnan(y))))
    above, below = (ops.multiply(infinite, _number(flags)) for flags in (ops.greater(y, 0), ops.less(y, 0)))
    wanted = [flags for flags, side in ((above, "positive"), (below, "negative")) if call.get(f"detect_{side}", 1)]
    return ops.astype(reduce(ops.add, wanted, 0 * infinite), "bool")


def _number(flags: Tensor) -> Tensor:
    return ops.astype(flags, "int32")


def _not(flags: Tensor) -> Tensor:
    return ops.equal(_number(flags), 0)


def _logic(function: Callable[[Tensor, Tensor], Tensor]) -> Rule:
    return lambda call, a, b: ops.astype(function(_number(tensor(a)), _number(tensor(b))), "bool")


def _where(call: Call, condition: Value, a: Value, b: Value) -> Tensor:
    return ops.where(tensor(condition), tensor(a), tensor(b))


def _cast(call: Call, x: Value) -> Tensor:
    dtype = call.get("to")
    y = tensor(x)
    if np.dtype(dtype).kind in "iu" and is_floating(y.dtype):
        y = ops.sign(y) * ops.floor(ops.abs(y))
    return ops.astype(y, dtype)


def _hard_sigmoid(call: Call, x: Value) -> Tensor:
    return ops.clip(tensor(x) * call.get("alpha", 0.2) + call.get("beta", 0.5), 0.0, 1.0)


def _hard_swish(call: Call, x: Value) -> Tensor:
    return tensor(x) * ops.clip(tensor(x) * (1 / 6) + 0.5, 0.0, 1.0)


def _selu(call: Call, x: Value) -> Tensor:
    return call.get("gamma", 1.0507009873554805) * ops.elu(tensor(x), call.get("alpha", 1.6732632423543772))


def _prelu(call: Call, x: Value, slope: Value) -> Tensor:
    return ops.relu(tensor(x)) - tensor(slope) * ops.relu(-tensor(x))


# -------------------------------------------------------------------------------------- sums and products


def _axes(call: Call, given: Value, ndim: int) -> tuple[int, ...] | None:
    """Return the axes of a reduction: all where none are named, or none where the call says so."""
    axes = call.get("axes") if given is None else call.fixed(given, "axes")
    if axes is not None and len(axes):
        return tuple(int(axis) % ndim for axis in axes)
    return () if call.get("noop_with_empty_axes", 0) else None


def _reduction(function: Callable[..., Tensor]) -> Rule:
    def rule(call: Call, x: Value, axes: Value = None) -> Tensor:
        y = tensor(x)
        chosen = _axes(call, axes, y.ndim)
        if chosen == ():
            return y
        return function(y, chosen, bool(call.get("keepdims", 1)))

    return rule


def _arg(function: Callable[..., Tensor]) -> Rule:
    def rule(call: Call, x: Value) -> Tensor:
        y, axis = tensor(x), call.get("axis", 0)
        if not call.get("select_last_index", 0):
            return function(y, axis, bool(call.get("keepdims", 1)))
        return y.shape[axis] - 1 - function(ops.flip(y, axis), axis, bool(call.get("keepdims", 1)))

    return rule


def _cumsum(call: Call, x: Value, axis: Value) -> Tensor:
    (place,) = call.fixed(axis, "axis")
    y = ops.flip(tensor(x), place) if call.get("reverse", 0) else tensor(x)
    total = ops.cumsum(y, place)
    total = total - y if call.get("exclusive", 0) else total
    return ops.flip(total, place) if call.get("reverse", 0) else total


def _matmul(call: Call, a: Value, b: Value) -> Tensor:
    a, b = tensor(a), tensor(b)
    if a.ndim > 1 and b.ndim > 1:
        return ops.matmul(a, b)
    y = ops.matmul(ops.expand_dims(a, 0) if a.ndim == 1 else a, ops.expand_dims(b, 1) if b.ndim == 1 else b)
    y = ops.squeeze(y, -1) if b.ndim == 1 else y
    return ops.squeeze(y, -1 if b.ndim == 1 else -2) if a.ndim == 1 else y


def _gemm(call: Call, a: Value, b: Value, c: Value = None) -> Tensor:
    a, b = tensor(a), tensor(b)
    y = ops.matmul(a.T if call.get("transA", 0) else a, b.T if call.get("transB", 0) else b)
    y = y * call.get("alpha", 1.0) if call.get("alpha", 1.0) != 1 else y
    if c is None:
        return y
    return y + (tensor(c) * call.get("beta", 1.0) if call.get("beta", 1.0) != 1 else tensor(c))


def _einsum(call: Call, *xs: Value) -> Tensor:
    return ops.einsum(call.get("equation").decode().replace(" ", ""), *map(tensor, xs))


# ---------------------------------------------------------------------------------------------- movement


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


# ----------------------------------------------------------------------------------------------- windows


def _window_settings(call: Call, size: Sequence[int], kernel: Sequence[int]) -> dict[str, Any]:
    """Return stride, dilation and padding pairs over the spatial axes."""
    rank = len(size)
    stride = tuple(call.get("strides", [1] * rank))
    dilation = tuple(call.get("dilations", [1] * rank))
    word = call.get("auto_pad", b"NOTSET").decode()
    if word in ("NOTSET", "VALID"):
        pads = call.get("pads", [0] * 2 * rank) if word == "NOTSET" else [0] * 2 * rank
        padding = tuple((pads[i], pads[rank + i]) for i in range(rank))
    else:
        padding = tuple(
            _same(n, k, step, apart, word == "SAME_LOWER")
            for n, k, step, apart in zip(size, kernel, stride, dilation, strict=True)
        )
    return {"stride": stride, "padding": padding, "dilation": dilation}


def _same(length: int, kernel: int, stride: int, dilation: int, lower: bool) -> tuple[int, int]:
    total = max((-(-length // stride) - 1) * stride + dilation * (kernel - 1) + 1 - length, 0)
    small, large = total // 2, total - total // 2
    return (large, small) if lower else (small, large)


def _last(x: Tensor) -> Tensor:
    return ops.permute(x, (0, *range(2, x.ndim), 1))


def _first(x: Tensor) -> Tensor:
    return ops.permute(x, (0, x.ndim - 1, *range(1, x.ndim - 1)))


def _kernel(w: Tensor) -> Tensor:
    """Return a weight (b, a, *kernel) as (*kernel, a, b)."""
    return ops.permute(w, (*range(2, w.ndim), 1, 0))


def _conv(call: Call, x: Value, w: Value, bias: Value = None) -> Tensor:
    image, weight = tensor(x), tensor(w)
    settings = _window_settings(call, image.shape[2:], weight.shape[2:])
    y = ops.conv(_last(image), _kernel(weight), groups=call.get("group", 1), **settings)
    return _first(y if bias is None else y + tensor(bias))


def _conv_transpose(call: Call, x: Value, w: Value, bias: Value = None) -> Tensor:
    image, weight = tensor(x), tensor(w)
    if call.get("output_shape") is not None or call.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        raise call.fail("output_shape or auto_pad")
    settings = _window_settings(call, image.shape[2:], weight.shape[2:])
    extra = tuple(call.get("output_padding", [0] * (image.ndim - 2)))
    groups = call.get("group", 1)
    y = ops.conv_transpose(_last(image), _kernel(weight), groups=groups, output_padding=extra, **settings)
    return _first(y if bias is None else y + tensor(bias))


def _taps(call: Call, x: Tensor, fill: float) -> tuple[list[Tensor], tuple[int, ...], dict[str, Any]]:
    """Return for each element of a pooling window what it meets, (N, C, *count), and the window."""
    if any(call.results[1:]):
        raise call.fail("indices")
    kernel = tuple(call.get("kernel_shape"))
    settings = _window_settings(call, x.shape[2:], kernel)
    reach = [apart * (k - 1) + 1 for apart, k in zip(settings["dilation"], kernel, strict=True)]
    parts = list(zip(x.shape[2:], settings["padding"], reach, settings["stride"], strict=True))
    if call.get("ceil_mode", 0):
        settings["padding"] = tuple(_rounded_up(*part) for part in parts)
        parts = list(zip(x.shape[2:], settings["padding"], reach, settings["stride"], strict=True))
    padded = ops.pad(x, [(0, 0), (0, 0), *settings["padding"]], fill) if any(map(sum, settings["padding"])) else x
    count = [(length + sum(pads) - over) // step + 1 for length, pads, over, step in parts]
    found = []
    for place in product(*map(range, kernel)):
        starts = [apart * at for apart, at in zip(settings["dilation"], place, strict=True)]
        bounds = zip(starts, settings["stride"], count, strict=True)
        found.append(padded[(..., *(slice(start, start + step * (n - 1) + 1, step) for start, step, n in bounds))])
    return found, kernel, settings


def _rounded_up(length: int, pads: tuple[int, int], reach: int, stride: int) -> tuple[int, int]:
    """Return the padding with which the last window is whole that begins inside of the image or before it."""
    count = -(-(length + sum(pads) - reach) // stride) + 1
    count -= (count - 1) * stride >= length + pads[0]
    return pads[0], max((count - 1) * stride + reach - length - pads[0], pads[1])


def _max_pool(call: Call, x: Value) -> Tensor:
    y = tensor(x)
    lowest = -math.inf if is_floating(y.dtype) else int(np.iinfo(y.dtype).min)
    return reduce(ops.maximum, _taps(call, y, lowest)[0])


def _average_pool(call: Call, x: Value) -> Tensor:
    y = tensor(x)
    if call.get("ceil_mode", 0) and call.get("count_include_pad", 0):
        raise call.fail("ceil_mode and count_include_pad")
    found, kernel, settings = _taps(call, y, 0.0)
    total = reduce(ops.add, found)
    if call.get("count_include_pad", 0) or not any(map(sum, settings["padding"])):
        return total / math.prod(kernel)
    inside = Tensor(np.ones((1, 1, *y.shape[2:]), y.dtype), requires_grad=False)
    return total / reduce(ops.add, _taps(call, inside, 0.0)[0])


def _spatial(x: Tensor) -> tuple[int, ...]:
    return tuple(range(2, x.ndim))


# ----------------------------------------------------------------------------------------- normalisation


def _by_channel(v: Value, ndim: int) -> Tensor:
    return ops.reshape(tensor(v), (-1, *(1,) * (ndim - 2)))


def _batch_norm(  # noqa: PLR0917  ONNX's order
    call: Call, x: Value, scale: Value, bias: Value, mean: Value, var: Value
) -> Tensor:
    if call.get("training_mode", 0):
        raise call.fail("training_mode")
    y = tensor(x)
    factor = tensor(scale) / ops.sqrt(tensor(var) + call.get("epsilon", 1e-5))
    return (y - _by_channel(mean, y.ndim)) * _by_channel(factor, y.ndim) + _by_channel(bias, y.ndim)


def _instance_norm(call: Call, x: Value, scale: Value, bias: Value) -> Tensor:
    y = tensor(x)
    normal = ops.normalize(y, _spatial(y), call.get("epsilon", 1e-5))
    return normal * _by_channel(scale, y.ndim) + _by_channel(bias, y.ndim)


def _layer_norm(call: Call, x: Value, scale: Value, bias: Value = None) -> Tensor:
    if any(call.results[1:]):
        raise call.fail("more results than one")
    y = tensor(x)
    axes = tuple(range(call.get("axis", -1) % y.ndim, y.ndim))
    normal = ops.normalize(y, axes, call.get("epsilon", 1e-5)) * tensor(scale)
    return normal if bias is None else normal + tensor(bias)


# ---------------------------------------------------------------------------------------------- recurrence

# Which of ONNX's gates come first, second, … in Needle: there i, o, f, c and z, r, h; here i, f, g, o and r, z, n.
_GATES = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}
_ACTIVATIONS = {"LSTM": [b"Sigmoid", b"Tanh", b"Tanh"], "GRU": [b"Sigmoid", b"Tanh"], "RNN": [b"Tanh"]}


def _recurrent(  # noqa: PLR0917  ONNX's order
    call: Call,
    x: Value,
    w: Value,
    r: Value,
    b: Value = None,
    lengths: Value = None,
    h: Value = None,
    c: Value = None,
    peepholes: Value = None,
) -> tuple[Tensor, ...]:
    """Run each direction over the sequence (T, B, I), with weights (directions, gates·H, I or H)."""
    if lengths is not None or peepholes is not None or call.get("layout", 0) or call.get("clip") is not None:
        raise call.fail("lengths, peepholes, layout or clip")
    if call.get("input_forget", 0) or (call.operator == "GRU" and not call.get("linear_before_reset", 0)):
        raise call.fail("input_forget, or without linear_before_reset")
    y = tensor(x)
    direction = call.get("direction", b"forward")
    starts = [h, c] if call.operator == "LSTM" else [h]
    states = []
    for number, is_reverse in enumerate({b"forward": [False], b"reverse": [True]}.get(direction, [False, True])):
        weights = [_by_gates(call, tensor(one)[number]) for one in (w, r)]
        biases = [] if b is None else [_by_gates(call, one) for one in _halves(tensor(b)[number])]
        start = [_zeros(y, weights[1]) if one is None else tensor(one)[number] for one in starts]
        states.append(_direction(call, y, weights, biases, start, is_reverse))
    ends = [tuple(one[0 if flag else -1] for one in found) for flag, found in states]
    outputs = ops.stack([found[0] for _, found in states], 1)  # (T, directions, B, H)
    return outputs, *(ops.stack(list(one), 0) for one in zip(*ends, strict=True))


def _direction(  # noqa: PLR0917  what one direction has of each
    call: Call, x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], start: Sequence[Tensor], reverse: bool
) -> tuple[bool, tuple[Tensor, ...]]:
    """Return whether the steps are made from the last to the first, and the states after each."""
    steps, batch, features = x.shape
    sums = ops.matmul(ops.reshape(x, (steps * batch, features)), weights[0].T)
    inside: tuple[Tensor, ...] = ()
    if biases and call.operator == "GRU":  # r multiplies the second bias too
        sums, inside = sums + biases[0], (biases[1],)
    elif biases:
        sums = sums + (biases[0] + biases[1])
    sums = ops.reshape(sums, (steps, batch, sums.shape[1]))
    return reverse, _recurrence(call, reverse)(sums, weights[1].T, *start, *inside).tuple()


def _recurrence(call: Call, reverse: bool) -> Recurrence:
    activations = call.get("activations")
    usual = _ACTIVATIONS[call.operator]
    chosen = usual[0] if activations is None else activations[0]
    if call.operator == "RNN" and chosen in (b"Tanh", b"Relu"):
        return RNNRecurrence(reverse, chosen.decode().lower())
    if activations is not None and list(activations) not in (usual, 2 * usual):
        raise call.fail("other activations")
    return LSTMRecurrence(reverse) if call.operator == "LSTM" else GRURecurrence(reverse)


def _by_gates(call: Call, rows: Tensor) -> Tensor:
    """Return rows (gates·H, …) with the gates in Needle's order."""
    order = _GATES[call.operator]
    size = rows.shape[0] // len(order)
    return ops.concatenate([rows[gate * size : (gate + 1) * size] for gate in order], 0)


def _halves(bias: Tensor) -> tuple[Tensor, Tensor]:
    half = bias.shape[0] // 2
    return bias[:half], bias[half:]


def _zeros(x: Tensor, recurrent_weight: Tensor) -> Tensor:
    return Tensor(np.zeros((x.shape[1], recurrent_weight.shape[1]), x.dtype), requires_grad=False)


# --------------------------------------------------------------------------------------------------- others


def _dropout(call: Call, x: Value, ratio: Value = None, training: Value = None) -> Any:
    """Drop nothing: models are for inference."""
    if training is not None and any(call.fixed(training, "training_mode")):
        raise call.fail("training_mode")
    return (x, Tensor(np.ones(tensor(x).shape, bool))) if any(call.results[1:]) else x


def _local_response(call: Call, x: Value) -> Tensor:
    """Divide by a power of the mean square over neighbouring channels."""
    y, size = tensor(x), call.get("size")
    before = (size - 1) // 2
    squares = ops.pad(y * y, [(0, 0), (before, size - 1 - before), *[(0, 0)] * (y.ndim - 2)])
    total = reduce(ops.add, [squares[:, place : place + y.shape[1]] for place in range(size)])
    scale = call.get("bias", 1.0) + (call.get("alpha", 1e-4) / size) * total
    return y / ops.power_scalar(scale, call.get("beta", 0.75))


def _gelu(call: Call, x: Value) -> Tensor:
    return ops.gelu(tensor(x), call.get("approximate", b"none") == b"tanh")


def _log_sum_exp(y: Tensor, axes: Any, keepdims: bool) -> Tensor:
    reduced = ops.logsumexp(y, axes)
    kept = axes if axes is not None else tuple(range(y.ndim))
    return ops.expand_dims(reduced, kept) if keepdims and kept else reduced


def _l2(y: Tensor, axes: Any, keepdims: bool) -> Tensor:
    return ops.sqrt(ops.summation(y * y, axes, keepdims))


OPERATORS: dict[str, Rule] = {
    "Abs": _unary(ops.abs),
    "Add": _binary(ops.add),
    "And": _logic(ops.minimum),
    "ArgMax": _arg(ops.argmax),
    "ArgMin": _arg(ops.argmin),
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Cast": _cast,
    "CastLike": lambda call, x, like: ops.astype(tensor(x), tensor(like).dtype),
    "Ceil": _unary(ops.ceil),
    "Clip": _clip,
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Cos": _unary(ops.cos),
    "Cosh": _unary(lambda x: (ops.exp(x) + ops.exp(-x)) / 2),
    "CumSum": _cumsum,
    "Div": _divide,
    "Dropout": _dropout,
    "Einsum": _einsum,
    "Elu": lambda call, x: ops.elu(tensor(x), call.get("alpha", 1.0)),
    "Equal": _binary(ops.equal),
    "Erf": _unary(ops.erf),
    "Exp": _unary(ops.exp),
    "Expand": _expand,
    "Flatten": _flatten,
    "Floor": _unary(ops.floor),
    "GRU": _recurrent,
    "Gather": _gather,
    "Gelu": _gelu,
    "Gemm": _gemm,
    "GlobalAveragePool": _unary(lambda x: ops.mean(x, _spatial(x), True)),
    "GlobalMaxPool": _unary(lambda x: ops.max(x, _spatial(x), True)),
    "Greater": _binary(ops.greater),
    "GreaterOrEqual": _binary(ops.greater_equal),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_swish,
    "Identity": lambda call, x: x,
    "InstanceNormalization": _instance_norm,
    "IsInf": _is_infinite,
    "IsNaN": _unary(ops.isnan),
    "LRN": _local_response,
    "LSTM": _recurrent,
    "LayerNormalization": _layer_norm,
    "LeakyRelu": lambda call, x: ops.leaky_relu(tensor(x), call.get("alpha", 0.01)),
    "Less": _binary(ops.less),
    "LessOrEqual": _binary(ops.less_equal),
    "Log": _unary(ops.log),
    "LogSoftmax": lambda call, x: ops.logsoftmax(tensor(x), call.get("axis", -1)),
    "MatMul": _matmul,
    "Max": _fold(ops.maximum),
    "MaxPool": _max_pool,
    "Mean": lambda call, *xs: reduce(ops.add, map(tensor, xs)) / len(xs),
    "Min": _fold(ops.minimum),
    "Mod": _modulo,
    "Mul": _binary(ops.multiply),
    "Neg": _unary(ops.negate),
    "Not": _unary(_not),
    "OneHot": _one_hot,
    "Or": _logic(ops.maximum),
    "PRelu": _prelu,
    "Pad": _pad,
    "Pow": _power,
    "RNN": _recurrent,
    "Range": _range,
    "Reciprocal": _unary(lambda x: 1 / x),
    "ReduceL1": _reduction(lambda x, axes, keepdims: ops.summation(ops.abs(x), axes, keepdims)),
    "ReduceL2": _reduction(_l2),
    "ReduceLogSum": _reduction(lambda x, axes, keepdims: ops.log(ops.summation(x, axes, keepdims))),
    "ReduceLogSumExp": _reduction(_log_sum_exp),
    "ReduceMax": _reduction(ops.max),
    "ReduceMean": _reduction(ops.mean),
    "ReduceMin": _reduction(ops.min),
    "ReduceProd": _reduction(ops.prod),
    "ReduceSum": _reduction(ops.summation),
    "ReduceSumSquare": _reduction(lambda x, axes, keepdims: ops.summation(x * x, axes, keepdims)),
    "Relu": _unary(ops.relu),
    "Reshape": _reshape,
    "Round": _unary(ops.round),
    "ScatterND": _scatter_rows,
    "Selu": _selu,
    "Shape": _shape,
    "Sigmoid": _unary(ops.sigmoid),
    "Sign": _unary(ops.sign),
    "Sin": _unary(ops.sin),
    "Sinh": _unary(lambda x: (ops.exp(x) - ops.exp(-x)) / 2),
    "Size": lambda call, x: np.array(tensor(x).size, dtype=np.int64),
    "Slice": _slice,
    "Softmax": lambda call, x: ops.softmax(tensor(x), call.get("axis", -1)),
    "Softplus": _unary(ops.softplus),
    "Split": _split,
    "Sqrt": _unary(ops.sqrt),
    "Squeeze": _squeeze,
    "Sub": _binary(ops.subtract),
    "Sum": _fold(ops.add),
    "Tan": _unary(lambda x: ops.sin(x) / ops.cos(x)),
    "Tanh": _unary(ops.tanh),
    "Tile": _tile,
    "Transpose": _transpose,
    "Trilu": _triangle,
    "Unsqueeze": _unsqueeze,
    "Where": _where,
    "Xor": _logic(ops.not_equal),
}
