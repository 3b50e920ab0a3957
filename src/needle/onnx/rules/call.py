"""What a rule is given of an operator of a loaded model, and rules that are one function of Needle's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from needle.autograd import Tensor
from needle.errors import CheckpointError, DTypeError

__all__ = ["Call", "Rule", "Value", "binary", "fold", "tensor", "unary"]

Value: TypeAlias = "Tensor | NDArray[Any] | None"
Rule: TypeAlias = Callable[..., Any]


@dataclass(frozen=True)
class Call:
    """One operator of a loaded model: `operator`, its `attributes`, the names of its inputs and results.

    The name of an input or a result that is left out is empty.
    """

    operator: str
    attributes: Mapping[str, Any]
    inputs: tuple[str, ...]
    results: tuple[str, ...]

    def get(self, name: str, default: Any = None) -> Any:
        """Return an attribute, or ONNX's default for it."""
        return self.attributes.get(name, default)

    def fixed(self, value: Value, what: str) -> list[int]:
        """Return whole numbers that must be known without the model's inputs.

        Raises:
            DTypeError: they are computed from the model's inputs.
        """
        if isinstance(value, Tensor):
            raise DTypeError(f"{self.operator}: {what} is computed from values, which is not possible here")
        return [int(one) for one in np.ravel(np.asarray(value))]

    def fail(self, what: str) -> CheckpointError:
        """Return the error for what this operator asks and Needle has not."""
        return CheckpointError(f"the model has {self.operator} with {what}, which Needle has not")


def tensor(value: Any) -> Tensor:
    """Return a value as a Tensor, a constant where it is an array."""
    return value if isinstance(value, Tensor) else Tensor(np.asarray(value), requires_grad=False)


def unary(function: Callable[[Tensor], Tensor]) -> Rule:
    """Return the rule of a function of one operand."""
    return lambda call, x: function(tensor(x))


def binary(function: Callable[[Tensor, Tensor], Tensor]) -> Rule:
    """Return the rule of a function of two operands."""
    return lambda call, a, b: function(tensor(a), tensor(b))


def fold(function: Callable[[Tensor, Tensor], Tensor]) -> Rule:
    """Return the rule of a function of any number of operands, two at a time."""
    return lambda call, *xs: reduce(function, map(tensor, xs))
