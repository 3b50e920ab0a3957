"""Attention layers: each position gathers values from others, weighted by how well its query fits their keys.

    attention(Q, K, V) = softmax(Q·Kᵀ / √D)·V

`MultiHeadAttention` and `AttentionLayer` compute just that, probabilities and all, and can tell the probabilities.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from needle.autograd import Tensor
from needle.device import Device
from needle.dtype import as_dtype, is_narrow
from needle.errors import ShapeError
from needle.nn.dropout import Dropout
from needle.nn.linear import Linear
from needle.nn.module import Module
from needle.nn.normalization import LayerNorm1d
from needle.ops import add, matmul, mul_scalar, permute, reshape, softmax, transpose

__all__ = ["AttentionLayer", "MultiHeadAttention"]


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """Give each head its part of the features: (B, T, H·D) becomes (B, H, T, D)."""
    batch, length, features = x.shape
    return permute(reshape(x, (batch, length, num_heads, features // num_heads)), (0, 2, 1, 3))


def merge_heads(x: Tensor) -> Tensor:
    """Put the heads' features side by side: (B, H, T, D) becomes (B, T, H·D)."""
    batch, num_heads, length, features = x.shape
    return reshape(permute(x, (0, 2, 1, 3)), (batch, length, num_heads * features))


class MultiHeadAttention(Module):
    """Attention of several heads, without projections: what happens between queries, keys and values.

    Formula::

        probs  = dropout(softmax(q·kᵀ / √D + mask))
        result = probs·v

    Shapes:
        q: (B, H, T, D), H heads.
        k, v: (B, H, S, D).
        result: (B, H, T, D), and probs: (B, H, T, S).

    Args:
        dropout: the probability that a weight is dropped in training.
        causal: whether a query sees only keys that are not later than it. The last query stands beside the last key.
        device: where the mask is made; the CPU where not given.
        dtype: of the mask.

    State:
        dropout: a `Dropout`; in training it draws one number for each of probs.

    Raises:
        ShapeError: q, k and v do not fit each other.

    Reference:
        A. Vaswani et al., "Attention is all you need", 2017, equation 1.

    Example:
        >>> import needle as ndl
        >>> from needle import nn
        >>> x = ndl.init.randn(2, 4, 5, 8)
        >>> result, probs = nn.MultiHeadAttention(causal=True)(x, x, x)
        >>> result.shape, probs.shape
        ((2, 4, 5, 8), (2, 4, 5, 5))
    """

    def __init__(
        self,
        *,
        dropout: float = 0.0,
        causal: bool = False,
        device: Device | None = None,
        dtype: DTypeLike = "float32",
    ) -> None:
        self.device = device
        self.dtype = dtype
        self.causal = causal
        self.dropout = Dropout(dropout)

    def create_causal_mask(self, i: int, j: int, device: Device | None = None) -> Tensor:
        """Return what is added to the logits of i queries and j keys: a huge negative number for what lies later.

        Shapes:
            result: (1, 1, i, j).
        """
        dtype = as_dtype(self.dtype)
        lowest = -65504.0 if is_narrow(dtype) else -float(np.finfo(np.float32).max)
        mask = np.triu(np.full((1, 1, i, j), lowest), j - i + 1)
        return Tensor(mask, device=device, dtype=dtype, requires_grad=False)

    def matmul(self, a: Tensor, b_transpose: Tensor) -> Tensor:
        """Multiply matrices, the second of which is given transposed: (…, T, D) and (…, S, D) to (…, T, S)."""
        return matmul(a, transpose(b_transpose))

    def softmax(self, logit: Tensor) -> Tensor:
        """Return the softmax over the last axis."""
        return softmax(logit)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the queries gather, and the weights that they gather with."""
        _check_attention(type(self).__name__, q.shape, k.shape, v.shape)
        logits = mul_scalar(self.matmul(q, k), 1 / math.sqrt(q.shape[-1]))
        if self.causal:
            logits = add(logits, self.create_causal_mask(q.shape[-2], k.shape[-2], q.device))
        probs = self.dropout(self.softmax(logits))
        return matmul(probs, v), probs

    def extra_repr(self) -> str:
        """Return what is not the default."""
        return "causal=True" if self.causal else ""


class AttentionLayer(Module):
    """Attention with projections: normalise, project, attend by heads, project back.

    Formula::

        result = attention(norm(q)·W_q, norm(k)·W_k, norm(v)·W_v)·W_out      each norm and each W of its own

    Shapes:
        q: (B, T, q_features).
        k: (B, S, k_features); q where not given.
        v: (B, S, v_features); k where not given.
        result: (B, T, out_features).

    Args:
        q_features: the number of features of a query.
        num_head: into how many heads the projected features are divided.
        dim_head: the number of features of a head.
        k_features: the number of features of a key; q_features where not given.
        v_features: the number of features of a value; q_features where not given.
        out_features: the number of features of the result; q_features where not given.
        dropout: the probability that an attention weight is dropped in training.
        causal: whether a position sees only those before it and itself.
        device: where the parameters live; the CPU where not given.
        dtype: of the parameters.

    State:
        prenorm_q, prenorm_k, prenorm_v: `LayerNorm1d`.
        q_projection, k_projection, v_projection: `Linear` to num_head · dim_head features, without bias.
        attn: `MultiHeadAttention`.
        out_projection: `Linear` from num_head · dim_head to out_features, without bias.

    Raises:
        ShapeError: an input has another shape.
    """

    def __init__(
        self,
        q_features: int,
        num_head: int,
        dim_head: int,
        *,
        k_features: int | None = None,
        v_features: int | None = None,
        out_features: int | None = None,
        dropout: float = 0.0,
        causal: bool = True,
        device: Device | None = None,
        dtype: DTypeLike = "float32",
    ) -> None:
        place: dict[str, Any] = {"device": device, "dtype": dtype}
        k_features = q_features if k_features is None else k_features
        v_features = q_features if v_features is None else v_features
        inner = num_head * dim_head
        self.num_head = num_head
        self.prenorm_q = LayerNorm1d(q_features, **place)
        self.prenorm_k = LayerNorm1d(k_features, **place)
        self.prenorm_v = LayerNorm1d(v_features, **place)
        self.q_projection = Linear(q_features, inner, bias=False, **place)
        self.k_projection = Linear(k_features, inner, bias=False, **place)
        self.v_projection = Linear(v_features, inner, bias=False, **place)
        self.attn = MultiHeadAttention(dropout=dropout, causal=causal, **place)
        self.out_projection = Linear(inner, q_features if out_features is None else out_features, bias=False, **place)

    def forward(self, q: Tensor, k: Tensor | None = None, v: Tensor | None = None) -> Tensor:
        """Return what each position of `q` gathers."""
        k = q if k is None else k
        v = k if v is None else v
        for name, x in (("q", q), ("k", k), ("v", v)):
            if x.ndim != 3:
                raise ShapeError(f"AttentionLayer: {name} is (B, T, features), got {x.shape}")
        result, _ = self.attn(
            split_heads(self.q_projection(self.prenorm_q(q)), self.num_head),  # (B, H, T, D)
            split_heads(self.k_projection(self.prenorm_k(k)), self.num_head),
            split_heads(self.v_projection(self.prenorm_v(v)), self.num_head),
        )
        return self.out_projection(merge_heads(result))

    def extra_repr(self) -> str:
        """Return the number of heads."""
        return f"{self.num_head} heads"


def _check_attention(layer: str, q: tuple[int, ...], k: tuple[int, ...], v: tuple[int, ...]) -> None:
    fits = len(q) == len(k) == len(v) == 4 and q[:2] == k[:2] == v[:2] and q[3] == k[3] and k[2] == v[2]
    if not fits:
        raise ShapeError(f"{layer}: q is (B, H, T, D), k and v are (B, H, S, D), got {q}, {k} and {v}")
