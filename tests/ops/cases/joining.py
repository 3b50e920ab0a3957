"""Rows of needle.ops.joining and needle.ops.tuple."""

import numpy as np

import needle as ndl
from needle import ops
from needle.errors import AxisError, DTypeError, ShapeError

from ..op_cases import EVERY, NUMBERS, ONE, OpCase, Refusal

A, B = ndl.Tensor(np.ones((2, 3))), ndl.Tensor(np.ones((2, 4)))


def slices(a, axis):
    return tuple(np.moveaxis(a, axis, 0))


CASES = [
    *(
        OpCase(
            f"stack_{axis}",
            ops.Stack,
            lambda *tensors, axis=axis: ndl.stack(tensors, axis),
            lambda *arrays, axis=axis: np.stack(arrays, axis),
            [((3,), (3,)), ((2, 3), (2, 3), (2, 3)), ((2, 1),), ((0, 2), (0, 2))] + ([((), ())] if axis != 1 else []),
            dtypes=EVERY,
            exact=True,
            refusals=[
                Refusal(
                    lambda: ndl.stack([A, A, B], 0),
                    ShapeError,
                    r"stack: element 2 has shape \(2, 4\), element 0 has \(2, 3\)\n  a: \(float64 \(2, 3\) on cpu",
                ),
                Refusal(lambda: ndl.stack([], 0), ShapeError, "stack: at least one Tensor is needed"),
                Refusal(lambda: ndl.stack([A, A], 3), AxisError, "stack: axis 3 is out of range for 3 axes"),
            ],
        )
        for axis in (0, 1, -1)
    ),
    *(
        OpCase(
            f"split_{axis}",
            ops.Split,
            lambda a, axis=axis: ndl.split(a, axis),
            lambda a, axis=axis: slices(a, axis),
            [((3,),), ((1,),), ((2, 3),), ((3, 1, 2),)],
            dtypes=EVERY,
            exact=True,
            refusals=[
                Refusal(lambda: ndl.split(A, 2), AxisError, "split: axis 2 is out of range for 2 axes"),
                Refusal(lambda: ndl.split(ndl.Tensor(1.0), 0), AxisError, "split: axis 0 is out of range for 0 axes"),
            ],
        )
        for axis in (0, -1)
    ),
    *(
        OpCase(
            f"concatenate_{axis}",
            ops.Concatenate,
            lambda *tensors, axis=axis: ndl.concatenate(tensors, axis),
            lambda *arrays, axis=axis: np.concatenate(arrays, axis),
            shapes,
            dtypes=EVERY,
            exact=True,
            refusals=[
                Refusal(
                    lambda: ndl.concatenate([A, A, B], 0),
                    ShapeError,
                    r"concatenate: element 2 has shape \(2, 4\), element 0 has \(2, 3\): they may differ along axis 0",
                ),
                Refusal(lambda: ndl.concatenate([A, ndl.Tensor([1.0])]), ShapeError, "element 1 has shape"),
                Refusal(lambda: ndl.concatenate([]), ShapeError, "concatenate: at least one Tensor is needed"),
                Refusal(
                    lambda: ndl.concatenate([A, A], 2), AxisError, "concatenate: axis 2 is out of range for 2 axes"
                ),
            ],
        )
        for axis, shapes in [
            (0, [((3,), (1,), (0,)), ((2, 3), (1, 3)), ((2,),), ((0, 2), (3, 2))]),
            (-1, [((3,), (2,)), ((2, 3), (2, 1)), ((2, 1, 2), (2, 1, 3), (2, 1, 1))]),
        ]
    ),
    OpCase(
        "make_tuple",
        ops.MakeTensorTuple,
        ndl.make_tuple,
        lambda *arrays: arrays,
        [((),), ((3,), (2, 3)), ((0,), (1,))],
        dtypes=EVERY,
        exact=True,
        refusals=[Refusal(lambda: ndl.make_tuple(A, 1.0), DTypeError, "make_tuple: expected Tensors, got float")],
    ),
    OpCase(
        "tuple_get_item",
        ops.TupleGetItem,
        lambda a: ndl.tuple_get_item(ndl.split(a, 0), 1),
        lambda a: a[1],
        [((2,),), ((3, 2),)],
        dtypes=NUMBERS,
        exact=True,
        refusals=[Refusal(lambda: ndl.split(A, 0)[2], IndexError, "TensorTuple of 2: no element 2")],
    ),
    OpCase(
        "fused_add_scalars",
        ops.FusedAddScalars,
        lambda a: ndl.fused_add_scalars(a, 2, -1.5),
        lambda a: (a + 2, a - 1.5),
        ONE,
    ),
]
