"""Checkpointed functions against the same ones that keep their graph: values, gradients, draws, state, memory."""

import tracemalloc

import numpy as np
import pytest

import needle as ndl
from needle import nn, optim
from needle.errors import DTypeError, GradientError


def tensor(*shape, seed=0, dtype="float32"):
    return ndl.Tensor(np.random.default_rng(seed).standard_normal(shape).astype(dtype))


def assert_same(one, other):
    np.testing.assert_array_equal(one.numpy(), other.numpy())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gradients_reach_arguments_and_what_the_function_closes_over(dtype):
    x, w, b = tensor(3, 5, dtype=dtype), tensor(5, 7, seed=1, dtype=dtype), tensor(7, seed=2, dtype=dtype)
    outer = w * 2  # not a leaf

    def layer(x):
        return ndl.tanh(x @ outer + b.broadcast_to((3, 7)))

    results = []
    for fn in (layer, ndl.checkpoint(layer)):
        loss = (fn(fn(x) @ w.transpose()) ** 2).sum()
        loss.backward()
        results.append([loss, x.grad, w.grad, b.grad, outer.grad])
    for plain, again in zip(*results, strict=True):
        assert again.dtype == dtype
        np.testing.assert_allclose(again.numpy(), plain.numpy(), rtol=1e-5 if dtype == "float32" else 1e-13)


def test_containers_go_in_and_come_out():
    @ndl.checkpoint
    def fn(tree, *, scale):
        a, (b, number) = tree["a"], tree["rest"]
        return {"sum": a * scale + b, "list": [a.exp(), a > 0, number, None], "same": a}

    a, b = tensor(2, 3), tensor(2, 3, seed=1)
    result = fn({"a": a, "rest": (b, "text")}, scale=3.0)
    assert result["list"][2:] == ["text", None]
    assert not result["list"][1].requires_grad
    (result["sum"] * result["sum"] + result["same"]).sum().backward()
    total = 2 * (3 * a.numpy() + b.numpy())
    np.testing.assert_allclose(a.grad.numpy(), 3 * total + 1, rtol=1e-6)
    np.testing.assert_allclose(b.grad.numpy(), total, rtol=1e-6)


def test_a_tensor_given_twice_has_both_gradients():
    x = tensor(4)
    ndl.checkpoint(lambda a, b: a * b)(x, x).sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), 2 * x.numpy())


def test_gradients_are_right_by_finite_differences_and_can_be_differentiated():
    w = tensor(3, 3, dtype="float64", seed=5)
    fn = ndl.checkpoint(lambda x: ndl.tanh(x @ w) * x)
    assert ndl.gradcheck(fn, tensor(2, 3, dtype="float64"))

    def twice(fn):
        x = tensor(2, 3, dtype="float64")
        slope = ndl.grad(lambda x: (fn(x) ** 2).sum())(x)
        (slope**2).sum().backward()
        return x.grad.numpy(), w.grad.numpy()

    for got, expected in zip(twice(fn), twice(lambda x: ndl.tanh(x @ w) * x), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-10)


@pytest.mark.parametrize("seeded", [False, True])
@pytest.mark.parametrize("compiled", [False, True])
def test_draws_are_the_same_again_also_nested(seeded, compiled):
    model = nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.5), nn.ReLU())
    x = tensor(4, 6)

    def seed():
        np.random.seed(3)
        ndl.seed(3 if seeded else None)

    def run(fn):
        def step(x):
            loss = (fn(fn(x)) ** 2).sum() + nn.Dropout(0.5)(x).sum()
            loss.backward()
            return loss

        seed()
        step = ndl.jit(step) if compiled else step
        return [step(x), *(p.grad for p in model.parameters()), ndl.init.rand(3)]

    try:
        plain = run(model)
        inner = ndl.checkpoint(model)
        for got in (run(inner), run(ndl.checkpoint(lambda x: inner(x) * 1.0))):
            for one, other in zip(got, plain, strict=True):
                np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-5, atol=1e-6)
    finally:
        ndl.seed(None)


@pytest.mark.parametrize("compiled", [False, True])
def test_running_statistics_are_updated_once(compiled):
    def run(wrap):
        np.random.seed(0)
        model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU())
        opt = optim.SGD(model.parameters(), lr=0.1)
        fn = wrap(model)

        def step(x):
            opt.reset_grad()
            loss = (fn(x) ** 2).mean()
            loss.backward()
            opt.step()
            return loss

        step = ndl.jit(step) if compiled else step
        losses = [step(tensor(7, 5, seed=n)).numpy() for n in range(3)]
        return [*losses, *model.state_dict().values()]

    for got, expected in zip(run(ndl.checkpoint), run(lambda model: model), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_nothing_is_kept_eagerly():
    x = tensor(256, 256)

    def deep(x):
        for _ in range(20):
            x = ndl.tanh(x)
        return x

    def kept(fn):
        tracemalloc.start()
        y = fn(fn(x))
        now = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        y.sum().backward()
        return now, x.grad

    (plain, slope), (little, same) = kept(deep), kept(ndl.checkpoint(deep))
    assert_same(slope, same)
    assert little < 4 * 256 * 256 * 4 < 0.2 * plain


def test_a_compiled_program_needs_a_smaller_arena():
    weights = [tensor(64, 64, seed=n) for n in range(16)]
    x = tensor(512, 64)

    def part(first, x):
        for w in weights[first : first + 4]:
            x = ndl.tanh(x @ w)
        return x

    def program(wrap):
        parts = [wrap(lambda x, first=first: part(first, x)) for first in range(0, 16, 4)]

        def step(x):
            for one in parts:
                x = one(x)
            (x * x).sum().backward()
            return x

        step = ndl.jit(step)
        size = step.lower(x).program.executable.module.arena.size
        return size, [step(x), *(w.grad for w in weights)]

    (plain, expected), (little, got) = program(lambda fn: fn), program(ndl.checkpoint)
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-4, atol=1e-4)
    assert little < 0.65 * plain


def test_without_a_graph_the_function_is_just_called():
    fn = ndl.checkpoint(lambda x: x * 2)
    with ndl.no_grad():
        assert not fn(tensor(2)).requires_grad
    constant = fn(ndl.Tensor([1.0], requires_grad=False))
    assert constant.is_leaf()
    ndl.autograd.LAZY_MODE = True
    try:
        x = tensor(2)
        fn(x).sum().backward()
        np.testing.assert_array_equal(x.grad.numpy(), [2, 2])
    finally:
        ndl.autograd.LAZY_MODE = False


def test_recomputing_is_told():
    seen = []
    ndl.checkpoint(lambda x: (seen.append(ndl.is_recomputing()), x * x)[1])(tensor(2)).sum().backward()
    assert seen == [False, True]
    assert not ndl.is_recomputing()


def test_data_that_was_replaced_is_refused():
    w = tensor(2)
    y = ndl.checkpoint(lambda x: x * w)(tensor(2)).sum()
    w.data = w.data * 2
    with pytest.raises(GradientError, match="replaced before backward"):
        y.backward()


def test_another_result_the_second_time_is_refused():
    sizes = iter([2, 3])
    y = ndl.checkpoint(lambda x: x.broadcast_to((next(sizes), 1)))(tensor(1, 1)).sum()
    with pytest.raises(GradientError, match="the same both times"):
        y.backward()


def test_tuples_of_tensors_are_refused():
    pair = ndl.ops.make_tuple(tensor(2), tensor(2))
    with pytest.raises(DTypeError, match=r"pass one\.tuple"):
        ndl.checkpoint(lambda pair: pair[0])(pair)
    with pytest.raises(DTypeError, match=r"use \.tuple"):
        ndl.checkpoint(lambda x: ndl.ops.make_tuple(x, x))(tensor(2))
    split = ndl.ops.split(tensor(2, 2), 0)
    with pytest.raises(DTypeError, match="take it apart"):
        ndl.checkpoint(lambda x: x + split[0])(tensor(2))
