"""Draws made natively are NumPy's own draws, and NumPy goes on where they end."""

import numpy as np
import pytest

from needle.compiler.mersenne import fill_uniform


@pytest.mark.parametrize("before", [0, 1, 2, 311, 312, 1001])
@pytest.mark.parametrize("count", [0, 1, 5, 311, 312, 313, 5000])
def test_numbers_and_state_are_numpys(before, count):
    ours, theirs = np.random.MT19937(7), np.random.RandomState(np.random.MT19937(7))
    advanced = np.random.RandomState(ours)
    for state in (advanced, theirs):
        state.random_sample(before)
        state.randint(0, 2**32, size=before % 3, dtype=np.uint32)  # leaves an odd number of words
    out = np.empty(count)
    fill_uniform(ours, out)
    np.testing.assert_array_equal(out, theirs.random_sample(count))
    np.testing.assert_array_equal(advanced.random_sample(700), theirs.random_sample(700))


def test_global_generator_goes_on():
    np.random.seed(3)
    expected = np.random.rand(3000)
    np.random.seed(3)
    out = np.empty(1000)
    first = np.random.rand(1000)
    fill_uniform(np.random.get_bit_generator(), out)
    np.testing.assert_array_equal(np.concatenate([first, out, np.random.rand(1000)]), expected)
