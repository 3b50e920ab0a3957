"""Continuing sequences token by token, for models that `stream` what follows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from needle.errors import ShapeError
from needle.nn import Module
from needle.nn.module import evaluating

__all__ = ["Choose", "Generator"]

Choose = Callable[[NDArray[Any]], NDArray[Any]]


class Generator(Module):
    """What language models share: `generate`, by a model's own `stream`."""

    def stream(self, ids: NDArray[np.int64], count: int, choose: Choose) -> Iterator[NDArray[np.int64]]:
        """Yield what follows sequences (B, T), token by token: (B,) each. The mode is left as it is."""
        raise NotImplementedError

    def generate(self, ids: NDArray[Any], count: int, choose: Choose | None = None) -> NDArray[np.int64]:
        """Continue sequences token by token.

        The model is in evaluation mode meanwhile.

        Args:
            ids: (B, T), what there is already, one token at least.
            count: how many tokens to add.
            choose: makes token ids (B,) of logits (B, vocab_size), such as a `needle.train.TokenSampler`; the most
                probable ones where None.

        Returns:
            (B, T + count).

        Raises:
            ShapeError: ids that are no (B, T) with a token at least.
        """
        ids = np.asarray(ids).astype(np.int64)
        if ids.ndim != 2 or not ids.shape[1]:
            name = type(self).__name__
            raise ShapeError(f"{name}.generate: takes token ids (B, T), one at least, got shape {ids.shape}")
        choose = choose or (lambda logits: logits.argmax(axis=-1))
        with evaluating(self):
            new = [one[:, None] for one in self.stream(ids, count, choose)]
        return np.concatenate([ids, *new], axis=1)
