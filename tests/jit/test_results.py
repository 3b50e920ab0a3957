"""Results of compiled functions: containers of every kind come back as the plain function makes them."""

from __future__ import annotations

from collections import namedtuple

import numpy as np
import pytest

import needle as ndl

Pair = namedtuple("Pair", "first second")
Key = namedtuple("Key", "name")


class Row(tuple):
    """A tuple of the user's own, made of one iterable as tuples are."""

    __slots__ = ()


def constant(values):
    return ndl.Tensor(values, requires_grad=False)


def parts_of(value):
    """Return containers with arrays in the place of Tensors, and the kinds of all."""
    if isinstance(value, ndl.Tensor):
        return "Tensor", value.numpy().tolist(), value.requires_grad
    if isinstance(value, dict):
        return type(value), [(key, parts_of(one)) for key, one in value.items()]
    if isinstance(value, (tuple, list)):
        return type(value), [parts_of(one) for one in value]
    return type(value), value


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x,
        lambda x: (x + 1,),
        lambda x: [x + 1],
        lambda x: (),
        lambda x: [[], {}, ()],
        lambda x: {"one": x + 1, 2: [x, x * 2], Key("three"): None},
        lambda x: Pair(x * 3, (x + 1, "text", 1.5, True)),
        lambda x: Row([x, x + 2]),
        lambda x: (float("nan"), float("inf"), b"bytes", x.shape),
    ],
)
@pytest.mark.parametrize("requires_grad", [False, True])
def test_a_compiled_function_returns_the_containers_of_the_plain_one(function, requires_grad):
    compiled = ndl.jit(function)
    for values in ([1.0, 2.0], [3.0, -1.0]):
        x = ndl.Tensor(values, requires_grad=requires_grad)
        assert repr(parts_of(compiled(x))) == repr(parts_of(function(x)))


def test_each_call_returns_new_containers():
    compiled = ndl.jit(lambda x: ([x + 1], {"two": x + 2}))
    first, second = compiled(constant([1.0])), compiled(constant([1.0]))
    first[0].append("more")
    first[1]["more"] = 1
    assert len(second[0]) == len(second[1]) == len(compiled(constant([1.0]))[0]) == 1


def test_a_tensor_that_is_returned_as_it_is_is_the_same_object():
    outside = constant([5.0])
    compiled = ndl.jit(lambda x: [x, outside, x + outside])
    for _ in range(2):
        x = constant([2.0])
        first, second, total = compiled(x)
        assert first is x
        assert second is outside
        np.testing.assert_array_equal(total.numpy(), [7.0])
