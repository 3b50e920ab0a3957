"""Graphs: their nodes and order, eager and lazy mode, depth."""

import threading

import numpy as np
import pytest

import needle as ndl
from needle import autograd
from needle.autograd import find_topo_sort
from needle.errors import DTypeError, ShapeError

DEPTH = 100_000


@pytest.fixture
def lazy(monkeypatch):
    monkeypatch.setattr(autograd, "LAZY_MODE", True)


class Counted(ndl.TensorOp):
    """y = 2a, counting how often it is computed on data (shapes alone are found out in lazy mode, too)."""

    def __init__(self):
        self.count = 0

    def compute(self, a):
        self.count += type(a) is np.ndarray
        return 2 * a

    def gradient(self, out_grad, node):
        return out_grad * 2


def names(node):
    return [type(one.op).__name__ if one.op else "leaf" for one in find_topo_sort([node])]


# ------------------------------------------------------------------------------------------------------ nodes


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        (lambda a, b: a + b, ["leaf", "leaf", "EWiseAdd"]),
        (lambda a, b: a + 2, ["leaf", "AddScalar"]),
        (lambda a, b: 2 + a, ["leaf", "AddScalar"]),
        (lambda a, b: a - b, ["leaf", "leaf", "Negate", "EWiseAdd"]),
        (lambda a, b: a - 2, ["leaf", "AddScalar"]),
        (lambda a, b: a * b, ["leaf", "leaf", "EWiseMul"]),
        (lambda a, b: 3 * a, ["leaf", "MulScalar"]),
        (lambda a, b: a / b, ["leaf", "leaf", "EWiseDiv"]),
        (lambda a, b: a / 2, ["leaf", "DivScalar"]),
        (lambda a, b: a**b, ["leaf", "leaf", "EWisePow"]),
        (lambda a, b: a**2, ["leaf", "PowerScalar"]),
        (lambda a, b: a @ b, ["leaf", "leaf", "MatMul"]),
        (lambda a, b: -a, ["leaf", "Negate"]),
        (lambda a, b: a.sum(), ["leaf", "Summation"]),
        (lambda a, b: a.reshape((4,)), ["leaf", "Reshape"]),
        (lambda a, b: a.transpose(), ["leaf", "Transpose"]),
        (lambda a, b: a.broadcast_to((3, 2, 2)), ["leaf", "BroadcastTo"]),
        (lambda a, b: ndl.stack([a, b], 0), ["leaf", "leaf", "MakeTensorTuple", "Stack"]),
        (lambda a, b: ndl.exp(ndl.log(a)), ["leaf", "Log", "Exp"]),
    ],
)
def test_expression_makes_the_nodes_that_it_says(expression, expected):
    a, b = ndl.Tensor(np.ones((2, 2))), ndl.Tensor(np.ones((2, 2)))
    assert names(expression(a, b)) == expected


def test_order_is_post_order_with_each_node_once():
    a, b = ndl.Tensor([2.0]), ndl.Tensor([3.0])
    left = a * b
    right = left + a
    top = right * left
    assert find_topo_sort([top]) == [a, b, left, right, top]
    assert find_topo_sort([left, top]) == [a, b, left, right, top]
    assert find_topo_sort([b, top]) == [b, a, left, right, top]


def test_difference_in_the_order_of_values():
    a, b = ndl.Tensor([5.0]), ndl.Tensor([3.0])
    assert [float(node) for node in find_topo_sort([a - b])] == [5, 3, -3, 2]


def test_node_knows_operator_and_inputs():
    a = ndl.Tensor([1.0])
    b = a * 3
    assert b.inputs == (a,)
    assert b.op.scalar == 3
    assert not b.is_leaf()
    assert a.is_leaf()
    assert (a.inputs, a.op, a.num_outputs) == ((), None, 1)


def test_result_of_constants_keeps_no_graph():
    a = ndl.Tensor([1.0], requires_grad=False)
    b = a * 3 + a
    assert b.op is None
    assert b.inputs == ()
    assert not b.requires_grad


# --------------------------------------------------------------------------------------------- eager and lazy


def test_eager_mode_computes_at_the_call():
    op = Counted()
    y = op(ndl.Tensor([1.0]))
    assert op.count == 1
    assert y.cached_data.tolist() == [2]
    y.realize_cached_data()
    y.numpy()
    assert op.count == 1


def test_lazy_mode_computes_when_asked_and_once(lazy):
    op = Counted()
    y = op(ndl.Tensor([1.0]))
    z = y + y
    assert y.cached_data is None
    assert op.count == 0
    assert z.numpy().tolist() == [4]
    assert y.numpy().tolist() == [2]
    assert op.count == 1


def test_lazy_mode_knows_shapes_and_finds_wrong_ones_at_the_call(lazy):
    x = ndl.Tensor(np.ones((2, 3), dtype="float32"))
    y = ndl.exp(x) @ x.transpose()
    assert (y.shape, y.dtype, y.cached_data) == ((2, 2), "float32", None)
    with pytest.raises(ShapeError):
        x @ x
    with pytest.raises(DTypeError, match="expected Tensors, got float"):
        ndl.add(x, 2.0)


def test_lazy_mode_lets_constants_go_once_computed(lazy):
    x = ndl.Tensor([1.0], requires_grad=False)
    y = x * 2 + x
    assert y.op is not None
    y.realize_cached_data()
    assert y.op is None
    assert y.inputs == ()


def test_lazy_gradients_are_the_eager_ones(lazy):
    x = ndl.Tensor([1.0, 2.0])
    y = (x**3).sum()
    y.backward()
    first = x.grad
    assert first.numpy().tolist() == [3, 12]
    first.backward()
    assert x.grad.numpy().tolist() == [6, 12]


def test_lazy_mode_detaches_and_rebinds(lazy):
    x = ndl.Tensor([1.0])
    y = x * 2
    assert y.detach().cached_data.tolist() == [2]
    x.data = (x * 5).data
    assert x.numpy().tolist() == [5]


# ------------------------------------------------------------------------------------------------------- depth


def chain(x, depth=DEPTH):
    y = x
    for _ in range(depth):
        y = y + 1
    return y


def test_deep_chain_forward_backward_and_deletion():
    x = ndl.Tensor([0.0])
    y = chain(x)
    assert float(y) == DEPTH
    assert len(find_topo_sort([y])) == DEPTH + 1
    y.backward()
    assert float(x.grad) == 1
    x.grad = None
    del y


def test_deep_chain_of_two_inputs():
    x = ndl.Tensor([1.0])
    y = x
    for _ in range(DEPTH // 2):
        y = y + x
    y.backward()
    assert float(x.grad) == DEPTH // 2 + 1


def test_deep_chain_in_lazy_mode(lazy):
    x = ndl.Tensor([0.0])
    y = chain(x, DEPTH // 4)
    assert float(y) == DEPTH // 4
    y.backward()
    assert float(x.grad) == 1


def test_deep_chain_differentiated_twice():
    x = ndl.Tensor([3.0])
    y = chain(x * x, DEPTH // 4)
    y.backward()
    x.grad.backward()
    assert float(x.grad) == 2


def test_deep_tuples():
    x = ndl.Tensor([0.0])
    pair = ndl.make_tuple(x, x)
    for _ in range(DEPTH // 10):
        pair = ndl.fused_add_scalars(pair[1], 1.0, 2.0)
    (pair[0] + pair[1]).backward()
    assert float(pair[1]) == 2 * (DEPTH // 10)
    assert float(x.grad) == 2


# ------------------------------------------------------------------------------------------ recording or not


def test_no_grad_as_block_and_decorator():
    x = ndl.Tensor([1.0])

    @ndl.no_grad()
    def double(x):
        return x * 2

    assert not double(x).requires_grad
    with ndl.no_grad():
        assert not (x * 2).requires_grad
        with ndl.enable_grad():
            assert (x * 2).requires_grad
        assert not (x * 2).requires_grad
    assert (x * 2).requires_grad


def test_no_grad_ends_with_an_error_and_nests():
    x = ndl.Tensor([1.0])
    off = ndl.no_grad()
    with pytest.raises(ZeroDivisionError), off, off:
        raise ZeroDivisionError
    assert (x * 2).requires_grad


def test_no_grad_is_for_one_thread():
    x = ndl.Tensor([1.0])
    found = []
    with ndl.no_grad():
        thread = threading.Thread(target=lambda: found.append((x * 2).requires_grad))
        thread.start()
        thread.join()
        assert not (x * 2).requires_grad
    assert found == [True]
