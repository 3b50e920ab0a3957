"""Loss scaling: gradients are divided again, steps that overflow are left out, and the scale finds its place."""

import numpy as np
import pytest

import needle as ndl
from needle import optim
from needle.errors import CheckpointError, DTypeError, GradientError, SettingError, ShapeError


def parameter(*values, dtype="float32"):
    return ndl.Tensor(np.array(values), dtype=dtype)


def make_step(w, opt, scaler, compiled, **options):
    def step(x):
        opt.reset_grad()
        scaler.scale((w * x).sum()).backward()
        return scaler.step(opt, **options)

    return ndl.jit(step) if compiled else step


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_good_steps_are_those_without_scaling(compiled, dtype):
    w, other = parameter(1, 2, dtype=dtype), parameter(1, 2, dtype=dtype)
    opt, plain = optim.Adam([w], lr=0.1), optim.Adam([other], lr=0.1)
    step = make_step(w, opt, optim.GradScaler(scale=1024), compiled)
    for n in range(3):
        x = ndl.Tensor([0.5 + n, -3.0], dtype=dtype, requires_grad=False)
        assert step(x).numpy()
        plain.reset_grad()
        (other * x).sum().backward()
        plain.step()
        np.testing.assert_allclose(w.grad.numpy(), x.numpy(), rtol=1e-6)
        np.testing.assert_allclose(w.numpy(), other.numpy(), rtol=1e-6)
    assert w.dtype == dtype


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_a_bad_step_changes_nothing_but_the_scale(compiled, bad):
    w = parameter(1, 2)
    opt, scaler = optim.Adam([w], lr=0.1), optim.GradScaler(scale=8, interval=2, backoff=0.25)
    step = make_step(w, opt, scaler, compiled)
    good, wrong = (ndl.Tensor([one, 1.0], dtype="float32", requires_grad=False) for one in (1.0, bad))
    assert not step(wrong).numpy()  # also where there is no state yet
    np.testing.assert_array_equal(w.numpy(), [1, 2])
    np.testing.assert_array_equal(opt.m[w].numpy(), [0, 0])
    assert step(good).numpy()
    before = w.numpy(), opt.m[w].numpy(), opt.v[w].numpy()
    assert not step(wrong).numpy()
    for one, other in zip((w, opt.m[w], opt.v[w]), before, strict=True):
        np.testing.assert_array_equal(one.numpy(), other)
    assert scaler.state_dict() == {"scale": 0.5, "good_steps": 0}
    assert opt.t == 3
    assert not compiled or step.cache_info().traces == 1


@pytest.mark.parametrize("compiled", [False, True])
def test_the_scale_grows_after_good_steps_up_to_a_limit(compiled):
    w = parameter(1.0)
    scaler = optim.GradScaler(scale=2.0**22, interval=2)
    step = make_step(w, optim.SGD([w], lr=0.1), scaler, compiled)
    x = ndl.Tensor([1.0], dtype="float32", requires_grad=False)
    scales = []
    for _ in range(7):
        step(x)
        scales.append(np.log2(scaler.state_dict()["scale"]))
    assert scales == [22, 23, 23, 24, 24, 24, 24]


@pytest.mark.parametrize("compiled", [False, True])
def test_small_gradients_of_float16_survive(compiled):
    def slope(scaler):
        w = parameter(1.0)

        def step(x):
            with ndl.autocast("float16"):
                y = w.reshape((1, 1)) @ x
            scaler.scale(y.sum() * 1e-9).backward()
            scaler.step(optim.SGD([w], lr=0.0))

        (ndl.jit(step) if compiled else step)(ndl.Tensor([[1.0]], dtype="float32", requires_grad=False))
        return w.grad.numpy()

    assert slope(optim.GradScaler(enabled=False)) == 0
    np.testing.assert_allclose(slope(optim.GradScaler()), 1e-9, rtol=0.05)


def test_clipping_comes_after_dividing():
    w = parameter(3.0, 4.0)
    opt = optim.SGD([w], lr=1.0)
    make_step(w, opt, optim.GradScaler(), False, max_norm=1.0)(ndl.Tensor([3.0, 4.0], dtype="float32"))
    np.testing.assert_allclose(w.grad.numpy(), [0.6, 0.8], rtol=1e-6)
    np.testing.assert_allclose(w.numpy(), [2.4, 3.2], rtol=1e-6)


def in_one(w, opt, scaler):
    def step(x):
        opt.reset_grad()
        scaler.scale((w * x).sum()).backward()
        scaler.unscale(opt)
        norm = opt.clip_grad_norm(1.0)
        return norm, scaler.step(opt)

    return step


def in_two(w, opt, scaler):
    @ndl.jit
    def backward(x):
        opt.reset_grad()
        scaler.scale((w * x).sum()).backward()
        scaler.unscale(opt)
        return opt.clip_grad_norm(1.0)

    made = ndl.jit(lambda: scaler.step(opt))
    return lambda x: (backward(x), made())


WAYS = {"eager": in_one, "compiled": lambda *all: ndl.jit(in_one(*all)), "compiled in two": in_two}


@pytest.mark.parametrize("way", WAYS)
def test_gradients_are_clipped_between_dividing_and_the_step(way):
    w = parameter(3.0, 4.0)
    opt, scaler = optim.SGD([w], lr=1.0), optim.GradScaler(scale=1024.0)
    step = WAYS[way](w, opt, scaler)
    good, bad = (ndl.Tensor([c, 4.0], dtype="float32", requires_grad=False) for c in (3.0, np.inf))
    weights = [3.0, 4.0]
    for x, is_made, scale in ((good, True, 1024), (bad, False, 512), (good, True, 512), (bad, False, 256)):
        norm, made = step(x)
        assert made.item() == is_made
        if is_made:
            np.testing.assert_allclose(norm.numpy(), 5, rtol=1e-6)
            np.testing.assert_allclose(w.grad.numpy(), [0.6, 0.8], rtol=1e-6)
            weights = [one - g for one, g in zip(weights, (0.6, 0.8), strict=True)]
        np.testing.assert_allclose(w.numpy(), weights, rtol=1e-6)
        assert scaler.state_dict()["scale"] == scale
    if way == "compiled":
        assert step.cache_info().traces == 1


@pytest.mark.parametrize("compiled", [False, True])
def test_an_infinity_is_remembered_whatever_becomes_of_the_gradient(compiled):
    w = parameter(1.0)
    opt, scaler = optim.SGD([w], lr=1.0), optim.GradScaler()

    def step(x):
        opt.reset_grad()
        scaler.scale((w * x).sum()).backward()
        finite = scaler.unscale(opt)
        opt.clip_grad_value(1.0)
        return finite, scaler.step(opt)

    finite, made = (ndl.jit(step) if compiled else step)(ndl.Tensor([np.inf], dtype="float32", requires_grad=False))
    assert (finite.item(), made.item(), w.item(), w.grad.item()) == (False, False, 1, 1)


def test_a_step_alone_and_one_after_dividing_are_told_apart():
    w = parameter(8.0)
    opt, scaler = optim.SGD([w], lr=1.0), optim.GradScaler(scale=4.0)
    step = ndl.jit(lambda: scaler.step(opt))
    for divides in (False, True, True, False):
        opt.reset_grad()
        scaler.scale(w.sum()).backward()
        if divides:
            scaler.unscale(opt)
        step()
        assert w.grad.item() == 1
    assert w.item() == 4


@pytest.mark.parametrize("compiled", [False, True])
def test_dividing_twice_before_a_step_is_refused(compiled):
    w = parameter(2.0)
    opt, scaler = optim.SGD([w], lr=1.0), optim.GradScaler(scale=4.0)

    def backward(times):
        opt.reset_grad()
        scaler.scale(w.sum()).backward()
        for _ in range(times):
            scaler.unscale(opt)

    run = ndl.jit(backward) if compiled else backward
    with pytest.raises(GradientError, match=r"GradScaler\.unscale: .* are divided already"):
        run(2)
    if compiled:  # nothing of a call that failed has happened
        run(1)
    assert scaler.step(opt).item()
    run(1)
    assert scaler.step(opt).item()
    assert w.item() == 0


def test_optimizers_are_divided_each_by_itself():
    v, w = parameter(1.0), parameter(1.0)
    first, second = optim.SGD([v], lr=0.5), optim.SGD([w], lr=0.5)
    scaler = optim.GradScaler(scale=1024.0)
    scaler.scale((v * np.inf + w * 2).sum()).backward()
    scaler.unscale(first)
    made = [scaler.step(opt, update=False) for opt in (first, second)]
    scaler.update(*made)
    assert ([one.item() for one in made], v.item(), w.item()) == ([False, True], 1, 0)
    assert scaler.state_dict()["scale"] == 512


def test_dividing_nothing_is_refused_and_disabled_does_nothing():
    w = parameter(2.0)
    opt, scaler = optim.SGD([w], lr=1.0), optim.GradScaler(enabled=False)
    with pytest.raises(GradientError, match=r"GradScaler\.unscale: no parameter .* call backward\(\) first"):
        optim.GradScaler().unscale(opt)
    scaler.scale(w.sum()).backward()
    for _ in range(2):
        assert scaler.unscale(opt).item()
    assert w.grad.item() == 1


def test_disabled_is_a_plain_step():
    w, scaler = parameter(2.0), optim.GradScaler(enabled=False)
    opt = optim.SGD([w], lr=0.5)
    loss = (w * w).sum()
    assert scaler.scale(loss) is loss
    loss.backward()
    scaler.step(opt)
    assert w.numpy() == 0
    assert scaler.state_dict()["good_steps"] == 0


def test_disabled_steps_whatever_the_gradients_are():
    w, scaler = parameter(2.0), optim.GradScaler(enabled=False)
    opt = optim.SGD([w], lr=0.5)
    w.grad = ndl.Tensor([np.inf], dtype="float32")
    assert scaler.step(opt).item()
    assert w.numpy() == -np.inf


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("bad", [False, True])
def test_several_optimizers_step_with_one_scale(compiled, bad):
    v, w = parameter(1.0), parameter(1.0)
    first, second = optim.SGD([v], lr=0.5), optim.SGD([w], lr=0.5)
    scaler = optim.GradScaler(scale=1024.0, interval=1)

    def step(x, y):
        scaler.scale((v * x + w * y).sum()).backward()
        made = [scaler.step(opt, update=False) for opt in (first, second)]
        scaler.update(*made)
        return made

    x, y = (ndl.Tensor([c], dtype="float32", requires_grad=False) for c in (np.inf if bad else 2.0, 2.0))
    made = (ndl.jit(step) if compiled else step)(x, y)
    assert [one.item() for one in made] == [not bad, True]
    assert (v.numpy(), w.numpy()) == (1 if bad else 0, 0)  # each gradient is divided by what the loss was scaled by
    assert scaler.state_dict()["scale"] == (512 if bad else 2048)


def test_an_update_of_no_steps_is_refused():
    with pytest.raises(SettingError, match=r"GradScaler\.update: takes what step returned"):
        optim.GradScaler().update()


@pytest.mark.parametrize("saved", [{"scale": np.nan, "good_steps": 0}, {"scale": 2.0, "good_steps": -1}])
def test_damaged_states_are_refused(saved):
    scaler = optim.GradScaler()
    with pytest.raises(CheckpointError, match="no state of a scaler"):
        scaler.load_state_dict(saved)
    assert scaler.state_dict()["scale"] == 2.0**16


def test_state_comes_back():
    scaler = optim.GradScaler()
    scaler.load_state_dict({"scale": 4.0, "good_steps": 7})
    assert scaler.state_dict() == {"scale": 4.0, "good_steps": 7}
    with pytest.raises(CheckpointError, match="got scale"):
        scaler.load_state_dict({"scale": 4.0})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": 0}, "scale is between"),
        ({"scale": float("nan")}, "scale is between"),
        ({"growth": 1}, "growth is finite and above 1, got 1"),
        ({"backoff": 1}, "backoff is between 0 and 1, got 1"),
        ({"interval": 0}, "interval is 1 or more, got 0"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(SettingError, match=message):
        optim.GradScaler(**options)


def test_what_is_wrong_is_said():
    w = parameter(1.0)
    opt, scaler = optim.SGD([w], lr=0.1), optim.GradScaler()
    with pytest.raises(GradientError, match=r"call backward\(\) first"):
        scaler.step(opt)
    with pytest.raises(DTypeError, match="the loss is a Tensor, got float"):
        scaler.scale(1.0)
    with pytest.raises(ShapeError, match="no axes"):
        opt.step_if(ndl.Tensor([True]))
    with pytest.raises(DTypeError, match="a bool Tensor, got float64"):
        opt.step_if(ndl.Tensor(1.0))
