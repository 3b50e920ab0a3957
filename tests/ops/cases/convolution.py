"""Rows of needle.ops.convolution."""

import itertools

import numpy as np

import needle as ndl
from needle import ops
from needle.errors import DTypeError, ShapeError

from ..op_cases import WIDE_FLOATS, OpCase, Refusal

IMAGE, KERNEL = ndl.Tensor(np.ones((2, 5, 6, 4))), ndl.Tensor(np.ones((3, 3, 4, 2)))


def numbers(setting, count):
    return (setting,) * count if isinstance(setting, int) else tuple(setting)


def meetings(kernel, stride, padding, dilation, count):
    """Yield (place of a window, element of the kernel, place in the image), each a tuple."""
    rank = len(kernel)
    stride, padding, dilation = numbers(stride, rank), numbers(padding, rank), numbers(dilation, rank)
    for i in itertools.product(*map(range, count)):
        for k in itertools.product(*map(range, kernel)):
            settings = zip(i, k, stride, padding, dilation, strict=True)
            yield i, k, tuple(s * at + d * within - p for at, within, s, p, d in settings)


def convolved(a, b, stride=1, padding=0, dilation=1, groups=1):
    """The sum of conv's docstring, written out."""
    rank = a.ndim - 2
    kernel, features = b.shape[:-2], b.shape[-1]
    parts = zip(a.shape[1:-1], kernel, *(numbers(one, rank) for one in (stride, padding, dilation)), strict=True)
    count = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in parts]
    y = np.zeros((a.shape[0], *count, features), a.dtype)
    for i, k, place in meetings(kernel, stride, padding, dilation, count):
        if all(0 <= at < n for at, n in zip(place, a.shape[1:-1], strict=True)):
            for o in range(features):
                first = o // (features // groups) * b.shape[-2]
                for c in range(b.shape[-2]):
                    y[(slice(None), *i, o)] += a[(slice(None), *place, first + c)] * b[(*k, c, o)]
    return y


def spread(a, b, stride=1, padding=0, output_padding=0, dilation=1, groups=1):
    """The sum of conv_transpose's docstring, written out."""
    rank = a.ndim - 2
    kernel, features = b.shape[:-2], b.shape[-1]
    settings = (numbers(one, rank) for one in (stride, padding, dilation, output_padding))
    parts = zip(a.shape[1:-1], kernel, *settings, strict=True)
    size = [(n - 1) * s - 2 * p + d * (k - 1) + 1 + more for n, k, s, p, d, more in parts]
    y = np.zeros((a.shape[0], *size, b.shape[-2] * groups), a.dtype)
    for i, k, place in meetings(kernel, stride, padding, dilation, a.shape[1:-1]):
        if all(0 <= at < n for at, n in zip(place, size, strict=True)):
            for o in range(features):
                first = o // (features // groups) * b.shape[-2]
                for c in range(b.shape[-2]):
                    y[(slice(None), *place, first + c)] += a[(slice(None), *i, o)] * b[(*k, c, o)]
    return y


def gradient_of_weight(a, b, kernel, stride=1, padding=0):
    """Σ over windows of b times what each element of the kernel meets."""
    w = np.zeros((*kernel, a.shape[-1], b.shape[-1]), a.dtype)
    for i, k, place in meetings(kernel, stride, padding, 1, b.shape[1:-1]):
        if all(0 <= at < n for at, n in zip(place, a.shape[1:-1], strict=True)):
            w[k] += a[(slice(None), *place)].T @ b[(slice(None), *i)]
    return w


SETTINGS = [
    ("plain", {}, [((2, 5, 6, 3), (3, 3, 3, 2)), ((1, 1, 1, 1), (1, 1, 1, 1)), ((0, 4, 4, 2), (2, 2, 2, 3))]),
    ("padded", {"padding": 1}, [((2, 4, 5, 3), (3, 3, 3, 5)), ((1, 1, 2, 1), (2, 2, 1, 1))]),
    ("strided", {"stride": 2, "padding": 1}, [((2, 6, 5, 2), (3, 3, 2, 3)), ((1, 7, 7, 3), (4, 4, 3, 2))]),
    ("wide-stride", {"stride": 4, "padding": 3}, [((1, 9, 12, 3), (7, 7, 3, 2)), ((2, 8, 8, 1), (2, 2, 1, 3))]),
    ("dilated", {"dilation": 2, "padding": 2}, [((1, 6, 5, 2), (3, 3, 2, 2))]),
    ("strided-dilated", {"stride": (2, 3), "dilation": (2, 1), "padding": (1, 0)}, [((1, 7, 8, 2), (3, 2, 2, 2))]),
    ("grouped", {"groups": 2, "padding": 1}, [((2, 4, 3, 4), (3, 3, 2, 6))]),
    (
        "depthwise",
        {"groups": 3, "padding": 1, "stride": 2},
        [((2, 5, 4, 3), (3, 3, 1, 3)), ((1, 4, 4, 3), (2, 3, 1, 6))],
    ),
    ("1d", {"padding": 1}, [((2, 7, 3), (3, 3, 2))]),
    ("3d", {"stride": 2, "padding": 1}, [((1, 3, 4, 3, 2), (2, 3, 2, 2, 2))]),
]


def conv_case(name, settings, shapes):
    return OpCase(
        f"conv-{name}",
        ops.Conv,
        lambda a, b: ndl.conv(a, b, **{"padding": 0, **settings}),
        lambda a, b: convolved(a, b, **settings),
        shapes=shapes,
        dtypes=WIDE_FLOATS,
    )


def transposed_shapes(settings, shapes):
    """Let the result of each convolution be what is spread."""
    found = []
    for a, b in shapes:
        images = convolved(np.zeros(a), np.zeros(b), **settings).shape
        found.append((images, b))
    return found


def transpose_case(name, settings, shapes):
    return OpCase(
        f"conv_transpose-{name}",
        ops.ConvTranspose,
        lambda a, b: ndl.conv_transpose(a, b, **settings),
        lambda a, b: spread(a, b, **settings),
        shapes=transposed_shapes(settings, shapes),
        dtypes=WIDE_FLOATS,
    )


CASES = [
    *(conv_case(*row) for row in SETTINGS),
    *(transpose_case(*row) for row in SETTINGS),
    OpCase(
        "conv-narrow",
        ops.Conv,
        lambda a, b: ndl.conv(a, b, padding=1),
        lambda a, b: convolved(a, b, padding=1),
        shapes=[((1, 3, 3, 2), (3, 3, 2, 2))],
    ),
    OpCase(
        "conv-same",
        ops.Conv,
        lambda a, b: ndl.conv(a, b, padding="same"),
        lambda a, b: convolved(np.pad(a, ((0, 0), (0, 1), (1, 1), (0, 0))), b),
        shapes=[((1, 4, 4, 2), (2, 3, 2, 2))],
        dtypes=WIDE_FLOATS,
        refusals=[
            Refusal(
                lambda: ndl.conv(IMAGE, KERNEL, stride=2, padding="same"), ShapeError, "keeps the size, which a stride"
            ),
            Refusal(lambda: ndl.conv(IMAGE, KERNEL, padding="full"), ShapeError, '"same" or "valid", got \'full\''),
            Refusal(lambda: ndl.conv(IMAGE, KERNEL, padding=[(1, 1)]), ShapeError, "has 1 pairs"),
        ],
    ),
    OpCase(
        "conv-uneven-padding",
        ops.Conv,
        lambda a, b: ndl.conv(a, b, padding=[(0, 2), (1, 0)]),
        lambda a, b: convolved(np.pad(a, ((0, 0), (0, 2), (1, 0), (0, 0))), b),
        shapes=[((1, 3, 4, 2), (2, 2, 2, 2))],
        dtypes=WIDE_FLOATS,
        refusals=[
            Refusal(lambda: ndl.conv(IMAGE, ndl.init.ones(3, 3, 2)), ShapeError, "as many spatial axes"),
            Refusal(
                lambda: ndl.conv(IMAGE, ndl.init.ones(3, 3, 3, 2)), ShapeError, r"channels differ: a.shape\[-1\] = 4"
            ),
            Refusal(lambda: ndl.conv(IMAGE, KERNEL, groups=2), ShapeError, "4 · 2 = 8"),
            Refusal(lambda: ndl.conv(IMAGE, ndl.init.ones(3, 3, 2, 3), groups=2), ShapeError, "3 output channels"),
            Refusal(lambda: ndl.conv(IMAGE, KERNEL, groups=0), ShapeError, "groups is an integer of 1 or more"),
            Refusal(lambda: ndl.conv(IMAGE, KERNEL, stride=0), ShapeError, "stride is 1 or more"),
            Refusal(lambda: ndl.conv(IMAGE, KERNEL, stride=(1, 2, 3)), ShapeError, "stride has 3 numbers"),
            Refusal(lambda: ndl.conv(IMAGE, KERNEL, stride=1.5), DTypeError, "stride is an integer"),
            Refusal(lambda: ndl.conv(IMAGE, KERNEL, padding=-1), ShapeError, "padding is 0 or more"),
            Refusal(lambda: ndl.conv(IMAGE, KERNEL, padding=0, dilation=3), ShapeError, r"\(7, 7\) does not fit"),
        ],
    ),
    OpCase(
        "conv_transpose-output-padding",
        ops.ConvTranspose,
        lambda a, b: ndl.conv_transpose(a, b, stride=3, padding=1, output_padding=(2, 1)),
        lambda a, b: spread(a, b, stride=3, padding=1, output_padding=(2, 1)),
        shapes=[((2, 2, 3, 2), (3, 2, 3, 2))],
        dtypes=WIDE_FLOATS,
        refusals=[
            Refusal(lambda: ndl.conv_transpose(IMAGE, KERNEL), ShapeError, r"a.shape\[-1\] = 4, b.shape\[-1\] = 2"),
            Refusal(
                lambda: ndl.conv_transpose(IMAGE, ndl.init.ones(3, 3, 1, 4), output_padding=1),
                ShapeError,
                "less than the stride",
            ),
            Refusal(
                lambda: ndl.conv_transpose(IMAGE, ndl.init.ones(1, 1, 1, 4), padding=4), ShapeError, "nothing is left"
            ),
            Refusal(
                lambda: ndl.conv_transpose(IMAGE, ndl.init.ones(3, 3, 1, 4), groups=3),
                ShapeError,
                "not divisible into 3",
            ),
        ],
    ),
    OpCase(
        "conv_weight_gradient",
        ops.ConvWeightGradient,
        ops.ConvWeightGradient(stride=2, padding=1, kernel=(3, 2)),
        lambda a, b: gradient_of_weight(a, b, (3, 2), 2, 1),
        shapes=[((2, 5, 4, 3), (2, 3, 3, 2))],
        dtypes=WIDE_FLOATS,
        refusals=[
            Refusal(lambda: ops.ConvWeightGradient(kernel=(3, 3))(IMAGE, IMAGE), ShapeError, r"has \(3, 4\) windows"),
        ],
    ),
]
