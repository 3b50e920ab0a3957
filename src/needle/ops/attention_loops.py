"""Long attention in a compiled program: its blocks are steps of loops, so that there is one piece of code for all.

Heads and blocks of queries do not wait for each other: they are the steps of the outer loop, which threads share. A
step goes through the blocks of keys. Backwards, the steps of the outer loop are heads, each of several groups of
blocks of keys where there are few heads. A step goes through its blocks of keys, from the last to the first, and
through the blocks of queries that see each of them. What it has found of ∂loss/∂q goes with it.

All blocks are of one size: sequences are padded. What is causal says how many blocks there are to go through.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from needle import tracing
from needle.device import Array, array_namespace
from needle.ops.attention_blocks import kept_at

if TYPE_CHECKING:
    from needle.ops.attention import ScaledDotProductAttention

__all__ = ["AttentionLoops", "attention_loops"]

# Blocks of queries and keys: all that is computed of two of them is to fit into the cache of a processor.
_BLOCK = 256
# Blocks are of so many times an integer: products are computed in vectors.
_ALIGNED = 16
# Shorter sequences of queries are no loop: their blocks are few.
_FEWEST_QUERIES = 513
# So many steps there are to share at least, of heads and of groups of their keys.
_FEWEST_STEPS = 8


def attention_loops(
    attention: ScaledDotProductAttention, q: Array, k: Array, v: Array, others: Sequence[Array]
) -> AttentionLoops | None:
    """Return the loops for these operands; None where nothing is compiled or the blocks are written out.

    A mask that says something else of each query is as large as the matrix of weights, and is read where it lies.
    """
    xp = array_namespace(q)
    if not hasattr(xp, "repeat_step") or not tracing.may_loop():
        return None
    is_empty = not all(math.prod(one.shape) for one in (q, k, v))
    mask = attention.mask(tuple(others))
    if is_empty or q.shape[-2] < _FEWEST_QUERIES or any(one.ndim > 1 and one.shape[-2] != 1 for one in mask):
        return None
    return AttentionLoops(attention, q, k, v, others)


@dataclass(frozen=True)
class _Blocks:
    """A sequence in `count` blocks of `size`, the last ones padded."""

    length: int
    count: int
    size: int

    def divided(self, array: Array, padding: float = 0) -> Array:
        """Return (heads, length, …) as (heads, count, size, …), the last elements `padding`."""
        xp = array_namespace(array)
        more = self.count * self.size - self.length
        if more:
            array = xp.pad(array, ((0, 0), (0, more), *((0, 0),) * (array.ndim - 2)), constant_values=padding)
        return xp.reshape(array, (array.shape[0], self.count, self.size, *array.shape[2:]))

    def joined(self, array: Array) -> Array:
        """Return (heads, count, size, …) as (heads, length, …)."""
        whole = (array.shape[0], self.count * self.size, *array.shape[3:])
        return array_namespace(array).reshape(array, whole)[:, : self.length]


def _in_blocks(length: int, groups: int = 1) -> _Blocks:
    """Divide a sequence into blocks, as many for each group."""
    count = -(-length // (_BLOCK * groups)) * groups
    size = -(-length // (count * _ALIGNED)) * _ALIGNED
    return _Blocks(length, -(-length // (size * groups)) * groups, size)


class AttentionLoops:
    """The loops of attention over operands of certain shapes."""

    def __init__(
        self, attention: ScaledDotProductAttention, q: Array, k: Array, v: Array, others: Sequence[Array]
    ) -> None:
        self.attention = attention
        self.xp = array_namespace(q)
        self.lead = q.shape[:-2]
        self.heads = math.prod(self.lead)
        self.q, self.k, self.v = map(self._by_head, (q, k, v))
        self.seed = others[-1] if attention.dropout else None
        self.masks = [self._mask(one) for one in attention.mask(tuple(others))]
        self.dtype = q.dtype
        # What is added up over many blocks is added up in numbers of four bytes at least.
        self.wide = q.dtype if q.dtype.itemsize >= 4 else np.dtype(np.float32)
        self.ahead = k.shape[-2] - q.shape[-2]
        self.scale = 1 / math.sqrt(q.shape[-1]) if attention.scale is None else attention.scale

    def _mask(self, mask: Array) -> Array:
        """Return a mask of keys for each head: (heads, S)."""
        xp, keys = self.xp, self.k.shape[-2]
        if mask.ndim > 1:
            mask = xp.reshape(mask, (*mask.shape[:-2], mask.shape[-1]))
        return xp.reshape(xp.broadcast_to(mask, (*self.lead, keys)), (self.heads, keys))

    # -- forwards

    def attend(self) -> tuple[Array, Array]:
        """Return the results, and the logarithms of the sums of exponentials."""
        xp, wide = self.xp, self.wide
        rows, columns = _in_blocks(self.q.shape[1]), _in_blocks(self.k.shape[1])

        def queries(*elements: Array) -> tuple[tuple[()], tuple[Array, Array]]:
            q, k, v, numbers, count, head, *masks = elements

            def keys(largest: Array, total: Array, y: Array, *block: Array) -> tuple[Any, tuple[()]]:
                own_k, own_v, *own = block
                s = self._logits(q, own_k, numbers, own, columns)
                top = xp.maximum(largest, xp.max(s, axis=-1, keepdims=True))
                finite = _or_zero(top)
                p, shrunk = xp.exp(s - finite), xp.exp(largest - finite)
                total = total * shrunk + xp.sum(p, axis=-1, keepdims=True)
                kept = self._kept(head, numbers, own[0])
                p = p if kept is None else xp.where(kept, p, xp.zeros_like(p))
                y = y * shrunk + self._product(p, own_v)
                return (top, total, y), ()

            alone = (q.shape[0], 1)
            start = xp.full(alone, -np.inf, wide), xp.zeros(alone, wide), xp.zeros((q.shape[0], v.shape[-1]), wide)
            sequences = (k, v, self._numbers(columns, 1), *masks)
            steps = count if self.attention.causal else None
            (largest, total, y), _ = xp.repeat_step(keys, start, sequences, steps=steps)
            seen = xp.where(total > 0, total, xp.ones_like(total))
            dropped = self.attention.dropout
            y = y / (seen * (1 - dropped) if dropped else seen)
            return (), (xp.astype(y, self.dtype), _or_zero(largest) + xp.log(seen))

        each = rows.count
        sequences = [
            (xp.reshape(rows.divided(self.q), (-1, rows.size, self.q.shape[-1])), 1),
            *((columns.divided(one), each) for one in (self.k, self.v)),
            (self._numbers(rows, 0), 1),
            (xp.asarray(self._columns_seen(rows, columns)), 1),
            (xp.arange(self.heads, dtype=np.uint32), each),
            *((columns.divided(one), each) for one in self.masks),
        ]
        arrays, every = zip(*sequences, strict=True)
        # The longest steps first, so that threads end together.
        _, (y, lse) = xp.repeat_step(queries, (), arrays, every=every, backwards=self.attention.causal)
        return self._whole(y, rows), self._whole(lse, rows)

    def _whole(self, array: Array, blocks: _Blocks) -> Array:
        """Return (heads · blocks, …) as it is without blocks."""
        array = self.xp.reshape(array, (self.heads, blocks.count, blocks.size, array.shape[-1]))
        return self.xp.reshape(blocks.joined(array), (*self.lead, blocks.length, array.shape[-1]))

    # -- backwards

    def adjoints(self, g: Array, y: Array, lse: Array) -> tuple[Array, Array, Array]:
        """Return the adjoints of q, k and v, from that of the results and from what `attend` returned."""
        xp, wide = self.xp, self.wide
        num_keys = self.k.shape[1]
        groups = min(-(-_FEWEST_STEPS // self.heads), -(-num_keys // _BLOCK))
        rows, columns = _in_blocks(self.q.shape[1]), _in_blocks(num_keys, groups)
        is_first = self._is_first(rows, columns, groups)

        def head_step(*elements: Array) -> tuple[tuple[()], tuple[Array, Array, Array]]:
            k, v, numbers, first, counts, head, q, slope, lse, delta, *masks = elements

            def keys(dq: Array, *block: Array) -> tuple[tuple[Array], tuple[Array, Array]]:
                own_k, own_v, first, count, *own = block

                def queries(dk: Array, dv: Array, *block: Array) -> tuple[tuple[Array, Array], tuple[Array]]:
                    own_q, slope, lse, delta, number, first, dq = block
                    p = xp.exp(self._logits(own_q, own_k, number, own, columns) - lse)
                    dp, used = self._product(slope, xp.matrix_transpose(own_v)), p
                    kept = self._kept(head, number, own[0])
                    if kept is not None:
                        zero, left = xp.zeros_like(p), 1 / (1 - self.attention.dropout)
                        dp, used = xp.where(kept, dp * left, zero), xp.where(kept, p * left, zero)
                    ds = p * (dp - delta)
                    dq = xp.where(first, xp.zeros_like(dq), dq) + self._product(ds, own_k)
                    dk = dk + self._product(xp.matrix_transpose(ds), own_q)
                    return (dk, dv + self._product(xp.matrix_transpose(used), slope)), (dq,)

                start = xp.zeros(own_k.shape, wide), xp.zeros(own_v.shape, wide)
                sequences = (q, slope, lse, delta, self._numbers(rows, 0), first, dq)
                steps = count if self.attention.causal else None
                (dk, dv), (dq,) = xp.repeat_step(queries, start, sequences, backwards=True, steps=steps)
                return (dq,), (dk, dv)

            start = (xp.zeros(q.shape, wide),)
            sequences = (k, v, first, counts, numbers, *masks)
            (dq,), (dk, dv) = xp.repeat_step(keys, start, sequences, backwards=True)
            return (), (dq, dk, dv)

        slope, lse, delta = map(self._by_head, (g, lse, xp.sum(xp.astype(g * y, wide), axis=-1, keepdims=True)))
        counts = self._in_groups(xp.asarray(self._rows_seeing(rows, columns))[None], groups)
        sequences = [
            *((self._in_groups(columns.divided(one), groups), 1) for one in (self.k, self.v)),
            (self._in_groups(self._numbers(columns, 1)[None], groups), 1),
            (self._in_groups(xp.asarray(is_first)[None], groups), 1),
            (counts, 1),
            (xp.arange(self.heads, dtype=np.uint32), groups),
            *((rows.divided(one), groups) for one in (self.q, slope)),
            (rows.divided(lse, math.inf), groups),  # whatever a mask adds, queries that are not there have no weights
            (rows.divided(delta), groups),
            *((self._in_groups(columns.divided(one), groups), 1) for one in self.masks),
        ]
        arrays, every = zip(*sequences, strict=True)
        _, (dq, dk, dv) = xp.repeat_step(head_step, (), arrays, every=every)
        dq = xp.reshape(dq, (self.heads, groups, *dq.shape[1:]))
        touched = np.any(is_first.reshape(-1, groups, rows.count), axis=0)
        if not touched.all():  # no loop has written the others
            dq = xp.where(xp.asarray(touched[:, :, None, None]), dq, xp.zeros_like(dq))
        factor = np.asarray(self.scale, wide)
        dq = self._whole(xp.sum(dq, axis=1) * factor, rows)
        dk, dv = (self._whole(self._out_of_groups(one, groups), columns) for one in (dk * factor, dv))
        return tuple(xp.astype(one, self.dtype) for one in (dq, dk, dv))

    def _by_head(self, array: Array) -> Array:
        return self.xp.reshape(array, (self.heads, *array.shape[-2:]))

    def _in_groups(self, blocks: Array, groups: int) -> Array:
        """Return (heads, blocks, …) as (heads · groups, blocks of a group, …), neighbours in different groups."""
        xp = self.xp
        heads, count, *rest = blocks.shape
        divided = xp.reshape(blocks, (heads, count // groups, groups, *rest))
        order = (0, 2, 1, *range(3, divided.ndim))
        return xp.reshape(xp.permute_dims(divided, order), (heads * groups, count // groups, *rest))

    def _out_of_groups(self, array: Array, groups: int) -> Array:
        """Return (heads · groups, blocks of a group, …) as (heads · blocks, …)."""
        xp = self.xp
        divided = xp.reshape(array, (self.heads, groups, *array.shape[1:]))
        order = (0, 2, 1, *range(3, divided.ndim))
        return xp.reshape(xp.permute_dims(divided, order), (-1, *array.shape[2:]))

    # -- a block of queries and one of keys

    def _logits(self, q: Array, k: Array, rows: Array, own: Sequence[Array], columns: _Blocks) -> Array:
        """Return the logits, −∞ where a query does not see a key; `own` are the columns' numbers, and masks of them."""
        xp, (numbers, *masks) = self.xp, own
        s = self._product(q, xp.matrix_transpose(k))
        s = s * np.asarray(self.scale, s.dtype)
        hidden = np.asarray(-np.inf, s.dtype)
        for one in masks:
            s = xp.where(one, s, hidden) if one.dtype.kind == "b" else s + xp.astype(one, s.dtype)
        if self.attention.causal:  # no query sees a padded key
            return xp.where(rows + np.int32(self.ahead) >= numbers, s, hidden)
        is_padded = columns.count * columns.size > columns.length
        return xp.where(numbers < np.int32(columns.length), s, hidden) if is_padded else s

    def _product(self, a: Array, b: Array) -> Array:
        """Return the product of factors of the operands' dtype, in the wide one."""
        xp = self.xp
        return xp.astype(xp.matmul(xp.astype(a, self.dtype), xp.astype(b, self.dtype)), self.wide)

    def _kept(self, head: Array, rows: Array, columns: Array) -> Array | None:
        """Tell which weights are kept; None where all are."""
        if self.seed is None:
            return None
        rows, columns = (self.xp.astype(one, np.uint32) for one in (rows, columns))
        return kept_at(self.seed, head, rows, columns, self.q.shape[1], self.attention.dropout)

    # -- which blocks there are to go through

    def _numbers(self, blocks: _Blocks, axis: int) -> Array:
        """Return the places of the blocks' elements, as a column or as a row for each block."""
        shape = (blocks.count, blocks.size, 1) if axis == 0 else (blocks.count, 1, blocks.size)
        return self.xp.reshape(self.xp.arange(blocks.count * blocks.size, dtype=np.int32), shape)

    def _columns_seen(self, rows: _Blocks, columns: _Blocks) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Return how many blocks of keys each block of queries sees any of; the first one it goes through anyway."""
        last = np.minimum(np.arange(1, rows.count + 1) * rows.size, rows.length) - 1
        return np.clip((last + self.ahead) // columns.size + 1, 1, columns.count)

    def _rows_seeing(self, rows: _Blocks, columns: _Blocks) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Return how many blocks of queries, up to the last one, see any of each block of keys, and at least one."""
        if not self.attention.causal:
            return np.full(columns.count, rows.count, np.int64)
        first = np.maximum(np.arange(columns.count) * columns.size - self.ahead, 0) // rows.size
        return np.clip(rows.count - first, 1, rows.count)

    def _is_first(self, rows: _Blocks, columns: _Blocks, groups: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Tell for blocks of keys and of queries whether a group, from its last block on, first meets the queries so.

        Shapes:
            result: (blocks of keys, blocks of queries).
        """
        sees = np.arange(rows.count) >= rows.count - self._rows_seeing(rows, columns)[:, None]
        later = np.zeros_like(sees)
        later[:-groups] = sees[groups:]  # what later blocks of a group see, earlier ones see too
        return sees & ~later


def _or_zero(largest: Array) -> Array:
    """Return the largest logits; 0 where there are none, or infinite ones."""
    xp = array_namespace(largest)
    return xp.where(xp.isfinite(largest), largest, xp.zeros_like(largest))
