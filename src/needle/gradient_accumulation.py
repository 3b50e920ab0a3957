"""Gradients added up over several backward passes, as an explicit call: `backward` itself replaces `.grad`."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from needle.autograd import Tensor, gradients_of
from needle.device import Array, array_namespace
from needle.dtype import float32, float64, is_narrow
from needle.errors import DataError, DTypeError, GradientError, SettingError, ShapeError
from needle.lazy_state import lazy_state
from needle.tracing import check_values, guard

__all__ = ["GradientAccumulator"]


class GradientAccumulator:
    """Makes one gradient of several micro-batches, for batches that do not fit in memory at once.

    Formula::

        p.grad = Σ wᵢ·∂lossᵢ/∂p / Σ wᵢ

    Give each micro-batch its number of samples (or of tokens) as weight. Means over micro-batches then add up to the
    mean over the whole batch, also where the last one is shorter. `add` and `apply` can be parts of compiled functions,
    of one or of several.

    Args:
        params: the parameters, such as `model.parameters()`.

    Raises:
        DataError: there are no parameters.
        DTypeError: something in `params` is no Tensor.

    Example:
        >>> import needle as ndl
        >>> w = ndl.Tensor([1.0])
        >>> accumulator = ndl.GradientAccumulator([w])
        >>> for batch in ([1.0, 2.0, 3.0], [10.0]):
        ...     x = ndl.Tensor(batch, requires_grad=False)
        ...     accumulator.add((w * x).mean(), weight=len(batch))
        >>> accumulator.apply()
        >>> w.grad  # (1 + 2 + 3 + 10) / 4
        needle.Tensor([4.])
    """

    def __init__(self, params: Iterable[Tensor]) -> None:
        self.params = list(dict.fromkeys([params] if isinstance(params, Tensor) else params))
        if not self.params:
            raise DataError("GradientAccumulator: there are no parameters")
        for i, p in enumerate(self.params):
            if not isinstance(p, Tensor):
                raise DTypeError(f"GradientAccumulator: parameter {i} is no Tensor but {type(p).__name__}")
        # Tensors, so that what a compiled function adds is known to be state.
        self._weight = Tensor(0.0, dtype=float64, requires_grad=False)
        self._sums: dict[Tensor, Tensor] = {}

    def reset(self) -> None:
        """Forget what was added."""
        # Set to zero and not thrown away: compiled functions add to these arrays.
        for total in (self._weight, *self._sums.values()):
            total.cached_data = _zeros(total)

    @property
    def total_weight(self) -> float:
        """Σ wᵢ since the last `apply`."""
        return float(self._weight.numpy())

    def add(self, loss: Tensor, weight: float | Tensor = 1.0) -> None:
        """Add the gradient of a loss, and let go of its graph. No `.grad` is touched.

        Args:
            loss: one number, such as the mean loss over a micro-batch.
            weight: how much it counts, such as the number of samples in the micro-batch; a Tensor () where a compiled
                function is to serve several weights.

        Raises:
            GradientError: the loss is not one number, or depends on nothing that requires a gradient.
            SettingError: the weight is not a finite number above 0.
            ShapeError: the weight is a Tensor that has axes.
        """
        w = _read_weight(weight)
        if loss.size != 1:
            raise GradientError(f"GradientAccumulator.add: the loss is one number, got shape {loss.shape}")
        if not loss.requires_grad:
            raise GradientError("GradientAccumulator.add: the loss depends on nothing that requires a gradient")
        for p, gradient in zip(self.params, gradients_of(loss, loss.ones_like(), self.params), strict=True):
            if gradient is not None:
                g = _weighted(gradient.realize_cached_data(), w)
                _put(lazy_state(self._sums, p, g), g)
        _put(self._weight, w)

    def apply(self) -> None:
        """Set `.grad` of every parameter to the weighted mean, and start anew.

        A parameter that no loss has depended on, since this object was made, gets None.

        Raises:
            GradientError: nothing was added since the last call.
        """
        weight = self._weight.realize_cached_data()
        check_values(weight, _check_added)
        guard(self._reached, "which parameters gradients were added for")
        for p in self.params:
            p.grad = _mean(self._sums[p].realize_cached_data(), weight, p) if p in self._sums else None
        self.reset()

    def _reached(self) -> tuple[int, ...]:
        return tuple(map(id, self._sums))


def _read_weight(weight: float | Tensor) -> Any:
    if not isinstance(weight, Tensor):
        _check_weight(weight)
        return float(weight)
    if weight.shape != ():
        raise ShapeError(f"GradientAccumulator.add: the weight is one number, got shape {weight.shape}")
    w = weight.realize_cached_data()
    check_values(w, _check_weight)
    return w


def _check_weight(weight: Any) -> None:
    weight = np.asarray(weight).item()
    if not (math.isfinite(weight) and weight > 0):
        raise SettingError(f"GradientAccumulator.add: the weight is finite and above 0, got {weight}")


def _check_added(weight: Any) -> None:
    if not weight:
        raise GradientError("GradientAccumulator.apply: nothing was added since the last call")


def _put(total: Tensor, term: Any) -> None:
    data = total.realize_cached_data()
    xp = array_namespace(data)
    # NumPy makes scalars of results without axes: `asarray` makes arrays of them again.
    total.cached_data = xp.asarray(data + xp.asarray(term, dtype=data.dtype))


def _zeros(total: Tensor) -> Array:
    data = total.realize_cached_data()
    xp = array_namespace(data)
    return xp.zeros(data.shape, dtype=data.dtype)


def _weighted(g: Array, weight: Any) -> Array:
    """Return weight·g, of float16 and bfloat16 in float32: small terms would vanish in a sum of so few digits."""
    xp = array_namespace(g)
    dtype = float32 if is_narrow(g.dtype) else g.dtype
    return xp.asarray(weight, dtype=dtype) * xp.astype(g, dtype)


def _mean(total: Array, weight: Array, p: Tensor) -> Tensor:
    xp = array_namespace(total)
    return Tensor.make_const(xp.asarray(total / xp.asarray(weight, dtype=total.dtype), dtype=p.dtype))
