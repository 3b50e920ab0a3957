"""Layers that turn numbers of things, such as words, into vectors."""

from __future__ import annotations

from numpy.typing import DTypeLike

from needle import init, ops
from needle.autograd import Tensor
from needle.device import Device
from needle.errors import ShapeError
from needle.nn.module import Module
from needle.nn.parameter import Parameter

__all__ = ["Embedding"]


class Embedding(Module):
    """A learned vector for each of a number of things.

    Formula::

        y[…, :] = weight[x[…], :]

    Shapes:
        x: any, of whole numbers from 0 to num_embeddings − 1 in any integer or floating-point dtype.
        result: (*x.shape, embedding_dim).

    Args:
        num_embeddings: how many things there are.
        embedding_dim: the length of a vector.
        device: where the weight lives; the CPU where not given.
        dtype: of the weight.

    State:
        weight: (num_embeddings, embedding_dim), drawn from N(0, 1).

    Raises:
        ShapeError: there is nothing to embed, or into no numbers.
        DataError: when called: an id is no whole number from 0 to num_embeddings − 1.

    Example:
        >>> import needle as ndl
        >>> from needle import nn
        >>> words = nn.Embedding(1000, 16)
        >>> words(ndl.Tensor([[3, 1, 4], [1, 5, 9]])).shape
        (2, 3, 16)
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        device: Device | None = None,
        dtype: DTypeLike = "float32",
    ) -> None:
        if num_embeddings < 1 or embedding_dim < 1:
            raise ShapeError(f"Embedding: both sizes are 1 or more, got {num_embeddings} and {embedding_dim}")
        self.weight = Parameter(init.randn(num_embeddings, embedding_dim, device=device, dtype=dtype))
        self.num_embeddings = num_embeddings
        self.embedding_dim = embedding_dim

    def forward(self, x: Tensor) -> Tensor:
        """Return the rows of the weight that `x` names."""
        return ops.embedding(x, self.weight)

    def extra_repr(self) -> str:
        """Return the sizes."""
        return f"{self.num_embeddings} → {self.embedding_dim}"
