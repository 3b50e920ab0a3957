"""Rows of needle.ops.softmax."""

import numpy as np

import needle as ndl
from needle import ops
from needle.errors import AxisError, DTypeError, ShapeError

from ..op_cases import OpCase, Refusal

X = ndl.Tensor(np.ones((2, 3, 4)))


def softmax(z, axis):
    return np.exp(z) / np.exp(z).sum(axis=axis, keepdims=True)


def logsumexp(z, axes=None):
    return np.log(np.sum(np.exp(z), axis=axes))


CASES = [
    OpCase("logsumexp", ops.LogSumExp, ndl.logsumexp, logsumexp, [((),), ((1,),), ((5,),), ((3, 4),)]),
    *(
        OpCase(
            f"logsumexp_{axes}".replace(" ", ""),
            ops.LogSumExp,
            lambda a, axes=axes: ndl.logsumexp(a, axes),
            lambda a, axes=axes: logsumexp(a, axes),
            [((2, 3),), ((1, 3),), ((2, 3, 4),), ((3, 1, 2),)],
            refusals=[
                Refusal(lambda: ndl.logsumexp(X, 3), AxisError, "logsumexp: axis 3 is out of range for 3 axes"),
                Refusal(
                    lambda: ndl.logsumexp(ndl.Tensor(np.ones((2, 0))), 1),
                    ShapeError,
                    r"logsumexp: no elements along axes \(1,\) of shape \(2, 0\)",
                ),
            ],
        )
        for axes in (0, -1, (0, 1), (1,), (-2, -1))
    ),
    *(
        OpCase(
            f"{name}_{axis}",
            op,
            lambda a, axis=axis, call=call: call(a, axis),
            lambda a, axis=axis, reference=reference: reference(a, axis),
            [((1,),), ((5,),), ((0,),), ((3, 4),), ((2, 1, 3),), ((2, 0),), ((0, 3),)],
            refusals=[
                Refusal(lambda call=call: call(X, 3), AxisError, f"{name}: axis 3 is out of range for 3 axes"),
                Refusal(lambda call=call: call(X, (0, 1)), DTypeError, rf"{name}: axis is one integer, got \(0, 1\)"),
                Refusal(
                    lambda call=call: call(ndl.Tensor(1.0)), AxisError, f"{name}: axis -1 is out of range for 0 axes"
                ),
            ],
        )
        for axis in (0, -1)
        for name, op, call, reference in [
            ("softmax", ops.Softmax, ndl.softmax, softmax),
            ("logsoftmax", ops.LogSoftmax, ndl.logsoftmax, lambda z, axis: np.log(softmax(z, axis))),
        ]
    ),
]
