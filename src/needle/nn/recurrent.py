"""Recurrent layers: what all share, and the plain one.

A cell holds the weights of one layer in one direction and makes one time step; a layer runs its cells over the time
steps of a sequence, each on the outputs of the one below. The part of a cell's sums that depends on the input alone is
one matrix product for all time steps together (`project`). The loop over time, which is left with the product of the
state and the gates, is an operator of `needle.ops.recurrence`, and so is the formula of a step.

Sequences are (T, B, features): T time steps of B samples. A state is a tuple of Tensors (B, H) here, of one for most
cells and of two for the LSTM; the first is also the output.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any, ClassVar, TypeVar

from numpy.typing import DTypeLike

from needle import init
from needle.autograd import Tensor
from needle.device import Device
from needle.errors import DTypeError, SettingError, ShapeError
from needle.nn.dropout import Dropout
from needle.nn.module import Module
from needle.nn.parameter import Parameter
from needle.ops import add, concatenate, matmul, reshape, split, stack, transpose
from needle.ops.recurrence import Recurrence, RNNRecurrence, State

__all__ = ["RNN", "RNNCell", "RecurrentCell", "RecurrentLayer"]

_C = TypeVar("_C", bound="RecurrentCell")
Biases = tuple[Tensor, ...]


class RecurrentCell(Module):
    """What all cells share: their parameters, and how a call makes one time step.

    A subclass sets the number of gates, says which `recurrence` it makes, and which biases are inside of that.

    Args:
        input_size: the number of features of the input, I.
        hidden_size: the number of features of the state, H.
        bias: whether to add biases; `bias_ih` and `bias_hh` are None otherwise.
        device: where the parameters live; the CPU where not given.
        dtype: of the parameters.

    State:
        W_ih: (I, gates·H), W_hh: (H, gates·H), bias_ih, bias_hh: (gates·H,), drawn in this order from U(−1/√H, 1/√H).

    Raises:
        SettingError: a size is less than 1.
    """

    num_gates: ClassVar[int] = 1
    num_states: ClassVar[int] = 1

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: Device | None = None,
        dtype: DTypeLike = "float32",
    ) -> None:
        if input_size < 1 or hidden_size < 1:
            raise SettingError(
                f"{type(self).__name__}: input_size and hidden_size are at least 1, got {input_size} and {hidden_size}"
            )
        width, bound = self.num_gates * hidden_size, 1 / math.sqrt(hidden_size)

        def uniform(*shape: int) -> Parameter:
            return Parameter(init.rand(*shape, low=-bound, high=bound, device=device, dtype=dtype))

        self.W_ih = uniform(input_size, width)  # (I, gates·H)
        self.W_hh = uniform(hidden_size, width)  # (H, gates·H)
        self.bias_ih = uniform(width) if bias else None  # (gates·H,)
        self.bias_hh = uniform(width) if bias else None  # (gates·H,)
        self.input_size = input_size
        self.hidden_size = hidden_size

    def recurrence(self, reverse: bool = False) -> Recurrence:
        """Return the operator that knows the formula of a step."""
        raise NotImplementedError

    def biases(self) -> tuple[Biases, Biases]:
        """Return the biases that are added to the input's part of the sums, and those inside of the recurrence."""
        return tuple(one for one in (self.bias_ih, self.bias_hh) if one is not None), ()

    def project(self, x: Tensor) -> Tensor:
        """Return the part of the sums that depends on the input alone: (N, I) to (N, gates·H), for any N time steps."""
        sums = matmul(x, self.W_ih)
        biases, _ = self.biases()
        return add(sums, reduce(add, biases)) if biases else sums

    def run(self, x: Tensor, state: State, reverse: bool) -> tuple[Tensor, ...]:
        """Return the states after each step of a sequence (T, B, I), each (T, B, H) in the order of the input."""
        steps, batch, features = x.shape
        sums = self.project(reshape(x, (steps * batch, features)))  # (T·B, gates·H), one product for all time steps
        sums = reshape(sums, (steps, batch, sums.shape[1]))
        return self.recurrence(reverse)(sums, self.W_hh, *state, *self.biases()[1]).tuple()

    def advance(self, x: Tensor, state: Sequence[Tensor] | None) -> State:
        """Make one time step from a given state, or from zeros.

        Raises:
            ShapeError: x is not (B, input_size), or a state not (B, hidden_size).
        """
        name = type(self).__name__
        if x.ndim != 2 or x.shape[1] != self.input_size:
            raise ShapeError(f"{name} takes X of shape (B, {self.input_size}), got {x.shape}")
        start = checked_state(name, self, state, (x.shape[0], self.hidden_size))
        return self.recurrence().step(self.project(x), self.W_hh, start, *self.biases()[1])

    def extra_repr(self) -> str:
        """Return the sizes."""
        return f"{self.input_size} → {self.hidden_size}" + ("" if self.bias_ih is not None else ", bias=False")


def checked_state(name: str, cell: RecurrentCell, state: Any, shape: tuple[int, ...]) -> State:
    """Return the state to start from: what was given, or zeros where nothing was.

    Raises:
        DTypeError: there are not as many Tensors as the cell has states.
        ShapeError: one has not the shape that is asked for.
    """
    if state is None:
        like = cell.W_hh
        return (init.zeros(*shape, device=like.device, dtype=like.dtype),) * cell.num_states
    names = ("h", "c")[: cell.num_states]
    if isinstance(state, Tensor) or len(state) != len(names):
        raise DTypeError(f"{name} takes the state as a pair (h, c), got {_kind(state)}")
    for letter, one in zip(names, state, strict=True):
        if one.shape != shape:
            raise ShapeError(f"{name} takes {letter} of shape {shape}, got {one.shape}")
    return tuple(state)


def _kind(state: Any) -> str:
    return f"a {type(state).__name__}" + ("" if isinstance(state, Tensor) else f" of {len(state)}")


class RecurrentLayer(Module):
    """What all layers share: running cells over time, one on top of the other, in one direction or in both.

    A subclass makes its cells (`stack_cells`), calls `configure`, and calls `run` in its `forward`.
    """

    reverse_cells: Sequence[RecurrentCell]

    def configure(self, num_layers: int, dropout: float, batch_first: bool) -> None:
        """Set what does not depend on the kind of cell.

        Raises:
            SettingError: dropout is not in [0, 1).
        """
        if not 0 <= dropout < 1:
            raise SettingError(f"{type(self).__name__}: dropout is a probability in [0, 1), got {dropout}")
        self.dropout = Dropout(dropout) if dropout else None
        self.num_layers = num_layers
        self.batch_first = batch_first

    def run(
        self, cells: Sequence[RecurrentCell], x: Tensor, state: Sequence[Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the outputs of the last layer at all time steps, and the last state of every layer and direction."""
        x = self._time_first(x, cells[0].input_size)
        starts = self._starts(cells, x.shape[1], state)
        ends: list[State] = []
        for number, cell in enumerate(cells):
            if number and self.dropout is not None:
                x = self.dropout(x)
            outputs = []
            for one in (cell, *self.reverse_cells[number : number + 1]):
                states = one.run(x, starts[len(ends)], reverse=one is not cell)
                outputs.append(states[0])
                ends.append(tuple(state[-1 if one is cell else 0] for state in states))
            x = outputs[0] if len(outputs) == 1 else concatenate(outputs, 2)  # (T, B, directions·H)
        last = tuple(stack(one, 0) for one in zip(*ends, strict=True))  # each (num_layers·directions, B, H)
        return (transpose(x, (0, 1)) if self.batch_first else x), last

    def _time_first(self, x: Tensor, input_size: int) -> Tensor:
        """Return the input as (T, B, I), checked."""
        name = type(self).__name__
        if x.ndim != 3 or x.shape[2] != input_size:
            axes = "B, T" if self.batch_first else "T, B"
            raise ShapeError(f"{name} takes X of shape ({axes}, {input_size}), got {x.shape}")
        if not x.shape[int(self.batch_first)]:
            raise ShapeError(f"{name} takes at least one time step, got X of shape {x.shape}")
        return transpose(x, (0, 1)) if self.batch_first else x

    def _starts(self, cells: Sequence[RecurrentCell], batch: int, state: Any) -> list[State]:
        """Return the state that each layer and direction starts from."""
        count = len(cells) + len(self.reverse_cells)
        cell = cells[0]
        name = type(self).__name__
        if state is None:
            return [checked_state(name, cell, None, (batch, cell.hidden_size))] * count
        given = checked_state(name, cell, state, (count, batch, cell.hidden_size))
        return list(zip(*(split(one, 0).tuple() for one in given), strict=True))

    def extra_repr(self) -> str:
        """Return the options that are set."""
        options = [f"{self.num_layers} layer" + ("s" if self.num_layers > 1 else "")]
        options += ["bidirectional"] if self.reverse_cells else []
        options += ["batch_first"] if self.batch_first else []
        return ", ".join(options)


def stack_cells(
    layer: RecurrentLayer,
    make_cell: Callable[[int], _C],
    sizes: tuple[int, int],
    num_layers: int,
    bidirectional: bool,
) -> tuple[list[_C], list[_C]]:
    """Make the cells of a layer in the order in which data flows through them: forward, then reverse, layer by layer.

    Args:
        layer: which, for messages.
        make_cell: makes a cell for a number of input features.
        sizes: the number of features of the input and of the state.
        num_layers: how many there are on top of each other.
        bidirectional: whether there is a reverse cell in each; the second list is empty otherwise.

    Raises:
        SettingError: num_layers is less than 1.
    """
    if num_layers < 1:
        raise SettingError(f"{type(layer).__name__}: num_layers is at least 1, got {num_layers}")
    directions = 2 if bidirectional else 1
    made = [
        [make_cell(sizes[0] if number == 0 else directions * sizes[1]) for _ in range(directions)]
        for number in range(num_layers)
    ]
    return [cells[0] for cells in made], [cells[1] for cells in made if bidirectional]


class RNNCell(RecurrentCell):
    """One time step of a plain recurrent layer.

    Formula::

        h' = f(X @ W_ih + bias_ih + h @ W_hh + bias_hh)      f: tanh or ReLU

    Shapes:
        X: (B, I).
        h: (B, H); zeros where not given.
        result: (B, H).

    Args:
        input_size: the number of features of the input, I.
        hidden_size: the number of features of the state, H.
        bias: whether to add biases; `bias_ih` and `bias_hh` are None otherwise.
        nonlinearity: "tanh" or "relu".
        device: where the parameters live; the CPU where not given.
        dtype: of the parameters.

    State:
        W_ih: (I, H), W_hh: (H, H), bias_ih: (H,), bias_hh: (H,), drawn in this order from U(−1/√H, 1/√H).

    Raises:
        SettingError: the nonlinearity is another, or a size is less than 1.
        ShapeError: when called: X or h has another shape.

    Reference:
        J. Elman, "Finding structure in time", 1990.

    Example:
        >>> import needle as ndl
        >>> from needle import nn
        >>> cell = nn.RNNCell(3, 5)
        >>> h = cell(ndl.init.rand(2, 3))
        >>> cell(ndl.init.rand(2, 3), h).shape
        (2, 5)
    """

    def __init__(  # noqa: PLR0917  the contract's order
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        device: Device | None = None,
        dtype: DTypeLike = "float32",
    ) -> None:
        if nonlinearity not in ("tanh", "relu"):
            raise SettingError(f"{type(self).__name__}: nonlinearity is 'tanh' or 'relu', got {nonlinearity!r}")
        super().__init__(input_size, hidden_size, bias, device, dtype)
        self.nonlinearity = nonlinearity

    def recurrence(self, reverse: bool = False) -> Recurrence:
        """Return h' = f(… + h @ W_hh)."""
        return RNNRecurrence(reverse, self.nonlinearity)

    def forward(self, X: Tensor, h: Tensor | None = None) -> Tensor:  # noqa: N803  the contract's name
        """Return the next state."""
        return self.advance(X, None if h is None else (h,))[0]


class RNN(RecurrentLayer):
    """A plain recurrent network over a sequence, in one layer or several.

    Formula::

        hₜ = f(Xₜ @ W_ih + bias_ih + hₜ₋₁ @ W_hh + bias_hh)      f: tanh or ReLU

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
        nonlinearity: "tanh" or "relu".
        device: where the parameters live; the CPU where not given.
        dtype: of the parameters.
        bidirectional: whether each layer also runs from the last time step to the first, with weights of its own.
        dropout: the probability that an output is dropped on its way to the next layer, in training.
        batch_first: whether the batch is the first axis of input and outputs. States are as always.

    State:
        rnn_cells: a list of `RNNCell`, one for each layer. The first takes I features, the others D·H.
        reverse_cells: the same for the other direction; empty where not `bidirectional`. Cells are drawn layer by
        layer, forward before reverse.

    Raises:
        SettingError: the nonlinearity is another, a size or num_layers is less than 1, or dropout is not in [0, 1).
        ShapeError: when called: X or h0 has another shape, or there is no time step.

    Reference:
        J. Elman, "Finding structure in time", 1990.
        M. Schuster, K. Paliwal, "Bidirectional recurrent neural networks", 1997.

    Example:
        >>> import needle as ndl
        >>> from needle import nn
        >>> outputs, h_n = nn.RNN(3, 5, num_layers=2)(ndl.init.rand(7, 4, 3))
        >>> outputs.shape, h_n.shape
        ((7, 4, 5), (2, 4, 5))
    """

    def __init__(  # noqa: PLR0917  the contract's order
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        nonlinearity: str = "tanh",
        device: Device | None = None,
        dtype: DTypeLike = "float32",
        *,
        bidirectional: bool = False,
        dropout: float = 0.0,
        batch_first: bool = False,
    ) -> None:
        def make(size: int) -> RNNCell:
            return RNNCell(size, hidden_size, bias, nonlinearity, device, dtype)

        self.rnn_cells, self.reverse_cells = stack_cells(
            self, make, (input_size, hidden_size), num_layers, bidirectional
        )
        self.configure(num_layers, dropout, batch_first)

    def forward(self, X: Tensor, h0: Tensor | None = None) -> tuple[Tensor, Tensor]:  # noqa: N803  the contract's name
        """Return the outputs and the last states."""
        outputs, (h_n,) = self.run(self.rnn_cells, X, None if h0 is None else (h0,))
        return outputs, h_n
