"""Training language models on a text: column by column with the state carried on, or on windows.

Two kinds of models are known by how they are called. A *sequential* one takes token ids (T, B) and a state, and returns
logits (T·B, V) and the state after them; the text is laid out in B columns, which it reads from top to bottom. A
*parallel* one takes windows (B, T) and returns logits (B, T, V).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from needle.autograd import Tensor, no_grad
from needle.data import ColumnSampler, DataLoader, TokenDataset
from needle.errors import DataError
from needle.nn import Module, SoftmaxLoss
from needle.nn.module import evaluating
from needle.nn.parameter import Buffer
from needle.ops import reshape, transpose
from needle.optim import Optimizer
from needle.train.running import Row
from needle.train.trainer import Trainer

__all__ = ["LanguageTrainer", "SequentialReader", "text_loader"]


def text_loader(ids: ArrayLike, seq_len: int, batch_size: int, *, sequential: bool, shuffle: bool = True) -> DataLoader:
    """Return a loader of windows of a text, all batches of one size: (tokens, those that follow), (B, T) each.

    Args:
        ids: (N,), token ids in a row.
        seq_len: T, how many tokens gradients go back over.
        batch_size: B, how many columns, or windows, are read at once.
        sequential: whether batches read on, column by column; otherwise they hold windows from anywhere.
        shuffle: whether windows come in a new random order each epoch, where they are not read on.

    Raises:
        DataError: the text is too short for one batch.
    """
    ids = np.asarray(ids)
    if len(ids) < batch_size * seq_len + 1:
        raise DataError(
            f"{len(ids):,} tokens are too few for one batch of {batch_size} x {seq_len} and what follows: "
            "take a smaller batch, shorter sequences, or more text"
        )
    windows = TokenDataset(ids, seq_len)
    if sequential:
        return DataLoader(windows, batch_size, sampler=ColumnSampler(windows, batch_size))
    return DataLoader(windows, batch_size, shuffle=shuffle, drop_last=True)


class SequentialReader(Module):
    """A sequential model that keeps its state from batch to batch: it takes windows (B, T), and reads on.

    Args:
        model: takes token ids (T, B) and a state; see the module's own words.
        batch_size: B.

    Shapes:
        x: (B, T), token ids
        returns: (T·B, V), logits

    State:
        state: what the model returned after the last window, zeros at first: buffers, so that it is saved with it. What
            changes its shape with T, as zeros that stand for no state may, is not kept.
    """

    def __init__(self, model: Module, batch_size: int) -> None:
        self.model = model
        with evaluating(model), no_grad():
            one, two = (_leaves(model(Tensor(np.zeros((t, batch_size)), requires_grad=False), None)[1]) for t in (1, 2))
        has_state = [leaf.shape for leaf in one] == [leaf.shape for leaf in two]
        self.is_pair = has_state and len(one) > 1
        self.state = [Buffer(np.zeros(leaf.shape, leaf.dtype)) for leaf in one] if has_state else []

    def reset(self) -> None:
        """Forget what was read."""
        for buffer in self.state:
            buffer.data = Tensor(np.zeros(buffer.shape, buffer.dtype), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of what follows each token, and keep the state after the last ones."""
        state = tuple(buffer.detach() for buffer in self.state)
        logits: Tensor
        logits, after = self.model(transpose(x), state if self.is_pair else state[0] if state else None)
        for buffer, leaf in zip(self.state, _leaves(after), strict=False):
            buffer.data = leaf.detach()
        return logits


class LanguageTrainer(Trainer):
    """A `Trainer` for language models; its loaders are those of `text_loader`.

    Rows also hold `perplexity` and `bits_per_token` of the validation text; losses are nats a token.

    Args:
        model: a parallel model, or a `SequentialReader` around a sequential one.
        optimizer: holds its parameters.
        settings: those of `Trainer`.

    Example:
        >>> import numpy as np
        >>> from needle import optim
        >>> from needle.models import GPT
        >>> from needle.train import LanguageTrainer, text_loader
        >>> np.random.seed(0)
        >>> ids = np.arange(600) % 5
        >>> model = GPT(vocab_size=5, max_length=10, num_layers=1, width=16, num_heads=2)
        >>> trainer = LanguageTrainer(model, optim.Adam(model.parameters(), lr=0.01), progress=False)
        >>> train, valid = (text_loader(part, 10, 4, sequential=False) for part in (ids[:500], ids[500:]))
        >>> rows = trainer.fit(train, valid, epochs=6)
        >>> rows[-1]["perplexity"] < 1.5
        True
    """

    unit = "tokens"

    def __init__(self, model: Module, optimizer: Optimizer, **settings: Any) -> None:
        loss = _sequential_loss if isinstance(model, SequentialReader) else _parallel_loss
        super().__init__(model, optimizer, loss, **settings)

    def weight(self, targets: Any) -> int:
        """Return how many tokens a batch has."""
        return int(targets.size)

    def begin_pass(self) -> None:
        """Begin a text at its beginning."""
        if isinstance(self.model, SequentialReader):
            self.model.reset()

    @contextmanager
    def as_evaluated(self) -> Iterator[None]:
        """Keep what training has read meanwhile."""
        state = self.model.state if isinstance(self.model, SequentialReader) else []
        before = [buffer.detach() for buffer in state]
        try:
            with super().as_evaluated():
                yield
        finally:
            for buffer, saved in zip(state, before, strict=True):
                buffer.data = saved

    def complete_row(self, row: Row) -> Row:
        """Add what is usual to tell of language models."""
        losses = [value for name, value in row.items() if name.endswith("_loss") and name != "train_loss"]
        if not losses:
            return row
        return {**row, "perplexity": math.exp(min(losses[-1], 700.0)), "bits_per_token": losses[-1] / math.log(2)}


def _leaves(state: Any) -> list[Tensor]:
    return [leaf for one in state for leaf in _leaves(one)] if isinstance(state, (tuple, list)) else [state]


def _parallel_loss(logits: Tensor, targets: Tensor) -> Tensor:
    return SoftmaxLoss()(reshape(logits, (-1, logits.shape[-1])), reshape(targets, (-1,)))


def _sequential_loss(logits: Tensor, targets: Tensor) -> Tensor:
    return SoftmaxLoss()(logits, reshape(transpose(targets), (-1,)))
