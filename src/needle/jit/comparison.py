"""Running a compiled call beside the eager one, and naming the first operator in which they differ."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from needle import tracing
from needle.autograd import Tensor
from needle.compiler import Graph, Node
from needle.compiler.repeat import results_of
from needle.compiler.user_code import user_source
from needle.device import random
from needle.dtype import is_floating
from needle.errors import CompileError, NonFiniteError
from needle.jit.arguments import flatten
from needle.jit.finite import FiniteWatch, hidden_nan_error, hides_nan, is_finite, non_finite_error
from needle.jit.notes import OperatorResult, TracedLoop
from needle.jit.program import CompiledCall
from needle.jit.results import find_tensor, without_graph

__all__ = ["check_finite", "compare_with_eager", "error_within_loop"]

_DRAWS = "the random numbers that were drawn"
# What a scan that is one loop is made of where it is none: the elements, the stacked results.
_OF_SCANS = frozenset({"scan", "split", "stack", "make_tuple", "tuple_get_item"})
# How far a compiled result may be from the eager one, in units of the largest element: the order of sums differs.
_TOLERANCE = {2: 2e-2, 4: 1e-3, 8: 1e-8}


class Snapshot:
    """The state that a program reads and writes, as it is at one time: to compare with, and to go back to."""

    def __init__(self, program: CompiledCall, leaves: Sequence[Any]) -> None:
        places = [state.place for state in program.states] + [place for place, _ in program.state]
        found = [find_tensor(place, leaves) for place in places]
        self.tensors = list({id(one): one for one in found if one is not None}.values())
        self.arrays = [one.realize_cached_data().copy() for one in self.tensors]
        with_gradient = [find_tensor(place, leaves) for place, _ in program.gradients]
        self.with_gradient = list({id(one): one for one in with_gradient if one is not None}.values())
        self.gradients = [one.grad for one in self.with_gradient]
        self.gradient_arrays: list[Any] = [
            None if one is None else one.realize_cached_data().copy() for one in self.gradients
        ]
        self.draws = random.get_state()

    def go_back(self) -> None:
        """Make everything what it was."""
        for tensor, array in zip(self.tensors, self.arrays, strict=True):
            tensor.cached_data = array.copy()
        for tensor, gradient, saved in zip(self.with_gradient, self.gradients, self.gradient_arrays, strict=True):
            tensor.grad = gradient
            if gradient is not None:
                gradient.cached_data = saved.copy()
        random.set_state(self.draws)


class _Results(tracing.Observer):
    """Collects every operator's result."""

    def __init__(self) -> None:
        self.found: list[tuple[str, str, NDArray[Any]]] = []

    def operator(self, op: Any, result: Any, operands: Sequence[Any]) -> None:
        """Keep the result."""
        source = str(user_source() or "")
        for one in result if isinstance(result, tuple) else (result,):
            if isinstance(one, (np.ndarray, np.generic)):
                self.found.append((op.called, source, np.asarray(one)))


@contextmanager
def _effects_undone(program: CompiledCall) -> Iterator[None]:
    """Take back, after the block, what a call does beside computing."""
    yield
    program.recorder.undo_effects()


def compare_with_eager(
    program: CompiledCall, fn: Callable[..., Any], args: Any, kwargs: Any, leaves: Sequence[Any]
) -> Any:
    """Run a call compiled and then eagerly, and return the eager result, whose state stays.

    Raises:
        CompileError: a result, a gradient, a piece of state or the random numbers differ. State is as before the call.
    """
    before = Snapshot(program, leaves)
    with _effects_undone(program):
        compiled = [_array(one).copy() for one in flatten(program(leaves))]
        after = Snapshot(program, leaves)
    before.go_back()
    results = _Results()
    with tracing.recording(results):
        returned = fn(*args, **kwargs)
    eager = [_array(one) for one in flatten(returned)]
    now = Snapshot(program, leaves)
    what = _difference(compiled, after, eager, now)
    if what is None:
        return without_graph(returned)
    program.recorder.undo_effects()
    before.go_back()
    with _effects_undone(program), _nudged(before, leaves):
        rerun = [_array(one).copy() for one in flatten(fn(*args, **kwargs))]
        moved = Snapshot(program, leaves)
    before.go_back()
    if _difference(compiled, after, eager, now, (rerun, moved)) is None:
        return without_graph(fn(*args, **kwargs))
    first = _first_difference(program, leaves, results.found) or _beside_operators(program, leaves, what)
    if after.draws != now.draws and what.text != _DRAWS:
        first += ", and the random numbers that were drawn differ too"
    before.go_back()
    raise CompileError(
        f"the compiled call differs from the eager one in {what.text}{first}. State is as before the call"
    )


def _array(leaf: Any) -> NDArray[Any]:
    array: NDArray[Any] = leaf if isinstance(leaf, np.ndarray) else leaf.realize_cached_data()
    return array


@contextmanager
def _nudged(before: Snapshot, leaves: Sequence[Any]) -> Iterator[None]:
    """Change what a call reads by as much as rounding does, so that running it tells what rounding can do to it.

    A quantity that is 0 but for rounding (the gradient of a bias before batch normalisation) has no digits to compare,
    and an optimizer that divides by its size makes a whole step of it.
    """
    tensors = [*before.tensors, *(one for one in leaves if isinstance(one, Tensor))]
    tensors = list({id(one): one for one in tensors if is_floating(one.dtype)}.values())
    kept = [one.realize_cached_data() for one in tensors]
    rng = np.random.default_rng(0)
    for tensor, array in zip(tensors, kept, strict=True):
        step = 4 * float(np.finfo(array.dtype).eps) if array.dtype.kind == "f" else 1 / 64
        tensor.cached_data = (array * (1 + step * rng.choice([-1, 1], array.shape))).astype(array.dtype)
    yield
    for tensor, array in zip(tensors, kept, strict=True):
        tensor.cached_data = array


class _Difference(NamedTuple):
    """What differs, in words, and the Tensor whose values or gradient it is."""

    text: str
    tensor: Tensor | None = None


def _difference(
    compiled: Sequence[NDArray[Any]],
    after: Snapshot,
    eager: Sequence[NDArray[Any]],
    now: Snapshot,
    nudged: tuple[Sequence[NDArray[Any]], Snapshot] | None = None,
) -> _Difference | None:
    """Say what differs by more than rounding makes of it, None where nothing does."""
    results, state = nudged or (eager, now)
    for number, (one, other, third) in enumerate(zip(compiled, eager, results, strict=True)):
        if not _close(one, other, third):
            return _Difference(f"result {number}")
    for tensor, one, other, third in zip(after.tensors, after.arrays, now.arrays, state.arrays, strict=True):
        if not _close(one, other, third):
            return _Difference(f"the new values of a {type(tensor).__name__} {other.dtype} {other.shape}", tensor)
    gradients = zip(after.gradient_arrays, now.gradient_arrays, state.gradient_arrays, strict=True)
    for tensor, (was, is_now, third) in zip(after.with_gradient, gradients, strict=True):
        if (was is None) != (is_now is None) or (was is not None and not _close(was, is_now, third)):
            return _Difference(f"the gradient of a {type(tensor).__name__} of shape {tensor.shape}", tensor)
    return None if after.draws == now.draws else _Difference(_DRAWS)


def _close(one: NDArray[Any], other: NDArray[Any], nudged: NDArray[Any] | None = None) -> bool:
    """Tell whether two results agree, up to the order of sums and to a multiple of what a nudge changed."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    if not is_floating(one.dtype):
        return bool(np.array_equal(one, other))
    a, b = one.astype(np.float64), other.astype(np.float64)
    tolerance = _TOLERANCE[one.dtype.itemsize]
    scale = np.max(np.abs(b), initial=1e-30, where=np.isfinite(b))
    moved = 0.0 if nudged is None else np.max(np.abs(nudged.astype(np.float64) - b), initial=0.0, where=np.isfinite(b))
    return bool(np.allclose(a, b, rtol=tolerance, atol=tolerance * scale + 10 * moved, equal_nan=True))


def operator_results(program: CompiledCall) -> list[tuple[OperatorResult, NDArray[Any]]]:
    """Return each operator's result for the inputs that are bound, computed by a program that returns them all."""
    from needle.compiler.executable import Executable  # noqa: PLC0415  LLVM is loaded when first needed

    results = program.recorder.results
    if program.debugging is None:
        program.debugging = Executable(Graph(program.graph.inputs, tuple(one.node for one in results)))
    return list(zip(results, program.debugging(program.bound), strict=True))


def check_finite(program: CompiledCall) -> None:
    """Raise where an operator makes a NaN or an infinity of finite numbers, or a cast integers of NaN.

    For the inputs that are bound.

    Raises:
        NonFiniteError: one does; nothing has been changed yet.
    """
    inputs = zip(program.recorder.inputs, program.bound, strict=True)
    wrong = {node: array for (node, _), array in inputs if not is_finite(array)}
    for one, array in operator_results(program):
        operands = [wrong[node] for node in one.operands if node in wrong]
        if operands and hides_nan(one.name, array, operands):
            raise hidden_nan_error(one.name, one.source, operands[0])
        if is_finite(array):
            continue
        if not operands:
            raise non_finite_error(one.name, one.source, array)
        wrong[one.node] = array


def error_within_loop(
    program: CompiledCall, fn: Callable[..., Any], args: Any, kwargs: Any, leaves: Sequence[Any]
) -> NonFiniteError | None:
    """Make eagerly a call in which a loop made a NaN or an infinity, as operators in a loop have no results to look at.

    Returns:
        The error that names the operator; None where the eager call makes none. State is as before.
    """
    before = Snapshot(program, leaves)
    watch = _WatchTakenBack()
    try:
        with tracing.recording(watch):
            fn(*args, **kwargs)
    except NonFiniteError as error:
        return error
    finally:
        for undo in reversed(watch.done):
            undo()
        before.go_back()
    return None


class _WatchTakenBack(FiniteWatch):
    """Watches, and keeps how to take back what happens beside computing."""

    def __init__(self) -> None:
        self.done: list[Callable[[], object]] = []

    def effect(self, do: Callable[[], None], undo: Callable[[], None]) -> None:
        """Do it, to be taken back."""
        do()
        self.done.append(undo)

    def creation(self, undo: Callable[[], object]) -> None:
        """Let it stay until it is taken back."""
        self.done.append(undo)


def _first_difference(
    program: CompiledCall, leaves: Sequence[Any], eager: Sequence[tuple[str, str, NDArray[Any]]]
) -> str:
    """Say which operator's compiled result is the first to differ from the eager one."""
    with _effects_undone(program):
        program.bind_inputs(leaves)
    scans = program.recorder.scans
    compiled, behind = _results_in_order(program), ""
    if scans:
        compiled = (found for found in compiled if found[0].name not in _OF_SCANS)
        eager = [found for found in eager if found[0] not in _OF_SCANS]
    for (one, step, array), (other_name, _, other) in zip(compiled, eager, strict=False):
        if one.name != other_name:  # the gradient of a loop has no operators in its trace
            return (
                behind or f": eagerly the function applies {other_name} where its trace has {one.name} ({one.source})"
            )
        if not _close(array, other):
            where = f" at {one.source}" if one.source else ""
            within = "" if step is None else f", in step {step} of a scan"
            return f"; the first operator that differs is {one.name}{where}{within}"
        if step is not None:
            behind = "; each operator before the gradient of a scan agrees"
    return ""


def _results_in_order(program: CompiledCall) -> Iterator[tuple[OperatorResult, int | None, NDArray[Any]]]:
    """Yield operators' results in the order of the eager call, those in a scan with the number of the element."""
    loops = _results_in_loops(program)
    for one, array in operator_results(program):
        yield one, None, array
        if one.node in loops:  # once: operators that pick one of the results have the same node
            loop, found = loops.pop(one.node)
            for t in reversed(range(loop.length)) if loop.reverse else range(loop.length):
                yield from ((inside, t, of_all[t]) for inside, of_all in zip(loop.operators, found, strict=True))


def _results_in_loops(program: CompiledCall) -> dict[Node, tuple[TracedLoop, list[NDArray[Any]]]]:
    """Return for each scan, by its first result, what the operators in it return, stacked along the steps."""
    from needle.compiler.executable import Executable  # noqa: PLC0415  LLVM is loaded when first needed

    loops, ends = program.recorder.scans, [0]
    outputs: list[Node] = []
    for loop in loops:
        body = replace(loop.body, given=tuple(one.node for one in loop.operators))
        results = results_of(body.node(loop.starts, loop.sequences, loop.length, loop.reverse))
        outputs += results[len(body.carried) :]
        ends.append(len(outputs))
    if not outputs:
        return {}
    found = Executable(Graph(program.graph.inputs, tuple(outputs)))(program.bound)
    slices = [found[start:end] for start, end in pairwise(ends)]
    return {loop.result: (loop, arrays) for loop, arrays in zip(loops, slices, strict=True)}


def _beside_operators(program: CompiledCall, leaves: Sequence[Any], what: _Difference) -> str:
    """Say where the values were made that differ though each operator by itself agrees."""
    if what.tensor is None:
        return "" if what.text == _DRAWS else "; each operator by itself agrees"
    places = [*program.state, *program.gradients]
    outputs = [output for place, output in places if find_tensor(place, leaves) is what.tensor and output is not None]
    source = program.graph.outputs[outputs[0]].source if outputs else None
    where = f" at {source}" if source else ""
    return f"; each operator by itself agrees: it is what is computed beside them{where}, such as an optimizer's step"
