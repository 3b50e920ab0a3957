"""Gradient checkpointing: a part of a computation that is computed again for its gradient, instead of being kept.

In the forward pass the function runs, its graph is looked at once (which Tensors does it reach?) and thrown away. In
the backward pass it runs a second time, on the same inputs and with the same random draws, and that graph is walked. A
compiled program has no graph to throw away, but would see that both computations are the same and make one of them:
there the second one reads its inputs through `After`, which waits for the gradient.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

from needle import autograd
from needle.autocasting import as_before, autocast_dtype
from needle.autograd import (
    Tensor,
    TensorOp,
    TensorTuple,
    TensorTupleOp,
    Value,
    enable_grad,
    gradients_of,
    is_recording,
    nodes_made,
)
from needle.device import Array, array_namespace
from needle.device.random import DrawTape
from needle.errors import DTypeError, GradientError
from needle.jit.arguments import flatten, map_leaves
from needle.ops import make_tuple
from needle.tracing import recomputing

__all__ = ["checkpoint", "reached_outside"]

_P = ParamSpec("_P")
_R = TypeVar("_R")


def checkpoint(fn: Callable[_P, _R]) -> Callable[_P, _R]:
    """Return a function that computes what `fn` does, and keeps of it only what goes in and what comes out.

    What lies between is computed a second time when the gradient is asked for: less memory for about a third more
    time of a training step. The values, the gradients and the random draws are those of `fn`, bit for bit.

    Gradients reach the arguments, and Tensors that `fn` uses from outside, such as the parameters of a layer. Both
    must be as they were when `backward` comes. Running statistics are updated once. A function that does anything else
    beside computing does it twice, unless it asks `ndl.is_recomputing()`.

    Inside `ndl.jit` the compiled program frees the memory and computes again. What depends on no argument is computed
    once there and kept, so pass what is large. Under `no_grad`, and in lazy mode, which keeps all graphs, `fn` is just
    called.

    Args:
        fn: takes and returns Tensors, tuples, lists and dicts of them, and anything else; a function or a module.

    Returns:
        A function of the same arguments.

    Raises:
        DTypeError: when called: an argument is a TensorTuple.
        GradientError: in `backward`: a Tensor that `fn` read has other data by now, or the second call returned Tensors
            of other shapes than the first.

    Example:
        >>> import needle as ndl
        >>> layer = ndl.checkpoint(lambda x, w: ndl.tanh(x @ w) ** 2)
        >>> x, w = ndl.Tensor([[1.0, 2.0]]), ndl.Tensor([[0.5], [0.25]])
        >>> layer(x, w).backward()
        >>> x.grad
        needle.Tensor([[0.31985  0.159925]])

    Reference:
        T. Chen et al., "Training deep nets with sublinear memory cost", 2016.
    """

    @functools.wraps(fn, updated=())
    def checkpointed(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        if not is_recording() or autograd.LAZY_MODE:
            return fn(*args, **kwargs)
        result: _R = _Segment(fn, args, kwargs).result()
        return result

    return checkpointed


class _Segment:
    """One call of a checkpointed function: enough to make it a second time.

    Attributes:
        given: the Tensors among the arguments.
        outside: the Tensors that the function uses beside them, and that require a gradient.
    """

    def __init__(self, fn: Callable[..., Any], args: Any, kwargs: Any) -> None:
        self.fn = fn
        self.arguments = args, kwargs
        if any(isinstance(one, TensorTuple) for one in flatten(self.arguments)):
            raise DTypeError("checkpoint: the function takes a tuple of Tensors, not a TensorTuple: pass one.tuple()")
        self.given = [one for one in flatten(self.arguments) if isinstance(one, Tensor)]
        self.outside: list[Tensor] = []
        self.draws = DrawTape()
        self.narrow = autocast_dtype()

    def result(self) -> Any:
        """Call the function, and return its result with one operator in the place of its graph."""
        stand_ins = [Tensor.make_const(one.realize_cached_data(), one.requires_grad) for one in self.given]
        with nodes_made() as made, self.draws.noting():
            result = self.call(stand_ins)
        found = _differentiable(result)
        self.outside = reached_outside(found, made, set(stand_ins))
        inputs = [one for one in self.given if one.requires_grad] + self.outside
        self.read = [(one, weakref.ref(one.realize_cached_data())) for one in inputs]
        if not found or not inputs:
            return result
        op = Recomputed(self, [one.realize_cached_data() for one in found])
        outputs = dict(zip(found, op(*inputs), strict=True))
        op.arrays = None
        return map_leaves(lambda leaf: outputs.get(leaf, leaf) if isinstance(leaf, Tensor) else leaf, result)

    def call(self, tensors: Sequence[Tensor]) -> Any:
        """Call the function with these in the places of the Tensors among its arguments."""
        rest = iter(tensors)
        args, kwargs = map_leaves(lambda leaf: next(rest) if isinstance(leaf, Tensor) else leaf, self.arguments)
        return self.fn(*args, **kwargs)

    def call_again(self, inputs: Sequence[Tensor], grads: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return the stand-ins of the given Tensors that require a gradient, and what is computed of them now."""
        if any(one.cached_data is not array() for one, array in self.read):
            raise GradientError(
                "checkpoint: the data of a Tensor that the function read was replaced before backward() (an "
                "optimizer's step does so), so that the function cannot be computed again"
            )
        rest = iter(inputs)
        stand_ins = [_stand_in(next(rest) if one.requires_grad else one, grads) for one in self.given]
        with enable_grad(), self.draws.repeating(), recomputing(), as_before(self.narrow):
            found = _differentiable(self.call(stand_ins))
        if [one.shape for one in found] != [one.shape for one in grads]:
            raise GradientError(
                f"checkpoint: the function returned {[one.shape for one in grads]} at first, and "
                f"{[one.shape for one in found]} when it was computed again: it must do the same both times"
            )
        return [one for one in stand_ins if one.requires_grad], found


class Recomputed(TensorTupleOp):
    """y = fn(a…), whose gradient computes fn again."""

    name = "checkpoint"
    computes_wide = False
    is_told = False

    def __init__(self, segment: _Segment, arrays: Sequence[Array]) -> None:
        self.segment = segment
        self.arrays: tuple[Array, ...] | None = tuple(arrays)

    def compute(self, *inputs: Array) -> tuple[Array, ...]:
        assert self.arrays is not None, "computed once, when the function is called"
        return self.arrays

    def gradient(self, out_grad: TensorTuple, node: TensorTuple) -> list[Tensor | None]:
        segment, grads = self.segment, out_grad.tuple()
        stand_ins, outputs = segment.call_again(node.inputs, grads)
        with enable_grad():
            found = gradients_of(make_tuple(*outputs), out_grad, [*stand_ins, *segment.outside])  # type: ignore[arg-type]
        if is_recording():
            return list(found)
        # Without the graph that they hold, which is what checkpointing is about.
        return [None if one is None else one.detach() for one in found]


class After(TensorOp):
    """y = a; in a compiled program not before the other inputs are there, and apart from all else made of a."""

    computes_wide = False

    def compute(self, a: Array, *others: Array) -> Array:
        after = getattr(array_namespace(a), "after", None)
        return a if after is None else after(a, *others)

    def gradient(self, out_grad: Tensor, node: Tensor) -> tuple[Tensor | None, ...]:
        return (out_grad, *(None for _ in node.inputs[1:]))


def _stand_in(tensor: Tensor, grads: Sequence[Tensor]) -> Tensor:
    """Return what the function is called with again: it hangs on the Tensor where graphs are recorded."""
    later = After()(tensor, *grads)
    if later.requires_grad or not tensor.requires_grad:
        return later if tensor.requires_grad else later.detach()
    return Tensor.make_const(later.realize_cached_data(), requires_grad=True)


def _differentiable(result: Any) -> list[Tensor]:
    """Return the Tensors of a result that require a gradient, each once."""
    for one in flatten(result):
        if isinstance(one, TensorTuple):
            raise DTypeError("checkpoint: the function returns a tuple of Tensors, not a TensorTuple: use .tuple()")
    return list(dict.fromkeys(one for one in flatten(result) if isinstance(one, Tensor) and one.requires_grad))


def reached_outside(results: Sequence[Tensor], made: set[Value], own: set[Tensor]) -> list[Tensor]:
    """Return the Tensors that results were computed from and that were there before."""
    found: dict[Value, None] = {}
    seen: set[Value] = set()
    pending: list[Value] = list(results)
    while pending:
        node = pending.pop()
        if node in seen or node in own or not node.requires_grad:
            continue
        seen.add(node)
        if node in made:
            pending.extend(reversed(node.inputs))
        else:
            found[node] = None
    if any(not isinstance(one, Tensor) for one in found):
        raise DTypeError("checkpoint: the function uses a TensorTuple from outside: take it apart there")
    return list(found)  # type: ignore[arg-type]
