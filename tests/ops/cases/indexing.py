"""Rows of needle.ops.indexing."""

import numpy as np

import needle as ndl
from needle import ops
from needle.errors import AxisError, DataError, DTypeError, ShapeError
from needle.ops.indexing import ScatterAdd

from ..op_cases import EVERY, FLOATS, NUMBERS, Domain, OpCase, Refusal

X = ndl.Tensor(np.ones((2, 3)))
ROWS = np.array([1, 0, 1, -1])
MASK = np.array([[True, False, True], [False, True, True]])

# Indices of (2, 3) and of (2, 3, 4).
INDICES = {
    "integer": 1,
    "negative": -1,
    "numpy_integer": np.int64(0),
    "slice": slice(1, None),
    "backwards": slice(None, None, -1),
    "step": (slice(None), slice(2, None, -2)),
    "no_element": slice(5, 9),
    "none": (None, 1, None),
    "ellipsis": (..., 0),
    "two_integers": (1, 2),
    "rows": ROWS,
    "list": [1, 1, 0],
    "no_rows": [],
    "pairs": (np.array([0, 1, 1]), np.array([2, 0, 0])),
    "outer": (np.array([[0], [1]]), np.array([2, 0, 2])),
    "mixed": (slice(None), ROWS),
    "mask": MASK,
    "mask_of_rows": np.array([True, False]),
    "mask_of_nothing": np.zeros((2, 3), dtype=bool),
    "tensor": ndl.Tensor(ROWS),
    "mask_tensor": ndl.Tensor(MASK),
    "true": True,
    "nothing": (),
    "integer_and_rows": (1, np.array([0, 2])),
}
SPREAD = {
    "apart": (ROWS, slice(None), np.array([3, 0, 0, 3])),
    "beside": (slice(None), np.array([0, 2]), np.array([3, 3])),
    "integer_apart": (0, slice(None), np.array([1, 1])),
    "mask_of_two": (MASK, slice(1, 3)),
    "none_between": (ROWS, None, np.array([0, 1, 2, 2])),
    "rows_and_ellipsis": (..., np.array([[0, 3], [1, 0]])),
}


def raw(index):
    """The index as NumPy takes it."""
    if isinstance(index, tuple):
        return tuple(map(raw, index))
    return index.numpy() if isinstance(index, ndl.Tensor) else index


def added(shape, index, values):
    result = np.zeros(shape, values.dtype)
    np.add.at(result, index, values)
    return result


def scattered(name, shape, index):
    return OpCase(
        f"scatter_add_{name}",
        ScatterAdd,
        ScatterAdd(shape, index),
        lambda g: added(shape, index, g),
        [(np.zeros(shape)[index].shape,)],
        dtypes=(*FLOATS, "int64"),
    )


CASES = [
    *(
        OpCase(
            f"getitem_{name}",
            ops.GetItem,
            lambda a, index=index: a[index],
            lambda a, index=index: (
                a[raw(index) if raw(index) != [] else np.zeros(0, int)] if isinstance(index, list) else a[raw(index)]
            ),
            [(shape,)],
            dtypes=EVERY,
            exact=True,
            data_dependent=name == "mask_tensor",
        )
        for shape, indices in (((2, 3), INDICES), ((2, 3, 4), SPREAD))
        for name, index in indices.items()
    ),
    OpCase(
        "getitem_of_no_axes",
        ops.GetItem,
        lambda a: ndl.getitem(a, (..., None)),
        lambda a: a.reshape(1),
        [((),)],
        exact=True,
        refusals=[
            Refusal(
                lambda: X[2],
                AxisError,
                r"getitem: index 2 is out of bounds for axis 0 with size 2\n  a: float64 \(2, 3\)",
            ),
            Refusal(lambda: X[0, -4], IndexError, "getitem: index -4 is out of bounds for axis 1 with size 3"),
            Refusal(lambda: X[:, [0, 3]], AxisError, "getitem: index 3 is out of bounds for axis 1 with size 3"),
            Refusal(lambda: X[0, 0, 0], AxisError, "getitem: too many indices"),
            Refusal(lambda: X[[0, 1], [0, 1, 2]], AxisError, "getitem: shape mismatch"),
            Refusal(lambda: X[[True, False, True]], AxisError, "getitem: boolean index did not match"),
            Refusal(lambda: X[..., ...], AxisError, "getitem: an index can only have a single ellipsis"),
            Refusal(lambda: X[1.0], DTypeError, "getitem: an index is made of .*, not 1.0"),
            Refusal(lambda: X["a"], DTypeError, "getitem: an index is made of .*, not 'a'"),
            Refusal(lambda: X[np.array([0.0])], DTypeError, "not an array of float64"),
            Refusal(lambda: X[ndl.Tensor([0.0])], DTypeError, "not an array of float64"),
            Refusal(lambda: X[[[0], [0, 1]]], DTypeError, "getitem: a list in an index is no array"),
            Refusal(lambda: X[0:1.5], DTypeError, "getitem: slice indices must be integers"),
            Refusal(lambda: X[::0], ShapeError, "getitem: slice step cannot be zero"),
        ],
    ),
    scattered("basic", (3, 4), (slice(None, None, -2), 1)),
    scattered("repeated", (3, 4), (np.array([0, 2, 0, 0]), np.array([1, 1, 1, 3]))),
    scattered("mask", (2, 3), MASK),
    OpCase(
        "one_hot",
        ops.OneHot,
        lambda a: ndl.one_hot(a, 4),
        lambda a: np.array([[float(c == label) for c in range(4)] for label in a.flat]).reshape(*a.shape, 4),
        domains=Domain(0, 3),
        dtypes=("int64", "int8", "uint8", "int32"),
        result_dtype=lambda dtype: "float32",
        differentiable=False,
        exact=True,
        refusals=[
            Refusal(lambda: ndl.one_hot(ndl.Tensor([0, 4]), 4), DataError, r"0 to 3, got 4 at position \(1,\)"),
            Refusal(lambda: ndl.one_hot(ndl.Tensor([[0], [-1]]), 4), DataError, r"got -1 at position \(1, 0\)"),
            Refusal(lambda: ndl.one_hot(ndl.Tensor([0.0, 1.5]), 4), DataError, r"got 1.5 at position \(1,\)"),
            Refusal(lambda: ndl.one_hot(ndl.Tensor([np.nan]), 4), DataError, r"got nan at position \(0,\)"),
        ],
    ),
    OpCase(
        "one_hot_of_floats",
        ops.OneHot,
        lambda a: ndl.one_hot(ndl.floor(a), 4, "int64"),
        lambda a: (np.floor(a)[..., None] == np.arange(4)).astype(int),
        domains=Domain(0, 3.9),
        result_dtype=lambda dtype: "int64",
        differentiable=False,
        exact=True,
    ),
    *(
        OpCase(
            f"{name}_{k}",
            op,
            lambda a, k=k, call=call: call(a, k),
            lambda a, k=k, keeps=keeps: (
                a
                * np.array([[keeps(j - i, k) for j in range(a.shape[-1])] for i in range(a.shape[-2])]).reshape(
                    a.shape[-2:]
                )
            ),
            [((3, 4),), ((4, 2),), ((2, 3, 3),), ((1, 1),), ((0, 3),)],
            dtypes=NUMBERS,
            exact=True,
            refusals=[
                Refusal(
                    lambda call=call: call(ndl.Tensor([1.0])), AxisError, rf"{name}: takes matrices .* got shape \(1,\)"
                )
            ],
        )
        for k in (0, 1, -1, 9)
        for name, op, call, keeps in (
            ("tril", ops.Tril, ndl.tril, lambda d, k: d <= k),
            ("triu", ops.Triu, ndl.triu, lambda d, k: d >= k),
        )
    ),
]
