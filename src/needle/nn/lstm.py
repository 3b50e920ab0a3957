"""Long short-term memory: a recurrent layer with a memory cell that gates write, keep and read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from numpy.typing import DTypeLike

from needle.autograd import Tensor
from needle.device import Device
from needle.nn.recurrent import RecurrentCell, RecurrentLayer, stack_cells
from needle.ops.recurrence import LSTMRecurrence, Recurrence

__all__ = ["LSTM", "LSTMCell"]


class LSTMCell(RecurrentCell):
    """One time step of a long short-term memory.

    Formula::

        i, f, g, o = the four parts, in this order, of X @ W_ih + bias_ih + h @ W_hh + bias_hh
        c' = σ(f) · c + σ(i) · tanh(g)
        h' = σ(o) · tanh(c')

    Shapes:
        X: (B, I).
        h: a pair (h, c), each (B, H); zeros where not given.
        result: a pair (h', c'), each (B, H).

    Args:
        input_size: the number of features of the input, I.
        hidden_size: the number of features of a state, H.
        bias: whether to add biases; `bias_ih` and `bias_hh` are None otherwise.
        device: where the parameters live; the CPU where not given.
        dtype: of the parameters.

    State:
        W_ih: (I, 4H), W_hh: (H, 4H), bias_ih: (4H,), bias_hh: (4H,), drawn in this order from U(−1/√H, 1/√H).

    Raises:
        SettingError: a size is less than 1.
        ShapeError: when called: X, h or c has another shape.
        DTypeError: when called: the state is no pair.

    Reference:
        S. Hochreiter, J. Schmidhuber, "Long short-term memory", 1997; with the forget gate f of F. Gers et al.,
        "Learning to forget", 2000.

    Example:
        >>> import needle as ndl
        >>> from needle import nn
        >>> cell = nn.LSTMCell(3, 5)
        >>> h, c = cell(ndl.init.rand(2, 3))
        >>> h, c = cell(ndl.init.rand(2, 3), (h, c))
        >>> h.shape, c.shape
        ((2, 5), (2, 5))
    """

    num_gates: ClassVar[int] = 4
    num_states: ClassVar[int] = 2

    def recurrence(self, reverse: bool = False) -> Recurrence:
        """Return the formula of h' and c'."""
        return LSTMRecurrence(reverse)

    def forward(self, X: Tensor, h: Sequence[Tensor] | None = None) -> tuple[Tensor, Tensor]:  # noqa: N803  the contract's name
        """Return the next state: the pair (h', c')."""
        h_next, c_next = self.advance(X, h)
        return h_next, c_next


class LSTM(RecurrentLayer):
    """A long short-term memory over a sequence, in one layer or several.

    Formula::

        i, f, g, o = the four parts of Xₜ @ W_ih + bias_ih + hₜ₋₁ @ W_hh + bias_hh
        cₜ = σ(f) · cₜ₋₁ + σ(i) · tanh(g)
        hₜ = σ(o) · tanh(cₜ)

    in the first layer; each further one takes the hₜ of the layer below for Xₜ.

    Shapes:
        X: (T, B, I), or (B, T, I) where `batch_first`.
        h: a pair (h0, c0), each (num_layers · D, B, H), with D = 2 directions where `bidirectional`, else 1; zeros
            where not given.
        result: (outputs, (h_n, c_n)): the outputs (T, B, D·H), or (B, T, D·H), and the last states, each
            (num_layers · D, B, H). In all, forward comes before reverse in each layer.

    Args:
        input_size: the number of features of the input, I.
        hidden_size: the number of features of a state, H.
        num_layers: how many layers are on top of each other.
        bias: whether to add biases.
        device: where the parameters live; the CPU where not given.
        dtype: of the parameters.
        bidirectional: whether each layer also runs from the last time step to the first, with weights of its own.
        dropout: the probability that an output is dropped on its way to the next layer, in training.
        batch_first: whether the batch is the first axis of input and outputs. States are as always.

    State:
        lstm_cells: a list of `LSTMCell`, one for each layer. The first takes I features, the others D·H.
        reverse_cells: the same for the other direction; empty where not `bidirectional`. Cells are drawn layer by
        layer, forward before reverse.

    Raises:
        SettingError: a size or num_layers is less than 1, or dropout is not in [0, 1).
        ShapeError: when called: X, h0 or c0 has another shape, or there is no time step.
        DTypeError: when called: the state is no pair.

    Reference:
        S. Hochreiter, J. Schmidhuber, "Long short-term memory", 1997.

    Example:
        >>> import needle as ndl
        >>> from needle import nn
        >>> outputs, (h_n, c_n) = nn.LSTM(3, 5, bidirectional=True)(ndl.init.rand(7, 4, 3))
        >>> outputs.shape, h_n.shape, c_n.shape
        ((7, 4, 10), (2, 4, 5), (2, 4, 5))
    """

    def __init__(  # noqa: PLR0917  the contract's order
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        device: Device | None = None,
        dtype: DTypeLike = "float32",
        *,
        bidirectional: bool = False,
        dropout: float = 0.0,
        batch_first: bool = False,
    ) -> None:
        def make(size: int) -> LSTMCell:
            return LSTMCell(size, hidden_size, bias, device, dtype)

        self.lstm_cells, self.reverse_cells = stack_cells(
            self, make, (input_size, hidden_size), num_layers, bidirectional
        )
        self.configure(num_layers, dropout, batch_first)

    def forward(
        self,
        X: Tensor,  # noqa: N803  the contract's name
        h: Sequence[Tensor] | None = None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Return the outputs and the pair of the last states."""
        outputs, (h_n, c_n) = self.run(self.lstm_cells, X, h)
        return outputs, (h_n, c_n)
