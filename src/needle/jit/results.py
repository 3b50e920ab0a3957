"""What a compiled function returns: the result of the traced call, with what this call computed in its Tensors.

Such a Tensor has no graph. Where it would have one eagerly, it says so as soon as a gradient is to go through it: never
is a gradient left out in silence.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Sequence
from operator import itemgetter
from typing import Any, NoReturn

from needle import tracing
from needle.autograd import Tensor, TensorOp, Value
from needle.errors import GradientError
from needle.jit.arguments import map_leaves
from needle.jit.notes import ArgumentPlace, Place, StatePlace

__all__ = ["Known", "Output", "Results", "Sources", "find_tensor", "without_graph"]


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


class Results:
    """Makes what a call returns: the traced result, its marks replaced by what they stand for.

    Args:
        value: the result, with `Output` and `Known` in it.
        state: the Tensors that the program reads beside its arguments.
    """

    def __init__(self, value: Any, state: Sources) -> None:
        self._state = state
        self.has_graph = _requires_grad(value)
        self._make = _maker(value)

    def of_call(self, outputs: Sequence[Any], leaves: Sequence[Any]) -> Any:
        """Return the result of a call.

        Args:
            outputs: the arrays that the program computed.
            leaves: the call's Tensors and arrays.
        """
        return self._make(outputs, leaves, CompiledCallOp(Sources(leaves), self._state) if self.has_graph else None)


# Makes part of a result of the program's outputs, the call's leaves, and the operator of Tensors that have a graph.
_Make = Callable[[Sequence[Any], Sequence[Any], CompiledCallOp | None], Any]


def _requires_grad(value: Any) -> bool:
    if type(value) is Output:
        return value.is_tensor and value.requires_grad
    if isinstance(value, dict):
        return any(map(_requires_grad, value.values()))
    return isinstance(value, (tuple, list)) and any(map(_requires_grad, value))


def _maker(value: Any) -> _Make:
    """Return what makes a part of the result: what kind it is, is looked up here, once for all calls."""
    if type(value) is Output:
        return _output_maker(value)
    if type(value) is Known:
        place = value.place
        return lambda _, leaves, __: find_tensor(place, leaves)
    if isinstance(value, tracing.HostNumber):
        return lambda *_: value.value
    if isinstance(value, (tuple, list)):
        return _sequence_maker(type(value), value)
    if isinstance(value, dict):
        named = {key: _maker(one) for key, one in value.items()}
        return lambda outputs, leaves, op: {key: make(outputs, leaves, op) for key, make in named.items()}
    return lambda *_: value


def _sequence_maker(kind: Any, parts: Sequence[Any]) -> _Make:
    build = list if issubclass(kind, list) else kind
    if hasattr(kind, "_fields"):
        build = lambda made: kind(*made)  # noqa: E731
    if len(parts) > 1 and all(type(one) is Output and one.is_tensor and not one.requires_grad for one in parts):
        pick, new = itemgetter(*[one.number for one in parts]), Tensor.make_const
        return lambda outputs, _, __: build(tuple(map(new, pick(outputs))))
    makers = [_maker(one) for one in parts]
    if len(makers) == 2:
        first, second = makers
        return lambda outputs, leaves, op: build((first(outputs, leaves, op), second(outputs, leaves, op)))
    return lambda outputs, leaves, op: build([make(outputs, leaves, op) for make in makers])


def _output_maker(mark: Output) -> _Make:
    number, new = mark.number, Tensor.make_const
    if not mark.is_tensor:
        return lambda outputs, _, __: outputs[number]
    if not mark.requires_grad:
        return lambda outputs, _, __: new(outputs[number])

    def with_graph(outputs: Sequence[Any], _: Sequence[Any], op: CompiledCallOp | None) -> Tensor:
        tensor = new(outputs[number], requires_grad=True)
        tensor.op = op
        return tensor

    return with_graph


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
