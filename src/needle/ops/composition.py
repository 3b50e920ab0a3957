"""Operators that stand for compositions of small ones: how to differentiate their gradients again.

Such an operator computes its gradient by one formula, as another operator. Where that is to be differentiated in turn,
the small operators do it: they know how to be differentiated as often as one likes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from operator import add as plus

from needle.autograd import Alias, Tensor, enable_grad, gradients_of
from needle.ops.arithmetic import multiply
from needle.ops.broadcasting import summation

__all__ = ["gradients_of_adjoint"]

Tensors = tuple[Tensor, ...]


def gradients_of_adjoint(
    composed: Callable[..., Tensors], inputs: Sequence[Tensor], out_grad: Iterable[Tensor], num_results: int
) -> list[Tensor | None]:
    """Return the adjoints of the inputs of a composition's adjoint.

    Args:
        composed: the composition: Tensors in, a tuple of Tensors out.
        inputs: the adjoint's: gradients of the composition's `num_results` results, then the composition's inputs.
        out_grad: the adjoints of what the adjoint returned, one for each of the composition's inputs.
        num_results: how many Tensors the composition returns.
    """
    with enable_grad():
        own = [_stand_in(one) for one in inputs]
        grads, operands = own[:num_results], own[num_results:]
        adjoints = _gradients(composed(*operands), grads, operands)
        there = [(one, by) for one, by in zip(adjoints, out_grad, strict=True) if one is not None]
        return _gradients([one for one, _ in there], [by for _, by in there], own)


def _stand_in(tensor: Tensor) -> Tensor:
    """Return a node of its own for an input, as one Tensor may be several of them."""
    if tensor.requires_grad:
        return Alias()(tensor)
    return Tensor.make_const(tensor.realize_cached_data(), requires_grad=True)


def _gradients(results: Sequence[Tensor], grads: Sequence[Tensor], wanted: Sequence[Tensor]) -> list[Tensor | None]:
    """Return the gradients of Σ results · grads."""
    total = reduce(plus, (summation(multiply(one, by)) for one, by in zip(results, grads, strict=True)))
    return list(gradients_of(total, total.ones_like(), wanted))
