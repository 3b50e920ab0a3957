"""Learning-rate schedules: pure functions from the number of the step, from 0, to the learning rate.

There is nothing to call in order and nothing to save but the step. Give one as `lr` to an optimizer, or set
`opt.lr = schedule(step)` by hand. `ReduceOnPlateau` is the exception: it looks at the loss, so it has state.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from needle.errors import CheckpointError, SettingError

__all__ = ["Constant", "CosineDecay", "Joined", "OneCycle", "ReduceOnPlateau", "Schedule", "StepDecay", "Warmup"]


Schedule = Callable[[int], float]


def _check(owner: str, name: str, value: Any, low: float = 0, high: float = math.inf, *, whole: bool = False) -> None:
    """Raise where a value is no finite number from `low` to `high`, or no integer where it is to be whole."""
    kinds = (int, np.integer) if whole else (int, float, np.integer, np.floating)
    is_number = isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value)
    if not (is_number and low <= value <= high):
        bounds = f"of {low} or more" if high == math.inf else f"from {low} to {high}"
        raise SettingError(f"{owner}: {name} is {'an integer' if whole else 'a number'} {bounds}, got {value!r}")


@dataclass(frozen=True)
class Constant:
    """Keep the rate: lr(step) = lr. For composing with others; an optimizer takes the number itself.

    Args:
        lr: the rate.

    Raises:
        SettingError: a value that makes no sense.
    """

    lr: float

    def __post_init__(self) -> None:
        _check("Constant", "lr", self.lr)

    def __call__(self, step: int) -> float:
        """Return the learning rate of a step."""
        return self.lr


@dataclass(frozen=True)
class StepDecay:
    """Multiply the rate by a factor every so many steps.

    Formula::

        lr(step) = lr · factor^⌊step / every⌋

    Args:
        lr: the rate at step 0.
        every: how many steps the rate stays.
        factor: what it is multiplied by then; 0.1 by default.

    Raises:
        SettingError: a value that makes no sense.

    Example:
        >>> from needle.optim import StepDecay
        >>> schedule = StepDecay(0.1, every=100)
        >>> schedule(99), round(schedule(100), 6)
        (0.1, 0.01)
    """

    lr: float
    every: int
    factor: float = 0.1

    def __post_init__(self) -> None:
        _check("StepDecay", "lr", self.lr)
        _check("StepDecay", "every", self.every, low=1, whole=True)
        _check("StepDecay", "factor", self.factor)

    def __call__(self, step: int) -> float:
        """Return the learning rate of a step."""
        return self.lr * self.factor ** (step // self.every)


@dataclass(frozen=True)
class CosineDecay:
    """Go up in a straight line, then down along half a cosine.

    Formula::

        lr(step) = lr · (step + 1) / warmup                                          step < warmup
                 = end + (lr − end) · (1 + cos(π · (step − warmup) / (steps − warmup))) / 2   to the last step
                 = end                                                               after it

    Args:
        lr: the highest rate.
        steps: how many steps there are in all.
        warmup: how many of them go up; 0 for none.
        end: the last rate.

    Raises:
        SettingError: a value that makes no sense.

    Reference:
        I. Loshchilov, F. Hutter, "SGDR: stochastic gradient descent with warm restarts", 2017, equation 5.
    """

    lr: float
    steps: int
    warmup: int = 0
    end: float = 0.0

    def __post_init__(self) -> None:
        _check("CosineDecay", "lr", self.lr)
        _check("CosineDecay", "steps", self.steps, low=1, whole=True)
        _check("CosineDecay", "warmup", self.warmup, high=self.steps, whole=True)
        _check("CosineDecay", "end", self.end)

    def __call__(self, step: int) -> float:
        """Return the learning rate of a step."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        if step >= self.steps:
            return self.end
        share = (step - self.warmup) / (self.steps - self.warmup)
        return self.end + (self.lr - self.end) * (1 + math.cos(math.pi * share)) / 2


@dataclass(frozen=True)
class OneCycle:
    """Go from a low rate up to a high one and down to almost none, along two half cosines.

    Formula::

        lr(step) = from lr/start_factor to lr      over the first `rise` of the steps
                 = from lr to lr/end_factor        over the rest

    each along (1 − cos) / 2.

    Args:
        lr: the highest rate.
        steps: how many steps there are in all.
        rise: the share of them that goes up; 0.3 by default.
        start_factor: how many times lower the first rate is.
        end_factor: how many times lower the last rate is.

    Raises:
        SettingError: a value that makes no sense.

    Reference:
        L. Smith, N. Topin, "Super-convergence: very fast training of neural networks using large learning rates", 2018.
    """

    lr: float
    steps: int
    rise: float = 0.3
    start_factor: float = 25.0
    end_factor: float = 1e4

    def __post_init__(self) -> None:
        _check("OneCycle", "lr", self.lr)
        _check("OneCycle", "steps", self.steps, low=1, whole=True)
        _check("OneCycle", "rise", self.rise, high=1)
        _check("OneCycle", "start_factor", self.start_factor, low=1)
        _check("OneCycle", "end_factor", self.end_factor, low=1)

    def __call__(self, step: int) -> float:
        """Return the learning rate of a step."""
        top = self.rise * (self.steps - 1)
        if step < top:
            return _between(self.lr / self.start_factor, self.lr, step / top)
        rest = (self.steps - 1) - top
        return _between(self.lr, self.lr / self.end_factor, min(1.0, (step - top) / rest) if rest > 0 else 1.0)


def _between(start: float, end: float, share: float) -> float:
    return start + (end - start) * (1 - math.cos(math.pi * share)) / 2


@dataclass(frozen=True)
class Warmup:
    """Let another schedule rise to what it says over its first steps.

    Formula::

        lr(step) = schedule(step) · (start + (1 − start) · (step + 1) / steps)          step < steps
        exponential: lr(step) = schedule(step) · start^(1 − (step + 1) / steps)

    Args:
        schedule: a function of the step, or a number for a constant rate.
        steps: how many steps the rise takes; 0 for none.
        start: the share of the rate to start from.
        exponential: whether to rise by the same factor in each step instead of by the same amount.

    Raises:
        SettingError: a value that makes no sense.

    Example:
        >>> from needle.optim import StepDecay, Warmup
        >>> schedule = Warmup(StepDecay(0.1, every=100), steps=4)
        >>> [round(schedule(step), 3) for step in (0, 1, 3, 4, 100)]
        [0.025, 0.05, 0.1, 0.1, 0.01]
    """

    schedule: Schedule | float
    steps: int
    start: float = 0.0
    exponential: bool = False

    def __post_init__(self) -> None:
        if not callable(self.schedule):
            object.__setattr__(self, "schedule", Constant(self.schedule))
        _check("Warmup", "steps", self.steps, whole=True)
        _check("Warmup", "start", self.start, high=1)
        if self.exponential and self.start == 0:
            raise SettingError("Warmup: an exponential rise has a start above 0, got 0")

    def __call__(self, step: int) -> float:
        """Return the learning rate of a step."""
        assert callable(self.schedule)
        if step >= self.steps:
            return self.schedule(step)
        share = (step + 1) / self.steps
        rise = self.start ** (1 - share) if self.exponential else self.start + (1 - self.start) * share
        return self.schedule(step) * rise


@dataclass(frozen=True)
class Joined:
    """Follow one schedule after another.

    Args:
        schedules: functions of the step. Each one counts from 0 where it begins.
        boundaries: the steps at which the second one begins, the third one, and so on.

    Raises:
        SettingError: there is not one boundary less than schedules, or they do not increase.

    Example:
        >>> from needle.optim import Constant, CosineDecay, Joined
        >>> schedule = Joined([Constant(0.1), CosineDecay(0.1, steps=10)], boundaries=[50])
        >>> [round(schedule(step), 3) for step in (0, 50, 55, 60)]
        [0.1, 0.1, 0.05, 0.0]
    """

    schedules: Sequence[Schedule]
    boundaries: Sequence[int]

    def __post_init__(self) -> None:
        object.__setattr__(self, "schedules", tuple(self.schedules))
        object.__setattr__(self, "boundaries", tuple(self.boundaries))
        starts = (0, *self.boundaries)
        if len(starts) != len(self.schedules) or any(later <= start for start, later in pairwise(starts)):
            raise SettingError(
                f"Joined: {len(self.schedules)} schedules need {len(self.schedules) - 1} increasing boundaries "
                f"above 0, got {list(self.boundaries)}"
            )

    def __call__(self, step: int) -> float:
        """Return the learning rate of a step."""
        place = bisect_right(self.boundaries, step)
        return self.schedules[place](step - (self.boundaries[place - 1] if place else 0))


class ReduceOnPlateau:
    """Lower the learning rate when a measure stops getting better.

    Call it with the measure after each epoch and set `opt.lr` to what it returns.

    Args:
        lr: the first rate.
        factor: what the rate is multiplied by.
        patience: after how many epochs without improvement.
        threshold: the least relative improvement that counts.
        min_lr: the lowest rate.

    State:
        lr, best, bad_epochs: saved by `state_dict`, restored by `load_state_dict`.

    Raises:
        SettingError: a value that makes no sense.

    Example:
        >>> from needle.optim import ReduceOnPlateau
        >>> plateau = ReduceOnPlateau(0.1, factor=0.5, patience=1)
        >>> [plateau(loss) for loss in (1.0, 0.9, 0.9, 0.9)]
        [0.1, 0.1, 0.1, 0.05]
    """

    def __init__(
        self, lr: float, factor: float = 0.1, patience: int = 10, threshold: float = 1e-4, min_lr: float = 0.0
    ) -> None:
        _check("ReduceOnPlateau", "lr", lr)
        _check("ReduceOnPlateau", "factor", factor, high=1)
        _check("ReduceOnPlateau", "patience", patience, whole=True)
        _check("ReduceOnPlateau", "threshold", threshold)
        _check("ReduceOnPlateau", "min_lr", min_lr)
        self.factor = factor
        self.patience = patience
        self.threshold = threshold
        self.min_lr = min_lr
        self.lr = lr
        self.best = math.inf
        self.bad_epochs = 0

    def __call__(self, measure: float) -> float:
        """Return the learning rate after an epoch with this measure, of which less is better. NaN is never better."""
        gain = self.threshold * abs(self.best) if math.isfinite(self.best) else 0.0
        is_better = measure < self.best - gain
        self.best = measure if is_better else self.best
        self.bad_epochs = 0 if is_better else self.bad_epochs + 1
        if self.bad_epochs > self.patience:
            self.lr = max(self.lr * self.factor, self.min_lr)
            self.bad_epochs = 0
        return self.lr

    def state_dict(self) -> dict[str, Any]:
        """Return the state as plain numbers; None for the best measure where there was none."""
        best = self.best if math.isfinite(self.best) else None
        return {"lr": self.lr, "best": best, "bad_epochs": self.bad_epochs}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to a state that `state_dict` returned.

        Raises:
            CheckpointError: it has other entries; nothing is changed then.
        """
        if set(state) != set(self.state_dict()):
            raise CheckpointError(f"ReduceOnPlateau: the state has lr, best and bad_epochs, got {', '.join(state)}")
        self.lr, self.bad_epochs = state["lr"], state["bad_epochs"]
        self.best = math.inf if state["best"] is None else state["best"]
