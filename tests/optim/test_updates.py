"""Each optimizer's steps against its equation in plain NumPy, and against PyTorch where the two mean the same."""

import numpy as np
import pytest

import needle as ndl
from needle import optim

STEPS = 6


def sgd(theta, g, memory, t, lr=0.01, momentum=0.0, nesterov=False):
    memory["u"] = momentum * memory.get("u", 0.0) + (1 - momentum) * g
    ahead = momentum * memory["u"] + (1 - momentum) * g
    return theta - lr * (ahead if nesterov else memory["u"])


def adam(theta, g, memory, t, lr=0.01, beta1=0.9, beta2=0.999, eps=1e-8):
    memory["m"] = beta1 * memory.get("m", 0.0) + (1 - beta1) * g
    memory["v"] = beta2 * memory.get("v", 0.0) + (1 - beta2) * g**2
    return theta - lr * (memory["m"] / (1 - beta1**t)) / (np.sqrt(memory["v"] / (1 - beta2**t)) + eps)


def adamw(theta, g, memory, t, lr=0.001, weight_decay=0.01, **rest):
    return adam(theta, g, memory, t, lr=lr, **rest) - lr * weight_decay * theta


def rmsprop(theta, g, memory, t, lr=0.01, alpha=0.99, eps=1e-8, momentum=0.0):
    memory["v"] = alpha * memory.get("v", 0.0) + (1 - alpha) * g**2
    memory["b"] = momentum * memory.get("b", 0.0) + g / (np.sqrt(memory["v"]) + eps)
    return theta - lr * memory["b"]


def adagrad(theta, g, memory, t, lr=0.01, eps=1e-10):
    memory["s"] = memory.get("s", 0.0) + g**2
    return theta - lr * g / (np.sqrt(memory["s"]) + eps)


CASES = [
    (optim.SGD, sgd, {}),
    (optim.SGD, sgd, {"lr": 0.3, "momentum": 0.9}),
    (optim.SGD, sgd, {"lr": 0.3, "momentum": 0.5, "nesterov": True}),
    (optim.Adam, adam, {}),
    (optim.Adam, adam, {"lr": 0.1, "beta1": 0.5, "beta2": 0.9, "eps": 0.1}),
    (optim.AdamW, adamw, {}),
    (optim.AdamW, adamw, {"lr": 0.1, "weight_decay": 0.5, "beta1": 0.0}),
    (optim.RMSprop, rmsprop, {}),
    (optim.RMSprop, rmsprop, {"lr": 0.1, "alpha": 0.5, "eps": 0.01, "momentum": 0.8}),
    (optim.Adagrad, adagrad, {}),
    (optim.Adagrad, adagrad, {"lr": 0.5, "eps": 0.1}),
]


def gradients(shape, dtype="float64", seed=1):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape).astype(dtype) for _ in range(STEPS)]


def run(optimizer, parameter, grads):
    for g in grads:
        parameter.grad = ndl.Tensor.make_const(g)
        optimizer.step()
    return parameter.numpy()


@pytest.mark.parametrize(("dtype", "rtol"), [("float64", 1e-13), ("float32", 3e-6)])
@pytest.mark.parametrize(("make", "reference", "settings"), CASES)
def test_steps_follow_the_equation(make, reference, settings, dtype, rtol):
    start = np.random.default_rng(0).standard_normal((3, 4))
    p = ndl.Tensor(start, dtype=dtype)
    found = run(make([p], **settings), p, gradients((3, 4), dtype))
    expected, memory = start.astype(dtype).astype(float), {}
    for t, g in enumerate(gradients((3, 4), dtype), start=1):
        expected = reference(expected, g.astype(float), memory, t, **settings)
    assert found.dtype == dtype
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=rtol)


@pytest.mark.parametrize(("make", "reference", "settings"), [case for case in CASES if case[0] is not optim.AdamW])
def test_penalties_enter_the_gradient(make, reference, settings):
    start = np.array([1.0, -2.0, 0.0])
    p = ndl.Tensor(start)
    found = run(make([p], weight_decay=0.3, l1_decay=0.2, **settings), p, gradients(3))
    expected, memory = start, {}
    for t, g in enumerate(gradients(3), start=1):
        expected = reference(expected, g + 0.3 * expected + 0.2 * np.sign(expected), memory, t, **settings)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_first_steps_worked_by_hand():
    p = ndl.Tensor([1.0, -2.0])
    opt = optim.SGD([p], lr=0.5, momentum=0.5, weight_decay=0.1)
    run(opt, p, [np.array([0.9, 0.2])])  # g = (1, 0), u = (0.5, 0)
    np.testing.assert_allclose(p.numpy(), [0.75, -2.0])
    run(opt, p, [np.array([0.925, 0.2])])  # g = (1, 0), u = (0.75, 0)
    np.testing.assert_allclose(p.numpy(), [0.375, -2.0])
    p = ndl.Tensor([1.0])
    opt = optim.Adam([p], lr=0.1, eps=0.0)
    run(opt, p, [np.array([4.0])])  # m̂ = 4, v̂ = 16: a step of lr
    np.testing.assert_allclose(p.numpy(), [0.9])
    np.testing.assert_allclose([opt.m[p].item(), opt.v[p].item()], [0.4, 0.016])


def test_state_is_what_the_equations_remember():
    p = ndl.Tensor([1.0])
    opt = optim.SGD([p], momentum=0.75)
    run(opt, p, [np.array([4.0])])
    assert opt.u[p].tolist() == [1.0]
    assert opt.t == 1
    assert optim.SGD([p]).u == {}


# ----------------------------------------------------------------------------------------- against PyTorch


def torch_run(make, start, grads, **settings):
    torch = pytest.importorskip("torch")
    p = torch.tensor(start, requires_grad=True)
    optimizer = getattr(torch.optim, make)([p], **settings)
    for g in grads:
        p.grad = torch.tensor(g)
        optimizer.step()
    return p.detach().numpy()


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ((optim.SGD, {"lr": 0.1, "weight_decay": 0.1}), ("SGD", {"lr": 0.1, "weight_decay": 0.1})),
        ((optim.SGD, {"lr": 1.0, "momentum": 0.9}), ("SGD", {"lr": 0.1, "momentum": 0.9})),
        (
            (optim.SGD, {"lr": 0.5, "momentum": 0.8, "nesterov": True}),
            ("SGD", {"lr": 0.1, "momentum": 0.8, "nesterov": True}),
        ),
        ((optim.Adam, {"lr": 0.1, "weight_decay": 0.2}), ("Adam", {"lr": 0.1, "weight_decay": 0.2})),
        (
            (optim.Adam, {"lr": 0.1, "beta1": 0.7, "beta2": 0.8, "eps": 1e-3}),
            ("Adam", {"lr": 0.1, "betas": (0.7, 0.8), "eps": 1e-3}),
        ),
        ((optim.AdamW, {}), ("AdamW", {})),
        ((optim.AdamW, {"lr": 0.1, "weight_decay": 0.3}), ("AdamW", {"lr": 0.1, "weight_decay": 0.3})),
        ((optim.RMSprop, {}), ("RMSprop", {})),
        ((optim.RMSprop, {"momentum": 0.9, "weight_decay": 0.1}), ("RMSprop", {"momentum": 0.9, "weight_decay": 0.1})),
        ((optim.Adagrad, {"weight_decay": 0.1}), ("Adagrad", {"weight_decay": 0.1})),
    ],
)
def test_steps_are_pytorchs(ours, theirs):
    start, grads = np.random.default_rng(0).standard_normal((5,)), gradients((5,))
    p = ndl.Tensor(start)
    found = run(ours[0]([p], **ours[1]), p, grads)
    np.testing.assert_allclose(found, torch_run(theirs[0], start, grads, **theirs[1]), rtol=1e-12)


# ------------------------------------------------------------------------------------------- in other dtypes


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("make", [optim.SGD, optim.Adam, optim.AdamW, optim.RMSprop, optim.Adagrad])
def test_narrow_parameters_are_stepped_in_float32_and_rounded_once(make, dtype):
    start = np.random.default_rng(0).standard_normal(5)
    narrow = ndl.Tensor(start, dtype=dtype)
    grads = [ndl.Tensor(g, dtype=dtype).numpy() for g in gradients(5)]
    settings = {"lr": 0.1, "momentum": 0.9} if make is optim.SGD else {"lr": 0.1}
    opt, reference = make([narrow], **settings), None
    wide = None
    for g in grads:
        wide = ndl.Tensor(narrow.numpy().astype("float32"))
        reference_opt = make([wide], **settings)
        if reference is not None:
            reference_opt.load_state_dict(reference)
        run(opt, narrow, [g])
        run(reference_opt, wide, [g.astype("float32")])
        reference = reference_opt.state_dict()
        assert narrow.dtype == dtype
        np.testing.assert_array_equal(narrow.numpy().astype(float), wide.numpy().astype(dtype).astype(float))
    for name in opt.state_names:
        assert all(tensor.dtype == "float32" for tensor in getattr(opt, name).values())


@pytest.mark.parametrize("number", [np.float64, np.float32, np.array])
@pytest.mark.parametrize("make", [optim.SGD, optim.Adam, optim.RMSprop, optim.Adagrad])
def test_numpys_numbers_as_hyperparameters_leave_float32_alone(make, number):
    p = ndl.Tensor([1.0, 2.0], dtype="float32")
    settings = {"momentum": number(0.9)} if make in {optim.SGD, optim.RMSprop} else {}
    opt = make([p], lr=number(0.1), weight_decay=number(0.1), **settings)
    run(opt, p, gradients(2, "float32"))
    assert p.dtype == "float32"
    assert all(state.dtype == "float32" for name in opt.state_names for state in getattr(opt, name).values())
    plain = ndl.Tensor([1.0, 2.0], dtype="float32")
    settings = {name: float(value) for name, value in settings.items()}
    run(
        make([plain], lr=float(number(0.1)), weight_decay=float(number(0.1)), **settings),
        plain,
        gradients(2, "float32"),
    )
    assert p.numpy().tobytes() == plain.numpy().tobytes()


@pytest.mark.parametrize("make", [optim.SGD, optim.Adam, optim.AdamW, optim.RMSprop, optim.Adagrad])
@pytest.mark.parametrize("shape", [(), (0, 3), (1,)])
def test_parameters_of_every_shape_stay_arrays(make, shape):
    p = ndl.Tensor(np.ones(shape, dtype="float32"))
    opt = make([p])
    grads = [np.full(shape, 2.0, dtype="float32")] * 3
    run(opt, p, grads)
    opt.clip_grad_norm(0.1)
    opt.clip_grad_value(0.01)
    opt.step()
    assert (type(p.cached_data), p.shape, p.dtype) == (np.ndarray, shape, "float32")
    for name in opt.state_names:
        assert all(type(one.cached_data) is np.ndarray for one in getattr(opt, name).values())


def test_gradient_of_another_float_type_is_cast():
    p = ndl.Tensor([1.0], dtype="float32")
    opt = optim.Adam([p])
    run(opt, p, [np.array([0.5])])
    assert (p.dtype, opt.m[p].dtype) == ("float32", "float32")


@pytest.mark.parametrize(("make", "reference", "settings"), CASES)
def test_updates_can_be_traced(make, reference, settings):
    from needle.compiler import abstract_result  # noqa: PLC0415  the one test that needs the compiler

    theta = np.ones((3, 4), dtype="float32")
    p = ndl.Tensor(theta)
    opt = make([p], **settings)
    run(opt, p, [theta])
    h = opt._hyperparameters(opt.groups[0])
    state = [getattr(opt, name)[p].cached_data for name in opt.state_in_use(h)]
    results = abstract_result(lambda *arrays: opt.update(*arrays[:2], h, *arrays[2:]), [theta, theta, *state])
    assert [(one.shape, str(one.dtype)) for one in results] == [((3, 4), "float32")] * (1 + len(state))
