"""Activation functions as modules, to stand in a row of layers. They draw nothing, and only `PReLU` has a parameter."""

from __future__ import annotations

from numpy.typing import DTypeLike

from needle import init
from needle.autograd import Tensor
from needle.device import Device
from needle.errors import ShapeError
from needle.nn.module import Module
from needle.nn.parameter import Parameter
from needle.ops.activation import (
    elu,
    gelu,
    glu,
    hardsigmoid,
    hardswish,
    leaky_relu,
    logsigmoid,
    mish,
    prelu,
    relu,
    relu6,
    selu,
    sigmoid,
    silu,
    softplus,
    softsign,
)
from needle.ops.elementwise import tanh
from needle.ops.softmax import logsoftmax, softmax

__all__ = [
    "ELU",
    "GELU",
    "GLU",
    "SELU",
    "Hardsigmoid",
    "Hardswish",
    "LeakyReLU",
    "LogSigmoid",
    "LogSoftmax",
    "Mish",
    "PReLU",
    "ReLU",
    "ReLU6",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Softplus",
    "Softsign",
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


class SELU(Module):
    """The scaled exponential linear unit, which keeps mean 0 and variance 1: y = 1.0507 · elu(x, 1.6733)."""

    def forward(self, x: Tensor) -> Tensor:
        """Return selu(x)."""
        return selu(x)


class Mish(Module):
    """The input weighted by the tangent of its softplus: y = x · tanh(ln(1 + eˣ))."""

    def forward(self, x: Tensor) -> Tensor:
        """Return mish(x)."""
        return mish(x)


class ReLU6(Module):
    """The rectifier with a limit: y = min(max(x, 0), 6)."""

    def forward(self, x: Tensor) -> Tensor:
        """Return relu6(x)."""
        return relu6(x)


class Hardsigmoid(Module):
    """A sigmoid made of straight lines: y = min(max(x + 3, 0), 6) / 6."""

    def forward(self, x: Tensor) -> Tensor:
        """Return hardsigmoid(x)."""
        return hardsigmoid(x)


class Hardswish(Module):
    """The input weighted by a sigmoid made of straight lines: y = x · min(max(x + 3, 0), 6) / 6."""

    def forward(self, x: Tensor) -> Tensor:
        """Return hardswish(x)."""
        return hardswish(x)


class LogSigmoid(Module):
    """The logarithm of the logistic function: y = −ln(1 + e⁻ˣ)."""

    def forward(self, x: Tensor) -> Tensor:
        """Return logsigmoid(x)."""
        return logsigmoid(x)


class Softsign(Module):
    """The input bent towards ±1: y = x / (1 + |x|)."""

    def forward(self, x: Tensor) -> Tensor:
        """Return softsign(x)."""
        return softsign(x)


class PReLU(Module):
    """The rectifier that lets a learned part of the negative through: y = x where x > 0, weight · x elsewhere.

    Shapes:
        x: (N, num_parameters, …), or any with one parameter.
        result: the same.

    Args:
        num_parameters: 1 for all elements alike, or the number of channels.
        init_value: what the weight begins with: 0.25 as in the paper, between a rectifier and a straight line.
        device: where the weight lives; the CPU where not given.
        dtype: of the weight.

    State:
        weight: (num_parameters,).

    Raises:
        ShapeError: no parameters, or when called an x of another number of channels.

    Reference:
        K. He et al., "Delving deep into rectifiers", 2015, equation 1.
    """

    def __init__(
        self,
        num_parameters: int = 1,
        init_value: float = 0.25,
        device: Device | None = None,
        dtype: DTypeLike = "float32",
    ) -> None:
        if num_parameters < 1:
            raise ShapeError(f"PReLU: there is at least one parameter, got {num_parameters}")
        self.weight = Parameter(init.constant(num_parameters, c=init_value, device=device, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        """Return prelu(x, weight)."""
        return prelu(x, self.weight)

    def extra_repr(self) -> str:
        """Return the number of parameters."""
        return f"num_parameters={self.weight.shape[0]}"


class GLU(Module):
    """The first half of an axis, weighted by the sigmoid of the second: y = x₁ · σ(x₂).

    Args:
        axis: the axis that is halved; the last by default.
    """

    def __init__(self, axis: int = -1) -> None:
        self.axis = axis

    def forward(self, x: Tensor) -> Tensor:
        """Return glu(x)."""
        return glu(x, self.axis)

    def extra_repr(self) -> str:
        """Return the axis."""
        return f"axis={self.axis}"


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
