"""Matrix products, and sums of products by Einstein's notation."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from functools import reduce

from needle.autograd import Tensor, TensorOp
from needle.device import Array, array_namespace
from needle.errors import DTypeError, ShapeError
from needle.ops.broadcasting import broadcast_rule, broadcast_to, summation, unbroadcast
from needle.ops.movement import permute, reshape, transpose

__all__ = ["MatMul", "einsum", "matmul"]


class MatMul(TensorOp):
    """y = a @ b over the last two axes; the axes before them broadcast."""

    name = "matmul"
    precision = "narrow"

    def compute(self, a: Array, b: Array) -> Array:
        if a.ndim < 2 or b.ndim < 2:
            raise ShapeError(f"takes matrices (two axes or more), got shapes {a.shape} and {b.shape}")
        if a.shape[-1] != b.shape[-2]:
            raise ShapeError(f"inner dimensions differ: a.shape[-1] = {a.shape[-1]}, b.shape[-2] = {b.shape[-2]}")
        if a.ndim > 2 and b.ndim > 2 and (rule := broadcast_rule([a.shape[:-2], b.shape[:-2]])):
            raise ShapeError(f"the batch axes differ: {rule}")
        xp = array_namespace(a)
        if a.ndim > 2 and b.ndim == 2:  # one product of all rows
            return xp.reshape(xp.matmul(xp.reshape(a, (-1, a.shape[-1])), b), (*a.shape[:-1], b.shape[-1]))
        return xp.matmul(a, b)

    def gradient(self, out_grad: Tensor, node: Tensor) -> tuple[Tensor | None, ...]:
        a, b = node.inputs
        return (
            unbroadcast(matmul(out_grad, transpose(b)), a.shape) if a.requires_grad else None,
            _right_gradient(a, b, out_grad) if b.requires_grad else None,
        )


def _right_gradient(a: Tensor, b: Tensor, out_grad: Tensor) -> Tensor:
    """Return the sum of aᵀ @ g over the batch axes along which b was repeated."""
    if a.ndim > 2 and b.ndim == 2:
        a, out_grad = (reshape(one, (-1, one.shape[-1])) for one in (a, out_grad))
    return unbroadcast(matmul(transpose(a), out_grad), b.shape)


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """Multiply matrices, or batches of them.

    Formula::

        y[…, i, j] = Σₖ a[…, i, k] · b[…, k, j]

    Shapes:
        a: (…, M, K).
        b: (…, K, N).
        result: (…, M, N); the batch axes before the last two broadcast.

    Raises:
        ShapeError: fewer than two axes, inner dimensions that differ, or batch axes that do not broadcast.

    Gradient:
        ∂/∂a = g @ bᵀ,   ∂/∂b = aᵀ @ g, each summed over the batch axes along which it was repeated.

    Cost:
        2·M·N·K floating-point operations a matrix.

    Example:
        >>> import needle as ndl
        >>> ndl.matmul(ndl.Tensor([[1.0, 2.0]]), ndl.Tensor([[3.0], [4.0]]))
        needle.Tensor([[11.]])
    """
    return MatMul()(a, b)


# One Tensor's letters, with at most one "...".
_TERM = re.compile(r"[a-zA-Z]*(\.\.\.)?[a-zA-Z]*")


def einsum(subscripts: str, *tensors: Tensor) -> Tensor:
    """Sum products of elements, with axes named by letters: Einstein's notation.

    Formula::

        "ij,jk->ik":   y[i, k] = Σⱼ a[i, j] · b[j, k]

    Axes of the same letter are multiplied element by element; letters that the result does not have are summed over.
    Without "->" the result has, in alphabetical order, the letters that occur once.

    Args:
        subscripts: a letter for each axis of each Tensor, Tensors separated by commas; "..." stands for axes that
            broadcast; a letter twice in one Tensor takes its diagonal.
        tensors: as many as there are subscripts.

    Returns:
        The Tensor that "->" describes. It is made of permutations, products and matrix products, two Tensors at a
        time from the left, so that its gradient is theirs.

    Raises:
        DTypeError: the subscripts are no string.
        ShapeError: subscripts that do not fit the Tensors, or lengths of one letter that differ.

    Example:
        >>> import needle as ndl
        >>> ndl.einsum("ij,j->i", ndl.Tensor([[1.0, 2.0], [3.0, 4.0]]), ndl.Tensor([1.0, 10.0]))
        needle.Tensor([21. 43.])
    """
    terms, result = _parse_subscripts(subscripts, tensors)
    lengths = _letter_lengths(subscripts, terms, tensors)
    named = [_diagonal(term, tensor) for term, tensor in zip(terms, tensors, strict=True)]
    while len(named) > 1:
        kept = set(result).union(*(term for term, _ in named[2:]))
        named[:2] = [_contract(named[0], named[1], kept, lengths)]
    term, tensor = named[0]
    summed = [axis for axis, letter in enumerate(term) if letter not in result]
    tensor = summation(tensor, tuple(summed)) if summed else tensor
    left = [letter for letter in term if letter in result]
    tensor = permute(tensor, [left.index(letter) for letter in result])
    shape = tuple(lengths[letter] for letter in result)
    return tensor if tensor.shape == shape else broadcast_to(tensor, shape)


def _parse_subscripts(subscripts: str, tensors: Sequence[Tensor]) -> tuple[list[str], str]:
    """Return each Tensor's letters and the result's, "..." written out as capitals that nobody used."""
    if not isinstance(subscripts, str):
        raise DTypeError(f"einsum: the subscripts are a string, got {type(subscripts).__name__}")
    inputs, arrow, result = subscripts.replace(" ", "").partition("->")
    terms = inputs.split(",")
    unreadable = not all(map(_TERM.fullmatch, [*terms, result]))
    missing = arrow and set(result) - set(inputs) - {"."}
    if unreadable or missing or any(result.count(letter) > 1 for letter in result if letter != "."):
        raise ShapeError(f"einsum: cannot read {subscripts!r}: letters, ',', '...' and '->', each result letter once")
    if len(terms) != len(tensors):
        raise ShapeError(f"einsum: {subscripts!r} names {len(terms)} Tensors, {len(tensors)} were given")
    free = [letter for letter in reversed(string.ascii_letters) if letter not in subscripts]
    widest = 0
    for number, (term, tensor) in enumerate(zip(terms, tensors, strict=True)):
        spare = tensor.ndim - len(term.replace("...", ""))
        if spare < 0 or ("..." not in term and spare > 0):
            raise ShapeError(f"einsum: {term!r} does not name the axes of Tensor {number}, of shape {tensor.shape}")
        widest = max(widest, spare)
        terms[number] = term.replace("...", "".join(free[:spare][::-1]))
    ellipsis = "".join(free[:widest][::-1])
    once = [letter for letter in sorted("".join(terms)) if "".join(terms).count(letter) == 1 and letter not in ellipsis]
    result = result.replace("...", ellipsis) if arrow else ellipsis + "".join(once)
    return terms, result


def _letter_lengths(subscripts: str, terms: Sequence[str], tensors: Sequence[Tensor]) -> dict[str, int]:
    """Return the length that each letter stands for."""
    lengths: dict[str, int] = {}
    for term, tensor in zip(terms, tensors, strict=True):
        for letter, length in zip(term, tensor.shape, strict=True):
            known = lengths.setdefault(letter, length)
            if known == 1:
                lengths[letter] = length
            elif length not in (1, known):
                shapes = ", ".join(str(one.shape) for one in tensors)
                raise ShapeError(f"einsum: {letter!r} is {known} and {length} in {subscripts!r} with shapes {shapes}")
    return lengths


def _diagonal(term: str, tensor: Tensor) -> tuple[str, Tensor]:
    """Take the diagonal of axes with the same letter."""
    for letter in dict.fromkeys(term):
        while term.count(letter) > 1:
            first = term.index(letter)
            second = term.index(letter, first + 1)
            order = [first, second, *(axis for axis in range(tensor.ndim) if axis not in (first, second))]
            moved = permute(tensor, order)
            positions = list(range(moved.shape[0]))
            tensor = moved[positions, positions]
            term = letter + "".join(term[axis] for axis in order[2:])
    return term, tensor


def _contract(
    left: tuple[str, Tensor], right: tuple[str, Tensor], kept: set[str], lengths: dict[str, int]
) -> tuple[str, Tensor]:
    """Multiply two named Tensors and sum over the letters that nobody needs any more, as one matrix product."""
    (left_term, a), (right_term, b) = _sum_unshared(left, right[0], kept), _sum_unshared(right, left[0], kept)
    shared = [letter for letter in left_term if letter in right_term]
    batch = [letter for letter in shared if letter in kept]
    summed = [letter for letter in shared if letter not in kept]
    rows = [letter for letter in left_term if letter not in shared]
    columns = [letter for letter in right_term if letter not in shared]
    a = _as_matrices(left_term, a, (batch, rows, summed), lengths)
    b = _as_matrices(right_term, b, (batch, summed, columns), lengths)
    term = [*batch, *rows, *columns]
    return "".join(term), reshape(matmul(a, b), [lengths[letter] for letter in term])


def _sum_unshared(named: tuple[str, Tensor], other: str, kept: set[str]) -> tuple[str, Tensor]:
    """Sum over letters that only this Tensor has and that the result does not need."""
    term, tensor = named
    axes = tuple(axis for axis, letter in enumerate(term) if letter not in other and letter not in kept)
    left = "".join(letter for axis, letter in enumerate(term) if axis not in axes)
    return left, summation(tensor, axes) if axes else tensor


def _as_matrices(term: str, tensor: Tensor, groups: tuple[list[str], ...], lengths: dict[str, int]) -> Tensor:
    """Return a Tensor as a batch of matrices: one axis for each group of letters."""
    full = tuple(lengths[letter] for letter in term)
    tensor = tensor if tensor.shape == full else broadcast_to(tensor, full)
    ordered = permute(tensor, [term.index(letter) for group in groups for letter in group])
    sizes = [reduce(lambda size, letter: size * lengths[letter], group, 1) for group in groups]
    return reshape(ordered, sizes)
