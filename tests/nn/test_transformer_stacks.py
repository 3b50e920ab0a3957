"""Encoders and decoders of several layers: PyTorch's answers under every mask, caches, and wrong input."""

import numpy as np
import pytest

import needle as ndl
from needle import nn, optim
from needle.errors import DTypeError, SettingError, ShapeError
from needle.interchange import from_torch_state_dict, to_torch_state_dict

T, S = 5, 4


def rows(*shape, seed=0, dtype="float64"):
    return ndl.Tensor(np.random.default_rng(seed).standard_normal(shape), dtype=dtype)


def constant(array):
    return ndl.Tensor(array, requires_grad=False)


HIDDEN = np.triu(np.ones((T, T), bool), 1)  # True hides in PyTorch
REAL = np.array([[True] * 5, [True] * 3 + [False] * 2])
CONTEXT_REAL = np.array([[True] * 3 + [False], [True] * 4])
BIAS = np.random.default_rng(3).standard_normal((T, T))

# What the encoder is called with, here and in PyTorch.
MASKS = {
    "none": ({}, {}),
    "boolean": ({"mask": ~HIDDEN}, {"mask": HIDDEN}),
    "additive": ({"mask": BIAS}, {"mask": BIAS}),
    "causal": ({"causal": True}, {"mask": HIDDEN, "is_causal": True}),
    "padding": ({"key_mask": REAL}, {"src_key_padding_mask": ~REAL}),
    "boolean, padding": ({"mask": ~HIDDEN, "key_mask": REAL}, {"mask": HIDDEN, "src_key_padding_mask": ~REAL}),
    "causal, padding": ({"causal": True, "key_mask": REAL}, {"mask": HIDDEN, "src_key_padding_mask": ~REAL}),
    "additive, padding": (
        {"mask": BIAS, "key_mask": REAL},
        {"mask": BIAS, "src_key_padding_mask": np.where(REAL, 0, -np.inf)},
    ),
}


def ours(options):
    return {name: constant(one) if isinstance(one, np.ndarray) else one for name, one in options.items()}


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("masks", MASKS)
def test_encoder_is_pytorchs(masks, norm_first):
    torch = pytest.importorskip("torch")
    layer = torch.nn.TransformerEncoderLayer(
        8, 2, 12, 0.0, "gelu", norm_first=norm_first, batch_first=True, dtype=torch.float64
    )
    norm = torch.nn.LayerNorm(8, dtype=torch.float64) if norm_first else None
    theirs = torch.nn.TransformerEncoder(layer, 3, norm, enable_nested_tensor=False)
    model = nn.TransformerEncoder(3, 8, 2, 12, activation="gelu", norm_first=norm_first, dtype="float64")
    theirs.load_state_dict({name: torch.from_numpy(one) for name, one in to_torch_state_dict(model).items()})
    own, other = MASKS[masks]
    x = rows(2, T, 8)
    their_x = torch.tensor(x.numpy(), requires_grad=True)
    expected = theirs(their_x, **{k: torch.tensor(v) if isinstance(v, np.ndarray) else v for k, v in other.items()})
    y = model(x, **ours(own))
    real = REAL if "key_mask" in own else np.ones_like(REAL)
    np.testing.assert_allclose(y.numpy()[real], expected.detach().numpy()[real], rtol=1e-7, atol=1e-9)
    (y * y * constant(real[..., None] * 1.0)).sum().backward()
    (expected * expected * torch.tensor(real[..., None])).sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), their_x.grad.numpy(), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("norm_first", [False, True])
def test_decoder_is_pytorchs(norm_first):
    torch = pytest.importorskip("torch")
    layer = torch.nn.TransformerDecoderLayer(
        8, 2, 12, 0.0, norm_first=norm_first, batch_first=True, dtype=torch.float64
    )
    theirs = torch.nn.TransformerDecoder(layer, 2, torch.nn.LayerNorm(8, dtype=torch.float64))
    model = nn.TransformerDecoder(2, 8, 2, 12, norm_first=norm_first, final_norm=True, dtype="float64")
    from_torch_state_dict(model, theirs.state_dict())
    x, context = rows(2, T, 8), rows(2, S, 8, seed=1)
    expected = theirs(
        *(torch.tensor(one.numpy()) for one in (x, context)),
        tgt_mask=torch.tensor(HIDDEN),
        memory_mask=torch.tensor(BIAS[:, :S]),
        tgt_key_padding_mask=torch.tensor(~REAL),
        memory_key_padding_mask=torch.tensor(np.where(CONTEXT_REAL, 0, -np.inf)),
    )
    y = model(
        x,
        context,
        context_mask=constant(BIAS[:, :S]),
        key_mask=constant(REAL),
        context_key_mask=constant(CONTEXT_REAL),
    )
    np.testing.assert_allclose(y.numpy()[REAL], expected.detach().numpy()[REAL], rtol=1e-7, atol=1e-9)


def test_layers_are_drawn_each_by_itself():
    encoder = nn.TransformerEncoder(2, 8, 2)
    first, second = (layer.attention.query.weight.numpy() for layer in encoder.layers)
    assert (first != second).any()
    assert encoder.norm is None
    assert nn.TransformerEncoder(2, 8, 2, norm_first=True).norm is not None
    assert nn.TransformerEncoder(2, 8, 2, norm_first=True, final_norm=False).norm is None


@pytest.mark.parametrize("kind", [nn.TransformerEncoder, nn.TransformerDecoder])
def test_caches_give_what_the_whole_sequence_gives(kind):
    model, x, context = kind(2, 8, 2, norm_first=True, dtype="float64"), rows(2, 7, 8), rows(2, 3, 8)
    others = (context,) if kind is nn.TransformerDecoder else ()
    whole = model(x, *others, causal=True).numpy()
    caches = model.new_caches()
    parts = [model(part, *others, causal=True, caches=caches).numpy() for part in (x[:, :4], x[:, 4:5], x[:, 5:])]
    np.testing.assert_allclose(np.concatenate(parts, axis=1), whole, rtol=1e-9)


def test_a_context_is_projected_once_for_all_positions():
    model, x, context = nn.TransformerDecoder(2, 8, 2, dtype="float64"), rows(2, 7, 8), rows(2, 3, 8)
    seen = []
    for layer in model.layers:
        layer.cross_attention.key_value.register_forward_hook(lambda module, args, result: seen.append(args[0]))
    caches = model.new_caches()
    for part in (x[:, :4], x[:, 4:5], x[:, 5:]):
        model(part, context, causal=True, caches=caches)
    assert [one is context for one in seen] == [True, True]


def test_another_context_is_not_answered_from_a_cache():
    layer, x = nn.TransformerDecoderLayer(8, 2, dtype="float64"), rows(2, 1, 8)
    first, second = rows(2, 3, 8), rows(2, 3, 8, seed=1)
    cache = nn.KeyValueCache()
    layer(x, first, cache=cache)
    cache.keys = cache.values = None
    np.testing.assert_array_equal(layer(x, second, cache=cache).numpy(), layer(x, second).numpy())


def test_padding_is_no_part_of_the_result_compiled_too():
    model = nn.TransformerEncoder(2, 8, 2, norm_first=True, dtype="float64")
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    real = constant(REAL)

    def step(x):
        optimizer.reset_grad()
        y = model(x, key_mask=real)
        (y * y * constant(REAL[..., None] * 1.0)).sum().backward()
        return y

    x = rows(2, T, 8)
    other = x.numpy().copy()
    other[~REAL] = 1e3
    results = [call(one).numpy()[REAL] for call in (step, ndl.jit(step)) for one in (x, ndl.Tensor(other))]
    for result in results[1:]:
        np.testing.assert_allclose(result, results[0], rtol=1e-9)


def test_any_function_activates():
    gelu = nn.TransformerEncoder(1, 8, 2, activation="gelu", dtype="float64")
    same = nn.TransformerEncoder(1, 8, 2, activation=nn.GELU(), dtype="float64")
    same.load_state_dict(gelu.state_dict())
    x = rows(2, T, 8)
    np.testing.assert_array_equal(same(x).numpy(), gelu(x).numpy())


def test_what_does_not_fit_is_told():
    model, x = nn.TransformerEncoder(2, 8, 2), rows(2, T, 8, dtype="float32")
    with pytest.raises(SettingError, match="num_layers is 1 or more, got 0"):
        nn.TransformerDecoder(0, 8, 2)
    with pytest.raises(SettingError, match="caches has one for each of the 2 layers, got 1"):
        model(x, caches=[nn.KeyValueCache()])
    with pytest.raises(DTypeError, match="key_mask is made of booleans, true where a key may be seen, got float64"):
        model(x, key_mask=constant(REAL * 1.0))
    with pytest.raises(ShapeError, match=r"key_mask is \(B, S\), here \(2, 5\), got \(5, 2\)"):
        model(x, key_mask=constant(REAL.T))
