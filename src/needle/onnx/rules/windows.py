"""ONNX's convolutions and poolings: windows over the axes behind the first two."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce
from itertools import product
from typing import Any

import numpy as np

from needle import ops
from needle.autograd import Tensor
from needle.dtype import is_floating
from needle.onnx.rules.call import Call, Rule, Value, tensor, unary

__all__ = ["WINDOWS", "spatial"]


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


def spatial(x: Tensor) -> tuple[int, ...]:
    """Return the axes that windows move along."""
    return tuple(range(2, x.ndim))


WINDOWS: dict[str, Rule] = {
    "AveragePool": _average_pool,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "GlobalAveragePool": unary(lambda x: ops.mean(x, spatial(x), True)),
    "GlobalMaxPool": unary(lambda x: ops.max(x, spatial(x), True)),
    "MaxPool": _max_pool,
}
