"""The reverse pass: what it stores, sums and refuses, and gradients of gradients."""

import numpy as np
import pytest

import needle as ndl
from needle.autograd import compute_gradient_of_variables
from needle.errors import GradientError, ShapeError


def values(*tensors):
    return [tensor.numpy().tolist() for tensor in tensors]


# ------------------------------------------------------------------------------------------------ first order


def test_gradient_starts_from_ones_or_what_is_given():
    x = ndl.Tensor([1.0, 2.0])
    (x * x).backward()
    assert values(x.grad) == [[2, 4]]
    (x * x).backward(ndl.Tensor([10.0, -1.0]))
    assert values(x.grad) == [[20, -4]]


def test_out_grad_of_zero_is_not_taken_for_none():
    x = ndl.Tensor(3.0)
    (x * x).backward(ndl.Tensor(0.0))
    assert float(x.grad) == 0


def test_backward_replaces_and_does_not_add():
    x = ndl.Tensor([1.0])
    for factor in (2, 3):
        (x * factor).backward()
        assert float(x.grad) == factor


def test_contributions_of_a_shared_input_are_summed():
    x = ndl.Tensor([2.0])
    shared = x * 3
    (shared * shared + shared * x + x).backward()
    assert float(x.grad) == 2 * 6 * 3 + 2 * 6 + 1
    (x * x * x + x + x).backward()
    assert float(x.grad) == 3 * 4 + 2


def test_inner_nodes_have_gradients_too():
    x = ndl.Tensor([2.0])
    y = x * 3
    z = y * y
    z.backward()
    assert (float(z.grad), float(y.grad), float(x.grad)) == (1, 12, 36)


def test_tuple_nodes_have_tuples_as_gradients():
    x = ndl.Tensor([2.0, 3.0])
    pair = ndl.split(x, 0)
    (pair[0] * pair[1]).backward()
    assert isinstance(pair.grad, ndl.TensorTuple)
    assert values(*pair.grad.tuple()) == [3, 2]
    assert values(x.grad) == [[3, 2]]


def test_elements_of_a_tuple_are_summed_at_their_places():
    x = ndl.Tensor([[1.0], [2.0], [3.0], [4.0]])
    rows = ndl.split(x, 0)
    whole = ndl.stack(rows.tuple(), 0)  # reaches every element, by itself
    (rows[0] * rows[2] + rows[2] + whole.sum()).backward()
    assert values(*rows.grad.tuple()) == [[4], [1], [3], [1]]  # nobody else reads 1 and 3
    assert x.grad.tolist() == [[4], [1], [3], [1]]


def test_tuples_reached_whole_and_by_element_add_up():
    x = ndl.Tensor([1.0, 2.0])
    pair = ndl.fused_add_scalars(x, 0, 1)
    doubled = pair + pair
    (doubled[0] * 3 + pair[1]).sum().backward()
    assert values(*pair.grad.tuple()) == [[6, 6], [1, 1]]
    assert values(x.grad) == [[7, 7]]


def test_the_gradient_of_a_long_tuple_takes_work_in_proportion_to_its_length():
    calls = 0

    class Counted(ndl.ops.EWiseAdd):
        def compute(self, a, b):
            nonlocal calls
            calls += 1
            return super().compute(a, b)

    def steps(count):
        nonlocal calls
        calls = 0
        x = ndl.Tensor(np.ones((count, 2)))
        before = ndl.ops.EWiseAdd
        ndl.ops.arithmetic.EWiseAdd = Counted
        try:
            rows = ndl.split(x, 0)
            ndl.stack([row * row for row in rows], 0).sum().backward()
        finally:
            ndl.ops.arithmetic.EWiseAdd = before
        assert (x.grad.numpy() == 2).all()
        return calls

    assert steps(40) == 2 * steps(20)


def test_constants_have_no_gradient():
    x, c = ndl.Tensor([1.0]), ndl.Tensor([2.0], requires_grad=False)
    (x * c).backward()
    assert c.grad is None
    assert float(x.grad) == 2


def test_gradient_keeps_the_dtype_and_shape_of_its_tensor():
    for dtype in ("float16", "bfloat16", "float32", "float64"):
        x = ndl.Tensor(np.ones((2, 1, 3)), dtype=dtype)
        (x * 2 + 1).sum().backward()
        assert (x.grad.dtype, x.grad.shape) == (dtype, (2, 1, 3))


def test_integers_carry_gradients():
    x = ndl.Tensor([6])
    y = x * x + x
    y.backward()
    assert x.grad.numpy().tolist() == [13]
    x.grad.backward()
    assert x.grad.numpy().tolist() == [2]


def test_bools_carry_no_gradient():
    x = ndl.Tensor([1.0, -1.0])
    mask = x > 0
    assert not mask.requires_grad
    ndl.where(mask, x, x * 10).backward()
    assert values(x.grad) == [[1, 10]]
    assert mask.grad is None


def test_empty_tensors_have_empty_gradients():
    x = ndl.Tensor(np.zeros((0, 3)))
    (x * 2).sum().backward()
    assert x.grad.shape == (0, 3)


def test_module_function_is_what_backward_calls():
    x = ndl.Tensor([2.0])
    compute_gradient_of_variables(x * x, ndl.Tensor([3.0]))
    assert float(x.grad) == 12


# ------------------------------------------------------------------------------------------------ higher order


def test_second_derivative_replaces_the_first():
    x = ndl.Tensor([2.0])
    (x * x * x).backward()
    gx = x.grad
    assert float(gx) == 12
    gx.backward()
    assert float(x.grad) == 12  # 6x
    x.grad.backward()
    assert float(x.grad) == 6


def test_mixed_derivatives():
    a, b = ndl.Tensor([2.0]), ndl.Tensor([3.0])
    (a * a + a * b).backward()
    ga = a.grad
    assert (float(ga), float(b.grad)) == (7, 2)
    ga.backward()
    assert (float(a.grad), float(b.grad)) == (2, 1)


def test_gradients_make_new_expressions():
    x = ndl.Tensor([1.0, 2.0])
    (x**3).sum().backward()
    penalty = (x.grad * x.grad).sum()  # Σ 9x⁴
    penalty.backward()
    np.testing.assert_allclose(x.grad.numpy(), 36 * x.numpy() ** 3)


def test_gradient_of_out_grad():
    x, out_grad = ndl.Tensor([2.0]), ndl.Tensor([5.0])
    (x * x).backward(out_grad)
    x.grad.backward()
    assert (float(x.grad), float(out_grad.grad)) == (10, 4)


def test_gradient_is_differentiable_after_the_output_is_gone():
    x = ndl.Tensor([2.0])
    (x**3).backward()
    assert x.grad.op is not None
    x.grad.backward()
    assert float(x.grad) == 12


def test_gradients_of_inner_nodes_are_differentiable():
    x = ndl.Tensor([2.0])
    y = x * x
    (y * y).backward()
    y.grad.backward()  # ∂(2y)/∂x = 4x
    assert float(x.grad) == 8


def test_inner_gradient_without_its_pass_says_so():
    x = ndl.Tensor([2.0])
    y = x * x
    (y * y).backward()
    x.grad = None
    with pytest.raises(GradientError, match="the graph of this inner node's gradient is gone"):
        y.grad.backward()


def test_gradient_after_its_data_was_replaced_says_so():
    x = ndl.Tensor([2.0])
    (x * x).backward()
    x.data = ndl.Tensor([3.0])
    with pytest.raises(GradientError, match=r"data of a Tensor was replaced after backward\(\)"):
        x.grad.backward()
    assert float(x.grad) == 4


def test_second_run_of_the_pass_gives_the_same_bits():
    rng = np.random.default_rng(0)
    x = ndl.Tensor(rng.standard_normal((7, 5)), dtype="float32")
    ndl.logsumexp(ndl.tanh(x) @ x.transpose()).backward()
    recorded = x.grad.inputs[0]
    assert recorded.numpy().tobytes() == x.grad.numpy().tobytes()


# ------------------------------------------------------------------------------------------------------ errors


class Wrong(ndl.TensorOp):
    """y = a + b, with a gradient that is given."""

    def __init__(self, adjoints):
        self.adjoints = adjoints

    def compute(self, a, b):
        return a + b

    def gradient(self, out_grad, node):
        return self.adjoints(out_grad)


def test_backward_of_a_constant_says_why():
    with pytest.raises(GradientError, match="backward: this Tensor requires no gradient"):
        ndl.Tensor([1.0], requires_grad=False).backward()
    with ndl.no_grad():
        y = ndl.Tensor([1.0]) * 2
    with pytest.raises(GradientError, match="under no_grad"):
        y.backward()


def test_out_grad_of_another_shape_is_an_error():
    x = ndl.Tensor([1.0, 2.0])
    with pytest.raises(ShapeError, match=r"out_grad has shape \(1,\), the Tensor \(2,\)"):
        (x * 2).backward(ndl.Tensor([1.0]))
    assert x.grad is None


@pytest.mark.parametrize(
    ("adjoints", "message"),
    [
        (lambda g: g, "Wrong.gradient returned 1 adjoints for 2 inputs"),
        (lambda g: (g, g, g), "Wrong.gradient returned 3 adjoints for 2 inputs"),
        (lambda g: (g, g.sum()), r"Wrong.gradient returned an adjoint of shape \(\) for an input of shape \(2,\)"),
    ],
)
def test_wrong_adjoints_of_a_users_operator(adjoints, message):
    a, b = ndl.Tensor([1.0, 2.0]), ndl.Tensor([3.0, 4.0])
    with pytest.raises(GradientError, match=message):
        Wrong(adjoints)(a, b).backward()
    assert a.grad is None
    assert b.grad is None


def test_adjoints_that_are_no_tensors_say_so():
    a, b = ndl.Tensor([1.0, 2.0]), ndl.Tensor([3.0, 4.0])
    with pytest.raises(GradientError, match=r"Wrong\.gradient returned ndarray"):
        Wrong(lambda g: (g.numpy(), g))(a, b).backward()


def test_adjoints_may_be_a_list_and_none_for_constants():
    a, b = ndl.Tensor([1.0, 2.0]), ndl.Tensor([3.0, 4.0], requires_grad=False)
    Wrong(lambda g: [g, None])(a, b).backward()
    assert values(a.grad) == [[1, 1]]
    assert b.grad is None


def test_gradient_as_tuple_of_any_form():
    a, b = ndl.Tensor([1.0]), ndl.Tensor([3.0])
    out = Wrong(lambda g: [g, g])(a, b)
    assert out.op.gradient_as_tuple(out, out) == (out, out)
    assert (-a).op.gradient_as_tuple(ndl.Tensor([2.0]), -a)[0].tolist() == [-2]


def test_operator_without_a_gradient_says_so():
    class Floor(ndl.TensorOp):
        def compute(self, a):
            return np.floor(a)

    with pytest.raises(GradientError, match="Floor has no gradient"):
        Floor()(ndl.Tensor([1.5])).backward()


def test_error_in_a_users_compute_names_the_operands():
    class Broken(ndl.TensorOp):
        def compute(self, a):
            raise KeyError("missing")

    with pytest.raises(KeyError) as caught:
        Broken()(ndl.Tensor([1.5]))
    assert "in Broken.compute with a: float64 (1,) on cpu" in caught.value.__notes__[0]
