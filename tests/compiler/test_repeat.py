"""Loops in a graph against their meaning: what is carried, given and read, in lanes and in one, forwards and back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

import numpy as np
import pytest

pytest.importorskip("llvmlite")

from needle.compiler import Graph, TracedArray, input_node, interpret
from needle.compiler.executable import Executable
from needle.compiler.graph import Node, verify
from needle.compiler.lanes import lanes_of_loop
from needle.compiler.repeat import OpenBody, has_loops, results_of, unrolled
from needle.compiler.schedule import schedule
from needle.compiler.stages import Stages
from needle.compiler.steps import Loop
from needle.compiler.thread_count import set_num_threads

xp = TracedArray.namespace
serials = count()
Body = Callable[..., tuple[Sequence[Any], Sequence[Any]]]


def repeat(body: Body, starts: Sequence[Any], sequences: Sequence[Any], length: int, backwards: bool) -> list[Any]:
    """Return what a loop returns: `body` takes what is carried and the elements, and returns both kinds of outputs."""
    carried = tuple(input_node(one.shape, one.dtype) for one in starts)
    elements = tuple(input_node(one.shape[1:], one.dtype) for one in sequences)
    on, given = body(*map(TracedArray, (*carried, *elements)))
    opened = OpenBody(carried, elements, tuple(one.node for one in on), tuple(one.node for one in given))
    loop = opened.node([one.node for one in starts], [one.node for one in sequences], length, backwards, next(serials))
    return list(map(TracedArray, results_of(loop)))


def graph_of(function: Callable[..., Any], *arrays: np.ndarray) -> Graph:
    inputs = tuple(input_node(array.shape, array.dtype) for array in arrays)
    return Graph(inputs, tuple(one.node for one in function(*map(TracedArray, inputs))))


def random(*shape: int, seed: int = 0, dtype: str = "float32") -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) / 2).astype(dtype)


def loops_of(graph: Graph) -> list[Node]:
    return [node for node in graph.nodes() if node.primitive == "repeat"]


def assert_right(graph: Graph, *arrays: np.ndarray, in_loops: bool = True) -> None:
    """Check a graph's program against the interpreter's results, and those of the loops written out."""
    verify(graph)
    expected = interpret(graph, arrays)
    for one, other in zip(interpret(unrolled(graph, loops_of(graph)), arrays), expected, strict=True):
        np.testing.assert_array_equal(one, other)
    executable = Executable(graph)
    verify(executable.simplified)
    assert has_loops(executable.simplified) == in_loops
    for threads in (1, 2):
        set_num_threads(threads)
        try:
            for one, other in zip(executable(list(arrays)), expected, strict=True):
                assert (one.shape, one.dtype) == (other.shape, other.dtype)
                np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-5)
        finally:
            set_num_threads(None)


def rnn(w: Any, u: Any) -> Body:
    def body(h: Any, x: Any) -> Any:
        h = xp.tanh(xp.matmul(x, w) + xp.matmul(h, u))
        return [h], [h]

    return body


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("rows", [1, 3, 19, 32])
@pytest.mark.parametrize("length", [1, 2, 9])
def test_what_is_carried_is_also_given(rows: int, length: int, backwards: bool) -> None:
    arrays = random(length, rows, 5), random(rows, 7, seed=1), random(5, 7, seed=2), random(7, 7, seed=3)
    graph = graph_of(lambda x, h, w, u: repeat(rnn(w, u), [h], [x], length, backwards), *arrays)
    assert_right(graph, *arrays)


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("rows", [2, 33])
@pytest.mark.parametrize("length", [1, 2, 7, 8])
def test_what_is_only_carried_changes_places(rows: int, length: int, backwards: bool) -> None:
    def body(h: Any, c: Any, x: Any) -> Any:
        c = c * 0.5 + xp.sin(h)
        return [c - x, c], [xp.sum(h, axis=1)]

    arrays = random(length, rows, 5), random(rows, 5, seed=1), random(rows, 5, seed=2)
    graph = graph_of(lambda x, h, c: repeat(body, [h, c], [x], length, backwards), *arrays)
    assert_right(graph, *arrays)


@pytest.mark.parametrize(
    "body",
    [
        lambda h, x: ([h[::-1] + x], [h * 2]),
        lambda h, x: ([xp.tanh(h + x - xp.mean(h, axis=0, keepdims=True))], [x]),
        lambda h, x: ([h + xp.matmul(h, xp.matmul(xp.permute_dims(h, (1, 0)), x))], []),
        lambda h, x: ([h + xp.reshape(xp.permute_dims(x, (1, 0)), h.shape)], [h]),
        lambda h, x: ([h], [h + x, h + x]),
    ],
    ids=["reversed", "centred", "square", "transposed", "kept"],
)
def test_rows_that_are_mixed_are_in_one_lane(body: Any) -> None:
    arrays = random(6, 20, 4), random(20, 4, seed=1)
    graph = graph_of(lambda x, h: repeat(body, [h], [x], 6, False), *arrays)
    (loop,) = [one for one in Stages(graph, {}).program.steps if isinstance(one, Loop)]
    assert len(lanes_of_loop(loop, 2)) == 1
    assert_right(graph, *arrays)


def test_rows_that_go_by_themselves_are_in_lanes() -> None:
    arrays = random(6, 20, 5), random(20, 7, seed=1), random(5, 7, seed=2), random(7, 7, seed=3)
    graph = graph_of(lambda x, h, w, u: repeat(rnn(w, u), [h], [x], 6, False), *arrays)
    (loop,) = [one for one in Stages(graph, {}).program.steps if isinstance(one, Loop)]
    assert [len(lanes_of_loop(loop, processors)) for processors in (1, 2, 8)] == [1, 2, 2]


def test_long_steps_that_mix_rows_are_written_out() -> None:
    def body(h: Any, x: Any) -> Any:
        return [xp.tanh(xp.matmul(xp.permute_dims(h, (1, 0)), x))], []

    arrays = random(3, 96, 96), random(96, 96, seed=1)
    graph = graph_of(lambda x, h: repeat(body, [h], [x], 3, False), *arrays)
    assert_right(graph, *arrays, in_loops=False)


def test_more_results_of_the_same_loop_are_of_one_loop() -> None:
    arrays = random(6, 20, 4), random(20, 4, seed=1)

    def function(x: Any, h: Any) -> Any:
        carried, element = input_node(h.shape, h.dtype), input_node(x.shape[1:], x.dtype)
        on = xp.tanh(TracedArray(carried) + TracedArray(element)).node
        more = (TracedArray(on) * 2).node
        found = []
        for given in ((on,), (on, more)):
            opened = OpenBody((carried,), (element,), (on,), given)
            found += map(TracedArray, results_of(opened.node([h.node], [x.node], 6, False, 0)))
        return [found[1], found[4] + found[1]]

    graph = graph_of(function, *arrays)
    assert len(loops_of(graph)) == 2
    assert len(loops_of(Stages(graph, {}).simplified)) == 1
    assert_right(graph, *arrays)


def test_steps_that_read_arrays_of_numbers() -> None:
    table = random(4, seed=3)

    def body(h: Any, x: Any) -> Any:
        return [h + xp.asarray(table) * x], [xp.arange(4) + xp.astype(h, np.int64)]

    arrays = random(6, 3, 4), random(3, 4, seed=1)
    assert_right(graph_of(lambda x, h: repeat(body, [h], [x], 6, False), *arrays), *arrays)


def test_loops_after_one_another() -> None:
    def function(x: Any, h: Any, w: Any, u: Any) -> Any:
        last, all_ = repeat(rnn(w, u), [h], [x], 9, False)
        end, back = repeat(rnn(xp.permute_dims(w, (1, 0)), u * 2), [last], [all_ * 3], 9, True)
        return [end, back, last]

    arrays = random(9, 20, 7), random(20, 7, seed=1), random(7, 7, seed=2), random(7, 7, seed=3)
    assert_right(graph_of(function, *arrays), *arrays)


def test_schedules_print() -> None:
    arrays = random(6, 20, 5), random(20, 7, seed=1), random(5, 7, seed=2), random(7, 7, seed=3)
    graph = graph_of(lambda x, h, w, u: repeat(rnn(w, u), [h], [x], 6, False), *arrays)
    assert "for t = 0 … 5:" in schedule(graph).show()


# ------------------------------------------------------------------------ steps that do not wait, loops in loops


def counted(number: Any, *arrays: Any) -> list[Any]:
    """Return, for each of six heads, sums over the first so many of four blocks; two heads share their blocks."""
    x, y, numbers = arrays

    def head(x: Any, y: Any, steps: Any) -> tuple[Any, Any]:
        def block(total: Any, one: Any) -> tuple[Any, Any]:
            return (total + xp.matmul(x, one),), ()

        (total,), _ = xp.repeat_step(block, (xp.zeros((5, 3), "float32"),), (y,), steps=steps if number else None)
        return (), (total, xp.exp(x))

    _, given = xp.repeat_step(head, (), (x, y, numbers), every=(1, 2, 1))
    return list(given)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("number", [False, True])
def test_a_loop_in_a_loop_of_steps_that_carry_nothing(number: bool, threads: int) -> None:
    x, y = random(6, 5, 7), random(3, 4, 7, 3, seed=1)
    numbers = np.array([1, 4, 2], dtype="int64")  # of blocks, which come again after three heads
    made = [y[n // 2, : numbers[n % 3] if number else 4].sum(0) for n in range(6)]
    expected = [np.stack([x[n] @ one for n, one in enumerate(made)]), np.exp(x)]
    graph = graph_of(lambda *arrays: counted(number, *arrays), x, y, numbers)
    verify(graph)
    executable = Executable(graph)
    set_num_threads(threads)
    try:
        for found in (interpret(graph, [x, y, numbers]), executable([x, y, numbers])):
            for one, other in zip(found, expected, strict=True):
                np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    finally:
        set_num_threads(None)
    (outer,) = loops_of(executable.simplified)
    assert len(loops_of(outer.params["body"])) == 1


def test_what_steps_read_repeated_is_read_as_it_is() -> None:
    x, bias, column = random(9, 5, 7), random(7, seed=1), random(5, 1, seed=2)

    def steps(x: Any, bias: Any, column: Any) -> list[Any]:
        row = xp.broadcast_to(xp.reshape(bias * 2, (1, 7)), (5, 7))
        return repeat(lambda h, x: ([xp.tanh(h + row) * column + x], []), [x[0]], [x], 9, False)

    graph = graph_of(steps, x, bias, column)
    (loop,) = loops_of(graph)
    assert sorted(one.shape for one in loop.inputs[2:]) == [(1, 7), (5, 1)]
    assert_right(graph, x, bias, column)


def test_a_counted_loop_backwards_goes_through_the_last_elements() -> None:
    x, number = random(5, 3), np.array(2, dtype="int64")

    def last(x: Any, number: Any) -> list[Any]:
        (total,), _ = xp.repeat_step(
            lambda total, one: ((total * 2 + one,), ()), (xp.zeros(3, "float32"),), (x,), backwards=True, steps=number
        )
        return [total]

    graph = graph_of(last, x, number)
    for found in (interpret(graph, [x, number]), Executable(graph)([x, number])):
        np.testing.assert_allclose(found[0], x[4] * 2 + x[3], rtol=1e-6)


def test_a_graph_prints_the_bodies_of_loops_below_them() -> None:
    graph = graph_of(lambda *arrays: counted(True, *arrays), random(6, 5, 7), random(3, 4, 7, 3), np.zeros(3, "int64"))
    lines = graph.show().splitlines()
    assert "body=" not in graph.show()
    assert any(line.startswith("        %") and "matmul(" in line for line in lines)  # in the loop in the loop
    assert any(line.startswith("    %") and "exp(" in line for line in lines)
