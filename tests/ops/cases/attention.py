"""Rows of needle.ops.attention."""

import math

import numpy as np

import needle as ndl
from needle import ops
from needle.errors import DataError, DTypeError, ShapeError
from needle.ops.attention import AttentionAdjoint

from ..op_cases import REAL, Domain, OpCase, Refusal


def attention(q, k, v, mask=None, causal=False, scale=None):
    """Attention written down as it is defined; a query that sees nothing gathers nothing."""
    logits = q @ np.swapaxes(k, -1, -2) * (1 / np.sqrt(q.shape[-1]) if scale is None else scale)
    if mask is not None:
        logits = np.where(mask, logits, -np.inf) if mask.dtype == bool else logits + mask
    if causal:
        t, s = logits.shape[-2:]
        logits = np.where(np.arange(t)[:, None] + s - t >= np.arange(s), logits, -np.inf)
    top = logits.max(axis=-1, keepdims=True, initial=-1e300)
    p = np.exp(logits - top)
    total = p.sum(axis=-1, keepdims=True)
    return np.where(total > 0, p @ v / np.where(total > 0, total, 1), 0)


def blocked(size, **options):
    """Return the operator with small blocks, so that short sequences have several."""
    return lambda *operands: ops.ScaledDotProductAttention(block=size, **options)(*operands)  # noqa: PLW0108


SHAPES = [
    ((2, 3), (2, 3), (2, 3)),
    ((2, 5, 4), (2, 7, 4), (2, 7, 3)),
    ((1, 2, 6, 2), (1, 2, 6, 2), (1, 2, 6, 1)),
    ((1, 1), (1, 1), (1, 1)),
    ((2, 0, 3), (2, 4, 3), (2, 4, 2)),
]
VISIBLE = np.random.default_rng(0).random((5, 7)) < 0.6
VISIBLE[3] = False  # a query that sees nothing
BIAS = np.where(VISIBLE, np.linspace(-1, 1, 35).reshape(5, 7), -np.inf)
X = ndl.Tensor(np.ones((2, 5, 4)))


SEED = np.array([7, 9], dtype="uint32")


def kept(lead, num_queries, num_keys, drop):
    """Which weights are kept, place by place, in Python's own whole numbers."""

    def mix(bits):
        bits = (bits ^ bits >> 16) * 0x7FEB352D % 2**32
        bits = (bits ^ bits >> 15) * 0x846CA68B % 2**32
        return bits ^ bits >> 16

    found = np.empty((math.prod(lead) * num_queries, num_keys), dtype=bool)
    for row, column in np.ndindex(*found.shape):
        bits = mix(mix(row ^ int(SEED[0])) ^ int(SEED[1]))
        found[row, column] = mix((bits + column * 0x9E3779B9) % 2**32) < (1 - drop) * 2**32
    return found.reshape(*lead, num_queries, num_keys)


def with_dropped(q, k, v, mask=None):
    """Attention with 0.3 of the weights dropped, written down as it is defined."""
    weights = attention(q, k, np.broadcast_to(np.eye(k.shape[-2]), (*k.shape[:-1], k.shape[-2])), mask)
    return weights * kept(q.shape[:-2], q.shape[-2], k.shape[-2], 0.3) / 0.7 @ v


def dropping(block):
    """Return the operator with dropout and this seed."""

    def call(q, k, v, *mask):
        seed = ndl.Tensor(SEED, requires_grad=False)
        return ops.ScaledDotProductAttention(block=block, dropout=0.3)(q, k, v, *mask, seed)

    return call


def masked(mask):
    return lambda q, k, v: ndl.scaled_dot_product_attention(q, k, v, ndl.Tensor(mask, requires_grad=False))


def slopes(g, q, k, v, causal=False):
    """The adjoints of q, k and v, from the weights as they are defined."""
    scale = 1 / np.sqrt(q.shape[-1])
    p = attention(q, k, np.broadcast_to(np.eye(k.shape[-2]), (*k.shape[:-1], k.shape[-2])), causal=causal)
    dp = g @ np.swapaxes(v, -1, -2)
    ds = p * (dp - (dp * p).sum(axis=-1, keepdims=True))
    return ds @ k * scale, np.swapaxes(ds, -1, -2) @ q * scale, np.swapaxes(p, -1, -2) @ g


CASES = [
    *(
        OpCase(
            f"attention_adjoint{'_in_blocks' * (block < 9)}{'_causal' * causal}",
            AttentionAdjoint,
            AttentionAdjoint(ops.ScaledDotProductAttention(causal=causal, block=block)),
            lambda g, q, k, v, causal=causal: slopes(g, q, k, v, causal),
            [((2, 5, 3), (2, 5, 4), (2, 7, 4), (2, 7, 3)), ((1, 2), (1, 1), (1, 1), (1, 2))],
            (REAL, REAL, REAL, REAL),
        )
        for causal, block in ((False, 9), (True, 9), (True, 2))
    ),
    OpCase(
        "attention",
        ops.ScaledDotProductAttention,
        ndl.scaled_dot_product_attention,
        attention,
        SHAPES,
        (REAL, REAL, REAL),
        refusals=[
            Refusal(
                lambda: ndl.scaled_dot_product_attention(X, X[:, :, :2], X),
                ShapeError,
                r"queries and keys differ in their features: q \(2, 5, 4\), k \(2, 5, 2\)",
            ),
            Refusal(
                lambda: ndl.scaled_dot_product_attention(X, X, X[:, :3]), ShapeError, "there is a value for each key"
            ),
            Refusal(
                lambda: ndl.scaled_dot_product_attention(X, X[:1], X[:1]), ShapeError, "the axes before the last two"
            ),
            Refusal(
                lambda: ndl.scaled_dot_product_attention(X, X, X, dropout=1.0),
                DataError,
                r"the probability dropout is in \[0, 1\), got 1.0",
            ),
            Refusal(lambda: ndl.scaled_dot_product_attention(X[0, 0], X, X), ShapeError, r"q is \(…, length"),
            Refusal(
                lambda: ndl.scaled_dot_product_attention(X, X, X, ndl.Tensor(np.ones((5, 4), bool))),
                ShapeError,
                r"the mask, \(5, 4\), does not broadcast to the logits, \(2, 5, 5\)",
            ),
            Refusal(
                lambda: ndl.scaled_dot_product_attention(X, X, X, ndl.Tensor(np.ones((5, 5), int))),
                DTypeError,
                "a mask is made of booleans, or of numbers",
            ),
            Refusal(
                lambda: ndl.scaled_dot_product_attention(X, ndl.Tensor(np.ones((2, 5, 4), int)), X),
                DTypeError,
                "k is made of floating-point numbers, got int64",
            ),
        ],
    ),
    OpCase(
        "attention_causal",
        ops.ScaledDotProductAttention,
        lambda q, k, v: ndl.scaled_dot_product_attention(q, k, v, causal=True),
        lambda q, k, v: attention(q, k, v, causal=True),
        [*SHAPES[:4], ((2, 3), (5, 3), (5, 2)), ((5, 3), (2, 3), (2, 2))],
        (REAL, REAL, REAL),
    ),
    OpCase(
        "attention_scaled",
        ops.ScaledDotProductAttention,
        lambda q, k, v: ndl.scaled_dot_product_attention(q, k, v, scale=0.3),
        lambda q, k, v: attention(q, k, v, scale=0.3),
        SHAPES[:2],
        (REAL, REAL, REAL),
    ),
    OpCase(
        "attention_masked",
        ops.ScaledDotProductAttention,
        masked(VISIBLE),
        lambda q, k, v: attention(q, k, v, VISIBLE),
        SHAPES[1:2],
        (REAL, REAL, REAL),
    ),
    OpCase(
        "attention_biased",
        ops.ScaledDotProductAttention,
        masked(BIAS),
        lambda q, k, v: attention(q, k, v, BIAS),
        SHAPES[1:2],
        (REAL, REAL, REAL),
    ),
    *(
        OpCase(
            f"attention_in_blocks{'_causal' * causal}",
            ops.ScaledDotProductAttention,
            blocked(3, causal=causal),
            lambda q, k, v, causal=causal: attention(q, k, v, causal=causal),
            [
                ((2, 7, 2), (2, 7, 2), (2, 7, 3)),
                ((4, 2), (8, 2), (8, 1)),
                ((8, 2), (4, 2), (4, 1)),
                ((2, 2), (0, 2), (0, 3)),
            ],
            (REAL, REAL, Domain(-2, 2)),
        )
        for causal in (False, True)
    ),
    *(
        OpCase(
            f"attention_dropping_{block}",
            ops.ScaledDotProductAttention,
            dropping(block),
            with_dropped,
            [
                ((2, 5, 4), (2, 7, 4), (2, 7, 3)),
                ((2, 1, 2, 2), (2, 1, 3, 2), (2, 1, 3, 1)),
                ((2, 0, 3), (2, 4, 3), (2, 4, 2)),
            ],
            (REAL, REAL, REAL),
        )
        for block in (3, 512)
    ),
    *(
        OpCase(
            f"attention_learned_bias_{block}{'_dropping' * drops}",
            ops.ScaledDotProductAttention,
            dropping(block) if drops else blocked(block),
            with_dropped if drops else attention,
            [
                (*operands, bias)
                for operands in [((2, 3, 5, 2), (2, 3, 7, 2), (2, 3, 7, 1))]
                for bias in [(5, 7), (2, 3, 5, 7), (3, 1, 7), (2, 1, 5, 1), (7,), (1, 1), ()]
            ],
            (REAL, REAL, REAL, REAL),
        )
        for block, drops in ((3, False), (512, False), (3, True))
    ),
]
