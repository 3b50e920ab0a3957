"""What a compiled function is to its user: arguments and results, when it is traced again, errors, looking inside."""

import copy
import io
import os
import pdb  # noqa: T100  a debugger that is fed its commands
import random
import subprocess
import sys
import threading
import warnings
from typing import NamedTuple

import numpy as np
import pytest

import needle as ndl
from needle import nn, optim
from needle.compiler import scalar
from needle.errors import CompileError, DTypeError, GradientError, NonFiniteError, SettingError, ShapeError, TraceError

GENERATOR = np.random.default_rng(0)


def tensor(*values, **options):
    return ndl.Tensor(np.array(values, dtype=np.float32), **options)


class Pair(NamedTuple):
    first: ndl.Tensor
    second: object


# ---------------------------------------------------------------------------------------- arguments and results


def test_nested_containers_go_in_and_come_out():
    @ndl.jit
    def f(tree, *, scale):
        pair = Pair(tree["a"][0] * scale, "text")
        return {"sum": tree["a"][0] + tree["b"], "rest": [pair, (tree["a"][1], 3, None)]}

    a, b = tensor(1, 2), tensor(3, 4)
    result = f({"a": [a, np.array([7.0, 8.0])], "b": b}, scale=2.0)
    np.testing.assert_array_equal(result["sum"].numpy(), [4, 6])
    pair, (array, three, nothing) = result["rest"]
    np.testing.assert_array_equal(pair.first.numpy(), [2, 4])
    np.testing.assert_array_equal(array, [7, 8])
    assert (type(pair), pair.second, three, nothing) == (Pair, "text", 3, None)


def test_arrays_among_the_arguments_are_read_in_each_call():
    f = ndl.jit(lambda array: ndl.Tensor(array, requires_grad=False) * 2)
    np.testing.assert_array_equal(f(np.array([1.0, 2.0])).numpy(), [2, 4])
    np.testing.assert_array_equal(f(np.array([5.0, 6.0])).numpy(), [10, 12])
    assert f.cache_info().traces == 1


def test_results_share_no_memory():
    f = ndl.jit(lambda x: (x, x + 1, x + 1))
    x = tensor(1, 2)
    same, one, other = f(x)
    assert same is x
    assert one.cached_data is not other.cached_data
    again = f(x)[1]
    assert not np.shares_memory(one.cached_data, again.cached_data)


def test_arguments_in_any_layout():
    f = ndl.jit(lambda x: x * 2 + x.sum())
    array = np.arange(24, dtype=np.float32).reshape(4, 6)
    for view in (array.T, array[::2], array[:, ::-1], array[1:3, 2:5]):
        np.testing.assert_allclose(f(ndl.Tensor.make_const(view)).numpy(), view * 2 + view.sum(), rtol=1e-6)


def test_gradient_of_an_argument_is_set():
    @ndl.jit
    def f(x):
        (x * x).sum().backward()
        return x.grad * 1

    x, other = tensor(1, 2), tensor(3, 4)
    for one in (x, other):
        np.testing.assert_array_equal(f(one).numpy(), 2 * one.numpy())
        np.testing.assert_array_equal(one.grad.numpy(), 2 * one.numpy())


def test_gradients_of_gradients_inside():
    @ndl.jit
    def f(x):
        (first,) = (ndl.grad(lambda x: (x**4).sum())(x),)
        return first, ndl.grad(lambda x: ndl.grad(lambda x: (x**4).sum())(x).sum())(x)

    first, second = f(tensor(1, 2))
    np.testing.assert_allclose(first.numpy(), [4, 32])
    np.testing.assert_allclose(second.numpy(), [12, 48])


def test_other_arguments_are_constants_of_their_program():
    f = ndl.jit(lambda x, power, flag=False: x**power if flag else x * power)
    x = tensor(2, 3)
    np.testing.assert_array_equal(f(x, 2).numpy(), [4, 6])
    np.testing.assert_array_equal(f(x, 3).numpy(), [6, 9])
    np.testing.assert_array_equal(f(x, 3, flag=True).numpy(), [8, 27])
    np.testing.assert_array_equal(f(x, 2).numpy(), [4, 6])
    assert f.cache_info()[:3] == (4, 3, 3)


def test_static_arguments_are_compared_by_value():
    class Config:
        def __init__(self, width):
            self.width = width

        def __eq__(self, other):
            return self.width == other.width

        def __hash__(self):
            return hash(self.width)

    f = ndl.jit(lambda x, config: x * config.width, static="config")
    for width in (2, 2, 3):
        np.testing.assert_array_equal(f(tensor(1, 2), Config(width)).numpy(), [width, 2 * width])
    assert f.cache_info().traces == 2
    with pytest.raises(SettingError, match=r"static names no argument.*'widht'; it has x, config"):
        ndl.jit(lambda x, config: x, static=("widht",))
    with pytest.raises(SettingError, match="static argument config is compared by value, so it must be hashable"):
        f(tensor(1, 2), [1])


def test_methods_and_nested_functions():
    class Model:
        def __init__(self, scale):
            self.w = tensor(scale)

        @ndl.jit
        def double(self, x):
            return inner(x) * self.w

    inner = ndl.jit(lambda x: x + 1)
    np.testing.assert_array_equal(Model(2).double(tensor(1, 2)).numpy(), [4, 6])
    np.testing.assert_array_equal(Model(3).double(tensor(1, 2)).numpy(), [6, 9])
    assert inner.cache_info().calls == 0  # it is part of the other's program


def test_inference_of_a_module():
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    predict = ndl.jit(ndl.no_grad()(model.forward))
    x = ndl.init.randn(5, 4)
    np.testing.assert_allclose(predict(x).numpy(), model(x).numpy(), rtol=1e-5, atol=1e-6)


# ----------------------------------------------------------------------------------------- when it is traced again


def test_what_the_function_names_is_watched():
    scale = 2.0
    w = tensor(1, 1)
    f = ndl.jit(lambda x: x * scale + w)
    assert f(tensor(1, 2)).numpy().tolist() == [3, 5]
    scale = 3.0
    assert f(tensor(1, 2)).numpy().tolist() == [4, 7]
    assert "scale: 2.0, now 3.0" in f.explain()
    w = tensor(5, 5)
    assert f(tensor(1, 2)).numpy().tolist() == [8, 11]
    assert f.cache_info().traces == 3


def test_replaced_and_added_layers_are_seen():
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    f = ndl.jit(model)
    x = ndl.init.randn(3, 2)
    f(x)
    model.modules = [*model.modules, nn.Linear(2, 2)]
    np.testing.assert_allclose(f(x).numpy(), model(x).numpy(), rtol=1e-5, atol=1e-6)

    class Stack(nn.Module):
        def __init__(self):
            self.layers = [nn.Linear(2, 2)]

        def forward(self, x):
            for layer in self.layers:
                x = layer(x)
            return x

    stack = Stack()
    g = ndl.jit(stack)
    g(x)
    stack.layers.append(nn.Linear(2, 2))
    np.testing.assert_allclose(g(x).numpy(), stack(x).numpy(), rtol=1e-5, atol=1e-6)
    stack.layers[0].bias.data = stack.layers[0].bias.data * 3
    np.testing.assert_allclose(g(x).numpy(), stack(x).numpy(), rtol=1e-5, atol=1e-6)
    assert g.cache_info().traces == 2


def test_replaced_attributes_of_a_layer_that_is_used_without_being_called_are_seen():
    class Tied(nn.Module):
        def __init__(self):
            self.layer = nn.Linear(2, 2, bias=False)

        def forward(self, x):
            return x @ self.layer.weight

    model = Tied()
    f = ndl.jit(model)
    x = ndl.init.randn(3, 2)
    f(x)
    model.layer.weight = ndl.Tensor(np.ones((2, 2), dtype="float32"))
    np.testing.assert_allclose(f(x).numpy(), model(x).numpy(), rtol=1e-5, atol=1e-6)


def test_index_arrays_and_captured_arrays_are_read_in_each_call():
    table, rows = np.arange(6.0), np.array([1, 2])
    f = ndl.jit(lambda x: x[rows] + ndl.Tensor(table, requires_grad=False)[:2])
    x = ndl.Tensor(np.arange(10.0), requires_grad=False)
    assert f(x).numpy().tolist() == [1, 3]
    rows[:] = (5, 6)
    table[:] = 100
    assert f(x).numpy().tolist() == [105, 106]
    rows[0] = 10
    with pytest.raises(IndexError, match="index 10 is out of bounds for an axis of size 10"):
        f(x)


def test_modes_have_programs_of_their_own():
    f = ndl.jit(lambda x: (x * 2).requires_grad)
    x = tensor(1, 2)
    assert f(x) is True
    with ndl.no_grad():
        assert f(x) is False
    assert f(x) is True
    assert f.cache_info().traces == 2


def test_tracing_again_and_again_is_warned_of():
    f = ndl.jit(lambda x, number: x * number)
    with pytest.warns(UserWarning, match=r"traced 9 times.*pass what changes as a Tensor"):
        for number in range(9):
            f(tensor(1), float(number))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        f(tensor(1), 100.0)


# ------------------------------------------------------------------------------------------------------- errors


LINE = r"test_behaviour\.py:\d+"


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x if x.sum() > 0 else -x, "a branch on a value .* needs values, .* choose with ndl.where"),
        (lambda x: x * float(x.sum()), r"float\(\) of a value needs values.*look at it outside.*\n  .*float\(x.sum"),
        (lambda x: x.numpy(), "the values as a NumPy array.*look at it outside"),
        (
            lambda x: x.sum().item(),
            "the value of an element needs values, and a function has none while it is compiled",
        ),
        (lambda x: [1, 2][int(ndl.argmax(x, 0))], r"int\(\) of a value"),
        (lambda x: x[x > 0], "a mask made of values"),
        (lambda x: f"{x[0]:.3f}", "the value written as '.3f' says needs values"),
        (lambda x: f"{x:>20}", "the value written as '>20' says needs values"),
        (lambda x: int(x[0]), r"int\(\) of a value"),
        (lambda x: 1 in x, r"whether a value is in a Tensor \(in\) needs values.*return the Tensor"),
        (lambda x: np.asarray(x) + 1, "the values as a NumPy array"),
        (lambda x: x.tolist(), "the values as a NumPy array"),
        (lambda x: copy.deepcopy(x) + 1, "the values as a NumPy array"),
        (lambda x: [one for one in x if one > 1], "a branch on a value"),
        (lambda x: np.nonzero(x.cached_data), "np.nonzero, whose result is as long as the values say.*ndl.where"),
        (lambda x: np.unique(x.cached_data), "np.unique, whose result is as long as the values say"),
        (lambda x: np.cross(x.cached_data, x.cached_data), "np.cross cannot be compiled.*needle.ops"),
        (lambda x: x * random.random(), rf"draws from Python's random at .*{LINE} \(random.random\), .*ndl.init.rand"),
        (lambda x: x * float(GENERATOR.random()), "draws from a Generator of its own"),
        (
            lambda x: x * np.random.rand(),
            rf"draws from NumPy's global generator at .*{LINE} \(np.random.rand\), .*init.rand",
        ),
    ],
)
def test_what_cannot_be_compiled_is_one_error_with_the_line(function, message):
    state, python, own = np.random.get_state()[2], random.getstate(), GENERATOR.bit_generator.state
    with pytest.raises(TraceError, match=message) as raised:
        ndl.jit(function)(tensor(1, 2))
    assert "draws from" in str(raised.value) or __import__("re").search(LINE, str(raised.value))
    assert (np.random.get_state()[2], random.getstate()) == (state, python)
    assert GENERATOR.bit_generator.state == own


def test_a_tensor_that_leaks_is_an_error_with_the_line():
    kept = []
    w = tensor(1, 2)
    opt = optim.SGD([w], lr=0.1)

    def step(x):
        opt.reset_grad()
        loss = (w * x).sum()
        kept.append(loss)
        loss.backward()
        opt.step()
        return loss

    with pytest.raises(TraceError, match=rf"a Tensor at .*{LINE} .*kept outside of it.*return it from the function"):
        ndl.jit(step)(tensor(1, 1))
    assert (opt.t, w.grad, w.numpy().tolist()) == (0, None, [1, 2])


class Keeping(nn.Module):
    def forward(self, x):
        self.last = x * 2
        return self.last + 1


def test_a_tensor_that_leaks_is_told_where_it_is_kept():
    model = Keeping()
    with pytest.raises(TraceError, match=r"kept outside of it, in the attribute last of Keeping, .*return it"):
        ndl.jit(model)(tensor(1))
    with pytest.raises(TraceError, match=rf"this Tensor was made at .*{LINE} while a function was compiled, and never"):
        (model.last + 1).numpy()
    kept = {}
    with pytest.raises(TraceError, match=r"kept outside of it, in a dict, under 'x'"):
        ndl.jit(lambda x: kept.setdefault("x", (x * 2) + 1).sum())(tensor(1))
    kept = []
    with pytest.raises(TraceError, match=r"kept outside of it, in a list, .*not in objects of other classes"):
        ndl.jit(lambda x: kept.append(x * 2) or x)(tensor(1))


def test_a_tensor_without_values_is_shown_in_a_debugger():
    shown = []
    with pytest.warns(UserWarning, match="sets shown"):
        ndl.jit(lambda x: shown.append(repr(x * 2)) or x)(tensor(1, 2))
    assert shown == ["needle.Tensor(traced: float32[2], no values while the function is compiled)"]


def test_a_traced_tensor_prints_what_is_known_of_it(capsys):
    def f(x):
        y = x * 2
        print(y, f"and {y}")
        return y

    ndl.jit(f)(tensor(1, 2))
    traced = "traced: float32[2], no values while the function is compiled"
    assert capsys.readouterr().out == f"{traced} and {traced}\n"


def test_what_is_no_function_is_refused():
    def generator(x):
        yield x

    async def coroutine(x):
        return x

    for wrong, message in [
        (3, "got int"),
        (nn.Linear, "Linear is a class"),
        (generator, "generator is a generator or a coroutine"),
        (coroutine, "coroutine is a generator or a coroutine"),
    ]:
        with pytest.raises(SettingError, match=message):
            ndl.jit(wrong)
    for check in (-1, 0.5):
        with pytest.raises(SettingError, match="check is how many first calls"):
            ndl.jit(check=check)(lambda x: x)


def test_gradients_never_stop_silently_at_a_compiled_result():
    w = tensor(1, 2)
    square = ndl.jit(lambda x: (x * x).sum())
    for wrong in (ndl.grad(square), ndl.value_and_grad(lambda x: square(x * 2) + x.sum())):
        with pytest.raises(GradientError, match="a Tensor that a compiled function returned"):
            wrong(tensor(3, 4))
    teacher = square(w)
    assert ndl.grad(lambda x: (x * x).sum() + teacher)(tensor(3, 4)).numpy().tolist() == [6, 8]
    with ndl.no_grad():
        assert not square(w).requires_grad
    checked = ndl.jit(lambda x: (x * x).sum(), check=1)
    for _ in range(2):
        with pytest.raises(GradientError, match="a Tensor that a compiled function returned"):
            checked(w).backward()


def test_errors_of_operators_are_the_eager_ones():
    with pytest.raises(ShapeError, match=r"matmul.*\(2, 3\).*\(2, 3\)|inner"):
        ndl.jit(lambda a: a @ a)(ndl.Tensor(np.ones((2, 3))))
    with pytest.raises(DTypeError, match="takes a tuple of Tensors, not a TensorTuple"):
        ndl.jit(lambda a: a)(ndl.ops.make_tuple(tensor(1)))


def test_a_failed_call_can_be_replayed():
    calls = []

    @ndl.jit
    def f(x):
        calls.append(type(x.cached_data).__name__)
        return x.numpy() * 2

    with pytest.raises(SettingError, match="there was no call yet"):
        f.replay()
    with pytest.raises(TraceError):
        f(tensor(1, 2))
    np.testing.assert_array_equal(f.replay(), [2, 4])
    assert calls == ["TracedArray", "ndarray"]


# -------------------------------------------------------------------------------------------- trust and debugging


def test_check_runs_both_and_keeps_the_eager_state():
    np.random.seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))
    opt = optim.Adam(model.parameters(), lr=0.01)
    loss_fn = nn.SoftmaxLoss()

    @ndl.jit(check=2)
    def step(x, y):
        opt.reset_grad()
        loss = loss_fn(model(x), y)
        loss.backward()
        opt.step()
        return loss

    x, y = ndl.init.randn(6, 4), ndl.Tensor(np.array([0, 1, 2, 0, 1, 2]), requires_grad=False)
    losses = [step(x, y).item() for _ in range(60)]
    assert opt.t == 60
    assert losses[-1] < losses[0]


def test_check_names_the_first_operator_that_differs(monkeypatch):
    monkeypatch.setenv("NEEDLE_CACHE", "0")  # no plan of the right program
    """A compiler that takes sines for cosines is found out, and the state stays what it was."""
    emit = scalar._emit_function

    def wrong(f, name, arguments, kind):
        return emit(f, "cos" if name == "sin" else name, arguments, kind)

    monkeypatch.setattr(scalar, "_emit_function", wrong)
    w = tensor(1, 2)
    opt = optim.SGD([w], lr=0.1)

    @ndl.jit(check=1)
    def step(x):
        opt.reset_grad()
        y = w * x
        loss = ndl.sin(y).sum()
        loss.backward()
        opt.step()
        return loss

    with pytest.raises(CompileError, match=rf"differs from the eager one in result 0; .* is sin at .*{LINE}"):
        step(tensor(1, 1))
    assert (opt.t, w.grad, w.numpy().tolist()) == (0, None, [1, 2])


def test_debug_nan_names_operator_and_line_eager_and_compiled():
    def f(x):
        y = x - 1
        z = ndl.log(y)
        return (z * 0).sum()

    for function in (f, ndl.jit(f)):
        with np.errstate(all="ignore"), ndl.debug_nan():
            assert function(tensor(2, 3)).item() == 0
            with pytest.raises(NonFiniteError, match=rf"^log.* at .*{LINE} made infinity of finite numbers: 1 of 2"):
                function(tensor(1, 3))
        with np.errstate(all="ignore"):
            assert np.isnan(function(tensor(1, 3)).item())


def test_debug_nan_names_a_cast_that_makes_integers_of_nan():
    def f(x):
        return (x * 2).astype("int32") + 1, ndl.ops.isnan(x).astype("int32"), x.astype("bool")

    for function in (f, ndl.jit(f)):
        assert function(tensor(np.nan, 3))[0].tolist() == [1, 7]
        with ndl.debug_nan():
            assert function(tensor(np.inf, 3))[0].tolist() == [-(2**31), 7]
            with pytest.raises(NonFiniteError, match=rf"^astype at .*{LINE} made integers of NaN: 1 of 2 elements"):
                function(tensor(np.nan, 3))


def test_a_call_that_debug_nan_stops_changes_nothing():
    w = tensor(1, 2)
    opt = optim.SGD([w], lr=0.1, momentum=0.9)

    @ndl.jit
    def step(x):
        opt.reset_grad()
        loss = ndl.log(w * x).sum()
        loss.backward()
        opt.step()
        return loss

    with ndl.debug_nan():
        step(tensor(1, 1))
        before = w.numpy()
        with pytest.raises(NonFiniteError):
            step(tensor(0, 1))
    assert opt.t == 1
    np.testing.assert_array_equal(w.numpy(), before)


def test_debug_nan_names_the_operator_within_a_loop():
    w = tensor(1, 1)
    opt = optim.Adam([w], lr=0.1)

    def step(h, x):
        z = ndl.log(x)
        h = h * 0.5 + z * w
        return h, h

    @ndl.jit
    def train(xs):
        opt.reset_grad()
        last, _ = ndl.scan(step, tensor(0, 0), xs)
        loss = last.sum()
        loss.backward()
        opt.step()
        return loss

    good = np.ones((40, 2), "float32")
    bad = np.where(np.arange(40)[:, None] == 33, -good, good)
    with np.errstate(all="ignore"), ndl.debug_nan():
        for calls in range(2):  # the first makes moments, which go again
            state = opt.state_dict()
            with pytest.raises(NonFiniteError, match=rf"^log at .*{LINE} made NaN of finite numbers: 2 of 2 elements"):
                train(ndl.Tensor(bad))
            assert (opt.t, w.numpy().tolist(), w.grad is None) == (calls, [1, 1], not calls)
            assert str(opt.state_dict()) == str(state)
            train(ndl.Tensor(good))


def test_replay_stops_in_a_debugger_at_the_users_line():
    @ndl.jit
    def f(x):
        y = x * 2
        if y.sum() > 0:
            return y
        return -y

    with pytest.raises(TraceError):
        f(tensor(1, 3))
    out = io.StringIO()
    commands = "step\n" * 3 + "next\n" * 2 + "p x.numpy(), y.numpy()\ncontinue\n"
    debugger = pdb.Pdb(stdin=io.StringIO(commands), stdout=out, nosigint=True, readrc=False)
    assert debugger.runcall(f.replay).numpy().tolist() == [2, 6]
    assert "(array([1., 3.], dtype=float32), array([2., 6.], dtype=float32))" in out.getvalue(), out.getvalue()


def test_disabled_and_environment():
    calls = []
    f = ndl.jit(lambda x: calls.append(1) or x * 2)
    with ndl.jit.disabled():
        f(tensor(1))
        f(tensor(1))
    assert len(calls) == 2
    program = "import needle as ndl\nf = ndl.jit(lambda x: x.numpy())\nprint(f(ndl.Tensor([1.0])))"
    for value, code in (("0", 0), ("1", 1)):
        run = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "NEEDLE_JIT": value},
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == code, run.stderr


def test_environment_is_read_in_each_call(monkeypatch):
    f = ndl.jit(lambda x: x * 2)
    for value, count in (("1", 1), ("0", 1), ("", 2)):
        monkeypatch.setenv("NEEDLE_JIT", value)
        f(tensor(1))
        assert f.cache_info().calls == count  # of the program


def test_debug_environment_is_looked_up_in_each_call(monkeypatch):
    f = ndl.jit(ndl.log)
    with np.errstate(all="ignore"):
        f(tensor(0))
        monkeypatch.setenv("NEEDLE_DEBUG", "nan")
        with pytest.raises(NonFiniteError, match="log"):
            f(tensor(0))
        with pytest.raises(NonFiniteError, match="log"):
            ndl.log(tensor(0))
        monkeypatch.delenv("NEEDLE_DEBUG")
        assert np.isinf(f(tensor(0)).item())
        assert np.isinf(ndl.log(tensor(0)).item())
        monkeypatch.setenv("NEEDLE_DEBUG", "fast")
        with pytest.raises(SettingError, match="NEEDLE_DEBUG is nan, or not set; got 'fast'"):
            f(tensor(0))


def test_debug_environment():
    program = "import needle as ndl\nndl.jit(lambda x: ndl.log(x))(ndl.Tensor([0.0]))"
    for value, message in (("nan", "NonFiniteError: log"), ("fast", "NEEDLE_DEBUG is nan, or not set; got 'fast'")):
        run = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "NEEDLE_DEBUG": value},
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 1
        assert message in run.stderr


def test_stages_print():
    w = ndl.Tensor(np.ones((3, 3), np.float32))
    lowered = ndl.jit(lambda x: ndl.relu(x @ w + 1)).lower(ndl.init.randn(2, 3))
    assert "matmul(" in lowered.show("graph")
    assert "test_behaviour.py:" in lowered.show("graph")
    assert "test_behaviour.py:" in lowered.show("kernels")
    assert "define" in lowered.show("llvm")
    with pytest.raises(SettingError, match="the stages are 'graph', 'kernels', 'llvm'"):
        lowered.show("assembler")


# --------------------------------------------------------------------------------------------------------- threads


def test_two_python_threads_call_compiled_functions():
    big = ndl.Tensor(np.random.rand(300, 300).astype(np.float32), requires_grad=False)
    functions = [ndl.jit(lambda x: ndl.exp(x @ x * 1e-3)), ndl.jit(lambda x: (x * 2 + 1).sum())]
    expected = [np.exp(big.numpy() @ big.numpy() * 1e-3), (big.numpy() * 2 + 1).sum()]
    wrong = []

    def work(number):
        for _ in range(30):
            found = functions[number % 2](big).numpy()
            if not np.allclose(found, expected[number % 2], rtol=1e-3):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert wrong == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_compiled_functions_work_in_a_forked_child():
    program = (
        "import os, time, numpy as np, needle as ndl\n"
        "x = ndl.Tensor(np.ones((300, 300), np.float32), requires_grad=False)\n"
        "f = ndl.jit(lambda x: (x @ x).sum())\n"
        "ndl.set_num_threads(2); f(x)\n"
        "time.sleep(0.1)  # until the worker sleeps\n"
        "pid = os.fork()\n"
        "ok = f(x).item() == 300.0 ** 3\n"
        "if pid == 0: os._exit(0 if ok else 3)\n"
        "print(ok, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n"
    )
    command = [sys.executable, "-W", "ignore", "-c", program]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout.split() == ["True", "0"]


def test_workers_sleep_between_programs_and_are_woken():
    program = (
        "import os, threading, time\n"
        "import numpy as np\n"
        "import needle as ndl\n"
        "x = ndl.Tensor(np.ones((300, 300), np.float32), requires_grad=False)\n"
        "f = ndl.jit(lambda x: (x @ x).sum())\n"
        "ndl.set_num_threads(3)\n"
        "for _ in range(20):\n"
        "    assert [f(x).item() for _ in range(3)] == [300.0 ** 3] * 3\n"
        "    time.sleep(0.01)\n"
        "time.sleep(0.2)\n"
        "before = time.process_time()\n"
        "time.sleep(0.5)\n"
        "assert time.process_time() - before < 0.1, 'workers do not sleep'\n"
        "if hasattr(os, 'sched_getaffinity'):\n"
        "    workers = [one.native_id for one in threading.enumerate() if one.name.startswith('needle-')]\n"
        "    assert len(workers) == 2\n"
        "    while any(os.sched_getaffinity(one) != os.sched_getaffinity(0) for one in workers): f(x)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_an_operator_may_hold_tensors_of_its_call():
    class Remembering(ndl.TensorOp):
        def compute(self, a):
            return a * 2

        def gradient(self, out_grad, node):
            self.seen = out_grad
            return out_grad * 2

    x = ndl.Tensor([1.0])
    step = ndl.jit(lambda: Remembering()(x).sum().backward())
    step()
    assert x.grad.numpy() == [2.0]


@pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="a policy of Linux")
def test_workers_do_not_push_the_caller_off_its_processor():
    program = (
        "import os, threading\n"
        "import numpy as np\n"
        "import needle as ndl\n"
        "ndl.set_num_threads(2)\n"
        "a = ndl.Tensor(np.ones((300, 300), dtype=np.float32))\n"
        "assert ndl.jit(lambda a: a @ a)(a).numpy()[0, 0] == 300\n"
        "workers = [one for one in threading.enumerate() if one.name.startswith('needle-')]\n"
        "assert len(workers) == 1\n"
        "assert os.sched_getscheduler(workers[0].native_id) == os.SCHED_BATCH\n"
        "assert os.sched_getscheduler(0) == os.SCHED_OTHER\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
