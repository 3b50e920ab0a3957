"""`check` finds a compiler that computes something else: in results, gradients, state and draws, and says where."""

import importlib

import numpy as np
import pytest

import needle as ndl
from needle import nn, optim
from needle.compiler import scalar
from needle.errors import CompileError

LINE = r"test_check.py:\d+"
CompiledCall = importlib.import_module("needle.jit.program").CompiledCall


@pytest.fixture(autouse=True)
def _no_cache(monkeypatch):
    monkeypatch.setenv("NEEDLE_CACHE", "0")  # no plan of the right program


def tensor(*values, **options):
    return ndl.Tensor(np.array(values, dtype=np.float32), **options)


def wrong_function(monkeypatch, name, other):
    emit = scalar._emit_function

    def wrong(f, called, arguments, kind):
        return emit(f, other if called == name else called, arguments, kind)

    monkeypatch.setattr(scalar, "_emit_function", wrong)


def test_a_wrong_gradient(monkeypatch):
    wrong_function(monkeypatch, "cos", "sin")
    w = tensor(1, 2)

    @ndl.jit(check=1)
    def f(x):
        y = ndl.sin(w * x).sum()
        y.backward()
        return y

    match = rf"in the gradient of a Tensor of shape \(2,\); .* differs is cos at .*{LINE}"
    with pytest.raises(CompileError, match=match):
        f(tensor(1, 2))
    assert w.grad is None


def scanning(step, reverse):
    """Return a function with a scan, its gradient, and more operators behind it."""

    def f(x, h):
        last, (ys, both) = ndl.scan(step, h, x * 2, reverse=reverse)
        loss = (ys * ys).sum() + both.sum() + ndl.exp(last.sum())
        loss.backward()
        return loss

    return ndl.jit(check=1)(f)


def with_ones(*places):
    """Return twenty elements, 0 but for those at some places."""
    x = np.zeros((20, 3, 4), np.float32)
    x[list(places)] = 1
    return ndl.Tensor(x), ndl.init.zeros(3, 4)


def sines(h, x):
    y = ndl.sin(x)
    h = h * 0.5 + y
    return h, (h, ndl.ops.stack([h, y], 0))


@pytest.mark.parametrize(("reverse", "first"), [(False, 5), (True, 9)])
def test_a_wrong_step_of_a_scan(monkeypatch, reverse, first):
    f, (x, h) = scanning(sines, reverse), with_ones(5, 9)
    assert "  for t = " in f.lower(x, h).show()
    f(x, h)
    wrong_function(monkeypatch, "sin", "tanh")  # which is right for 0
    line = f"{sines.__code__.co_firstlineno + 1}, in step {first} of a scan"
    with pytest.raises(CompileError, match=rf"in result 0; .* differs is sin at .*test_check.py:{line}\. State"):
        scanning(sines, reverse)(x, h)


def test_a_wrong_operator_behind_a_scan(monkeypatch):
    wrong_function(monkeypatch, "exp", "cos")
    with pytest.raises(CompileError, match=rf"in result 0; .* differs is exp at .*{LINE}\. State"):
        scanning(sines, False)(*with_ones(18))


def test_a_wrong_gradient_of_a_scan(monkeypatch):
    wrong_function(monkeypatch, "cos", "exp")
    with pytest.raises(
        CompileError, match=r"in the gradient of .*; each operator before the gradient of a scan agrees"
    ):
        scanning(sines, False)(*with_ones(18))


def test_a_wrong_state(monkeypatch):
    wrong_function(monkeypatch, "exp", "log")
    kept = tensor(0, 0, requires_grad=False)

    @ndl.jit(check=1)
    def f(x):
        kept.data = ndl.exp(kept + x)
        return x * 2

    match = rf"in the new values of a Tensor float32 \(2,\); .* differs is exp at .*{LINE}"
    with pytest.raises(CompileError, match=match):
        f(tensor(1, 2, requires_grad=False))
    assert kept.numpy().tolist() == [0, 0]


def test_a_wrong_step_of_an_optimizer_names_its_line(monkeypatch):
    monkeypatch.setitem(scalar._FLOAT_INTRINSICS, "sqrt", "fabs")
    w = tensor(1, 2)
    opt = optim.Adam([w], lr=0.1)

    @ndl.jit(check=1)
    def f(x):
        opt.reset_grad()
        loss = (w * x).sum()
        loss.backward()
        opt.step()
        return loss

    match = rf"beside them at .*{LINE}, such as an optimizer's step\. State is as before"
    with pytest.raises(CompileError, match=match):
        f(tensor(3, 2))
    assert (opt.t, opt.m, opt.v, w.numpy().tolist()) == (0, {}, {}, [1, 2])


def test_wrong_statistics_are_not_kept(monkeypatch):
    monkeypatch.setitem(scalar._FLOAT_INTRINSICS, "sqrt", "fabs")
    layer = nn.BatchNorm1d(3)
    before = {name: array.tobytes() for name, array in layer.state_dict().items()}
    with pytest.raises(CompileError, match="in result 0; the first operator that differs is normalize"):
        ndl.jit(check=1)(layer)(ndl.init.randn(4, 3))
    assert {name: array.tobytes() for name, array in layer.state_dict().items()} == before


SPOILED = {
    "result 0; .*, and the random numbers .* differ too": lambda run, *call: (np.random.rand(), run(*call)),
    r"in the random numbers that were drawn\. State": lambda run, *call: (run(*call), np.random.rand()),
}


@pytest.mark.parametrize("message", SPOILED)
def test_wrong_draws(monkeypatch, message):
    run = CompiledCall._run
    monkeypatch.setattr(CompiledCall, "_run", lambda *call: SPOILED[message](run, *call))
    layer = nn.Dropout(0.5)
    x = ndl.init.randn(8, 3)
    state = np.random.get_state()[2]
    with pytest.raises(CompileError, match=message):
        ndl.jit(check=1)(lambda x: layer(x) + 1)(x)
    assert np.random.get_state()[2] == state
