"""Rows of needle.ops.arithmetic."""

import numpy as np

import needle as ndl
from needle import ops
from needle.errors import DTypeError, ShapeError

from ..op_cases import EVERY, FLOATS, NUMBERS, POSITIVE, REAL, SIGNED, TWO, Domain, OpCase, Refusal


def float_of(dtype):
    """The dtype of a quotient: integers are divided in float64, one byte's in float16."""
    return dtype if dtype.kind not in "iub" else (np.ones(1, dtype) / np.ones(1, dtype)).dtype


def differing(function):
    return Refusal(
        lambda: function(ndl.Tensor(np.ones((2, 3))), ndl.Tensor(np.ones((2, 4)))),
        ShapeError,
        rf"^{function.__name__}: shapes \(2, 3\) and \(2, 4\) do not broadcast: axis -1 has 3 against 4",
    )


def text_operand(function):
    return Refusal(lambda: function(ndl.Tensor([1.0]), "3"), DTypeError, r"expected one number, got str")


CASES = [
    OpCase("add", ops.EWiseAdd, ndl.add, np.add, TWO, dtypes=EVERY, refusals=[differing(ndl.add)]),
    OpCase("add_sign", ops.EWiseAdd, lambda a, b: a + b, np.add, TWO, dtypes=NUMBERS),
    OpCase("subtract", None, ndl.subtract, np.subtract, TWO, dtypes=(*FLOATS, *SIGNED)),
    OpCase("subtract_sign", None, lambda a, b: a - b, np.subtract, TWO, dtypes=(*FLOATS, *SIGNED)),
    OpCase(
        "multiply",
        ops.EWiseMul,
        ndl.multiply,
        np.multiply,
        TWO,
        dtypes=EVERY,
        refusals=[differing(ndl.multiply)],
    ),
    OpCase(
        "divide",
        ops.EWiseDiv,
        ndl.divide,
        np.divide,
        TWO,
        (REAL, POSITIVE),
        dtypes=(*FLOATS, "int32", "int64"),
        result_dtype=float_of,
        refusals=[differing(ndl.divide)],
    ),
    OpCase(
        "add_scalar",
        ops.AddScalar,
        lambda a: ndl.add_scalar(a, 2),
        lambda a: a + 2,
        dtypes=NUMBERS,
        refusals=[
            text_operand(ndl.add_scalar),
            Refusal(lambda: ndl.Tensor([1.0]).__add__([1.0]), DTypeError, "not with list"),
            Refusal(lambda: ndl.add(ndl.Tensor([1.0]), 2), DTypeError, r"add: expected Tensors, got int"),
        ],
    ),
    OpCase("add_scalar_before", ops.AddScalar, lambda a: 2.5 + a, lambda a: a + 2.5),
    OpCase("subtract_one", ops.AddScalar, lambda a: a - 1, lambda a: a - 1, domains=Domain(1, 4), dtypes=NUMBERS),
    OpCase("subtract_scalar", ops.AddScalar, lambda a: a - 2.5, lambda a: a - 2.5),
    OpCase("subtract_from_scalar", None, lambda a: 2.5 - a, lambda a: 2.5 - a),
    OpCase(
        "mul_scalar",
        ops.MulScalar,
        lambda a: ndl.mul_scalar(a, -3),
        lambda a: a * -3,
        dtypes=(*FLOATS, *SIGNED),
        refusals=[text_operand(ndl.mul_scalar)],
    ),
    OpCase("mul_scalar_numpy", ops.MulScalar, lambda a: a * np.float64(0.5), lambda a: a * 0.5),
    OpCase(
        "divide_scalar",
        ops.DivScalar,
        lambda a: ndl.divide_scalar(a, 4),
        lambda a: a / 4,
        dtypes=(*FLOATS, "int32", "int64"),
        result_dtype=float_of,
        refusals=[text_operand(ndl.divide_scalar)],
    ),
    OpCase("divide_scalar_array", ops.DivScalar, lambda a: ndl.divide_scalar(a, np.array([4.0])), lambda a: a / 4),
    OpCase("divide_number_by", None, lambda a: 2 / a, lambda a: 2 / a, domains=POSITIVE),
    OpCase(
        "negate",
        ops.Negate,
        ndl.negate,
        np.negative,
        dtypes=(*FLOATS, *SIGNED),
        refusals=[Refusal(lambda: -ndl.Tensor([True]), DTypeError, "negate: The numpy boolean negative")],
    ),
]
