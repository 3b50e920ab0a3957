"""A compiled training step leaves the same model, moments, statistics, gradients and draws as the eager one."""

import numpy as np
import pytest

import needle as ndl
from needle import nn, optim
from needle.models import MLPResNet

OPTIMIZERS = {
    "sgd": lambda p: optim.SGD(p, lr=0.05),
    "momentum": lambda p: optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.01),
    "nesterov": lambda p: optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, l1_decay=0.001),
    "adam": lambda p: optim.Adam(p, lr=0.01, weight_decay=0.01),
    "adamw": lambda p: optim.AdamW(p, lr=0.01),
    "rmsprop": lambda p: optim.RMSprop(p, lr=0.01),
    "adagrad": lambda p: optim.Adagrad(p, lr=0.01),
    "schedule": lambda p: optim.Adam(p, lr=lambda step: 0.01 / (1 + step)),
}


def training(make_optimizer, norm=nn.BatchNorm1d, wrap=lambda fn: fn, clip=None, seed=np.random.seed):
    """Return a model, its optimizer and a function that makes one step."""
    seed(3)
    model = MLPResNet(20, hidden_dim=16, num_blocks=2, num_classes=5, norm=norm, drop_prob=0.2)
    optimizer = make_optimizer(model.parameters())
    loss_fn = nn.SoftmaxLoss()

    @wrap
    def step(x, y):
        optimizer.reset_grad()
        loss = loss_fn(model(x), y)
        loss.backward()
        if clip is not None:
            optimizer.clip_grad_norm(clip)
        optimizer.step()
        return loss

    return model, optimizer, step


def batches(count, size=12):
    rng = np.random.default_rng(1)
    for _ in range(count):
        x = ndl.Tensor(rng.standard_normal((size, 20)).astype(np.float32), requires_grad=False)
        yield x, ndl.Tensor(rng.integers(0, 5, size), requires_grad=False)


def assert_same_models(one, other, optimizers=()):
    for (name, a), (_, b) in zip(one.state_dict().items(), other.state_dict().items(), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5, err_msg=name)
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), rtol=2e-3, atol=2e-5)
    if optimizers:
        states = [optimizer.state_dict() for optimizer in optimizers]
        assert states[0]["t"] == states[1]["t"]
        for name, array in states[0]["arrays"].items():
            np.testing.assert_allclose(array, states[1]["arrays"][name], rtol=2e-3, atol=2e-5, err_msg=name)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_are_the_eager_ones(name):
    # Not batch normalisation: a bias before it has a gradient of rounding errors, which these optimizers scale up.
    eager = training(OPTIMIZERS[name], nn.LayerNorm1d)
    compiled = training(OPTIMIZERS[name], nn.LayerNorm1d, wrap=ndl.jit)
    losses = []
    for model, _, step in (eager, compiled):
        np.random.seed(5)  # dropout draws
        losses.append([step(x, y).item() for x, y in batches(6)])
        assert model.parameters()[0].grad is not None
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)
    assert_same_models(eager[0], compiled[0], (eager[1], compiled[1]))
    assert compiled[2].cache_info().traces == 1


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, nn.LayerNorm1d, nn.RMSNorm])
def test_normalisations_and_clipping(norm):
    eager = training(OPTIMIZERS["adam"], norm, clip=0.1)
    compiled = training(OPTIMIZERS["adam"], norm, wrap=ndl.jit, clip=0.1)
    for _, _, step in (eager, compiled):
        np.random.seed(5)
        for x, y in batches(4):
            step(x, y)
    assert_same_models(eager[0], compiled[0], (eager[1], compiled[1]))


def test_draws_are_the_eager_ones_from_both_generators():
    for seed in (np.random.seed, ndl.seed):
        after = []
        for wrap in (lambda fn: fn, ndl.jit):
            _, _, step = training(OPTIMIZERS["sgd"], wrap=wrap, seed=seed)
            seed(7)
            for x, y in batches(3):
                step(x, y)
            after.append(ndl.init.rand(4).numpy())
        ndl.seed(None)
        np.testing.assert_array_equal(*after)


def test_a_run_repeats_bit_for_bit_for_any_number_of_threads():
    finals = []
    before = ndl.get_num_threads()
    for threads in (1, 2, 3, 2):
        ndl.set_num_threads(threads)
        model, _, step = training(OPTIMIZERS["adam"], wrap=ndl.jit)
        np.random.seed(5)
        for x, y in batches(4, size=200):
            step(x, y)
        finals.append(model.state_dict())
    ndl.set_num_threads(before)
    for other in finals[1:]:
        for name, array in finals[0].items():
            np.testing.assert_array_equal(array, other[name], err_msg=name)


def test_hyperparameters_do_not_retrace_and_take_effect():
    eager = training(OPTIMIZERS["momentum"])
    compiled = training(OPTIMIZERS["momentum"], wrap=ndl.jit)
    for _, optimizer, step in (eager, compiled):
        np.random.seed(5)
        for number, (x, y) in enumerate(batches(5)):
            optimizer.lr = 0.1 / (1 + number)
            optimizer.momentum = 0.9 - 0.1 * number
            step(x, y)
    assert_same_models(eager[0], compiled[0], (eager[1], compiled[1]))
    assert compiled[2].cache_info().traces == 1


def test_switching_a_hyperparameter_off_retraces_and_says_so():
    _, optimizer, step = training(OPTIMIZERS["momentum"], wrap=ndl.jit)
    for x, y in batches(2):
        step(x, y)
        optimizer.weight_decay = 0.0
    assert step.cache_info().traces == 2
    assert "hyperparameter is 0" in step.explain()


def test_evaluation_mode_is_a_program_of_its_own():
    model, _, step = training(OPTIMIZERS["adam"], wrap=ndl.jit)
    predict = ndl.jit(model)
    for x, y in batches(2):
        model.train()
        step(x, y)
        model.eval()
        np.testing.assert_allclose(predict(x).numpy(), model(x).numpy(), rtol=1e-4, atol=1e-5)
    assert (step.cache_info().traces, predict.cache_info().traces) == (1, 1)
    model.train()
    predict(x)
    assert predict.cache_info().traces == 2
    assert "training: True, now False" in predict.explain() or "training: False, now True" in predict.explain()


def test_parameters_that_somebody_holds_are_not_changed_under_them():
    model, _, step = training(OPTIMIZERS["adam"], wrap=ndl.jit)
    (x, y), (x2, y2) = batches(2)
    step(x, y)
    held = [(p.detach(), p.cached_data, p.numpy()) for p in model.parameters()]
    gradients = [(p.grad, p.grad.numpy()) for p in model.parameters()]
    views = [(p.cached_data[:1], p.numpy()[:1]) for p in model.parameters()]
    step(x2, y2)
    for tensor, array, copy in held:
        np.testing.assert_array_equal(tensor.numpy(), copy)
        np.testing.assert_array_equal(array, copy)
    for gradient, copy in gradients:
        np.testing.assert_array_equal(gradient.numpy(), copy)
    for view, copy in views:
        np.testing.assert_array_equal(view, copy)


def test_assigned_data_and_loaded_state_are_used():
    model, _, step = training(OPTIMIZERS["sgd"], wrap=ndl.jit)
    other, _, eager = training(OPTIMIZERS["sgd"])
    (x, y), (x2, y2), (x3, y3) = batches(3)
    step(x, y)
    other.load_state_dict(model.state_dict())
    state = {name: array * 0.5 for name, array in model.state_dict().items()}
    for one in (model, other):
        one.load_state_dict(state)
    for run in (step, eager):
        np.random.seed(2)
        run(x2, y2)
    for one in (model, other):
        one.parameters()[0].data = one.parameters()[0].data * 2
    for run in (step, eager):
        np.random.seed(2)
        run(x3, y3)
    assert_same_models(model, other)
    assert step.cache_info().traces == 1


def test_frozen_parameters_stay_and_freezing_retraces():
    model, _, step = training(OPTIMIZERS["adam"], wrap=ndl.jit)
    (x, y), (x2, y2) = batches(2)
    step(x, y)
    first = model.parameters()[0]
    first.requires_grad = False
    before = first.numpy()
    step(x2, y2)
    np.testing.assert_array_equal(first.numpy(), before)
    assert step.cache_info().traces == 2


def test_a_last_batch_that_is_short_gets_its_own_program():
    _, _, step = training(OPTIMIZERS["adam"], wrap=ndl.jit)
    for _ in range(3):
        for size in (12, 7):
            ((x, y),) = batches(1, size)
            step(x, y)
    assert step.cache_info().traces == 2
    assert "(12, 20)" in step.explain()
    assert "(7, 20)" in step.explain()


def test_gradient_accumulation_and_a_step_in_two_functions():
    """Gradients made by one compiled function, used by another."""
    eager, compiled = training(OPTIMIZERS["adam"]), training(OPTIMIZERS["adam"])
    loss_fn = nn.SoftmaxLoss()
    for (model, optimizer, _), wrap in ((eager, lambda fn: fn), (compiled, ndl.jit)):

        @wrap
        def backward(x, y, model=model):
            loss = loss_fn(model(x), y)
            loss.backward()
            return loss

        update = wrap(lambda optimizer=optimizer: optimizer.step())
        np.random.seed(5)
        for x, y in batches(3):
            backward(x, y)
            update()
    assert_same_models(eager[0], compiled[0], (eager[1], compiled[1]))


def test_labels_out_of_range_are_one_error_and_change_nothing():
    model, optimizer, step = training(OPTIMIZERS["adam"], wrap=ndl.jit)
    ((x, y),) = batches(1)
    step(x, y)
    before, t = model.state_dict(), optimizer.t
    wrong = ndl.Tensor(np.full(12, 9), requires_grad=False)
    with pytest.raises(ndl.errors.DataError, match="labels are whole numbers from 0 to 4, got 9 at position"):
        step(x, wrong)
    assert optimizer.t == t
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


def test_labels_in_another_shape_are_checked_before_the_step_which_overwrites_its_state():
    np.random.seed(0)
    model = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 5))
    optimizer = optim.Adam(model.parameters(), lr=0.1)
    loss_fn = nn.SoftmaxLoss()

    @ndl.jit
    def step(x, y):
        optimizer.reset_grad()
        loss = loss_fn(model(x).reshape((-1, 5)), y.transpose().reshape((-1,)))
        loss.backward()
        optimizer.step()
        return loss

    x, y = (ndl.Tensor(np.arange(6).reshape(2, 3) % 5, requires_grad=False) for _ in range(2))
    step(x, y)
    weight = model.modules[0].weight
    place = weight.cached_data.ctypes.data
    step(x, y)
    assert weight.cached_data.ctypes.data == place
    before = weight.cached_data.copy()
    wrong = ndl.Tensor(np.array([[0, 1, 2], [3, 5, 4]]), requires_grad=False)
    for call in (lambda: step(x, wrong), lambda: step(ndl.Tensor(np.full((2, 3), 7), requires_grad=False), y)):
        with pytest.raises(ndl.errors.DataError, match=r"whole numbers from 0 to [46], got [57] at position"):
            call()
        assert optimizer.t == 2
        np.testing.assert_array_equal(weight.cached_data, before)
    step(x, y)
    assert optimizer.t == 3
