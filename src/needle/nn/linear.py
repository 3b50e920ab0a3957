"""Layers that multiply by a matrix."""

from __future__ import annotations

from numpy.typing import DTypeLike

from needle import init
from needle.autograd import Tensor
from needle.device import Device
from needle.dtype import is_narrow
from needle.nn.module import Module
from needle.nn.parameter import Parameter
from needle.ops import add, astype, matmul, reshape

__all__ = ["Linear"]


class Linear(Module):
    """A linear map and a shift.

    Formula::

        y = x @ weight + bias

    Shapes:
        x: (…, in_features), with at least two axes.
        result: (…, out_features).

    Args:
        in_features: the number of inputs of each unit.
        out_features: the number of units.
        bias: whether to add a bias; `bias` is None otherwise.
        device: where the parameters live; the CPU where not given.
        dtype: of the parameters.

    State:
        weight: (in_features, out_features), drawn first: `init.kaiming_uniform(in_features, out_features)`.
        bias: (1, out_features), drawn second: `init.kaiming_uniform(out_features, 1)`, laid into a row.

    Raises:
        ShapeError: x has fewer than two axes, or its last is not in_features long.

    Example:
        >>> import needle as ndl
        >>> from needle import nn
        >>> layer = nn.Linear(3, 2)
        >>> layer(ndl.Tensor([[1.0, 2.0, 3.0]], dtype="float32")).shape
        (1, 2)
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: Device | None = None,
        dtype: DTypeLike = "float32",
    ) -> None:
        self.weight = Parameter(init.kaiming_uniform(in_features, out_features, device=device, dtype=dtype))
        self.bias: Parameter | None = None
        if bias:
            column = init.kaiming_uniform(out_features, 1, device=device, dtype=dtype)
            self.bias = Parameter(reshape(column, (1, out_features)))
        self.in_features = in_features
        self.out_features = out_features

    def forward(self, x: Tensor) -> Tensor:
        """Return x @ weight + bias."""
        y = matmul(x, self.weight)
        # Inside `autocast` the product is narrow; a wide bias would make all of it wide again.
        return y if self.bias is None else add(y, astype(self.bias, y.dtype) if is_narrow(y.dtype) else self.bias)

    def extra_repr(self) -> str:
        """Return the sizes."""
        return f"{self.in_features} → {self.out_features}" + ("" if self.bias is not None else ", bias=False")
