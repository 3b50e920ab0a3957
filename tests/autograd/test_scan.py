"""Scans against the loop written out: results, gradients, containers, order, and what is refused."""

import linecache

import numpy as np
import pytest

import needle as ndl
from needle import looping
from needle.compiler import stages, written_out
from needle.errors import DTypeError, SettingError, ShapeError

WAYS = ["eager", "compiled", "looped"]


@pytest.fixture
def way(request, monkeypatch):
    """Run as Python, compiled with all steps written out, or compiled as one loop."""
    if request.param == "looped":
        monkeypatch.setattr(looping, "_FEWEST_STEPS", 1)
    return (lambda fn: fn) if request.param == "eager" else ndl.jit


def is_one_loop(fn, *args):
    """Tell whether a compiled function's program has a loop."""
    return "  for t = " in fn.lower(*args).show()


in_all_ways = pytest.mark.parametrize("way", WAYS, indirect=True)
looped = pytest.mark.parametrize("way", ["looped"], indirect=True)


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
@in_all_ways
@pytest.mark.parametrize("wrap", [lambda step: step, ndl.checkpoint], ids=["plain", "checkpointed"])
@pytest.mark.parametrize("length", [1, 7])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_results_and_gradients_are_those_of_the_loop(reverse, way, wrap, length, dtype):
    x, w, h0 = tensor(length, 3, 5, dtype=dtype), tensor(5, 5, seed=1, dtype=dtype), tensor(3, 5, seed=2, dtype=dtype)

    def step(h, x):
        h = ndl.tanh(h @ w + x)
        return h, h

    def run(x, h0):
        last, states = ndl.scan(wrap(step), h0, x, reverse=reverse)
        ((states**2).sum() + last.sum()).backward()
        return last, states

    last, states = way(run)(x, h0)
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


@in_all_ways
def test_containers_are_carried_and_stacked(way):
    def run(xs):
        def step(carry, x):
            total, counts = carry
            return (total + x["a"], {"count": counts["count"] + 1}), {"both": (x["a"] * 2, [x["b"]]), "text": "same"}

        return ndl.scan(step, (tensor(3) * 0, {"count": ndl.Tensor(0.0)}), xs)

    xs = {"a": tensor(4, 3), "b": tensor(4, seed=1)}
    (total, count), ys = way(run)(xs)
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


# ------------------------------------------------------------------------------------------- as one loop

WIDTH = 6


def _lstm(w, u, b):
    def step(carry, x):
        h, c = carry
        sums = x @ w + h @ u + b.broadcast_to((x.shape[0], 4 * WIDTH))
        i, f, g, o = (sums[:, k * WIDTH : (k + 1) * WIDTH] for k in range(4))
        c = ndl.ops.sigmoid(f) * c + ndl.ops.sigmoid(i) * ndl.tanh(g)
        h = ndl.ops.sigmoid(o) * ndl.tanh(c)
        return (h, c), h

    return step


def _relu(w, u, b):
    def step(carry, x):
        h, c = carry
        h = ndl.relu(x @ (w[:, :WIDTH] * 2) + h @ u[:, :WIDTH] - b[:WIDTH].reshape((1, WIDTH)).broadcast_to(h.shape))
        return (h, c * 0.5 + h), {"h": h, "sums": h.sum(axes=1), "c": c}

    return step


def _normalized(w, u, b):
    def step(carry, x):
        h, c = carry
        sums = x + h @ u[:, :WIDTH]
        mean = (sums.sum(axes=1) / WIDTH).reshape((x.shape[0], 1)).broadcast_to(x.shape)
        return (ndl.exp(-((sums - mean) ** 2)), c + b[:WIDTH].reshape((1, WIDTH)).broadcast_to(x.shape)), None

    return step


def _mixed(w, u, b):
    def step(carry, x):
        h, c = carry
        scores = h @ x.transpose()
        return (ndl.tanh(scores @ x + c), c), (
            scores.sum(),
            (h * w[0, :WIDTH].reshape((1, WIDTH)).broadcast_to(h.shape)),
        )

    return step


def _detached(w, u, b):
    def step(carry, x):
        h, c = carry
        return (ndl.tanh(h.detach() @ u[:, :WIDTH] + x), h * c), h.detach() * 2

    return step


def _joined(w, u, b):
    def step(carry, x):
        h, c = carry
        both = ndl.ops.concatenate([h, x], axis=1) @ ndl.ops.concatenate([w, u], axis=0)
        return (ndl.tanh(both[:, :WIDTH]), ndl.ops.maximum(c, both[:, WIDTH : 2 * WIDTH])), both

    return step


MAKERS = [_lstm, _relu, _normalized, _mixed, _detached, _joined]


def _run_and_gradients(way, make, reverse, dtype, rows, which):
    x, h0, c0 = (
        tensor(7, rows, WIDTH, dtype=dtype),
        tensor(rows, WIDTH, seed=1, dtype=dtype),
        tensor(rows, WIDTH, seed=2),
    )
    w, u = tensor(WIDTH, 4 * WIDTH, seed=3, dtype=dtype), tensor(WIDTH, 4 * WIDTH, seed=4, dtype=dtype)
    b, c0 = tensor(4 * WIDTH, seed=5, dtype=dtype), tensor(rows, WIDTH, seed=2, dtype=dtype).detach()

    def run(x, h0):
        last, ys = ndl.scan(make(w, u, b), (h0, c0), x, reverse=reverse)
        found = [one for one in (*last, *_leaves(ys)) if which != "last" or one is last[0]]
        total = sum(((one * (k + 1)) ** 2).sum() for k, one in enumerate(found))
        if which == "twice":
            total = total * total + ndl.exp(-last[0]).sum()
        total.backward()
        return last, ys

    fn = way(run)
    if way is ndl.jit:
        assert is_one_loop(fn, x, h0) == (looping._FEWEST_STEPS == 1)
    last, ys = fn(x, h0)
    return [one.numpy() for one in (*last, *_leaves(ys))], [
        None if one.grad is None else one.grad.numpy() for one in (x, h0, w, u, b)
    ]


def _leaves(ys):
    if isinstance(ys, dict):
        return list(ys.values())
    return [] if ys is None else list(ys) if isinstance(ys, tuple) else [ys]


@looped
@pytest.mark.parametrize("which", ["all", "last", "twice"])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("rows", [1, 19])
@pytest.mark.parametrize("make", MAKERS)
def test_one_loop_gives_what_the_steps_do(way, make, reverse, rows, which):
    results, gradients = _run_and_gradients(way, make, reverse, "float64", rows, which)
    expected, expected_gradients = _run_and_gradients(lambda fn: fn, make, reverse, "float64", rows, which)
    for one, other in zip((*results, *gradients), (*expected, *expected_gradients), strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            assert one.dtype == other.dtype
            np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-11)


def _compare(way, run, *args, start=lambda: None, in_loop=True):
    """Check a compiled function's results and gradients against those of Python, and whether it has a loop."""
    found = []
    for fn in (run, way(run)):
        start()
        results = fn(*args)
        found.append(
            [*(one.numpy() for one in results), *(None if one.grad is None else one.grad.numpy() for one in args)]
        )
    for one, other in zip(*found, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-11)
    assert is_one_loop(way(run), *args) == in_loop


def _scanned(step):
    """Return a function that scans with a step, and differentiates."""

    def run(x, h):
        last, ys = ndl.scan(step, h, x)
        (ys * ys).sum().backward()
        return last, ys

    return run


@looped
def test_steps_that_are_not_the_same_are_written_out(way):
    x, h, w = tensor(5, 3, 4), tensor(3, 4, seed=1), tensor(4, 4, seed=2)
    drop = ndl.nn.Dropout(0.5)
    _compare(way, _scanned(lambda c, x: (drop(c @ w) + x,) * 2), x, h, start=lambda: np.random.seed(0), in_loop=False)

    def counting(x, h):
        count = [0]

        def step(c, x):
            count[0] += 1
            return (ndl.tanh(c @ w + x) * count[0],) * 2

        return _scanned(step)(x, h)

    _compare(way, counting, x, h, in_loop=False)

    def taking(x, h):
        factors = [1.0, 2.0, 3.0, 4.0, 5.0]
        return _scanned(lambda c, x: (ndl.tanh(c @ w + x) * factors.pop(),) * 2)(x, h)

    _compare(way, taking, x, h, in_loop=False)


@looped
def test_steps_that_leave_something_outside_are_written_out(way):
    x, h, w = tensor(5, 3, 4), tensor(3, 4, seed=1), tensor(4, 4, seed=2)
    mean = ndl.Tensor(np.zeros((3, 4)), requires_grad=False)

    def leaking(x, h):
        kept = []

        def step(c, x):
            kept.append(ndl.tanh(c @ w + x))
            return kept[-1], kept[-1]

        return *_scanned(step)(x, h), kept[2]

    _compare(way, leaking, x, h, in_loop=False)

    def writing(x, h):
        def step(c, x):
            mean.data = mean.data * 0.5 + x.detach()
            return (ndl.tanh(c @ w + mean),) * 2

        return _scanned(step)(x, h)

    def start():
        mean.data = ndl.Tensor(np.zeros((3, 4)))

    _compare(way, writing, x, h, start=start, in_loop=False)


@looped
def test_a_loop_that_is_differentiated_twice_is_written_out(way):
    w = tensor(4, 4, seed=2)

    def run(x, h):
        last, ys = ndl.scan(lambda c, x: (ndl.tanh(c @ w + x),) * 2, h, x)
        (ys**3).sum().backward()
        ((x.grad) ** 2).sum().backward()
        return last, ys

    _compare(way, run, tensor(5, 3, 4), tensor(3, 4, seed=1), in_loop=False)


@looped
def test_what_steps_read_from_outside_gets_its_gradient(way):
    w, table = tensor(4, 4, seed=2), tensor(9, 4, seed=3)
    ids = ndl.Tensor(np.arange(15).reshape(5, 3) % 9, requires_grad=False)

    def run(x, h):
        scaled = ndl.exp(w) * 2

        def step(c, both):
            x, i = both
            row = scaled.sum(axes=0).reshape((1, 4)).broadcast_to((3, 4))
            stacked = ndl.ops.stack([c, x], 0) @ ndl.ops.stack([scaled, w], 0)
            c = ndl.tanh(stacked.sum(axes=0) + row + ndl.ops.embedding(i, table))
            return c, (c @ scaled, i)

        last, (ys, _) = ndl.scan(step, h, (x, ids))
        (ys * ys).sum().backward()
        return last, ys, w.grad, table.grad

    _compare(way, run, tensor(5, 3, 4), tensor(3, 4, seed=1))


@looped
def test_values_are_checked_at_all_steps(way):
    table, h = tensor(9, 4, seed=3), tensor(3, 4, seed=1)

    @way
    def run(ids, h):
        last, _ = ndl.scan(lambda c, i: (c + ndl.ops.embedding(i, table), None), h, ids)
        last.sum().backward()
        return table.grad

    ids = np.zeros((5, 3))
    np.testing.assert_array_equal(run(ndl.Tensor(ids), h).numpy()[0], 15)
    ids[3, 1] = 9
    with pytest.raises(ndl.errors.NeedleError, match="9"):
        run(ndl.Tensor(ids), h)


@looped
def test_loops_in_loops_and_one_after_another(way):
    w = tensor(4, 4, seed=2)

    def run(x, h):
        def step(c, x):
            total, parts = ndl.scan(lambda a, b: (a * 0.9 + b, a), c, ndl.ops.stack([x, x * 2], 0))
            return ndl.tanh(total @ w), parts.sum(axes=0)

        last, ys = ndl.scan(step, h, x)
        end, back = ndl.scan(lambda c, y: (ndl.tanh(c) * y, c), last, ys, reverse=True)
        (back**2).sum().backward()
        return end, back, w.grad

    _compare(way, run, tensor(5, 3, 4), tensor(3, 4, seed=1))


@looped
def test_carried_values_of_other_kinds(way):
    def run(x, h):
        def step(carry, x):
            h, count, window = carry
            window = ndl.ops.concatenate([window[1:], h.reshape((1, 3, 4))], axis=0)
            return (ndl.tanh(h + x), count + 1, window), (window.sum(axes=0), count)

        start = h, ndl.Tensor(0, dtype="int64", requires_grad=False), ndl.ops.stack([h, h * 2], 0)
        (last, count, window), (ys, counts) = ndl.scan(step, start, x)
        ((ys**2).sum() + (window**3).sum()).backward()
        return last, count, window, ys, counts

    _compare(way, run, tensor(5, 3, 4), tensor(3, 4, seed=1))


@looped
def test_a_loop_gives_the_same_bits_on_any_number_of_threads(way):
    w, u = tensor(8, 8, dtype="float32"), tensor(8, 8, seed=1, dtype="float32")

    @way
    def run(x, h):
        last, ys = ndl.scan(lambda c, x: (ndl.tanh(c @ w + x @ u),) * 2, h, x)
        (ys**2).sum().backward()
        return last, ys, x.grad, w.grad, u.grad

    x, h = tensor(9, 37, 8, dtype="float32"), tensor(37, 8, seed=2, dtype="float32")
    ndl.set_num_threads(1)
    try:
        alone = [one.numpy() for one in run(x, h)]
        ndl.set_num_threads(2)
        for one, other in zip(run(x, h), alone, strict=True):
            np.testing.assert_array_equal(one.numpy(), other)
    finally:
        ndl.set_num_threads(None)


def test_a_loop_of_a_thousand_steps_is_planned_as_one():
    w, h0 = tensor(8, 8, dtype="float32"), tensor(4, 8, dtype="float32", seed=1)

    def run(x):
        last, ys = ndl.scan(lambda h, x: (ndl.tanh(h @ w + x),) * 2, h0, x)
        (ys**2).sum().backward()
        return last, x.grad

    program = ndl.jit(run).lower(tensor(1000, 4, 8, dtype="float32"))
    assert program.show().count("  for t = ") == 2  # forwards, and back
    assert len(program.show("llvm")) < 200_000
    assert "1000 times" in str(program.profile(repeats=2)) and "1000 times" in program.picture()


# ------------------------------------------------------------------------------- what is told of long scans

W = tensor(4, 4, seed=2)
KEPT = ndl.Tensor(np.zeros((3, 4)), requires_grad=False)


def _dropping(c, x):
    return (ndl.tanh(c @ W + x) * ndl.init.rand(3, 4, requires_grad=False),) * 2


def _writing(c, x):
    KEPT.data = KEPT.data + x.detach()
    return (ndl.tanh(c @ W + x),) * 2


def _choosing(c, x):
    return (ndl.tanh(c @ W + x) + ndl.ops.embedding(c.argmax(1), W),) * 2


def _taking(factors):
    return lambda c, x: (ndl.tanh(c @ W + x) * factors.pop(),) * 2


def _squared_slope(x, h):
    _, ys = ndl.scan(lambda c, x: (ndl.tanh(c @ W + x),) * 2, h, x)
    (ys**3).sum().backward()
    (x.grad**2).sum().backward()


TOLD = {
    "a step draws random numbers. Draw those of all steps before the scan": lambda x, h: ndl.scan(_dropping, h, x),
    "a step writes to a Tensor. Carry it": lambda x, h: ndl.scan(_writing, h, x),
    "indices or labels that it computes. Compute them before": lambda x, h: ndl.scan(_choosing, h, x),
    "not the same for each element. Pass what differs": lambda x, h: ndl.scan(_taking(list(range(20))), h, x),
    "its gradient is differentiated again. Make fewer": _squared_slope,
}


@pytest.mark.parametrize("message", TOLD)
def test_a_long_scan_that_is_written_out_is_told_once(monkeypatch, message):
    x, h = tensor(20, 3, 4), tensor(3, 4, seed=1)
    monkeypatch.setattr(written_out, "_told", set())
    ndl.jit(TOLD[message]).lower(x, h)  # not so long that it is worth a word
    monkeypatch.setattr(written_out, "_MANY_NODES", 200)
    match = rf"the 20 steps of a loop are written out .* about \d+ operations.*{message}"
    with pytest.warns(UserWarning, match=match) as warned:
        for _ in range(2):
            ndl.jit(TOLD[message]).lower(x, h)
    assert [one.filename for one in warned] == [__file__]
    assert "ndl.scan(" in linecache.getline(__file__, warned[0].lineno)


def test_nothing_is_told_of_a_scan_that_is_short_or_a_loop(monkeypatch):
    monkeypatch.setattr(written_out, "_MANY_NODES", 1)
    ndl.jit(lambda x, h: ndl.scan(_dropping, h, x)).lower(tensor(5, 3, 4), tensor(3, 4))

    def nested(c, x):
        return (ndl.scan(lambda c, x: (ndl.tanh(c + x),) * 2, c, x)[0],) * 2

    ndl.jit(lambda x, h: ndl.scan(nested, h, x)).lower(tensor(20, 20, 3, 4), tensor(3, 4))


def test_a_loop_that_the_compiler_writes_out_is_told(monkeypatch):
    monkeypatch.setenv("NEEDLE_CACHE", "0")
    monkeypatch.setattr(stages, "is_worth_a_loop", lambda node, processors: False)
    monkeypatch.setattr(written_out, "_MANY_NODES", 40)
    with pytest.warns(UserWarning, match="the 20 steps .*: a step is so much work") as warned:
        ndl.jit(lambda x, h: ndl.scan(lambda c, x: (ndl.tanh(c @ W + x),) * 2, h, x))(tensor(20, 3, 4), tensor(3, 4))
    assert [one.filename for one in warned] == [__file__]
