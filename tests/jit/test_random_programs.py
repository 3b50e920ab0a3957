"""Small random programs of operators compute the same compiled and eagerly: values, and gradients of what they read."""

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import needle as ndl

LENGTHS = (1, 2, 3, 5, 8, 9, 16, 17)
LARGEST = 4000
TOLERANCE = {"float32": 2e-4, "float64": 1e-11}


def spread(x):
    """Make no two elements equal by chance: which of equals is the largest depends on the last digit."""
    return x + ndl.Tensor(np.arange(x.size).reshape(x.shape) * 0.618, dtype=x.dtype, requires_grad=False)


def partner(x, values, rng):
    """Choose a value that broadcasts with x; x itself where there is none."""
    fitting = []
    for one in values:
        try:
            shape = np.broadcast_shapes(one.shape, x.shape)
        except ValueError:
            continue
        if math.prod(shape) <= LARGEST:
            fitting.append(one)
    return fitting[rng.integers(len(fitting))] if fitting else x


def some_axes(x, rng):
    count = int(rng.integers(1, x.ndim + 1))
    return tuple(int(one) for one in rng.permutation(x.ndim)[:count])


def one_axis(x, rng):
    return int(rng.integers(-x.ndim, x.ndim))


def some_slices(x, rng):
    def one(length):
        start = int(rng.integers(0, length))
        return slice(start, int(rng.integers(start + 1, length + 1)), int(rng.integers(1, 3)))

    return tuple(one(length) for length in x.shape)


def divisor(number, rng):
    divisors = [one for one in range(1, number + 1) if number % one == 0]
    return divisors[rng.integers(len(divisors))]


def reshaped(x, values, rng):
    first = divisor(x.size, rng)
    second = divisor(x.size // first, rng)
    return ndl.reshape(x, (first, second, x.size // first // second))


def product(x, values, rng):
    """Multiply by a matrix that fits: another value's, or x itself with its axes exchanged."""
    x = x if x.ndim > 1 else ndl.reshape(x, (1, -1))
    fitting = [one for one in values if one.ndim == 2 and one.shape[0] == x.shape[-1]]
    other = fitting[rng.integers(len(fitting))] if fitting else ndl.transpose(x)
    return (x @ other) * (1 / x.shape[-1])


def repeated(x, values, rng):
    count = int(rng.integers(1, 5))
    return ndl.broadcast_to(x, (count, *x.shape)) if count * x.size <= LARGEST and x.ndim < 4 else x


def joined(x, values, rng):
    like = [one for one in values if one.shape == x.shape]
    return ndl.concatenate([x, like[rng.integers(len(like))]], axis=one_axis(x, rng))


# Operators on axes need some; none is discontinuous where random numbers or what comes of them may lie.
ANY_SHAPE = {
    "add": lambda x, values, rng: x + partner(x, values, rng),
    "subtract": lambda x, values, rng: x - partner(x, values, rng),
    "multiply": lambda x, values, rng: ndl.tanh(x) * partner(x, values, rng),
    "divide": lambda x, values, rng: x / (partner(x, values, rng) ** 2 + 1),
    "sigmoid": lambda x, values, rng: ndl.sigmoid(x),
    "gelu": lambda x, values, rng: ndl.gelu(x),
    "exp": lambda x, values, rng: ndl.exp(-(x**2)),
    "root": lambda x, values, rng: ndl.sqrt(x**2 + 1),
    "log": lambda x, values, rng: ndl.log(x**2 + 1),
    "relu": lambda x, values, rng: ndl.relu(x - 0.3712345),
    "where": lambda x, values, rng: ndl.where(x > 0.2712345, x * 2, ndl.sin(x)),
    "reshape": reshaped,
    "repeat": repeated,
    "expand": lambda x, values, rng: ndl.expand_dims(x, 0) if x.ndim < 4 else x,
}
WITH_AXES = {
    "sum": lambda x, values, rng: ndl.summation(x, some_axes(x, rng)),
    "mean": lambda x, values, rng: ndl.mean(x, some_axes(x, rng)),
    "max": lambda x, values, rng: ndl.max(spread(x), some_axes(x, rng)),
    "logsumexp": lambda x, values, rng: ndl.logsumexp(x, some_axes(x, rng)),
    "softmax": lambda x, values, rng: ndl.softmax(x, one_axis(x, rng)),
    "normalize": lambda x, values, rng: ndl.normalize(spread(x), some_axes(x, rng), 0.1),
    "cumsum": lambda x, values, rng: ndl.cumsum(x, one_axis(x, rng)) * 0.1,
    "permute": lambda x, values, rng: ndl.permute(x, tuple(int(one) for one in rng.permutation(x.ndim))),
    "flip": lambda x, values, rng: ndl.flip(x, some_axes(x, rng)),
    "slice": lambda x, values, rng: x[some_slices(x, rng)],
    "pad": lambda x, values, rng: ndl.pad(x, tuple((int(rng.integers(3)), 1) for _ in x.shape)),
    "gather": lambda x, values, rng: x[rng.integers(0, x.shape[0], 5)],
    "concatenate": joined,
    "matmul": product,
}
OPERATORS = {**ANY_SHAPE, **WITH_AXES}

steps = st.lists(st.tuples(st.sampled_from(sorted(OPERATORS)), st.integers(0, 99)), min_size=1, max_size=10)
shapes = st.lists(st.lists(st.sampled_from(LENGTHS), max_size=3), min_size=1, max_size=3)


def run(leaves, chosen):
    """Apply operators, each to one of the last values; return all values and a sum over them."""
    values = list(leaves)
    for name, seed in chosen:
        rng = np.random.default_rng(seed)
        x = values[-1 - seed % min(3, len(values))]
        if (name in WITH_AXES and not x.ndim) or x.size > LARGEST:
            continue
        values.append(OPERATORS[name](x, values, rng))
    loss = sum(ndl.mean(ndl.sin(one)) for one in values[len(leaves) :] or values)
    return values[len(leaves) :], loss


def results(leaves, chosen, decorate):
    def step(*inputs):
        for one in inputs:
            one.grad = None
        values, loss = run(inputs, chosen)
        loss.backward()
        return values, loss

    values, loss = decorate(step)(*leaves)
    gradients = [one.grad for one in leaves]
    return [*values, loss, *gradients]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(shapes=shapes, chosen=steps, dtype=st.sampled_from(["float32", "float64"]))
def test_random_programs_agree(shapes, chosen, dtype):
    rng = np.random.default_rng(0)
    leaves = [ndl.Tensor(rng.standard_normal(shape), dtype=dtype) for shape in shapes]
    expected = [None if one is None else one.numpy().copy() for one in results(leaves, chosen, lambda step: step)]
    found = results(leaves, chosen, ndl.jit)
    for number, (one, other) in enumerate(zip(found, expected, strict=True)):
        if other is None or one is None:
            assert one is other
            continue
        assert (one.shape, str(one.dtype)) == (other.shape, str(other.dtype))
        limit = TOLERANCE[dtype] * max(1.0, float(np.max(np.abs(other), initial=0.0)))
        np.testing.assert_allclose(one.numpy(), other, rtol=0, atol=limit, err_msg=f"result {number} of {chosen}")


@pytest.mark.parametrize("name", sorted(OPERATORS))
def test_each_operator_of_random_programs_runs(name):
    rng = np.random.default_rng(0)
    leaves = [ndl.Tensor(rng.standard_normal(shape)) for shape in ((3, 4), (4, 3))]
    values, _ = run(leaves, [(name, 3)])
    assert len(values) == 1
