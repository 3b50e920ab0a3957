"""Gradients added up over several backward passes, as an explicit call: `backward` itself replaces `.grad`."""

from __future__ import annotations

import math
from collections.abc import Iterable

from needle.autograd import Tensor, gradients_of
from needle.device import Array, array_namespace
from needle.dtype import float32, is_narrow
from needle.errors import DataError, DTypeError, GradientError, SettingError

__all__ = ["GradientAccumulator"]


class GradientAccumulator:
    """Makes one gradient of several micro-batches, for batches that do not fit in memory at once.

    Formula::

        p.grad = Σ wᵢ·∂lossᵢ/∂p / Σ wᵢ

    Give each micro-batch its number of samples (or of tokens) as weight. Means over micro-batches then add up to the
    mean over the whole batch, also where the last one is shorter.

    Args:
        params: the parameters, such as `model.parameters()`.

    State:
        total_weight: Σ wᵢ since the last `apply`.

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
        self.reset()

    def reset(self) -> None:
        """Forget what was added."""
        self.total_weight = 0.0
        self._sums: dict[Tensor, Array] = {}

    def add(self, loss: Tensor, weight: float = 1.0) -> None:
        """Add the gradient of a loss, and let go of its graph. No `.grad` is touched.

        Args:
            loss: one number, such as the mean loss over a micro-batch.
            weight: how much it counts, such as the number of samples in the micro-batch.

        Raises:
            GradientError: the loss is not one number, or depends on nothing that requires a gradient.
            SettingError: the weight is not a finite number above 0.
        """
        if not (math.isfinite(weight) and weight > 0):
            raise SettingError(f"GradientAccumulator.add: the weight is finite and above 0, got {weight}")
        if loss.size != 1:
            raise GradientError(f"GradientAccumulator.add: the loss is one number, got shape {loss.shape}")
        if not loss.requires_grad:
            raise GradientError("GradientAccumulator.add: the loss depends on nothing that requires a gradient")
        weight = float(weight)
        for p, gradient in zip(self.params, gradients_of(loss, loss.ones_like(), self.params), strict=True):
            if gradient is not None:
                g = _weighted(gradient.realize_cached_data(), weight)
                self._sums[p] = self._sums[p] + g if p in self._sums else g
        self.total_weight += weight

    def apply(self) -> None:
        """Set `.grad` of every parameter to the weighted mean, and start anew.

        A parameter that no loss depended on gets None.

        Raises:
            GradientError: nothing was added since the last call.
        """
        if not self.total_weight:
            raise GradientError("GradientAccumulator.apply: nothing was added since the last call")
        for p in self.params:
            p.grad = _mean(self._sums[p], self.total_weight, p) if p in self._sums else None
        self.reset()


def _weighted(g: Array, weight: float) -> Array:
    """Return weight·g, of float16 and bfloat16 in float32: small terms would vanish in a sum of so few digits."""
    xp = array_namespace(g)
    return weight * (xp.astype(g, float32) if is_narrow(g.dtype) else g)


def _mean(total: Array, weight: float, p: Tensor) -> Tensor:
    return Tensor.make_const(array_namespace(p.realize_cached_data()).asarray(total / weight, dtype=p.dtype))
