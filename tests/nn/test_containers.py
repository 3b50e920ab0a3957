"""Modules that hold modules."""

import numpy as np
import pytest

import needle as ndl
from needle import nn
from needle.errors import DTypeError, ShapeError


def tensor(*values):
    return ndl.Tensor(np.array(values, dtype="float32"))


class Add(nn.Module):
    def __init__(self, number):
        self.number = number

    def forward(self, x):
        return x + self.number


def test_sequential_applies_in_order_and_can_be_indexed():
    model = nn.Sequential(Add(1), nn.ReLU(), Add(10))
    np.testing.assert_array_equal(model(tensor(-3, 2)).numpy(), [10, 13])
    assert type(model.modules) is tuple
    assert len(model) == 3
    assert model[-1] is model.modules[2]
    assert list(model) == list(model.modules)
    assert type(model[:2]) is nn.Sequential
    assert model[:2].modules == model.modules[:2]


def test_sequential_of_nothing_changes_nothing():
    x = tensor(1)
    assert nn.Sequential()(x) is x


def test_sequential_takes_functions_too():
    assert nn.Sequential(Add(1), ndl.exp)(tensor(-1)).numpy() == [1]


def test_sequential_refuses_a_list_and_says_what_to_write():
    with pytest.raises(DTypeError, match=r"takes modules, one argument each, got list: write Sequential\(\*modules\)"):
        nn.Sequential([nn.ReLU()])
    with pytest.raises(DTypeError, match=r"takes modules, one argument each, got int$"):
        nn.Sequential(nn.ReLU(), 3)


def test_residual_adds_its_input():
    x = tensor(1, 2)
    y = nn.Residual(Add(5))(x)
    np.testing.assert_array_equal(y.numpy(), [7, 9])
    y.backward()
    np.testing.assert_array_equal(x.grad.numpy(), [2, 2])


def test_residual_never_broadcasts():
    x = ndl.Tensor(np.ones((4, 3), dtype="float32"))
    with pytest.raises(ShapeError, match=r"fn keeps the shape: it made \(4, 1\) of \(4, 3\)"):
        nn.Residual(nn.Linear(3, 1))(x)


def test_identity_gives_back_the_same_object():
    x = tensor(1)
    assert nn.Identity()(x) is x


@pytest.mark.parametrize(
    ("shape", "flat"), [((2, 3, 4), (2, 12)), ((3,), (3, 1)), ((2, 5), (2, 5)), ((0, 2, 3), (0, 6)), ((2, 0), (2, 0))]
)
def test_flatten_keeps_the_first_axis(shape, flat):
    array = np.arange(np.prod(shape), dtype="float32").reshape(shape)
    y = nn.Flatten()(ndl.Tensor(array))
    np.testing.assert_array_equal(y.numpy(), array.reshape(flat))


def test_flatten_needs_an_axis():
    with pytest.raises(ShapeError, match="Flatten keeps the first axis, and this Tensor has none"):
        nn.Flatten()(ndl.Tensor(1.0))


def test_module_list_is_a_list():
    a, b, c = nn.ReLU(), nn.Linear(2, 2), nn.Tanh()
    modules = nn.ModuleList([a])
    modules.append(c)
    modules.insert(1, b)
    assert list(modules) == [a, b, c]
    assert [name for name, _ in modules.named_modules()] == ["", "0", "1", "2"]
    assert [name for name, _ in modules.named_parameters()] == ["1.weight", "1.bias"]
    modules[0] = c
    del modules[2]
    assert list(modules) == [c, b]
    assert type(modules[1:]) is nn.ModuleList
    assert list(modules[1:]) == [b]
    modules[:] = [a, a]
    assert modules.pop() is a
    assert len(modules) == 1
    assert modules in {modules}


def test_module_list_paths_have_no_segment_of_its_own():
    model = nn.Sequential()
    model.blocks = nn.ModuleList([nn.Linear(1, 1, bias=False), nn.Dropout()])
    assert [name for name, _ in model.named_parameters()] == ["blocks.0.weight"]
    model.eval()
    assert not model.blocks[1].training


def test_module_dict_is_a_dict():
    a, b = nn.ReLU(), nn.Linear(2, 2)
    modules = nn.ModuleDict({"a": a})
    modules["b"] = b
    assert list(modules) == ["a", "b"]
    assert list(modules.items()) == [("a", a), ("b", b)]
    assert [name for name, _ in modules.named_parameters()] == ["b.weight", "b.bias"]
    assert modules.pop("a") is a
    assert "a" not in modules
    assert len(modules) == 1
    assert modules != nn.ModuleDict({"b": b})
    assert modules in {modules}


def test_module_list_and_dict_refuse_what_is_no_module():
    with pytest.raises(DTypeError, match="expected a module, got int"):
        nn.ModuleList([3])
    with pytest.raises(DTypeError, match="expected a module, got function"):
        nn.ModuleDict({"f": lambda x: x})
    for name in ("a.b", "", 3):
        with pytest.raises(DTypeError, match="a name is text without dots, since it is part of a path, got"):
            nn.ModuleDict([(name, nn.ReLU())])
