"""Looking rows up in a table by their numbers, as word embeddings are.

The gradient of looking up is adding: the adjoint of each row that was looked up is added to the row of the table that
it came from. Neither makes a one-hot matrix, so that the cost is that of the rows looked up.
"""

from __future__ import annotations

import math

from needle.autograd import Tensor, TensorOp
from needle.device import Array, array_namespace
from needle.dtype import float32, is_narrow
from needle.errors import ShapeError
from needle.ops.indexing import ScatterAdd, as_class_indices

__all__ = ["Embedding", "embedding"]


class Embedding(TensorOp):
    """y[…, :] = weight[ids[…], :]."""

    name = "embedding"
    computes_wide = False

    def compute(self, ids: Array, weight: Array) -> Array:
        if weight.ndim != 2:
            raise ShapeError(f"the weight has a row for each id, shape (num_embeddings, D), got {weight.shape}")
        indices = as_class_indices(ids, weight.shape[0], "ids")
        return weight[indices]

    def gradient(self, out_grad: Tensor, node: Tensor) -> tuple[None, Tensor]:
        ids, weight = node.inputs
        return None, EmbeddingAdjoint(weight.shape[0])(ids, out_grad)


class EmbeddingAdjoint(TensorOp):
    """y = zeros of (num_embeddings, D), with each row of g added at its id."""

    name = "embedding_adjoint"
    computes_wide = False  # widened here: ids may have a floating-point dtype, which is not the result's

    def __init__(self, num_embeddings: int) -> None:
        self.num_embeddings = num_embeddings

    def compute(self, ids: Array, g: Array) -> Array:
        xp = array_namespace(g)
        rows = xp.reshape(g, (math.prod(ids.shape), g.shape[-1]))
        indices = xp.reshape(as_class_indices(ids, self.num_embeddings, "ids"), (-1,))
        rows = xp.astype(rows, float32) if is_narrow(g.dtype) else rows
        return xp.astype(ScatterAdd((self.num_embeddings, g.shape[-1]), indices).compute(rows), g.dtype)

    def gradient(self, out_grad: Tensor, node: Tensor) -> tuple[None, Tensor]:
        return None, embedding(node.inputs[0], out_grad)


def embedding(ids: Tensor, weight: Tensor) -> Tensor:
    """Look up rows of a table.

    Formula::

        y[…, :] = weight[ids[…], :]

    Shapes:
        ids: any.
        weight: (num_embeddings, D).
        result: (*ids.shape, D).

    Args:
        ids: whole numbers from 0 to num_embeddings − 1, of any integer or floating-point dtype. They get no gradient.
        weight: the table.

    Returns:
        The rows, in the dtype of the weight; a copy.

    Raises:
        ShapeError: the weight is no matrix.
        DataError: an id is no whole number from 0 to num_embeddings − 1.

    Gradient:
        ∂/∂weight: zeros, with each adjoint row added to the row that was looked up.

    Example:
        >>> import needle as ndl
        >>> table = ndl.Tensor([[1.0, 2.0], [3.0, 4.0]])
        >>> ndl.embedding(ndl.Tensor([1, 0, 1]), table).sum().backward()
        >>> table.grad
        needle.Tensor([[1. 1.] [2. 2.]])
    """
    return Embedding()(ids, weight)
