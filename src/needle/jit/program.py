"""One traced and compiled call: what it reads, runs and writes, and when it may be used again."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from needle.autograd import Tensor
from needle.compiler import Graph, Node
from needle.compiler.address import address_of
from needle.device import random
from needle.jit.forms import Form
from needle.jit.free_objects import EnvironmentGuard, ObjectGuard
from needle.jit.host_numbers import HostNumbers
from needle.jit.module_guard import ModuleGuard
from needle.jit.notes import ArgumentPlace, Draw, Effect, GradientPlace, HostArray, HostScalar, Place, Read, StatePlace
from needle.jit.outcome import Outcome
from needle.jit.premises import Mismatch, Premises
from needle.jit.recorder import Recorder
from needle.jit.result_memory import ResultMemory, take_all
from needle.jit.results import Results, Sources, find_tensor

if TYPE_CHECKING:
    from needle.compiler.mersenne import Stream

__all__ = ["CompiledCall"]


class CompiledCall:
    """A program for one way of calling a function.

    Args:
        recorder: what was noted while the function was traced.
        result: what the function returned, with traced Tensors in it.
        objects: guards for what the function's code names.
        mode: whether graphs were recorded.
        overwrite: whether state that nobody else holds may be overwritten in place.
    """

    def __init__(
        self,
        recorder: Recorder,
        result: Any,
        objects: Sequence[ObjectGuard | EnvironmentGuard],
        mode: bool,
        overwrite: bool = True,
    ) -> None:
        self.recorder = recorder
        modules = ModuleGuard(recorder.modules.values(), recorder.array_ids())
        self.premises = Premises(mode, objects, modules, recorder.guards)
        self.lock = threading.RLock()
        # Looks at a call whose inputs are bound, before it runs: for what debugging wants to know.
        self.debugging: Any = None  # a program that returns every operator's result
        self.look: Callable[[CompiledCall], None] | None = None
        # That of a call with nothing but Tensors, arrays and plain values; set by who keeps the program.
        self.form: Form | None = None
        self.outcome = outcome = Outcome(recorder, result)
        self.state, self.gradients, self.missing = outcome.state, outcome.gradients, outcome.missing
        self.early, self.late, self.asked = outcome.early, outcome.late, outcome.asked
        self.graph = Graph(tuple(node for node, _ in recorder.inputs), tuple(outcome.nodes))
        self._may_overwrite = outcome.may_overwrite if overwrite and not self.late else {}

    # ------------------------------------------------------------------------------------ preparation

    def compile(self) -> None:
        """Compile the traced graph."""
        from needle.compiler.executable import Executable  # noqa: PLC0415  LLVM is loaded when first needed

        start = time.perf_counter()
        self.executable = Executable(self.graph, self._may_overwrite, self._drawn_inside())
        self.seconds = time.perf_counter() - start
        self._prepare()

    def _drawn_inside(self) -> list[int]:
        """Return the numbers of the inputs that the program can draw itself: all draws, in their order, or none."""
        number_of = {source: number for number, (_, source) in enumerate(self.recorder.inputs)}
        draws = [action for action in self.recorder.before if isinstance(action, Draw)]
        self.draws_inside = bool(draws) and all(random.is_uniform(one.fill) for one in draws)
        return [number_of[one] for one in draws] if self.draws_inside else []

    def _prepare(self) -> None:
        """Sort inputs and outputs by where they come from and go to."""
        executable = self.executable
        addresses = executable.new_addresses()
        self.list_of_addresses = address_of(addresses)
        self.addresses = memoryview(addresses.data)  # an element is set in half the time
        count = executable.input_count
        self.bound: list[Any] = [None] * count
        self.arguments: list[tuple[int, int]] = []
        self.states: list[_State] = []
        self.moved: list[_State] = []
        overwritten = {given: output for output, given in executable.overwrites.items()}
        self.host_arrays: list[tuple[int, Any]] = []
        self.draws: dict[int, int] = {}
        before = self.recorder.before
        reads = [action for action in before if isinstance(action, Read)]
        self.numbers = HostNumbers(reads, self.recorder.number_guards)
        # Most programs read all numbers before they do anything.
        first = next((number for number, one in enumerate(before) if not isinstance(one, Read)), len(before))
        self.reads_first = [one.read for one in reads[:first]]
        self.other_actions = before[first:]
        for number, (node, source) in enumerate(self.recorder.inputs):
            if isinstance(source, ArgumentPlace):
                self.arguments.append((number, source.number))
            elif isinstance(source, (StatePlace, GradientPlace)):
                self.states.append(_State(number, source, node, overwritten.get(number)))
            elif isinstance(source, HostArray):
                self.host_arrays.append((number, source.array))
            elif isinstance(source, Draw):
                self.draws[id(source)] = number
                if source.fill is not None:
                    self._bind(number, np.empty(node.shape, node.dtype))
            elif isinstance(source, HostScalar):
                self._bind(number, self.numbers.scalar(source.number, source.dtype))
        self.moved = list(self.states)
        self.passing = [state.number for state in self.states if state.tensor is None]
        # Which of them require a gradient stays so, says a guard.
        self.results = Results(self.outcome.result, Sources(state.tensor for state in self.states))
        self.kinds = executable.output_kinds
        self.outputs: list[Any] = [None] * len(self.kinds)
        in_place = set(executable.overwrites)
        self.answers = [(np.zeros((), bool), number, check) for _, number, check in self.asked]
        for (output, _, _), (answer, _, _) in zip(self.asked, self.answers, strict=True):
            self._bind_output(output, answer)
        kept = {output for _, output in self.gradients if output is not None}
        kept |= in_place | {output for output, _, _ in self.asked}
        self.given_out = [
            ResultMemory(output, executable.output_start + output, *kind)
            for output, kind in enumerate(self.kinds)
            if output not in kept
        ]
        self.rewritten = [(place, output) for place, output in self.state if output not in in_place]
        self.has_more_inputs = bool(self.states or self.host_arrays or self.early or self.recorder.before)

        # Nothing is read beside arguments, done beside computing, or looked at before or after.
        self.only_computes = not (self.has_more_inputs or self.passing or self.late or self.asked or self.draws_inside)

    def _bind(self, number: int, array: NDArray[Any]) -> None:
        if self.bound[number] is array:
            return
        self.addresses[number] = address_of(array)
        self.bound[number] = array

    def _bind_output(self, output: int, array: NDArray[Any]) -> None:
        if self.outputs[output] is not array:
            self.addresses[self.executable.output_start + output] = address_of(array)
            self.outputs[output] = array

    # -------------------------------------------------------------------------------------- may it be used?

    def serves(self, args: tuple[Any, ...], leaves: list[Any]) -> bool:
        """Tell whether the program may be used for arguments of its form, which go into `leaves`; if so, quickly."""
        return self.form is not None and self.form.fits(args, leaves) and self.mismatch(leaves) is None

    def mismatch(self, leaves: Sequence[Any]) -> Mismatch | None:
        """Return what has changed since the trace that the program took for granted; None where it may be used."""
        found = self.premises.mismatch()
        if found is None and (self.states or self.missing):
            found = self._state_mismatch(leaves)
        if found is None and self.recorder.number_guards:
            found = self.numbers.mismatch()
        return found

    def _state_mismatch(self, leaves: Sequence[Any]) -> Mismatch | None:
        """Look at every Tensor that the program reads; note those whose array is not the one of the last call."""
        for place, missing in self.missing:
            tensor = find_tensor(place, leaves)
            if tensor is None or (tensor.grad is None) != missing:
                return "whether a gradient is there", not missing, missing
        bound, getrefcount = self.bound, sys.getrefcount
        self.moved = []
        for state in self.states:
            number, tensor, grad, most = state.number, state.tensor, state.requires_grad, state.references
            if tensor is None:
                self.moved.append(state)
                continue
            array = tensor.cached_data
            if tensor.requires_grad is not grad:
                return "requires_grad of a Tensor", grad, not grad
            if array is not bound[number] or getrefcount(array) > most:
                self.moved.append(state)
        for state in self.moved:
            tensor = find_tensor(state.place, leaves)
            array = None if tensor is None else tensor.realize_cached_data()
            if array is None or array.shape != state.shape or array.dtype != state.dtype:
                now = "nothing" if array is None else f"{array.dtype} {array.shape}"
                return "a Tensor that the function uses", f"{state.dtype} {state.shape}", now
        return None

    # ----------------------------------------------------------------------------------------------- running

    def __call__(self, leaves: Sequence[Any]) -> Any:
        """Run the program on a call's arguments, and put what it computed in place."""
        with self.lock:
            if self.only_computes and self.look is None:
                self._bind_arguments(leaves)
                outputs = self._bind_outputs(leaves)
                self.executable.run_at(self.list_of_addresses)
                return self._finish(leaves, outputs)
            done: list[Effect] = []
            stream = random.uniform_stream() if self.draws_inside else None
            # Who looks at a call before it runs wants to see what it draws.
            inside = stream if self.look is None and self.executable.may_draw else None
            before: Any = stream.save() if stream else random.raw_state() if self.draws else None
            try:
                self._bind_arguments(leaves)
                if self.has_more_inputs:
                    self._bind_other_inputs(leaves, done, draws=inside is None)
                if self.look is not None:
                    self.look(self)
                outputs = self._bind_outputs(leaves)
                self._run(inside)
                for output, check in self.late:
                    check(outputs[output])
                for answer, number, check in self.answers:
                    if answer:
                        check(self.bound[number])
            except BaseException:
                for effect in reversed(done):
                    effect.undo()
                if stream is not None:
                    stream.restore(before)
                elif self.draws:
                    random.set_raw_state(before)
                raise
            for number in self.passing:
                self.bound[number] = None  # may be somebody else's to write again
            return self._finish(leaves, outputs)

    def _run(self, stream: Stream | None) -> None:
        """Run the program, which draws from a stream where there is one."""
        if stream is None:
            self.executable.run_at(self.list_of_addresses)
            return
        generator = self.executable.generator
        with stream.lock:
            generator[:] = stream.function, stream.state
            try:
                self.executable.run_at(self.list_of_addresses)
            finally:
                generator[:] = 0

    def bind_inputs(self, leaves: Sequence[Any]) -> None:
        """Make the inputs of a call what they would be, without running it; effects beside computing happen."""
        self.moved = list(self.states)
        self.passing = [state.number for state in self.states if state.tensor is None]
        self._bind_arguments(leaves)
        self._bind_other_inputs(leaves, [])

    @contextmanager
    def as_if_called(self, leaves: Sequence[Any]) -> Iterator[list[NDArray[Any]]]:
        """Give the arrays that a call would read; draws and effects beside computing are taken back afterwards."""
        draws = random.get_state()
        try:
            self.bind_inputs(leaves)
            yield list(self.bound)
        finally:
            self.recorder.undo_effects()
            random.set_state(draws)

    def _bind_arguments(self, leaves: Sequence[Any]) -> None:
        bound = self.bound
        for number, leaf in self.arguments:
            one = leaves[leaf]
            array = np.ascontiguousarray(one if isinstance(one, np.ndarray) else one.cached_data)
            if bound[number] is not array:
                self._bind(number, array)

    def _bind_other_inputs(self, leaves: Sequence[Any], done: list[Effect], draws: bool = True) -> None:
        for number, array in self.host_arrays:
            self._bind(number, np.ascontiguousarray(array))
        for state in self.moved:
            self._bind_state(state, leaves)
        for number, check in self.early:
            check(self.bound[number])
        numbers = [read() for read in self.reads_first]
        for action in self.other_actions:
            if isinstance(action, Effect):
                action.do()
                done.append(action)
            elif isinstance(action, Read):
                numbers.append(action.read())
            elif draws:
                self._draw(action)
        if numbers:
            self.numbers.write(numbers)

    def _draw(self, action: Draw) -> None:
        number = self.draws[id(action)]
        if action.fill is None:
            self._bind(number, np.ascontiguousarray(action.make()))
        else:
            action.fill(self.bound[number])

    def _bind_state(self, state: _State, leaves: Sequence[Any]) -> None:
        tensor = find_tensor(state.place, leaves)
        array = tensor.realize_cached_data()
        if state.output is None:
            self._bind(state.number, np.ascontiguousarray(array))
            return
        # Known to the Tensor, to this function and to the count itself, and twice to this program where it was bound.
        shared = sys.getrefcount(array) > (5 if array is self.bound[state.number] else 3)
        if shared or not (array.flags.c_contiguous and array.flags.owndata and array.flags.writeable):
            array = array.copy(order="C")
            tensor.cached_data = array
        self._bind(state.number, array)
        self._bind_output(state.output, array)

    def _bind_outputs(self, leaves: Sequence[Any]) -> list[Any]:
        """Return the arrays of a call's outputs: those that are kept, and those that are given out."""
        for place, kept in self.gradients:
            if kept is None:
                continue
            # Memory of the last call's gradient serves again where nobody else has hold of it.
            array = self.outputs[kept]
            held = None if array is None else find_tensor(place, leaves)
            if held is not None:
                gradient = held.grad
                free = gradient is not None and gradient.cached_data is array
                if free and sys.getrefcount(gradient) <= 3 and sys.getrefcount(array) <= 4:
                    continue
                del gradient
            self._bind_output(kept, np.empty(*self.kinds[kept]))
        outputs = self.outputs.copy()
        take_all(self.given_out, outputs, self.addresses)
        return outputs

    def _finish(self, leaves: Sequence[Any], outputs: Sequence[Any]) -> Any:
        """Give the new values to the Tensors that they belong to, and return the function's result."""
        for place, output in self.rewritten:
            tensor = find_tensor(place, leaves)
            tensor.cached_data = outputs[output]
        for place, kept in self.gradients:
            tensor = find_tensor(place, leaves)
            if kept is None:
                tensor.grad = None
            elif tensor.grad is None or tensor.grad.cached_data is not outputs[kept]:
                tensor.grad = Tensor.make_const(outputs[kept])
        return self.results.of_call(outputs, leaves)


class _State:
    """A Tensor whose data is an input of the program, and the output that is written over it, where there is one."""

    __slots__ = ("dtype", "number", "output", "place", "references", "requires_grad", "shape", "tensor")

    def __init__(self, number: int, place: Place, node: Node, output: int | None) -> None:
        self.number = number
        self.place = place
        self.tensor = place.tensor if isinstance(place, StatePlace) else None
        self.requires_grad = self.tensor is not None and self.tensor.requires_grad
        self.shape = node.shape
        self.dtype = node.dtype
        self.output = output
        # How many references its array has where nobody else holds it: the Tensor, the program's list of inputs (and
        # that of outputs), and two that look. Arrays that are only read may be held by anyone.
        self.references = 5 if output is not None else sys.maxsize
