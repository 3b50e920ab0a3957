"""The normalising layers against their formulas, written out with the axes that each averages over."""

import numpy as np
import pytest

import needle as ndl
from needle import nn
from needle.errors import AxisError, ShapeError
from needle.ops.normalization import Normalize, normalize, rms_normalize

from .differences import check_gradients

EPS = 1e-5


def normalized(x, axes, eps=EPS):
    mean, var = x.mean(axis=axes, keepdims=True), x.var(axis=axes, keepdims=True)
    return (x - mean) / np.sqrt(var + eps)


def values(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape) * 3 + 5


def channels(vector, ndim):
    return vector.reshape((1, -1) + (1,) * (ndim - 2))


def with_affine(layer, seed=1):
    """Give a layer a weight and a bias that are not the identity."""
    rng = np.random.default_rng(seed)
    for parameter in layer.parameters():
        parameter.data = ndl.Tensor(rng.standard_normal(parameter.shape), dtype=parameter.dtype)
    return layer


# ---------------------------------------------------------------------------------------------- the operators


@pytest.mark.parametrize(
    ("shape", "axes"), [((4, 3), 0), ((4, 3), (0,)), ((4, 3), -1), ((2, 3, 4), (0, 2)), ((2, 3, 2, 2), (2, 3))]
)
def test_normalize_and_its_derivatives(shape, axes):
    x = values(*shape)
    numpy_axes = axes if isinstance(axes, tuple) else (axes,)
    np.testing.assert_allclose(normalize(ndl.Tensor(x), axes).numpy(), normalized(x, numpy_axes), rtol=1e-10)
    check_gradients(lambda t: normalize(t, axes), x)


@pytest.mark.parametrize(("shape", "axes"), [((4, 3), -1), ((2, 3, 4), (1, 2))])
def test_rms_normalize_and_its_derivatives(shape, axes):
    x = values(*shape)
    expected = x / np.sqrt((x**2).mean(axis=axes, keepdims=True) + 0.1)
    np.testing.assert_allclose(rms_normalize(ndl.Tensor(x), axes, 0.1).numpy(), expected, rtol=1e-10)
    check_gradients(lambda t: rms_normalize(t, axes, 0.1), x)


def test_normalize_can_be_differentiated_three_times():
    x = ndl.Tensor(values(3, 2))
    one = (normalize(x, 0) ** 3).sum()
    one.backward()
    (x.grad * x.grad).sum().backward()
    second = x.grad
    (second * second).sum().backward()
    assert np.isfinite(x.grad.numpy()).all()
    assert x.grad.numpy().any()


def test_one_operator_normalises_several_tensors():
    op = Normalize(0)
    arrays = [values(4, 2), values(4, 2, seed=1), values(6, 2, seed=2)]
    leaves = [ndl.Tensor(array) for array in arrays]
    results = [op(leaf) for leaf in leaves]
    (results[0] ** 2 * results[1] + (results[2] ** 3).sum(0)).sum().backward()
    reference = [ndl.Tensor(array) for array in arrays]
    one, two, three = (normalize(leaf, 0) for leaf in reference)
    (one**2 * two + (three**3).sum(0)).sum().backward()
    for leaf, other in zip(leaves, reference, strict=True):
        np.testing.assert_allclose(leaf.grad.numpy(), other.grad.numpy(), rtol=1e-12)


def test_normalize_of_equal_elements_is_zero():
    x = ndl.Tensor(np.full((3, 2), 7.0))
    y = normalize(x, 0)
    assert not y.numpy().any()
    y.sum().backward()
    assert np.isfinite(x.grad.numpy()).all()


def test_normalize_of_large_elements_in_sixteen_bits_is_computed_wider():
    x = np.array([[60000.0, 20000.0]], dtype="float16")
    np.testing.assert_allclose(normalize(ndl.Tensor(x), 1).numpy(), [[1, -1]], rtol=1e-3)


def test_normalize_takes_integers():
    np.testing.assert_allclose(normalize(ndl.Tensor([1, 3]), 0, 0.0).numpy(), [-1, 1])


def test_normalize_needs_elements_and_axes_that_are_there():
    with pytest.raises(ShapeError, match=r"normalize: no elements to average along axes \(0,\) of shape \(0, 3\)"):
        normalize(ndl.Tensor(np.ones((0, 3))), 0)
    with pytest.raises(AxisError, match="axis 2 is out of range for 2 axes"):
        normalize(ndl.Tensor(np.ones((2, 3))), 2)


def test_normalize_works_in_lazy_mode(monkeypatch):
    monkeypatch.setattr(ndl.autograd, "LAZY_MODE", True)
    x = values(4, 3)
    y = nn.LayerNorm1d(3, dtype="float64")(ndl.Tensor(x))
    assert y.cached_data is None
    assert y.shape == (4, 3)
    np.testing.assert_allclose(y.numpy(), normalized(x, 1), rtol=1e-10)


# --------------------------------------------------------------------------------------------------- batch norm


BATCH = [
    (nn.BatchNorm1d, (6, 3)),
    (nn.BatchNorm1d, (4, 3, 5)),
    (nn.BatchNorm2d, (2, 3, 4, 2)),
    (nn.BatchNorm3d, (2, 3, 2, 1, 4)),
]


@pytest.mark.parametrize(("layer_type", "shape"), BATCH)
def test_batch_norm_trains_by_the_batch_and_keeps_averages(layer_type, shape):
    layer = with_affine(layer_type(3, eps=1e-3, momentum=0.2, dtype="float64"))
    axes = tuple(axis for axis in range(len(shape)) if axis != 1)
    weight, bias = channels(layer.weight.numpy(), len(shape)), channels(layer.bias.numpy(), len(shape))
    mean, var = np.zeros(3), np.ones(3)
    for seed in range(3):
        x = values(*shape, seed=seed)
        np.testing.assert_allclose(
            layer(ndl.Tensor(x)).numpy(), normalized(x, axes, 1e-3) * weight + bias, rtol=1e-9, atol=1e-12
        )
        mean, var = 0.8 * mean + 0.2 * x.mean(axis=axes), 0.8 * var + 0.2 * x.var(axis=axes)
        np.testing.assert_allclose(layer.running_mean.numpy(), mean, rtol=1e-12)
        np.testing.assert_allclose(layer.running_var.numpy(), var, rtol=1e-12)
    x = values(*shape, seed=9)
    expected = (x - channels(mean, len(shape))) / np.sqrt(channels(var, len(shape)) + 1e-3) * weight + bias
    layer.eval()
    np.testing.assert_allclose(layer(ndl.Tensor(x)).numpy(), expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(layer.running_mean.numpy(), mean)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("layer_type", "shape"), BATCH)
def test_batch_norm_derivatives_by_input_weight_and_bias(layer_type, shape, training):
    layer = layer_type(3, dtype="float64").train(training)

    def apply(x, weight, bias):
        layer.weight, layer.bias = weight, bias
        return layer(x)

    check_gradients(apply, values(*shape), values(3, seed=1), values(3, seed=2))


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_agrees_with_torch(training):
    torch = pytest.importorskip("torch")
    ours, theirs = nn.BatchNorm2d(3, dtype="float64").train(training), torch.nn.BatchNorm2d(3).double()
    theirs.train(training)
    x = values(4, 3, 2, 5)
    t, u = ndl.Tensor(x), torch.tensor(x, requires_grad=True)
    y, z = ours(t), theirs(u)
    g = values(*x.shape, seed=4)
    y.backward(ndl.Tensor(g))
    z.backward(torch.tensor(g))
    np.testing.assert_allclose(y.numpy(), z.detach().numpy(), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(t.grad.numpy(), u.grad.numpy(), rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(ours.weight.grad.numpy(), theirs.weight.grad.numpy(), rtol=1e-9)
    np.testing.assert_allclose(ours.running_mean.numpy(), theirs.running_mean.numpy(), rtol=1e-12)


def test_batch_norm_state_is_as_the_contract_has_it():
    layer = nn.BatchNorm1d(4)
    assert [name for name in vars(layer) if isinstance(vars(layer)[name], ndl.Tensor)] == [
        "weight",
        "bias",
        "running_mean",
        "running_var",
    ]
    assert layer.parameters() == [layer.weight, layer.bias]
    for tensor, value in ((layer.weight, 1), (layer.bias, 0), (layer.running_mean, 0), (layer.running_var, 1)):
        np.testing.assert_array_equal(tensor.numpy(), np.full(4, value))
        assert tensor.dtype == "float32"
    layer(ndl.Tensor(values(5, 4), dtype="float32"))
    for buffer in (layer.running_mean, layer.running_var):
        assert not isinstance(buffer, nn.Parameter)
        assert not buffer.requires_grad
        assert buffer.op is None
        assert buffer.dtype == "float32"


def test_batch_norm_uses_replaced_tensors():
    layer = nn.BatchNorm1d(2, dtype="float64")
    layer.weight.data = ndl.Tensor([2.0, 3.0])
    layer.bias.data = ndl.Tensor([10.0, 20.0])
    layer.running_mean = ndl.Tensor([1.0, 1.0])
    layer.running_var = ndl.Tensor([4.0, 4.0])
    x = values(5, 2)
    np.testing.assert_allclose(layer(ndl.Tensor(x)).numpy(), normalized(x, 0) * [2, 3] + [10, 20], rtol=1e-9)
    np.testing.assert_allclose(layer.running_mean.numpy(), 0.9 + 0.1 * x.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(layer.running_var.numpy(), 3.6 + 0.1 * x.var(axis=0), rtol=1e-12)


def test_batch_norm_leaves_an_array_that_the_user_holds_alone():
    layer = nn.BatchNorm1d(2)
    held = layer.running_mean.cached_data
    layer(ndl.Tensor(values(5, 2), dtype="float32"))
    assert not held.any()
    assert layer.running_mean.numpy().any()


def test_batch_norm_of_one_sample_gives_the_bias():
    layer = with_affine(nn.BatchNorm1d(3))
    y = layer(ndl.Tensor(values(1, 3), dtype="float32"))
    np.testing.assert_allclose(y.numpy()[0], layer.bias.numpy(), rtol=1e-6)
    np.testing.assert_allclose(layer.running_var.numpy(), [0.9] * 3, rtol=1e-6)


def test_batch_norm_tracks_sixteen_bit_inputs():
    layer = nn.BatchNorm1d(2, dtype="float16")
    x = values(50, 2).astype("float16")
    layer(ndl.Tensor(x))
    assert layer.running_mean.dtype == "float16"
    np.testing.assert_allclose(layer.running_mean.numpy(), 0.1 * x.astype("float64").mean(axis=0), rtol=1e-3)


def test_batch_norm_refuses_other_shapes():
    with pytest.raises(ShapeError, match=r"BatchNorm1d of 3 channels takes \(B, 3\) or \(B, 3, L\), got \(4, 1\)"):
        nn.BatchNorm1d(3)(ndl.Tensor(values(4, 1)))
    with pytest.raises(ShapeError, match=r"BatchNorm2d of 3 channels takes \(B, 3, H, W\), got \(4, 3\)"):
        nn.BatchNorm2d(3)(ndl.Tensor(values(4, 3)))
    with pytest.raises(ShapeError, match=r"no elements to average along axes \(0,\) of shape \(0, 3\)"):
        nn.BatchNorm1d(3)(ndl.Tensor(np.ones((0, 3))))
    with pytest.raises(ShapeError, match=r"BatchNorm1d: there must be at least one channel, got dim = 0"):
        nn.BatchNorm1d(0)


def test_a_batch_norm_that_fails_keeps_its_state():
    layer = nn.BatchNorm1d(3)
    for shape in ((0, 3), (4, 2)):
        with pytest.raises(ShapeError):
            layer(ndl.Tensor(np.ones(shape)))
    assert not layer.running_mean.numpy().any()


# ------------------------------------------------------------------------------------- instance, group, layer, RMS


@pytest.mark.parametrize(
    ("layer_type", "shape"),
    [(nn.InstanceNorm1d, (2, 3, 5)), (nn.InstanceNorm2d, (2, 3, 4, 2)), (nn.InstanceNorm3d, (2, 3, 2, 1, 4))],
)
def test_instance_norm_averages_over_positions(layer_type, shape):
    x = values(*shape)
    axes = tuple(range(2, len(shape)))
    plain = layer_type(3)
    assert plain.parameters() == []
    assert plain.buffers() == []
    np.testing.assert_allclose(plain(ndl.Tensor(x)).numpy(), normalized(x, axes), rtol=1e-9)
    np.testing.assert_allclose(plain.eval()(ndl.Tensor(x)).numpy(), normalized(x, axes), rtol=1e-9)
    layer = with_affine(layer_type(3, affine=True, dtype="float64"))
    expected = normalized(x, axes) * channels(layer.weight.numpy(), x.ndim) + channels(layer.bias.numpy(), x.ndim)
    np.testing.assert_allclose(layer(ndl.Tensor(x)).numpy(), expected, rtol=1e-9)
    check_gradients(layer, x)


def test_instance_norm_keeps_averages_over_the_samples_where_asked():
    layer = nn.InstanceNorm1d(3, track_running_stats=True, dtype="float64")
    x = values(4, 3, 5)
    layer(ndl.Tensor(x))
    mean, var = 0.1 * x.mean(axis=2).mean(axis=0), 0.9 + 0.1 * x.var(axis=2).mean(axis=0)
    np.testing.assert_allclose(layer.running_mean.numpy(), mean, rtol=1e-12)
    np.testing.assert_allclose(layer.running_var.numpy(), var, rtol=1e-12)
    expected = (x - channels(mean, 3)) / np.sqrt(channels(var, 3) + EPS)
    np.testing.assert_allclose(layer.eval()(ndl.Tensor(x)).numpy(), expected, rtol=1e-9)


def test_instance_norm_refuses_other_shapes():
    with pytest.raises(ShapeError, match=r"InstanceNorm1d of 3 channels takes \(B, 3, L\), got \(4, 3\)"):
        nn.InstanceNorm1d(3)(ndl.Tensor(values(4, 3)))


GROUPS = [(1, (3, 4)), (2, (3, 4)), (1, (2, 4, 3)), (2, (2, 4, 3)), (4, (2, 4, 3)), (2, (2, 4, 3, 2))]


@pytest.mark.parametrize(("groups", "shape"), GROUPS)
def test_group_norm_averages_over_groups_of_channels(groups, shape):
    layer = with_affine(nn.GroupNorm(groups, 4, dtype="float64"))
    x = values(*shape)
    grouped = normalized(x.reshape(shape[0], groups, -1), 2).reshape(shape)
    expected = grouped * channels(layer.weight.numpy(), x.ndim) + channels(layer.bias.numpy(), x.ndim)
    np.testing.assert_allclose(layer(ndl.Tensor(x)).numpy(), expected, rtol=1e-8)
    check_gradients(layer, x)


def test_group_norm_refuses_what_does_not_divide():
    for groups, number in ((3, 4), (0, 4), (8, 4)):
        with pytest.raises(ShapeError, match=f"GroupNorm: {groups} groups do not divide {number} channels"):
            nn.GroupNorm(groups, number)
    with pytest.raises(ShapeError, match=r"GroupNorm takes \(B, 4, …\), got \(2, 3\)"):
        nn.GroupNorm(2, 4)(ndl.Tensor(values(2, 3)))


@pytest.mark.parametrize(
    ("normalized_shape", "shape"),
    [(3, (4, 3)), (3, (3,)), ((3,), (2, 4, 3)), ((4, 3), (2, 4, 3)), ([2, 4, 3], (2, 4, 3))],
)
def test_layer_norm_averages_over_the_last_axes(normalized_shape, shape):
    layer = with_affine(nn.LayerNorm(normalized_shape, dtype="float64"))
    last = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    assert layer.weight.shape == layer.bias.shape == last
    x = values(*shape)
    axes = tuple(range(-len(last), 0))
    expected = normalized(x, axes) * layer.weight.numpy() + layer.bias.numpy()
    np.testing.assert_allclose(layer(ndl.Tensor(x)).numpy(), expected, rtol=1e-9)
    check_gradients(layer, x)
    scale = np.sqrt((x**2).mean(axis=axes, keepdims=True) + EPS)
    rms = with_affine(nn.RMSNorm(normalized_shape, dtype="float64"))
    np.testing.assert_allclose(rms(ndl.Tensor(x)).numpy(), x / scale * rms.weight.numpy(), rtol=1e-9)
    check_gradients(rms, x)


def test_layer_norm_1d_is_layer_norm_of_one_axis():
    x = values(5, 3)
    layer = nn.LayerNorm1d(3)
    assert layer.weight.shape == layer.bias.shape == (3,)
    np.testing.assert_array_equal(layer.weight.numpy(), np.ones(3))
    np.testing.assert_array_equal(layer.bias.numpy(), np.zeros(3))
    np.testing.assert_allclose(layer(ndl.Tensor(x)).numpy(), normalized(x, 1), rtol=1e-6)


def test_norms_without_affine_have_no_parameters():
    for layer in (nn.LayerNorm(3, affine=False), nn.RMSNorm(3, affine=False)):
        assert layer.parameters() == []
    x = values(5, 3)
    np.testing.assert_allclose(nn.LayerNorm(3, affine=False)(ndl.Tensor(x)).numpy(), normalized(x, 1), rtol=1e-9)


def test_layer_norm_refuses_other_shapes():
    for layer in (nn.LayerNorm((2, 3)), nn.RMSNorm((2, 3))):
        name = type(layer).__name__
        for shape in ((3,), (3, 2), (2, 1)):
            with pytest.raises(ShapeError, match=rf"{name} takes \(…, 2, 3\), got \("):
                layer(ndl.Tensor(np.ones(shape)))
    for bad in ((), (0,), (2, -1)):
        with pytest.raises(ShapeError, match="normalized_shape has at least one axis and no empty one"):
            nn.LayerNorm(bad)


@pytest.mark.parametrize("name", ["LayerNorm", "RMSNorm", "GroupNorm"])
def test_sample_norms_agree_with_torch(name):
    torch = pytest.importorskip("torch")
    ours = getattr(nn, name)(*((2, 4) if name == "GroupNorm" else (4,)))
    theirs = getattr(torch.nn, name)(*((2, 4) if name == "GroupNorm" else (4,)), eps=EPS)
    x = values(3, 4).astype("float32")
    np.testing.assert_allclose(
        ours(ndl.Tensor(x)).numpy(), theirs(torch.tensor(x)).detach().numpy(), rtol=1e-4, atol=1e-5
    )
