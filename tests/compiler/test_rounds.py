"""Rounds: chunks of long phases, and rounds of more chunks than threads could ever want."""

import numpy as np
import pytest

pytest.importorskip("llvmlite")

from needle.compiler import Graph, TracedArray, input_node
from needle.compiler.executable import Executable
from needle.compiler.ir import Function
from needle.compiler.loops import Buffer
from needle.compiler.rendered import RenderedKernel
from needle.compiler.rounds import Share, Turn, order_of, shares_of
from needle.compiler.thread_count import set_num_threads


@pytest.mark.parametrize(
    ("parts", "work", "count"),
    [(100, 0, 4), (1000, 20_000_000, 10), (16, 30_000_000, 16), (100, 10**9, 34), (33, 10**9, 33), (2, 10**9, 2)],
)
def test_long_phases_fall_into_more_chunks(parts: int, work: int, count: int) -> None:
    phase = RenderedKernel(Function("f", []), (), parts, True, work=work)
    (share,) = shares_of([Turn(phase, None)], 4)
    assert share.count == count


def test_phases_that_touch_much_memory_are_longer_than_their_operations_say() -> None:
    array = Buffer("x", (1_000_000,), np.dtype("f4"))
    phase = RenderedKernel(Function("f", []), (array,), 1200, True, work=3_000_000)
    (share,) = shares_of([Turn(phase, None)], 4)
    assert share.count == 6


def test_phases_that_stream_their_operands_fall_into_a_chunk_for_each_thread() -> None:
    phase = RenderedKernel(Function("f", []), (), 84, True, is_streamed=True)
    (share,) = shares_of([Turn(phase, None)], 4)
    assert share.count == 2


def test_phases_in_few_chunks_come_before_those_in_many() -> None:
    def phase(is_streamed: bool) -> RenderedKernel:
        return RenderedKernel(Function("f", []), (), 84, True, is_streamed=is_streamed)

    shared, streamed = phase(is_streamed=False), phase(is_streamed=True)
    shares = shares_of([Turn(shared, None), Turn(streamed, None)], 4)
    assert [share.phases for share in shares] == [(streamed,), (shared,)]


def test_phases_of_long_chunks_come_before_those_of_short_ones() -> None:
    short, long = (RenderedKernel(Function("f", []), (), 1000, True, work=work) for work in (10**5, 10**7))
    shares = shares_of([Turn(short, None), Turn(long, None)], 4)
    assert [share.phases for share in shares] == [(long,), (short,)]


def test_each_thread_finds_a_piece_of_everything_and_short_chunks_last() -> None:
    phases = [RenderedKernel(Function("f", []), (), 100, True) for _ in range(4)]
    shares = [Share((phase,), count) for phase, count in zip(phases, (5, 4, 1, 1), strict=True)]
    assert order_of(shares, 2) == [0, 1, 5, 6, 9, 2, 3, 4, 7, 8, 10]
    assert order_of(shares, 1) == list(range(11))
    assert order_of(shares[:1], 2) == list(range(5))
    assert sorted(order_of(shares, 7)) == list(range(11))


def test_chunks_of_a_long_round_do_not_meet_the_next_rounds() -> None:
    count, shape = 1200, (3,)
    inputs = tuple(input_node(shape, np.dtype("f4")) for _ in range(count))
    large = input_node((600, 600), np.dtype("f4"))
    outputs = [TracedArray(one) + 1 for one in inputs]
    twice = np.tanh(np.tanh(TracedArray(large)).sum(axis=0))
    compiled = Executable(Graph((*inputs, large), tuple(one.node for one in [*outputs, twice])))
    arrays = [np.full(shape, number, np.float32) for number in range(count)]
    x = np.random.default_rng(0).standard_normal((600, 600)).astype("f4")
    set_num_threads(2)
    try:
        for _ in range(3):
            *got, last = compiled([*arrays, x])
            assert all((one == number + 1).all() for number, one in enumerate(got))
            np.testing.assert_allclose(last, np.tanh(np.tanh(x).sum(axis=0)), rtol=1e-4, atol=1e-5)
    finally:
        set_num_threads(None)


def test_long_chains_come_before_what_can_be_divided() -> None:
    def phase(work: int, shared: bool) -> RenderedKernel:
        return RenderedKernel(Function("f", [], ""), (), 8, shared, 1, work=work)

    shared, short, long = phase(10**6, True), phase(1000, False), phase(10**7, False)
    shares = shares_of([Turn(shared, None), Turn(short, 0), Turn(long, 1), Turn(short, 1)], 4)
    assert [share.phases for share in shares] == [(long, short), (shared,), (short,)]
    assert [share.count for share in shares] == [1, 4, 1]
