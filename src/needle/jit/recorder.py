"""Following a function while it is traced: what it reads, what it writes, and what it does beside computing.

While a thread traces, two fields of every Tensor are watched: its data and its gradient (see `needle.jit.watching`).
Reading the data of a Tensor that was there before makes it an input of the program; the Tensor itself is left as it is.
Writing to such a Tensor is kept here, where only the traced function sees it, and becomes an output. So nothing outside
changes by tracing, whether it goes well or not, and no other thread sees anything of it.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Hashable, Iterator, Sequence, Set
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any

import numpy as np

from needle import tracing
from needle.autograd import Value
from needle.compiler import Graph, Node, TracedArray, input_node
from needle.compiler.user_code import is_users_code, user_frame
from needle.jit.notes import (
    ArgumentPlace,
    Check,
    Draw,
    Effect,
    GradientPlace,
    Guard,
    HostArray,
    HostScalar,
    NumberGuard,
    OperatorResult,
    Place,
    Read,
    StatePlace,
    StepNotes,
    TracedLoop,
)
from needle.jit.side_effects import settings_of
from needle.jit.watching import own_data

__all__ = ["Recorder"]


class Recorder:
    """All that is known of one traced call.

    Attributes:
        inputs: the program's input nodes, each with where its values come from.
        before: what each call does first: draws, numbers to read, effects.
        data, gradients: the fields written, by the Tensor's id.
    """

    def __init__(self, arguments: Sequence[Any]) -> None:
        self.inputs: list[tuple[Node, Any]] = []
        self.before: list[Draw | Read | Effect] = []
        self.guards: list[Guard] = []
        self.number_guards: list[NumberGuard] = []
        self.checks: list[Check] = []
        self.results: list[OperatorResult] = []
        self.scans: list[TracedLoop] = []
        self.creations: list[Callable[[], object]] = []  # how to take back what was made, until a call has succeeded
        self.modules: dict[int, Any] = {}
        self.settings: list[tuple[Any, dict[str, Any]]] = []  # of the modules, as they were
        self.data: dict[int, Any] = {}
        self.gradients: dict[int, Any] = {}
        self.missing_gradients: dict[int, bool] = {}
        self.tensors: dict[int, Value] = {}  # keeps alive whatever is known by its id
        self.places: dict[int, Place] = {}
        self.original: dict[int, TracedArray] = {}
        self.born: list[weakref.ref[Value]] = []
        self._made_here: set[int] = set()
        self._arrays: dict[int, TracedArray] = {}
        self._scalars: dict[Hashable, Node] = {}
        self._number_guard_keys: set[Hashable] = set()
        self.loops = 0  # how many have a number
        self._reads = 0
        self._called: set[CodeType] = set()
        self._outermost = sys._getframe(1).f_code
        for number, argument in enumerate(arguments):
            if isinstance(argument, Value):
                self._place(argument, ArgumentPlace(number))

    def _place(self, value: Value, place: Place) -> None:
        self.places[id(value)] = place
        self.tensors[id(value)] = value

    def place_of(self, value: Any) -> Place:
        """Return where a Tensor that was there before is found in each call."""
        return self.places.get(id(value)) or StatePlace(value)

    def new_input(self, shape: Sequence[int], dtype: Any, source: Any) -> TracedArray:
        """Give the program one more input."""
        node = input_node(tuple(shape), np.dtype(dtype))
        self.inputs.append((node, source))
        return TracedArray(node)

    # ------------------------------------------------------------------- the watched fields of Tensors

    def read_data(self, value: Value, slot: Any) -> Any:
        """Answer for `value.cached_data`."""
        key = id(value)
        if key in self.data:
            return self.data[key]
        data = slot.__get__(value)
        if data is None and key not in self._made_here:
            with tracing.recording(None):
                data = value.realize_cached_data()
        if data is None or type(data) is TracedArray:
            return data
        if type(data) is tuple:
            return data if any(type(one) is TracedArray for one in data) else tuple(map(self.array, data))
        # Made here from an array of the device: state that begins now, such as an optimizer's moments.
        self._made_here.discard(key)
        place = self.places.setdefault(key, StatePlace(value))  # type: ignore[arg-type]
        self.tensors[key] = value
        self.data[key] = self.original[key] = self.new_input(data.shape, data.dtype, place)
        return self.data[key]

    def write_data(self, value: Value, slot: Any, new: Any) -> None:
        """Take note of `value.cached_data = new`."""
        key = id(value)
        unset = _is_unset(slot, value)
        if unset and key not in self._made_here:
            self._made_here.add(key)
            self.born.append(weakref.ref(value))
        if key in self._made_here:
            is_constant = not unset and slot.__get__(value) is None
            slot.__set__(value, _as_constant(new) if is_constant else new)
            return
        self.tensors[key] = value
        self.data[key] = new

    def read_gradient(self, value: Value, slot: Any) -> Any:
        """Answer for `value.grad`."""
        key = id(value)
        if key in self.gradients:
            return self.gradients[key]
        gradient = slot.__get__(value)
        if key in self._made_here:
            return gradient
        self.tensors[key] = value
        self.missing_gradients.setdefault(key, gradient is None)
        if isinstance(gradient, Value) and id(gradient) not in self.places:
            self._place(gradient, GradientPlace(self.place_of(value)))
        return gradient

    def write_gradient(self, value: Value, slot: Any, new: Any) -> None:
        """Take note of `value.grad = new`."""
        if id(value) in self._made_here:
            slot.__set__(value, new)
            return
        self.tensors[id(value)] = value
        self.gradients[id(value)] = new

    # ------------------------------------------------------------------- what the function tells by itself

    def number(self, read: Callable[[], Any]) -> Any:
        """Return what stands for a number that is read anew in each call; a guarded value for anything else."""
        value = read()
        if type(value) not in (int, float):
            self.guards.append(Guard(read, value, "a setting"))
            return value
        place = self._reads
        self._reads += 1
        self.before.append(Read(read))
        return tracing.HostNumber(self, f"numbers[{place}]", value)

    def number_node(self, number: tracing.HostNumber, dtype: np.dtype[Any]) -> Node:
        """Return the input for a number of the host in an array's dtype."""
        key = number.formula, dtype
        if key not in self._scalars:
            self._scalars[key] = self.new_input((), dtype, HostScalar(number, dtype)).node
        return self._scalars[key]

    def guard_number(self, number: tracing.HostNumber, question: Callable[[Any], Any], answer: Any, what: str) -> None:
        """Note that the function's course depends on the answer to a question about a number."""
        key = number.formula, what
        if key not in self._number_guard_keys:
            self._number_guard_keys.add(key)
            self.number_guards.append(NumberGuard(number, question, answer, what))

    def guard(self, read: Callable[[], Hashable], what: str) -> None:
        """Note that the function depends on what `read` returns."""
        self.guards.append(Guard(read, read(), what))

    def effect(self, do: Callable[[], None], undo: Callable[[], None]) -> None:
        """Do something now, to be taken back when the trace ends and done anew in each call."""
        do()
        self.before.append(Effect(do, undo))

    def creation(self, undo: Callable[[], object]) -> None:
        """Note how to take back state that was made."""
        self.creations.append(undo)

    def draw(
        self, shape: Sequence[int], dtype: Any, make: Callable[[], Any], fill: Callable[[Any], None] | None = None
    ) -> Any:
        """Return what stands for an array of random numbers that is drawn anew in each call."""
        draw = Draw(make, fill)
        self.before.append(draw)
        return self.new_input(shape, dtype, draw)

    def array(self, array: Any) -> Any:
        """Return what stands for an array of the host that the function uses."""
        if type(array) is TracedArray:
            return array
        key = id(array)
        if key not in self._arrays:
            array = np.asarray(array)
            self._arrays[key] = self.new_input(array.shape, array.dtype, HostArray(array))
        return self._arrays[key]

    def check(self, array: TracedArray, check: Callable[[Any], None]) -> None:
        """Have `check` look at an array's values in each call."""
        if not any(one.node is array.node and one.check == check for one in self.checks):
            fails = getattr(check, "fails", None)
            self.checks.append(Check(array.node, check, None if fails is None else fails(array).node))

    def operator(self, op: Any, result: Any, operands: Sequence[Any]) -> None:
        """Note an operator's result."""
        user = user_frame()
        source = f"{user.f_code.co_filename}:{user.f_lineno}" if user else ""
        # From here, not from the user's frame: of a function of Needle's own that is that of the caller.
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and frame.f_code is not self._outermost:
            self._called.add(frame.f_code)
            frame = frame.f_back
        nodes = tuple(one.node for one in operands if type(one) is TracedArray)
        settings = {key: value for key, value in vars(op).items() if _is_plain(value)}
        for one in result if isinstance(result, tuple) else (result,):
            if type(one) is TracedArray:
                self.results.append(OperatorResult(op.called, one.node, source, nodes, settings))

    def called_code(self) -> set[CodeType]:
        """Return the code of the user's functions that operators were called from, directly or not."""
        return {code for code in self._called if is_users_code(code)}

    def array_ids(self) -> Set[int]:
        """Return the ids of the host's arrays that are read anew in each call."""
        return self._arrays.keys()

    def module(self, module: Any) -> None:
        """Note that a module was called: it may use those below it without calling them."""
        for _, one in module.named_modules():
            if id(one) not in self.modules:
                self.modules[id(one)] = one
                self.settings.append((one, settings_of(one)))

    def new_loop(self) -> int:
        """Return the number of a loop of the graph."""
        self.loops += 1
        return self.loops

    @contextmanager
    def same_each_time(self) -> Iterator[StepNotes]:
        """Follow what is done in each step of a loop: nothing that the program does only once, or is told of once.

        Gives what is noted of the step, filled at the end of the block.

        Raises:
            NotOneLoop: it draws random numbers, has effects, or replaces the data or the gradient of a Tensor.
        """
        before, checks, results = len(self.before), len(self.checks), len(self.results)
        data, gradients = dict(self.data), dict(self.gradients)
        found = StepNotes()
        yield found
        found.checks.extend(self.checks[checks:])
        found.results.extend(self.results[results:])
        del self.results[results:], self.checks[checks:]
        read = {key: data.get(key, self.original.get(key)) for key in self.data}
        is_written = any(self.data[key] is not one for key, one in read.items())
        is_set = self.gradients.keys() != gradients.keys() or any(
            self.gradients[k] is not gradients[k] for k in gradients
        )
        if is_written or is_set:
            raise tracing.NotOneLoop("a step writes to a Tensor", "Carry it from step to step, and write once")
        if any(isinstance(action, Draw) for action in self.before[before:]):
            raise tracing.NotOneLoop(
                "a step draws random numbers", "Draw those of all steps before the scan, and pass them in xs"
            )
        if before != len(self.before):
            raise tracing.NotOneLoop("a step has an effect, or reads a setting", "Do so before the scan")

    def check_loops(self, graph: Graph) -> None:
        """Look for values of one step of a loop that have got out of it.

        Raises:
            NotOneLoop: there are some.
        """
        if self.loops and any(node.primitive == "input" and node not in graph.inputs for node in graph.nodes()):
            raise tracing.NotOneLoop("a value of one step is used outside of it", "Return it as the step's result")

    # ------------------------------------------------------------------- the end

    def undo_effects(self) -> None:
        """Take back what the function did beside computing."""
        for action in reversed(self.before):
            if isinstance(action, Effect):
                action.undo()

    def undo_creations(self) -> None:
        """Take back the state that was made, as the call that made it has failed."""
        while self.creations:
            self.creations.pop()()

    def forget_values(self) -> None:
        """Let go of all Tensors whose places are known to the program by now."""
        for known in (self.data, self.gradients, self.original, self.places, self.tensors):
            known.clear()

    def without_values(self) -> list[tuple[Value, Node]]:
        """Return the Tensors that were made while tracing and are alive, though they never get values."""
        alive = [reference() for reference in self.born]
        found = [(one, own_data(one)) for one in alive if one is not None]
        return [(one, data.node) for one, data in found if type(data) is TracedArray]

    def written(self) -> Iterator[tuple[Value, Any]]:
        """Yield the Tensors whose data was replaced, with the new data."""
        for key, data in self.data.items():
            known = self.original.get(key)
            if known is None or data is not known:
                yield self.tensors[key], data


def _is_plain(value: object) -> bool:
    if isinstance(value, (tuple, list)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str))


def _is_unset(slot: Any, value: Value) -> bool:
    try:
        slot.__get__(value)
    except AttributeError:
        return True
    return False


def _as_constant(new: Any) -> Any:
    """Return an array that a Tensor is made of inside the function as part of the program."""
    return TracedArray.namespace.asarray(new) if isinstance(new, np.ndarray) else new
