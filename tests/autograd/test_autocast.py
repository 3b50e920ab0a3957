"""Mixed precision: dtypes of results and gradients, where it holds, and that training still converges."""

import threading

import numpy as np
import pytest

import needle as ndl
from needle import nn, ops, optim
from needle.errors import DTypeError

NARROW = ["bfloat16", "float16"]


def tensor(*shape, seed=0, dtype="float32"):
    return ndl.Tensor(np.random.default_rng(seed).standard_normal(shape), dtype=dtype)


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("compiled", [False, True])
def test_products_are_narrow_and_gradients_arrive_wide(dtype, compiled):
    a, b = tensor(7, 9), tensor(9, 5, seed=1)

    def run(a, b):
        with ndl.autocast(dtype):
            y = a @ b
        (y * y).sum().backward()
        return y

    y = (ndl.jit(run) if compiled else run)(a, b)
    narrow_a, narrow_b = (one.astype(dtype).astype("float32").numpy() for one in (a, b))
    assert y.dtype == dtype
    np.testing.assert_allclose(y.astype("float32").numpy(), narrow_a @ narrow_b, rtol=0.01, atol=0.01)
    assert (a.grad.dtype, b.grad.dtype) == ("float32", "float32")
    np.testing.assert_allclose(a.grad.numpy(), 2 * (a.numpy() @ b.numpy()) @ b.numpy().T, rtol=0.1, atol=0.5)


def test_sums_are_added_up_in_float32():
    ones = ndl.Tensor(np.ones((1, 5000)), dtype="float32")
    with ndl.autocast("float16"):
        total = ones @ ones.transpose()
    assert total.numpy() == 5000  # in float16 alone it stops at 2048


WIDE = {
    "sum": lambda x: x.sum(),
    "mean": lambda x: x.mean(),
    "softmax": ops.softmax,
    "logsumexp": lambda x: ops.logsumexp(x, (1,)),
    "exp": ops.exp,
    "power": lambda x: x**3,
    "mse_loss": lambda x: ops.mse_loss(x, x),
    "cross_entropy": lambda x: nn.SoftmaxLoss()(x, ndl.Tensor(np.array([0, 1, 2]))),
    "layer_norm": nn.LayerNorm1d(4),
    "batch_norm": nn.BatchNorm1d(4),
}


@pytest.mark.parametrize("name", WIDE)
def test_what_is_delicate_stays_wide(name):
    x = tensor(3, 4, dtype="bfloat16")
    with ndl.autocast():
        y = WIDE[name](x)
    assert y.dtype == "float32"
    y.sum().backward()
    assert x.grad.dtype == "bfloat16"


@pytest.mark.parametrize("dtype", NARROW)
def test_layers_give_narrow_results(dtype):
    with ndl.autocast(dtype):
        assert nn.Linear(4, 3)(tensor(2, 4)).dtype == dtype
        assert nn.Conv(2, 3, 3)(tensor(2, 2, 5, 5)).dtype == dtype
        assert nn.ReLU()(nn.Linear(4, 3)(tensor(2, 4))).dtype == dtype
        assert nn.MultiHeadAttention()(*(tensor(1, 2, 3, 4) for _ in range(3)))[0].dtype == dtype
    assert nn.Linear(4, 3)(tensor(2, 4)).dtype == "float32"


def test_float64_and_integers_are_left_alone():
    with ndl.autocast():
        assert (tensor(2, 2, dtype="float64") @ tensor(2, 2, dtype="float64")).dtype == "float64"
        assert (tensor(2, 2, dtype="float64") @ tensor(2, 2)).dtype == "float64"
        integers = ndl.Tensor(np.eye(2, dtype=np.int64))
        assert (integers @ integers).dtype == "int64"


def test_blocks_nest_and_end():
    a = tensor(2, 2)
    with ndl.autocast("bfloat16"):
        with ndl.autocast("float16"):
            assert (a @ a).dtype == "float16"
        with ndl.autocast(enabled=False):
            assert (a @ a).dtype == "float32"
        assert (a @ a).dtype == "bfloat16"
    with pytest.raises(ZeroDivisionError), ndl.autocast():
        raise ZeroDivisionError
    assert (a @ a).dtype == "float32"
    assert ndl.autocast("float16")(lambda: a @ a)().dtype == "float16"


def test_other_threads_are_left_alone():
    a, found = tensor(2, 2), []
    with ndl.autocast():
        thread = threading.Thread(target=lambda: found.append((a @ a).dtype))
        thread.start()
        thread.join()
    assert found == ["float32"]


def test_one_block_in_two_threads_leaves_each_as_it_was():
    a, shared = tensor(2, 2), ndl.autocast("bfloat16")
    inside, may_leave = threading.Event(), threading.Event()

    @shared
    def wait():
        inside.set()
        may_leave.wait()

    thread = threading.Thread(target=wait)
    with ndl.autocast("float16"):
        with shared:
            thread.start()
            inside.wait()
        assert (a @ a).dtype == "float16"
    may_leave.set()
    thread.join()
    assert (a @ a).dtype == "float32"


def test_a_compiled_function_notices_it():
    f = ndl.jit(lambda a: a @ a)
    a = tensor(2, 2)
    assert f(a).dtype == "float32"
    with ndl.autocast():
        assert f(a).dtype == "bfloat16"
    with ndl.autocast("float16"):
        assert f(a).dtype == "float16"
    assert f(a).dtype == "float32"
    assert f.cache_info().traces == 3
    assert "the dtype of autocast" in f.explain()


@pytest.mark.parametrize("compiled", [False, True])
def test_backward_is_the_same_inside_and_outside(compiled):
    model = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm1d(8), nn.Tanh(), nn.Linear(8, 3))
    x, labels = tensor(5, 4), ndl.Tensor(np.array([0, 1, 2, 0, 1]))

    def gradients(inside):
        def run(x):
            with ndl.autocast():
                loss = nn.SoftmaxLoss()(model(x), labels)
                if inside:
                    loss.backward()
            if not inside:
                loss.backward()
            return loss

        (ndl.jit(run) if compiled else run)(x)
        return [p.grad.numpy() for p in model.parameters()]

    for one, other in zip(gradients(True), gradients(False), strict=True):
        np.testing.assert_array_equal(one, other)


def test_checkpoints_compute_again_in_the_same_dtype():
    model, x, seen = nn.Linear(4, 4), tensor(3, 4), []

    def fn(x):
        y = model(x)
        seen.append(y.dtype)
        return y

    with ndl.autocast():
        y = ndl.checkpoint(fn)(x)
    (y * y).sum().backward()
    assert seen == ["bfloat16", "bfloat16"]
    assert model.weight.grad.dtype == "float32"


@pytest.mark.parametrize("dtype", NARROW)
def test_adjoints_that_come_past_a_residual_are_narrow(dtype):
    a, b = tensor(4, 4), tensor(4, 4, seed=1)
    with ndl.autocast(dtype):
        y = a @ b
        loss = (a + y).sum()  # a wide sum
    loss.backward()
    assert y.grad.dtype == dtype
    assert a.grad.dtype == b.grad.dtype == "float32"


def test_compiled_steps_multiply_nothing_that_was_cast_wide():
    model = nn.Sequential(nn.LayerNorm(16), nn.Residual(nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))))

    def step(x):
        with ndl.autocast():
            loss = nn.MSELoss()(model(x), x)
        loss.backward()
        return loss

    shown = ndl.jit(step).lower(tensor(20, 16)).show("graph")
    assert shown.count("= widening_matmul(") == 6
    assert "= matmul(" not in shown


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("function", [ops.gelu, ops.silu, ops.sigmoid, ops.softplus])
def test_gradients_of_several_operators_round_once(function, dtype):
    x = tensor(1000, dtype=dtype)
    wide = x.detach().astype("float32").detach()
    wide.requires_grad = True
    function(x).sum().backward()
    function(wide).sum().backward()
    one, exact = x.grad.astype("float32").numpy(), wide.grad.numpy()
    unit = 2**-8 if dtype == "bfloat16" else 2**-11
    # The result of the forward pass is rounded too, of which sigmoid and silu make use.
    np.testing.assert_allclose(one, exact, rtol=3 * unit, atol=2 * unit)


RECURRENT = {"RNN": nn.RNN, "LSTM": nn.LSTM, "GRU": nn.GRU}


def recurrent_gradients(layer, x, dtype, compiled=False):
    """Return the outputs of a recurrent layer, and the gradients of its input and parameters."""

    def run(x):
        with ndl.autocast(dtype or "bfloat16", enabled=dtype is not None):
            outputs, _ = layer(x)
            loss = (outputs * outputs).mean()
        loss.backward()
        return outputs

    x.grad = None
    for parameter in layer.parameters():
        parameter.grad = None
    outputs = (ndl.jit(run) if compiled else run)(x)
    return [outputs.numpy(), x.grad.numpy(), *(one.grad.numpy() for one in layer.parameters())]


@pytest.mark.parametrize("steps", [3, 20])  # the compiled steps are written out, or a loop
@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("name", RECURRENT)
def test_recurrences_round_factors_and_keep_all_else_wide(name, dtype, steps):
    np.random.seed(0)
    layer, x = RECURRENT[name](5, 12), tensor(steps, 4, 5)
    wide = recurrent_gradients(layer, x, None)
    eager = recurrent_gradients(layer, x, dtype)
    compiled = recurrent_gradients(layer, x, dtype, compiled=True)
    unit = 2**-8 if dtype == "bfloat16" else 2**-11
    for exact, one, other in zip(wide, eager, compiled, strict=True):
        assert one.dtype == other.dtype == "float32"
        scale = np.abs(exact).max()
        assert 0 < np.abs(one - exact).max() < 8 * unit * scale
        # A factor that falls between two narrow numbers may be rounded to either.
        assert np.abs(one - other).max() < 2 * unit * scale


@pytest.mark.parametrize("name", RECURRENT)
def test_compiled_recurrences_multiply_nothing_that_is_wide(name):
    layer = RECURRENT[name](16, 16)

    def step(x):
        with ndl.autocast():
            loss = layer(x)[0].sum()
        loss.backward()
        return loss

    shown = ndl.jit(step).lower(tensor(4, 3, 16)).show("graph")
    assert "= widening_matmul(" in shown
    assert "= matmul(" not in shown


@pytest.mark.parametrize("name", RECURRENT)
def test_recurrences_of_float64_stay_as_they_are(name):
    layer, x = RECURRENT[name](3, 4, dtype="float64"), tensor(5, 2, 3, dtype="float64")
    wide, inside = (recurrent_gradients(layer, x, dtype) for dtype in (None, "float16"))
    for one, other in zip(wide, inside, strict=True):
        np.testing.assert_array_equal(one, other)


def test_gradients_of_gradients_of_recurrences_round_the_same_factors():
    np.random.seed(0)
    layer, x = nn.LSTM(3, 6), tensor(4, 2, 3)

    def slope():
        return ndl.grad(lambda x: (layer(x)[0] ** 2).sum())(x)

    with ndl.autocast():
        narrow = slope()
    (narrow * narrow).sum().backward()
    found = x.grad.numpy()
    exact = slope()
    (exact * exact).sum().backward()
    np.testing.assert_allclose(found, x.grad.numpy(), atol=0.1 * np.abs(x.grad.numpy()).max())
    assert np.abs(found - x.grad.numpy()).max() > 0


def test_gradients_of_gradients_are_narrow_products_too():
    a = tensor(3, 3)
    with ndl.autocast():
        slope = ndl.grad(lambda a: ((a @ a) ** 2).sum())(a)
    assert slope.dtype == "float32"
    (slope * slope).sum().backward()
    assert a.grad.dtype == "float32"


@pytest.mark.parametrize("dtype", ["float32", "int8", "float64"])
def test_only_narrow_dtypes_are_taken(dtype):
    with pytest.raises(DTypeError, match=f"bfloat16 or float16, got {dtype}"):
        ndl.autocast(dtype)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("dtype", ["float32", *NARROW])
def test_training_converges(dtype, compiled):
    np.random.seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))
    opt = optim.Adam(model.parameters(), lr=0.01)
    scaler = optim.GradScaler(enabled=dtype == "float16")
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((3, 8)) * 2
    labels = rng.integers(0, 3, 96)
    x = ndl.Tensor(centres[labels] + rng.standard_normal((96, 8)), dtype="float32", requires_grad=False)
    y = ndl.Tensor(labels, requires_grad=False)

    def step(x, y):
        opt.reset_grad()
        with ndl.autocast(dtype if dtype != "float32" else "bfloat16", enabled=dtype != "float32"):
            loss = nn.SoftmaxLoss()(model(x), y)
        scaler.scale(loss).backward()
        scaler.step(opt)
        return loss

    step = ndl.jit(step) if compiled else step
    losses = [float(step(x, y).numpy()) for _ in range(80)]
    assert losses[0] > 0.7
    assert losses[-1] < 0.03
    assert all(p.dtype == "float32" for p in model.parameters())
