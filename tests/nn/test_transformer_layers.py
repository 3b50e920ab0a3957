"""Positions, attention with projections, encoder and decoder layers: formulas in NumPy, PyTorch, and caches."""

import numpy as np
import pytest

import needle as ndl
from needle import nn, optim
from needle.errors import SettingError, ShapeError


def rows(*shape, seed=0, dtype="float64"):
    return ndl.Tensor(np.random.default_rng(seed).standard_normal(shape), dtype=dtype)


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


# ------------------------------------------------------------------------------------------------- positions


def test_sinusoidal_positions_are_waves():
    x = rows(2, 5, 6)
    y = nn.SinusoidalPositions(6, 10, dtype="float64")(x, start=3).numpy() - x.numpy()
    for t in range(5):
        for i in range(3):
            angle = (t + 3) / 10000 ** (2 * i / 6)
            np.testing.assert_allclose(y[:, t, 2 * i], np.sin(angle))
            np.testing.assert_allclose(y[:, t, 2 * i + 1], np.cos(angle))


def test_learned_positions_are_rows_of_a_parameter():
    layer, x = nn.LearnedPositions(4, 8, dtype="float64"), rows(3, 5, 4)
    np.testing.assert_allclose(layer(x, start=2).numpy(), x.numpy() + layer.weight.numpy()[2:7])
    layer(x, start=2).sum().backward()
    np.testing.assert_array_equal(layer.weight.grad.numpy().sum(axis=1) != 0, [0, 0, 1, 1, 1, 1, 1, 0])


def test_rotary_positions_turn_pairs():
    layer, x = nn.RotaryPositions(6, 16, dtype="float64"), rows(2, 3, 5, 6)
    y = layer(x, start=4).numpy()
    pairs = x.numpy()[..., :3] + 1j * x.numpy()[..., 3:]
    angles = np.arange(4, 9)[:, None] / 10000 ** (np.arange(3) / 3)
    turned = pairs * np.exp(1j * angles)
    np.testing.assert_allclose(y, np.concatenate([turned.real, turned.imag], axis=-1))


def test_rotary_products_depend_on_the_distance_alone():
    layer = nn.RotaryPositions(8, 64, dtype="float64")
    q, k = rows(1, 8), rows(1, 8, seed=1)
    products = [(layer(q, start=t) @ layer(k, start=t + 5).transpose()).item() for t in (0, 7, 40)]
    np.testing.assert_allclose(products, products[0])


def test_positions_that_are_not_known_are_told():
    for layer in (nn.SinusoidalPositions(4, 8), nn.LearnedPositions(4, 8), nn.RotaryPositions(4, 8)):
        with pytest.raises(ShapeError, match="knows positions 0 to 7, got 5 to 9: make max_length larger"):
            layer(rows(5, 4), start=5)
        with pytest.raises(ShapeError, match=r"takes \(…, T, 4\)"):
            layer(rows(5, 6))
    with pytest.raises(ShapeError, match="an even number of features"):
        nn.RotaryPositions(5)


# ------------------------------------------------------------------------------------------------- attention


def attend(layer, x, context, visible):
    """Attention of several heads, written out."""
    heads, width = layer.num_heads, x.shape[-1]
    q = x @ layer.query.weight.numpy() + layer.query.bias.numpy()
    k, v = np.split(context @ layer.key_value.weight.numpy() + layer.key_value.bias.numpy(), 2, axis=-1)
    results = []
    for part in np.split(np.arange(width), heads):
        logits = q[..., part] @ np.swapaxes(k[..., part], -1, -2) / np.sqrt(width // heads)
        results.append(softmax(np.where(visible, logits, -np.inf)) @ v[..., part])
    return np.concatenate(results, axis=-1) @ layer.output.weight.numpy() + layer.output.bias.numpy()


def test_attention_is_its_formula():
    layer = nn.Attention(6, 3, dtype="float64")
    x, other = rows(2, 5, 6), rows(2, 4, 6, seed=1)
    np.testing.assert_allclose(layer(x).numpy(), attend(layer, x.numpy(), x.numpy(), True))
    np.testing.assert_allclose(layer(x, other).numpy(), attend(layer, x.numpy(), other.numpy(), True))
    earlier = np.tri(5, dtype=bool)
    np.testing.assert_allclose(layer(x, causal=True).numpy(), attend(layer, x.numpy(), x.numpy(), earlier))
    padding = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], bool)
    found = layer(x, mask=ndl.Tensor(padding.reshape(2, 1, 1, 5), requires_grad=False)).numpy()
    np.testing.assert_allclose(found, attend(layer, x.numpy(), x.numpy(), padding[:, None, :]))


def test_attention_to_other_features():
    layer = nn.Attention(6, 2, context_features=10)
    assert layer(rows(2, 5, 6, dtype="float32"), rows(2, 4, 10, dtype="float32")).shape == (2, 5, 6)
    assert layer.key_value.weight.shape == (10, 12)


def test_dropped_weights_keep_their_mean():
    np.random.seed(0)
    layer, x = nn.Attention(8, 2, dropout=0.5, dtype="float64"), rows(1, 6, 8)
    mean = np.mean([layer(x, causal=True).numpy() for _ in range(3000)], axis=0)
    layer.eval()
    np.testing.assert_allclose(mean, layer(x, causal=True).numpy(), atol=0.06)


@pytest.mark.parametrize("rotary", [False, True])
def test_a_cache_gives_what_the_whole_sequence_gives(rotary):
    positions = nn.RotaryPositions(4, 16, dtype="float64") if rotary else None
    layer, x = nn.Attention(8, 2, rotary=positions, dtype="float64"), rows(2, 7, 8)
    whole = layer(x, causal=True).numpy()
    cache = nn.KeyValueCache()
    parts = [layer(part, causal=True, cache=cache).numpy() for part in (x[:, :3], x[:, 3:4], x[:, 4:])]
    np.testing.assert_allclose(np.concatenate(parts, axis=1), whole)
    assert cache.length == 7


# --------------------------------------------------------------------------------------- encoder and decoder


def copy_attention(ours, theirs, torch):
    weight = np.concatenate([ours.query.weight.numpy(), ours.key_value.weight.numpy()], axis=1).T
    bias = np.concatenate([ours.query.bias.numpy(), ours.key_value.bias.numpy()], axis=1)[0]
    theirs.in_proj_weight.copy_(torch.tensor(weight))
    theirs.in_proj_bias.copy_(torch.tensor(bias))
    copy_linear(ours.output, theirs.out_proj, torch)


def copy_linear(ours, theirs, torch):
    theirs.weight.copy_(torch.tensor(ours.weight.numpy().T.copy()))
    theirs.bias.copy_(torch.tensor(ours.bias.numpy()[0]))


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_layers_are_those_of_pytorch(norm_first, activation):
    torch = pytest.importorskip("torch")
    options = {"dropout": 0.0, "activation": activation, "norm_first": norm_first}
    x, context = rows(2, 5, 8), rows(2, 4, 8, seed=1)
    encoder = nn.TransformerEncoderLayer(8, 2, 12, **options, dtype="float64")
    decoder = nn.TransformerDecoderLayer(8, 2, 12, **options, dtype="float64")
    kinds = (torch.nn.TransformerEncoderLayer, torch.nn.TransformerDecoderLayer)
    theirs, their_decoder = (kind(8, 2, 12, **options, batch_first=True, dtype=torch.float64) for kind in kinds)
    with torch.no_grad():
        for ours, other in ((encoder, theirs), (decoder, their_decoder)):
            copy_attention(ours.attention, other.self_attn, torch)
            copy_linear(ours.feed_forward.hidden, other.linear1, torch)
            copy_linear(ours.feed_forward.output, other.linear2, torch)
        copy_attention(decoder.cross_attention, their_decoder.multihead_attn, torch)
        causal = torch.nn.Transformer.generate_square_subsequent_mask(5, dtype=torch.float64)
        expected = theirs(torch.tensor(x.numpy()), src_mask=causal).numpy()
        answer = their_decoder(torch.tensor(x.numpy()), torch.tensor(context.numpy()), tgt_mask=causal).numpy()
    np.testing.assert_allclose(encoder(x, causal=True).numpy(), expected, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(decoder(x, context).numpy(), answer, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("kind", [nn.TransformerEncoderLayer, nn.TransformerDecoderLayer])
def test_steps_are_the_same_compiled(kind):
    def losses(compiled):
        np.random.seed(1)
        layer = kind(8, 2, dropout=0.1, norm_first=True)
        optimizer = optim.Adam(layer.parameters(), lr=0.01)
        x, context = rows(3, 5, 8, dtype="float32"), rows(3, 4, 8, seed=2, dtype="float32")

        def step(x, context):
            optimizer.reset_grad()
            y = layer(x, context) if kind is nn.TransformerDecoderLayer else layer(x, causal=True)
            loss = ((y - 1) ** 2).mean()
            loss.backward()
            optimizer.step()
            return loss

        step = ndl.jit(step) if compiled else step
        return [step(x, context).item() for _ in range(5)]

    eager = losses(False)
    np.testing.assert_allclose(losses(True), eager, rtol=1e-4)
    assert eager[-1] < eager[0]


def test_wrong_settings_are_told():
    with pytest.raises(ShapeError, match="8 features are not divisible into 3 heads"):
        nn.Attention(8, 3)
    with pytest.raises(ShapeError, match=r"x is \(B, T, features\)"):
        nn.Attention(8, 2)(rows(5, 8, dtype="float32"))
    with pytest.raises(
        SettingError, match="the activation is one of relu, gelu, silu, or a function of a Tensor, got 'swish'"
    ):
        nn.TransformerEncoderLayer(8, 2, activation="swish")
