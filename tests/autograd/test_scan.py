"""Scans against the loop written out: results, gradients, containers, order, and what is refused."""

import numpy as np
import pytest

import needle as ndl
from needle.errors import DTypeError, SettingError, ShapeError


def tensor(*shape, seed=0, dtype="float64"):
    return ndl.Tensor(np.random.default_rng(seed).standard_normal(shape).astype(dtype) / 2)


def by_hand(x, w, h, reverse):
    """Return the last state and all states of h ← tanh(h @ w + x), and the gradients of Σ all² + Σ last."""
    times = range(len(x))[:: -1 if reverse else 1]
    states, befores = [None] * len(x), [None] * len(x)
    for t in times:
        befores[t] = h
        h = states[t] = np.tanh(h @ w + x[t])
    carried, dx, dw = np.ones_like(h), np.zeros_like(x), np.zeros_like(w)
    for t in times[::-1]:
        dx[t] = (carried + 2 * states[t]) * (1 - states[t] ** 2)
        dw += befores[t].T @ dx[t]
        carried = dx[t] @ w.T
    return h, np.stack(states), dx, dw, carried


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("wrap", [lambda step: step, ndl.checkpoint], ids=["plain", "checkpointed"])
@pytest.mark.parametrize("length", [1, 7])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_results_and_gradients_are_those_of_the_loop(reverse, compiled, wrap, length, dtype):
    x, w, h0 = tensor(length, 3, 5, dtype=dtype), tensor(5, 5, seed=1, dtype=dtype), tensor(3, 5, seed=2, dtype=dtype)

    def step(h, x):
        h = ndl.tanh(h @ w + x)
        return h, h

    def run(x, h0):
        last, states = ndl.scan(wrap(step), h0, x, reverse=reverse)
        ((states**2).sum() + last.sum()).backward()
        return last, states

    last, states = (ndl.jit(run) if compiled else run)(x, h0)
    got = last, states, x.grad, w.grad, h0.grad
    expected = by_hand(x.numpy(), w.numpy(), h0.numpy(), reverse)
    for one, other in zip(got, expected, strict=True):
        assert one.dtype == dtype
        np.testing.assert_allclose(one.numpy(), other, rtol=1e-4 if dtype == "float32" else 1e-12, atol=1e-5)


def test_gradients_are_right_by_finite_differences():
    w = tensor(2, 2)

    def run(x, h):
        last, ys = ndl.scan(lambda h, x: (ndl.tanh(h @ w + x), h * x), h, x)
        return ys.sum() + (last**2).sum()

    assert ndl.gradcheck(run, tensor(4, 3, 2, seed=1), tensor(3, 2, seed=2))


@pytest.mark.parametrize("compiled", [False, True])
def test_containers_are_carried_and_stacked(compiled):
    def run(xs):
        def step(carry, x):
            total, counts = carry
            return (total + x["a"], {"count": counts["count"] + 1}), {"both": (x["a"] * 2, [x["b"]]), "text": "same"}

        return ndl.scan(step, (tensor(3) * 0, {"count": ndl.Tensor(0.0)}), xs)

    xs = {"a": tensor(4, 3), "b": tensor(4, seed=1)}
    (total, count), ys = (ndl.jit(run) if compiled else run)(xs)
    np.testing.assert_allclose(total.numpy(), xs["a"].numpy().sum(axis=0), rtol=1e-12)
    assert count["count"].numpy() == 4
    np.testing.assert_array_equal(ys["both"][0].numpy(), xs["a"].numpy() * 2)
    np.testing.assert_array_equal(ys["both"][1][0].numpy(), xs["b"].numpy())
    assert ys["text"] == "same"


def test_steps_without_a_sequence():
    last, ys = ndl.scan(lambda c, x: (c * 2, (c, x)), ndl.Tensor(1.0), length=4)
    assert last.numpy() == 16
    np.testing.assert_array_equal(ys[0].numpy(), [1, 2, 4, 8])
    assert ys[1] is None


def test_results_need_not_be_there():
    last, nothing = ndl.scan(lambda c, x: (c + x, None), ndl.Tensor(0.0), ndl.Tensor([1.0, 2.0]))
    assert (last.numpy(), nothing) == (3, None)


def test_arrays_become_tensors():
    last, ys = ndl.scan(lambda c, x: (c + x, x), ndl.Tensor(0.0), np.array([1.0, 2.0]))
    assert last.numpy() == 3
    np.testing.assert_array_equal(ys.numpy(), [1, 2])


def test_what_is_no_tensor_may_change():
    last, ys = ndl.scan(lambda c, x: ((c[0] + x, c[1] + 1), {"n": c[1]}), (ndl.Tensor(0.0), 0), ndl.Tensor([1.0, 2.0]))
    assert (last[0].numpy(), last[1], ys) == (3, 2, {"n": 1})


def test_a_long_compiled_loop_shares_its_functions():
    w, h0 = tensor(8, 8, dtype="float32"), tensor(4, 8, dtype="float32", seed=1)

    def functions(length):
        def run(x):
            last, ys = ndl.scan(lambda h, x: (ndl.tanh(h @ w + x),) * 2, h0, x)
            (ys**2).sum().backward()
            return last

        text = ndl.jit(run).lower(tensor(length, 4, 8, dtype="float32")).show("llvm")
        return sum(line.startswith("define") for line in text.splitlines())

    assert functions(40) == functions(20)  # what grows is tables


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda step: ndl.scan(step, tensor(2)), SettingError, "length="),
        (lambda step: ndl.scan(step, tensor(2), length=0), SettingError, "at least one step, got 0"),
        (lambda step: ndl.scan(step, tensor(2), tensor(0, 2)), SettingError, "at least one step, got 0"),
        (lambda step: ndl.scan(step, tensor(2), tensor(3, 2), length=4), ShapeError, "length=4"),
        (lambda step: ndl.scan(step, tensor(2), (tensor(3, 2), tensor(4, 2))), ShapeError, r"\(3, 2\), \(4, 2\)"),
        (lambda step: ndl.scan(step, tensor(2), ndl.Tensor(1.0)), ShapeError, "no axes"),
        (lambda step: ndl.scan(step, tensor(2), ndl.ops.split(tensor(2, 2), 0)), DTypeError, r"one\.tuple"),
        (lambda step: ndl.scan(lambda c, x: c, tensor(2), tensor(3, 2)), DTypeError, "returns a pair"),
        (lambda step: ndl.scan(lambda c, x: (c.sum(), x), tensor(2), tensor(3, 2)), ShapeError, r"the state.*\(2,\)"),
        (
            lambda step: ndl.scan(lambda c, x: (c.astype("float32"), x), tensor(2), tensor(3, 2)),
            ShapeError,
            "float32.*after.*float64",
        ),
    ],
)
def test_what_is_wrong_is_said(call, error, message):
    with pytest.raises(error, match=message):
        call(lambda c, x: (c, x))
