"""Transformer layers, against plain NumPy formulas, compiled steps and PyTorch."""

import numpy as np
import pytest

import needle as ndl
from needle import nn, optim
from needle.errors import ShapeError

from .test_attention import attention_layer, layer_norm, linear, values, with_affine
from .test_draws import assert_draws


def transformer_layer(layer, x, is_causal=True):
    x = x + attention_layer(layer.attention, x, x, x, is_causal)
    norm, first, _, _, second, _ = layer.feed_forward
    return x + linear(second, np.maximum(linear(first, layer_norm(norm, x)), 0))


def linear_draws(*sizes):
    return [shape for i, o in sizes for shape in ((i, o), (o, 1))]


# --------------------------------------------------------------------------------------- the contract's transformer


@pytest.mark.parametrize("is_causal", [True, False])
def test_transformer_layer_is_its_formula(is_causal):
    layer = with_affine(nn.TransformerLayer(6, 2, 3, 7, causal=is_causal, dtype="float64").eval())
    x = values(3, 5, 6)
    expected = transformer_layer(layer, x, is_causal)
    np.testing.assert_allclose(layer(ndl.Tensor(x)).numpy(), expected, rtol=1e-9)
    np.testing.assert_allclose(ndl.jit(layer)(ndl.Tensor(x)).numpy(), expected, rtol=1e-9)


def test_transformer_layer_draws_its_parameters_in_the_contracts_order():
    layer, draws = assert_draws(
        lambda: nn.TransformerLayer(6, 2, 4, 7),
        lambda: [np.random.rand(*shape) for shape in ((6, 8),) * 3 + ((8, 6),) + tuple(linear_draws((6, 7), (7, 6)))],
    )
    linears = [module for _, module in layer.named_modules() if type(module) is nn.Linear]
    drawn = [parameter for module in linears for parameter in module.parameters()]
    for parameter, draw in zip(drawn, draws, strict=True):
        bound = np.sqrt(6 / len(draw))
        expected = (draw * 2 * bound - bound).astype("float32").reshape(parameter.shape)
        np.testing.assert_array_equal(parameter.numpy(), expected)


@pytest.mark.parametrize("p", [0.2, 0.0])
def test_transformer_layer_draws_its_masks_in_the_contracts_order(p):
    layer = nn.TransformerLayer(6, 2, 4, 7, dropout=p, dtype="float64")
    x = values(3, 5, 6)
    y, masks = assert_draws(
        lambda: layer(ndl.Tensor(x)),
        lambda: [np.random.rand(*shape) <= 1 - p for shape in ((3, 2, 5, 5), (3, 5, 6), (3, 5, 7), (3, 5, 6))],
    )
    attend = layer.attention
    attend.attn.dropout = lambda probs: probs * ndl.Tensor(masks[0] / (1 - p))
    h = x + attend(ndl.Tensor(x)).numpy() * masks[1] / (1 - p)
    norm, first, _, _, second, _ = layer.feed_forward
    hidden = np.maximum(linear(first, layer_norm(norm, h)), 0) * masks[2] / (1 - p)
    expected = h + linear(second, hidden) * masks[3] / (1 - p)
    np.testing.assert_allclose(y.numpy(), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize(("t", "batch"), [(5, 3), (1, 1), (8, 2)])
def test_transformer_adds_positions_and_applies_its_layers(t, batch, batch_first):
    model = nn.Transformer(
        6, 7, 2, num_head=2, dim_head=3, dtype="float64", batch_first=batch_first, sequence_len=8
    ).eval()
    x = values(batch, t, 6)
    expected = x + model.embedding.weight.numpy()[:t]
    for layer in model.layers:
        expected = transformer_layer(layer, expected)
    given, expected = (x, expected) if batch_first else (x.transpose(1, 0, 2), expected.transpose(1, 0, 2))
    for apply in (model, ndl.jit(model)):
        y, h = apply(ndl.Tensor(given))
        np.testing.assert_allclose(y.numpy(), expected, rtol=1e-9)
        np.testing.assert_array_equal(h.numpy(), np.zeros_like(expected))
    assert model(ndl.Tensor(given), h)[0].shape == given.shape


def test_transformer_draws_its_positions_first():
    model, (positions, draws) = assert_draws(
        lambda: nn.Transformer(4, 5, 1, num_head=1, dim_head=2, sequence_len=3),
        lambda: (
            np.random.randn(3, 4),
            [np.random.rand(*shape) for shape in ((4, 2),) * 3 + ((2, 4),) + tuple(linear_draws((4, 5), (5, 4)))],
        ),
    )
    np.testing.assert_array_equal(model.embedding.weight.numpy(), positions.astype("float32"))
    bound = np.sqrt(6 / 4)
    projection = model.layers[0].attention.q_projection
    np.testing.assert_array_equal(projection.weight.numpy(), (draws[0] * 2 * bound - bound).astype("float32"))
    default = nn.Transformer(8, 5, 1)
    assert default.embedding.weight.shape == (2048, 8)
    assert default.layers[0].attention.q_projection.weight.shape == (8, 8 * 32)


def test_transformer_sees_nothing_later_where_causal():
    model = nn.Transformer(4, 5, 2, num_head=2, dim_head=2, dtype="float64", sequence_len=6)
    x = values(6, 2, 4)
    changed = x.copy()
    changed[4:] += 1
    first, second = (model(ndl.Tensor(one))[0].numpy() for one in (x, changed))
    np.testing.assert_array_equal(first[:4], second[:4])
    assert (first[4:] != second[4:]).all()


def test_transformer_refuses_what_does_not_fit():
    model = nn.Transformer(4, 5, 1, num_head=1, dim_head=2, sequence_len=3)
    with pytest.raises(ShapeError, match=r"Transformer takes \(T, B, 4\), got \(2, 3, 5\)"):
        model(ndl.Tensor(values(2, 3, 5)))
    with pytest.raises(ShapeError, match=r"vectors for 3 positions \(sequence_len\), got 4"):
        model(ndl.Tensor(values(4, 1, 4)))


# ------------------------------------------------------------------------------------------- steps of training


def training_step(model, optimizer, wrap):
    loss_fn = nn.SoftmaxLoss()

    @wrap
    def step(x, y):
        optimizer.reset_grad()
        result = model(x)
        logits = result[0] if isinstance(result, tuple) else result
        loss = loss_fn(logits.reshape((-1, logits.shape[-1])), y)
        loss.backward()
        optimizer.step()
        return loss

    return step


def assert_steps_agree(make, inputs, labels, dtype="float32"):
    """Train eagerly and compiled, from the same seed, and compare the losses and the parameters."""
    results = []
    for wrap in (lambda fn: fn, ndl.jit):
        np.random.seed(2)
        model = make()
        step = training_step(model, optim.SGD(model.parameters(), lr=0.05, momentum=0.9), wrap)
        losses = [step(x, y).item() for x, y in zip(inputs, labels, strict=True)]
        results.append((losses, model.state_dict()))
    tolerance = 1e-9 if dtype == "float64" else 2e-4
    np.testing.assert_allclose(results[1][0], results[0][0], rtol=tolerance)
    for name, array in results[0][1].items():
        np.testing.assert_allclose(results[1][1][name], array, rtol=tolerance, atol=tolerance, err_msg=name)
    assert step.cache_info().traces == 1


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_compiled_training_of_a_transformer_is_the_eager_one(dtype):
    def make():
        return nn.Sequential(
            nn.Embedding(11, 6, dtype=dtype),
            nn.Transformer(6, 9, 2, num_head=2, dim_head=3, dropout=0.1, dtype=dtype, sequence_len=5),
        )

    rng = np.random.default_rng(0)
    inputs = [ndl.Tensor(rng.integers(0, 11, (5, 3)).astype("float32"), requires_grad=False) for _ in range(4)]
    labels = [ndl.Tensor(rng.integers(0, 6, 15), requires_grad=False) for _ in range(4)]
    assert_steps_agree(make, inputs, labels, dtype)
