"""State that a parameter gets when it is needed first: an optimizer's moments, sums of gradients."""

from __future__ import annotations

from functools import partial

from needle.autograd import Tensor
from needle.device import Array
from needle.tracing import made_state

__all__ = ["lazy_state"]


def lazy_state(memory: dict[Tensor, Tensor], parameter: Tensor, like: Array) -> Tensor:
    """Return what is remembered of a parameter: zeros of the shape and dtype of `like` at first."""
    if parameter not in memory:
        # From an array of the device, not made of `like`: in a trace too, this is state and not a result.
        memory[parameter] = Tensor.make_const(parameter.device.zeros(*like.shape, dtype=like.dtype))
        made_state(partial(memory.pop, parameter, None))
    return memory[parameter]
