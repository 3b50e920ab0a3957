"""Labels are checked in each call of a compiled function: by the program itself where it changes nothing."""

import numpy as np
import pytest

import needle as ndl
from needle.errors import DataError
from needle.ops import indexing

CLASSES = 4
DTYPES = ["int8", "int32", "int64", "uint8", "uint64", "float16", "float32", "float64"]


def logits(rows=6):
    rng = np.random.default_rng(0)
    return ndl.Tensor(rng.standard_normal((rows, CLASSES)).astype(np.float32), requires_grad=False)


def labels(values, dtype):
    return ndl.Tensor(np.array(values, dtype), requires_grad=False)


def wrong_labels():
    for dtype in DTYPES:
        yield [0, 1, 2, 3, 4, 1], dtype
        if np.dtype(dtype).kind != "u":
            yield [0, 1, -1, 3, 4, 1], dtype
        if np.dtype(dtype).kind == "f":
            yield [0, 1.5, 1, 3, 0, 1], dtype
            yield [0, np.nan, 1, 3, 0, 1], dtype
            yield [0, 1, 1, 3, 0, np.inf], dtype
    yield [0, 1, 2, 3, 2**63, 1], "uint64"
    yield [0, 1, 2, 3, 2**64 - 1, 1], "uint64"
    yield [0, 1, 2, 3, 128, 1], "uint8"


@pytest.fixture
def counted(monkeypatch):
    calls = []
    check = indexing.check_class_labels
    monkeypatch.setattr(indexing, "check_class_labels", lambda *args: calls.append(args) or check(*args))
    return calls


@pytest.mark.parametrize("dtype", DTYPES)
def test_wrong_labels_are_the_same_error_as_eagerly_and_right_ones_are_none(dtype):
    x, loss = logits(), ndl.jit(ndl.cross_entropy)
    for values, of in wrong_labels():
        if of == dtype:
            messages = []
            for function in (ndl.cross_entropy, loss):
                with pytest.raises(DataError) as caught:
                    function(x, labels(values, of))
                messages.append(str(caught.value))
            assert messages[1] in messages[0]
    right = labels([0, 1, 2, 3, 3, 1], dtype)
    np.testing.assert_allclose(loss(x, right).numpy(), ndl.cross_entropy(x, right).numpy(), rtol=1e-6)


def test_a_function_that_changes_nothing_finds_wrong_labels_itself(counted):
    x, y = logits(), labels([0, 1, 2, 3, 3, 1], "int64")
    gradients = ndl.jit(ndl.value_and_grad(ndl.cross_entropy, [0]))
    for _ in range(3):
        gradients(x, y)
    assert not counted
    with pytest.raises(DataError, match=r"whole numbers from 0 to 3, got 5 at position \(2,\)"):
        gradients(x, labels([0, 1, 5, 3, 3, 1], "int64"))
    assert len(counted) == 1


def test_a_step_that_changes_state_looks_once_before_it_runs(counted):
    weight = ndl.Tensor(np.ones((3, CLASSES), np.float32))
    x = ndl.Tensor(np.ones((6, 3), np.float32), requires_grad=False)
    optimizer = ndl.optim.SGD([weight], lr=0.1)

    @ndl.jit
    def step(y):
        optimizer.reset_grad()
        loss = ndl.cross_entropy(x @ weight, y)
        loss.backward()
        optimizer.step()
        return loss

    step(labels([0, 1, 2, 3, 3, 1], "int64"))
    assert len(counted) == 1
    before, gradient = weight.numpy().copy(), weight.grad.numpy().copy()
    with pytest.raises(DataError):
        step(labels([0, 1, 2, 3, 3, 4], "int64"))
    np.testing.assert_array_equal(weight.numpy(), before)
    np.testing.assert_array_equal(weight.grad.numpy(), gradient)


def test_labels_of_two_classifiers_are_checked_for_each(counted):
    x, wide = logits(), ndl.Tensor(np.ones((6, 9), np.float32), requires_grad=False)
    both = ndl.jit(lambda y: ndl.cross_entropy(x, y) + ndl.cross_entropy(wide, y))
    both(labels([0, 1, 2, 3, 3, 1], "int64"))
    with pytest.raises(DataError, match="from 0 to 3, got 8"):
        both(labels([0, 1, 2, 3, 8, 1], "int64"))
    with pytest.raises(DataError, match="from 0 to 3, got 9"):
        both(labels([0, 1, 2, 3, 9, 1], "int64"))


def test_the_check_that_comes_first_eagerly_is_the_one_that_fails():
    layer = ndl.nn.Embedding(3, 2)
    with pytest.raises(DataError, match="ids are whole numbers from 0 to 2, got 3"):
        ndl.jit(layer)(labels([0, 3], "int64"))
