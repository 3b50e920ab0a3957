"""Rows of needle.ops.casting."""

import numpy as np

import needle as ndl
from needle import ops
from needle.errors import DTypeError

from ..op_cases import EVERY, ONE, Domain, OpCase, Refusal, is_float

FROM_0 = Domain(0, 3)

CASES = [
    *(
        OpCase(
            f"astype_{dtype}",
            ops.Cast,
            lambda a, dtype=dtype: ndl.astype(a, dtype),
            lambda a, dtype=dtype: a.astype(dtype),
            ONE,
            FROM_0,
            EVERY,
            lambda _, dtype=dtype: dtype,
            differentiable=is_float(np.dtype(dtype)),
            coarse=dtype != "float64",
            refusals=[
                Refusal(
                    lambda: ndl.Tensor([1.0]).astype("complex64"), DTypeError, "no dtype 'complex64'; there are float16"
                ),
                Refusal(lambda: ndl.Tensor([1.0]).astype("number"), DTypeError, "no dtype 'number'"),
            ],
        )
        for dtype in ("float64", "float32", "float16", ndl.bfloat16, "int32", "uint8", "bool")
    ),
    OpCase(
        "to_device", ops.ToDevice, lambda a: ndl.to_device(a, ndl.cpu()), lambda a: a, ONE, dtypes=EVERY, exact=True
    ),
]
