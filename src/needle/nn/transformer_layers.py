"""Layers of transformers as the field builds them: attention with projections and a cache, encoder, decoder."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from numpy.typing import DTypeLike

from needle.autograd import Tensor
from needle.device import Device
from needle.errors import DTypeError, SettingError, ShapeError
from needle.nn.attention import merge_heads, split_heads
from needle.nn.container import Identity
from needle.nn.dropout import Dropout
from needle.nn.linear import Linear
from needle.nn.module import Module
from needle.nn.normalization import LayerNorm
from needle.nn.positions import RotaryPositions
from needle.ops import (
    concatenate,
    gelu,
    permute,
    relu,
    reshape,
    scaled_dot_product_attention,
    silu,
    where,
)

__all__ = ["Attention", "ContextCache", "KeyValueCache", "TransformerDecoderLayer", "TransformerEncoderLayer"]

Activation = str | Callable[[Tensor], Tensor]

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": relu, "gelu": gelu, "silu": silu}


def dropout_layer(p: float) -> Module:
    """Return a dropout; one of nothing draws no random numbers either."""
    return Dropout(p) if p else Identity()


class ContextCache:
    """The keys and values of a context: computed once, for all positions that attend to it."""

    def __init__(self) -> None:
        self.context: Tensor | None = None
        self.known: tuple[Tensor, Tensor] | None = None

    def of(self, context: Tensor, project: Callable[[Tensor], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """Return what `project` makes of a context; of the one that was there before, what it made then."""
        if self.known is None or context is not self.context:
            self.context, self.known = context, project(context)
        return self.known


class KeyValueCache:
    """The keys and values of all positions so far, so that generating one more computes only its own.

    Without a cache the n-th token costs n times what the first one does.

    Attributes:
        keys, values: (B, H, S, D), None before the first positions came.
        context: a decoder layer's keys and values of the other sequence, which is the same Tensor for all positions.
    """

    def __init__(self) -> None:
        self.keys: Tensor | None = None
        self.values: Tensor | None = None
        self.context = ContextCache()

    @property
    def length(self) -> int:
        """How many positions are known: S."""
        return 0 if self.keys is None else self.keys.shape[-2]

    def extend(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Append those of new positions, (B, H, T, D) each; return all."""
        if self.keys is not None and self.values is not None:
            keys, values = (concatenate(pair, axis=-2) for pair in ((self.keys, keys), (self.values, values)))
        self.keys, self.values = keys, values
        return keys, values


class Attention(Module):
    """Attention of several heads, with projections: of a sequence to itself, or to another one.

    Formula, for each head with its part of the projected features::

        q = x·W_q + b_q,   k, v = the halves of c·W_kv + b_kv           c: the context, x where not given
        y = (softmax(q·kᵀ / √D + mask)·v of all heads side by side)·W_out + b_out

    Shapes:
        x: (B, T, num_features).
        context: (B, S, context_features).
        mask: broadcasts to (B, num_heads, T, S), so that (T, S) is for all alike, and (num_heads, T, S) for each head.
            Booleans, true where a position may be seen, or numbers that are added to the logits.
        key_mask: (B, S), booleans, true where there is something to see and not padding.
        cache: what was seen before, to which x is appended; context_cache: what was made of the same context before.
        result: (B, T, num_features); 0 before the last projection where a position sees nothing.

    Args:
        num_features: the number of features of x and of the result.
        num_heads: into how many heads they are divided.
        context_features: the number of features of a context; num_features where not given.
        bias: whether the projections have one.
        dropout: the probability that a weight is dropped in training.
        rotary: turns queries and keys by their positions.
        device: where the parameters live; the CPU where not given.
        dtype: of the parameters.

    State:
        query: Linear to num_features, made first; then `key_value` to 2·num_features; then `output`.

    Raises:
        ShapeError: features that are not divisible into heads, or when called shapes that do not fit.
        DTypeError: when called: a mask of whole numbers, or a key_mask of anything but booleans.

    Reference:
        A. Vaswani et al., "Attention is all you need", 2017, section 3.2.2.

    Example:
        >>> import needle as ndl
        >>> from needle import nn
        >>> nn.Attention(8, num_heads=2)(ndl.init.randn(3, 5, 8), causal=True).shape
        (3, 5, 8)
    """

    def __init__(
        self,
        num_features: int,
        num_heads: int,
        *,
        context_features: int | None = None,
        bias: bool = True,
        dropout: float = 0.0,
        rotary: RotaryPositions | None = None,
        device: Device | None = None,
        dtype: DTypeLike = "float32",
    ) -> None:
        if num_heads < 1 or num_features % num_heads:
            raise ShapeError(f"Attention: {num_features} features are not divisible into {num_heads} heads")
        place: dict[str, Any] = {"bias": bias, "device": device, "dtype": dtype}
        self.num_heads = num_heads
        self.query = Linear(num_features, num_features, **place)
        self.key_value = Linear(context_features or num_features, 2 * num_features, **place)
        self.output = Linear(num_features, num_features, **place)
        self.dropout = dropout_layer(dropout)
        self.rotary = rotary

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        mask: Tensor | None = None,
        *,
        key_mask: Tensor | None = None,
        causal: bool = False,
        cache: KeyValueCache | None = None,
        context_cache: ContextCache | None = None,
    ) -> Tensor:
        """Return what each position of x gathers from the context, and from the positions that a cache knows."""
        if x.ndim != 3:
            raise ShapeError(f"Attention: x is (B, T, features), got shape {x.shape}")
        q = split_heads(self.query(x), self.num_heads)
        source = x if context is None else context
        project = self._keys_and_values
        k, v = project(source) if context_cache is None else context_cache.of(source, project)
        start = 0 if cache is None else cache.length
        if self.rotary is not None:
            q, k = self.rotary(q, start), self.rotary(k, start)
        if cache is not None:
            k, v = cache.extend(k, v)
        mask = _with_padding(mask, key_mask, (k.shape[0], k.shape[2]))
        dropout = self.dropout.p if self.training and isinstance(self.dropout, Dropout) else 0.0
        return self.output(merge_heads(scaled_dot_product_attention(q, k, v, mask, causal=causal, dropout=dropout)))

    def _keys_and_values(self, context: Tensor) -> tuple[Tensor, Tensor]:
        both = self.key_value(context)
        batch, length, features = both.shape
        parts = reshape(both, (batch, length, 2, self.num_heads, features // 2 // self.num_heads))
        parts = permute(parts, (2, 0, 3, 1, 4))  # (2, B, H, S, D)
        return parts[0], parts[1]

    def extra_repr(self) -> str:
        """Return the number of heads."""
        return f"num_heads={self.num_heads}"


def _with_padding(mask: Tensor | None, key_mask: Tensor | None, shape: tuple[int, int]) -> Tensor | None:
    """Return a mask that also hides the keys (B, S) that are padding."""
    if key_mask is None:
        return mask
    if key_mask.dtype.kind != "b":
        raise DTypeError(f"Attention: key_mask is made of booleans, true where a key may be seen, got {key_mask.dtype}")
    if key_mask.shape != shape:
        raise ShapeError(f"Attention: key_mask is (B, S), here {shape}, got {key_mask.shape}")
    keys = reshape(key_mask, (shape[0], 1, 1, shape[1]))
    if mask is None:
        return keys
    return where(keys, mask, False if mask.dtype.kind == "b" else -math.inf)


class FeedForward(Module):
    """A hidden layer at each position: Linear, activation, dropout, Linear."""

    def __init__(self, num_features: int, hidden_size: int, activation: Activation, dropout: float, place: Any) -> None:
        if not callable(activation) and activation not in _ACTIVATIONS:
            raise SettingError(
                f"the activation is one of {', '.join(_ACTIVATIONS)}, or a function of a Tensor, got {activation!r}"
            )
        self.activation = activation
        self.hidden = Linear(num_features, hidden_size, **place)
        self.dropout = dropout_layer(dropout)
        self.output = Linear(hidden_size, num_features, **place)

    def forward(self, x: Tensor) -> Tensor:
        activation = self.activation if callable(self.activation) else _ACTIVATIONS[self.activation]
        return self.output(self.dropout(activation(self.hidden(x))))


class TransformerEncoderLayer(Module):
    """Attention of a sequence to itself, and a hidden layer at each position, each with a shortcut.

    Formula, with the norm first (`norm_first`), or after each shortcut as in the paper::

        x ← x + dropout(attention(norm(x)))           x ← norm(x + dropout(attention(x)))
        y = x + dropout(feed_forward(norm(x)))        y = norm(x + dropout(feed_forward(x)))

    Shapes:
        x, result: (B, T, num_features).
        mask, key_mask: those of `Attention`, which broadcast to (B, num_heads, T, T), and are (B, T).

    Args:
        num_features: the number of features of a position.
        num_heads: the number of heads of the attention.
        hidden_size: the width of the hidden layer; four times num_features where not given.
        dropout: the probability of each dropout, also of the attention's weights.
        activation: "relu", "gelu", "silu" or any function of a Tensor, such as a module.
        norm_first: whether the norm comes before each block: deep networks train without a warm-up then.
        eps: of the norms.
        rotary: turns queries and keys by their positions.
        device: where the parameters live; the CPU where not given.
        dtype: of the parameters.

    State:
        attention, attention_norm, feed_forward, feed_forward_norm.

    Raises:
        ShapeError: features that are not divisible into heads, or when called an x of another shape.
        SettingError: another activation.

    References:
        A. Vaswani et al., "Attention is all you need", 2017, section 3.1; R. Xiong et al., "On layer normalization in
        the transformer architecture", 2020.
    """

    def __init__(
        self,
        num_features: int,
        num_heads: int,
        hidden_size: int | None = None,
        *,
        dropout: float = 0.0,
        activation: Activation = "relu",
        norm_first: bool = False,
        eps: float = 1e-5,
        rotary: RotaryPositions | None = None,
        device: Device | None = None,
        dtype: DTypeLike = "float32",
    ) -> None:
        place: dict[str, Any] = {"device": device, "dtype": dtype}
        self.norm_first = norm_first
        self.attention = Attention(num_features, num_heads, dropout=dropout, rotary=rotary, **place)
        self.attention_norm = LayerNorm(num_features, eps, **place)
        self.feed_forward = FeedForward(num_features, hidden_size or 4 * num_features, activation, dropout, place)
        self.feed_forward_norm = LayerNorm(num_features, eps, **place)
        self.dropout = dropout_layer(dropout)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        *,
        key_mask: Tensor | None = None,
        causal: bool = False,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        """Return x after both blocks."""
        options: dict[str, Any] = {"mask": mask, "key_mask": key_mask, "causal": causal, "cache": cache}
        x = self._block(x, self.attention_norm, lambda x: self.attention(x, **options))
        return self._block(x, self.feed_forward_norm, self.feed_forward)

    def _block(self, x: Tensor, norm: Module, block: Callable[[Tensor], Tensor]) -> Tensor:
        if self.norm_first:
            return x + self.dropout(block(norm(x)))
        return norm(x + self.dropout(block(x)))


class TransformerDecoderLayer(TransformerEncoderLayer):
    """An encoder layer that also attends to another sequence, between its two blocks.

    Formula, with the norm first::

        x ← x + dropout(attention(norm(x)));   x ← x + dropout(cross_attention(norm(x), context));   y as in the encoder

    Shapes:
        x, result: (B, T, num_features).
        context: (B, S, num_features), what the encoder made of the other sequence.
        mask, key_mask: as in the encoder layer.
        context_mask, context_key_mask: the same for the context: broadcasts to (B, num_heads, T, S), and (B, S).

    Args: those of `TransformerEncoderLayer`.

    State:
        attention, attention_norm, feed_forward, feed_forward_norm; then cross_attention and cross_attention_norm.

    Reference:
        A. Vaswani et al., "Attention is all you need", 2017, section 3.1.
    """

    def __init__(self, num_features: int, num_heads: int, hidden_size: int | None = None, **options: Any) -> None:
        super().__init__(num_features, num_heads, hidden_size, **options)
        place = {name: options[name] for name in ("device", "dtype", "dropout") if name in options}
        self.cross_attention = Attention(num_features, num_heads, **place)
        place.pop("dropout", None)
        self.cross_attention_norm = LayerNorm(num_features, self.attention_norm.eps, **place)

    def forward(  # type: ignore[override]  # it needs a context
        self,
        x: Tensor,
        context: Tensor,
        mask: Tensor | None = None,
        context_mask: Tensor | None = None,
        *,
        key_mask: Tensor | None = None,
        context_key_mask: Tensor | None = None,
        causal: bool = True,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        """Return x after the three blocks."""
        options: dict[str, Any] = {"mask": mask, "key_mask": key_mask, "causal": causal, "cache": cache}
        x = self._block(x, self.attention_norm, lambda x: self.attention(x, **options))
        other: dict[str, Any] = {"context": context, "mask": context_mask, "key_mask": context_key_mask}
        other["context_cache"] = None if cache is None else cache.context
        x = self._block(x, self.cross_attention_norm, lambda x: self.cross_attention(x, **other))
        return self._block(x, self.feed_forward_norm, self.feed_forward)
