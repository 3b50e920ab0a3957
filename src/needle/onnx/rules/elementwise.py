"""ONNX's operators that go element by element."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import numpy as np

from needle import ops
from needle.autograd import Tensor
from needle.dtype import is_floating
from needle.onnx.rules.call import Call, Rule, Value, binary, fold, tensor, unary

__all__ = ["ELEMENTWISE"]


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


def _gelu(call: Call, x: Value) -> Tensor:
    return ops.gelu(tensor(x), call.get("approximate", b"none") == b"tanh")


ELEMENTWISE: dict[str, Rule] = {
    "Abs": unary(ops.abs),
    "Add": binary(ops.add),
    "And": _logic(ops.minimum),
    "Cast": _cast,
    "CastLike": lambda call, x, like: ops.astype(tensor(x), tensor(like).dtype),
    "Ceil": unary(ops.ceil),
    "Clip": _clip,
    "Cos": unary(ops.cos),
    "Cosh": unary(lambda x: (ops.exp(x) + ops.exp(-x)) / 2),
    "Div": _divide,
    "Elu": lambda call, x: ops.elu(tensor(x), call.get("alpha", 1.0)),
    "Equal": binary(ops.equal),
    "Erf": unary(ops.erf),
    "Exp": unary(ops.exp),
    "Floor": unary(ops.floor),
    "Gelu": _gelu,
    "Greater": binary(ops.greater),
    "GreaterOrEqual": binary(ops.greater_equal),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_swish,
    "IsInf": _is_infinite,
    "IsNaN": unary(ops.isnan),
    "LeakyRelu": lambda call, x: ops.leaky_relu(tensor(x), call.get("alpha", 0.01)),
    "Less": binary(ops.less),
    "LessOrEqual": binary(ops.less_equal),
    "Log": unary(ops.log),
    "Max": fold(ops.maximum),
    "Mean": lambda call, *xs: reduce(ops.add, map(tensor, xs)) / len(xs),
    "Min": fold(ops.minimum),
    "Mod": _modulo,
    "Mul": binary(ops.multiply),
    "Neg": unary(ops.negate),
    "Not": unary(_not),
    "Or": _logic(ops.maximum),
    "PRelu": _prelu,
    "Pow": _power,
    "Reciprocal": unary(lambda x: 1 / x),
    "Relu": unary(ops.relu),
    "Round": unary(ops.round),
    "Selu": _selu,
    "Sigmoid": unary(ops.sigmoid),
    "Sign": unary(ops.sign),
    "Sin": unary(ops.sin),
    "Sinh": unary(lambda x: (ops.exp(x) - ops.exp(-x)) / 2),
    "Softplus": unary(ops.softplus),
    "Sqrt": unary(ops.sqrt),
    "Sub": binary(ops.subtract),
    "Sum": fold(ops.add),
    "Tan": unary(lambda x: ops.sin(x) / ops.cos(x)),
    "Tanh": unary(ops.tanh),
    "Where": _where,
    "Xor": _logic(ops.not_equal),
}
