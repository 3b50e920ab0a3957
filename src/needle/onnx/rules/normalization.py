"""ONNX's normalisations, softmax and dropout."""

from __future__ import annotations

from functools import reduce
from typing import Any

import numpy as np

from needle import ops
from needle.autograd import Tensor
from needle.onnx.rules.call import Call, Rule, Value, tensor
from needle.onnx.rules.windows import spatial

__all__ = ["NORMALIZATION"]


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
    normal = ops.normalize(y, spatial(y), call.get("epsilon", 1e-5))
    return normal * _by_channel(scale, y.ndim) + _by_channel(bias, y.ndim)


def _layer_norm(call: Call, x: Value, scale: Value, bias: Value = None) -> Tensor:
    if any(call.results[1:]):
        raise call.fail("more results than one")
    y = tensor(x)
    axes = tuple(range(call.get("axis", -1) % y.ndim, y.ndim))
    normal = ops.normalize(y, axes, call.get("epsilon", 1e-5)) * tensor(scale)
    return normal if bias is None else normal + tensor(bias)


def _local_response(call: Call, x: Value) -> Tensor:
    """Divide by a power of the mean square over neighbouring channels."""
    y, size = tensor(x), call.get("size")
    before = (size - 1) // 2
    squares = ops.pad(y * y, [(0, 0), (before, size - 1 - before), *[(0, 0)] * (y.ndim - 2)])
    total = reduce(ops.add, [squares[:, place : place + y.shape[1]] for place in range(size)])
    scale = call.get("bias", 1.0) + (call.get("alpha", 1e-4) / size) * total
    return y / ops.power_scalar(scale, call.get("beta", 0.75))


def _dropout(call: Call, x: Value, ratio: Value = None, training: Value = None) -> Any:
    """Drop nothing: models are for inference."""
    if training is not None and any(call.fixed(training, "training_mode")):
        raise call.fail("training_mode")
    return (x, Tensor(np.ones(tensor(x).shape, bool))) if any(call.results[1:]) else x


NORMALIZATION: dict[str, Rule] = {
    "BatchNormalization": _batch_norm,
    "Dropout": _dropout,
    "InstanceNormalization": _instance_norm,
    "LRN": _local_response,
    "LayerNormalization": _layer_norm,
    "LogSoftmax": lambda call, x: ops.logsoftmax(tensor(x), call.get("axis", -1)),
    "Softmax": lambda call, x: ops.softmax(tensor(x), call.get("axis", -1)),
}
