"""Learning-rate schedules: pure functions from the number of the step, from 0, to the learning rate.

There is nothing to call in order and nothing to save but the step. Give one as `lr` to an optimizer, or set
`opt.lr = schedule(step)` by hand. `ReduceOnPlateau` is the exception: it looks at the loss, so it has state.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from needle.errors import SettingError

__all__ = ["CosineDecay", "OneCycle", "ReduceOnPlateau", "StepDecay"]


def _check(owner: str, **bounds: tuple[float, bool]) -> None:
    for name, (value, fits) in bounds.items():
        if not fits or not math.isfinite(value):
            raise SettingError(f"{owner}: {name} = {value} makes no sense")


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
        _check("StepDecay", lr=(self.lr, self.lr >= 0), every=(self.every, self.every >= 1))
        _check("StepDecay", factor=(self.factor, self.factor > 0))

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
        _check("CosineDecay", lr=(self.lr, self.lr >= 0), steps=(self.steps, self.steps >= 1))
        _check("CosineDecay", warmup=(self.warmup, 0 <= self.warmup <= self.steps), end=(self.end, self.end >= 0))

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
        _check("OneCycle", lr=(self.lr, self.lr >= 0), steps=(self.steps, self.steps >= 1))
        _check("OneCycle", rise=(self.rise, 0 <= self.rise <= 1))
        _check("OneCycle", start_factor=(self.start_factor, self.start_factor >= 1))
        _check("OneCycle", end_factor=(self.end_factor, self.end_factor >= 1))

    def __call__(self, step: int) -> float:
        """Return the learning rate of a step."""
        top = self.rise * (self.steps - 1)
        if step < top:
            return _between(self.lr / self.start_factor, self.lr, step / top)
        rest = (self.steps - 1) - top
        return _between(self.lr, self.lr / self.end_factor, min(1.0, (step - top) / rest) if rest > 0 else 1.0)


def _between(start: float, end: float, share: float) -> float:
    return start + (end - start) * (1 - math.cos(math.pi * share)) / 2


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
        _check("ReduceOnPlateau", lr=(lr, lr >= 0), factor=(factor, 0 < factor < 1), patience=(patience, patience >= 0))
        _check("ReduceOnPlateau", threshold=(threshold, threshold >= 0), min_lr=(min_lr, min_lr >= 0))
        self.factor = factor
        self.patience = patience
        self.threshold = threshold
        self.min_lr = min_lr
        self.lr = lr
        self.best = math.inf
        self.bad_epochs = 0

    def __call__(self, measure: float) -> float:
        """Return the learning rate after an epoch with this measure, of which less is better."""
        is_better = measure < self.best - self.threshold * abs(self.best) if math.isfinite(self.best) else True
        self.best = measure if is_better else self.best
        self.bad_epochs = 0 if is_better else self.bad_epochs + 1
        if self.bad_epochs > self.patience:
            self.lr = max(self.lr * self.factor, self.min_lr)
            self.bad_epochs = 0
        return self.lr

    def state_dict(self) -> dict[str, Any]:
        """Return the state as plain numbers."""
        return {"lr": self.lr, "best": self.best, "bad_epochs": self.bad_epochs}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to a state that `state_dict` returned."""
        self.lr, self.best, self.bad_epochs = state["lr"], state["best"], state["bad_epochs"]
