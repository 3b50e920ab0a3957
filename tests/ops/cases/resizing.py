"""Rows of needle.ops.resizing."""

import numpy as np

import needle as ndl
from needle import ops
from needle.errors import DTypeError

from ..op_cases import FLOATS, NUMBERS, WIDE_FLOATS, OpCase, Refusal


def interpolated(a, size, align_corners=False):
    """NumPy's interpolation of lines, along one spatial axis after another."""
    for axis, new in enumerate(size, start=1):
        old, i = a.shape[axis], np.arange(new)
        places = i * (old - 1) / max(new - 1, 1) if align_corners else (i + 0.5) * old / new - 0.5
        a = np.apply_along_axis(lambda line, at=places, n=old: np.interp(at, np.arange(n), line), axis, a)
    return a


def nearest(a, size):
    places = [[i * old // new for i in range(new)] for old, new in zip(a.shape[1:-1], size, strict=True)]
    return a[np.ix_(range(len(a)), *places, range(a.shape[-1]))]


def resize_case(name, mode, size, shapes, dtypes, **settings):
    reference = interpolated if mode == "bilinear" else nearest
    return OpCase(
        f"resize-{name}",
        ops.Resample,
        lambda a: ndl.resize(a, size, mode=mode, **settings),
        lambda a: reference(a, size, **settings),
        shapes=shapes,
        dtypes=dtypes,
        exact=mode == "nearest",
        refusals=[
            Refusal(
                lambda: ndl.resize(ndl.Tensor(np.ones((1, 2, 2, 1), "int32"), requires_grad=False), 4, mode="bilinear"),
                DTypeError,
                'takes a floating-point image, got int32: cast it, or take mode="nearest"',
            )
        ],
    )


CASES = [
    resize_case("bilinear-up", "bilinear", (6, 8), [((2, 3, 4, 5),), ((2, 1, 2, 1),)], FLOATS),
    resize_case("bilinear-odd", "bilinear", (7, 3), [((1, 5, 4, 17),)], WIDE_FLOATS),
    resize_case("bilinear-down", "bilinear", (2, 3), [((2, 8, 9, 3),)], WIDE_FLOATS),
    resize_case(
        "bilinear-corners", "bilinear", (5, 1), [((2, 3, 4, 2),), ((1, 1, 2, 3),)], WIDE_FLOATS, align_corners=True
    ),
    # So many times as long that gradients go along one axis after another.
    resize_case("bilinear-far", "bilinear", (12, 16), [((1, 2, 2, 3),)], WIDE_FLOATS),
    resize_case("bilinear-line", "bilinear", (5,), [((2, 3, 4),)], WIDE_FLOATS),
    resize_case("bilinear-volume", "bilinear", (3, 4, 2), [((1, 2, 3, 4, 2),)], WIDE_FLOATS),
    # One axis keeps its length: the first, the last, or one in between.
    resize_case("bilinear-rows", "bilinear", (4, 5), [((2, 2, 5, 3),), ((2, 4, 3, 3),)], WIDE_FLOATS),
    resize_case("bilinear-around", "bilinear", (4, 3, 5), [((1, 2, 3, 2, 2),)], WIDE_FLOATS),
    resize_case("nearest-up", "nearest", (6, 8), [((2, 3, 4, 5),), ((2, 2, 8, 1),)], NUMBERS),
    resize_case("nearest-odd", "nearest", (2, 7), [((1, 5, 4, 2),), ((0, 3, 3, 2),)], NUMBERS),
]
