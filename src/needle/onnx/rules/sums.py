"""ONNX's reductions, and its products of matrices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from needle import ops
from needle.autograd import Tensor
from needle.onnx.rules.call import Call, Rule, Value, tensor

__all__ = ["SUMS"]


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


def _log_sum_exp(y: Tensor, axes: Any, keepdims: bool) -> Tensor:
    reduced = ops.logsumexp(y, axes)
    kept = axes if axes is not None else tuple(range(y.ndim))
    return ops.expand_dims(reduced, kept) if keepdims and kept else reduced


def _l2(y: Tensor, axes: Any, keepdims: bool) -> Tensor:
    return ops.sqrt(ops.summation(y * y, axes, keepdims))


SUMS: dict[str, Rule] = {
    "ArgMax": _arg(ops.argmax),
    "ArgMin": _arg(ops.argmin),
    "CumSum": _cumsum,
    "Einsum": _einsum,
    "Gemm": _gemm,
    "MatMul": _matmul,
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
}
