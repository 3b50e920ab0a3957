"""Rows of needle.ops.activation."""

import math

import numpy as np

import needle as ndl
from needle import ops

from ..op_cases import FLOATS, SIGNED, Domain, OpCase

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
]
