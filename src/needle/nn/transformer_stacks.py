"""Encoders and decoders: several layers of a transformer, one after another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from needle.autograd import Tensor
from needle.errors import SettingError
from needle.nn.module import Module
from needle.nn.normalization import LayerNorm
from needle.nn.transformer_layers import KeyValueCache, TransformerDecoderLayer, TransformerEncoderLayer

__all__ = ["TransformerDecoder", "TransformerEncoder"]


class _Stack(Module):
    """What encoder and decoder share: layers, each drawn by itself, and a norm after the last one."""

    def __init__(self, layers: Sequence[TransformerEncoderLayer], final_norm: bool | None) -> None:
        if not layers:
            raise SettingError(f"{type(self).__name__}: num_layers is 1 or more, got 0")
        first = layers[0]
        weight = first.attention_norm.weight
        assert weight is not None
        place: dict[str, Any] = {"device": weight.device, "dtype": weight.dtype}
        wanted = first.norm_first if final_norm is None else final_norm
        self.layers = list(layers)
        self.norm = LayerNorm(weight.shape[0], first.attention_norm.eps, **place) if wanted else None

    def new_caches(self) -> list[KeyValueCache]:
        """Return an empty cache for each layer."""
        return [KeyValueCache() for _ in self.layers]

    def run(self, x: Tensor, caches: Sequence[KeyValueCache] | None, call: Any) -> Tensor:
        """Return what the layers and the norm make of x; `call` is given each layer, its input and its cache."""
        if caches is not None and len(caches) != len(self.layers):
            raise SettingError(
                f"{type(self).__name__}: caches has one for each of the {len(self.layers)} layers, got {len(caches)}: "
                "make them with new_caches()"
            )
        for number, layer in enumerate(self.layers):
            x = call(layer, x, None if caches is None else caches[number])
        return x if self.norm is None else self.norm(x)


class TransformerEncoder(_Stack):
    """Layers in which each position gathers from all others (`TransformerEncoderLayer`), and a norm.

    With `causal` it is what generates text, too: see `needle.models.GPT`.

    Shapes:
        x, result: (B, T, num_features).
        mask: broadcasts to (B, num_heads, T, T): booleans, true where a position may be seen, or
            numbers that are added to the logits.
        key_mask: (B, T), booleans, true where there is something to see and not padding.

    Args:
        num_layers: how many layers.
        num_features: the number of features of a position.
        num_heads: the number of heads of each attention.
        hidden_size: the width of the layers' hidden layers; four times num_features where not given.
        final_norm: whether a norm follows the last layer. Where not given, as `norm_first`: layers that normalise first
            leave a sum that nothing has normalised, the others do not.
        options: those of `TransformerEncoderLayer`: dropout, activation, norm_first, eps, rotary, device, dtype.

    State:
        layers: a list, each layer drawn by itself; norm: a LayerNorm or None.

    Raises:
        SettingError: no layers, or when called another number of caches.
        ShapeError: features that are not divisible into heads, or when called shapes that do not fit.

    Reference:
        A. Vaswani et al., "Attention is all you need", 2017, section 3.1.

    Example:
        >>> import needle as ndl
        >>> from needle import nn
        >>> encoder = nn.TransformerEncoder(2, num_features=8, num_heads=2, norm_first=True)
        >>> real = ndl.Tensor([[True] * 5, [True] * 3 + [False] * 2])
        >>> encoder(ndl.init.randn(2, 5, 8), key_mask=real).shape
        (2, 5, 8)
    """

    def __init__(
        self,
        num_layers: int,
        num_features: int,
        num_heads: int,
        hidden_size: int | None = None,
        *,
        final_norm: bool | None = None,
        **options: Any,
    ) -> None:
        layers = [TransformerEncoderLayer(num_features, num_heads, hidden_size, **options) for _ in range(num_layers)]
        super().__init__(layers, final_norm)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        *,
        key_mask: Tensor | None = None,
        causal: bool = False,
        caches: Sequence[KeyValueCache] | None = None,
    ) -> Tensor:
        """Return x after all layers; with a cache for each, of the new positions alone."""
        return self.run(
            x, caches, lambda layer, x, cache: layer(x, mask, key_mask=key_mask, causal=causal, cache=cache)
        )


class TransformerDecoder(_Stack):
    """Layers that gather from what came before and from another sequence (`TransformerDecoderLayer`), and a norm.

    Shapes:
        x, result: (B, T, num_features).
        context: (B, S, num_features), what an encoder made of the other sequence.
        mask: broadcasts to (B, num_heads, T, T); context_mask: to (B, num_heads, T, S).
        key_mask: (B, T); context_key_mask: (B, S), booleans, true where there is something to see and not padding.

    Args: those of `TransformerEncoder`.

    State:
        layers: a list, each layer drawn by itself; norm: a LayerNorm or None.

    Raises:
        SettingError: no layers, or when called another number of caches.
        ShapeError: features that are not divisible into heads, or when called shapes that do not fit.

    Reference:
        A. Vaswani et al., "Attention is all you need", 2017, section 3.1.

    Example:
        >>> import needle as ndl
        >>> from needle import nn
        >>> encoder, decoder = nn.TransformerEncoder(2, 8, 2), nn.TransformerDecoder(2, 8, 2)
        >>> context = encoder(ndl.init.randn(3, 7, 8))
        >>> decoder(ndl.init.randn(3, 5, 8), context).shape
        (3, 5, 8)
    """

    def __init__(
        self,
        num_layers: int,
        num_features: int,
        num_heads: int,
        hidden_size: int | None = None,
        *,
        final_norm: bool | None = None,
        **options: Any,
    ) -> None:
        layers = [TransformerDecoderLayer(num_features, num_heads, hidden_size, **options) for _ in range(num_layers)]
        super().__init__(layers, final_norm)

    def forward(
        self,
        x: Tensor,
        context: Tensor,
        mask: Tensor | None = None,
        context_mask: Tensor | None = None,
        *,
        key_mask: Tensor | None = None,
        context_key_mask: Tensor | None = None,
        causal: bool = True,
        caches: Sequence[KeyValueCache] | None = None,
    ) -> Tensor:
        """Return x after all layers; with a cache for each, of the new positions alone."""
        padding: dict[str, Any] = {"key_mask": key_mask, "context_key_mask": context_key_mask}
        return self.run(
            x,
            caches,
            lambda layer, x, cache: layer(x, context, mask, context_mask, **padding, causal=causal, cache=cache),
        )
