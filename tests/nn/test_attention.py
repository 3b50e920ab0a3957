"""Embeddings and attention, against plain NumPy formulas, differences and PyTorch."""

import numpy as np
import pytest

import needle as ndl
from needle import nn
from needle.errors import DataError, ShapeError

from .differences import check_gradients
from .test_draws import assert_draws


def values(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def softmax(z):
    powers = np.exp(z - z.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def attention(q, k, v, visible=None):
    """The result and the probabilities, by the formula."""
    logits = q @ np.swapaxes(k, -1, -2) / np.sqrt(q.shape[-1])
    probs = softmax(logits if visible is None else np.where(visible, logits, -1e300))
    return probs @ v, probs


def causal(t, s):
    return np.arange(s) <= np.arange(t)[:, None] + s - t


def layer_norm(norm, x):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt(x.var(-1, keepdims=True) + norm.eps) * norm.weight.numpy() + norm.bias.numpy()


def linear(layer, x):
    return x @ layer.weight.numpy() + (0 if layer.bias is None else layer.bias.numpy())


def heads(x, count):
    return x.reshape(*x.shape[:2], count, -1).transpose(0, 2, 1, 3)


def joined(x):
    return x.transpose(0, 2, 1, 3).reshape(x.shape[0], x.shape[2], -1)


def attention_layer(layer, q, k, v, is_causal):
    projected = [
        heads(linear(project, layer_norm(norm, x)), layer.num_head)
        for project, norm, x in (
            (layer.q_projection, layer.prenorm_q, q),
            (layer.k_projection, layer.prenorm_k, k),
            (layer.v_projection, layer.prenorm_v, v),
        )
    ]
    visible = causal(q.shape[1], k.shape[1]) if is_causal else None
    return linear(layer.out_projection, joined(attention(*projected, visible)[0]))


def with_affine(module):
    """Give norms a weight and a bias that are not the identity."""
    for seed, (name, parameter) in enumerate(module.named_parameters()):
        if "norm" in name:
            parameter.data = ndl.Tensor(values(*parameter.shape, seed=seed), dtype=parameter.dtype)
    return module


# ------------------------------------------------------------------------------------------------- embedding


@pytest.mark.parametrize("dtype", ["int64", "uint8", "float32", "float64", "float16"])
@pytest.mark.parametrize("shape", [(), (1,), (5,), (3, 2), (2, 1, 3), (0, 2)])
def test_embedding_looks_rows_up_and_adds_gradients(shape, dtype):
    layer = nn.Embedding(4, 3, dtype="float64")
    ids = np.random.default_rng(0).integers(0, 4, shape)
    x = ndl.Tensor(ids, dtype=dtype)
    y = layer(x)
    np.testing.assert_array_equal(y.numpy(), layer.weight.numpy()[ids])
    g = values(*y.shape)
    y.backward(ndl.Tensor(g))
    expected = np.zeros((4, 3))
    np.add.at(expected, ids, g)
    np.testing.assert_allclose(layer.weight.grad.numpy(), expected, rtol=1e-12)
    assert x.grad is None


def test_embedding_draws_its_weight_from_the_normal_distribution():
    layer, draw = assert_draws(lambda: nn.Embedding(7, 5), lambda: np.random.randn(7, 5))
    np.testing.assert_array_equal(layer.weight.numpy(), draw.astype("float32"))
    assert type(layer.weight) is nn.Parameter
    assert repr(layer) == "Embedding(7 → 5) · 35 parameters"


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_embedding_keeps_its_dtype(dtype):
    layer = nn.Embedding(3, 2, device=ndl.cpu(), dtype=dtype)
    y = layer(ndl.Tensor([2.0, 0.0]))
    y.backward()
    assert y.dtype == layer.weight.grad.dtype == dtype
    np.testing.assert_array_equal(layer.weight.grad.numpy().astype("float64"), [[1, 1], [0, 0], [1, 1]])


def test_embedding_uses_a_replaced_weight():
    layer = nn.Embedding(2, 2)
    layer.weight = ndl.Tensor([[1.0, 2.0], [3.0, 4.0]])
    np.testing.assert_array_equal(layer(ndl.Tensor([1])).numpy(), [[3, 4]])


@pytest.mark.parametrize(("ids", "told"), [([[0, 3]], "3"), ([[0, -1]], "-1"), ([[0, 0.5]], "0.5"), ([[0, 1e9]], "1")])
def test_embedding_refuses_what_is_no_id(ids, told):
    layer = nn.Sequential(nn.Embedding(3, 2))
    message = rf"ids are whole numbers from 0 to 2, got {told}.* at position \(0, 1\)(.|\n)*in modules.0 \(Embedding\)"
    with pytest.raises(DataError, match=message):
        layer(ndl.Tensor(ids))
    with pytest.raises(DataError, match="ids are whole numbers from 0 to 2, got"):
        ndl.jit(layer)(ndl.Tensor(ids))


def test_embedding_of_nothing_is_refused():
    for sizes in ((0, 3), (3, 0)):
        with pytest.raises(ShapeError, match="Embedding: both sizes are 1 or more"):
            nn.Embedding(*sizes)


def test_embedding_derivatives_and_torch():
    ids = np.array([[0, 2, 2], [1, 0, 2]])
    check_gradients(lambda weight: ndl.embedding(ndl.Tensor(ids), weight), values(4, 3))
    torch = pytest.importorskip("torch")
    ours, theirs = ndl.Tensor(values(4, 3)), torch.tensor(values(4, 3), requires_grad=True)
    (ndl.embedding(ndl.Tensor(ids), ours) ** 2).sum().backward()
    (torch.nn.functional.embedding(torch.tensor(ids), theirs) ** 2).sum().backward()
    np.testing.assert_allclose(ours.grad.numpy(), theirs.grad.numpy(), rtol=1e-12)


# ------------------------------------------------------------------------- the contract's attention, with probabilities


@pytest.mark.parametrize("is_causal", [True, False])
@pytest.mark.parametrize(("t", "s"), [(1, 1), (5, 5), (3, 7), (1, 4)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_multi_head_attention_is_its_formula(t, s, is_causal, dtype):
    q, k, v = values(2, 3, t, 5), values(2, 3, s, 5, seed=1), values(2, 3, s, 5, seed=2)
    layer = nn.MultiHeadAttention(causal=is_causal, dtype=dtype).eval()
    tensors = [ndl.Tensor(x, dtype=dtype) for x in (q, k, v)]
    expected = attention(q, k, v, causal(t, s) if is_causal else None)
    tolerance = {"float64": 1e-10, "float32": 1e-5}[dtype]
    for found in (layer(*tensors), ndl.jit(layer)(*tensors)):
        for one, other in zip(found, expected, strict=True):
            assert one.dtype == dtype
            np.testing.assert_allclose(one.numpy(), other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("is_causal", [True, False])
def test_multi_head_attention_derivatives(is_causal):
    layer = nn.MultiHeadAttention(causal=is_causal, dtype="float64").eval()
    check_gradients(lambda q, k, v: layer(q, k, v)[0], *(values(1, 2, 3, 2, seed=seed) for seed in range(3)))


def test_multi_head_attention_has_the_attributes_and_methods_of_the_contract():
    layer = nn.MultiHeadAttention(dropout=0.25, causal=True, device=ndl.cpu(), dtype="float64")
    assert (layer.device, layer.dtype, layer.causal, layer.dropout.p) == (ndl.cpu(), "float64", True, 0.25)
    assert type(layer.dropout) is nn.Dropout
    a, b = values(2, 3, 4, 5), values(2, 3, 6, 5, seed=1)
    product = layer.matmul(ndl.Tensor(a), ndl.Tensor(b))
    np.testing.assert_allclose(product.numpy(), a @ b.transpose(0, 1, 3, 2), rtol=1e-10)
    np.testing.assert_allclose(layer.softmax(ndl.Tensor(a)).numpy(), softmax(a), rtol=1e-12)
    mask = layer.create_causal_mask(2, 3, ndl.cpu())
    np.testing.assert_array_equal(mask.numpy(), np.finfo("float32").max * np.array([[[[0, 0, -1], [0, 0, 0]]]]))
    assert not mask.requires_grad
    assert layer.parameters() == []


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_attention_in_sixteen_bits_is_finite(dtype):
    layer = nn.AttentionLayer(4, 2, 3, dtype=dtype)
    x = ndl.Tensor(values(2, 5, 4), dtype=dtype)
    y = layer(x)
    y.backward()
    assert y.dtype == x.grad.dtype == dtype
    assert np.isfinite(x.grad.numpy().astype("float64")).all()


def test_multi_head_attention_drops_probabilities_and_returns_them_dropped():
    q, k, v = values(2, 3, 4, 5), values(2, 3, 6, 5, seed=1), values(2, 3, 6, 5, seed=2)
    (result, probs), draw = assert_draws(
        lambda: nn.MultiHeadAttention(dropout=0.3, dtype="float64")(*map(ndl.Tensor, (q, k, v))),
        lambda: np.random.rand(2, 3, 4, 6),
    )
    expected = attention(q, k, v)[1] * (draw <= 0.7) / 0.7
    np.testing.assert_allclose(probs.numpy(), expected, rtol=1e-10)
    np.testing.assert_allclose(result.numpy(), expected @ v, rtol=1e-10, atol=1e-12)


def test_multi_head_attention_refuses_shapes_that_do_not_fit():
    x = ndl.Tensor(values(2, 3, 4, 5))
    for q, k, v in ((x, x, x[:, :, :3]), (x, x[:1], x[:1]), (x[..., :2], x, x), (x[0], x[0], x[0])):
        with pytest.raises(ShapeError, match=r"MultiHeadAttention: q is \(B, H, T, D\), k and v are \(B, H, S, D\)"):
            nn.MultiHeadAttention()(q, k, v)


# ----------------------------------------------------------------------------------------------- AttentionLayer


@pytest.mark.parametrize("is_causal", [True, False])
@pytest.mark.parametrize("t", [1, 5])
def test_attention_layer_of_itself_is_its_formula(t, is_causal):
    layer = with_affine(nn.AttentionLayer(6, 2, 3, causal=is_causal, dtype="float64"))
    x = values(3, t, 6)
    expected = attention_layer(layer, x, x, x, is_causal)
    np.testing.assert_allclose(layer(ndl.Tensor(x)).numpy(), expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(ndl.jit(layer)(ndl.Tensor(x)).numpy(), expected, rtol=1e-9, atol=1e-12)


def test_attention_layer_of_others_is_its_formula():
    layer = with_affine(
        nn.AttentionLayer(6, 2, 3, k_features=4, v_features=7, out_features=5, causal=False, dtype="float64")
    )
    q, k, v = values(3, 2, 6), values(3, 5, 4), values(3, 5, 7)
    expected = attention_layer(layer, q, k, v, False)
    assert expected.shape == (3, 2, 5)
    np.testing.assert_allclose(layer(*map(ndl.Tensor, (q, k, v))).numpy(), expected, rtol=1e-9)
    same = with_affine(nn.AttentionLayer(6, 2, 3, causal=False, dtype="float64"))
    q, k = values(3, 2, 6), values(3, 5, 6)
    expected = attention_layer(same, q, k, k, False)
    np.testing.assert_allclose(same(ndl.Tensor(q), ndl.Tensor(k)).numpy(), expected, rtol=1e-9)


def test_attention_layer_draws_and_names_its_parameters_in_the_contracts_order():
    layer, draws = assert_draws(
        lambda: nn.AttentionLayer(6, 2, 3, k_features=4, v_features=7, out_features=5),
        lambda: [np.random.rand(*shape) for shape in ((6, 6), (4, 6), (7, 6), (6, 5))],
    )
    projections = [layer.q_projection, layer.k_projection, layer.v_projection, layer.out_projection]
    for projection, draw in zip(projections, draws, strict=True):
        bound = np.sqrt(6 / len(draw))
        np.testing.assert_array_equal(projection.weight.numpy(), (draw * 2 * bound - bound).astype("float32"))
        assert projection.bias is None
    assert [name for name, _ in layer.named_parameters()] == [
        *(f"prenorm_{x}.{name}" for x in "qkv" for name in ("weight", "bias")),
        *(f"{x}_projection.weight" for x in ("q", "k", "v", "out")),
    ]
    assert type(layer.attn) is nn.MultiHeadAttention
    assert layer.attn.causal is True
    assert [type(norm) for norm in (layer.prenorm_q, layer.prenorm_k, layer.prenorm_v)] == [nn.LayerNorm1d] * 3


def test_attention_layer_derivatives():
    layer = nn.AttentionLayer(3, 2, 2, dtype="float64")

    def apply(x, weight):
        layer.k_projection.weight = weight
        return layer(x)

    check_gradients(apply, values(2, 3, 3), values(3, 4, seed=1))


def test_attention_layer_refuses_other_shapes():
    layer = nn.AttentionLayer(6, 2, 3)
    with pytest.raises(ShapeError, match=r"AttentionLayer: q is \(B, T, features\), got \(5, 6\)"):
        layer(ndl.Tensor(values(5, 6)))
    with pytest.raises(ShapeError, match=r"LayerNorm1d takes \(…, 6\), got \(2, 5, 4\)"):
        layer(ndl.Tensor(values(2, 5, 4)))
