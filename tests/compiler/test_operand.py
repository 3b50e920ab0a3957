"""Walks through operands: joined, divided and gone together, against plain enumeration."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from needle.compiler import input_node
from needle.compiler.graph import make_node
from needle.compiler.operand import Walk, joined_axes, refine, straightened

STEPS = st.lists(st.tuples(st.integers(1, 4), st.integers(-3, 12)), min_size=1, max_size=4)


def places(walk: Walk) -> list[int]:
    """List the places that a walk comes to, in order."""
    return [
        sum(at * stride for at, (_, stride) in zip(position, walk, strict=True))
        for position in itertools.product(*(range(length) for length, _ in walk))
    ]


@given(STEPS)
def test_straightened_walk_comes_to_the_same_places(steps: list[tuple[int, int]]) -> None:
    walk = straightened(steps)
    assert places(walk) == places(tuple(steps))
    assert len(walk) <= len(steps)
    assert len(walk) == 1 or all(length > 1 for length, _ in walk)


@given(st.lists(st.integers(2, 4), min_size=1, max_size=4), st.data())
def test_walks_gone_together_come_to_the_places_of_both(lengths: list[int], data: st.DataObject) -> None:
    cuts = [data.draw(st.lists(st.booleans(), min_size=len(lengths), max_size=len(lengths))) for _ in range(2)]
    walks = []
    for joins in cuts:
        joined: list[int] = []
        for length, joins_before in zip(lengths, joins, strict=True):
            if joins_before and joined:
                joined[-1] *= length
            else:
                joined.append(length)
        walks.append(tuple((length, data.draw(st.integers(1, 50))) for length in joined))
    found = refine(*walks)
    if found is None:
        return  # said where a step of one ends within a step of the other, which some cuts do not show
    common, *strides = found
    for walk, own in zip(walks, strides, strict=True):
        assert places(tuple(zip(common, own, strict=True))) == places(walk)


def test_steps_that_end_within_each_other_are_not_gone_together() -> None:
    assert refine(((2, 10), (3, 1)), ((3, 10), (2, 1))) is None
    assert refine(((3, 18), (9, 1)), ((27, 2),)) == ([3, 9], [18, 1], [18, 2])


def test_windows_joined_to_a_matrix_are_walks_of_their_axes() -> None:
    image = input_node((2, 8, 8, 3), np.dtype("f4"))
    windows = make_node("windows", (image,), axes=(1, 2), sizes=(3, 3))
    ordered = make_node("permute", (windows,), axes=(0, 1, 2, 4, 5, 3))
    matrix = make_node("reshape", (ordered,), shape=(2 * 6 * 6, 27))
    assert joined_axes(matrix) == (ordered, [[0, 1, 2], [3, 4, 5]])
    turned = make_node("permute", (matrix,), axes=(1, 0))
    assert joined_axes(turned) == (ordered, [[3, 4, 5], [0, 1, 2]])


@pytest.mark.parametrize("shape", [(4, 9), (3, 12), (36,)])
def test_axes_that_were_divided_stay_as_they_are(shape: tuple[int, ...]) -> None:
    node = make_node("reshape", (input_node((6, 6), np.dtype("f4")),), shape=shape)
    source, groups = joined_axes(node)
    expected = (node.inputs[0], [[0, 1]]) if shape == (36,) else (node, [[i] for i in range(len(shape))])
    assert (source, groups) == expected
