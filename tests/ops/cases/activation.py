"""Rows of needle.ops.activation."""

import math

import numpy as np

import needle as ndl
from needle import ops
from needle.errors import AxisError, ShapeError

from ..op_cases import FLOATS, SIGNED, Domain, OpCase, Refusal

WIDE = Domain(-6, 6)
erf = np.vectorize(math.erf, otypes=[float])


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


CASES = [
    OpCase("relu", ops.ReLU, ndl.relu, lambda a: a * (a > 0), dtypes=(*FLOATS, *SIGNED), exact=True),
    OpCase("leaky_relu", ops.LeakyReLU, ndl.leaky_relu, lambda a: np.where(a > 0, a, 0.01 * a)),
    OpCase("leaky_relu_slope", ops.LeakyReLU, lambda a: ndl.leaky_relu(a, 0.2), lambda a: np.where(a > 0, a, 0.2 * a)),
    OpCase("elu", ops.ELU, ndl.elu, lambda a: np.where(a > 0, a, np.exp(a) - 1)),
    OpCase("elu_alpha", ops.ELU, lambda a: ndl.elu(a, 0.5), lambda a: np.where(a > 0, a, 0.5 * (np.exp(a) - 1))),
    OpCase("sigmoid", ops.Sigmoid, ndl.sigmoid, sigmoid, domains=WIDE),
    OpCase("silu", ops.SiLU, ndl.silu, lambda a: a * sigmoid(a), domains=WIDE),
    OpCase("softplus", ops.Softplus, ndl.softplus, lambda a: np.log(1 + np.exp(a)), domains=WIDE),
    OpCase("gelu", ops.GELU, ndl.gelu, lambda a: a * (1 + erf(a / math.sqrt(2))) / 2, domains=WIDE),
    OpCase(
        "gelu_approximate",
        ops.GELU,
        lambda a: ndl.gelu(a, approximate=True),
        lambda a: a / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (a + 0.044715 * a**3))),
        domains=WIDE,
    ),
    OpCase(
        "selu", None, ndl.selu, lambda a: 1.0507009873554805 * np.where(a > 0, a, 1.6732632423543772 * (np.exp(a) - 1))
    ),
    OpCase("mish", None, ndl.mish, lambda a: a * np.tanh(np.log(1 + np.exp(a))), domains=WIDE),
    OpCase("relu6", None, ndl.relu6, lambda a: np.minimum(np.maximum(a, 0), 6), domains=Domain(-9, 9)),
    OpCase("hardsigmoid", None, ndl.hardsigmoid, lambda a: np.clip(a / 6 + 0.5, 0, 1), domains=WIDE),
    OpCase("hardswish", None, ndl.hardswish, lambda a: a * np.clip(a / 6 + 0.5, 0, 1), domains=WIDE),
    OpCase("logsigmoid", None, ndl.logsigmoid, lambda a: np.log(sigmoid(a)), domains=WIDE),
    OpCase("softsign", None, ndl.softsign, lambda a: a / (1 + np.abs(a))),
    OpCase(
        "prelu",
        None,
        ndl.prelu,
        lambda a, w: np.where(a > 0, a, a * w.reshape(() if len(w) == 1 else (-1, *[1] * (a.ndim - 2)))),
        [((3, 4), (4,)), ((2, 3, 4, 5), (3,)), ((5,), (1,)), ((), (1,)), ((2, 0, 3), (1,)), ((0, 2), (2,))],
        refusals=[
            Refusal(
                lambda: ndl.prelu(ndl.Tensor(np.ones((2, 3))), ndl.Tensor(np.ones(2))),
                ShapeError,
                r"one for each channel of \(N, C, …\), got \(2,\), \(2, 3\)",
            )
        ],
    ),
    OpCase(
        "glu",
        None,
        ndl.glu,
        lambda a: a[..., : a.shape[-1] // 2] * sigmoid(a[..., a.shape[-1] // 2 :]),
        [((2,),), ((3, 6),), ((2, 0),), ((0, 4),)],
        refusals=[
            Refusal(lambda: ndl.glu(ndl.Tensor(np.ones((2, 3)))), ShapeError, "has an even length, got 3"),
            Refusal(lambda: ndl.glu(ndl.Tensor(np.ones((2, 3))), 2), AxisError, "axis"),
        ],
    ),
    OpCase("glu_axis", None, lambda a: ndl.glu(a, 0), lambda a: a[:2] * sigmoid(a[2:]), [((4, 3),)]),
]
