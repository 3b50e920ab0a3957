"""Rows of needle.ops.recurrence."""

import numpy as np

import needle as ndl
from needle.errors import ShapeError
from needle.ops.recurrence import GRURecurrence, LSTMRecurrence, RecurrenceAdjoint, RNNRecurrence

from ..op_cases import Domain, OpCase, Refusal

STEP = 1e-30  # into the imaginary: what comes back is the derivative, to the last digit
AROUND_ZERO = Domain(-1.0, 1.0)  # where the gates are neither shut nor open


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def rnn(f, x, w, state, _):
    return (f(x + state[0] @ w),)


def relu(a):
    return np.where(a.real > 0, a, 0)  # of complex numbers too


def lstm(x, w, state, _):
    h, c = state
    i, f, g, o = np.split(x + h @ w, 4, axis=-1)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def gru(x, w, state, biases):
    (h,) = state
    x_r, x_z, x_n = np.split(x, 3, axis=-1)
    u_r, u_z, u_n = np.split(h @ w + sum(biases), 3, axis=-1)
    z = sigmoid(x_z + u_z)
    return ((1 - z) * np.tanh(x_n + sigmoid(x_r + u_r) * u_n) + z * h,)


def run(step, states, reverse, x, w, *rest):
    """Return the states after each step."""
    state, biases = rest[:states], rest[states:]
    found = [None] * len(x)
    for t in range(len(x) - 1, -1, -1) if reverse else range(len(x)):
        state = found[t] = step(x[t], w, state, biases)
    return tuple(np.stack(one) for one in zip(*found, strict=True))


def adjoints(step, states, reverse, *arrays):
    """Return the adjoints of the inputs by complex steps."""
    grads, inputs = arrays[:states], arrays[states:]
    found = []
    for number, array in enumerate(inputs):
        adjoint = np.zeros(array.shape)
        for index in np.ndindex(array.shape):
            moved = [one.astype(complex) for one in inputs]
            moved[number][index] += 1j * STEP
            results = run(step, states, reverse, *moved)
            adjoint[index] = sum((g * y.imag).sum() for g, y in zip(grads, results, strict=True)) / STEP
        found.append(adjoint)
    return tuple(found)


def shapes(steps, batch, hidden, gates, states, biases):
    width = gates * hidden
    return ((steps, batch, width), (hidden, width), *[(batch, hidden)] * states, *[(width,)] * biases)


# Name, class, its options, the formula of a step, the numbers of gates, states and biases.
KINDS = [
    ("rnn_tanh", RNNRecurrence, {}, lambda *a: rnn(np.tanh, *a), 1, 1, 0),
    ("rnn_relu", RNNRecurrence, {"nonlinearity": "relu"}, lambda *a: rnn(relu, *a), 1, 1, 0),
    ("lstm", LSTMRecurrence, {}, lstm, 4, 2, 0),
    ("gru", GRURecurrence, {}, gru, 3, 1, 0),
    ("gru_bias", GRURecurrence, {}, gru, 3, 1, 1),
]


def rows(name, cls, options, step, gates, states, biases, reverse):
    sizes = [shapes(*size, gates, states, biases) for size in ((1, 1, 1), (3, 2, 2))]
    wrong = [ndl.init.zeros(2, 3, gates), ndl.init.zeros(5, gates), *[ndl.init.zeros(3, 1)] * states]
    operator = cls(reverse, **options)  # one for all calls: it must not mix them up
    yield OpCase(
        name,
        cls,
        operator,
        lambda *arrays: run(step, states, reverse, *arrays),
        sizes,
        AROUND_ZERO,
        refusals=[
            Refusal(lambda: cls()(*wrong), ShapeError, rf"(?s)^{cls.name}: .*a: float32 \(2, 3, {gates}\) on cpu")
        ],
    )
    yield OpCase(
        f"{name}_adjoint",
        RecurrenceAdjoint,
        RecurrenceAdjoint(operator),
        lambda *arrays: adjoints(step, states, reverse, *arrays),
        [(*[(one[0][0], *one[2])] * states, *one) for one in sizes],
        AROUND_ZERO,
        # ReLU's slope does not change with the sum.
        differentiable=(True, False, True, True) if options else True,
    )


CASES = [
    *(row for kind in KINDS for row in rows(*kind, reverse=False)),
    *(row for kind in KINDS for row in rows(f"{kind[0]}_reverse", *kind[1:], reverse=True)),
]
