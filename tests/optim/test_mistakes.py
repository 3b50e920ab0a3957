"""What is hardly ever meant is told once, with the remedy; what may be meant is not."""

import copy
import pickle
import warnings

import numpy as np
import pytest

import needle as ndl
from needle import nn, optim
from needle.errors import GradientError

RESET = r"SGD\.step: a gradient is that of an earlier step.*reset_grad\(\)"
TRAIN = r"Adam\.step: all parameters are of a model in evaluation mode.*model\.train\(\)"


def two_heads():
    np.random.seed(0)
    return nn.Linear(3, 2), nn.Linear(3, 2), ndl.init.rand(4, 3)


def test_a_gradient_of_an_earlier_step_is_told_once():
    one, other, x = two_heads()
    opt = optim.SGD([*one.parameters(), *other.parameters()])
    (one(x).sum() + other(x).sum()).backward()
    opt.step()
    one(x).sum().backward()  # what was computed for `other` stays
    with pytest.warns(UserWarning, match=RESET):
        opt.step()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opt.step()


def test_the_warning_names_the_line_of_the_step():
    one, _, x = two_heads()
    opt = optim.SGD(one.parameters())
    one(x).sum().backward()
    opt.step()
    with pytest.warns(UserWarning, match=RESET) as caught:
        opt.step()
    assert caught[0].filename == __file__


def test_gradients_that_are_reset_or_renewed_or_set_are_not_told():
    one, other, x = two_heads()
    opt = optim.SGD([*one.parameters(), *other.parameters()])
    for head in (one, other, one):
        opt.reset_grad()
        head(x).sum().backward()
        opt.step()
    both = optim.SGD(one.parameters())
    for _ in range(2):
        one(x).sum().backward()
        both.step()
    for parameter in one.parameters():
        parameter.grad = ndl.init.ones_like(parameter)
    both.step()
    both.step()


def make_model():
    return nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 2))


def train_step(model, opt):
    opt.reset_grad()
    model(ndl.init.rand(5, 3)).sum().backward()
    opt.step()


def test_training_in_evaluation_mode_is_told_once():
    model = make_model().eval()
    opt = optim.Adam(model.parameters())
    with pytest.warns(UserWarning, match=TRAIN):
        train_step(model, opt)
    train_step(model, opt)


def test_training_in_evaluation_mode_is_told_when_compiled():
    model = make_model().eval()
    opt = optim.Adam(model.parameters())
    step = ndl.jit(lambda: train_step(model, opt))
    with pytest.warns(UserWarning, match=TRAIN):
        step()
    step()


def test_training_after_an_evaluation_is_not_told():
    model = make_model()
    opt = optim.Adam(model.parameters())
    model.eval()
    model.train()
    train_step(model, opt)


@pytest.mark.parametrize(
    "model",
    [nn.Sequential(nn.Linear(3, 4), nn.Tanh()), nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.0))],
    ids=["no such layer", "no effect"],
)
def test_a_model_that_is_the_same_in_both_modes_is_not_told(model):
    model.eval()
    train_step(model, optim.Adam(model.parameters()))


def test_a_frozen_part_in_evaluation_mode_is_not_told():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    model[1].eval()
    train_step(model, optim.Adam(model.parameters()))
    teacher = make_model().eval()
    assert not any(module.training for _, module in teacher.named_modules())
    train_step(model, optim.Adam(model.parameters()))


def test_backward_of_what_a_compiled_function_returned_says_where_it_belongs():
    w = ndl.Tensor([1.0, 2.0])
    loss = ndl.jit(lambda x: (x * x).sum())(w)
    assert loss.requires_grad
    for wrong in (loss, loss * 2, w.sum() + loss):
        with pytest.raises(GradientError, match=r"returned, whose results have no graph. Call backward .*\.detach\(\)"):
            wrong.backward()
    assert w.grad is None
    (w.sum() + loss.detach()).backward()
    assert w.grad.tolist() == [1.0, 1.0]
    for other in (copy.copy(loss), copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):  # noqa: S301  our own
        assert type(other) is ndl.Tensor
        assert other.tolist() == 5.0
    with pytest.raises(GradientError, match="requires no gradient"):
        ndl.jit(lambda x: (x * x).sum())(w.detach()).backward()


def test_backward_of_several_numbers_is_meant():
    w = ndl.Tensor([1.0, 2.0])
    (w * w).backward()
    assert w.grad.tolist() == [2.0, 4.0]
