"""Stochastic gradient descent."""

from __future__ import annotations

from types import SimpleNamespace

from needle.autograd import Tensor
from needle.device import Array
from needle.errors import SettingError
from needle.optim.optimizer import Optimizer, Parameters, Rate

__all__ = ["SGD"]


class SGD(Optimizer):
    """Stochastic gradient descent with damped momentum.

    Formula::

        g = grad + weight_decay·θ + l1_decay·sign(θ)
        u ← momentum·u + (1 − momentum)·g
        θ ← θ − lr·u
        nesterov: θ ← θ − lr·(momentum·u + (1 − momentum)·g)

    The factor 1 − momentum makes u an average of past gradients, so that a change of momentum does not change the size
    of the steps. Other libraries leave it out: their learning rate is (1 − momentum) times the one here.

    Args:
        params: Tensors, or groups of them (see `Optimizer`).
        lr: the learning rate: a number, or a function of the step's number.
        momentum: how much of the average stays from step to step; 0 for none.
        weight_decay: strength λ of the L2 penalty λ/2·Σθ².
        nesterov: look one step of momentum ahead.
        l1_decay: strength of the L1 penalty Σ|θ|.

    State:
        u: for each parameter, the average of its gradients; starts at 0. Not kept where momentum is 0.

    Raises:
        SettingError: no parameters, or a hyperparameter that makes no sense.

    Reference:
        I. Sutskever et al., "On the importance of initialization and momentum in deep learning", 2013 (Nesterov).

    Example:
        >>> import needle as ndl
        >>> w = ndl.Tensor([1.0])
        >>> opt = ndl.optim.SGD([w], lr=0.1)
        >>> (w * w).sum().backward(); opt.step(); w
        needle.Tensor([0.8])
    """

    state_names = ("u",)
    u: dict[Tensor, Tensor]

    def __init__(
        self,
        params: Parameters,
        lr: Rate = 0.01,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        l1_decay: float = 0.0,
    ) -> None:
        super().__init__(
            params, lr=lr, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov, l1_decay=l1_decay
        )

        if nesterov and not momentum:
            raise SettingError("SGD: nesterov looks ahead along the momentum, and momentum is 0")

    def state_in_use(self, h: SimpleNamespace) -> tuple[str, ...]:
        """Return u, or nothing where there is no momentum."""
        return self.state_names if h.momentum else ()

    def update(self, theta: Array, g: Array, h: SimpleNamespace, *state: Array) -> tuple[Array, ...]:
        """Make one step: see the class's formula."""
        if not state:
            return (theta - h.lr * g,)
        (u,) = state
        damped = (1 - h.momentum) * g
        u = h.momentum * u + damped
        direction = h.momentum * u + damped if h.nesterov else u
        return theta - h.lr * direction, u
