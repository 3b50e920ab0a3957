"""Layers that drop some of their inputs at random while training."""

from __future__ import annotations

from typing import ClassVar

from needle import init
from needle.autograd import Tensor
from needle.errors import DataError, ShapeError
from needle.nn.module import Module
from needle.ops import divide_scalar, multiply

__all__ = ["Dropout", "Dropout1d", "Dropout2d", "Dropout3d"]


class Dropout(Module):
    """Set each element to zero with probability p in training; pass everything in evaluation.

    Formula::

        y = x · mask / (1 − p)   with mask = 1 where a uniform draw ≤ 1 − p, else 0

    The division keeps the expected value of each element at x, so that evaluation needs no scaling.

    Shapes:
        x, result: any.

    Args:
        p: the probability that an element is dropped, 0 ≤ p < 1.

    State:
        One draw of x's shape for each call in training, also where p is 0; none in evaluation.

    Raises:
        DataError: p is not in [0, 1).

    Reference:
        N. Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting", 2014. They scale
        in evaluation instead.
    """

    def __init__(self, p: float = 0.5) -> None:
        if not 0 <= p < 1:
            raise DataError(f"{type(self).__name__}: the probability p is in [0, 1), got {p}")
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Drop elements where training."""
        if not self.training:
            return x
        mask = init.randb(*x.shape, p=1 - self.p, device=x.device, dtype=x.dtype)
        return divide_scalar(multiply(x, mask), 1 - self.p)

    def extra_repr(self) -> str:
        """Return the probability."""
        return f"p={self.p}"


class Dropout2d(Dropout):
    """Set whole channels to zero with probability p in training; pass everything in evaluation.

    Neighbouring elements of an image are so alike that dropping single ones hides little; a dropped channel is gone.

    Formula::

        y[n, c] = x[n, c] · mask[n, c] / (1 − p)   with mask = 1 where a uniform draw ≤ 1 − p, else 0

    Shapes:
        x, result: (N, C, H, W).

    Args:
        p: the probability that a channel is dropped, 0 ≤ p < 1.

    State:
        One draw of shape (N, C, 1, 1) for each call in training, also where p is 0; none in evaluation.

    Raises:
        DataError: p is not in [0, 1).
        ShapeError: x has not four axes.

    Reference:
        J. Tompson et al., "Efficient object localization using convolutional networks", 2015.
    """

    # The number of spatial axes.
    rank: ClassVar[int] = 2

    def forward(self, x: Tensor) -> Tensor:
        """Drop channels where training."""
        if x.ndim != self.rank + 2:
            spatial = ", ".join("DHW"[-self.rank :])
            raise ShapeError(f"{type(self).__name__}: expected x of shape (N, C, {spatial}), got {tuple(x.shape)}")
        if not self.training:
            return x
        mask = init.randb(*x.shape[:2], *[1] * self.rank, p=1 - self.p, device=x.device, dtype=x.dtype)
        return divide_scalar(multiply(x, mask), 1 - self.p)


class Dropout1d(Dropout2d):
    """Set whole channels of sequences to zero in training: `Dropout2d` for x (N, C, L), with a draw of (N, C, 1)."""

    rank = 1


class Dropout3d(Dropout2d):
    """Set whole channels of volumes to zero in training: `Dropout2d` for x (N, C, D, H, W)."""

    rank = 3
