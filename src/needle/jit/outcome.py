"""What a traced call leaves behind: the program's outputs, and where each of them goes in a call.

They are, in this order: what the function returns, the state that it replaces, gradients, and values that are to be
checked after the run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from needle.autograd import Tensor, Value
from needle.compiler import Node, TracedArray
from needle.compiler.primitives import PRIMITIVES
from needle.errors import TraceError
from needle.jit.arguments import map_leaves
from needle.jit.notes import Place, StatePlace
from needle.jit.recorder import Recorder
from needle.jit.results import Known, Output

__all__ = ["Outcome"]


class Outcome:
    """The outputs of a traced call.

    Args:
        recorder: what was noted while the function was traced.
        result: what the function returned, with traced Tensors in it.

    Attributes:
        nodes: the outputs.
        result: what the function returned, with marks in the place of Tensors.
        state: the places of Tensors whose data is replaced, each with the number of an output.
        may_overwrite: of such outputs, the input that is replaced.
        gradients: the places of Tensors that get a gradient, each with an output, None where it is taken away.
        missing: the places of Tensors whose gradient was looked at, and whether it was missing.
        early, late: checks, with the number of an input to look at before a run, of an output after it.
        asked: checks of inputs that the program makes: the output that says whether it fails, the input, and the check.
    """

    def __init__(self, recorder: Recorder, result: Any) -> None:
        self._recorder = recorder
        self.nodes: list[Node] = []
        self.result = map_leaves(self._returned, result)
        self.state: list[tuple[Place, int]] = []
        self.may_overwrite: dict[int, int] = {}
        self._collect_state()
        self.gradients: list[tuple[Place, int | None]] = []
        self._collect_gradients()
        tensors = recorder.tensors
        self.missing = [
            (recorder.place_of(tensors[key]), missing) for key, missing in recorder.missing_gradients.items()
        ]
        self.early: list[tuple[int, Callable[[NDArray[Any]], None]]] = []
        self.late: list[tuple[int, Callable[[NDArray[Any]], None]]] = []
        self.asked: list[tuple[int, int, Callable[[NDArray[Any]], None]]] = []
        self._collect_checks()

    def _add(self, data: Any) -> int:
        """Make an output of what a Tensor holds, and return its number."""
        self.nodes.append(_node(data))
        return len(self.nodes) - 1

    def _returned(self, leaf: Any) -> Any:
        """Note a Tensor that the function returned, and leave a mark in its place."""
        data = leaf if isinstance(leaf, (np.ndarray, TracedArray)) else leaf.cached_data
        recorder = self._recorder
        known = recorder.original.get(id(leaf))
        if isinstance(leaf, Tensor) and known is not None and data is known and id(leaf) in recorder.places:
            return Known(recorder.places[id(leaf)])
        if isinstance(data, tuple):
            return tuple(map(self._returned, leaf))
        return Output(self._add(data), isinstance(leaf, Value), isinstance(leaf, Value) and leaf.requires_grad)

    def returned_places(self) -> list[int | Place]:
        """List what the function returns: the number of an output, or the place of a Tensor that was there before."""
        places: list[int | Place] = []

        def find(value: Any) -> None:
            if isinstance(value, Output):
                places.append(value.number)
            elif isinstance(value, Known):
                places.append(value.place)
            elif isinstance(value, (tuple, list, dict)):
                for one in value.values() if isinstance(value, dict) else value:
                    find(one)

        find(self.result)
        return places

    def _collect_state(self) -> None:
        """Make an output of each piece of state that is replaced; note which inputs these may overwrite."""
        recorder, number_of = self._recorder, self._input_numbers()
        for value, data in recorder.written():
            place, output = recorder.place_of(value), self._add(data)
            original = recorder.original.get(id(value))
            if original is not None and isinstance(place, StatePlace):
                self.may_overwrite[output] = number_of[original.node]
            self.state.append((place, output))

    def _collect_gradients(self) -> None:
        recorder = self._recorder
        for key, gradient in recorder.gradients.items():
            output = None if gradient is None else self._add(gradient.cached_data)
            self.gradients.append((recorder.place_of(recorder.tensors[key]), output))

    def _input_numbers(self) -> dict[Node, int]:
        return {node: number for number, (node, _) in enumerate(self._recorder.inputs)}

    def _collect_checks(self) -> None:
        """Sort the checks into those of inputs, made before the run, and those of results, made after.

        A program that changes nothing until it has ended looks at inputs itself, and says whether one is wrong: all
        checks or none, so that the first one that fails is the one that eager code would have come to.
        """
        changes_nothing = not self.may_overwrite and not self.gradients
        asks = changes_nothing and all(check.fails is not None for check in self._recorder.checks)
        number_of = self._input_numbers()
        for check in self._recorder.checks:
            source, moves = _moved_from(check.node)
            if source in number_of:
                moved = partial(_check_moved, check.check, moves) if moves else check.check
                if asks and check.fails is not None:
                    self.asked.append((len(self.nodes), number_of[source], moved))
                    self.nodes.append(check.fails)
                else:
                    self.early.append((number_of[source], moved))
            else:
                self.late.append((len(self.nodes), check.check))
                self.nodes.append(check.node)


# What only moves elements, or gives them another type: quickly done in NumPy, for a check before the program runs.
_MOVES = frozenset({"cast", "flip", "permute", "reshape", "slice"})


def _moved_from(node: Node) -> tuple[Node, list[Node]]:
    """Return the node whose elements a node has, and what moves them, in order."""
    moves: list[Node] = []
    while node.primitive in _MOVES:
        moves.insert(0, node)
        (node,) = node.inputs
    return node, moves


def _check_moved(check: Callable[[NDArray[Any]], None], moves: Sequence[Node], array: NDArray[Any]) -> None:
    for node in moves:
        array = PRIMITIVES[node.primitive].evaluate(array, **node.params)
    check(array)


def _node(data: Any) -> Node:
    """Return the node of what a Tensor holds at the end of a trace."""
    if isinstance(data, TracedArray):
        return data.node
    if isinstance(data, np.ndarray):
        array: Node = TracedArray.namespace.asarray(data).node
        return array
    raise TraceError(f"a compiled function returns Tensors, got one that holds {type(data).__name__}")
