"""gradcheck finds wrong gradients, and no others."""

import numpy as np
import pytest

import needle as ndl
from needle.errors import GradientError


class Product(ndl.TensorOp):
    """y = a·b, with gradients scaled by `factors`."""

    def __init__(self, *factors, second=1.0):
        self.factors = factors
        self.second = second

    def compute(self, a, b):
        return a * b

    def gradient(self, out_grad, node):
        a, b = node.inputs
        left, right = self.factors
        wrong_twice = (a - a.detach()) * (self.second - 1)  # nothing in the first derivative
        return out_grad * (b + wrong_twice) * left, out_grad * a * right


def inputs():
    rng = np.random.default_rng(3)
    return ndl.Tensor(rng.standard_normal((2, 3))), ndl.Tensor(rng.standard_normal((2, 3)))


@pytest.mark.parametrize(
    ("fn", "shapes"),
    [
        (Product(1, 1), [(2, 3), (2, 3)]),
        (ndl.ops.Exp(), [(2, 3)]),
        (ndl.logsumexp, [(3, 4)]),
        (ndl.matmul, [(2, 3), (3, 4)]),
        (lambda a, b: (a * b, ndl.tanh(a).sum()), [(3,), (3,)]),
        (lambda a: ndl.split(a * a, 0), [(2, 3)]),
        (lambda a: ndl.stack([a, a * a], 0), [()]),
        (lambda a: a * 0, [(0, 3)]),
    ],
)
def test_right_gradients_pass_to_second_order(fn, shapes):
    rng = np.random.default_rng(0)
    assert ndl.gradcheck(fn, *(ndl.Tensor(rng.standard_normal(shape)) for shape in shapes), second_order=True) is True


def test_wrong_gradient_is_shown_by_input_and_index():
    with pytest.raises(GradientError) as caught:
        ndl.gradcheck(Product(1, 0.5), *inputs())
    lines = str(caught.value).splitlines()
    assert lines[0] == "gradcheck: Product: 6 of 12 derivatives differ from central differences"
    assert lines[1].split() == ["input", "index", "gradient", "says", "differences", "says"[:-1]]
    assert [line.split(")")[0].strip() for line in lines[2:]] == [f"1  ({i}, {j}" for i in (0, 1) for j in (0, 1, 2)]
    says, should = map(float, lines[2].split()[-2:])
    assert says == pytest.approx(should / 2, rel=1e-5)


def test_long_table_is_cut():
    with pytest.raises(GradientError, match="… and 4 more"):
        ndl.gradcheck(Product(2, 2), *inputs())


def test_wrong_second_derivative_is_found_only_by_the_second_check():
    op = Product(1, 1, second=3.0)
    assert ndl.gradcheck(op, *inputs())
    with pytest.raises(GradientError, match="Product, second derivative: "):
        ndl.gradcheck(op, *inputs(), second_order=True)


def test_detached_function_is_found():
    with pytest.raises(GradientError, match="1 of 1 derivatives"):
        ndl.gradcheck(lambda a: a.detach() * 2, ndl.Tensor([1.0]))


def test_nan_is_a_difference():
    class Nan(ndl.TensorOp):
        def compute(self, a):
            return a

        def gradient(self, out_grad, node):
            return out_grad * float("nan")

    with pytest.raises(GradientError, match="nan"):
        ndl.gradcheck(Nan(), ndl.Tensor([1.0]))


def test_inputs_are_left_alone_and_may_be_strided():
    array = np.arange(12.0).reshape(3, 4).T[::2] / 7
    x = ndl.Tensor.make_const(array, requires_grad=True)
    before = array.copy()
    assert ndl.gradcheck(ndl.tanh, x)
    assert x.cached_data is array
    assert array.tolist() == before.tolist()
    assert x.grad is None


def test_float32_inputs_are_checked_in_float64():
    x = ndl.Tensor([0.3, 1e4], dtype="float32")
    assert ndl.gradcheck(lambda a: a * a * a, x, rtol=1e-7)


def test_constants_and_integers_are_passed_on():
    x, labels = ndl.Tensor([1.0, 2.0, 3.0]), ndl.Tensor([2, 0])
    scale = ndl.Tensor([2.0], requires_grad=False)
    seen = []

    def fn(x, labels, scale):
        seen.append((labels.dtype, scale.requires_grad))
        return x[labels] * scale.detach()

    assert ndl.gradcheck(fn, x, labels, scale)
    assert set(seen) == {(np.dtype("int64"), False)}
    assert ndl.gradcheck(lambda a: a * a, np.array([1.0]))


def test_nothing_to_check_is_an_error():
    with pytest.raises(GradientError, match="nothing to check"):
        ndl.gradcheck(lambda a: a, ndl.Tensor([1]))
    with pytest.raises(GradientError, match="returns Tensors, got float"):
        ndl.gradcheck(lambda a: 1.0, ndl.Tensor([1.0]))


def test_random_numbers_of_the_program_stay_where_they_are():
    np.random.seed(1)
    state = np.random.get_state()[1].tobytes()
    ndl.gradcheck(ndl.exp, ndl.Tensor([1.0]), second_order=True)
    assert np.random.get_state()[1].tobytes() == state
