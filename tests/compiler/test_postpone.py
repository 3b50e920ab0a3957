"""Phases that are postponed: still in an order that they may run in, and with less in memory."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from needle.compiler.ir import Function
from needle.compiler.loops import Buffer
from needle.compiler.postpone import postpone
from needle.compiler.rendered import RenderedKernel
from needle.compiler.rounds import make_rounds

BYTES = np.dtype(np.uint8)


def make_phase(number, written, read, shared):
    buffers = tuple(dict.fromkeys([*written, *read]))
    return RenderedKernel(Function(f"f{number}", [], ""), buffers, 4, shared, len(dict.fromkeys(written)))


def places(rounds):
    """Return for each phase, by the name of its function, its round, its chunk and its place in the round."""
    found = {}
    for number, turns in enumerate(rounds):
        for place, turn in enumerate(turns):
            found[turn.phase.function.name] = number, turn.owner, place
    return found


def assert_in_order(phases, rounds):
    where = places(rounds)
    assert sorted(where) == sorted(phase.function.name for phase in phases)
    for i, one in enumerate(phases):
        for other in phases[i + 1 :]:
            conflict = set(one.writes) & set(other.buffers) or set(one.buffers) & set(other.writes)
            if conflict:
                (a, a_owner, a_place), (b, b_owner, b_place) = (where[x.function.name] for x in (one, other))
                assert a < b or (a == b and a_owner is not None and a_owner == b_owner and a_place < b_place)


def bytes_in_rounds(rounds, outside):
    """Return the bytes of all buffers, each times the rounds that it lives for."""
    lives = {}
    for number, turns in enumerate(rounds):
        for turn in turns:
            for buffer in turn.phase.buffers:
                if buffer not in outside:
                    lives[buffer] = (lives.get(buffer, (number, number))[0], number)
    return sum(buffer.size * (last - first + 1) for buffer, (first, last) in lives.items())


@st.composite
def programs(draw):
    """Return phases, each of which writes a buffer of its own or, now and then, an earlier one, and the outside."""
    given_ = [Buffer(f"in{i}", (draw(st.integers(1, 100)),), BYTES) for i in range(2)]
    known, phases, results = list(given_), [], []
    for number in range(draw(st.integers(1, 14))):
        read = draw(st.lists(st.sampled_from(known), max_size=3))
        if draw(st.integers(0, 5)):
            written = [Buffer(f"b{number}", (draw(st.integers(1, 100)),), BYTES)]
        else:
            written = [draw(st.sampled_from(known))]
        phases.append(make_phase(number, written, [one for one in read if one not in written], draw(st.booleans())))
        known += written
    results = draw(st.lists(st.sampled_from(known), max_size=2))
    return phases, {*given_, *results}


@settings(max_examples=500)
@given(programs())
def test_postponed_phases_keep_their_order_and_take_no_more_memory(program):
    phases, outside = program
    rounds = make_rounds(phases)
    assert_in_order(phases, rounds)
    later = postpone(rounds, outside)
    assert_in_order(phases, later)
    assert all(later)
    assert bytes_in_rounds(later, outside) <= bytes_in_rounds(rounds, outside)


def layers_of(shared):
    """Return a forward chain of five, a phase that packs the first result, and its reader, which needs the last too."""
    x, *chain = [Buffer(f"h{i}", (100,), BYTES) for i in range(6)]
    packed, gradient = Buffer("packed", (100,), BYTES), Buffer("gradient", (10,), BYTES)
    phases = [make_phase(0, [chain[0]], [x], True), make_phase("pack", [packed], [chain[0]], shared)]
    phases += [make_phase(i, [chain[i]], [chain[i - 1]], True) for i in range(1, 5)]
    phases.append(make_phase("keep", [Buffer("kept", (1,), BYTES)], [chain[0], chain[4]], True))
    return [*phases, make_phase("last", [gradient], [packed, chain[0], chain[4]], True)], {x, gradient}


def test_what_is_read_long_after_is_done_right_before_it_is_read():
    for shared in (True, False):
        phases, outside = layers_of(shared)
        rounds = make_rounds(phases)
        assert places(rounds)["fpack"][0] == 1
        later = places(postpone(rounds, outside))
        assert later["fpack"][0] == later["flast"][0] - 1


def test_what_lets_its_input_be_forgotten_is_done_at_once():
    x, big, small, *chain = [Buffer(f"b{i}", (10 if i == 2 else 1000,), BYTES) for i in range(6)]
    phases = [make_phase(0, [big], [x], True), make_phase("sum", [small], [big], True)]
    phases += [make_phase(1, [chain[0]], [x], True), make_phase(2, [chain[1]], [chain[0]], True)]
    phases += [
        make_phase(3, [chain[2]], [chain[1]], True),
        make_phase(4, [Buffer("out", (1,), BYTES)], [small, chain[2]], True),
    ]
    rounds = make_rounds(phases)
    assert places(postpone(rounds, {x}))["fsum"] == places(rounds)["fsum"]
