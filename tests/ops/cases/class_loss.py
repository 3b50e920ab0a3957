"""Rows of needle.ops.class_loss."""

import numpy as np

import needle as ndl
from needle import ops
from needle.errors import DataError, ShapeError
from needle.ops.class_loss import ClassLabels, ClassTargets, ClassTargetSums, SoftmaxResidual

from ..op_cases import REAL, Domain, OpCase, Refusal

CLASSES = 4
LABELS = Domain(0, CLASSES - 1, "int64")
SHAPES = [((4,), ()), ((1, 4), (1,)), ((5, 4), (5,)), ((2, 3, 4), (2, 3))]
WEIGHTS = np.array([1.0, 2.0, 0.5, 3.0])
OPTIONS = {
    "plain": {},
    "sum": {"reduction": "sum"},
    "none": {"reduction": "none"},
    "smooth": {"label_smoothing": 0.2},
    "ignoring": {"ignore_index": 1},
    "weighted": {"class_weights": WEIGHTS},
    "everything": {"label_smoothing": 0.3, "ignore_index": 2, "class_weights": WEIGHTS},
}


def log_softmax(z):
    return z - np.log(np.exp(z).sum(axis=-1, keepdims=True))


def targets(labels, *, label_smoothing=0.0, ignore_index=None, class_weights=None, reduction="mean"):
    """The target distribution of each label, by the definition, divided as the mean is."""
    weights = np.ones(CLASSES) if class_weights is None else class_weights
    counts = labels != ignore_index
    spread = (1 - label_smoothing) * np.eye(CLASSES)[labels] + label_smoothing / CLASSES
    target = spread * weights * counts[..., None]
    total = (weights[labels] * counts).sum()
    return target / total if reduction == "mean" and total else target


def expected(log_p, labels, **options):
    losses = -(targets(labels, **options) * log_p).sum(axis=-1)
    return losses if options.get("reduction") == "none" else losses.sum()


def refusals(function, name):
    scores = ndl.Tensor(np.zeros((3, 4)))
    return [
        Refusal(
            lambda: function(scores, ndl.Tensor([[0], [1], [2]])),
            ShapeError,
            f"^{name}: labels have the scores' shape without its last axis, for scores",
        ),
        Refusal(
            lambda: function(scores, ndl.Tensor([0, 4, 1])), DataError, f"^{name}: labels are whole numbers from 0 to 3"
        ),
        Refusal(lambda: function(scores, ndl.Tensor([0, 0.5, 1])), DataError, r"got 0\.5 at position \(1,\)"),
        Refusal(
            lambda: function(ndl.Tensor(np.zeros((0, 4))), ndl.Tensor(np.zeros(0))),
            ShapeError,
            f"^{name}: there is no loss of an empty batch",
        ),
    ]


CASES = [
    *(
        OpCase(
            f"cross_entropy_{name}",
            ops.CrossEntropy,
            lambda z, y, options=options: ndl.cross_entropy(z, y, **options),
            lambda z, y, options=options: expected(log_softmax(z), y, **options),
            SHAPES,
            (REAL, LABELS),
            refusals=refusals(ndl.cross_entropy, "cross_entropy") if name == "plain" else [],
        )
        for name, options in OPTIONS.items()
    ),
    *(
        OpCase(
            f"nll_loss_{name}",
            ops.NegativeLogLikelihood,
            lambda q, y, options=OPTIONS[name]: ndl.nll_loss(q, y, **options),
            lambda q, y, options=OPTIONS[name]: expected(q, y, **options),
            SHAPES,
            (REAL, LABELS),
            refusals=refusals(ndl.nll_loss, "nll_loss") if name == "plain" else [],
        )
        for name in ("plain", "sum", "none", "ignoring", "weighted")
    ),
    *(
        OpCase(
            f"class_targets_{name}",
            ClassTargets,
            lambda y, options=options: ClassTargets(ClassLabels(**options), CLASSES, np.dtype("float64"))(y),
            lambda y, options=options: targets(y, **options),
            [((),), ((1,),), ((5,),), ((2, 3),)],
            LABELS,
            ("float64",),
            result_dtype=lambda dtype: np.dtype("float64"),
        )
        for name, options in OPTIONS.items()
    ),
    *(
        OpCase(
            f"class_target_sums_{name}",
            ClassTargetSums,
            lambda y, options=options: ClassTargetSums(ClassLabels(**options), CLASSES, np.dtype("float64"))(y),
            lambda y, options=options: targets(y, **options).sum(axis=-1, keepdims=True),
            [((),), ((1,),), ((5,),), ((2, 3),)],
            LABELS,
            ("float64",),
            result_dtype=lambda dtype: np.dtype("float64"),
        )
        for name, options in OPTIONS.items()
    ),
    OpCase(
        "softmax_residual",
        SoftmaxResidual,
        SoftmaxResidual(),
        lambda z, t, s: np.exp(log_softmax(z)) * s - t,
        [((4,), (4,), (1,)), ((5, 4), (5, 4), (5, 1)), ((2, 3, 4), (2, 3, 4), (2, 3, 1))],
        (REAL, Domain(0.0, 1.0), Domain(0.0, 1.0)),
        differentiable=(True, False, False),
    ),
]
