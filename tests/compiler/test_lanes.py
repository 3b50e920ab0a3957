"""Lanes: rows that go through a chain of steps by themselves, and touch nothing of each other's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product as points
from typing import Any

import numpy as np
import pytest
from tests.compiler.compiled import compile_function

from needle.compiler import Graph, TracedArray, input_node, lanes, program
from needle.compiler.lanes import LaneStep, in_lanes
from needle.compiler.loops import Buffer, Gather, Load, Place, walk
from needle.compiler.schedule import schedule
from needle.compiler.simplify import simplify
from needle.compiler.steps import Contraction
from needle.compiler.thread_count import set_num_threads

STEPS, ROWS, WIDTH = 8, 19, 12


def plain(h, w, x):
    return np.tanh(np.matmul(h, w) + x)


def gated(h, w, x):
    sums = np.matmul(h, np.concatenate([w, w], axis=1))
    gates = np.exp(-np.abs(sums[:, :WIDTH]))
    return np.concatenate([gates[:, :5] * h[:, :5], sums[:, WIDTH + 5 :] * np.tanh(h[:, 5:])], axis=1) + x


def softmaxed(h, w, x):
    sums = np.exp(np.matmul(h, w) + x)
    return sums / np.sum(sums, axis=1, keepdims=True)


def upside_down(h, w, x):
    return np.tanh(np.matmul(h[::-1], w) + x)


def shifted(h, w, x):
    return np.tanh(np.matmul(np.concatenate([h[1:], h[:1]]), w) + x)


def centred(h, w, x):
    sums = np.matmul(h, w) + x
    return np.tanh(sums - np.mean(sums, axis=0, keepdims=True))


def through_its_square(h, w, x):
    return np.tanh(np.matmul(h, w) + np.matmul(h, np.matmul(np.transpose(h), x)))


INDEPENDENT = [plain, gated, softmaxed]
MIXED = [upside_down, shifted, centred, through_its_square]
Step = Callable[..., Any]


def repeated(step: Step, reads_all: bool) -> Step:
    """Return the last state, and all or their sum; of all, the middle ones are read as a matrix of other rows, too."""

    def function(h, w, x):
        states = []
        for t in range(STEPS):
            h = step(h, w, x[t])
            states.append(h)
        if not reads_all:
            return h
        stacked = np.stack(states)
        return h, stacked, np.matmul(np.reshape(stacked, (STEPS * ROWS, WIDTH)), w), states[3] * 2.0

    return function


def arrays() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = [(ROWS, WIDTH), (WIDTH, WIDTH), (STEPS, ROWS, WIDTH)]
    return [0.5 * rng.standard_normal(shape, dtype=np.float32) for shape in shapes]


def divided(function: Step, processors: int = 2) -> list[LaneStep]:
    inputs = tuple(input_node(array.shape, array.dtype) for array in arrays())
    traced = function(*map(TracedArray, inputs))
    outputs = traced if isinstance(traced, tuple) else (traced,)
    graph = Graph(inputs, tuple(one.node for one in outputs))
    return in_lanes(schedule(simplify(graph)), processors)


def touched(step: LaneStep) -> Iterator[tuple[Buffer, int, bool]]:
    """Yield each element that a step touches, and whether it writes it."""

    def elements(buffer: Buffer, place: Place, shape: tuple[int, ...], writes: bool) -> Iterator[Any]:
        for point in points(*map(range, shape)):
            at = place.offset + sum(i * stride for i, stride in zip(point, place.strides, strict=True))
            assert 0 <= at < buffer.size
            yield buffer, at, writes

    one = step.step
    if isinstance(one, Contraction):
        stages, shape = one.epilogue, one.out.shape
        yield from ((one.out, at, True) for at in range(one.out.size))
        for operand in (one.a, one.b):
            walks = [each for axis in operand.axes for each in axis]
            place = Place(operand.offset, tuple(stride for _, stride in walks))
            yield from elements(operand.buffer, place, tuple(length for length, _ in walks), False)
    else:
        stages, shape = one.stages, one.shape
    for stage in stages:
        yield from elements(stage.buffer, stage.place, shape, True)
        for value in walk(stage.value):
            assert not isinstance(value, Gather)
            if isinstance(value, Load):
                yield from elements(value.buffer, value.place, shape, False)


@pytest.mark.parametrize("reads_all", [False, True])
@pytest.mark.parametrize("step", INDEPENDENT + MIXED)
def test_lanes_touch_nothing_that_another_lane_writes(step: Step, reads_all: bool) -> None:
    found: dict[tuple[Buffer, int], set[tuple[int, int, bool]]] = {}
    for one in divided(repeated(step, reads_all), processors=2):
        if one.lane is not None:
            for buffer, at, writes in touched(one):
                found.setdefault((buffer, at), set()).add((one.lane.chain, one.lane.number, writes))
    for users in found.values():
        for chain, number, writes in users:
            assert not writes or all(other[1] == number for other in users if other[0] == chain)


@pytest.mark.parametrize("step", INDEPENDENT)
def test_chain_of_independent_rows_is_divided(step: Step) -> None:
    numbers = [one.lane.number for one in divided(repeated(step, False)) if one.lane is not None]
    products = [one for one in divided(repeated(step, False)) if isinstance(one.step, Contraction)]
    assert set(numbers) == {0, 1}
    assert len(products) == 2 * STEPS and all(one.lane is not None for one in products)


@pytest.mark.parametrize("step", MIXED)
def test_chain_of_mixed_rows_is_not_divided_whole(step: Step) -> None:
    products = [one for one in divided(repeated(step, False)) if isinstance(one.step, Contraction)]
    assert any(one.lane is None for one in products)


def test_short_chains_few_rows_and_long_products_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    function = repeated(plain, False)
    assert all(one.lane is None for one in divided(function, processors=1))
    monkeypatch.setattr(lanes, "_FEWEST_ROWS", ROWS)
    assert all(one.lane is None for one in divided(function))
    monkeypatch.undo()
    monkeypatch.setattr(lanes, "_SHORTEST_CHAIN", STEPS + 1)
    assert all(one.lane is None for one in divided(function))
    monkeypatch.undo()
    monkeypatch.setattr(lanes, "_LONGEST_PRODUCT", ROWS * WIDTH * WIDTH - 1)
    assert all(one.lane is None for one in divided(function))


@pytest.mark.parametrize("reads_all", [False, True])
@pytest.mark.parametrize("step", INDEPENDENT + MIXED)
def test_compiled_lanes_give_the_numbers_of_the_undivided_chain(
    step: Step, reads_all: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = arrays()
    results = []
    for processors in (1, 2, 3):
        monkeypatch.setattr(program, "available_processors", lambda count=processors: count)
        monkeypatch.setattr(lanes, "_FEWEST_ROWS", 4)
        compiled = compile_function(repeated(step, reads_all), *given)
        for threads in (1, 2, 4):
            set_num_threads(threads)
            try:
                results.append(compiled(given))
            finally:
                set_num_threads(None)
    for other in results[1:]:
        for got, expected in zip(other, results[0], strict=True):
            np.testing.assert_array_equal(got, expected)
