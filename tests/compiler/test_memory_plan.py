"""The plan of the arena against the same rule written as loops."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from needle.compiler.loops import Buffer
from needle.compiler.memory import plan_memory

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
