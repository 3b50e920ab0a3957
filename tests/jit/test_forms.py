"""A call like the last one is told at a glance; one that is not is looked at whole."""

from __future__ import annotations

import numpy as np
import pytest

import needle as ndl
from needle.jit.forms import form_of
from needle.nn import Parameter


def tensor(*shape, dtype="float32", requires_grad=False):
    return ndl.Tensor(np.ones(shape), dtype=dtype, requires_grad=requires_grad)


def fits(before, now):
    return form_of(before).fits(now, [])


def test_a_form_fits_other_tensors_and_arrays_of_the_same_kind():
    leaves = []
    now = tensor(2, 3), np.ones(3), 0.5
    assert form_of((tensor(2, 3), np.zeros(3), 0.5)).fits(now, leaves)
    assert leaves[0] is now[0]
    assert leaves[1] is now[1]
    assert len(leaves) == 2


@pytest.mark.parametrize(
    "other",
    [
        tensor(3, 2),
        tensor(6),
        tensor(2, 3, dtype="float64"),
        tensor(2, 3, requires_grad=True),
        Parameter(tensor(2, 3)),
        np.ones((2, 3), np.float32),
        1.0,
        None,
    ],
)
def test_a_form_does_not_fit_what_is_of_another_kind(other):
    assert not fits((tensor(2, 3),), (other,))


def test_a_form_does_not_fit_another_number_of_arguments():
    x = tensor(2)
    assert not fits((x,), (x, tensor(2)))
    assert not fits((x, tensor(2)), (x,))
    assert fits((), ())


@pytest.mark.parametrize("count", [2, 3])
def test_a_form_does_not_fit_one_tensor_given_twice(count):
    several = [tensor(2) for _ in range(count)]
    assert fits(several, [tensor(2) for _ in range(count)])
    assert not fits(several, [several[0], *several[:-1]])
    assert form_of([several[0], *several[:-1]]) is None


@pytest.mark.parametrize("before, now", [(1, 1.0), (1, True), (0.0, -0.0), ("a", "b"), (None, False)])
def test_a_form_tells_plain_values_apart(before, now):
    assert fits((before,), (before,))
    assert not fits((before,), (now,))


def test_containers_and_objects_have_no_form():
    assert form_of(([tensor(2)],)) is None
    assert form_of((object(),)) is None


def test_calls_of_changing_forms_give_their_own_results():
    @ndl.jit
    def added(a, b, factor=1):
        return (a + b) * factor

    for shape in [(2,), (3,), (2,)]:
        a, b = tensor(*shape), tensor(*shape)
        assert added(a, b).shape == shape
        np.testing.assert_array_equal(added(a, a).numpy(), np.full(shape, 2))
        np.testing.assert_array_equal(added(a, b, 3).numpy(), np.full(shape, 6))
    np.testing.assert_array_equal(added(a, b, factor=4).numpy(), np.full(shape, 8))
    assert added.cache_info().traces == 2 * 3 + 1
    a, b = tensor(2), tensor(2)
    a.cached_data = np.full(2, 5, np.float32)
    np.testing.assert_array_equal(added(a, b).numpy(), [6, 6])
    a.requires_grad = True
    assert added(a, b).requires_grad


def test_a_program_of_debug_nan_is_not_taken_for_the_plain_one():
    root = ndl.jit(lambda x: x**0.5)
    x = ndl.Tensor([-1.0], requires_grad=False)
    assert np.isnan(root(x).numpy()).all()
    with ndl.debug_nan(), pytest.raises(ndl.errors.NonFiniteError):
        root(x)
    assert np.isnan(root(x).numpy()).all()
