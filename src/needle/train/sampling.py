"""Drawing tokens from a language model, one after another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from needle.autograd import Tensor, no_grad
from needle.errors import SettingError, ShapeError
from needle.nn import Module
from needle.nn.module import evaluating

__all__ = ["TokenSampler", "sample_tokens"]

Ids = NDArray[np.int64]


class TokenSampler:
    """Draws a token for each row of logits.

    Formula::

        p = softmax(logits / temperature), of the tokens that are left; all others are never drawn

    Shapes:
        logits: (B, V).
        result: (B,), int64.

    Args:
        temperature: below 1 likely tokens become likelier; 0 takes the likeliest.
        top_k: how many of the likeliest tokens are left; None for all.
        top_p: the fewest tokens are left that have this share of the probability together; 1 for all.
        rng: where draws come from, one a row; NumPy's global generator where None.

    Raises:
        SettingError: a setting out of its range.

    Reference:
        A. Holtzman et al., "The curious case of neural text degeneration", 2019, for top_p.

    Example:
        >>> import numpy as np
        >>> TokenSampler(temperature=0)(np.array([[0.1, 2.0, 0.3]]))
        array([1])
    """

    def __init__(
        self,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float = 1.0,
        rng: np.random.Generator | None = None,
    ) -> None:
        if not temperature >= 0:
            raise SettingError(f"the temperature is 0 or more, got {temperature}")
        if top_k is not None and top_k < 1:
            raise SettingError(f"top_k is 1 or more, got {top_k}")
        if not 0 < top_p <= 1:
            raise SettingError(f"top_p is more than 0 and at most 1, got {top_p}")
        self.temperature = temperature
        self.top_k = top_k
        self.top_p = top_p
        self.rng = rng

    def __call__(self, logits: NDArray[Any]) -> Ids:
        """Return the tokens."""
        if self.temperature == 0:
            return logits.argmax(axis=-1).astype(np.int64)
        p = self.probabilities(logits)
        draws = np.random.rand(len(p)) if self.rng is None else self.rng.random(len(p))
        # The first token at which the sum of probabilities passes the draw: never one of probability 0.
        sums = np.cumsum(p, axis=-1)
        return (sums <= draws[:, None] * sums[:, -1:]).sum(axis=-1).astype(np.int64)

    def probabilities(self, logits: NDArray[Any]) -> NDArray[np.float64]:
        """Return the probability of each token to be drawn: (B, V)."""
        scaled = logits.astype(np.float64) / (self.temperature or 1.0)
        p = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
        p /= p.sum(axis=-1, keepdims=True)
        order = np.argsort(-p, axis=-1, kind="stable")
        ranks = np.argsort(order, axis=-1, kind="stable")
        before = np.cumsum(np.take_along_axis(p, order, -1), axis=-1) - np.take_along_axis(p, order, -1)
        left = np.take_along_axis(before, ranks, -1) < self.top_p
        if self.top_k is not None:
            left &= ranks < self.top_k
        p = np.where(left, p, 0)
        return np.asarray(p / p.sum(axis=-1, keepdims=True))


def sample_tokens(
    model: Module, prompt: Ids, count: int, choose: Callable[[NDArray[Any]], Ids] | None = None
) -> Iterator[int]:
    """Yield tokens that continue a text, one by one.

    A model that has `stream` (such as `needle.models.GPT`) is asked for each token by it; any other one is read as
    `needle.models.LanguageModel` is: ids (T, 1) and a state in, logits (T, V) and the next state out.

    Args:
        model: the language model; it is in evaluation mode meanwhile.
        prompt: (T,), what there is already, one token at least.
        count: how many tokens to draw.
        choose: makes ids (1,) of logits (1, V); a `TokenSampler` where None.

    Raises:
        ShapeError: a prompt of no tokens.
    """
    prompt = np.asarray(prompt).astype(np.int64)
    if prompt.ndim != 1 or not len(prompt):
        raise ShapeError(f"sample_tokens: the prompt is (T,), one token at least, got shape {prompt.shape}")
    choose = choose or TokenSampler()
    with evaluating(model):
        if hasattr(model, "stream"):
            yield from (int(one[0]) for one in model.stream(prompt[None], count, choose))
            return
        yield from _sequential(model, prompt, count, choose)


def _sequential(model: Module, prompt: Ids, count: int, choose: Callable[[NDArray[Any]], Ids]) -> Iterator[int]:
    state: Any = None
    new = prompt[:, None]
    for _ in range(count):
        with no_grad():
            logits, state = model(Tensor(new, requires_grad=False), state)
        new = np.asarray(choose(logits.numpy()[-1:])).astype(np.int64).reshape(1, 1)
        yield int(new[0, 0])
