"""Rows of needle.ops.broadcasting."""

import numpy as np

import needle as ndl
from needle import ops
from needle.errors import AxisError, DTypeError, ShapeError

from ..op_cases import EVERY, NUMBERS, ONE, Domain, OpCase, Refusal

X = ndl.Tensor(np.ones((2, 3, 4)))

CASES = [
    OpCase(
        "broadcast_to",
        ops.BroadcastTo,
        lambda a: ndl.broadcast_to(a, (2, 3, 4)),
        lambda a: np.ones((2, 3, 4), a.dtype) * a if a.dtype != bool else np.ones((2, 3, 4), bool) & a,
        [((),), ((1,),), ((4,),), ((3, 1),), ((2, 1, 4),), ((2, 3, 4),)],
        dtypes=EVERY,
        exact=True,
        refusals=[
            Refusal(
                lambda: X.broadcast_to(2, 3, 5), ShapeError, r"shape \(2, 3, 4\) does not broadcast to \(2, 3, 5\)"
            ),
            Refusal(lambda: X.broadcast_to(3, 4), ShapeError, "broadcast_to: shape .* does not broadcast"),
            Refusal(lambda: ndl.broadcast_to(X, "ab"), DTypeError, "a shape is made of integers"),
        ],
    ),
    OpCase(
        "broadcast_to_nothing",
        ops.BroadcastTo,
        lambda a: ndl.broadcast_to(a, (2, 0)),
        lambda a: np.zeros((2, 0), a.dtype),
        [((1,),), ((2, 1),), ((0,),), ((),)],
        exact=True,
    ),
    *(
        OpCase(
            f"summation_{axes}_{keepdims}".replace(" ", ""),
            ops.Summation,
            lambda a, axes=axes, keepdims=keepdims: ndl.summation(a, axes, keepdims),
            lambda a, axes=axes, keepdims=keepdims: np.sum(a, axis=axes, keepdims=keepdims),
            shapes,
            Domain(0, 3),
            NUMBERS,
        )
        for axes, keepdims, shapes in [
            (None, False, ONE),
            (None, True, ONE),
            (0, False, [((4,),), ((2, 3),), ((0, 3),), ((3, 0),), ((1, 3),)]),
            (-1, True, [((4,),), ((2, 3),), ((0, 3),), ((3, 0),), ((3, 1),)]),
            ((0, 2), False, [((2, 3, 4),), ((1, 2, 1),), ((2, 0, 3),)]),
            ((-1, 0), True, [((2, 3, 4),), ((2, 3),)]),
            ((), False, [((),), ((3,),)]),
        ]
    ),
    OpCase(
        "summation_booleans",
        ops.Summation,
        lambda a: a.sum(),
        lambda a: np.sum(a.astype(np.int64)),
        dtypes=["bool"],
        result_dtype=lambda dtype: "int64",
        exact=True,
        refusals=[
            Refusal(
                lambda: X.sum(3), AxisError, r"summation: axis 3 is out of range for 3 axes\n  a: float64 \(2, 3, 4\)"
            ),
            Refusal(lambda: X.sum((0, -3)), AxisError, r"summation: axes \(0, -3\) name an axis twice"),
            Refusal(lambda: X.sum(1.0), DTypeError, "summation: axes are integers, got 1.0"),
        ],
    ),
]
