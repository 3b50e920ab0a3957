"""The two kinds of Tensor that a module owns: those that are trained, and those that are only kept."""

from __future__ import annotations

from typing import Any
from weakref import WeakSet

from numpy.typing import DTypeLike

from needle.autograd import Tensor
from needle.device import Device

__all__ = ["Buffer", "Parameter", "in_evaluation"]

# The parameters of models that `eval()` was called on, and not `train()` since, where that makes a difference. By it an
# optimizer notices that somebody trains a model in evaluation mode.
in_evaluation: WeakSet[Parameter] = WeakSet()


class Parameter(Tensor):
    """A Tensor that training changes. A module finds its parameters by this type.

    Args:
        array: anything that a Tensor is made from. The data of a Tensor of the same dtype and device is shared.
        device: where the data lives.
        dtype: of the data.
        requires_grad: False freezes it: it stays a parameter, gets no gradient, and optimizers leave it alone.

    Example:
        >>> import needle as ndl
        >>> from needle import nn
        >>> class Scale(nn.Module):
        ...     def __init__(self):
        ...         self.factor = nn.Parameter([2.0])
        ...     def forward(self, x):
        ...         return x * self.factor
        >>> Scale().parameters()
        [needle.Tensor([2.])]
    """

    __slots__ = ()


class Buffer(Tensor):
    """A Tensor that is part of a module's state but is not trained, such as a running mean.

    Buffers are saved with the parameters and move with them to another device or dtype. They require no gradient.

    Args:
        array: anything that a Tensor is made from. The data of a Tensor of the same dtype and device is shared.
        device: where the data lives.
        dtype: of the data.
    """

    __slots__ = ()

    def __init__(self, array: Any, *, device: Device | None = None, dtype: DTypeLike | None = None) -> None:
        super().__init__(array, device=device, dtype=dtype, requires_grad=False)
