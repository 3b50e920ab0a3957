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
    ∂loss/∂mask = ∂loss/∂S, summed along the axes that the mask repeats along

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
from needle.dtype import float16, is_floating
from needle.errors import DataError
from needle.ops.arithmetic import add, mul_scalar
from needle.ops.attention_blocks import MaskSums, after, blocks, check_operands, join, kept_weights, mask_part
from needle.ops.attention_loops import attention_loops
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
# A row of blocks has no more than this many: their memory grows with the length, as all else does, and so does their
# number, which a compiled program takes time to be made for, and not its square.
BLOCKS_A_ROW = 8


class ScaledDotProductAttention(TensorOp):
    """y = dropout(softmax(scale · q·kᵀ + mask)) · v, block by block.

    The operands are q, k, v; then a mask, where there is one; then, where weights are dropped, a seed: two uint32.

    Args:
        causal: whether a query sees only keys that are not later than it; the last query stands beside the last key.
        scale: 1/√D where None.
        block: how many queries, and how many keys at least, make a block.
        dropout: the probability that a weight is dropped.
    """

    name = "scaled_dot_product_attention"
    precision = "narrow"

    def __init__(
        self, causal: bool = False, scale: float | None = None, block: int = BLOCK, dropout: float = 0.0
    ) -> None:
        self.causal = causal
        self.scale = scale
        self.block = block
        self.dropout = dropout
        self.seen: list[Callable[[], Any]] = []
        self.kept: Arrays = ()

    def compute(self, q: Array, k: Array, v: Array, *others: Array) -> Array:
        check_operands(q, k, v, *self.mask(others))
        loops = attention_loops(self, q, k, v, others)
        y, lse = self._attend_all(q, k, v, others) if loops is None else loops.attend()
        self.seen = [weakref.ref(array) for array in (q, k, v, *others)]
        self.kept = y, lse
        return y

    def mask(self, others: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the mask alone, of what follows q, k and v."""
        return others[:-1] if self.dropout else others

    def remembered(self, inputs: Arrays) -> Arrays:
        """Return the result and the logarithms of the sums for these very arrays; computed again where others came."""
        if not self.seen or any(seen() is not array for seen, array in zip(self.seen, inputs, strict=True)):
            self.compute(*inputs)
        return self.kept

    def gradient(self, out_grad: Tensor, node: Tensor) -> tuple[Tensor | None, ...]:
        mask = self.mask(tuple(node.inputs[3:]))
        is_learned = bool(mask) and mask[0].requires_grad and is_floating(mask[0].dtype)
        adjoints = AttentionAdjoint(self, is_learned)(out_grad, *node.inputs).tuple()
        return (*adjoints, *(None,) * (len(node.inputs) - len(adjoints)))

    # -- blocks

    def columns(self, num_keys: int) -> Iterator[slice]:
        """Yield the blocks of keys."""
        return blocks(num_keys, max(self.block, -(-num_keys // BLOCKS_A_ROW)))

    def key_blocks(self, rows: slice, num_queries: int, num_keys: int) -> Iterator[slice]:
        """Yield the blocks of keys that a block of queries sees anything of."""
        for columns in self.columns(num_keys):
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
            part = mask_part(mask[0], rows, columns)
            s = xp.where(part, s, hidden) if part.dtype.kind == "b" else s + xp.astype(part, s.dtype)
        lead = ahead + rows.start - columns.start
        if self.causal and lead < columns.stop - columns.start - 1:
            earlier = xp.reshape(xp.arange(s.shape[-2], dtype=np.int32), (-1, 1)) + np.int32(lead)
            s = xp.where(earlier >= xp.arange(s.shape[-1], dtype=np.int32), s, hidden)
        return s

    def kept_part(self, q: Array, others: Arrays, rows: slice, columns: slice, last: Arrays) -> Array | None:
        """Tell which weights of a block are kept; None where all are."""
        if not self.dropout:
            return None
        return kept_weights(after(others[-1], *last), q.shape[:-2], q.shape[-2], (rows, columns), self.dropout)

    def _attend_all(self, q: Array, k: Array, v: Array, others: Arrays) -> tuple[Array, Array]:
        """Return the results, and the logarithms of the sums of exponentials."""
        found: list[Arrays] = []
        for rows in blocks(q.shape[-2], self.block):
            found.append(self._attend(q, k, v, others, rows, found[-1][:1] if found else ()))
        y, lse = (join(parts) for parts in zip(*found, strict=True))
        return y, lse

    def _attend(  # noqa: PLR0917  all operands, which part of them, and what comes before it
        self, q: Array, k: Array, v: Array, others: Arrays, rows: slice, last: Arrays
    ) -> Arrays:
        """Return the results of a block of queries, and the logarithms of their sums of exponentials."""
        xp = array_namespace(q)
        mask = self.mask(others)
        largest: Any = None
        total: Any = None
        y: Any = None
        for columns in self.key_blocks(rows, q.shape[-2], k.shape[-2]):
            # Compiled, all blocks would else be computed side by side, and be there at once.
            queries = after(q[..., rows, :], *last)
            s = self.logits(queries, k[..., columns, :], mask, rows, columns, k.shape[-2] - q.shape[-2])
            top = xp.max(s, axis=-1, keepdims=True)
            if largest is not None:
                top = xp.maximum(top, largest)
            finite = xp.where(xp.isfinite(top), top, xp.zeros_like(top))  # a query that sees nothing so far
            p = xp.exp(s - finite)
            own, kept = xp.sum(p, axis=-1, keepdims=True), self.kept_part(q, others, rows, columns, last)
            p = p if kept is None else xp.where(kept, p, xp.zeros_like(p))
            values = xp.matmul(p, v[..., columns, :])
            if largest is None:
                total, y = own, values
            else:
                shrunk = xp.exp(largest - finite)
                total, y = total * shrunk + own, y * shrunk + values
            largest, last = top, (y,)
        if y is None:  # there are no keys that these queries could see
            total = largest = xp.zeros((*q.shape[:-2], rows.stop - rows.start, 1), dtype=q.dtype)
            y = xp.zeros((*total.shape[:-1], v.shape[-1]), dtype=q.dtype)
        seen = xp.where(total > 0, total, xp.ones_like(total))
        y = y / (seen * (1 - self.dropout) if self.dropout else seen)
        return y, xp.where(xp.isfinite(largest), largest, xp.zeros_like(largest)) + xp.log(seen)

    def composed(self, q: Tensor, k: Tensor, v: Tensor, *others: Tensor) -> tuple[Tensor]:
        """Return what this operator returns, put together of small operators."""
        weights = self.weights(q, k, *self.mask(others))
        if self.dropout:
            seed = others[-1].realize_cached_data()
            whole = slice(0, q.shape[-2]), slice(0, k.shape[-2])
            kept = Tensor.make_const(kept_weights(seed, q.shape[:-2], q.shape[-2], whole, self.dropout))
            weights = mul_scalar(where(kept, weights, 0.0), 1 / (1 - self.dropout))
        return (matmul(weights, v),)

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
    """The adjoints of q, k and v, and of a learned mask, from that of the result and all operands.

    Args:
        attention: the operator.
        is_learned: whether the mask has an adjoint.
    """

    name = "attention_adjoint"
    precision = "narrow"

    def __init__(self, attention: ScaledDotProductAttention, is_learned: bool = False) -> None:
        self.attention = attention
        self.is_learned = is_learned

    def compute(self, g: Array, q: Array, k: Array, v: Array, *others: Array) -> Arrays:
        y, lse = self.attention.remembered((q, k, v, *others))
        loops = None if self.is_learned else attention_loops(self.attention, q, k, v, others)
        return self._written_out(g, q, k, v, others, y, lse) if loops is None else loops.adjoints(g, y, lse)

    def _written_out(  # noqa: PLR0917  all operands, and what was found forwards
        self, g: Array, q: Array, k: Array, v: Array, others: Arrays, y: Array, lse: Array
    ) -> Arrays:
        xp = array_namespace(q)
        attention, num_queries, num_keys = self.attention, q.shape[-2], k.shape[-2]
        mask = attention.mask(others)
        every_row, every_column = list(blocks(num_queries, attention.block)), list(attention.columns(num_keys))
        # Where there are several blocks, each comes after the one before, and none is what was computed forwards: in a
        # compiled program all would else be kept from there on.
        last: Arrays = (g,) if len(every_row) > 1 or len(every_column) > 1 else ()
        delta = xp.sum(g * y, axis=-1, keepdims=True)
        dq: list[Array] = []
        dk: dict[int, Array] = {}
        dv: dict[int, Array] = {}
        dmask = MaskSums(mask[0]) if self.is_learned else None
        for rows in every_row:
            own: list[Array] = []
            for columns in attention.key_blocks(rows, num_queries, num_keys):
                queries, keys, slope = after(q[..., rows, :], *last), k[..., columns, :], g[..., rows, :]
                s = attention.logits(queries, keys, mask, rows, columns, num_keys - num_queries)
                p = xp.exp(s - lse[..., rows, :])
                dp, used = xp.matmul(slope, xp.matrix_transpose(v[..., columns, :])), p
                kept = attention.kept_part(q, others, rows, columns, last)
                if kept is not None:
                    zero, left = xp.zeros_like(p), 1 / (1 - attention.dropout)
                    dp, used = xp.where(kept, dp * left, zero), xp.where(kept, p * left, zero)
                ds = p * (dp - delta[..., rows, :])
                own.append(xp.matmul(ds, keys))
                _add(dk, columns.start, xp.matmul(xp.matrix_transpose(ds), queries))
                _add(dv, columns.start, xp.matmul(xp.matrix_transpose(used), slope))
                if dmask is not None:
                    dmask.add(ds, rows, columns)
                last = (own[-1], dk[columns.start], dv[columns.start]) if last else ()
            dq.append(reduce(plus, own) if own else xp.zeros_like(q[..., rows, :]))
        scale = 1 / math.sqrt(q.shape[-1]) if attention.scale is None else attention.scale
        factor = np.asarray(scale, dtype=q.dtype)
        adjoints = join(dq) * factor, _by_start(dk, k, every_column) * factor, _by_start(dv, v, every_column)
        return adjoints if dmask is None else (*adjoints, dmask.whole(every_row, every_column))

    def gradient(self, out_grad: TensorTuple, node: TensorTuple) -> list[Tensor | None]:
        known = 5 if self.is_learned else 4
        inputs, rest = node.inputs[:known], node.inputs[known:]

        def composed(*operands: Tensor) -> tuple[Tensor]:
            return self.attention.composed(*operands, *rest)

        return [*gradients_of_adjoint(composed, inputs, out_grad, 1), *(None,) * len(rest)]


def _add(sums: dict[int, Array], key: int, more: Array) -> None:
    sums[key] = sums[key] + more if key in sums else more


def _by_start(sums: dict[int, Array], like: Array, columns: list[slice]) -> Array:
    """Join sums for blocks of keys; those that no query sees have none."""
    xp = array_namespace(like)
    return join([sums[one.start] if one.start in sums else xp.zeros_like(like[..., one, :]) for one in columns])


def scaled_dot_product_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    *,
    causal: bool = False,
    scale: float | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Gather values, weighted by how well each query fits their keys.

    Formula::

        y = dropout(softmax(scale · q·kᵀ + mask)) · v

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
            Numbers that require a gradient are a learned bias and get one.
        causal: whether a query sees only keys that are not later than it. The last query stands beside the last key.
        scale: what q·kᵀ is multiplied with; 1/√D where None, which keeps the logits' variance at 1.
        dropout: the probability that a weight is set to 0, the others being divided by 1 − dropout. It is applied
            whenever it is not 0: leave it out in evaluation, as `nn.Attention` does.

    Raises:
        ShapeError: shapes that do not fit each other.
        DTypeError: q, k, v or a mask of integers; q, k or v of booleans.
        DataError: dropout is not in [0, 1).

    Gradient:
        With P the softmax and S its argument: ∂/∂v = Pᵀg, ∂/∂S = P ∘ (g·vᵀ − rowsum(g ∘ y)), ∂/∂q = scale · ∂/∂S · k,
        ∂/∂k = scale · (∂/∂S)ᵀ · q, ∂/∂mask = ∂/∂S summed along the axes that the mask repeats along. P is computed
        again, block by block. Gradients of gradients need the weights as a whole: memory proportional to T·S.

    State:
        With dropout one draw of two whole numbers, a seed: which weights are dropped is a hash of it and their place.

    Memory:
        Proportional to T + S: beyond 512 queries or keys the weights are there a block at a time only. A mask takes
        what it takes, and its gradient as much again: (T, S) numbers for each head are more than all else.

    Cost:
        2·T·S·(D + E) floating-point operations, half of that for causal attention over long sequences.

    Example:
        >>> import needle as ndl
        >>> q, k, v = (ndl.init.randn(2, 3, length, 4) for length in (5, 7, 7))
        >>> ndl.scaled_dot_product_attention(q, k, v).shape
        (2, 3, 5, 4)
    """
    if not 0 <= dropout < 1:
        raise DataError(f"scaled_dot_product_attention: the probability dropout is in [0, 1), got {dropout}")
    others = () if mask is None else (astype(mask, q.dtype) if is_floating(mask.dtype) else mask,)
    if dropout:
        drawn = q.device.randint(0, 2**32, 2)
        others = (*others, Tensor.make_const(array_namespace(drawn).astype(drawn, np.uint32)))
    return ScaledDotProductAttention(causal, scale, dropout=dropout)(q, k, v, *others)
