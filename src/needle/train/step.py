"""The two halves of a training step, compiled: loss and gradients, and the update.

Two programs and not one, so that the loss is looked at, and gradients can be clipped, before anything is changed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from needle.autograd import Tensor, no_grad
from needle.jit import jit
from needle.nn import Module
from needle.ops import argmax, not_equal, summation
from needle.optim import Optimizer

__all__ = ["LossFunction", "Steps"]

LossFunction: TypeAlias = Callable[[Tensor, Tensor], Tensor]
# A loss, and how many samples have their largest logit elsewhere than at the label.
Measured: TypeAlias = tuple[Tensor, Tensor]


class Steps:
    """What is done with each batch, in training and in evaluation.

    Batches of the size that comes first are compiled, others (the last one of an epoch) run eagerly: a program for one
    batch an epoch would not pay.

    Args:
        model: called with inputs of shape (B, features).
        loss_fn: takes logits and labels.
        optimizer: holds the model's parameters; None where there is only evaluation.
        compiled: whether to compile at all.
    """

    def __init__(
        self, model: Module, loss_fn: LossFunction, optimizer: Optimizer | None = None, *, compiled: bool = True
    ) -> None:
        self.compiled = compiled
        self._sizes: dict[str, tuple[int, ...]] = {}
        self._gradients = jit(_gradients(model, loss_fn))
        self._measure = jit(no_grad()(_measure(model, loss_fn)))
        self._update = None if optimizer is None else jit(optimizer.step)
        self._optimizer = optimizer

    def gradients(self, inputs: Tensor, labels: Tensor) -> Measured:
        """Compute the loss, and its gradients into the parameters' `.grad`; return loss and errors, without a graph."""
        assert self._optimizer is not None
        self._optimizer.reset_grad()
        run = self._gradients if self._is_usual("gradients", inputs) else self._gradients.fn
        return run(inputs, labels)

    def update(self) -> None:
        """Let the optimizer make its step."""
        assert self._update is not None
        (self._update if self.compiled else self._update.fn)()

    def measure(self, inputs: Tensor, labels: Tensor) -> Measured:
        """Compute loss and errors, and change nothing."""
        run = self._measure if self._is_usual("measure", inputs) else self._measure.fn
        return run(inputs, labels)

    def _is_usual(self, kind: str, inputs: Tensor) -> bool:
        return self.compiled and self._sizes.setdefault(kind, inputs.shape) == inputs.shape


def _gradients(model: Module, loss_fn: LossFunction) -> Callable[[Tensor, Tensor], Measured]:
    def gradients(inputs: Tensor, labels: Tensor) -> Measured:
        logits = model(inputs)
        loss = loss_fn(logits, labels)
        if loss.requires_grad:
            loss.backward()
        return loss.detach(), _errors(logits, labels)

    return gradients


def _measure(model: Module, loss_fn: LossFunction) -> Callable[[Tensor, Tensor], Measured]:
    def measure(inputs: Tensor, labels: Tensor) -> Measured:
        logits = model(inputs)
        return loss_fn(logits, labels), _errors(logits, labels)

    return measure


def _errors(logits: Tensor, labels: Tensor) -> Tensor:
    return summation(not_equal(argmax(logits.detach(), 1), labels).astype("int64"))
