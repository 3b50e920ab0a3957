"""A call that fails, wherever it does, leaves all state as it was, and the next one goes on as if it had not been."""

import random

import numpy as np
import pytest

import needle as ndl
from needle import nn, optim
from needle.compiler import executable, stages
from needle.device.random import get_state
from needle.errors import DataError, TraceError

OPTIMIZERS = {
    "sgd": lambda p: optim.SGD(p, lr=0.1, momentum=0.9),
    "adam": lambda p: optim.Adam(p, lr=lambda t: 0.01 / (1 + t)),
    "adamw": lambda p: optim.AdamW(p, lr=0.01),
    "rmsprop": lambda p: optim.RMSprop(p, lr=0.01),
    "adagrad": lambda p: optim.Adagrad(p, lr=0.01),
}


class StopError(Exception):
    pass


class Training:
    """A model and a step, which fails at a point where it is told to."""

    def __init__(self, make_optimizer, scaled=False):
        np.random.seed(0)
        random.seed(0)
        self.model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Dropout(0.2), nn.Linear(5, 3))
        self.optimizer = make_optimizer(self.model.parameters())
        self.scaler = optim.GradScaler(enabled=scaled)
        self.point = ""
        self.kept = []

    def fail(self, point, what):
        if self.point == point:
            what()

    def stop(self):
        raise StopError

    def step(self, x, y):
        self.optimizer.reset_grad()
        self.fail("first", self.stop)
        loss = nn.SoftmaxLoss()(self.model(x), y)
        self.fail("forward", self.model.eval)
        self.fail("forward", self.stop)
        self.scaler.scale(loss).backward()
        self.fail("backward", lambda: float(loss))
        self.scaler.step(self.optimizer)
        self.fail("after", lambda: float(loss))
        self.fail("draw", np.random.rand)
        self.fail("python draw", random.random)
        self.fail("python draw", self.stop)
        self.fail("leak", lambda: self.kept.append(loss * 2))
        return loss

    def state(self):
        optimizer, scaler = self.optimizer.state_dict(), self.scaler.state_dict()
        arrays = {**self.model.state_dict(), **optimizer.pop("arrays")}
        gradients = [None if p.grad is None else p.grad.numpy().tobytes() for p in self.optimizer.params]
        modes = [one.training for _, one in self.model.named_modules()]
        draws = np.random.get_state()[1].tobytes(), np.random.get_state()[2], random.getstate(), get_state()
        return {name: one.tobytes() for name, one in arrays.items()}, optimizer, scaler, gradients, modes, draws


def batch(size=6, last=2):
    rng = np.random.default_rng(size)
    x = ndl.Tensor(rng.standard_normal((size, 4)).astype(np.float32), requires_grad=False)
    return x, ndl.Tensor([*([0, 1, 2, 0, 1, 2][: size - 1]), last], requires_grad=False)


def stop(*_):
    raise StopError


FAILURES = {
    "first": StopError,
    "forward": StopError,
    "backward": TraceError,
    "after": TraceError,
    "draw": TraceError,
    "python draw": StopError,
    "leak": TraceError,
    "compile": StopError,
    "label": DataError,
    "run": StopError,
}


@pytest.mark.parametrize(
    ("name", "point"), [*(("adam", one) for one in FAILURES), *((one, "run") for one in OPTIMIZERS if one != "adam")]
)
@pytest.mark.parametrize("warm", [False, True])
def test_a_failed_call_leaves_all_state_as_it_was(name, point, warm, monkeypatch):
    if point == "compile":
        monkeypatch.setenv("NEEDLE_CACHE", "0")
    failing, other = (Training(OPTIMIZERS[name], scaled=name == "adam") for _ in range(2))
    step, same_step = ndl.jit(failing.step), ndl.jit(other.step)
    for run in [(failing, step), (other, same_step)]:
        np.random.seed(1)
        random.seed(1)
        if warm:
            run[1](*batch())
    np.random.seed(2)
    before = failing.state()
    size = 5 if warm and point not in ("label", "run") else 6
    failing.point = point
    with monkeypatch.context() as patch, pytest.raises(FAILURES[point]):
        if point == "compile":
            patch.setattr(stages, "schedule", stop)
        if point == "run":
            patch.setattr(executable.Executable, "run_at", stop)
        step(*batch(size, 9 if point == "label" else 2))
    failing.point = ""
    failing.kept.clear()
    assert failing.state() == before
    losses = []
    for run in [(failing, step), (other, same_step)]:
        np.random.seed(2)
        random.seed(2)
        losses.append([run[1](*batch()).item() for _ in range(2)])
    assert losses[0] == losses[1]
    assert failing.state() == other.state()


def test_a_schedule_that_fails_leaves_the_draws_of_the_call_undrawn():
    def rate(step):
        if step == 2:
            raise StopError
        return 0.1

    training = Training(lambda params: optim.SGD(params, lr=rate))
    step = ndl.jit(training.step)
    for _ in range(2):
        step(*batch())
    for seed in (None, 3):
        ndl.seed(seed)
        before = training.state()
        with pytest.raises(StopError):
            step(*batch())
        assert training.state() == before
    ndl.seed(None)


def test_a_check_that_fails_takes_back_the_moments_too(monkeypatch):
    monkeypatch.setenv("NEEDLE_CACHE", "0")
    training = Training(OPTIMIZERS["adam"])
    step = ndl.jit(check=1)(training.step)
    before = training.state()
    with monkeypatch.context() as patch, pytest.raises(StopError):
        patch.setattr(executable.Executable, "run_at", stop)
        step(*batch())
    assert training.state() == before
    assert step(*batch()).shape == ()
