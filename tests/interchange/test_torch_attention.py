"""Attention and transformer layers with PyTorch's weights give PyTorch's results, and the other way about."""

import numpy as np
import pytest

from needle import Tensor, nn
from needle.errors import CheckpointError
from needle.interchange import from_torch_state_dict, to_torch_state_dict

torch = pytest.importorskip("torch")
tnn = torch.nn

DOUBLE = {"dtype": "float64"}
DROPOUT_FREE = {"dropout": 0.0, "batch_first": True}


def attend(theirs, x, context=None):
    return theirs(x, *[x if context is None else context] * 2)[0]


class Encoder(nn.Module):
    """A row of layers under the names that PyTorch has for them."""

    def __init__(self):
        self.layers = [nn.TransformerEncoderLayer(8, 2, 12, **DOUBLE) for _ in range(2)]
        self.norm = nn.LayerNorm(8, **DOUBLE)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)


# name: (ours, theirs, how theirs is called, the shapes of the inputs)
PAIRS = {
    "attention": (
        lambda: nn.Attention(8, 2, **DOUBLE),
        lambda: tnn.MultiheadAttention(8, 2, batch_first=True),
        attend,
        [(3, 5, 8)],
    ),
    "attention to another sequence": (
        lambda: nn.Attention(8, 4, **DOUBLE),
        lambda: tnn.MultiheadAttention(8, 4, batch_first=True),
        attend,
        [(3, 5, 8), (3, 7, 8)],
    ),
    "attention without bias": (
        lambda: nn.Attention(6, 3, bias=False, **DOUBLE),
        lambda: tnn.MultiheadAttention(6, 3, bias=False, batch_first=True),
        attend,
        [(2, 4, 6)],
    ),
    "attention to other features": (
        lambda: nn.Attention(8, 2, context_features=5, **DOUBLE),
        lambda: tnn.MultiheadAttention(8, 2, kdim=5, vdim=5, batch_first=True),
        attend,
        [(2, 4, 8), (2, 3, 5)],
    ),
    "attention to other features without bias": (
        lambda: nn.Attention(8, 2, context_features=5, bias=False, **DOUBLE),
        lambda: tnn.MultiheadAttention(8, 2, kdim=5, vdim=5, bias=False, batch_first=True),
        attend,
        [(2, 4, 8), (2, 3, 5)],
    ),
    "encoder layer": (
        lambda: nn.TransformerEncoderLayer(8, 2, 12, **DOUBLE),
        lambda: tnn.TransformerEncoderLayer(8, 2, 12, **DROPOUT_FREE),
        lambda theirs, x: theirs(x),
        [(3, 5, 8)],
    ),
    "encoder layer with the norm first": (
        lambda: nn.TransformerEncoderLayer(8, 2, 12, norm_first=True, activation="gelu", **DOUBLE),
        lambda: tnn.TransformerEncoderLayer(8, 2, 12, norm_first=True, activation="gelu", **DROPOUT_FREE),
        lambda theirs, x: theirs(x),
        [(3, 5, 8)],
    ),
    "decoder layer": (
        lambda: nn.TransformerDecoderLayer(8, 2, 12, **DOUBLE),
        lambda: tnn.TransformerDecoderLayer(8, 2, 12, **DROPOUT_FREE),
        lambda theirs, x, context: theirs(x, context, tgt_mask=causal_mask(x), tgt_is_causal=True),
        [(3, 5, 8), (3, 7, 8)],
    ),
    "decoder layer with the norm first": (
        lambda: nn.TransformerDecoderLayer(8, 2, 12, norm_first=True, **DOUBLE),
        lambda: tnn.TransformerDecoderLayer(8, 2, 12, norm_first=True, **DROPOUT_FREE),
        lambda theirs, x, context: theirs(x, context, tgt_mask=causal_mask(x), tgt_is_causal=True),
        [(3, 5, 8), (3, 7, 8)],
    ),
    "encoder": (
        Encoder,
        lambda: tnn.TransformerEncoder(
            tnn.TransformerEncoderLayer(8, 2, 12, **DROPOUT_FREE), 2, tnn.LayerNorm(8), enable_nested_tensor=False
        ),
        lambda theirs, x: theirs(x),
        [(3, 5, 8)],
    ),
}


def causal_mask(x):
    return tnn.Transformer.generate_square_subsequent_mask(x.shape[1], dtype=x.dtype)


def make_pair(name):
    ours, theirs, call, shapes = PAIRS[name]
    generator = np.random.default_rng(1)
    theirs = theirs().double().eval()
    for one in theirs.parameters():  # biases and norms begin as zeros and ones, which would hide an exchange
        one.data = torch.from_numpy(generator.normal(size=one.shape) / 2)
    return ours().eval(), theirs, call, [generator.normal(size=shape) for shape in shapes]


def check_same_results(ours, theirs, call, inputs):
    with torch.no_grad():
        expected = call(theirs, *(torch.from_numpy(x) for x in inputs)).numpy()
    result = ours(*(Tensor(x) for x in inputs)).numpy()
    assert result.dtype == expected.dtype == np.float64
    np.testing.assert_allclose(result, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", PAIRS)
def test_a_layer_with_torchs_state_gives_torchs_results(name):
    ours, theirs, call, inputs = make_pair(name)
    assert from_torch_state_dict(ours, theirs.state_dict()) == ([], [])
    check_same_results(ours, theirs, call, inputs)


@pytest.mark.parametrize("name", PAIRS)
def test_torchs_layer_with_our_state_gives_our_results(name):
    ours, theirs, call, inputs = make_pair(name)
    for tensor in ours.parameters():
        tensor.cached_data = np.random.default_rng(2).normal(size=tensor.shape) / 2
    theirs.load_state_dict({name: torch.from_numpy(array) for name, array in to_torch_state_dict(ours).items()})
    check_same_results(ours, theirs, call, inputs)


@pytest.mark.parametrize("name", PAIRS)
def test_there_and_back_is_the_same_bit_for_bit(name):
    one, other = PAIRS[name][0](), PAIRS[name][0]()
    from_torch_state_dict(other, to_torch_state_dict(one))
    for path, array in one.state_dict().items():
        np.testing.assert_array_equal(other.state_dict()[path], array)


def test_a_class_that_calls_attentions_parts_as_we_do_is_loaded():
    ours = nn.Attention(4, 2)
    theirs = tnn.ModuleDict({"query": tnn.Linear(4, 4), "key_value": tnn.Linear(4, 8), "output": tnn.Linear(4, 4)})
    from_torch_state_dict(ours, theirs.state_dict())
    for name in ("query", "key_value", "output"):
        np.testing.assert_array_equal(getattr(ours, name).weight.numpy(), theirs[name].weight.detach().numpy().T)


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.TransformerEncoderLayer(8, 2, rotary=nn.RotaryPositions(4)),
        lambda: nn.TransformerLayer(8, 2, 4, 8),
    ],
)
def test_what_torch_has_no_layer_for_keeps_its_names(make):
    one, other = make(), make()
    state = to_torch_state_dict(one)
    assert set(state) == {name.replace("feed_forward.modules", "feed_forward") for name in one.state_dict()}
    from_torch_state_dict(other, state)
    for path, array in one.state_dict().items():
        np.testing.assert_array_equal(other.state_dict()[path], array)


@pytest.mark.parametrize(
    ("ours", "theirs", "reason"),
    [
        (
            lambda: nn.Attention(8, 2, rotary=nn.RotaryPositions(4)),
            lambda: tnn.MultiheadAttention(8, 2),
            "in_proj_weight is of a MultiheadAttention .* without rotary positions",
        ),
        (
            lambda: nn.AttentionLayer(8, 2, 4),
            lambda: tnn.MultiheadAttention(8, 2),
            r"in_proj_weight is of .* not to nn\.AttentionLayer",
        ),
        (
            lambda: nn.TransformerLayer(8, 2, 4, 8),
            lambda: tnn.TransformerEncoderLayer(8, 2, 8),
            r"self_attn\.in_proj_weight is of .* not to nn\.AttentionLayer",
        ),
        (
            lambda: nn.Attention(8, 2, context_features=5),
            lambda: tnn.MultiheadAttention(8, 2),
            "it maps to nn.Attention without context_features",
        ),
        (
            lambda: nn.Attention(8, 2),
            lambda: tnn.MultiheadAttention(8, 2, kdim=5, vdim=5),
            "q_proj_weight is of a MultiheadAttention with kdim and vdim",
        ),
        (
            lambda: nn.Attention(8, 2, context_features=5),
            lambda: tnn.MultiheadAttention(8, 2, kdim=5, vdim=6),
            r"k_proj_weight \(8, 5\) and v_proj_weight \(8, 6\) take different features",
        ),
        (
            lambda: nn.Attention(8, 2),
            lambda: tnn.MultiheadAttention(8, 2, add_bias_kv=True),
            "bias_k is of a MultiheadAttention with add_bias_kv: nn.Attention has no learned key and value",
        ),
        (
            lambda: nn.Attention(8, 2, bias=False),
            lambda: tnn.MultiheadAttention(8, 2),
            r"in_proj_bias is of a MultiheadAttention with biases",
        ),
        (
            lambda: nn.TransformerEncoderLayer(8, 2, 12),
            lambda: tnn.TransformerEncoderLayer(8, 2, 12, bias=False),
            r"self_attn\.in_proj_bias is not there, .* Needle's transformer layers always have them",
        ),
        (
            lambda: nn.TransformerEncoderLayer(8, 2, 12),
            lambda: tnn.TransformerDecoderLayer(8, 2, 12),
            r"multihead_attn\.in_proj_weight is of a TransformerDecoderLayer",
        ),
        (
            lambda: nn.TransformerDecoderLayer(8, 2, 12),
            lambda: tnn.TransformerEncoderLayer(8, 2, 12),
            r"missing: cross_attention\.query\.weight",
        ),
    ],
)
def test_a_layer_of_another_structure_is_told_with_the_reason(ours, theirs, reason):
    ours = ours()
    before = ours.state_dict()
    with pytest.raises(CheckpointError, match=reason):
        from_torch_state_dict(ours, theirs().state_dict())
    for name, array in before.items():
        np.testing.assert_array_equal(ours.state_dict()[name], array)


def test_projections_of_another_size_are_told_part_by_part():
    with pytest.raises(CheckpointError) as caught:
        from_torch_state_dict(nn.Attention(8, 2), tnn.MultiheadAttention(6, 2).state_dict())
    assert "misshapen: query.weight is float32 (8, 8), got float32 (6, 6)" in str(caught.value)
    assert "misshapen: key_value.weight is float32 (8, 16), got float32 (6, 12)" in str(caught.value)


def test_half_of_a_pair_is_missing():
    layer = nn.Attention(8, 2, context_features=5)
    state = to_torch_state_dict(layer)
    del state["v_proj_weight"]
    assert from_torch_state_dict(layer, state, strict=False).missing == ["key_value.weight"]


def test_a_number_in_the_place_of_a_matrix_is_told():
    state = to_torch_state_dict(nn.Attention(8, 2)) | {"in_proj_weight": np.array(1.0)}
    with pytest.raises(CheckpointError, match=r"misshapen: query\.weight"):
        from_torch_state_dict(nn.Attention(8, 2), state)
