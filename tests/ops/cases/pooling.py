"""Rows of needle.ops.pooling."""

import itertools

import numpy as np

import needle as ndl
from needle import ops
from needle.errors import DTypeError, ShapeError

from ..op_cases import WIDE_FLOATS, OpCase, Refusal
from .convolution import numbers

IMAGE = ndl.Tensor(np.ones((2, 5, 6, 3)))


def pooled(a, reduce, kernel, stride=None, padding=0, dilation=1, around=0.0):
    """The formulas of the docstrings, window by window."""
    rank = a.ndim - 2
    kernel, padding, dilation = (numbers(one, rank) for one in (kernel, padding, dilation))
    stride = kernel if stride is None else numbers(stride, rank)
    a = np.pad(a, ((0, 0), *((p, p) for p in padding), (0, 0)), constant_values=around)
    parts = zip(a.shape[1:-1], kernel, stride, dilation, strict=True)
    count = [(n - d * (k - 1) - 1) // s + 1 for n, k, s, d in parts]
    y = np.zeros((a.shape[0], *count, a.shape[-1]), a.dtype)
    for i in np.ndindex(*count):
        places = itertools.product(
            *([s * at + d * j for j in range(k)] for at, k, s, d in zip(i, kernel, stride, dilation, strict=True))
        )
        y[(slice(None), *i)] = reduce(np.stack([a[(slice(None), *place)] for place in places]), axis=0)
    return y


def adapted(a, reduce, size):
    """Windows from ⌊i·L/n⌋ to ⌈(i + 1)·L/n⌉ along each axis."""
    size = numbers(size, a.ndim - 2)
    y = np.zeros((a.shape[0], *size, a.shape[-1]), a.dtype)
    for i in np.ndindex(*size):
        pairs = zip(i, a.shape[1:-1], size, strict=True)
        parts = tuple(slice(at * n // m, -(-(at + 1) * n // m)) for at, n, m in pairs)
        y[(slice(None), *i)] = reduce(a[(slice(None), *parts)], axis=tuple(range(1, a.ndim - 1)))
    return y


MAX_SETTINGS = [
    ("plain", {"kernel_size": 2}, [((2, 4, 6, 3),), ((1, 5, 7, 1),), ((0, 4, 4, 2),), ((1, 2, 2, 9),)]),
    ("overlapping", {"kernel_size": 3, "stride": 2, "padding": 1}, [((2, 6, 5, 2),), ((1, 1, 2, 3),)]),
    ("apart", {"kernel_size": (1, 2), "stride": (2, 3)}, [((1, 5, 8, 2),)]),
    ("dilated", {"kernel_size": 2, "stride": (1, 3), "dilation": (3, 2), "padding": 1}, [((1, 6, 7, 2),)]),
    ("1d", {"kernel_size": 3, "stride": 1}, [((2, 7, 3),)]),
    ("3d", {"kernel_size": (1, 2, 2)}, [((1, 2, 4, 3, 2),)]),
]
AVERAGE_SETTINGS = [row for row in MAX_SETTINGS if row[0] != "dilated"]


def max_case(name, settings, shapes):
    renamed = {"kernel": settings["kernel_size"], **{key: settings[key] for key in settings if key != "kernel_size"}}
    return OpCase(
        f"max_pool-{name}",
        ops.MaxPool,
        lambda a: ndl.max_pool(a, **settings),
        lambda a: pooled(a, np.max, **renamed, around=-np.inf),
        shapes=shapes,
        dtypes=WIDE_FLOATS,
    )


def average_case(name, settings, shapes):
    renamed = {"kernel": settings["kernel_size"], **{key: settings[key] for key in settings if key != "kernel_size"}}
    return OpCase(
        f"avg_pool-{name}",
        ops.AvgPool,
        lambda a: ndl.avg_pool(a, **settings),
        lambda a: pooled(a, np.mean, **renamed),
        shapes=shapes,
        dtypes=WIDE_FLOATS,
    )


def spread_evenly(g):
    """Windows of 2 by 2 side by side in an image of 4 by 5."""
    shares = np.repeat(np.repeat(g / 4, 2, axis=1), 2, axis=2)
    return np.pad(shares, ((0, 0), (0, 0), (0, 1), (0, 0)))


PLACES = np.arange(2 * 4 * 6 * 3.0).reshape(2, 4, 6, 3) * 7 % 31
PEAKS = pooled(PLACES, np.max, 2)


def at_first_peak(g):
    """Write g where PLACES has its maxima, whose numbers are distinct within a window."""
    where = np.repeat(np.repeat(PEAKS, 2, axis=1), 2, axis=2) == PLACES
    return np.where(where, np.repeat(np.repeat(g, 2, axis=1), 2, axis=2), 0)


def picked(h):
    where = np.repeat(np.repeat(PEAKS, 2, axis=1), 2, axis=2) == PLACES
    return pooled(np.where(where, h, 0), np.sum, 2)


def fixed(values, like):
    return ndl.Tensor(values, dtype=like.dtype, requires_grad=False)


CASES = [
    *(max_case(*row) for row in MAX_SETTINGS),
    *(average_case(*row) for row in AVERAGE_SETTINGS),
    OpCase(
        "avg_pool-without-padding",
        ops.AvgPool,
        lambda a: ndl.avg_pool(a, 3, 2, padding=1, count_include_pad=False),
        lambda a: pooled(a, np.nanmean, 3, 2, padding=1, around=np.nan),
        shapes=[((2, 6, 5, 2),), ((1, 1, 1, 1),)],
        dtypes=WIDE_FLOATS,
        refusals=[
            Refusal(lambda: ndl.avg_pool(IMAGE, 2, padding=2), ShapeError, "at most half a window"),
            Refusal(lambda: ndl.avg_pool(IMAGE, 7), ShapeError, r"\(7, 7\) does not fit"),
        ],
    ),
    OpCase(
        "avg_pool_gradient",
        ops.AvgPoolGradient,
        ops.AvgPoolGradient(2, size=(4, 5)),
        spread_evenly,
        shapes=[((2, 2, 2, 3),)],
        dtypes=WIDE_FLOATS,
        refusals=[Refusal(lambda: ops.AvgPoolGradient(2, size=(4, 4))(IMAGE), ShapeError, r"has \(2, 2\) windows")],
    ),
    OpCase(
        "max_pool_gradient",
        ops.MaxPoolGradient,
        lambda g: ops.MaxPoolGradient(2)(g, fixed(PLACES, g), fixed(PEAKS, g)),
        at_first_peak,
        shapes=[((2, 2, 3, 3),)],
        dtypes=WIDE_FLOATS,
    ),
    OpCase(
        "max_pool_pick",
        ops.MaxPoolPick,
        lambda h: ops.MaxPoolPick(2)(h, fixed(PLACES, h), fixed(PEAKS, h)),
        picked,
        shapes=[((2, 4, 6, 3),)],
        dtypes=WIDE_FLOATS,
        refusals=[
            Refusal(lambda: ndl.max_pool(ndl.init.ones(2, 3), 2), ShapeError, "with a spatial axis at least"),
            Refusal(lambda: ndl.max_pool(IMAGE, (2, 2, 2)), ShapeError, "kernel_size has 3 numbers"),
            Refusal(lambda: ndl.max_pool(IMAGE, 0), ShapeError, "kernel_size is 1 or more"),
            Refusal(
                lambda: ndl.max_pool(ndl.Tensor(np.ones((1, 4, 1), "int32"), requires_grad=False), 2, padding=1),
                DTypeError,
                "only floating-point images",
            ),
        ],
    ),
    OpCase(
        "adaptive_avg_pool",
        None,
        lambda a: ndl.adaptive_avg_pool(a, (2, 3)),
        lambda a: adapted(a, np.mean, (2, 3)),
        shapes=[((2, 5, 7, 2),), ((1, 4, 6, 3),), ((1, 1, 2, 1),)],
        dtypes=WIDE_FLOATS,
        refusals=[
            Refusal(lambda: ndl.adaptive_avg_pool(ndl.init.ones(2, 3), 1), ShapeError, "takes an image"),
            Refusal(lambda: ndl.adaptive_avg_pool(IMAGE, 0), ShapeError, "output_size is 1 or more"),
        ],
    ),
    OpCase(
        "adaptive_max_pool",
        None,
        lambda a: ndl.adaptive_max_pool(a, (2, 3)),
        lambda a: adapted(a, np.max, (2, 3)),
        shapes=[((2, 5, 7, 2),), ((1, 4, 6, 3),)],
        dtypes=WIDE_FLOATS,
    ),
]
