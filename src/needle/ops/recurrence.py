"""Recurrences: the loop of a recurrent cell over all time steps, one operator each.

A step is a few small operators (`step`, which is the definition), and a sequence of them is a long chain. As one
operator the chain costs no graph, and its gradient is grouped by what it depends on: a step backwards is linear in the
adjoint, with slopes made of what the step forward kept, and the gradient of the weights is one matrix product for all
time steps after the loop:

    sₜ = xₜ + hₜ₋₁ @ w                      the sums of all gates; hₜ is made of them
    ∂loss/∂sₜ = (∂loss/∂hₜ) · slopesₜ        from the last time step to the first
    ∂loss/∂hₜ₋₁ = ∂loss/∂sₜ @ wᵀ + …
    ∂loss/∂w = Σₜ hₜ₋₁ᵀ @ ∂loss/∂sₜ

Inputs are x: (T, B, gates·H), the input's part of the sums; w: (H, gates·H); the states to start from, each (B, H); and
biases, if the recurrence has any. Results are the states after each step, each (T, B, H), at the place of its input
also where the steps are made from the last to the first (`reverse`).

Inside `ndl.autocast` the factors of the products are rounded to the narrow dtype, and their sums are float32, as all
else is: states, gates and what is kept stay wide.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from operator import add as plus
from typing import Any, ClassVar

from needle import tracing
from needle.autocasting import autocast_dtype
from needle.autograd import Tensor, TensorTuple, TensorTupleOp
from needle.device import Array, array_namespace
from needle.dtype import float32
from needle.ops.activation import relu, sigmoid
from needle.ops.arithmetic import add, multiply, subtract
from needle.ops.casting import astype
from needle.ops.composition import gradients_of_adjoint
from needle.ops.elementwise import tanh
from needle.ops.joining import split, stack
from needle.ops.linear_algebra import matmul
from needle.ops.movement import reshape

__all__ = ["GRURecurrence", "LSTMRecurrence", "RNNRecurrence", "Recurrence", "RecurrenceAdjoint"]

State = tuple[Tensor, ...]
Arrays = tuple[Array, ...]
Kept = tuple[Any, ...]
Step = Callable[..., tuple[Arrays, Arrays]]

# Compiled, so many steps and more are a loop; what is written out of fewer is planned soon enough.
_FEWEST_STEPS = 16


class Recurrence(TensorTupleOp):
    """What all recurrences share: the order of the steps, what is kept for the gradient, and the gradient's node."""

    num_states: ClassVar[int] = 1

    def __init__(self, reverse: bool = False) -> None:
        self.reverse = reverse
        self.narrow = autocast_dtype()
        self.seen: list[Callable[[], Any]] = []
        self.kept: tuple[Any, ...] = ()

    def step(self, x: Tensor, w: Tensor, state: State, *biases: Tensor) -> State:
        """Return the next state, from x: (B, gates·H) and the state before. Sequences are repetitions of this."""
        raise NotImplementedError

    def sweep(self, x: Array, w: Array, *rest: Array) -> tuple[Arrays, Kept]:
        """Return the states after each step, and what else the gradient needs of each, in the order they are made."""
        raise NotImplementedError

    def sweep_back(self, grads: Arrays, inputs: Arrays, states: Arrays, kept: Kept) -> Arrays:
        """Return the inputs' adjoints from those of the states, and from what `sweep` returned."""
        raise NotImplementedError

    def compute(self, *inputs: Array) -> Arrays:
        states, kept = self.sweep(*inputs)
        self.seen = [weakref.ref(array) for array in inputs]
        self.kept = (*states, *kept)
        return states

    def remembered(self, inputs: Arrays) -> tuple[Arrays, Kept]:
        """Return what `sweep` returned for these very arrays; they are swept again where others came since."""
        if not self.seen or any(seen() is not array for seen, array in zip(self.seen, inputs, strict=True)):
            self.compute(*inputs)
        return self.kept[: self.num_states], self.kept[self.num_states :]

    def gradient(self, out_grad: TensorTuple, node: TensorTuple) -> tuple[Tensor, ...]:
        return RecurrenceAdjoint(self)(*out_grad, *node.inputs).tuple()

    def factor(self, array: Array) -> Array:
        """Return a factor of a product, rounded where products are narrow."""
        if self.narrow is None or array.dtype != float32:
            return array
        xp = array_namespace(array)
        return xp.astype(xp.astype(array, self.narrow), float32)

    def product(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the product of a state and the weights, in float32 also where its factors are rounded."""
        if self.narrow is None or a.dtype != float32:
            return matmul(a, b)
        return matmul(*(astype(astype(one, self.narrow), float32) for one in (a, b)))

    def composed(self, x: Tensor, w: Tensor, *rest: Tensor) -> State:
        """Return what this operator returns, put together of the small operators of `step`."""
        state, biases = rest[: self.num_states], rest[self.num_states :]
        steps = []
        for one in self.ordered(split(x, 0).tuple()):
            state = self.step(one, w, state, *biases)
            steps.append(state)
        return tuple(stack(list(self.ordered(one)), 0) for one in zip(*steps, strict=True))

    def weight_gradient(self, start: Array, states: Array, sums_grad: Array) -> Array:
        """Return Σₜ hₜ₋₁ᵀ @ ∂loss/∂sₜ as one product: (H, T·B) @ (T·B, gates·H)."""
        xp = array_namespace(states)
        steps, batch, hidden = states.shape
        rows = xp.reshape(self.factor(self.before(start, states)), (steps * batch, hidden))
        sums = xp.reshape(self.factor(sums_grad), (steps * batch, sums_grad.shape[2]))
        return xp.matmul(xp.matrix_transpose(rows), sums)

    def ordered(self, steps: Sequence[Any]) -> Iterator[Any]:
        """Put what is in the order of time into the order in which the steps are made, or back."""
        return reversed(steps) if self.reverse else iter(steps)

    def in_time(self, steps: Sequence[Array]) -> Array:
        """Return arrays, one for each step as they were made, along a new axis of time."""
        return array_namespace(steps[0]).stack(list(self.ordered(steps)))

    def before(self, start: Array, states: Array) -> Array:
        """Return the state that each step began with: (T, B, H)."""
        first = start[None]
        parts = [states[1:], first] if self.reverse else [first, states[:-1]]
        return array_namespace(states).concat(parts, axis=0)

    def backwards(self, steps: int) -> Iterator[int]:
        """Return the times from the last step made to the first."""
        return iter(range(steps)) if self.reverse else iter(range(steps - 1, -1, -1))

    def made_backwards(self, steps: Sequence[Array]) -> Array:
        """Return arrays, one for each step as `backwards` goes through them, along a new axis of time."""
        return array_namespace(steps[0]).stack(steps if self.reverse else steps[::-1])

    def along(self, step: Step, x: Array, state: Arrays) -> tuple[Arrays, Kept]:
        """Make a step (state…, xₜ) → (state, kept) for each time, in its order; return all states, and what is kept.

        What is kept has an entry for each step made, and is for `back` only.
        """
        loop = _loop(x)
        if loop is not None:

            def giving(*inputs: Array) -> tuple[Arrays, Arrays]:
                on, kept = step(*inputs)
                return on, (*on, *kept)

            given = loop(giving, state, (x,), backwards=self.reverse)[1]
            return given[: self.num_states], given[self.num_states :]
        steps, all_kept = [], []
        for t in self.ordered(range(x.shape[0])):
            state, kept = step(*state, x[t])
            steps.append(state)
            all_kept.append(kept)
        return tuple(map(self.in_time, zip(*steps, strict=True))), tuple(all_kept)

    def back(self, step: Step, sequences: Arrays, kept: Kept, carried: Arrays) -> tuple[Arrays, Arrays]:
        """Make a step (carried…, elements…, kept…) → (carried, given) for each time, from the last one made on.

        Returns what was carried last, and what all steps gave, in the order of time.
        """
        loop = _loop(sequences[0])
        if loop is not None:
            last, given = loop(step, carried, (*sequences, *kept), backwards=not self.reverse)
            return last, given
        steps = []
        for t, one in zip(self.backwards(sequences[0].shape[0]), reversed(kept), strict=True):
            carried, given = step(*carried, *(sequence[t] for sequence in sequences), *one)
            steps.append(given)
        return carried, tuple(map(self.made_backwards, zip(*steps, strict=True)))


def _loop(sequence: Array) -> Any:
    """Return what makes a compiled program's loop along a sequence; None where steps are made one by one."""
    if sequence.shape[0] < _FEWEST_STEPS or not tracing.may_loop():
        return None
    return getattr(array_namespace(sequence), "repeat_step", None)


class RecurrenceAdjoint(TensorTupleOp):
    """The adjoints of a recurrence's inputs, from those of its states and its inputs."""

    name = "recurrence_adjoint"

    def __init__(self, recurrence: Recurrence) -> None:
        self.recurrence = recurrence

    def compute(self, *arrays: Array) -> Arrays:
        count = self.recurrence.num_states
        grads, inputs = arrays[:count], arrays[count:]
        return self.recurrence.sweep_back(grads, inputs, *self.recurrence.remembered(inputs))

    def gradient(self, out_grad: TensorTuple, node: TensorTuple) -> list[Tensor | None]:
        return gradients_of_adjoint(self.recurrence.composed, node.inputs, out_grad, self.recurrence.num_states)


def _by_gate(sums: Tensor, num_gates: int) -> State:
    """Take the sums of all gates (B, gates·H) apart: a Tensor (B, H) for each."""
    batch, width = sums.shape
    return split(reshape(sums, (batch, num_gates, width // num_gates)), 1).tuple()


def _parts(sums: Array, num_gates: int) -> Arrays:
    """Take an array (…, gates·H) apart into its gates."""
    hidden = sums.shape[-1] // num_gates
    return tuple(sums[..., gate * hidden : (gate + 1) * hidden] for gate in range(num_gates))


class RNNRecurrence(Recurrence):
    """hₜ = f(xₜ + hₜ₋₁ @ w), with f = tanh or ReLU. Inputs: x, w, h₀; result: (h,)."""

    name = "rnn_recurrence"

    def __init__(self, reverse: bool = False, nonlinearity: str = "tanh") -> None:
        super().__init__(reverse)
        self.nonlinearity = nonlinearity

    def step(self, x: Tensor, w: Tensor, state: State, *biases: Tensor) -> State:
        return ((tanh if self.nonlinearity == "tanh" else relu)(add(x, self.product(state[0], w))),)

    def sweep(self, x: Array, w: Array, *rest: Array) -> tuple[Arrays, Kept]:
        xp = array_namespace(x)
        w = self.factor(w)

        def step(h: Array, x: Array) -> tuple[Arrays, Arrays]:
            sums = x + xp.matmul(self.factor(h), w)
            h = xp.tanh(sums) if self.nonlinearity == "tanh" else xp.maximum(sums, xp.asarray(0, dtype=sums.dtype))
            return (h,), ()

        return self.along(step, x, rest)

    def sweep_back(self, grads: Arrays, inputs: Arrays, states: Arrays, kept: Kept) -> Arrays:
        (g,), (x, w, h0), (h,) = grads, inputs, states
        xp = array_namespace(x)
        slopes = 1 - h * h if self.nonlinearity == "tanh" else xp.astype(h > 0, h.dtype)
        transposed = xp.matrix_transpose(self.factor(w))

        def step(carried: Array, g: Array, slope: Array) -> tuple[Arrays, Arrays]:
            d = (g + carried) * slope
            return (xp.matmul(self.factor(d), transposed),), (d,)

        (carried,), (sums_grad,) = self.back(step, (g, slopes), kept, (xp.zeros_like(h0),))
        return sums_grad, self.weight_gradient(h0, h, sums_grad), carried


class LSTMRecurrence(Recurrence):
    """cₜ = σ(f) · cₜ₋₁ + σ(i) · tanh(g), hₜ = σ(o) · tanh(cₜ), where i, f, g, o are the parts of xₜ + hₜ₋₁ @ w.

    Inputs: x, w, h₀, c₀; result: (h, c).
    """

    name = "lstm_recurrence"
    num_states: ClassVar[int] = 2

    def step(self, x: Tensor, w: Tensor, state: State, *biases: Tensor) -> State:
        h, c = state
        i, f, g, o = _by_gate(add(x, self.product(h, w)), 4)
        c = add(multiply(sigmoid(f), c), multiply(sigmoid(i), tanh(g)))
        return multiply(sigmoid(o), tanh(c)), c

    def sweep(self, x: Array, w: Array, *rest: Array) -> tuple[Arrays, Kept]:
        xp = array_namespace(x)
        w, (h, _) = self.factor(w), rest
        # σ(a) = tanh(a/2)/2 + 1/2, so that all four gates are one tanh.
        half, one = xp.full(h.shape[1:], 0.5, dtype=x.dtype), xp.ones(h.shape[1:], dtype=x.dtype)
        scale = xp.concat([half, half, one, half], axis=0)
        shift = 1 - scale

        def step(h: Array, c: Array, x: Array) -> tuple[Arrays, Arrays]:
            gates = xp.tanh((x + xp.matmul(self.factor(h), w)) * scale) * scale + shift
            i, f, g, o = _parts(gates, 4)
            before, c = c, f * c + i * g
            tanh_c = xp.tanh(c)
            return (o * tanh_c, c), (gates, before, tanh_c)

        return self.along(step, x, rest)

    def sweep_back(self, grads: Arrays, inputs: Arrays, states: Arrays, kept: Kept) -> Arrays:
        (g_h, g_c), (x, w, h0, c0), (h, _) = grads, inputs, states
        xp = array_namespace(x)
        transposed = xp.matrix_transpose(self.factor(w))

        def step(*arrays: Array) -> tuple[Arrays, Arrays]:
            carried_h, carried_c, g_h, g_c, gates, before, tanh_c = arrays
            i, f, g, o = _parts(gates, 4)
            d_h = g_h + carried_h
            d_c = g_c + carried_c + d_h * (o * (1 - tanh_c * tanh_c))
            # ∂c/∂s of the first three parts, and ∂h/∂s of the last.
            of_sums = (i * g * (1 - i), f * before * (1 - f), i * (1 - g * g), o * tanh_c * (1 - o))
            d = xp.concat([d * slope for d, slope in zip((d_c, d_c, d_c, d_h), of_sums, strict=True)], axis=1)
            return (xp.matmul(self.factor(d), transposed), d_c * f), (d,)

        carried, (sums_grad,) = self.back(step, (g_h, g_c), kept, (xp.zeros_like(h0), xp.zeros_like(c0)))
        return sums_grad, self.weight_gradient(h0, h, sums_grad), *carried


class GRURecurrence(Recurrence):
    """hₜ = (1 − z) · n + z · hₜ₋₁, where r, z = σ of the first two parts of xₜ + uₜ, n = tanh(xₙ + r · uₙ).

    uₜ = hₜ₋₁ @ w + b, and xₙ, uₙ are the third parts. Inputs: x, w, h₀, and b: (3H,) where there is a bias; result:
    (h,).
    """

    name = "gru_recurrence"

    def step(self, x: Tensor, w: Tensor, state: State, *biases: Tensor) -> State:
        (h,) = state
        x_r, x_z, x_n = _by_gate(x, 3)
        u_r, u_z, u_n = _by_gate(reduce(add, biases, self.product(h, w)), 3)
        z = sigmoid(add(x_z, u_z))
        n = tanh(add(x_n, multiply(sigmoid(add(x_r, u_r)), u_n)))
        return (add(n, multiply(z, subtract(h, n))),)  # (1 − z) · n + z · h, with one product less

    def sweep(self, x: Array, w: Array, *rest: Array) -> tuple[Arrays, Kept]:
        xp = array_namespace(x)
        w, (h, *biases) = self.factor(w), rest
        gated = 2 * h.shape[1]  # r and z; σ(a) = tanh(a/2)/2 + 1/2

        def step(h: Array, x: Array) -> tuple[Arrays, Arrays]:
            u = reduce(plus, biases, xp.matmul(self.factor(h), w))
            gates = xp.tanh((x[:, :gated] + u[:, :gated]) * 0.5) * 0.5 + 0.5
            r, z = _parts(gates, 2)
            u_n = u[:, gated:]
            n = xp.tanh(x[:, gated:] + r * u_n)
            return (n + z * (h - n),), (gates, h, u_n, n)

        return self.along(step, x, (h,))

    def sweep_back(self, grads: Arrays, inputs: Arrays, states: Arrays, kept: Kept) -> Arrays:
        (g,), (x, w, h0, *biases), (h,) = grads, inputs, states
        xp = array_namespace(x)
        transposed = xp.matrix_transpose(self.factor(w))

        def step(*arrays: Array) -> tuple[Arrays, Arrays]:
            carried, g, gates, before, u_n, n = arrays
            r, z = _parts(gates, 2)
            d_h = g + carried
            d_n = d_h * ((1 - z) * (1 - n * n))  # of xₙ
            d_r, d_z = d_n * u_n * (r * (1 - r)), d_h * ((before - n) * z * (1 - z))
            d_u = xp.concat([d_r, d_z, d_n * r], axis=1)
            return (xp.matmul(self.factor(d_u), transposed) + d_h * z,), (d_u, xp.concat([d_r, d_z, d_n], axis=1))

        (carried,), (u_grad, x_grad) = self.back(step, (g,), kept, (xp.zeros_like(h0),))
        bias_grads = [xp.sum(u_grad, axis=(0, 1)) for _ in biases]
        return x_grad, self.weight_gradient(h0, h, u_grad), carried, *bias_grads
