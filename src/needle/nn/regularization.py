"""Penalties on the size of weights, to be added to a loss.

An optimizer's `weight_decay` is the cheaper way to the same end for squares; these show up in the loss's value.
"""

from __future__ import annotations

from collections.abc import Iterable

from needle.autograd import Tensor, sum_node_list
from needle.errors import DataError
from needle.ops import elementwise
from needle.ops.arithmetic import multiply
from needle.ops.broadcasting import summation

__all__ = ["l1_penalty", "l2_penalty"]


def l1_penalty(parameters: Iterable[Tensor]) -> Tensor:
    """Return the sum of absolute values Σ |θ| over all parameters.

    Its gradient is sign(θ): the same pull towards 0 at any size, so that weights that do not help become 0.

    Raises:
        DataError: there are no parameters.

    Example:
        >>> import needle as ndl
        >>> from needle import nn
        >>> nn.l1_penalty([ndl.Tensor([1.0, -2.0]), ndl.Tensor([[3.0]])])
        needle.Tensor(6.0)
    """
    return sum_node_list([summation(elementwise.abs(parameter)) for parameter in _some(parameters)])


def l2_penalty(parameters: Iterable[Tensor]) -> Tensor:
    """Return the sum of squares Σ θ² over all parameters.

    Its gradient is 2 θ: a pull in proportion to the size. Half of it times λ is `weight_decay=λ` in plain SGD.

    Raises:
        DataError: there are no parameters.
    """
    return sum_node_list([summation(multiply(parameter, parameter)) for parameter in _some(parameters)])


def _some(parameters: Iterable[Tensor]) -> list[Tensor]:
    """Return the parameters as a list, each once."""
    listed = list({id(parameter): parameter for parameter in parameters}.values())
    if not listed:
        raise DataError("there are no parameters to penalise")
    return listed
