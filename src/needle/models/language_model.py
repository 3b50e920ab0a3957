"""A language model: what may come next in a text, by a recurrent network or a transformer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from needle.autograd import Tensor, no_grad
from needle.device import Device
from needle.errors import SettingError, ShapeError
from needle.models.generation import Choose, Generator
from needle.nn import GRU, LSTM, RNN, Embedding, Linear, Module, Transformer
from needle.ops import reshape

__all__ = ["SEQUENCE_MODELS", "LanguageModel"]

State = Tensor | tuple[Tensor, ...]

# What `seq_model` may be: each takes an input (T, B, embedding_size) and a state, and gives an output and a state.
SEQUENCE_MODELS: Mapping[str, Callable[..., Module]] = {
    "rnn": RNN,
    "lstm": LSTM,
    "gru": GRU,
    "transformer": Transformer,
}


class LanguageModel(Generator):
    """Vectors of tokens, a network that goes along them, and a linear map to a logit for each token that may follow.

    Formula::

        e = embedding(x);   y, h′ = seq_model(e, h);   logits = linear(y)

    Shapes:
        x: (T, B), token ids of any integer or floating-point dtype.
        h: the sequence model's state: (num_layers, B, hidden_size), of an LSTM two of them; None is zeros.
        result: logits (T·B, output_size), row t·B + b for what follows x[t, b], and the state after the last token.

    Args:
        embedding_size: the number of features of a token.
        output_size: the number of tokens that are told apart.
        hidden_size: the number of features of the recurrent network's state; the width of a transformer's hidden layer.
        num_layers: the number of layers.
        seq_model: "rnn", "lstm", "gru" or "transformer".
        seq_len: the longest T that a transformer takes. Recurrent networks take any.
        device: where the parameters live; the CPU where not given.
        dtype: of the parameters.
        dropout: the probability that an element is dropped between layers of a recurrent network, and everywhere that
            `nn.Transformer` drops.

    State:
        embedding: (output_size, embedding_size), drawn first; then `seq_model`; then `linear` to output_size, from
        hidden_size features, of a transformer from embedding_size.

    Raises:
        SettingError: there is no such `seq_model`.
        ShapeError: x has another number of axes.

    Reference:
        T. Mikolov et al., "Recurrent neural network based language model", 2010.

    Example:
        >>> import needle as ndl
        >>> from needle.models import LanguageModel
        >>> model = LanguageModel(16, output_size=50, hidden_size=32, seq_model="lstm")
        >>> logits, (h, c) = model(ndl.init.zeros(7, 3))
        >>> logits.shape, h.shape
        ((21, 50), (1, 3, 32))
    """

    def __init__(  # noqa: PLR0917  the contract's order
        self,
        embedding_size: int,
        output_size: int,
        hidden_size: int,
        num_layers: int = 1,
        seq_model: str = "rnn",
        seq_len: int = 40,
        device: Device | None = None,
        dtype: DTypeLike = "float32",
        *,
        dropout: float = 0.0,
    ) -> None:
        if seq_model not in SEQUENCE_MODELS:
            raise SettingError(f"LanguageModel: seq_model is one of {', '.join(SEQUENCE_MODELS)}, got {seq_model!r}")
        place: dict[str, Any] = {"device": device, "dtype": dtype}
        is_transformer = seq_model == "transformer"
        own = {"sequence_len": seq_len} if is_transformer else {}
        # A transformer has no state: it looks at the tokens themselves, so many at most.
        self.window = seq_len if is_transformer else None
        self.embedding = Embedding(output_size, embedding_size, **place)
        make = SEQUENCE_MODELS[seq_model]
        self.seq_model = make(embedding_size, hidden_size, num_layers, dropout=dropout, **own, **place)
        self.linear = Linear(embedding_size if is_transformer else hidden_size, output_size, **place)

    def forward(self, x: Tensor, h: State | None = None) -> tuple[Tensor, State]:
        """Return the logits of what follows each token, and the state after the last one."""
        if x.ndim != 2:
            raise ShapeError(f"LanguageModel: takes token ids (T, B), got shape {x.shape}")
        y, h = self.seq_model(self.embedding(x), h)
        return self.linear(reshape(y, (-1, y.shape[-1]))), h

    def stream(self, ids: NDArray[np.int64], count: int, choose: Choose) -> Iterator[NDArray[np.int64]]:
        """Yield what follows sequences (B, T), token by token: (B,) each. The mode is left as it is.

        Recurrent networks read each token once. A transformer reads the last `seq_len` of them anew for each token.
        """
        state: State | None = None
        new = ids.T  # (T, B)
        for _ in range(count):
            with no_grad():
                logits, state = self(
                    Tensor(new if self.window is None else new[-self.window :], requires_grad=False), state
                )
            chosen = np.asarray(choose(logits.numpy()[-len(ids) :])).astype(np.int64).reshape(1, -1)
            new = chosen if self.window is None else np.concatenate([new, chosen])
            yield chosen[0]
