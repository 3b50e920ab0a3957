"""Rows of needle.ops.elementwise."""

import math

import numpy as np

import needle as ndl
from needle import ops
from needle.errors import DataError, DTypeError, ShapeError

from ..op_cases import EVERY, FLOATS, NUMBERS, SIGNED, TWO, Domain, OpCase, Refusal

WIDE = Domain(-9, 9)


def special(a):
    """Return `a` with its elements in turn NaN, infinite, negative infinite and themselves."""
    values = np.array([np.nan, np.inf, -np.inf, 0.0])[np.arange(a.size) % 4].reshape(a.shape)
    return a + values.astype(a.dtype)


def of_special(function):
    """Apply a test for special values to operands that have them."""
    return lambda a: function(a + ndl.Tensor(special(np.zeros(a.shape)), dtype=a.dtype, requires_grad=False))


def two(name, op, call, reference):
    return OpCase(
        name,
        op,
        call,
        reference,
        TWO,
        dtypes=EVERY,
        exact=True,
        refusals=[
            Refusal(
                lambda: call(ndl.Tensor(np.ones(3)), ndl.Tensor(np.ones(2))),
                ShapeError,
                rf"^{name}: shapes \(3,\) and \(2,\) do not broadcast: axis -1 has 3 against 2",
            ),
            Refusal(lambda: call(1, 2), DTypeError, "one of the operands must be a Tensor"),
        ],
    )


CASES = [
    OpCase("abs", ops.Abs, ndl.abs, np.abs, dtypes=NUMBERS, exact=True),
    OpCase("abs_builtin", ops.Abs, abs, np.abs),
    OpCase("sin", ops.Sin, ndl.sin, np.sin, domains=WIDE),
    OpCase("cos", ops.Cos, ndl.cos, np.cos, domains=WIDE),
    OpCase("tanh", ops.Tanh, ndl.tanh, lambda a: 1 - 2 / (np.exp(2 * a) + 1)),
    OpCase("erf", ops.Erf, ndl.erf, np.vectorize(math.erf, otypes=[float]), domains=Domain(-5, 5)),
    OpCase("sign", ops.Sign, ndl.sign, np.sign, dtypes=(*FLOATS, *SIGNED), exact=True),
    OpCase("floor", ops.Floor, ndl.floor, np.floor, domains=WIDE, dtypes=NUMBERS, exact=True),
    OpCase("ceil", ops.Ceil, ndl.ceil, np.ceil, domains=WIDE, dtypes=NUMBERS, exact=True),
    OpCase("round", ops.Round, ndl.round, np.rint, domains=WIDE, dtypes=NUMBERS, exact=True),
    OpCase(
        "isnan",
        ops.IsNaN,
        of_special(ndl.isnan),
        lambda a: np.arange(a.size).reshape(a.shape) % 4 == 0,
        result_dtype=lambda dtype: "bool",
        differentiable=False,
        exact=True,
    ),
    OpCase(
        "isfinite",
        ops.IsFinite,
        of_special(ndl.isfinite),
        lambda a: np.arange(a.size).reshape(a.shape) % 4 == 3,
        result_dtype=lambda dtype: "bool",
        differentiable=False,
        exact=True,
    ),
    two("maximum", ops.Maximum, ndl.maximum, lambda a, b: np.where(a > b, a, b)),
    two("minimum", ops.Minimum, ndl.minimum, lambda a, b: np.where(a < b, a, b)),
    OpCase(
        "maximum_number", ops.Maximum, lambda a: ndl.maximum(0.5, a), lambda a: np.where(a > 0.5, a, 0.5), exact=True
    ),
    OpCase("minimum_number", ops.Minimum, lambda a: ndl.minimum(a, 1), lambda a: np.where(a < 1, a, 1), dtypes=NUMBERS),
    OpCase(
        "clip",
        ops.Clip,
        lambda a: ndl.clip(a, -1, 2),
        lambda a: np.where(a < -1, -1, np.where(a > 2, 2, a)),
        dtypes=(*FLOATS, *SIGNED),
        exact=True,
        refusals=[
            Refusal(lambda: ndl.clip(ndl.Tensor([1.0]), 2, 1), DataError, "clip: low = 2 is above high = 1"),
            Refusal(lambda: ndl.clip(ndl.Tensor([1.0]), "a"), DTypeError, "expected one number, got str"),
        ],
    ),
    OpCase("clip_below", ops.Clip, lambda a: a.clip(0.5), lambda a: np.where(a < 0.5, 0.5, a), exact=True),
    OpCase("clip_above", ops.Clip, lambda a: a.clip(high=0.5), lambda a: np.where(a > 0.5, 0.5, a), exact=True),
    OpCase("clip_neither", ops.Clip, lambda a: a.clip(), lambda a: a, dtypes=EVERY, exact=True),
]
