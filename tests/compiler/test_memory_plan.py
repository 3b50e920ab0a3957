"""The plan of the arena against the same rule written as loops."""

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from needle.compiler.ir import Function
from needle.compiler.loops import Buffer
from needle.compiler.memory import plan_memory, plan_rounds
from needle.compiler.rendered import RenderedKernel
from needle.compiler.rounds import Turn

LIVES = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 6), st.integers(1, 2000)), max_size=40)


def place_by_loops(buffers):
    """Put each buffer, largest first, at the lowest place that is free during its life."""
    placed = []
    for size, first, last in sorted(buffers, key=lambda one: -one[0]):
        beside = sorted((at, at + other) for at, other, begin, over in placed if begin <= last and first <= over)
        offset = 0
        for start, end in beside:
            if start - offset >= size:
                break
            offset = max(offset, end)
        placed.append((offset, size, first, last))
    return [offset for offset, *_ in placed]


@given(LIVES)
def test_buffers_lie_as_low_as_they_can_without_touching_each_other(lives):
    buffers = [Buffer(f"b{i}", (size,), np.dtype(np.uint8)) for i, (_, _, size) in enumerate(lives)]
    spans = [(first, first + length) for first, length, _ in lives]
    uses = [[one for one, (begin, end) in zip(buffers, spans, strict=True) if begin <= t <= end] for t in range(20)]
    arena = plan_memory(uses)
    rounded = {one: -(-one.size // 64) * 64 for one in buffers}
    for i, one in enumerate(buffers):
        start, end = arena.offsets[one], arena.offsets[one] + rounded[one]
        assert start % 64 == 0
        assert end <= arena.size
        for j, other in enumerate(buffers[:i]):
            if spans[i][0] <= spans[j][1] and spans[j][0] <= spans[i][1]:
                assert end <= arena.offsets[other] or arena.offsets[other] + rounded[other] <= start
    if buffers:
        # In the order in which they are met first, as the plan has them.
        met = list(dict.fromkeys(one for used in uses for one in used))
        known = [(rounded[one], *spans[buffers.index(one)]) for one in met]
        largest_first = sorted(met, key=lambda one: -rounded[one])
        assert [arena.offsets[one] for one in largest_first] == place_by_loops(known)


def test_nothing_takes_no_memory():
    assert plan_memory([]).size == 0


def test_buffers_of_one_chunk_share_memory_in_turns_and_keep_clear_of_other_chunks() -> None:
    def phase(number: int, owner: int | None, *buffers: Buffer) -> Turn:
        return Turn(RenderedKernel(Function(f"f{number}", [], ""), buffers, 1, False, 1), owner)

    chains = [[Buffer(f"b{owner}_{i}", (1000,), np.dtype(np.uint8)) for i in range(6)] for owner in range(2)]
    given, seen = (Buffer(name, (64,), np.dtype(np.uint8)) for name in ("given", "seen"))
    first = [phase(i, owner, chain[i + 1], chain[i], given) for owner, chain in enumerate(chains) for i in range(5)]
    last = [phase(9, 0, seen, chains[0][5], chains[1][5])]
    arena = plan_rounds([first, last], {given})
    assert arena.offsets.keys() == {*chains[0], *chains[1], seen}
    places = {buffer: range(arena.offsets[buffer], arena.offsets[buffer] + buffer.size) for buffer in arena.offsets}

    def are_apart(one: Buffer, other: Buffer) -> bool:
        return places[one].stop <= places[other].start or places[other].stop <= places[one].start

    for chain in chains:
        assert all(are_apart(one, other) for one, other in pairwise(chain))
    assert all(are_apart(one, other) for one in chains[0] for other in chains[1])
    assert arena.size <= 2 * (2 * 1024 + 1024) + 64
