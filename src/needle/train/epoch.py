"""One pass over the data: of training, or of evaluation. Nothing here that one would not write by hand."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from needle.autograd import Tensor, no_grad
from needle.errors import DataError, TrainingError
from needle.nn import Module
from needle.optim import Optimizer
from needle.train.step import LossFunction, Steps

__all__ = ["Batches", "EpochResult", "LossFunction", "evaluate_epoch", "flat", "train_epoch"]

# What a DataLoader is: something that gives (inputs, labels) anew each time that it is iterated.
Batches = Iterable[Any]


@dataclass(frozen=True)
class EpochResult:
    """What one pass over the data found, every sample with the same weight.

    Args:
        loss: the mean loss.
        error: the share of samples whose largest logit is not the label's.
        samples: how many there were.
        seconds: how long it took.
    """

    loss: float
    error: float
    samples: int
    seconds: float

    @property
    def samples_per_second(self) -> float:
        """The throughput."""
        return self.samples / self.seconds if self.seconds > 0 else math.inf


class _Totals:
    """Running sums over the batches of an epoch."""

    def __init__(self) -> None:
        self.loss, self.errors, self.samples, self.start = 0.0, 0, 0, time.perf_counter()

    def add(self, loss: float, errors: int, samples: int) -> None:
        self.loss += loss * samples
        self.errors += errors
        self.samples += samples

    def result(self) -> EpochResult:
        if not self.samples:
            raise DataError("there are no batches: the data set is empty")
        seconds = time.perf_counter() - self.start
        return EpochResult(self.loss / self.samples, self.errors / self.samples, self.samples, seconds)


def train_epoch(
    model: Module,
    batches: Batches,
    optimizer: Optimizer,
    loss_fn: LossFunction,
    *,
    before_step: Callable[[], object] | None = None,
    after_batch: Callable[[EpochResult], object] | None = None,
    steps: Steps | None = None,
) -> EpochResult:
    """Train on every batch once.

    Args:
        model: called with inputs of shape (B, features): images are flattened first.
        batches: gives (inputs, labels) of Tensors, such as a `DataLoader`.
        optimizer: holds the model's parameters.
        loss_fn: takes logits and labels, returns the mean loss over the batch.
        before_step: called before each step of the optimizer: to set a learning rate, or to clip gradients.
        after_batch: called with the result so far.
        steps: the compiled halves of a step, for this model, loss and optimizer, to be used epoch after epoch; plain
            calls where None.

    Returns:
        Loss and error as they were met while learning: with dropout, and with weights that got better meanwhile.

    Raises:
        TrainingError: the loss is not finite. The step that would have spread it is not taken.
    """
    model.train()
    steps = steps or Steps(model, loss_fn, optimizer, compiled=False)
    totals = _Totals()
    with np.errstate(over="ignore", invalid="ignore"):  # a loss that is not finite is reported once, below
        for step, (inputs, labels) in enumerate(batches, start=1):
            loss, errors = steps.gradients(flat(inputs), labels)
            value = _finite(loss, f"at step {step} of the epoch")
            if before_step is not None:
                before_step()
            steps.update()
            totals.add(value, int(errors), labels.shape[0])
            if after_batch is not None:
                after_batch(totals.result())
    return totals.result()


@no_grad()
def evaluate_epoch(
    model: Module,
    batches: Batches,
    loss_fn: LossFunction,
    *,
    after_batch: Callable[[EpochResult], object] | None = None,
    steps: Steps | None = None,
) -> EpochResult:
    """Measure loss and error over every batch, in evaluation mode and without changing anything.

    Args:
        model: called with inputs of shape (B, features).
        batches: gives (inputs, labels) of Tensors.
        loss_fn: takes logits and labels, returns the mean loss over the batch.
        after_batch: called with the result so far.
        steps: the compiled measuring, for this model and loss; plain calls where None.

    Raises:
        TrainingError: the loss is not finite.
    """
    model.eval()
    steps = steps or Steps(model, loss_fn, compiled=False)
    totals = _Totals()
    with np.errstate(over="ignore", invalid="ignore"):
        for step, (inputs, labels) in enumerate(batches, start=1):
            loss, errors = steps.measure(flat(inputs), labels)
            value = _finite(loss, f"in batch {step} of the evaluation")
            totals.add(value, int(errors), labels.shape[0])
            if after_batch is not None:
                after_batch(totals.result())
    return totals.result()


def flat(inputs: Tensor) -> Tensor:
    """Return a batch of images as rows, (B, …) → (B, features), as a constant that shares the data."""
    data = inputs.realize_cached_data()
    return inputs if data.ndim == 2 else Tensor.make_const(data.reshape(data.shape[0], -1))


def _finite(loss: Tensor, place: str) -> float:
    """Return the loss as a number.

    Raises:
        TrainingError: it is not finite.
    """
    value = float(loss.realize_cached_data())
    if math.isfinite(value):
        return value
    raise TrainingError(
        f"the loss is {value} {place}: training has diverged or the data hold NaN. "
        f"Try a smaller learning rate, a longer warm-up, or clip_grad_norm"
    )
