"""Rows of needle.ops.movement and needle.ops.dilation."""

import numpy as np

import needle as ndl
from needle import ops
from needle.errors import AxisError, DTypeError, ShapeError

from ..op_cases import EVERY, OpCase, Refusal

X = ndl.Tensor(np.ones((2, 3, 4)))


def moved(name, op, call, reference, *shapes, refusals=()):
    """A row of an operator that changes no number."""
    return OpCase(
        name, op, call, reference, [(shape,) for shape in shapes], dtypes=EVERY, exact=True, refusals=refusals
    )


def dilated(a, axis, dilation):
    result = np.zeros([n * (1 + dilation) if i == axis else n for i, n in enumerate(a.shape)], a.dtype)
    result[tuple(slice(None, None, 1 + dilation) if i == axis else slice(None) for i in range(a.ndim))] = a
    return result


CASES = [
    moved(
        "transpose",
        ops.Transpose,
        ndl.transpose,
        lambda a: a.swapaxes(-1, -2),
        (2, 3),
        (4, 2, 3),
        (0, 3),
        (1, 1),
        refusals=[
            Refusal(
                lambda: ndl.transpose(ndl.Tensor([1.0])), AxisError, "transpose: axis -2 is out of range for 1 axes"
            ),
            Refusal(lambda: ndl.transpose(X, (0, 1, 2)), AxisError, r"swaps a pair of axes, got \(0, 1, 2\); permute"),
            Refusal(lambda: ndl.transpose(X, 1), AxisError, "swaps a pair of axes, got 1; permute"),
            Refusal(lambda: ndl.transpose(X, (0, 0)), AxisError, "transpose: axes .0, 0. name an axis twice"),
        ],
    ),
    moved(
        "transpose_pair", ops.Transpose, lambda a: a.transpose((0, -1)), lambda a: a.swapaxes(0, -1), (2, 3, 4), (3, 2)
    ),
    moved("transpose_T", ops.Transpose, lambda a: a.T, lambda a: a.swapaxes(-1, -2), (2, 3), (2, 3, 4)),
    moved(
        "permute",
        ops.Permute,
        lambda a: ndl.permute(a, (2, 0, -2)),
        lambda a: np.moveaxis(a, 2, 0),
        (2, 3, 4),
        (1, 0, 2),
        refusals=[
            Refusal(lambda: ndl.permute(X, (0, 1)), AxisError, r"permute: an order of 3 axes is needed, got \(0, 1\)"),
            Refusal(lambda: ndl.permute(X, (0, 1, 3)), AxisError, "permute: axis 3 is out of range for 3 axes"),
            Refusal(lambda: ndl.permute(X, (0, 1, 1)), AxisError, "name an axis twice"),
        ],
    ),
    moved("permute_none", ops.Permute, lambda a: a.permute(()), lambda a: a, ()),
    moved(
        "reshape",
        ops.Reshape,
        lambda a: ndl.reshape(a, (3, 4)),
        lambda a: np.array(list(a.flat)).reshape(3, 4).astype(a.dtype),
        (12,),
        (2, 6),
        (2, 3, 2),
        (4, 3),
        refusals=[
            Refusal(
                lambda: X.reshape(5, 5), ShapeError, r"reshape: 24 elements of shape \(2, 3, 4\) do not make shape"
            ),
            Refusal(lambda: X.reshape(-1, -1), ShapeError, "do not make shape"),
            Refusal(lambda: X.reshape(5, -1), ShapeError, "do not make shape"),
            Refusal(lambda: X.reshape(-2, 12), ShapeError, "do not make shape"),
            Refusal(lambda: ndl.reshape(X, (2.0, 12)), DTypeError, "a shape is made of integers"),
        ],
    ),
    moved(
        "reshape_rest",
        ops.Reshape,
        lambda a: a.reshape(-1, 2),
        lambda a: a.reshape(a.size // 2, 2),
        (4,),
        (2, 3),
        (0, 2),
    ),
    moved("reshape_to_no_axes", ops.Reshape, lambda a: a.reshape(()), lambda a: a.reshape(()), (), (1,), (1, 1)),
    moved("flatten", ops.Reshape, lambda a: a.flatten(), np.ravel, (), (3,), (2, 3), (2, 0)),
    moved(
        "squeeze",
        ops.Squeeze,
        ndl.squeeze,
        np.squeeze,
        (1, 3, 1),
        (),
        (1,),
        (2, 3),
        (0, 1),
        refusals=[
            Refusal(lambda: ndl.squeeze(X, 1), ShapeError, r"squeeze: axis 1 of shape \(2, 3, 4\) has length 3, not 1"),
            Refusal(lambda: ndl.squeeze(X, 5), AxisError, "squeeze: axis 5 is out of range for 3 axes"),
        ],
    ),
    moved("squeeze_axes", ops.Squeeze, lambda a: a.squeeze((0, -1)), lambda a: a[0, ..., 0], (1, 3, 1), (1, 1)),
    moved(
        "expand_dims",
        ops.ExpandDims,
        lambda a: ndl.expand_dims(a, (0, -1)),
        lambda a: a[None, ..., None],
        (),
        (3,),
        (2, 3),
        (0,),
        refusals=[
            Refusal(lambda: ndl.expand_dims(X, 5), AxisError, "expand_dims: axis 5 is out of range for 4 axes"),
            Refusal(lambda: ndl.expand_dims(X, (0, 0)), AxisError, "name an axis twice"),
        ],
    ),
    moved("expand_dims_one", ops.ExpandDims, lambda a: a.expand_dims(1), lambda a: a[:, None], (3,), (2, 3)),
    moved(
        "flip",
        ops.Flip,
        lambda a: ndl.flip(a, (0, -1)),
        lambda a: a[::-1, ..., ::-1],
        (2, 3),
        (2, 3, 4),
        (0, 3),
        (1, 1),
        refusals=[Refusal(lambda: ndl.flip(X, 3), AxisError, "flip: axis 3 is out of range for 3 axes")],
    ),
    moved("flip_all", ops.Flip, ndl.flip, lambda a: a.ravel()[::-1].reshape(a.shape), (), (3,), (2, 3)),
    moved(
        "dilate",
        ops.Dilate,
        lambda a: ndl.dilate(a, (0, 1), 2),
        lambda a: dilated(dilated(a, 0, 2), 1, 2),
        (2, 3),
        (1, 1),
        (0, 2),
        (2, 1, 2),
        refusals=[Refusal(lambda: ndl.dilate(X, (0,), -1), ShapeError, "dilate: a dilation is 0 or more, got -1")],
    ),
    moved("dilate_by_nothing", ops.Dilate, lambda a: ndl.dilate(a, (0,), 0), lambda a: a, (2, 3), (0,)),
    moved("dilate_axis_out_of_range", ops.Dilate, lambda a: ndl.dilate(a, (2,), 1), lambda a: a, (2, 3)),
    moved(
        "dilate_last", ops.Dilate, lambda a: ndl.dilate(a, -1, 1), lambda a: dilated(a, a.ndim - 1, 1), (3,), (2, 3, 2)
    ),
    moved(
        "undilate",
        ops.UnDilate,
        lambda a: ndl.undilate(a, (0, -1), 1),
        lambda a: a[::2, ..., ::2],
        (4, 6),
        (3, 5),
        (1, 1),
        (2, 3, 4),
        (0, 3),
        refusals=[Refusal(lambda: ndl.undilate(X, (0,), -1), ShapeError, "undilate: a dilation is 0 or more, got -1")],
    ),
]
