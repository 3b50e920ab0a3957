"""Activation functions as modules, to stand in a row of layers. They have no parameters and draw nothing."""

from __future__ import annotations

from needle.autograd import Tensor
from needle.nn.module import Module
from needle.ops.activation import elu, gelu, leaky_relu, relu, sigmoid, silu, softplus
from needle.ops.elementwise import tanh
from needle.ops.softmax import logsoftmax, softmax

__all__ = [
    "ELU",
    "GELU",
    "LeakyReLU",
    "LogSoftmax",
    "ReLU",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Softplus",
    "Tanh",
]


class ReLU(Module):
    """The rectifier: y = max(x, 0)."""

    def forward(self, x: Tensor) -> Tensor:
        """Return relu(x)."""
        return relu(x)


class Tanh(Module):
    """The hyperbolic tangent: y = tanh(x)."""

    def forward(self, x: Tensor) -> Tensor:
        """Return tanh(x)."""
        return tanh(x)


class Sigmoid(Module):
    """The logistic function: y = 1 / (1 + e⁻ˣ)."""

    def forward(self, x: Tensor) -> Tensor:
        """Return sigmoid(x)."""
        return sigmoid(x)


class SiLU(Module):
    """The input weighted by its own sigmoid: y = x σ(x)."""

    def forward(self, x: Tensor) -> Tensor:
        """Return silu(x)."""
        return silu(x)


class GELU(Module):
    """The input weighted by the normal distribution function: y = x Φ(x).

    Args:
        approximate: use the form with tanh, as some published models do; exact by default.
    """

    def __init__(self, approximate: bool = False) -> None:
        self.approximate = approximate

    def forward(self, x: Tensor) -> Tensor:
        """Return gelu(x)."""
        return gelu(x, self.approximate)

    def extra_repr(self) -> str:
        """Return what is not the default."""
        return "approximate=True" if self.approximate else ""


class LeakyReLU(Module):
    """The rectifier that lets a part of the negative through: y = x where x > 0, slope · x elsewhere.

    Args:
        slope: the part of what is negative.
    """

    def __init__(self, slope: float = 0.01) -> None:
        self.slope = slope

    def forward(self, x: Tensor) -> Tensor:
        """Return leaky_relu(x)."""
        return leaky_relu(x, self.slope)

    def extra_repr(self) -> str:
        """Return the slope."""
        return f"slope={self.slope}"


class ELU(Module):
    """The exponential linear unit: y = x where x > 0, alpha · (eˣ − 1) elsewhere.

    Args:
        alpha: −alpha is what y tends to on the negative side.
    """

    def __init__(self, alpha: float = 1.0) -> None:
        self.alpha = alpha

    def forward(self, x: Tensor) -> Tensor:
        """Return elu(x)."""
        return elu(x, self.alpha)

    def extra_repr(self) -> str:
        """Return alpha."""
        return f"alpha={self.alpha}"


class Softplus(Module):
    """The smooth rectifier: y = ln(1 + eˣ)."""

    def forward(self, x: Tensor) -> Tensor:
        """Return softplus(x)."""
        return softplus(x)


class Softmax(Module):
    """Probabilities from logits: y = eˣ / Σ eˣ along an axis.

    A loss of classes takes logits, not these.

    Args:
        axis: the axis of the classes; the last by default.
    """

    def __init__(self, axis: int = -1) -> None:
        self.axis = axis

    def forward(self, x: Tensor) -> Tensor:
        """Return softmax(x)."""
        return softmax(x, self.axis)

    def extra_repr(self) -> str:
        """Return the axis."""
        return f"axis={self.axis}"


class LogSoftmax(Softmax):
    """Logarithms of probabilities from logits: y = x − ln Σ eˣ along an axis.

    Args:
        axis: the axis of the classes; the last by default.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return logsoftmax(x)."""
        return logsoftmax(x, self.axis)
