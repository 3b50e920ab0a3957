"""ONNX's recurrent layers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from needle import ops
from needle.autograd import Tensor
from needle.onnx.rules.call import Call, Rule, Value, tensor
from needle.ops.recurrence import GRURecurrence, LSTMRecurrence, Recurrence, RNNRecurrence

__all__ = ["RECURRENCE"]


# Which of ONNX's gates come first, second, … in Needle: there i, o, f, c and z, r, h; here i, f, g, o and r, z, n.
_GATES = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}
_ACTIVATIONS = {"LSTM": [b"Sigmoid", b"Tanh", b"Tanh"], "GRU": [b"Sigmoid", b"Tanh"], "RNN": [b"Tanh"]}


def _recurrent(  # noqa: PLR0917  ONNX's order
    call: Call,
    x: Value,
    w: Value,
    r: Value,
    b: Value = None,
    lengths: Value = None,
    h: Value = None,
    c: Value = None,
    peepholes: Value = None,
) -> tuple[Tensor, ...]:
    """Run each direction over the sequence (T, B, I), with weights (directions, gates·H, I or H)."""
    if lengths is not None or peepholes is not None or call.get("layout", 0) or call.get("clip") is not None:
        raise call.fail("lengths, peepholes, layout or clip")
    if call.get("input_forget", 0) or (call.operator == "GRU" and not call.get("linear_before_reset", 0)):
        raise call.fail("input_forget, or without linear_before_reset")
    y = tensor(x)
    direction = call.get("direction", b"forward")
    starts = [h, c] if call.operator == "LSTM" else [h]
    states = []
    for number, is_reverse in enumerate({b"forward": [False], b"reverse": [True]}.get(direction, [False, True])):
        weights = [_by_gates(call, tensor(one)[number]) for one in (w, r)]
        biases = [] if b is None else [_by_gates(call, one) for one in _halves(tensor(b)[number])]
        start = [_zeros(y, weights[1]) if one is None else tensor(one)[number] for one in starts]
        states.append(_direction(call, y, weights, biases, start, is_reverse))
    ends = [tuple(one[0 if flag else -1] for one in found) for flag, found in states]
    outputs = ops.stack([found[0] for _, found in states], 1)  # (T, directions, B, H)
    return outputs, *(ops.stack(list(one), 0) for one in zip(*ends, strict=True))


def _direction(  # noqa: PLR0917  what one direction has of each
    call: Call, x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], start: Sequence[Tensor], reverse: bool
) -> tuple[bool, tuple[Tensor, ...]]:
    """Return whether the steps are made from the last to the first, and the states after each."""
    steps, batch, features = x.shape
    sums = ops.matmul(ops.reshape(x, (steps * batch, features)), weights[0].T)
    inside: tuple[Tensor, ...] = ()
    if biases and call.operator == "GRU":  # r multiplies the second bias too
        sums, inside = sums + biases[0], (biases[1],)
    elif biases:
        sums = sums + (biases[0] + biases[1])
    sums = ops.reshape(sums, (steps, batch, sums.shape[1]))
    return reverse, _recurrence(call, reverse)(sums, weights[1].T, *start, *inside).tuple()


def _recurrence(call: Call, reverse: bool) -> Recurrence:
    activations = call.get("activations")
    usual = _ACTIVATIONS[call.operator]
    chosen = usual[0] if activations is None else activations[0]
    if call.operator == "RNN" and chosen in (b"Tanh", b"Relu"):
        return RNNRecurrence(reverse, chosen.decode().lower())
    if activations is not None and list(activations) not in (usual, 2 * usual):
        raise call.fail("other activations")
    return LSTMRecurrence(reverse) if call.operator == "LSTM" else GRURecurrence(reverse)


def _by_gates(call: Call, rows: Tensor) -> Tensor:
    """Return rows (gates·H, …) with the gates in Needle's order."""
    order = _GATES[call.operator]
    size = rows.shape[0] // len(order)
    return ops.concatenate([rows[gate * size : (gate + 1) * size] for gate in order], 0)


def _halves(bias: Tensor) -> tuple[Tensor, Tensor]:
    half = bias.shape[0] // 2
    return bias[:half], bias[half:]


def _zeros(x: Tensor, recurrent_weight: Tensor) -> Tensor:
    return Tensor(np.zeros((x.shape[1], recurrent_weight.shape[1]), x.dtype), requires_grad=False)


RECURRENCE: dict[str, Rule] = {
    "GRU": _recurrent,
    "LSTM": _recurrent,
    "RNN": _recurrent,
}
