"""Rows of needle.ops.exponential."""

import numpy as np

import needle as ndl
from needle import ops
from needle.errors import DTypeError, ShapeError

from ..op_cases import POSITIVE, REAL, TWO, Domain, OpCase, Refusal

CASES = [
    OpCase("exp", ops.Exp, ndl.exp, np.exp),
    OpCase("log", ops.Log, ndl.log, np.log, domains=POSITIVE),
    OpCase("sqrt", ops.Sqrt, ndl.sqrt, np.sqrt, domains=POSITIVE),
    OpCase(
        "power",
        ops.EWisePow,
        ndl.power,
        np.power,
        TWO,
        (POSITIVE, REAL),
        refusals=[
            Refusal(
                lambda: ndl.power(ndl.Tensor(np.ones(3)), ndl.Tensor(np.ones(2))),
                ShapeError,
                r"power: shapes \(3,\) and \(2,\) do not broadcast",
            )
        ],
    ),
    OpCase("power_sign", ops.EWisePow, lambda a, b: a**b, np.power, TWO, (POSITIVE, REAL)),
    OpCase("power_of_number", None, lambda b: 1.5**b, lambda b: 1.5**b),
    OpCase(
        "power_scalar",
        ops.PowerScalar,
        lambda a: ndl.power_scalar(a, 3),
        lambda a: a * a * a,
        refusals=[
            Refusal(lambda: ndl.power_scalar(ndl.Tensor([1.0]), "2"), DTypeError, "expected one number, got str"),
            Refusal(lambda: ndl.Tensor([2, 3]) ** -1, DTypeError, "power_scalar: integers have no power -1 among"),
        ],
    ),
    OpCase(
        "power_scalar_square", ops.PowerScalar, lambda a: a ** np.int64(2), lambda a: a * a, dtypes=("float64", "int32")
    ),
    OpCase(
        "power_scalar_negative", ops.PowerScalar, lambda a: a**-1.5, lambda a: 1 / (a * np.sqrt(a)), domains=POSITIVE
    ),
    OpCase("power_scalar_one", ops.PowerScalar, lambda a: a**1, lambda a: a, domains=Domain(-1, 1)),
    OpCase("power_scalar_zero", ops.PowerScalar, lambda a: a**0, np.ones_like),
]
