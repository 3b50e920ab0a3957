"""Rows of needle.ops.padding."""

import numpy as np

import needle as ndl
from needle import ops
from needle.errors import SettingError, ShapeError

from ..op_cases import EVERY, OpCase, Refusal

X = ndl.Tensor(np.ones((2, 3, 4)))


def padded(name, op, call, reference, *shapes, refusals=()):
    """A row of an operator that changes no number."""
    return OpCase(
        name, op, call, reference, [(shape,) for shape in shapes], dtypes=EVERY, exact=True, refusals=refusals
    )


def bordered(mode, widths, *shapes, refusals=()):
    """A row of a border that is made of the elements."""
    return padded(
        f"pad_{mode}_{widths}",
        None,
        lambda a: ndl.pad(a, widths, mode=mode),
        lambda a: np.pad(a, widths, mode=mode),
        *shapes,
        refusals=refusals,
    )


CASES = [
    padded(
        "pad",
        ops.Pad,
        lambda a: ndl.pad(a, [(1, 2), (0, 1)]),
        lambda a: np.block(
            [
                [np.zeros((1, a.shape[1]), a.dtype), np.zeros((1, 1), a.dtype)],
                [a, np.zeros((len(a), 1), a.dtype)],
                [np.zeros((2, a.shape[1]), a.dtype), np.zeros((2, 1), a.dtype)],
            ]
        ),
        (2, 3),
        (1, 1),
        (2, 0),
        (0, 2),
        refusals=[
            Refusal(lambda: ndl.pad(X, [(1, 1)]), ShapeError, "pad: 1 pairs of widths for 3 axes"),
            Refusal(lambda: ndl.pad(X, [(1, -1)] * 3), ShapeError, "pad: widths are 0 or more"),
        ],
    ),
    padded("pad_ones", ops.Pad, lambda a: ndl.pad(a, [(2, 1)], 1), lambda a: np.r_[[1, 1], a, [1]], (3,), (0,)),
    padded("pad_nothing", ops.Pad, lambda a: ndl.pad(a, []), lambda a: a, ()),
    bordered(
        "edge",
        [(1, 0), (0, 3), (2, 2)],
        (2, 1, 3),
        (1, 1, 1),
        (3, 2, 17),
        refusals=[
            Refusal(lambda: ndl.pad(X[:, :0], [(0, 0), (1, 0), (0, 0)], mode="edge"), ShapeError, "made of 1 elements"),
            Refusal(lambda: ndl.pad(X, [(0, 0)] * 3, 1.0, mode="edge"), SettingError, "elements, got value=1.0"),
            Refusal(lambda: ndl.pad(X, [(1, 1)], mode="edge"), ShapeError, "pad: 1 pairs of widths for 3 axes"),
            Refusal(lambda: ndl.pad(X, [], mode="mirror"), SettingError, "or \"wrap\", got 'mirror'"),
        ],
    ),
    bordered("edge", [(0, 0), (0, 0)], (2, 0), (3, 2)),
    bordered(
        "reflect",
        [(1, 2), (2, 0)],
        (3, 3),
        (4, 5),
        refusals=[
            Refusal(
                lambda: ndl.pad(X, [(0, 0), (0, 0), (0, 4)], mode="reflect"),
                ShapeError,
                r"a border of 4 with mode='reflect' is made of 5 elements, axis 2 of \(2, 3, 4\) has 4",
            )
        ],
    ),
    bordered("symmetric", [(1, 2), (2, 0)], (2, 2), (4, 5)),
    bordered("wrap", [(1, 2), (2, 0)], (2, 2), (4, 5)),
]
