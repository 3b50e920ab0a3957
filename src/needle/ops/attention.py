"""Attention as one operator, whose memory grows with the length of the sequences and not with its square.

    y = softmax(scale · q·kᵀ + mask) · v

The matrix of weights has a row for each query and a column for each key. It is never there as a whole: for a block of
queries the blocks of keys are gone through one after another, and the largest logit so far, the sum of exponentials and
the weighted sum of values are carried on; where a larger logit comes, both sums are scaled down. Of all this only the
logarithm of each query's sum of exponentials is kept. With it the gradient computes the weights again, block by block:

    P = exp(S − lse)                        S = scale · q·kᵀ + mask
    ∂loss/∂v = Pᵀ·g                         g = ∂loss/∂y
    ∂loss/∂S = P ∘ (g·vᵀ − rowsum(g ∘ y))
    ∂loss/∂q = scale · ∂loss/∂S · k,        ∂loss/∂k = scale · (∂loss/∂S)ᵀ · q

References: M. Rabe, C. Staats, "Self-attention does not need O(n²) memory", 2021; T. Dao et al., "FlashAttention: fast
and memory-efficient exact attention with IO-awareness", 2022, algorithms 1 and 4.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator
from functools import reduce
from operator import add as plus
from typing import Any

import numpy as np

from needle.autograd import Tensor, TensorOp, TensorTuple, TensorTupleOp
from needle.device import Array, array_namespace
from needle.dtype import float16, is_floating, is_narrow
from needle.errors import DTypeError, ShapeError
from needle.ops.arithmetic import add, mul_scalar
from needle.ops.broadcasting import broadcast_rule
from needle.ops.casting import astype
from needle.ops.comparison import greater, where
from needle.ops.composition import gradients_of_adjoint
from needle.ops.linear_algebra import matmul
from needle.ops.movement import transpose
from needle.ops.softmax import softmax

__all__ = ["AttentionAdjoint", "ScaledDotProductAttention", "scaled_dot_product_attention"]

Arrays = tuple[Array, ...]

# Sequences up to this length are one block: the weights of a block of queries and keys are small beside all else.
BLOCK = 512


class ScaledDotProductAttention(TensorOp):
    """y = softmax(scale · q·kᵀ + mask) · v, block by block.

    Args:
        causal: whether a query sees only keys that are not later than it; the last query stands beside the last key.
        scale: 1/√D where None.
        block: how many queries, and how many keys, make a block.
    """

    name = "scaled_dot_product_attention"
    precision = "narrow"

    def __init__(self, causal: bool = False, scale: float | None = None, block: int = BLOCK) -> None:
        self.causal = causal
        self.scale = scale
        self.block = block
        self.seen: list[Callable[[], Any]] = []
        self.kept: Arrays = ()

    def compute(self, q: Array, k: Array, v: Array, *mask: Array) -> Array:
        _check(q, k, v, *mask)
        found = [self._attend(q, k, v, mask, rows) for rows in _blocks(q.shape[-2], self.block)]
        xp = array_namespace(q)
        y, lse = (parts[0] if len(parts) == 1 else xp.concat(parts, axis=-2) for parts in zip(*found, strict=True))
        self.seen = [weakref.ref(array) for array in (q, k, v, *mask)]
        self.kept = y, lse
        return y

    def remembered(self, inputs: Arrays) -> Arrays:
        """Return the result and the logarithms of the sums for these very arrays; computed again where others came."""
        if not self.seen or any(seen() is not array for seen, array in zip(self.seen, inputs, strict=True)):
            self.compute(*inputs)
        return self.kept

    def gradient(self, out_grad: Tensor, node: Tensor) -> tuple[Tensor | None, ...]:
        adjoints = AttentionAdjoint(self)(out_grad, *node.inputs).tuple()
        return (*adjoints, *(None,) * (len(node.inputs) - 3))

    # -- blocks

    def key_blocks(self, rows: slice, num_queries: int, num_keys: int) -> Iterator[slice]:
        """Yield the blocks of keys that a block of queries sees anything of."""
        for columns in _blocks(num_keys, self.block):
            if columns.start < columns.stop and (
                not self.causal or columns.start <= rows.stop - 1 + num_keys - num_queries
            ):
                yield columns

    def logits(  # noqa: PLR0917  two arrays, and which part they are
        self, q: Array, k: Array, mask: Arrays, rows: slice, columns: slice, ahead: int
    ) -> Array:
        """Return S for a block of queries and a block of keys, −∞ where a query does not see a key.

        There are so many keys `ahead` of the first query.
        """
        xp = array_namespace(q)
        scale = 1 / math.sqrt(q.shape[-1]) if self.scale is None else self.scale
        s = xp.matmul(q, xp.matrix_transpose(k))
        s = s * np.asarray(scale, dtype=s.dtype)
        hidden = np.asarray(-np.inf, dtype=s.dtype)
        if mask:
            part = _part(mask[0], rows, columns)
            s = xp.where(part, s, hidden) if part.dtype.kind == "b" else s + xp.astype(part, s.dtype)
        lead = ahead + rows.start - columns.start
        if self.causal and lead < columns.stop - columns.start - 1:
            earlier = xp.reshape(xp.arange(s.shape[-2], dtype=np.int32), (-1, 1)) + np.int32(lead)
            s = xp.where(earlier >= xp.arange(s.shape[-1], dtype=np.int32), s, hidden)
        return s

    def _attend(self, q: Array, k: Array, v: Array, mask: Arrays, rows: slice) -> Arrays:
        """Return the results of a block of queries, and the logarithms of their sums of exponentials."""
        xp = array_namespace(q)
        largest: Any = None
        total: Any = None
        y: Any = None
        for columns in self.key_blocks(rows, q.shape[-2], k.shape[-2]):
            # Compiled, all blocks would else be computed side by side, and be there at once.
            queries = _after(q[..., rows, :], y)
            s = self.logits(queries, k[..., columns, :], mask, rows, columns, k.shape[-2] - q.shape[-2])
            top = xp.max(s, axis=-1, keepdims=True)
            if largest is not None:
                top = xp.maximum(top, largest)
            finite = xp.where(xp.isfinite(top), top, xp.zeros_like(top))  # a query that sees nothing so far
            p = xp.exp(s - finite)
            own, values = xp.sum(p, axis=-1, keepdims=True), xp.matmul(p, v[..., columns, :])
            if largest is None:
                total, y = own, values
            else:
                shrunk = xp.exp(largest - finite)
                total, y = total * shrunk + own, y * shrunk + values
            largest = finite
        if y is None:  # there are no keys that these queries could see
            total = largest = xp.zeros((*q.shape[:-2], rows.stop - rows.start, 1), dtype=q.dtype)
            y = xp.zeros((*total.shape[:-1], v.shape[-1]), dtype=q.dtype)
        seen = xp.where(total > 0, total, xp.ones_like(total))
        return y / seen, largest + xp.log(seen)

    def composed(self, q: Tensor, k: Tensor, v: Tensor, *mask: Tensor) -> tuple[Tensor]:
        """Return what this operator returns, put together of small operators."""
        return (matmul(self.weights(q, k, *mask), v),)

    def weights(self, q: Tensor, k: Tensor, *mask: Tensor) -> Tensor:
        """Return the weights as a whole, put together of small operators."""
        scale = 1 / math.sqrt(q.shape[-1]) if self.scale is None else self.scale
        logits = mul_scalar(matmul(q, transpose(k)), scale)
        visible = self._visible(q, k, mask)
        if mask and mask[0].dtype.kind != "b":
            logits = add(logits, where(visible[0], mask[0], 0.0))
        lowest = -6e4 if logits.dtype == float16 else -1e30
        for one in visible:
            logits = where(one, logits, lowest)
        weights = softmax(logits)
        for one in visible:
            weights = where(one, weights, 0.0)
        return weights

    def _visible(self, q: Tensor, k: Tensor, mask: tuple[Tensor, ...]) -> list[Tensor]:
        """Return what tells which keys a query sees: booleans, all of which must hold."""
        found = [one if one.dtype.kind == "b" else greater(one, -math.inf) for one in mask]
        if self.causal:
            earlier = np.tri(q.shape[-2], k.shape[-2], k.shape[-2] - q.shape[-2], dtype=bool)
            found.append(Tensor(earlier, device=q.device, requires_grad=False))
        return found


class AttentionAdjoint(TensorTupleOp):
    """The adjoints of q, k and v, from that of the result and all inputs."""

    name = "attention_adjoint"
    precision = "narrow"

    def __init__(self, attention: ScaledDotProductAttention) -> None:
        self.attention = attention

    def compute(self, g: Array, q: Array, k: Array, v: Array, *mask: Array) -> Arrays:
        y, lse = self.attention.remembered((q, k, v, *mask))
        xp = array_namespace(q)
        attention, num_queries, num_keys = self.attention, q.shape[-2], k.shape[-2]
        # Where there are several blocks, each comes after the one before, and none is what was computed forwards: in a
        # compiled program all would else be kept from there on.
        last = g if max(num_queries, num_keys) > attention.block else None
        delta = xp.sum(g * y, axis=-1, keepdims=True)
        scale = 1 / math.sqrt(q.shape[-1]) if attention.scale is None else attention.scale
        dq: list[Array] = []
        dk: dict[int, Array] = {}
        dv: dict[int, Array] = {}
        for rows in _blocks(num_queries, attention.block):
            own: list[Array] = []
            for columns in attention.key_blocks(rows, num_queries, num_keys):
                queries, keys, slope = _after(q[..., rows, :], last), k[..., columns, :], g[..., rows, :]
                s = attention.logits(queries, keys, mask, rows, columns, num_keys - num_queries)
                p = xp.exp(s - lse[..., rows, :])
                ds = p * (xp.matmul(slope, xp.matrix_transpose(v[..., columns, :])) - delta[..., rows, :])
                own.append(xp.matmul(ds, keys))
                _add(dk, columns.start, xp.matmul(xp.matrix_transpose(ds), queries))
                _add(dv, columns.start, xp.matmul(xp.matrix_transpose(p), slope))
                last = dv[columns.start] if last is not None else None
            dq.append(reduce(plus, own) if own else xp.zeros_like(q[..., rows, :]))
        factor = np.asarray(scale, dtype=q.dtype)
        return _joined(dq, q) * factor, _by_start(dk, k, attention.block) * factor, _by_start(dv, v, attention.block)

    def gradient(self, out_grad: TensorTuple, node: TensorTuple) -> list[Tensor | None]:
        inputs, mask = node.inputs[:4], node.inputs[4:]

        def composed(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor]:
            return self.attention.composed(q, k, v, *mask)

        return [*gradients_of_adjoint(composed, inputs, out_grad, 1), *(None,) * len(mask)]


def _after(array: Array, other: Array | None) -> Array:
    """Return an array that a compiled program computes no sooner than another one."""
    if other is None:
        return array
    after = getattr(array_namespace(array), "after", None)
    return array if after is None else after(array, other)


def _blocks(length: int, size: int) -> Iterator[slice]:
    """Yield blocks of at most `size` elements that are as long as each other; one of none where there are none."""
    count = max(1, -(-length // size))
    for number in range(count):
        yield slice(number * length // count, (number + 1) * length // count)


def _part(mask: Array, rows: slice, columns: slice) -> Array:
    """Return the part of a mask, which may repeat along both axes, for a block."""
    if mask.ndim >= 2 and mask.shape[-2] != 1:
        mask = mask[..., rows, :]
    return mask[..., columns] if mask.ndim and mask.shape[-1] != 1 else mask


def _add(sums: dict[int, Array], key: int, more: Array) -> None:
    sums[key] = sums[key] + more if key in sums else more


def _by_start(sums: dict[int, Array], like: Array, block: int) -> Array:
    """Join sums for blocks of keys; those that no query sees have none."""
    xp = array_namespace(like)
    blocks = _blocks(like.shape[-2], block)
    return _joined([sums.get(one.start, xp.zeros_like(like[..., one, :])) for one in blocks], like)


def _joined(parts: list[Array], like: Array) -> Array:
    return parts[0] if len(parts) == 1 else array_namespace(like).concat(parts, axis=-2)


def _check(q: Array, k: Array, v: Array, *mask: Array) -> None:
    for name, array in (("q", q), ("k", k), ("v", v)):
        if array.ndim < 2:
            raise ShapeError(f"{name} is (…, length, features), got shape {array.shape}")
        if not is_floating(array.dtype):
            raise DTypeError(f"{name} is made of floating-point numbers, got {array.dtype}")
    if not q.shape[:-2] == k.shape[:-2] == v.shape[:-2]:
        raise ShapeError(f"the axes before the last two differ: q {q.shape}, k {k.shape}, v {v.shape}")
    if q.shape[-1] != k.shape[-1]:
        raise ShapeError(f"queries and keys differ in their features: q {q.shape}, k {k.shape}")
    if k.shape[-2] != v.shape[-2]:
        raise ShapeError(f"there is a value for each key: k {k.shape}, v {v.shape}")
    logits = (*q.shape[:-1], k.shape[-2])
    for one in mask:
        if one.dtype.kind not in "bf" and not is_narrow(one.dtype):
            raise DTypeError(f"a mask is made of booleans, or of numbers that are added to logits, got {one.dtype}")
        if one.ndim > len(logits) or broadcast_rule([one.shape, logits]) or _longer(one.shape, logits):
            raise ShapeError(f"the mask, {one.shape}, does not broadcast to the logits, {logits}")


def _longer(shape: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return any(n not in (m, 1) for n, m in zip(reversed(shape), reversed(other), strict=False))


def scaled_dot_product_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    *,
    causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """Gather values, weighted by how well each query fits their keys.

    Formula::

        y = softmax(scale · q·kᵀ + mask) · v

    Shapes:
        q: (…, T, D), T queries.
        k: (…, S, D), S keys.
        v: (…, S, E).
        mask: broadcasts to (…, T, S).
        result: (…, T, E); 0 for a query that sees no key.

    Args:
        q: the queries.
        k: the keys.
        v: the values.
        mask: booleans, true where a query may see a key; or numbers that are added to the logits, −∞ where it may not.
            Numbers that are not learned should not require a gradient: see Memory.
        causal: whether a query sees only keys that are not later than it. The last query stands beside the last key.
        scale: what q·kᵀ is multiplied with; 1/√D where None, which keeps the logits' variance at 1.

    Raises:
        ShapeError: shapes that do not fit each other.
        DTypeError: q, k, v or a mask of integers; q, k or v of booleans.

    Gradient:
        With P the softmax and S its argument: ∂/∂v = Pᵀg, ∂/∂S = P ∘ (g·vᵀ − rowsum(g ∘ y)), ∂/∂q = scale · ∂/∂S · k,
        ∂/∂k = scale · (∂/∂S)ᵀ · q. P is computed again.

    Memory:
        Proportional to T + S: beyond 512 queries or keys the weights are there a block at a time only. A mask that
        requires a gradient, as a Tensor of numbers does unless it is made with requires_grad=False, is taken for a
        learned bias: its gradient needs the weights as a whole, and memory is proportional to T·S.

    Cost:
        2·T·S·(D + E) floating-point operations, half of that for causal attention over long sequences.

    Example:
        >>> import needle as ndl
        >>> q, k, v = (ndl.init.randn(2, 3, length, 4) for length in (5, 7, 7))
        >>> ndl.scaled_dot_product_attention(q, k, v).shape
        (2, 3, 5, 4)
    """
    operator = ScaledDotProductAttention(causal, scale)
    if mask is None:
        return operator(q, k, v)
    if mask.dtype.kind == "f" or is_narrow(mask.dtype):
        mask = astype(mask, q.dtype)
        if mask.requires_grad:  # a learned bias, whose gradient is as large as the weights
            _check(*(one.realize_cached_data() for one in (q, k, v, mask)))
            return operator.composed(q, k, v, mask)[0]
    return operator(q, k, v, mask)
