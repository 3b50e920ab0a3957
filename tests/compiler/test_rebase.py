"""Steps that begin elsewhere in their buffers share one function, and compute what they did."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("llvmlite")

from needle.compiler import Graph, TracedArray, input_node, interpret, schedule
from needle.compiler.executable import Executable
from needle.compiler.rebase import rebase


def compiled(function: Callable[..., Any], *arrays: np.ndarray) -> Executable:
    inputs = tuple(input_node(array.shape, array.dtype) for array in arrays)
    traced = function(*(TracedArray(node) for node in inputs))
    outputs = traced if isinstance(traced, tuple) else (traced,)
    return Executable(Graph(inputs, tuple(one.node for one in outputs)))


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype("float32")


def loop(x: Any, w: Any) -> Any:
    """Run a small recurrence over the first axis of x."""
    h = x[0] * 0
    found = []
    for t in range(x.shape[0]):
        h = np.tanh(x[t] + h @ w)
        found.append(h)
    return np.stack(found)


FUNCTIONS: dict[str, tuple[Callable[..., Any], tuple[np.ndarray, ...]]] = {
    "a loop": (loop, (normal(7, 5, 9), normal(9, 9))),
    "a loop of whole numbers": (
        lambda x, w: np.stack([x[t] @ w + x[6 - t] for t in range(7)]),
        (np.arange(7 * 6).reshape(7, 2, 3), np.arange(9).reshape(3, 3)),
    ),
    "two places in one buffer": (lambda x: np.stack([x[t] + x[t + 2] * x[4 - t] for t in range(3)]), (normal(5, 70),)),
    "backwards": (lambda x: np.stack([x[t, ::-1] * 2 for t in range(4)]), (normal(4, 33),)),
    "columns": (lambda x: np.stack([x[:, t::2].sum(axis=1) for t in range(2)]), (normal(40, 6),)),
    "chosen rows": (lambda x: np.stack([x[t][np.array([2, 0, 1])] for t in range(4)]), (normal(4, 3, 5),)),
    "places as values": (
        lambda x: np.concatenate([x[t] + x.__array_namespace__().arange(3, 8, dtype="float32") for t in range(3)]),
        (normal(3, 5),),
    ),
    "slices of both operands": (
        lambda a, b: np.stack([a[t, 1:, 1:4] @ b[t, :3, 2:] for t in range(3)]),
        (normal(3, 4, 5), normal(3, 6, 7)),
    ),
    "products and what follows": (
        lambda a, b: np.stack([np.tanh(a[t] @ a[t].T + b[t]) * b[2 - t] for t in range(3)]),
        (normal(3, 20, 30), normal(3, 20, 20)),
    ),
    "running sums": (lambda x: np.stack([np.cumsum(x[t], axis=0) for t in range(3)]), (normal(3, 4, 5),)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_result_is_the_interpreters(name: str) -> None:
    function, arrays = FUNCTIONS[name]
    program = compiled(function, *arrays)
    for got, expected in zip(program(arrays), interpret(program.graph, arrays), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_no_place_begins_before_or_behind_the_pointer(name: str) -> None:
    function, arrays = FUNCTIONS[name]
    for step in compiled(function, *arrays).program.steps:
        moved, begins = rebase(step)
        assert all(0 <= begin < max(buffer.size, 1) for buffer, begin in begins.items())
        assert rebase(moved)[1] == {}


def test_functions_do_not_grow_in_number_with_the_length_of_a_loop() -> None:
    def functions(steps: int) -> int:
        text = compiled(loop, normal(steps, 5, 9), normal(9, 9)).module.text
        return len(re.findall(r"^define internal void @k", text, re.MULTILINE))

    assert functions(20) == functions(10) < 12


def test_operands_that_are_computed_elementwise_do_not_start_scheduling_over(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    class Counted(schedule._Scheduler):
        def __init__(self, *given: Any) -> None:
            made.append(self)
            super().__init__(*given)

    monkeypatch.setattr(schedule, "_Scheduler", Counted)
    compiled(lambda x, w: np.stack([((x[t] * 2 + 1) @ w).T for t in range(9)]), normal(9, 4, 5), normal(5, 3))
    assert len(made) == 1
