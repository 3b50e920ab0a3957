"""Rows of needle.ops.loss."""

import numpy as np

import needle as ndl
from needle import ops
from needle.errors import DataError, ShapeError

from ..op_cases import REAL, Domain, OpCase, Refusal

SAME = [((), ()), ((1,), (1,)), ((5,), (5,)), ((3, 4), (3, 4)), ((2, 1, 3), (2, 1, 3))]
PROBABILITIES = Domain(0.1, 0.9)
REDUCTIONS = {"mean": np.mean, "sum": np.sum, "none": np.asarray}


def huber(a, b, delta=1.5):
    size = np.abs(a - b)
    return np.where(size <= delta, size**2 / 2, delta * (size - delta / 2))


def cross_entropy_of_logits(z, t):
    p = 1 / (1 + np.exp(-z))
    return -t * np.log(p) - (1 - t) * np.log(1 - p)


def rows(name, op, function, formula, domains=REAL, shapes=SAME):
    column, row = ndl.Tensor(np.full((4, 1), 0.5)), ndl.Tensor(np.full(4, 0.5))
    empty = ndl.Tensor(np.ones((0, 3)))
    refusals = [
        Refusal(lambda: function(column, row), ShapeError, f"^{name}: the prediction has shape .* they must be equal"),
        Refusal(lambda: function(empty, empty), ShapeError, f"^{name}: there is no loss of an empty batch"),
        Refusal(lambda: function(row, row, reduction="max"), DataError, "reduction is one of 'mean', 'sum', 'none'"),
    ]
    return [
        OpCase(
            f"{name}_{reduction}",
            op,
            lambda a, b, reduction=reduction: function(a, b, reduction=reduction),
            lambda a, b, reduce=reduce: reduce(formula(a, b)),
            shapes,
            domains,
            refusals=refusals if reduction == "mean" else [],
        )
        for reduction, reduce in REDUCTIONS.items()
    ]


def huber_loss(a, b, reduction="mean"):
    return ndl.huber_loss(a, b, 1.5, reduction)


CASES = [
    *rows("mse_loss", ops.SquaredError, ndl.mse_loss, lambda a, b: (a - b) ** 2),
    *rows("l1_loss", ops.AbsoluteError, ndl.l1_loss, lambda a, b: np.abs(a - b)),
    *rows("huber_loss", ops.HuberError, huber_loss, huber),
    *rows(
        "binary_cross_entropy_with_logits",
        ops.BinaryCrossEntropyWithLogits,
        ndl.binary_cross_entropy_with_logits,
        cross_entropy_of_logits,
        (REAL, PROBABILITIES),
    ),
    *rows(
        "kl_divergence",
        ops.KLDivergence,
        ndl.kl_divergence,
        lambda q, p: (p * (np.log(p) - q)).sum(axis=-1),
        (Domain(-3, 0), PROBABILITIES),
        SAME[1:],
    ),
]
