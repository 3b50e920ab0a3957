"""The learning-rate range test: which rates a model can be trained with at all."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from needle.device import random
from needle.errors import DataError, SettingError
from needle.nn import Module
from needle.optim import Optimizer
from needle.train.step import LossFunction, TrainingStep

__all__ = ["LearningRateSearch", "find_learning_rate"]


@dataclass(frozen=True)
class LearningRateSearch:
    """What `find_learning_rate` saw.

    Args:
        rates: the learning rate of each step.
        losses: the loss before each step, smoothed.
        suggestion: where the loss falls most steeply over the logarithm of the rate; None where it never falls.
    """

    rates: list[float]
    losses: list[float]
    suggestion: float | None


def find_learning_rate(
    model: Module,
    optimizer: Optimizer,
    loss_fn: LossFunction,
    batches: Any,
    *,
    start: float = 1e-6,
    end: float = 10.0,
    steps: int = 100,
    smoothing: float = 0.9,
    compiled: bool = True,
) -> LearningRateSearch:
    """Train for some steps with a rate that rises from low to high, and see where the loss falls and where it grows.

    Formula::

        rate(i) = start · (end / start)^(i / (steps − 1))
        loss(i) = an exponential mean with the weight 1 − smoothing for the newest, without the bias of its start

    It ends early where the smoothed loss is over four times its least, or not finite. Model, optimizer, the random
    generators and the loader are then as they were before.

    Args:
        model, optimizer, loss_fn: as for training. The optimizer's own rate or schedule is not used meanwhile.
        batches: gives (inputs, targets), again and again if there are fewer than `steps`.
        start, end: the lowest and the highest rate.
        steps: how many.
        smoothing: how much of the smoothed loss stays in each step; 0 for none.
        compiled: whether steps are compiled with `ndl.jit`.

    Raises:
        SettingError: rates that do not rise, or fewer than 10 steps.
        DataError: there are no batches.

    Reference:
        L. Smith, "Cyclical learning rates for training neural networks", 2017, section 3.3.
    """
    if not 0 < start < end:
        raise SettingError(f"find_learning_rate: start and end are positive and rise, got {start} and {end}")
    if steps < 10 or not 0 <= smoothing < 1:
        raise SettingError(f"find_learning_rate: steps is 10 or more, smoothing from 0 to 1, got {steps}, {smoothing}")
    before = _Before(model, optimizer, batches)
    try:
        rates = [start * (end / start) ** (i / (steps - 1)) for i in range(steps)]
        losses = _losses(TrainingStep(model, loss_fn, optimizer, compiled=compiled), model, batches, rates, smoothing)
    finally:
        before.restore()
    return LearningRateSearch(rates[: len(losses)], losses, _steepest(rates, losses, smoothing))


def _losses(step: TrainingStep, model: Module, batches: Any, rates: list[float], smoothing: float) -> list[float]:
    model.train()
    mean, losses = 0.0, list[float]()
    with np.errstate(over="ignore", invalid="ignore"):
        for i, (rate, (inputs, targets)) in enumerate(zip(rates, _endless(batches), strict=False)):
            step.optimizer.lr = rate
            loss = step.gradients(inputs, targets, 1.0)[0].item()
            mean = smoothing * mean + (1 - smoothing) * loss
            smoothed = mean / (1 - smoothing ** (i + 1))
            if not math.isfinite(smoothed) or (losses and smoothed > 4 * min(losses)):
                break
            losses.append(smoothed)
            step.update()
    return losses


def _endless(batches: Any) -> Iterator[Any]:
    while True:
        count = 0
        for batch in batches:
            count += 1
            yield batch
        if not count:
            raise DataError("find_learning_rate: there are no batches")


def _steepest(rates: list[float], losses: list[float], smoothing: float) -> float | None:
    """Return the rate where the loss falls most over log(rate), but for the first losses: means of few are noise."""
    first = min(math.ceil(1 / (1 - smoothing)), len(losses) // 2)
    if len(losses) - first < 3:
        return None
    slopes = np.gradient(losses, np.log(rates[: len(losses)]))[first:]
    place = int(slopes.argmin())
    return rates[first + place] if slopes[place] < 0 else None


class _Before:
    """How everything was before the search."""

    def __init__(self, model: Module, optimizer: Optimizer, batches: Any) -> None:
        self.model, self.optimizer, self.batches = model, optimizer, batches
        self.modes = [(module, module.training) for _, module in model.named_modules()]
        self.parameters, self.state, self.lr = model.state_dict(), optimizer.state_dict(), optimizer.lr
        self.place = batches.state_dict() if hasattr(batches, "state_dict") else None
        self.generators = random.get_state()

    def restore(self) -> None:
        self.model.load_state_dict(self.parameters)
        self.optimizer.lr = self.lr
        self.optimizer.load_state_dict(self.state)
        self.optimizer.reset_grad()
        for module, mode in self.modes:
            module.training = mode
        if self.place is not None:
            self.batches.load_state_dict(self.place)
        random.set_state(self.generators)
