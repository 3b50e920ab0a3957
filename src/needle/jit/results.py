"""What a compiled function returns: the result of the traced call, with what this call computed in its Tensors.

Such a Tensor has no graph. Where it would have one eagerly, it says so as soon as a gradient is to go through it: never
is a gradient left out in silence.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from needle import tracing
from needle.autograd import Tensor, TensorOp, Value
from needle.errors import GradientError
from needle.jit.arguments import map_leaves
from needle.jit.recorder import ArgumentPlace, Place, StatePlace

__all__ = ["Known", "Output", "Sources", "find_tensor", "results_of_call", "without_graph"]


class Output:
    """Stands in a result for a Tensor (or a raw array) that the program computes."""

    def __init__(self, number: int, is_tensor: bool, requires_grad: bool) -> None:
        self.number = number
        self.is_tensor = is_tensor
        self.requires_grad = requires_grad


class Known:
    """Stands in a result for a Tensor that was there before."""

    def __init__(self, place: Place) -> None:
        self.place = place


class Sources:
    """Tensors that a call read, of which only those matter that require a gradient and still are there later.

    They are held weakly, as a result is often kept for longer than what it was computed from.
    """

    __slots__ = ("leaves", "reads_nodes")

    def __init__(self, tensors: Iterable[Any]) -> None:
        read = [one for one in tensors if isinstance(one, Value) and one.requires_grad]
        self.reads_nodes = any(one.op is not None for one in read)
        self.leaves = [weakref.ref(one) for one in read]


class CompiledCallOp(TensorOp):
    """The operator of a compiled function's results: it has no gradient.

    Args:
        sources: what the call read.
    """

    name = "a compiled function"
    is_cut = True

    def __init__(self, *sources: Sources) -> None:
        self.sources = sources

    def compute(self, *arrays: Any) -> NoReturn:
        """Refuse: the function has run."""
        raise AssertionError("the result of a compiled function has data")

    def check_cut(self, wanted: Sequence[Tensor] | None) -> None:
        """Refuse a gradient that may go through here, on the way to one of `wanted`, or to anything.

        Raises:
            GradientError: it may.
        """
        if wanted is not None and not any(one.reads_nodes for one in self.sources):
            read = {id(leaf()) for one in self.sources for leaf in one.leaves}
            if not any(id(one) in read for one in wanted):
                return
        raise GradientError(
            "backward: a gradient is to go through a Tensor that a compiled function returned, whose results have no "
            "graph. Call backward (or ndl.value_and_grad) inside of the function that ndl.jit compiles and return what "
            "you need; or, where no gradient is to go through it, use its .detach()"
        )


def results_of_call(value: Any, outputs: Sequence[Any], leaves: Sequence[Any], state: Sources) -> Any:
    """Return a traced result with its marks replaced by what they stand for in a call.

    Args:
        value: the result, with `Output` and `Known` in it.
        outputs: the arrays that the program computed.
        leaves: the call's Tensors and arrays.
        state: the other Tensors that it read.
    """
    op: CompiledCallOp | None = None

    def made(mark: Any) -> Any:
        nonlocal op
        array = outputs[mark.number]
        if not mark.is_tensor:
            return array
        tensor = Tensor.make_const(array, mark.requires_grad)
        if mark.requires_grad:
            op = op or CompiledCallOp(Sources(leaves), state)
            tensor.op = op
        return tensor

    def put(value: Any) -> Any:  # noqa: PLR0911  one line a kind
        if type(value) is Output:
            return made(value)
        if type(value) is Known:
            return find_tensor(value.place, leaves)
        if isinstance(value, tracing.HostNumber):
            return value.value
        if isinstance(value, tuple):
            parts = [put(one) for one in value]
            return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
        if isinstance(value, list):
            return [put(one) for one in value]
        if isinstance(value, dict):
            return {key: put(one) for key, one in value.items()}
        return value

    return put(value)


def without_graph(value: Any) -> Any:
    """Return an eager result as a compiled call would give it: its Tensors without their graphs."""

    def cut(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or leaf.op is None:
            return leaf
        tensor = Tensor.make_const(leaf.realize_cached_data(), leaf.requires_grad)
        tensor.op = CompiledCallOp(Sources([leaf]))
        return tensor

    return map_leaves(cut, value)


def find_tensor(place: Place, leaves: Sequence[Any]) -> Any:
    """Return the Tensor at a place, None where there is none."""
    if type(place) is StatePlace:
        return place.tensor
    if type(place) is ArgumentPlace:
        return leaves[place.number]
    of = find_tensor(place.of, leaves)  # type: ignore[union-attr]
    return None if of is None else of.grad
