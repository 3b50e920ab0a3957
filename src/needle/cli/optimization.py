"""From options to an optimizer and its learning rate."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from needle.autograd import Tensor
from needle.errors import SettingError
from needle.optim import SGD, Adagrad, Adam, AdamW, CosineDecay, OneCycle, Optimizer, RMSprop, StepDecay

__all__ = ["make_optimizer", "make_schedule"]

Schedule = Callable[[int], float]

_OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "adamw": AdamW,
    "adam": Adam,
    "sgd": SGD,
    "rmsprop": RMSprop,
    "adagrad": Adagrad,
}


def make_optimizer(options: dict[str, Any], parameters: Iterable[Tensor], steps_per_epoch: int) -> Optimizer:
    """Return the optimizer that the options describe, with its learning rate as a function of the step."""
    momentum = {} if options["momentum"] is None else {"momentum": options["momentum"]}
    return _OPTIMIZERS[options["optimizer"]](
        list(parameters),
        lr=make_schedule(options, steps_per_epoch),
        weight_decay=options["weight_decay"],
        **momentum,
    )


def make_schedule(options: dict[str, Any], steps_per_epoch: int) -> Schedule:
    """Return the learning rate as a function of the step, from 0.

    Raises:
        SettingError: the warm-up is longer than the run.
    """
    lr, steps = options["lr"], options["epochs"] * steps_per_epoch
    warmup = round(options["warmup"] * steps_per_epoch)
    if warmup > steps:
        raise SettingError(f"--warmup: {options['warmup']:g} epochs are more than the run's {options['epochs']}")
    schedules: dict[str, Callable[[], Schedule]] = {
        "cosine": lambda: CosineDecay(lr, steps, warmup),
        "one-cycle": lambda: OneCycle(lr, steps, rise=warmup / steps),
        "step": lambda: _warmed_up(StepDecay(lr, every=max(1, -(-steps // 3))), warmup),
        "constant": lambda: _warmed_up(lambda step: lr, warmup),
    }
    return schedules[options["schedule"]]()


def _warmed_up(schedule: Schedule, warmup: int) -> Schedule:
    """Return a schedule that rises in a straight line over its first steps."""
    return lambda step: schedule(step) * min(1.0, (step + 1) / max(1, warmup))
