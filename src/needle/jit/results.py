"""What a compiled function returns: the result of the traced call, with what this call computed in its Tensors.

Such a Tensor has no graph. Where it would have one eagerly, it says so as soon as a gradient is to go through it: never
is a gradient left out in silence.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Sequence
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
        # One function for the whole result, as its parts are few operations each.
        names = {"new": Tensor.make_const, "new_with_graph": _with_graph, "find_tensor": find_tensor}
        text = _text_of(value, names)
        self._make: _Make = eval(f"lambda outputs, leaves, op: {text}", names)  # noqa: S307  names stand for all objects

    def of_call(self, outputs: Sequence[Any], leaves: Sequence[Any]) -> Any:
        """Return the result of a call.

        Args:
            outputs: the arrays that the program computed.
            leaves: the call's Tensors and arrays.
        """
        return self._make(outputs, leaves, CompiledCallOp(Sources(leaves), self._state) if self.has_graph else None)


# Makes a result of the program's outputs, the call's leaves, and the operator of Tensors that have a graph.
_Make = Callable[[Sequence[Any], Sequence[Any], CompiledCallOp | None], Any]


def _requires_grad(value: Any) -> bool:
    if type(value) is Output:
        return value.is_tensor and value.requires_grad
    if isinstance(value, dict):
        return any(map(_requires_grad, value.values()))
    return isinstance(value, (tuple, list)) and any(map(_requires_grad, value))


def _text_of(value: Any, names: dict[str, Any]) -> str:  # noqa: PLR0911  one line a kind
    """Return Python's text for what makes a part of the result; objects that have none are put among its names."""
    if type(value) is Output:
        array = f"outputs[{value.number}]"
        if not value.is_tensor:
            return array
        return f"new_with_graph({array}, op)" if value.requires_grad else f"new({array})"
    if type(value) is Known:
        return f"find_tensor({_name(value.place, names)}, leaves)"
    if isinstance(value, tracing.HostNumber):
        return _name(value.value, names)
    if isinstance(value, dict):
        return "{" + "".join(f"{_name(key, names)}: {_text_of(one, names)}, " for key, one in value.items()) + "}"
    if not isinstance(value, (tuple, list)):
        return _name(value, names)
    parts = "".join(f"{_text_of(one, names)}, " for one in value)
    if isinstance(value, list):
        return f"[{parts}]"
    if type(value) is tuple:
        return f"({parts})"
    return _name(type(value), names) + (f"({parts})" if hasattr(value, "_fields") else f"([{parts}])")


def _name(value: Any, names: dict[str, Any]) -> str:
    name = f"known_{len(names)}"
    names[name] = value
    return name


def _with_graph(array: Any, op: CompiledCallOp) -> Tensor:
    tensor = Tensor.make_const(array, requires_grad=True)
    tensor.op = op
    return tensor


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
