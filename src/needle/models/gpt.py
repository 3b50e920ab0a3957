"""A generative transformer: what may come next, from all that came before."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from needle import init
from needle.autograd import Tensor, no_grad
from needle.device import Device
from needle.errors import SettingError, ShapeError
from needle.models.generation import Choose, Generator
from needle.nn import (
    Embedding,
    KeyValueCache,
    LayerNorm,
    LearnedPositions,
    Linear,
    Parameter,
    RotaryPositions,
    TransformerEncoderLayer,
)
from needle.nn.transformer_layers import dropout_layer
from needle.ops import matmul, transpose

__all__ = ["GPT"]


class GPT(Generator):
    """Vectors of tokens and of positions, a row of causal transformer layers, and a logit for each token to follow.

    Formula::

        x = dropout(embedding(ids) + positions);   x ← layer(x) for each layer;   logits = norm(x)·W

    Shapes:
        ids: (B, T), token ids of any integer or floating-point dtype.
        result: (B, T, vocab_size): row t tells what follows token t.

    Args:
        vocab_size: the number of tokens that are told apart.
        max_length: the longest T.
        num_layers: the number of layers.
        width: the number of features of a position.
        num_heads: the number of heads of each attention.
        dropout: the probability of each dropout.
        positions: "learned" vectors, or "rotary" (queries and keys are turned; no parameters).
        tied: whether W is the embedding's weight: fewer parameters, and what is learned of a token serves both ends.
        device: where the parameters live; the CPU where not given.
        dtype: of the parameters.

    State:
        embedding: drawn from N(0, 0.02²), first; positions; layers (norm first, GELU); norm; head, where not tied. The
        weights of what is added to a shortcut are drawn smaller by √(2·num_layers), as in the paper.

    Raises:
        SettingError: other positions.
        ShapeError: features that are not divisible into heads, or when called more positions than max_length.

    Reference:
        A. Radford et al., "Language models are unsupervised multitask learners", 2019, section 2.3.

    Example:
        >>> import needle as ndl
        >>> from needle.models import GPT
        >>> model = GPT(vocab_size=50, max_length=16, num_layers=2, width=32, num_heads=4)
        >>> model(ndl.init.zeros(3, 7)).shape
        (3, 7, 50)
    """

    def __init__(  # noqa: PLR0917  as the field lists them
        self,
        vocab_size: int,
        max_length: int,
        num_layers: int,
        width: int,
        num_heads: int,
        dropout: float = 0.0,
        *,
        positions: str = "learned",
        tied: bool = True,
        device: Device | None = None,
        dtype: DTypeLike = "float32",
    ) -> None:
        if positions not in ("learned", "rotary"):
            raise SettingError(f'GPT: positions are "learned" or "rotary", got {positions!r}')
        place: dict[str, Any] = {"device": device, "dtype": dtype}
        self.max_length = max_length
        self.embedding = Embedding(vocab_size, width, **place)
        self.embedding.weight = Parameter(init.randn(vocab_size, width, std=0.02, **place))
        self.positions = LearnedPositions(width, max_length, **place) if positions == "learned" else None
        rotary = RotaryPositions(width // num_heads, max_length, **place) if positions == "rotary" else None
        options: dict[str, Any] = {"dropout": dropout, "activation": "gelu", "norm_first": True, "rotary": rotary}
        self.dropout = dropout_layer(dropout)
        self.layers = [TransformerEncoderLayer(width, num_heads, **options, **place) for _ in range(num_layers)]
        self.norm = LayerNorm(width, **place)
        self.head = None if tied else Linear(width, vocab_size, bias=False, **place)
        for layer in self.layers:
            for linear in (layer.attention.output, layer.feed_forward.output):
                linear.weight = Parameter(linear.weight.detach() * (1 / math.sqrt(2 * num_layers)))

    def forward(self, ids: Tensor, caches: Sequence[KeyValueCache] | None = None) -> Tensor:
        """Return the logits of what follows each token; with a cache for each layer, of new tokens alone."""
        if ids.ndim != 2:
            raise ShapeError(f"GPT: takes token ids (B, T), got shape {ids.shape}")
        known = caches[0].length if caches else 0
        if known + ids.shape[1] > self.max_length:
            raise ShapeError(f"GPT: takes at most {self.max_length} positions, got {known + ids.shape[1]}")
        x = self.embedding(ids)
        x = self.dropout(x if self.positions is None else self.positions(x, known))
        for number, layer in enumerate(self.layers):
            x = layer(x, causal=True, cache=caches[number] if caches else None)
        x = self.norm(x)
        return matmul(x, transpose(self.embedding.weight)) if self.head is None else self.head(x)

    def stream(self, ids: NDArray[np.int64], count: int, choose: Choose) -> Iterator[NDArray[np.int64]]:
        """Yield what follows sequences (B, T), token by token: (B,) each. The mode is left as it is.

        Positions that were computed once are not computed again, until there are more than `max_length`: from there on
        the last ones are read anew for each token.
        """
        caches = [KeyValueCache() for _ in self.layers]
        new = ids[:, -self.max_length :]
        for _ in range(count):
            if caches[0].length + new.shape[1] > self.max_length:
                caches = [KeyValueCache() for _ in self.layers]
                new = ids[:, -self.max_length :]
            with no_grad():
                logits = self(Tensor(new, requires_grad=False), caches).numpy()[:, -1]
            new = np.asarray(choose(logits)).astype(np.int64).reshape(-1, 1)
            ids = np.concatenate([ids, new], axis=1)
            yield new[:, 0]
