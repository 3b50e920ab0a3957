"""Numbers that are read in each call: what follows from them is computed again where they have changed."""

from __future__ import annotations

import math

import numpy as np
import pytest

import needle as ndl
from needle import tracing
from needle.jit.host_numbers import HostNumbers
from needle.jit.notes import NumberGuard, Read


def numbers_of(values, guards=()):
    reads = [Read(lambda place=place: values[place]) for place in range(len(values))]
    return HostNumbers(reads, guards)


def formula(values, *places):
    """Return the product of numbers."""
    product = 1.0
    for place in places:
        product = product * tracing.HostNumber(None, f"numbers[{place}]", values[place])
    return product


def test_a_formula_knows_which_numbers_it_reads():
    values = [2.0, 3.0, 5.0]
    assert formula(values, 0, 2).reads == {0, 2}
    assert (2 - 1 / formula(values, 1) ** 0.5).reads == {1}


def test_formulas_may_be_deep():
    one, expected = tracing.HostNumber(None, "numbers[3]", 2.0), 7.0
    for _ in range(450):
        one, expected = one * 0.99 + 0.1, expected * 0.99 + 0.1
    assert one.function()([0, 0, 0, 7.0]) == expected
    assert one.reads == {3}


def test_scalars_follow_the_numbers_that_change():
    values = [2.0, 3.0, 5.0]
    numbers = numbers_of(values)
    dtype = np.dtype("float32")
    first, second = numbers.scalar(formula(values, 0), dtype), numbers.scalar(formula(values, 0, 2), dtype)
    for now in [(2.0, 3.0, 5.0), (2.0, 4.0, 5.0), (2.0, 4.0, 6.0), (7.0, 4.0, 8.0)]:
        numbers.write(list(now))
        assert (first, second) == (now[0], now[0] * now[2])


def test_only_what_follows_from_changed_numbers_is_computed_again():
    values = [2.0, 3]
    numbers = numbers_of(values)
    scalar = numbers.scalar(formula(values, 0), np.dtype("float64"))
    numbers.write([values[0], 0])
    scalar[...] = -1.0
    numbers.write([values[0], 1])
    assert scalar == -1.0
    numbers.write([4.0, 1])
    assert scalar == 4.0


@pytest.mark.parametrize("constant", [2, -3, 0.5, -0.0, math.inf, -math.inf, math.nan, True, np.float64(0.25)])
def test_formulas_compute_what_python_does(constant):
    one = tracing.HostNumber(None, "numbers[0]", 3.0)
    for compute in (
        lambda a, b: (a + b) - b * a,
        lambda a, b: b - (1 - a**2) * -a,
        lambda a, b: (a / 7) ** (b if abs(b) < 4 else 1),
    ):
        traced = compute(one, constant)
        for now in (3.0, -2.0, 0.1):
            np.testing.assert_equal(complex(traced.function()([now])), complex(compute(now, float(constant))))


def test_a_formula_that_fails_is_computed_again_in_the_next_call():
    values = [2.0, 0.5]
    numbers = numbers_of(values)
    scalar = numbers.scalar(formula(values, 0), np.dtype("float64"))
    numbers.scalar(1 / formula(values, 0), np.dtype("float64"))
    numbers.write([2.0, 0.5])
    with pytest.raises(ZeroDivisionError):
        numbers.write([0.0, 0.5])
    numbers.write([values[0], 0.5])
    assert scalar == 2.0


def test_a_guard_looks_at_changed_numbers_only_and_tells_of_another_answer():
    values, asked = [0.0, 1.0], []

    def is_set(value):
        asked.append(value)
        return bool(value)

    guard = NumberGuard(formula(values, 0), is_set, False, "whether it is 0")
    numbers = numbers_of(values, [guard])
    assert numbers.mismatch() is None
    values[1] = 2.0
    assert numbers.mismatch() is None
    assert asked == [0.0]
    values[0] = 0.5
    assert numbers.mismatch() == ("whether it is 0", False, 0.5)
    assert numbers.mismatch() == ("whether it is 0", False, 0.5)
    values[0] = 0.0
    assert numbers.mismatch() is None


def test_a_learning_rate_in_an_array_may_change_in_place():
    def trained(compile):
        weight = ndl.Tensor(np.ones(3, np.float32))
        rate = np.array(0.5)
        optimizer = ndl.optim.SGD([weight], lr=0.5)
        weight.grad = ndl.Tensor(np.ones(3, np.float32))
        step = ndl.jit(optimizer.step) if compile else optimizer.step
        step()
        optimizer.lr = rate
        step()
        rate[...] = 0.25
        step()
        return weight.numpy()

    np.testing.assert_array_equal(trained(True), trained(False))
