"""A training step in two compiled halves: loss and gradients, and the update.

Two programs and not one, so that the loss is looked at before anything is changed: a step that would spread a loss that
is not finite is not taken.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, TypeAlias

from needle.autocasting import autocast
from needle.autograd import Tensor, no_grad
from needle.dtype import as_dtype, float16, float32, is_narrow
from needle.errors import SettingError
from needle.gradient_accumulation import GradientAccumulator
from needle.jit import jit
from needle.optim import GradScaler, Optimizer
from needle.train.averaging import ExponentialMovingAverage

__all__ = ["LossFunction", "Precision", "TrainingStep"]

LossFunction: TypeAlias = Callable[[Any, Any], Tensor]
# What a batch gave: its mean loss and the model's outputs, both without a graph.
Measured: TypeAlias = tuple[Tensor, Any]


class Precision:
    """In which precision a model is run: float32, or mixed.

    Args:
        name: "float32", "bfloat16" or "float16": what products are computed in. float16 comes with a `GradScaler`.

    Raises:
        SettingError: another name.
    """

    def __init__(self, name: str) -> None:
        if name not in {"float32", "bfloat16", "float16"}:
            raise SettingError(f"precision is float32, bfloat16 or float16, got {name!r}")
        self.dtype = as_dtype(name)
        self.scaler = GradScaler() if self.dtype == float16 else None

    def casting(self) -> Any:
        """Return the block in which forward passes run."""
        return autocast(self.dtype) if is_narrow(self.dtype) else nullcontext()


class TrainingStep:
    """What is done with each batch in training.

    Args:
        forward: the model's outputs for inputs.
        loss_fn: takes outputs and targets, returns the mean loss over the batch.
        optimizer: holds the parameters.
        precision: which products are narrow; float32 where None.
        clip_norm: the norm that all gradients together are cut to; None for no limit.
        average: taken along with each update, where there is one.
        is_accumulated: whether gradients of several batches make a step. Their mean is weighted, so that k short
            batches are one long one.
        keeps_outputs: whether `gradients` returns the model's outputs, or None for them.
        compiled: whether to compile with `ndl.jit`.
    """

    def __init__(  # noqa: PLR0917  all that a step is made of
        self,
        forward: Callable[[Any], Any],
        loss_fn: LossFunction,
        optimizer: Optimizer,
        precision: Precision | None = None,
        clip_norm: float | None = None,
        average: ExponentialMovingAverage | None = None,
        is_accumulated: bool = False,
        keeps_outputs: bool = True,
        compiled: bool = True,
    ) -> None:
        if clip_norm is not None and not clip_norm > 0:
            raise SettingError(f"clip_norm is above 0, got {clip_norm}")
        self.forward, self.loss_fn, self.optimizer = forward, loss_fn, optimizer
        self.precision = precision or Precision("float32")
        self.clip_norm, self.average = clip_norm, average
        self.is_accumulated, self.keeps_outputs, self.compiled = is_accumulated, keeps_outputs, compiled
        self._accumulator = GradientAccumulator(p for p in optimizer.params if p.requires_grad)
        self._gradients = jit(self._compute_gradients)
        self._update = jit(self._make_update)

    def gradients(self, inputs: Any, targets: Any, weight: float, *, compiled: bool = True) -> Measured:
        """Compute a batch's loss, and its gradients, which are added up where `is_accumulated`. No parameter changes.

        Args:
            inputs: what `forward` takes.
            targets: what `loss_fn` takes besides outputs.
            weight: how much the batch counts beside others of the same step.
            compiled: False runs this batch eagerly: one of an unusual size, which does not pay for a program.
        """
        run = self._gradients if self.compiled and compiled else self._compute_gradients
        if self.is_accumulated:
            return run(inputs, targets, Tensor(weight, dtype=float32, requires_grad=False))
        self.optimizer.reset_grad()
        return run(inputs, targets)

    def update(self) -> None:
        """Step the optimizer along the gradients since the last update."""
        (self._update if self.compiled else self._make_update)()

    def _compute_gradients(self, inputs: Any, targets: Any, weight: Tensor | None = None) -> Measured:
        with self.precision.casting():
            outputs = self.forward(inputs)
            loss = self.loss_fn(outputs, targets)
        if loss.requires_grad:
            scaled = loss if self.precision.scaler is None else self.precision.scaler.scale(loss)
            if weight is None:
                scaled.backward()
            else:
                self._accumulator.add(scaled, weight)
        return loss.detach(), _detached(outputs) if self.keeps_outputs else None

    def _make_update(self) -> None:
        if self.is_accumulated:
            self._accumulator.apply()
        if self.precision.scaler is not None:
            self.precision.scaler.step(self.optimizer, self.clip_norm)
        else:
            if self.clip_norm is not None:
                self.optimizer.clip_grad_norm(self.clip_norm)
            self.optimizer.step()
        if self.average is not None:
            self.average.update()


def measurement(
    forward: Callable[[Any], Any], loss_fn: LossFunction, precision: Precision
) -> Callable[[Any, Any], Measured]:
    """Return the function that computes loss and outputs of a batch and changes nothing."""

    @no_grad()
    def measure(inputs: Any, targets: Any) -> Measured:
        with precision.casting():
            outputs = forward(inputs)
            return loss_fn(outputs, targets), outputs

    return measure


def _detached(outputs: Any) -> Any:
    """Return outputs without their graph, in whatever tuples they come."""
    if isinstance(outputs, Tensor):
        return outputs.detach()
    return type(outputs)(map(_detached, outputs)) if isinstance(outputs, (tuple, list)) else outputs
