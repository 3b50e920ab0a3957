"""Transformers as the course builds them: attention and a small network at each position, in residual blocks."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from needle import init
from needle.autograd import Tensor
from needle.device import Device
from needle.errors import ShapeError
from needle.nn.activation import ReLU
from needle.nn.attention import AttentionLayer
from needle.nn.container import Sequential
from needle.nn.dropout import Dropout
from needle.nn.embedding import Embedding
from needle.nn.linear import Linear
from needle.nn.module import Module
from needle.nn.normalization import LayerNorm1d
from needle.ops import add, transpose

__all__ = ["Transformer", "TransformerLayer"]


class TransformerLayer(Module):
    """Attention, then a network of one hidden layer, each in a residual block that normalises first.

    Formula::

        x ← x + dropout(attention(x))
        y = x + dropout(Linear(dropout(ReLU(Linear(norm(x))))))

    Shapes:
        x, result: (B, T, q_features).

    Args:
        q_features: the number of features of a position.
        num_head: the number of heads.
        dim_head: the number of features of a head.
        hidden_size: the width of the hidden layer.
        dropout: the probability of each dropout, also of the attention weights.
        causal: whether a position sees only those before it and itself.
        device: where the parameters live; the CPU where not given.
        dtype: of the parameters.

    State:
        attention: `AttentionLayer`, made first, and its `attention_dropout`.
        feed_forward: LayerNorm1d, Linear, ReLU, Dropout, Linear, Dropout.

    Raises:
        ShapeError: x has another shape.

    Reference:
        R. Xiong et al., "On layer normalization in the transformer architecture", 2020, figure 1 b.
    """

    def __init__(
        self,
        q_features: int,
        num_head: int,
        dim_head: int,
        hidden_size: int,
        *,
        dropout: float = 0.0,
        causal: bool = True,
        device: Device | None = None,
        dtype: DTypeLike = "float32",
    ) -> None:
        place: dict[str, Any] = {"device": device, "dtype": dtype}
        self.attention = AttentionLayer(q_features, num_head, dim_head, dropout=dropout, causal=causal, **place)
        self.attention_dropout = Dropout(dropout)
        self.feed_forward = Sequential(
            LayerNorm1d(q_features, **place),
            Linear(q_features, hidden_size, **place),
            ReLU(),
            Dropout(dropout),
            Linear(hidden_size, q_features, **place),
            Dropout(dropout),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return x with what both blocks add to it."""
        x = add(x, self.attention_dropout(self.attention(x)))
        return add(x, self.feed_forward(x))


class Transformer(Module):
    """A row of layers (`TransformerLayer`) over vectors to which a learned vector of their position is added.

    It stands where a recurrent network may stand: it takes the same input and gives the same kind of result.

    Shapes:
        x: (T, B, embedding_size), or (B, T, embedding_size) where `batch_first`.
        result: the same, and a second Tensor of that shape: zeros, in the place of a recurrent network's state.

    Args:
        embedding_size: the number of features of a position.
        hidden_size: the width of the layers' hidden layers.
        num_layers: the number of layers.
        num_head: the number of heads.
        dim_head: the number of features of a head.
        dropout: the probability of each dropout.
        causal: whether a position sees only those before it and itself.
        device: where the parameters live; the CPU where not given.
        dtype: of the parameters.
        batch_first: whether the batch is the first axis of the input and not the second.
        sequence_len: the number of positions there are vectors for: the longest T.

    State:
        embedding: the positions' vectors, `Embedding(sequence_len, embedding_size)`, drawn first.
        layers: `Sequential` of the layers.

    Raises:
        ShapeError: the input has another shape, or more positions than sequence_len.

    Example:
        >>> import needle as ndl
        >>> from needle import nn
        >>> model = nn.Transformer(16, 32, num_layers=2, num_head=2, dim_head=8)
        >>> y, h = model(ndl.init.randn(5, 3, 16))
        >>> y.shape, h.shape
        ((5, 3, 16), (5, 3, 16))
    """

    def __init__(
        self,
        embedding_size: int,
        hidden_size: int,
        num_layers: int,
        *,
        num_head: int = 8,
        dim_head: int = 32,
        dropout: float = 0.0,
        causal: bool = True,
        device: Device | None = None,
        dtype: DTypeLike = "float32",
        batch_first: bool = False,
        sequence_len: int = 2048,
    ) -> None:
        options: dict[str, Any] = {"dropout": dropout, "causal": causal, "device": device, "dtype": dtype}
        self.embedding = Embedding(sequence_len, embedding_size, device=device, dtype=dtype)
        self.layers = Sequential(
            *(TransformerLayer(embedding_size, num_head, dim_head, hidden_size, **options) for _ in range(num_layers))
        )
        self.batch_first = batch_first

    def forward(self, x: Tensor, h: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the last layer's result, and zeros. `h` is taken as recurrent networks take it, and not used."""
        limit, features = self.embedding.weight.shape
        if x.ndim != 3 or x.shape[2] != features:
            axes = "B, T" if self.batch_first else "T, B"
            raise ShapeError(f"Transformer takes ({axes}, {features}), got {x.shape}")
        x = x if self.batch_first else transpose(x, (0, 1))  # (B, T, E)
        if x.shape[1] > limit:
            raise ShapeError(f"Transformer has vectors for {limit} positions (sequence_len), got {x.shape[1]}")
        positions = Tensor(np.arange(x.shape[1]), device=x.device, requires_grad=False)
        x = self.layers(add(x, self.embedding(positions)))
        x = x if self.batch_first else transpose(x, (0, 1))
        return x, init.zeros_like(x)
