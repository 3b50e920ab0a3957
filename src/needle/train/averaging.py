"""Averages of the weights over the steps, which often generalise better than the last weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from needle.autograd import Tensor
from needle.device import array_namespace
from needle.dtype import float32, is_narrow
from needle.errors import CheckpointError, SettingError
from needle.nn import Module

__all__ = ["ExponentialMovingAverage"]


class ExponentialMovingAverage:
    """Keeps an average of a model's parameters that forgets exponentially.

    Formula::

        a ← d·a + (1 − d)·θ,   d = min(decay, (1 + t) / (10 + t)),   t the number of updates before

    The smaller d of the first steps keeps the random start from weighing for long. Buffers, such as running statistics,
    are not averaged: they are averages already. Averages of float16 and bfloat16 parameters are kept in float32.

    Args:
        model: whose parameters are averaged; they are where the average starts.
        decay: d after the first steps; 0.999 looks back about 1,000 of them.

    Raises:
        SettingError: `decay` is not between 0 and 1.

    Example:
        >>> import numpy as np
        >>> import needle as ndl
        >>> from needle.train import ExponentialMovingAverage
        >>> model = ndl.nn.Linear(1, 1, bias=False)
        >>> model.weight.data = ndl.Tensor([[0.0]], dtype="float32")
        >>> average = ExponentialMovingAverage(model, decay=0.9)
        >>> model.weight.data = ndl.Tensor([[10.0]], dtype="float32")
        >>> average.update()                 # 0.1 · 0 + 0.9 · 10
        >>> with average.applied():
        ...     model.weight.numpy().item(), model.weight.requires_grad
        (9.0, True)
        >>> model.weight.numpy().item()
        10.0

    Reference:
        B. Polyak, A. Juditsky, "Acceleration of stochastic approximation by averaging", 1992; the growing d is that of
        TensorFlow's `ExponentialMovingAverage`.
    """

    def __init__(self, model: Module, decay: float = 0.999) -> None:
        if not 0 < decay < 1:
            raise SettingError(f"ExponentialMovingAverage: decay is between 0 and 1, got {decay}")
        self.decay = decay
        self.parameters = model.named_parameters()
        self.averages = [Tensor(_wide(p.numpy()), requires_grad=False) for _, p in self.parameters]
        self.updates = Tensor(0.0, dtype=float32, requires_grad=False)

    def update(self) -> None:
        """Take in the parameters as they are now. Can be part of a compiled step."""
        t = self.updates.realize_cached_data()
        xp = array_namespace(t)
        decay = xp.minimum(self.decay, (1.0 + t) / (10.0 + t))
        self.updates.cached_data = xp.asarray(t + 1.0, dtype=float32)
        for (_, parameter), average in zip(self.parameters, self.averages, strict=True):
            a, theta = average.realize_cached_data(), parameter.realize_cached_data()
            share = xp.asarray(1.0 - decay, dtype=a.dtype)
            average.cached_data = xp.asarray(a + share * (xp.astype(theta, a.dtype) - a))

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Have the model use the averages inside the block, to evaluate or to save it, and its own weights after."""
        own = [parameter.realize_cached_data() for _, parameter in self.parameters]
        for (_, parameter), average in zip(self.parameters, self.averages, strict=True):
            data = average.realize_cached_data()
            parameter.cached_data = array_namespace(data).astype(data, parameter.dtype)
        try:
            yield
        finally:
            for (_, parameter), data in zip(self.parameters, own, strict=True):
                parameter.cached_data = data

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Return the averages by their parameters' names, and the number of updates under "updates"."""
        averages = {name: a.numpy() for (name, _), a in zip(self.parameters, self.averages, strict=True)}
        return {**averages, "updates": self.updates.numpy()}

    def load_state_dict(self, saved: Mapping[str, NDArray[Any]]) -> None:
        """Go back to a state that `state_dict` returned.

        Raises:
            CheckpointError: it is of another model. Nothing is changed then.
        """
        own = self.state_dict()
        common = own.keys() & saved.keys()
        names = sorted((own.keys() ^ saved.keys()) | {name for name in common if own[name].shape != saved[name].shape})
        if names:
            raise CheckpointError(f"ExponentialMovingAverage: the state is of another model: {', '.join(names)}")
        for (name, _), average in zip(self.parameters, self.averages, strict=True):
            average.cached_data = np.array(saved[name], dtype=average.dtype)
        self.updates.cached_data = np.array(saved["updates"], dtype=float32)


def _wide(values: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(values, dtype=float32) if is_narrow(values.dtype) else values
