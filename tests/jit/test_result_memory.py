import weakref

import numpy as np
import pytest

import needle as ndl


@ndl.jit
def double(x):
    return x + x


def _input(value, length=1000):
    return ndl.Tensor(np.full(length, value, np.float32), requires_grad=False)


def _address(tensor):
    return tensor.cached_data.__array_interface__["data"][0]


def test_memory_of_results_that_were_let_go_of_serves_again():
    y = double(_input(1.0))
    addresses = set()
    for value in range(6):
        y = double(_input(float(value)))
        addresses.add(_address(y))
        np.testing.assert_array_equal(y.numpy(), np.full(1000, 2.0 * value))
    assert len(addresses) == 2


@pytest.mark.parametrize(
    "hold",
    [
        lambda y: y,
        lambda y: y.detach(),
        lambda y: y.cached_data,
        lambda y: y.cached_data[10:20],
        lambda y: y.cached_data.reshape(10, 100).T[3:],
        lambda y: memoryview(y.cached_data),
        lambda y: np.from_dlpack(y.cached_data),
        lambda y: ndl.Tensor(y, requires_grad=True),
        lambda y: (y, double(y))[0],
    ],
)
def test_results_that_anyone_holds_stay(hold):
    for _ in range(3):  # whichever of the arrays it is
        held = hold(double(_input(1.0)))
        for value in (5.0, 6.0, 7.0):
            double(_input(value))
        seen = held.numpy() if isinstance(held, ndl.Tensor) else np.asarray(held)
        assert np.all(seen == 2.0)


def test_a_result_that_is_the_next_argument_is_not_written_over():
    y = _input(1.0)
    for number in range(1, 8):
        y = double(y)
        np.testing.assert_array_equal(y.numpy(), np.full(1000, 2.0**number))


def test_a_weak_reference_never_sees_another_result():
    y = double(_input(1.0))
    seen = weakref.ref(y.cached_data)
    del y
    kept = [double(_input(2.0)) for _ in range(3)]
    assert all(seen() is not one.cached_data for one in kept)


def test_an_array_whose_form_was_changed_is_not_used_again():
    y = double(_input(1.0)).cached_data
    y.flags.writeable = False
    del y
    z = double(_input(1.0)).cached_data
    z.shape = (10, 100)
    del z
    for _ in range(3):
        assert double(_input(3.0)).shape == (1000,)


def test_results_of_one_call_and_of_several_programs_share_no_memory():
    both = ndl.jit(lambda x: (x + 1.0, x + 2.0))
    for _ in range(3):
        a, b = both(_input(1.0))
        c = double(_input(1.0, length=500))
        assert (a.numpy()[0], b.numpy()[0], c.numpy()[0]) == (2.0, 3.0, 2.0)
        assert not np.shares_memory(a.cached_data, b.cached_data)
