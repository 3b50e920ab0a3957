"""Rows of needle.ops.embedding."""

import numpy as np

import needle as ndl
from needle import ops
from needle.errors import DataError, ShapeError
from needle.ops.embedding import EmbeddingAdjoint

from ..op_cases import REAL, Domain, OpCase, Refusal

TABLE = ndl.Tensor(np.ones((3, 2)))


def added(ids, g, length):
    result = np.zeros((length, g.shape[-1]))
    for place, row in zip(ids.astype(int).flat, g.reshape(-1, g.shape[-1]), strict=True):
        result[place] += row
    return result


CASES = [
    *(
        OpCase(
            f"embedding_{dtype}",
            ops.Embedding,
            ndl.embedding,
            lambda ids, weight: weight[ids.astype(int)],
            [((4,), (3, 2)), ((), (3, 1)), ((2, 5), (3, 4)), ((2, 0), (3, 2)), ((1, 3), (3, 0))],
            (Domain(0, 2, dtype), REAL),
            exact=True,
        )
        for dtype in ("int64", "uint8")
    ),
    OpCase(
        "embedding_of_float_ids",
        ops.Embedding,
        lambda ids, weight: ndl.embedding(ndl.floor(ids), weight),
        lambda ids, weight: weight[np.floor(ids).astype(int)],
        [((4,), (3, 2)), ((2, 5), (3, 4))],
        (Domain(0, 2.9), REAL),
        differentiable=(False, True),
        exact=True,
        refusals=[
            Refusal(
                lambda: ndl.embedding(ndl.Tensor([0, 3]), TABLE),
                DataError,
                r"^embedding: ids are whole numbers from 0 to 2, got 3 at position \(1,\)",
            ),
            Refusal(lambda: ndl.embedding(ndl.Tensor([[0], [-1]]), TABLE), DataError, r"got -1 at position \(1, 0\)"),
            Refusal(lambda: ndl.embedding(ndl.Tensor([0.5]), TABLE), DataError, r"got 0.5 at position \(0,\)"),
            Refusal(
                lambda: ndl.embedding(ndl.Tensor([0]), TABLE[0]),
                ShapeError,
                r"the weight has a row for each id, shape \(num_embeddings, D\), got \(2,\)",
            ),
        ],
    ),
    OpCase(
        "embedding_adjoint",
        EmbeddingAdjoint,
        EmbeddingAdjoint(4),
        lambda ids, g: added(ids, g, 4),
        [((5,), (5, 3)), ((), (2,)), ((2, 3), (2, 3, 1)), ((0,), (0, 3))],
        (Domain(0, 3, "int64"), REAL),
    ),
]
