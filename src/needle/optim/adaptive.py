"""Optimizers that divide by the size of past gradients: Adagrad and RMSprop."""

from __future__ import annotations

from types import SimpleNamespace

from needle.autograd import Tensor
from needle.device import Array, array_namespace
from needle.optim.optimizer import Optimizer, Parameters, Rate

__all__ = ["Adagrad", "RMSprop"]


class Adagrad(Optimizer):
    """Steps divided by the root of the sum of all squared gradients so far.

    Formula::

        s ← s + g²
        θ ← θ − lr·g / (√s + eps)

    with g including `weight_decay` and `l1_decay` as in `SGD`. Parameters that rarely get a gradient keep long steps.

    Args:
        params: Tensors, or groups of them (see `Optimizer`).
        lr: the learning rate: a number, or a function of the step's number.
        eps: keeps the division finite where gradients are 0.
        weight_decay: strength of an L2 penalty.
        l1_decay: strength of an L1 penalty.

    State:
        s: for each parameter, the sum of its squared gradients; starts at 0.

    Reference:
        J. Duchi et al., "Adaptive subgradient methods for online learning and stochastic optimization", 2011.
    """

    state_names = ("s",)
    s: dict[Tensor, Tensor]

    def __init__(
        self,
        params: Parameters,
        lr: Rate = 0.01,
        eps: float = 1e-10,
        weight_decay: float = 0.0,
        l1_decay: float = 0.0,
    ) -> None:
        super().__init__(params, lr=lr, eps=eps, weight_decay=weight_decay, l1_decay=l1_decay)

    def update(self, theta: Array, g: Array, h: SimpleNamespace, *state: Array) -> tuple[Array, ...]:
        """Make one step: see the class's formula."""
        (s,) = state
        s = s + g * g
        return theta - h.lr * g / (array_namespace(theta).sqrt(s) + h.eps), s


class RMSprop(Optimizer):
    """Steps divided by the root of an average of recent squared gradients.

    Formula::

        v ← alpha·v + (1 − alpha)·g²
        b ← momentum·b + g / (√v + eps)
        θ ← θ − lr·b

    with g including `weight_decay` and `l1_decay` as in `SGD`.

    Args:
        params: Tensors, or groups of them (see `Optimizer`).
        lr: the learning rate: a number, or a function of the step's number.
        alpha: how much of the average stays from step to step.
        eps: keeps the division finite where gradients are 0.
        momentum: how much of the last step is made again; undamped, as is usual for this optimizer.
        weight_decay: strength of an L2 penalty.
        l1_decay: strength of an L1 penalty.

    State:
        v, b: for each parameter, the average and the last step; they start at 0. b is not kept where momentum is 0.

    Reference:
        T. Tieleman, G. Hinton, "Neural networks for machine learning", lecture 6.5, 2012.
    """

    state_names = ("v", "b")
    v: dict[Tensor, Tensor]
    b: dict[Tensor, Tensor]

    def __init__(  # noqa: PLR0917
        self,
        params: Parameters,
        lr: Rate = 0.01,
        alpha: float = 0.99,
        eps: float = 1e-8,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        l1_decay: float = 0.0,
    ) -> None:
        super().__init__(
            params, lr=lr, alpha=alpha, eps=eps, momentum=momentum, weight_decay=weight_decay, l1_decay=l1_decay
        )

    def state_in_use(self, h: SimpleNamespace) -> tuple[str, ...]:
        """Return v and b, or v alone where there is no momentum."""
        return self.state_names if h.momentum else self.state_names[:1]

    def update(self, theta: Array, g: Array, h: SimpleNamespace, *state: Array) -> tuple[Array, ...]:
        """Make one step: see the class's formula."""
        v, *steps = state
        v = h.alpha * v + (1 - h.alpha) * (g * g)
        step = g / (array_namespace(theta).sqrt(v) + h.eps)
        if not steps:
            return theta - h.lr * step, v
        b = h.momentum * steps[0] + step
        return theta - h.lr * b, v, b
