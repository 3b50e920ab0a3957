"""Rows of needle.ops.normalization."""

import numpy as np

import needle as ndl
from needle import ops
from needle.errors import AxisError, ShapeError
from needle.ops.normalization import InverseDeviation, Moments, NormalizationAdjoint

from ..op_cases import POSITIVE, REAL, OpCase, Refusal

EPS = 0.1  # large enough that equal elements, too, are well conditioned for differences
CASES_OF_AXES = [
    (0, [((4,),), ((5, 3),), ((1, 3),), ((3, 0),)]),
    (-1, [((4,),), ((2, 3),), ((0, 3),), ((3, 1),)]),
    ((0, 2), [((2, 3, 4),), ((2, 1, 2),), ((2, 0, 3),)]),
    ((-1, 1), [((2, 3, 4),), ((2, 2, 2),)]),
]


def means(a, axes):
    return np.mean(a, axis=axes, keepdims=True)


def inverse(a, axes, centred):
    return 1 / np.sqrt(means((a - means(a, axes) * centred) ** 2, axes) + EPS)


def adjoint(g, normalized, scale, axes, centred):
    return scale * (g - means(g, axes) * centred - normalized * means(g * normalized, axes))


def refusals(function, name):
    return [
        Refusal(lambda: function(ndl.Tensor(np.ones((0, 3))), 0), ShapeError, f"^{name}: no elements to average along"),
        Refusal(lambda: function(ndl.Tensor(np.ones((2, 3))), 2), AxisError, f"^{name}: axis 2 is out of range"),
        Refusal(lambda: function(ndl.Tensor(np.ones((2, 3))), (0, -2)), AxisError, "name an axis twice"),
    ]


def named(name, axes):
    return f"{name}_{axes}".replace(" ", "")


CASES = [
    *(
        OpCase(
            named("normalize", axes),
            ops.Normalize,
            lambda a, axes=axes: ndl.normalize(a, axes, EPS),
            lambda a, axes=axes: (a - means(a, axes)) * inverse(a, axes, True),
            shapes,
            refusals=refusals(ndl.normalize, "normalize") if axes == 0 else [],
        )
        for axes, shapes in CASES_OF_AXES
    ),
    *(
        OpCase(
            named("rms_normalize", axes),
            ops.RMSNormalize,
            lambda a, axes=axes: ndl.rms_normalize(a, axes, EPS),
            lambda a, axes=axes: a * inverse(a, axes, False),
            shapes,
            refusals=refusals(ndl.rms_normalize, "rms_normalize") if axes == 0 else [],
        )
        for axes, shapes in CASES_OF_AXES
    ),
    *(
        OpCase(
            f"inverse_deviation_{centred}",
            InverseDeviation,
            lambda a, centred=centred: InverseDeviation(Moments(0, EPS, centred))(a),
            lambda a, centred=centred: inverse(a, 0, centred),
            [((4,),), ((5, 3),), ((1, 3),)],
        )
        for centred in (True, False)
    ),
    *(
        OpCase(
            f"normalization_adjoint_{centred}",
            NormalizationAdjoint,
            lambda g, x, r, centred=centred: NormalizationAdjoint(Moments(0, EPS, centred))(g, x, r),
            lambda g, x, r, centred=centred: adjoint(g, x, r, 0, centred),
            [((4,), (4,), (1,)), ((5, 3), (5, 3), (1, 3)), ((1, 2), (1, 2), (1, 2))],
            (REAL, REAL, POSITIVE),
        )
        for centred in (True, False)
    ),
]
