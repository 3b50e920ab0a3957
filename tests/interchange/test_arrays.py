"""Arrays pass between libraries without a copy, and objects in memory are copied whole."""

import copy
import pickle
import subprocess
import sys

import numpy as np
import pytest

import needle as ndl
from needle import nn
from needle.errors import DeviceError, DTypeError, TraceError


def test_asarray_shares_memory_and_is_not_to_be_written_to():
    x = ndl.Tensor([[1.0, 2.0], [3.0, 4.0]])
    seen = np.asarray(x)
    assert np.shares_memory(seen, x.cached_data)
    assert x.cached_data.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        seen[0, 0] = 5.0


def test_array_copies_where_it_is_asked_to_or_must():
    x = ndl.Tensor([1.0, 2.0])
    for other in (np.array(x), np.asarray(x, dtype="float32")):
        assert not np.shares_memory(other, x.cached_data)
        other[0] = 5.0
    assert x.tolist() == [1.0, 2.0]
    assert np.shares_memory(np.array(x, copy=False), x.cached_data)
    with pytest.raises(ValueError, match="copy"):
        np.array(x, dtype="float32", copy=False)


def test_a_compiled_step_does_not_change_what_somebody_looks_at():
    w = nn.Parameter(np.ones(3, "float32"))
    opt = ndl.optim.SGD([w], lr=0.1)

    @ndl.jit
    def step():
        (w * w).sum().backward()
        opt.step()

    step()
    seen, theirs = np.asarray(w), np.from_dlpack(w)
    before = seen.copy()
    step()
    np.testing.assert_array_equal(seen, before)
    np.testing.assert_array_equal(theirs, before)
    assert not np.array_equal(w.numpy(), before)


def test_traced_values_are_not_given_away():
    for give in (np.asarray, np.from_dlpack):
        with pytest.raises(TraceError, match="the values as a NumPy array"):
            ndl.jit(lambda x, give=give: ndl.Tensor(give(x)))(ndl.Tensor([1.0]))


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "int8", "bool", "float16"])
def test_dlpack_shares_memory_with_numpy_both_ways(dtype):
    x = ndl.Tensor(np.arange(6).reshape(2, 3), dtype=dtype)
    theirs = np.from_dlpack(x)
    assert theirs.dtype == dtype
    assert np.shares_memory(theirs, x.cached_data)
    ours = ndl.from_dlpack(theirs)
    assert np.shares_memory(ours.cached_data, x.cached_data)
    assert not ours.requires_grad
    assert ndl.from_dlpack(theirs, copy=True).cached_data.base is not theirs


@pytest.mark.parametrize("shape", [(), (1,), (0, 3), (2, 3)])
def test_dlpack_shares_memory_with_torch_both_ways(shape):
    torch = pytest.importorskip("torch")
    theirs = torch.ones(shape)
    ours = ndl.from_dlpack(theirs, requires_grad=True)
    theirs.fill_(7)
    assert ours.requires_grad
    np.testing.assert_array_equal(ours.numpy(), np.full(shape, 7, "float32"))
    back = torch.from_dlpack(ndl.Tensor(np.ones(shape, "float32")))
    assert tuple(back.shape) == shape
    x = ndl.init.ones(2, 2)
    torch.from_dlpack(x).fill_(3)
    assert x.tolist() == [[3.0, 3.0], [3.0, 3.0]]


def test_a_transposed_array_of_torch_keeps_its_layout():
    torch = pytest.importorskip("torch")
    theirs = torch.arange(6.0).reshape(2, 3).T
    ours = ndl.from_dlpack(theirs)
    np.testing.assert_array_equal((ours @ ours.T).numpy(), (theirs @ theirs.T).numpy())
    np.testing.assert_array_equal(ndl.jit(lambda x: x @ x.T)(ours).numpy(), (theirs @ theirs.T).numpy())


def test_from_dlpack_tells_what_it_cannot_take():
    class OnGpu:
        def __dlpack__(self, **options):
            raise AssertionError("nobody asks")

        def __dlpack_device__(self):
            return 2, 0

    with pytest.raises(DTypeError, match="has __dlpack__, got list"):
        ndl.from_dlpack([1.0])
    with pytest.raises(DeviceError, match="not on the CPU"):
        ndl.from_dlpack(OnGpu())
    with pytest.raises(DTypeError):
        ndl.from_dlpack(np.ones(2, complex))


def pickled(value):
    return pickle.loads(pickle.dumps(value))  # noqa: S301  our own


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickled], ids=["copy", "deepcopy", "pickle"])
def test_tensors_are_copied_as_leaves(duplicate):
    t = ndl.Tensor([1.0, 2.0])
    (t * t).sum().backward()
    frozen = nn.Parameter([1.0], requires_grad=False)
    for value in (t, t * 2, t.grad, nn.Parameter([3.0]), frozen, nn.Buffer([4.0]), ndl.Tensor([1.5], dtype="bfloat16")):
        other = duplicate(value)
        assert other.is_leaf()
        assert (other.dtype, other.requires_grad) == (value.dtype, value.requires_grad)
        assert type(other) is (ndl.Tensor if value is t.grad else type(value))
        np.testing.assert_array_equal(other.numpy(), value.numpy())
        assert not np.shares_memory(other.cached_data, value.cached_data)
    several = duplicate(ndl.ops.make_tuple(t, t + 1))
    assert [one.tolist() for one in several] == [[1.0, 2.0], [2.0, 3.0]]


@pytest.mark.parametrize("duplicate", [copy.deepcopy, pickled], ids=["deepcopy", "pickle"])
def test_modules_are_copied_whole(duplicate):
    np.random.seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.LSTMCell(4, 2), nn.Linear(2, 2)).eval()
    model.tied = model[0].weight
    other = duplicate(model)
    assert str(other) == str(model)
    assert not other[1].training
    assert other.tied is other[0].weight
    for (name, one), (other_name, copied) in zip(model.named_parameters(), other.named_parameters(), strict=True):
        assert name == other_name
        assert one is not copied
        np.testing.assert_array_equal(one.numpy(), copied.numpy())
    other[0].weight.data = other[0].weight.data * 0
    assert np.any(model[0].weight.numpy())
    x = ndl.init.rand(2, 3)
    np.testing.assert_array_equal(duplicate(model)[2](model[1](model[0](x)))[0], model[2](model[1](model[0](x)))[0])


def test_einops_knows_tensors():
    einops = pytest.importorskip("einops")
    values = np.random.default_rng(0).normal(size=(2, 3, 4))
    x = ndl.Tensor(values)
    cases = [
        (einops.rearrange, "a b c -> (c a) b"),
        (einops.rearrange, "a (b d) c -> d a b c"),
        (einops.reduce, "a b c -> c", "mean"),
        (einops.reduce, "a b c -> a c", "max"),
        (einops.reduce, "a b c -> b", "min"),
        (einops.reduce, "a b c -> ", "sum"),
        (einops.reduce, "a b c -> b a", "prod"),
        (einops.repeat, "a b c -> a (b r) c"),
    ]
    for function, *pattern in cases:
        lengths = {"r": 3} if "r)" in pattern[0] else {"d": 3} if "d)" in pattern[0] else {}
        expected = function(values, *pattern, **lengths)
        np.testing.assert_allclose(function(x, *pattern, **lengths).numpy(), expected)
        compiled = ndl.jit(lambda x, f=function, p=pattern, n=lengths: f(x, *p, **n))
        np.testing.assert_allclose(compiled(x).numpy(), expected)
    np.testing.assert_allclose(
        einops.einsum(x, x, "a b c, d b c -> a d").numpy(), np.einsum("abc,dbc->ad", values, values)
    )
    packed, shapes = einops.pack([x, x[:, 0]], "a * c")
    assert packed.shape == (2, 4, 4)
    assert [one.shape for one in einops.unpack(packed, shapes, "a * c")] == [(2, 3, 4), (2, 4)]
    assert einops.rearrange([x, x], "n a b c -> a b c n").shape == (2, 3, 4, 2)
    assert einops.reduce(ndl.Tensor([[True, False]]), "a b -> a", "any").tolist() == [True]
    assert einops.reduce(ndl.Tensor([[True, False]]), "a b -> a", "all").tolist() == [False]
    assert einops.parse_shape(x, "a _ c") == {"a": 2, "c": 4}


def test_einops_is_differentiable():
    einops = pytest.importorskip("einops")
    x = ndl.Tensor(np.ones((2, 3)))
    weights = np.arange(6.0).reshape(3, 2)
    (einops.rearrange(x, "a b -> b a") * weights).sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), weights.T)


@pytest.mark.parametrize("order", ["needle, einops", "einops, needle", "einops.layers, needle"])
def test_einops_knows_tensors_in_either_order_of_imports(order):
    pytest.importorskip("einops")
    program = f"import {order}; import sys; print('einops' in sys.modules); import einops, needle; "
    program += "print(einops.rearrange(needle.Tensor([[1.0, 2.0]]), 'a b -> b a').shape)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.split("\n")[1] == "(2, 1)"
    alone = "import sys, needle; print('einops' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", alone], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"
