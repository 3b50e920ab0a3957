"""Training language models on a text: chunk by chunk with the state carried on, or on windows.

Two kinds of models are known by how they are called. A *sequential* one takes token ids (T, B) and a state, and returns
logits (T·B, V) and the state after them; the text is laid out in B columns, which it reads from top to bottom. A
*parallel* one takes windows (B, T) and returns logits (B, T, V).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from needle.autograd import Tensor, no_grad
from needle.data import batchify, get_batch
from needle.errors import DataError, TrainingError
from needle.jit import jit
from needle.nn import Module, SoftmaxLoss
from needle.ops import reshape
from needle.optim import Optimizer

__all__ = ["LanguageRow", "evaluate_language_model", "train_language_model"]

Ids = NDArray[Any]
# One epoch's figures: epoch, step, lr, train_loss, valid_loss, perplexity, bits_per_token, seconds, tokens_per_second.
LanguageRow = dict[str, Any]


def train_language_model(
    model: Module,
    optimizer: Optimizer,
    train_ids: Ids,
    valid_ids: Ids,
    *,
    seq_len: int,
    batch_size: int,
    epochs: int,
    sequential: bool,
    clip_norm: float | None = 1.0,
    after_batch: Callable[[int, int, float], object] | None = None,
    compiled: bool = True,
) -> Iterator[LanguageRow]:
    """Train on a text and evaluate on another, and give one row of figures after each epoch.

    A generator: the caller prints, stores, or stops by leaving the loop. In an epoch each token is predicted once, but
    for what does not fill a batch. Windows come in an order that NumPy's global generator draws.

    Args:
        model: see the module's own words.
        optimizer: holds the model's parameters.
        train_ids: token ids in a row.
        valid_ids: likewise, for measuring.
        seq_len: how many tokens gradients go back over.
        batch_size: how many columns, or windows, are read at once.
        epochs: how many times.
        sequential: whether the model reads on with a state, or sees windows.
        clip_norm: the norm that all gradients together are cut to; None for no limit.
        after_batch: called with the epoch, from 1, the tokens read in it and its mean loss so far.
        compiled: whether to compile the steps with `ndl.jit`.

    Raises:
        DataError: a text is too short for one batch.
        TrainingError: the loss is not finite.
    """
    for text in (train_ids, valid_ids):  # now, and not when the first row is asked for
        _count_batches(text, seq_len, batch_size, sequential)
    steps = _Steps(model, optimizer, sequential, clip_norm, compiled)
    return _epochs(steps, optimizer, train_ids, valid_ids, seq_len, batch_size, epochs, after_batch)


def _epochs(  # noqa: PLR0917  what training is made of
    steps: _Steps,
    optimizer: Optimizer,
    train_ids: Ids,
    valid_ids: Ids,
    seq_len: int,
    batch_size: int,
    epochs: int,
    after_batch: Callable[[int, int, float], object] | None,
) -> Iterator[LanguageRow]:
    for epoch in range(1, epochs + 1):
        started = time.perf_counter()
        steps.model.train()
        state, total, tokens = None, 0.0, 0
        for x, y in _batches(train_ids, seq_len, batch_size, steps.sequential, shuffle=True):
            loss, state = steps.train(x, y, state)
            value = loss.item()
            if not math.isfinite(value):
                raise TrainingError(f"epoch {epoch}, step {optimizer.t}: the loss is {value}: lower the learning rate")
            total += value * y.size
            tokens += y.size
            if after_batch is not None:
                after_batch(epoch, tokens, total / tokens)
        seconds = time.perf_counter() - started
        valid_loss = steps.evaluate(valid_ids, seq_len, batch_size)
        yield {
            "epoch": epoch,
            "step": optimizer.t,
            "lr": float(optimizer.lr(optimizer.t - 1) if callable(optimizer.lr) else optimizer.lr),
            "train_loss": total / tokens,
            "valid_loss": valid_loss,
            "perplexity": math.exp(min(valid_loss, 700.0)),
            "bits_per_token": valid_loss / math.log(2),
            "seconds": time.perf_counter() - started,
            "tokens_per_second": tokens / seconds,
        }


def evaluate_language_model(
    model: Module, ids: Ids, *, seq_len: int, batch_size: int, sequential: bool, compiled: bool = True
) -> float:
    """Return a model's mean loss for each token of a text, in nats. Arguments are those of `train_language_model`.

    Raises:
        DataError: the text is too short for one batch.
    """
    _count_batches(ids, seq_len, batch_size, sequential)
    return _Steps(model, None, sequential, None, compiled).evaluate(ids, seq_len, batch_size)


class _Steps:
    """What is done with each batch, in training and in evaluation."""

    def __init__(
        self, model: Module, optimizer: Optimizer | None, sequential: bool, clip_norm: float | None, compiled: bool
    ) -> None:
        self.model = model
        self.sequential = sequential
        loss_fn = SoftmaxLoss()

        def measure(x: Tensor, y: Tensor, state: Any) -> tuple[Tensor, Any]:
            if sequential:
                logits, state = model(x, state)
                return loss_fn(logits, y), _detached(state)
            logits = model(x)
            return loss_fn(reshape(logits, (-1, logits.shape[-1])), y), None

        def train(x: Tensor, y: Tensor, state: Any) -> tuple[Tensor, Any]:
            assert optimizer is not None
            optimizer.reset_grad()
            loss, state = measure(x, y, state)
            loss.backward()
            if clip_norm is not None:
                optimizer.clip_grad_norm(clip_norm)
            optimizer.step()
            return loss.detach(), state

        self.train = jit(train) if compiled else train
        self.measure = jit(no_grad()(measure)) if compiled else no_grad()(measure)

    def evaluate(self, ids: Ids, seq_len: int, batch_size: int) -> float:
        """Return the mean loss of a token."""
        self.model.eval()
        state, total, tokens = None, 0.0, 0
        for x, y in _batches(ids, seq_len, batch_size, self.sequential, shuffle=False):
            loss, state = self.measure(x, y, state)
            total += loss.item() * y.size
            tokens += y.size
        return total / tokens


def _detached(state: Any) -> Any:
    return tuple(map(_detached, state)) if isinstance(state, tuple) else state.detach()


def _count_batches(ids: Ids, seq_len: int, batch_size: int, sequential: bool) -> int:
    """Return how many batches a text has.

    Raises:
        DataError: none.
    """
    if sequential:
        count = (len(ids) // batch_size - 1) // seq_len
    else:
        count = (len(ids) - 1) // seq_len // batch_size
    if count < 1:
        raise DataError(
            f"{len(ids):,} tokens are too few for one batch of {batch_size} x {seq_len} and what follows: take a "
            "smaller batch, shorter sequences, or more text"
        )
    return count


def _batches(
    ids: Ids, seq_len: int, batch_size: int, sequential: bool, *, shuffle: bool
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield inputs and what follows each of their tokens, flat, all of one size."""
    count = _count_batches(ids, seq_len, batch_size, sequential)
    if sequential:
        columns = batchify(ids, batch_size, None, "int64")
        for number in range(count):
            yield get_batch(columns, number * seq_len, seq_len, None, "int64")
        return
    windows = (len(ids) - 1) // seq_len
    order = np.random.permutation(windows) if shuffle else np.arange(windows)
    offsets = np.arange(seq_len)
    for number in range(count):
        places = order[number * batch_size : (number + 1) * batch_size, None] * seq_len + offsets
        x, y = (ids[places + shift].astype(np.int64) for shift in (0, 1))
        yield Tensor(x, requires_grad=False), Tensor(y.reshape(-1), requires_grad=False)
