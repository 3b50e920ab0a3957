"""grad and value_and_grad: functional forms that disturb nothing."""

from typing import NamedTuple

import numpy as np
import pytest

import needle as ndl
from needle import autograd, nn
from needle.errors import DTypeError, GradientError


def cube(x):
    return (x**3).sum()


def test_grad_of_a_tensor_a_number_and_an_array():
    assert ndl.grad(cube)(ndl.Tensor([1.0, 2.0])).tolist() == [3, 12]
    assert ndl.grad(cube)(2.0).tolist() == 12
    assert ndl.grad(cube)(2).tolist() == 12
    assert ndl.grad(cube)(np.array([1.0, 2.0])).tolist() == [3, 12]


def test_value_and_grad_gives_both():
    value, slope = ndl.value_and_grad(cube)(ndl.Tensor([1.0, 2.0]))
    assert (value.tolist(), slope.tolist()) == (9, [3, 12])


def test_aux_is_passed_through():
    def fn(x):
        y = x * 2
        return y.sum(), {"y": y, "note": ["text", 3]}

    (value, aux), slope = ndl.value_and_grad(fn, has_aux=True)(ndl.Tensor([1.0, 2.0], requires_grad=False))
    assert (value.tolist(), slope.tolist()) == (6, [2, 2])
    assert (aux["y"].tolist(), aux["note"]) == ([2, 4], ["text", 3])
    assert aux["y"].is_leaf()


def test_nothing_is_disturbed():
    x, w = ndl.Tensor([1.0, 2.0]), ndl.Tensor([3.0, 4.0])
    y = x * w
    y.sum().backward()
    before = (x.grad, w.grad, y.grad, x.cached_data)
    ndl.grad(lambda y: (y * w * x).sum())(y)
    ndl.grad(lambda x: ndl.grad(cube)(x).sum())(x)
    assert (x.grad, w.grad, y.grad, x.cached_data) == before


def test_several_positions_and_negative_ones():
    a, b, c = (ndl.Tensor([value]) for value in (2.0, 3.0, 5.0))

    def product(a, b, c):
        return (a * b * c).sum()

    assert ndl.grad(product, 1)(a, b, c).tolist() == [10]
    assert ndl.grad(product, -1)(a, b, c).tolist() == [6]
    first, last = ndl.grad(product, (0, 2))(a, b, c)
    assert (first.tolist(), last.tolist()) == ([15], [6])
    assert isinstance(ndl.grad(product, [0])(a, b, c), tuple)


def test_one_tensor_at_two_positions_has_two_partial_derivatives():
    x = ndl.Tensor([3.0])

    def fn(a, b):
        return (a * a * b).sum()

    assert ndl.grad(fn, 0)(x, x).tolist() == [18]
    assert ndl.grad(fn, 1)(x, x).tolist() == [9]


def test_keywords_and_other_arguments_are_passed_on():
    def fn(x, power, *, scale):
        return (x**power).sum() * scale

    assert ndl.grad(fn)(ndl.Tensor([2.0]), 2, scale=10).tolist() == [40]


class Pair(NamedTuple):
    w: object
    b: object


def test_containers_give_gradients_in_their_form():
    def fn(tree):
        return (tree["pair"].w * tree["list"][0] + tree["pair"].b * 2.0).sum()

    tree = {"pair": Pair(ndl.Tensor([2.0]), 1.0), "list": [np.array([5.0])]}
    slopes = ndl.grad(fn)(tree)
    assert isinstance(slopes["pair"], Pair)
    assert (slopes["pair"].w.tolist(), slopes["pair"].b.tolist()) == ([5], 2)
    assert slopes["list"][0].tolist() == [2]


def test_module_gives_gradients_by_name_and_keeps_its_own():
    model = nn.Linear(2, 1)
    x = ndl.Tensor([[1.0, 2.0]], dtype="float32", requires_grad=False)
    slopes = ndl.grad(lambda model, x: model(x).sum())(model, x)
    assert {name: slope.tolist() for name, slope in slopes.items()} == {"weight": [[1], [2]], "bias": [[1]]}
    assert model.weight.grad is None
    model.bias.requires_grad = False
    assert list(ndl.grad(lambda model: model(x).sum())(model)) == ["weight"]


def test_argument_without_influence_has_a_gradient_of_zeros():
    x = ndl.Tensor(np.ones((2, 3)), dtype="float32")
    for fn in (lambda x, y: y.sum(), lambda x, y: ndl.Tensor(1.0, requires_grad=False)):
        slope = ndl.grad(fn)(x, ndl.Tensor([1.0]))
        assert (slope.tolist(), slope.dtype) == ([[0, 0, 0]] * 2, "float32")


# ------------------------------------------------------------------------------------------------ higher order


def derivative(fn, order):
    for _ in range(order):
        fn = ndl.grad(lambda x, inner=fn: inner(x).sum())
    return fn


@pytest.mark.parametrize("is_lazy", [False, True])
@pytest.mark.parametrize("requires_grad", [False, True])
def test_grad_of_grad_to_fourth_order(requires_grad, is_lazy, monkeypatch):
    monkeypatch.setattr(autograd, "LAZY_MODE", is_lazy)
    x = ndl.Tensor([1.5, -0.5], requires_grad=requires_grad)
    for order, factor in enumerate([5, 20, 60, 120], start=1):
        np.testing.assert_allclose(derivative(lambda x: x**5, order)(x).numpy(), factor * x.numpy() ** (5 - order))
    np.testing.assert_allclose(derivative(ndl.tanh, 3)(x).numpy(), third_of_tanh(x.numpy()), rtol=1e-12)


def third_of_tanh(x):
    t = np.tanh(x)
    return (1 - t**2) * (6 * t**2 - 2)


def test_mixed_second_derivatives():
    def fn(a, b):
        return (a**2 * b**3).sum()

    a, b = ndl.Tensor([2.0]), ndl.Tensor([3.0])
    mixed = ndl.grad(lambda a, b: ndl.grad(fn, 0)(a, b).sum(), 1)(a, b)
    assert mixed.tolist() == [2 * 2 * 3 * 9]


def test_gradient_can_be_differentiated_by_backward():
    x = ndl.Tensor([2.0])
    ndl.grad(cube)(x).backward()
    assert x.grad.tolist() == [12]


def test_gradient_of_an_inner_node_stays_connected():
    x = ndl.Tensor([2.0])
    y = x * x
    (ndl.grad(cube)(y) * 1.0).backward()  # 3x⁴
    assert x.grad.tolist() == [12 * 8]


def test_gradient_penalty_reaches_parameters():
    w = ndl.Tensor([3.0])
    x = ndl.Tensor([2.0], requires_grad=False)
    slope = ndl.grad(lambda x: (w * x * x).sum())(x)  # 2wx
    (slope**2).sum().backward()  # ∂(4w²x²)/∂w
    assert w.grad.tolist() == [8 * 3 * 4]


def test_value_is_differentiable_where_something_required_it():
    w = ndl.Tensor([3.0])
    value, _ = ndl.value_and_grad(lambda x: (w * x).sum())(ndl.Tensor([2.0], requires_grad=False))
    value.backward()
    assert w.grad.tolist() == [2]


def test_results_are_constants_where_nothing_required_a_gradient():
    x = ndl.Tensor([2.0], requires_grad=False)
    for result in ndl.value_and_grad(cube)(x):
        assert not result.requires_grad
        assert result.is_leaf()
    with ndl.no_grad():
        for result in ndl.value_and_grad(cube)(ndl.Tensor([2.0])):
            assert not result.requires_grad


def test_replaced_data_is_found_out():
    w, x = ndl.Tensor([3.0]), ndl.Tensor([2.0])
    slope = ndl.grad(lambda x: (w * x * x).sum())(x)
    w.data = ndl.Tensor([4.0])
    with pytest.raises(GradientError, match="was replaced"):
        slope.backward()


# ------------------------------------------------------------------------------------------------------ errors


def test_result_that_is_not_one_number_is_an_error():
    with pytest.raises(GradientError, match=r"returns one number, got shape \(2,\): sum it"):
        ndl.grad(lambda x: x * 2)(ndl.Tensor([1.0, 2.0]))
    with pytest.raises(GradientError, match="returns a Tensor of one element, got float"):
        ndl.grad(lambda x: 2.0)(ndl.Tensor([1.0]))
    with pytest.raises(GradientError, match=r"pair \(number, aux\), got Tensor"):
        ndl.value_and_grad(cube, has_aux=True)(ndl.Tensor([1.0]))


def test_position_that_is_not_there_is_an_error():
    with pytest.raises(GradientError, match="position 1 of a call with 1 positional arguments"):
        ndl.grad(cube, 1)(ndl.Tensor([1.0]))


@pytest.mark.parametrize("value", ["text", None, {"a": object()}])
def test_argument_that_is_no_number_is_an_error(value):
    with pytest.raises(DTypeError, match="cannot differentiate with respect to"):
        ndl.grad(cube)(value)


def test_bool_argument_is_an_error():
    with pytest.raises(DTypeError, match="booleans carry no gradient"):
        ndl.grad(cube)(ndl.Tensor([True]))
