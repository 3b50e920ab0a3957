"""The gated recurrent unit: a recurrent layer with gates and one state."""

from __future__ import annotations

from typing import ClassVar

from numpy.typing import DTypeLike

from needle.autograd import Tensor
from needle.device import Device
from needle.nn.recurrent import Biases, RecurrentCell, RecurrentLayer, stack_cells
from needle.ops.recurrence import GRURecurrence, Recurrence

__all__ = ["GRU", "GRUCell"]


class GRUCell(RecurrentCell):
    """One time step of a gated recurrent unit.

    Formula::

        xr, xz, xn = the three parts, in this order, of X @ W_ih + bias_ih
        hr, hz, hn = the three parts of h @ W_hh + bias_hh
        r = σ(xr + hr)
        z = σ(xz + hz)
        n = tanh(xn + r · hn)
        h' = (1 − z) · n + z · h

    Shapes:
        X: (B, I).
        h: (B, H); zeros where not given.
        result: (B, H).

    Args:
        input_size: the number of features of the input, I.
        hidden_size: the number of features of the state, H.
        bias: whether to add biases; `bias_ih` and `bias_hh` are None otherwise.
        device: where the parameters live; the CPU where not given.
        dtype: of the parameters.

    State:
        W_ih: (I, 3H), W_hh: (H, 3H), bias_ih: (3H,), bias_hh: (3H,), drawn in this order from U(−1/√H, 1/√H).

    Raises:
        SettingError: a size is less than 1.
        ShapeError: when called: X or h has another shape.

    Reference:
        K. Cho et al., "Learning phrase representations using RNN encoder-decoder", 2014. There r multiplies h before
        the product; here, as in PyTorch, the product and its bias.

    Example:
        >>> import needle as ndl
        >>> from needle import nn
        >>> nn.GRUCell(3, 5)(ndl.init.rand(2, 3)).shape
        (2, 5)
    """

    num_gates: ClassVar[int] = 3

    def recurrence(self, reverse: bool = False) -> Recurrence:
        """Return the formula of h'."""
        return GRURecurrence(reverse)

    def biases(self) -> tuple[Biases, Biases]:
        """Return bias_ih, and bias_hh as one inside of the recurrence: r multiplies a part of it."""
        outside, inside = self.bias_ih, self.bias_hh
        return () if outside is None else (outside,), () if inside is None else (inside,)

    def forward(self, X: Tensor, h: Tensor | None = None) -> Tensor:  # noqa: N803  as in RNNCell
        """Return the next state."""
        return self.advance(X, None if h is None else (h,))[0]


class GRU(RecurrentLayer):
    """A gated recurrent unit over a sequence, in one layer or several.

    Formula::

        r, z = σ of the first two parts of Xₜ @ W_ih + bias_ih + hₜ₋₁ @ W_hh + bias_hh
        n = tanh((third part of Xₜ @ W_ih + bias_ih) + r · (third part of hₜ₋₁ @ W_hh + bias_hh))
        hₜ = (1 − z) · n + z · hₜ₋₁

    in the first layer; each further one takes the hₜ of the layer below for Xₜ.

    Shapes:
        X: (T, B, I), or (B, T, I) where `batch_first`.
        h0: (num_layers · D, B, H), with D = 2 directions where `bidirectional`, else 1; zeros where not given.
        result: the outputs (T, B, D·H), or (B, T, D·H); and h_n (num_layers · D, B, H), the last states. In both,
            forward comes before reverse in each layer.

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
        gru_cells: a list of `GRUCell`, one for each layer. The first takes I features, the others D·H.
        reverse_cells: the same for the other direction; empty where not `bidirectional`. Cells are drawn layer by
        layer, forward before reverse.

    Raises:
        SettingError: a size or num_layers is less than 1, or dropout is not in [0, 1).
        ShapeError: when called: X or h0 has another shape, or there is no time step.

    Reference:
        K. Cho et al., "Learning phrase representations using RNN encoder-decoder", 2014; see `GRUCell` for where we
        depart.

    Example:
        >>> import needle as ndl
        >>> from needle import nn
        >>> outputs, h_n = nn.GRU(3, 5, batch_first=True)(ndl.init.rand(4, 7, 3))
        >>> outputs.shape, h_n.shape
        ((4, 7, 5), (1, 4, 5))
    """

    def __init__(  # noqa: PLR0917  the order of LSTM
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
        def make(size: int) -> GRUCell:
            return GRUCell(size, hidden_size, bias, device, dtype)

        self.gru_cells, self.reverse_cells = stack_cells(
            self, make, (input_size, hidden_size), num_layers, bidirectional
        )
        self.configure(num_layers, dropout, batch_first)

    def forward(self, X: Tensor, h0: Tensor | None = None) -> tuple[Tensor, Tensor]:  # noqa: N803  as in RNN
        """Return the outputs and the last states."""
        outputs, (h_n,) = self.run(self.gru_cells, X, None if h0 is None else (h0,))
        return outputs, h_n
