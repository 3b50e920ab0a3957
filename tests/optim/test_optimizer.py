"""What all optimizers share: which parameters are stepped, with what, and what is left alone."""

import gc

import numpy as np
import pytest

import needle as ndl
from needle import autograd, nn, optim
from needle.errors import DTypeError, GradientError, SettingError, ShapeError

ALL = [optim.SGD, optim.Adam, optim.AdamW, optim.RMSprop, optim.Adagrad]


def with_grad(values, grad, dtype="float64"):
    p = ndl.Tensor(values, dtype=dtype)
    p.grad = None if grad is None else ndl.Tensor(grad, dtype=dtype, requires_grad=False)
    return p


# -------------------------------------------------------------------------------------------- what is stepped


def test_params_are_kept_as_given():
    params = [with_grad([1.0], [1.0]), with_grad([2.0], [1.0])]
    assert optim.SGD(params).params is params
    assert optim.SGD(iter(params)).params == params
    assert optim.SGD(tuple(params)).params == params


def test_parameter_that_is_added_later_is_stepped():
    params = [with_grad([1.0], [1.0])]
    opt = optim.SGD(params, lr=1.0)
    params.append(with_grad([5.0], [1.0]))
    opt.step()
    assert [p.item() for p in params] == [0, 4]


@pytest.mark.parametrize("make", ALL)
def test_parameter_that_is_listed_twice_is_stepped_once(make):
    once, twice = with_grad([1.0], [0.5]), with_grad([1.0], [0.5])
    opts = [make([once]), make([twice, with_grad([0.0], None), twice])]
    for _ in range(3):
        for opt in opts:
            opt.step()
    assert once.item() == twice.item()


def test_parameters_without_a_gradient_and_frozen_ones_are_left_alone():
    p, none, frozen = with_grad([1.0], [1.0]), with_grad([1.0], None), with_grad([1.0], [1.0])
    frozen.requires_grad = False
    opt = optim.Adam([p, none, frozen])
    opt.step()
    assert (none.item(), frozen.item()) == (1, 1)
    assert p.item() < 1
    assert list(opt.m) == [p]


def test_frozen_layers_of_a_module_are_accepted():
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    for p in model.modules[0].parameters():
        p.requires_grad = False
    before = [p.numpy() for p in model.parameters()]
    opt = optim.SGD(model.parameters(), lr=0.1)
    model(ndl.Tensor(np.ones((4, 2), dtype="float32"))).sum().backward()
    opt.step()
    changed = [bool((p.numpy() != old).any()) for p, old in zip(model.parameters(), before, strict=True)]
    assert changed == [False, False, True, True]


def test_reset_grad_forgets_all_gradients():
    params = [with_grad([1.0], [1.0]), with_grad([1.0], None)]
    opt = optim.SGD(params)
    opt.reset_grad()
    assert [p.grad for p in params] == [None, None]
    opt.step()
    assert [p.item() for p in params] == [1, 1]


# --------------------------------------------------------------------------------------- what is left alone


@pytest.mark.parametrize("make", ALL)
def test_step_changes_no_array_in_place_and_keeps_no_graph(make):
    p = ndl.Tensor([1.0, -2.0], dtype="float32")
    opt = make([p], weight_decay=0.1, l1_decay=0.1)
    for _ in range(3):
        (p * p).sum().backward()
        data, grad = p.cached_data, p.grad
        memories = [getattr(opt, name)[p] for name in opt.state_names if p in getattr(opt, name)]
        seen = [data, grad.cached_data, *(memory.cached_data for memory in memories)]
        copies = [array.copy() for array in seen]
        opt.step()
        assert p.cached_data is not data
        assert p.grad is grad
        for array, copied in zip(seen, copies, strict=True):
            np.testing.assert_array_equal(array, copied)
    assert p.is_leaf()
    assert p.requires_grad
    assert p.grad.inputs == ()
    assert all(one.is_leaf() for name in opt.state_names for one in getattr(opt, name).values())


def test_gradient_can_be_read_but_not_differentiated_after_the_step():
    p = ndl.Tensor([3.0])
    opt = optim.SGD([p], lr=0.5)
    (p * p).sum().backward()
    opt.step()
    assert p.grad.tolist() == [6]
    with pytest.raises(GradientError):
        p.grad.backward()


def test_steps_leave_the_counter_where_it_was():
    p = with_grad([1.0], [1.0])
    opt = optim.Adam([p])
    opt.step()
    gc.collect()
    before = autograd.TENSOR_COUNTER
    for _ in range(10):
        opt.step()
    assert before == autograd.TENSOR_COUNTER


def test_steps_draw_no_random_numbers():
    np.random.seed(0)
    state = np.random.get_state()[1].tobytes()
    opt = optim.Adam([with_grad([1.0], [1.0])])
    opt.step()
    assert np.random.get_state()[1].tobytes() == state


def test_lazy_mode_steps_too(monkeypatch):
    monkeypatch.setattr(autograd, "LAZY_MODE", True)
    p = ndl.Tensor([3.0])
    opt = optim.SGD([p], lr=0.5)
    (p * p).sum().backward()
    opt.step()
    assert p.tolist() == [0]


# -------------------------------------------------------------------------------- hyperparameters and groups


def test_hyperparameters_are_attributes_that_can_be_set():
    p = with_grad([1.0], [1.0])
    opt = optim.SGD([p], lr=0.5)
    opt.step()
    opt.lr = 0.25
    opt.step()
    opt.weight_decay = 4.0
    opt.lr = 0.5
    opt.step()  # 0.25 − 0.5·(1 + 4·0.25)
    assert p.item() == -0.75


def test_momentum_can_be_turned_on_later():
    p = with_grad([1.0], [1.0])
    opt = optim.SGD([p], lr=1.0)
    opt.step()
    opt.momentum = 0.5
    opt.step()
    assert p.item() == -0.5
    assert opt.u[p].item() == 0.5


def test_learning_rate_may_be_a_function_of_the_step():
    asked = []
    p = with_grad([0.0], [1.0])
    opt = optim.SGD([p], lr=lambda step: asked.append(step) or 10.0**-step)
    for _ in range(3):
        opt.step()
    assert asked == [0, 1, 2]
    assert p.item() == pytest.approx(-1.11)


def test_groups_have_settings_of_their_own_and_share_the_rest():
    a, b, c = (with_grad([1.0], [1.0]) for _ in range(3))
    opt = optim.SGD([{"params": [a]}, {"params": [b], "lr": 0.25, "weight_decay": 0.0}, {"params": iter([c])}], lr=0.5)
    assert opt.params == [a, b, c]
    opt.weight_decay = 1.0
    opt.step()
    assert [p.item() for p in (a, b, c)] == [0, 0.75, 0]
    opt.groups[1]["lr"] = 0.5
    opt.lr = 0.0
    opt.step()
    assert [p.item() for p in (a, b, c)] == [0, 0.25, 0]


def test_group_may_have_a_schedule_of_its_own():
    a, b = with_grad([0.0], [1.0]), with_grad([0.0], [1.0])
    opt = optim.SGD([{"params": [a]}, {"params": [b], "lr": lambda step: step + 1.0}], lr=10.0)
    opt.step()
    opt.step()
    assert (a.item(), b.item()) == (-20, -3)


def test_base_class_is_enough_for_a_users_optimizer():
    class Plain(optim.Optimizer):
        """Written as older programs do: a step of its own."""

        def __init__(self, params, rate):
            super().__init__(params)
            self.rate = rate

        def step(self):
            for p in self.params:
                p.data = p.data - self.rate * p.grad.data

    class Sign(optim.Optimizer):
        """Only the update."""

        def update(self, theta, g, h, *state):
            return (theta - h.lr * np.sign(g),)

    p = with_grad([1.0], [4.0])
    Plain([p], 0.25).step()
    assert p.item() == 0
    Sign([p], lr=0.5).step()
    assert p.item() == -0.5
    with pytest.raises(NotImplementedError, match=r"Optimizer\.update is not written"):
        optim.Optimizer([p]).step()


# ------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        ([], SettingError, "at least one parameter"),
        (ndl.Tensor([1.0]), DTypeError, "put this one in brackets"),
        (nn.Linear(1, 1), DTypeError, r"got Linear: give it \.parameters\(\)"),
        (3, DTypeError, "a list of Tensors, got int"),
        (["w"], DTypeError, "parameter 0 of group 0 is no Tensor but str"),
        ([ndl.Tensor([1])], DTypeError, "is int64, which cannot be stepped"),
        ([ndl.Tensor([1.0], requires_grad=False)], GradientError, "none of the parameters requires a gradient"),
        ([{"weights": []}], SettingError, 'group 0 is no dict with "params"'),
        ([{"params": []}, ndl.Tensor([1.0])], SettingError, 'group 1 is no dict with "params"'),
        ([{"params": [ndl.Tensor([1.0])], "rate": 1}], SettingError, "group 0: no hyperparameter 'rate'; there are"),
        ([{"params": [ndl.Tensor([1.0])], "lr": -1}], SettingError, "group 0: lr is 0 or more and finite, got -1"),
        ([{"params": ndl.Tensor([1.0])}], DTypeError, "put this one in brackets"),
    ],
)
def test_wrong_parameters_are_errors(params, error, message):
    with pytest.raises(error, match=message):
        optim.SGD(params)


def test_parameter_in_two_groups_is_an_error():
    p = ndl.Tensor([1.0])
    with pytest.raises(SettingError, match="a parameter is in group 0 and in group 1"):
        optim.SGD([{"params": [p]}, {"params": [p]}])


@pytest.mark.parametrize(
    ("make", "settings", "message"),
    [
        (optim.SGD, {"lr": -0.1}, r"SGD: lr is 0 or more and finite, got -0\.1"),
        (optim.SGD, {"lr": float("nan")}, "lr is 0 or more and finite, got nan"),
        (optim.Adam, {"lr": float("inf")}, "Adam: lr is 0 or more and finite, got inf"),
        (optim.Adam, {"lr": "fast"}, "lr is a number, got 'fast'"),
        (optim.Adam, {"lr": True}, "lr is a number, got True"),
        (optim.Adam, {"lr": None}, "lr is a number, got None"),
        (optim.SGD, {"momentum": 1.0}, "momentum is below 1"),
        (optim.Adam, {"beta1": 1.0}, "beta1 is below 1"),
        (optim.Adam, {"beta2": -0.1}, "beta2 is 0 or more"),
        (optim.RMSprop, {"alpha": 2}, "alpha is below 1"),
        (optim.Adagrad, {"eps": float("nan")}, "eps is 0 or more and finite"),
        (optim.AdamW, {"weight_decay": -1}, "AdamW: weight_decay is 0 or more"),
        (optim.SGD, {"l1_decay": -1}, "l1_decay is 0 or more"),
        (optim.SGD, {"nesterov": 1, "momentum": 0.5}, "nesterov is True or False, got 1"),
        (optim.SGD, {"nesterov": True}, "looks ahead along the momentum, and momentum is 0"),
    ],
)
def test_impossible_hyperparameters_are_errors(make, settings, message):
    with pytest.raises(SettingError, match=message):
        make([ndl.Tensor([1.0])], **settings)


def test_gradient_that_does_not_fit_is_an_error_that_changes_nothing():
    first, wrong = with_grad([1.0, 1.0], [1.0, 1.0]), with_grad([1.0, 1.0], [1.0])
    opt = optim.Adam([first, wrong])
    with pytest.raises(ShapeError, match=r"parameter of shape \(2,\) has a gradient of shape \(1,\)"):
        opt.step()
    wrong.grad = np.ones(2)
    with pytest.raises(DTypeError, match="gradient of a parameter is a Tensor, got ndarray"):
        opt.step()
    assert first.tolist() == [1, 1]
    assert (opt.t, opt.m) == (0, {})


def test_shape_that_changed_after_a_step_is_an_error():
    p = with_grad([[1.0, 1.0]], [[1.0, 1.0]])
    opt = optim.Adam([p])
    opt.step()
    p.data = ndl.Tensor([1.0, 1.0])
    p.grad = ndl.Tensor([1.0, 1.0])
    with pytest.raises(ShapeError, match=r"now of shape \(2,\), but its m of shape \(1, 2\)"):
        opt.step()
    assert p.tolist() == [1, 1]


# --------------------------------------------------------------------------------------------------- clipping


def test_clip_grad_norm_scales_all_gradients_together():
    a, b, none = with_grad([0.0], [3.0]), with_grad([[0.0]], [[4.0]], "float32"), with_grad([0.0], None)
    old = a.grad.cached_data
    opt = optim.SGD([a, b, none, a])
    norm = opt.clip_grad_norm(2.5)
    assert (norm.item(), norm.shape, norm.requires_grad) == (5, (), False)
    assert (a.grad.tolist(), b.grad.tolist(), none.grad) == ([1.5], [[2]], None)
    assert old.tolist() == [3]
    assert (a.grad.dtype, b.grad.dtype) == ("float64", "float32")
    assert opt.clip_grad_norm().item() == pytest.approx(2.5)
    assert np.hypot(a.grad.item(), b.grad.item()) == pytest.approx(0.25)


@pytest.mark.parametrize("make", ALL)
def test_every_optimizer_clips(make):
    p = with_grad([0.0, 0.0], [3.0, -4.0])
    make([p]).clip_grad_value(3.5)
    assert p.grad.tolist() == [3, -3.5]
    assert make([p]).clip_grad_norm(1.0).item() == pytest.approx(np.hypot(3, 3.5))


def test_clipping_within_the_limit_changes_no_bit():
    values = np.random.default_rng(0).standard_normal(100).astype("float32")
    p = with_grad(np.zeros(100), values, "float32")
    opt = optim.SGD([p])
    for limit in (1e3, float("inf")):
        norm = opt.clip_grad_norm(limit)
        opt.clip_grad_value(limit)
        assert norm.item() == pytest.approx(np.linalg.norm(values.astype(float)))
        assert p.grad.numpy().tobytes() == values.tobytes()


def test_clip_grad_norm_of_huge_and_tiny_gradients():
    huge = with_grad([0.0, 0.0], [3e30, 4e30], "float32")
    assert optim.SGD([huge]).clip_grad_norm(5.0).item() == pytest.approx(5e30)
    np.testing.assert_allclose(huge.grad.numpy(), [3, 4], rtol=1e-6)
    zero = with_grad([0.0], [0.0])
    assert optim.SGD([zero]).clip_grad_norm(1.0).item() == 0
    assert zero.grad.tolist() == [0]
    narrow = with_grad([0.0, 0.0], [3e4, 4e4], "float16")
    assert optim.SGD([narrow]).clip_grad_norm(5.0).item() == pytest.approx(5e4, rel=1e-3)
    np.testing.assert_allclose(narrow.grad.numpy(), [3, 4], rtol=1e-3)


def test_clip_grad_norm_shows_gradients_that_are_not_finite():
    p = with_grad([0.0, 0.0], [float("nan"), 1.0])
    assert np.isnan(optim.SGD([p]).clip_grad_norm(1.0).item())
    assert np.isnan(p.grad.numpy()).all()
    p = with_grad([0.0], [float("inf")])
    with np.errstate(invalid="ignore"):
        assert optim.SGD([p]).clip_grad_norm(1.0).item() == float("inf")
    assert np.isnan(p.grad.item())


def test_clipping_of_nothing_and_with_wrong_limits():
    opt = optim.SGD([with_grad([0.0], None)])
    assert opt.clip_grad_norm(1.0).item() == 0
    opt.clip_grad_value(1.0)
    for limit in (0, -1.0, float("nan")):
        with pytest.raises(SettingError, match="max_norm is above 0"):
            opt.clip_grad_norm(limit)
        with pytest.raises(SettingError, match="the limit is above 0"):
            opt.clip_grad_value(limit)


def test_training_falls_and_repeats_bit_for_bit():
    def train(make):
        np.random.seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
        x = ndl.Tensor(np.random.rand(16, 4), dtype="float32", requires_grad=False)
        y = x.sum(1).reshape((16, 1)).detach()
        opt = make(model.parameters())
        losses = []
        for _ in range(200):
            opt.reset_grad()
            loss = ((model(x) - y) ** 2).mean()
            loss.backward()
            opt.step()
            losses.append(loss.item())
        return losses

    for make in ALL:
        losses = train(make)
        assert losses[-1] < 0.5 * losses[0], make
        assert train(make) == losses
