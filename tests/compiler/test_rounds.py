"""Rounds: their chunks, and that a round of any number of them is done by several threads."""

import numpy as np
import pytest
from tests.compiler.compiled import assert_compiles

from needle.compiler import round_code
from needle.compiler.ir import Function
from needle.compiler.loops import Buffer
from needle.compiler.render import RenderedKernel
from needle.compiler.rounds import Turn, shares_of
from needle.compiler.thread_count import set_num_threads

BUFFER = Buffer("b", (1000,), np.dtype(np.float32))


def chunks_of(work: int, parts: int) -> int:
    phase = RenderedKernel(Function("f", [], ""), (BUFFER,), parts, True, 1, work=work)
    (share,) = shares_of([Turn(phase, None)], 4)
    return share.count


def test_long_phases_fall_into_more_chunks_than_short_ones() -> None:
    assert chunks_of(100_000, 1000) == 4
    assert chunks_of(20_000_000, 1000) == 10
    assert chunks_of(10**12, 1000) == 16
    assert chunks_of(10**12, 3) == 3


def test_round_of_thousands_of_chunks_is_done_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(round_code, "available_processors", lambda: 300)
    rng = np.random.default_rng(0)
    arrays = [rng.random((600, 300), dtype=np.float32) for _ in range(4)]

    def function(*given):
        return tuple(np.exp(one) * np.sum(one, axis=0) for one in given)

    set_num_threads(2)
    try:
        assert_compiles(function, *arrays)
    finally:
        set_num_threads(None)


def test_long_chains_come_before_what_can_be_divided() -> None:
    def phase(work: int, shared: bool) -> RenderedKernel:
        return RenderedKernel(Function("f", [], ""), (BUFFER,), 8, shared, 1, work=work)

    shared, short, long = phase(10**6, True), phase(1000, False), phase(10**7, False)
    shares = shares_of([Turn(shared, None), Turn(short, 0), Turn(long, 1), Turn(short, 1)], 4)
    assert [share.phases for share in shares] == [(long, short), (shared,), (short,)]
    assert [share.count for share in shares] == [1, 4, 1]
