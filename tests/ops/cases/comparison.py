"""Rows of needle.ops.comparison."""

import numpy as np

import needle as ndl
from needle import ops
from needle.errors import DTypeError, ShapeError

from ..op_cases import CONDITION, EVERY, NUMBERS, REAL, TWO, Domain, OpCase, Refusal

FEW = Domain(-1, 1, None)  # whole numbers from −1 to 1 where the dtype is an integer: many are equal


def to_bool(dtype):
    return "bool"


def compared(name, op, call, reference):
    return OpCase(
        name,
        op,
        call,
        reference,
        TWO,
        FEW,
        EVERY,
        to_bool,
        differentiable=False,
        exact=True,
        refusals=[
            Refusal(
                lambda: call(ndl.Tensor(np.ones(3)), ndl.Tensor(np.ones(2))),
                ShapeError,
                rf"^{name}: shapes \(3,\) and \(2,\) do not broadcast: axis -1 has 3 against 2\n  a: float64 \(3,\)",
            ),
            Refusal(lambda: call(1, 2), DTypeError, "one of the operands must be a Tensor, got int and int"),
        ],
    )


CHOICES = (
    ((), (), ()),
    ((3,), (3,), (3,)),
    ((2, 1), (3,), (2, 3)),
    ((2, 3), (), (1, 3)),
    ((), (2, 3), (3,)),
    ((0, 3), (1, 3), ()),
)

CASES = [
    compared("equal", ops.Equal, ndl.equal, np.equal),
    compared("not_equal", ops.NotEqual, ndl.not_equal, np.not_equal),
    compared("less", ops.Less, ndl.less, np.less),
    compared("less_equal", ops.LessEqual, ndl.less_equal, np.less_equal),
    compared("greater", ops.Greater, ndl.greater, np.greater),
    compared("greater_equal", ops.GreaterEqual, ndl.greater_equal, np.greater_equal),
    OpCase(
        "less_than_number",
        ops.Less,
        lambda a: a < 0.5,
        lambda a: a < 0.5,
        dtypes=NUMBERS,
        result_dtype=to_bool,
        differentiable=False,
        exact=True,
    ),
    OpCase(
        "number_less_than",
        ops.Less,
        lambda a: ndl.less(1, a),
        lambda a: a > 1,
        dtypes=NUMBERS,
        result_dtype=to_bool,
        differentiable=False,
        exact=True,
    ),
    OpCase(
        "where",
        ops.Where,
        ndl.where,
        np.where,
        CHOICES,
        (CONDITION, REAL, REAL),
        EVERY,
        exact=True,
        refusals=[
            Refusal(
                lambda: ndl.where(ndl.Tensor([1.0]), ndl.Tensor([1.0]), 0),
                DTypeError,
                "where: the condition is made of booleans, got float64: compare with something",
            ),
            Refusal(
                lambda: ndl.where(ndl.Tensor([True, False]), ndl.Tensor([1.0, 2.0, 3.0]), 0),
                ShapeError,
                r"where: shapes \(2,\) and \(3,\) and \(\) do not broadcast: axis -1 has 2 against 3",
            ),
            Refusal(lambda: ndl.where(ndl.Tensor([True]), 1, 0), DTypeError, "one of the operands must be a Tensor"),
        ],
    ),
    OpCase(
        "where_number",
        ops.Where,
        lambda condition, a: ndl.where(condition, 0, a),
        lambda condition, a: np.where(condition, 0, a),
        TWO,
        (CONDITION, REAL),
        exact=True,
    ),
]
