"""Limits on gradients. They set new gradients and leave the old arrays as they were."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from needle.autograd import Tensor
from needle.device import Array, array_namespace
from needle.dtype import float32, float64, is_narrow
from needle.errors import SettingError

__all__ = ["clip_norm", "clip_value"]


def clip_norm(parameters: Sequence[Tensor], max_norm: float) -> Tensor:
    """Scale the gradients together to a norm of at most `max_norm`, and return the norm before.

    Written without a branch on the norm, so that it can be traced. A factor of 1 changes no bit.
    """
    if not max_norm > 0:
        raise SettingError(f"clip_grad_norm: max_norm is above 0, got {max_norm}")
    if not parameters:
        return Tensor(0.0, requires_grad=False)
    gradients = [parameter.grad.realize_cached_data() for parameter in parameters]
    xp = array_namespace(gradients[0])
    norm = xp.sqrt(xp.asarray(sum(map(_sum_of_squares, gradients))))
    # 1e-300 stands in for a norm of 0, at which any factor leaves the gradients at 0.
    factor = xp.minimum(1.0, float(max_norm) / xp.maximum(norm, 1e-300))
    for parameter, g in zip(parameters, gradients, strict=True):
        with np.errstate(invalid="ignore"):  # ∞ · 0, where a gradient is not finite
            scaled = g * xp.asarray(factor, dtype=float32 if is_narrow(g.dtype) else g.dtype)
        parameter.grad = Tensor.make_const(xp.asarray(scaled, dtype=g.dtype))
    return Tensor.make_const(xp.asarray(norm))


def clip_value(parameters: Sequence[Tensor], limit: float) -> None:
    """Limit each element of each gradient to [−limit, limit]."""
    if not limit > 0:
        raise SettingError(f"clip_grad_value: the limit is above 0, got {limit}")
    for parameter in parameters:
        g = parameter.grad.realize_cached_data()
        xp = array_namespace(g)
        parameter.grad = Tensor.make_const(xp.asarray(xp.clip(g, -float(limit), float(limit)), dtype=g.dtype))


def _sum_of_squares(g: Array) -> Array:
    """Sum in float64: squares of float32 gradients above 1.8e19 would overflow, and large ones are what this is for."""
    xp = array_namespace(g)
    wide = xp.astype(g, float64)
    return xp.sum(wide * wide)
