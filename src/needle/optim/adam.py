"""Adam and its variant with decoupled weight decay."""

from __future__ import annotations

from types import SimpleNamespace

from needle.autograd import Tensor
from needle.device import Array, array_namespace
from needle.optim.optimizer import Optimizer, Parameters, Rate

__all__ = ["Adam", "AdamW"]


class Adam(Optimizer):
    """Adaptive moment estimation: steps whose size does not depend on the gradient's scale.

    Formula::

        g = grad + weight_decay·θ + l1_decay·sign(θ)
        t ← t + 1
        m ← beta1·m + (1 − beta1)·g          m̂ = m / (1 − beta1ᵗ)
        v ← beta2·v + (1 − beta2)·g²         v̂ = v / (1 − beta2ᵗ)
        θ ← θ − lr·m̂ / (√v̂ + eps)

    Args:
        params: Tensors, or groups of them (see `Optimizer`).
        lr: the learning rate: a number, or a function of the step's number. 0.01 by default; 0.001 is usual for
            larger networks.
        beta1: how much of the average of gradients stays from step to step.
        beta2: how much of the average of squared gradients stays.
        eps: keeps the division finite where gradients are 0.
        weight_decay: strength of an L2 penalty, added to the gradient. `AdamW` decays the weights themselves.
        l1_decay: strength of the L1 penalty Σ|θ|.

    State:
        m, v: for each parameter, the averages; they start at 0, which the division by 1 − betaᵗ makes up for.

    Raises:
        SettingError: no parameters, or a hyperparameter that makes no sense.

    Reference:
        D. Kingma, J. Ba, "Adam: a method for stochastic optimization", 2015, algorithm 1.
    """

    state_names = ("m", "v")
    m: dict[Tensor, Tensor]
    v: dict[Tensor, Tensor]

    def __init__(  # noqa: PLR0917  the contract's order
        self,
        params: Parameters,
        lr: Rate = 0.01,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        l1_decay: float = 0.0,
    ) -> None:
        super().__init__(params, lr=lr, beta1=beta1, beta2=beta2, eps=eps, weight_decay=weight_decay, l1_decay=l1_decay)

    def update(self, theta: Array, g: Array, h: SimpleNamespace, *state: Array) -> tuple[Array, ...]:
        """Make one step: see the class's formula."""
        m, v = state
        m = h.beta1 * m + (1 - h.beta1) * g
        v = h.beta2 * v + (1 - h.beta2) * (g * g)
        # √v̂ = √v · (1 − beta2ᵗ)^−½: one division an element less than by v̂.
        root = array_namespace(theta).sqrt(v) * (1 - h.beta2**h.t) ** -0.5
        return theta - (h.lr / (1 - h.beta1**h.t)) * m / (root + h.eps), m, v


class AdamW(Adam):
    """Adam with weight decay beside the step instead of in the gradient.

    Formula::

        θ ← θ − lr·weight_decay·θ − lr·m̂ / (√v̂ + eps)      m̂, v̂ as in Adam, of the gradient without decay

    So that weights with large gradients shrink as fast as those with small ones. Arguments, state and errors are those
    of `Adam`; weight_decay is usually larger here (0.01 to 0.1).

    Reference:
        I. Loshchilov, F. Hutter, "Decoupled weight decay regularization", 2019, algorithm 2.
    """

    decouples_decay = True

    def __init__(  # noqa: PLR0917  the contract's order
        self,
        params: Parameters,
        lr: Rate = 0.001,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        *,
        l1_decay: float = 0.0,
    ) -> None:
        super().__init__(params, lr, beta1, beta2, eps, weight_decay, l1_decay=l1_decay)

    def update(self, theta: Array, g: Array, h: SimpleNamespace, *state: Array) -> tuple[Array, ...]:
        """Make one step: see the class's formula."""
        return super().update(theta * (1 - h.lr * h.weight_decay), g, h, *state)
