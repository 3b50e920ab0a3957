"""Training for many epochs, with a row of figures for each."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from needle.errors import TrainingError
from needle.nn import Module
from needle.optim import Optimizer
from needle.train.epoch import Batches, EpochResult, LossFunction, evaluate_epoch, train_epoch
from needle.train.step import Steps

__all__ = ["EarlyStopping", "Row", "fit", "metrics_jsonl"]

# One epoch's figures: epoch, step, lr, train_loss, train_error, test_loss, test_error, seconds, samples_per_second.
Row = dict[str, Any]


def fit(
    model: Module,
    optimizer: Optimizer,
    loss_fn: LossFunction,
    train_batches: Batches,
    test_batches: Batches,
    *,
    epochs: int,
    test_loss_fn: LossFunction | None = None,
    before_step: Callable[[], object] | None = None,
    after_batch: Callable[[int, EpochResult], object] | None = None,
    compiled: bool = True,
    first_epoch: int = 1,
) -> Iterator[Row]:
    """Train and evaluate, and give one row of figures after each epoch.

    A generator: the caller prints, stores, or stops by leaving the loop.

    Args:
        model: the network.
        optimizer: holds the model's parameters.
        loss_fn: the loss that is minimised.
        train_batches: iterated once an epoch.
        test_batches: likewise, for measuring.
        epochs: the number of the last one: how many there are where none was done before.
        test_loss_fn: the loss that is measured on the test data; `loss_fn` where None.
        before_step: called before each step of the optimizer, to clip gradients for example.
        after_batch: called with the epoch, from 1, and the training result so far.
        compiled: whether to compile the steps with `ndl.jit`; a model or a loss that cannot be traced needs False.
        first_epoch: the number of the first one, for a run that goes on.

    Raises:
        TrainingError: the loss is not finite; the message says in which epoch and at which step.
    """

    def report(so_far: EpochResult) -> None:
        if after_batch is not None:
            after_batch(epoch, so_far)

    training = Steps(model, loss_fn, optimizer, compiled=compiled)
    testing = Steps(model, test_loss_fn or loss_fn, compiled=compiled)
    for epoch in range(first_epoch, epochs + 1):
        with _located(f"epoch {epoch}, step", optimizer, 1):
            trained = train_epoch(
                model,
                train_batches,
                optimizer,
                loss_fn,
                before_step=before_step,
                after_batch=report,
                steps=training,
            )
        with _located(f"epoch {epoch}, after step", optimizer, 0):
            tested = evaluate_epoch(model, test_batches, test_loss_fn or loss_fn, steps=testing)
        yield _row(epoch, optimizer, trained, tested)


@contextmanager
def _located(place: str, optimizer: Optimizer, ahead: int) -> Iterator[None]:
    """Say in a TrainingError how far the whole run had come: the steps taken, and `ahead` more."""
    try:
        yield
    except TrainingError as error:
        raise TrainingError(f"{place} {optimizer.t + ahead} of the run: {error.rule}") from None


def _row(epoch: int, optimizer: Optimizer, trained: EpochResult, tested: EpochResult) -> Row:
    lr = optimizer.lr
    return {
        "epoch": epoch,
        "step": optimizer.t,
        "lr": float(lr(optimizer.t - 1) if callable(lr) else lr),
        "train_loss": trained.loss,
        "train_error": trained.error,
        "test_loss": tested.loss,
        "test_error": tested.error,
        "seconds": trained.seconds + tested.seconds,
        "samples_per_second": trained.samples_per_second,
    }


def metrics_jsonl(rows: list[Row]) -> bytes:
    """Return rows as JSON Lines: one object a line, so that any tool can read and append to them."""
    return "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows).encode()


class EarlyStopping:
    """Tells when a figure has not become better for `patience` epochs.

    Watch data that the final score is not measured on: the best of many looks at a test set flatters.

    Args:
        patience: how many epochs to wait for a better figure.
        min_delta: by how much it must be lower to count as better.

    Example:
        >>> from needle.train import EarlyStopping
        >>> stop = EarlyStopping(patience=2)
        >>> [stop(loss) for loss in (0.9, 0.5, 0.6, 0.7)]
        [False, False, False, True]
        >>> stop.best
        0.5
    """

    def __init__(self, patience: int, min_delta: float = 0.0) -> None:
        self.patience = patience
        self.min_delta = min_delta
        self.best = float("inf")
        self.waited = 0

    def __call__(self, value: float) -> bool:
        """Take the next epoch's figure; return whether to stop."""
        if value < self.best - self.min_delta:
            self.best, self.waited = value, 0
        else:
            self.waited += 1
        return self.waited >= self.patience
