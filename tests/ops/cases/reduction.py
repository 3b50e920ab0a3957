"""Rows of needle.ops.reduction."""

import itertools

import numpy as np

import needle as ndl
from needle import ops
from needle.errors import AxisError, DTypeError, ShapeError

from ..op_cases import EVERY, FLOATS, NUMBERS, Domain, OpCase, Refusal

X = ndl.Tensor(np.ones((2, 3, 4)))
EMPTY = ndl.Tensor(np.ones((2, 0)))

# Axes, whether they are kept, and shapes with elements along them.
REDUCTIONS = [
    (None, False, [((),), ((1,),), ((5,),), ((2, 3),)]),
    (None, True, [((),), ((2, 3),)]),
    (0, False, [((4,),), ((2, 3),), ((3, 0),), ((1, 3),)]),
    (-1, True, [((4,),), ((2, 3),), ((0, 3),), ((3, 1),)]),
    ((0, 2), False, [((2, 3, 4),), ((1, 2, 1),), ((2, 0, 3),)]),
    ((-1, 0), True, [((2, 3, 4),), ((2, 3),)]),
    ((), False, [((),), ((3,),)]),
]


def has_elements(shape, axes):
    """Whether there are elements along `axes`."""
    return bool(np.ones(shape).sum(axis=axes).all())


def float_of(dtype):
    return "float64" if dtype.kind in "iub" else dtype


def reduction(name, op, call, reference, *, empty=True, domain=None, dtypes=NUMBERS, **options):
    """Rows of one operator, for some kinds of axes each; the first one refuses what the operator refuses."""
    refusals = [
        Refusal(
            lambda: call(X, 3), AxisError, rf"^{name}: axis 3 is out of range for 3 axes\n  a: float64 \(2, 3, 4\)"
        ),
        Refusal(lambda: call(X, (0, -3)), AxisError, rf"{name}: axes \(0, -3\) name an axis twice"),
        Refusal(lambda: call(X, 1.5), DTypeError, rf"{name}: axes are integers, got 1.5"),
    ]
    if not empty:
        refusals.append(
            Refusal(lambda: call(EMPTY, 1), ShapeError, rf"{name}: no elements along axes .* of shape \(2, 0\)")
        )
    for axes, keepdims, shapes in REDUCTIONS:
        yield OpCase(
            f"{name}_{axes}_{keepdims}".replace(" ", ""),
            op,
            lambda a, axes=axes, keepdims=keepdims: call(a, axes, keepdims),
            lambda a, axes=axes, keepdims=keepdims: reference(a, axis=axes, keepdims=keepdims),
            shapes if empty else [one for one in shapes if has_elements(one[0], axes)],
            domain or Domain(),
            dtypes,
            refusals=refusals,
            **options,
        )
        refusals = []


def argument(name, op, call, reference):
    for axis, keepdims in itertools.product((None, 0, -1), (False, True)):
        yield OpCase(
            f"{name}_{axis}_{keepdims}",
            op,
            lambda a, axis=axis, keepdims=keepdims: call(a, axis, keepdims),
            lambda a, axis=axis, keepdims=keepdims: reference(a, axis=axis, keepdims=keepdims),
            [((1,),), ((5,),), ((2, 3),), ((2, 1, 3),)] + ([((),)] if axis is None else []),
            Domain(-2, 2),  # whole numbers from −2 to 2: the first of equal ones is found
            NUMBERS,
            lambda dtype: "int64",
            differentiable=False,
            exact=True,
            refusals=[
                Refusal(lambda: call(EMPTY, 1), ShapeError, rf"{name}: no elements along axis 1 of shape \(2, 0\)"),
                Refusal(lambda: call(EMPTY), ShapeError, rf"{name}: no elements of shape \(2, 0\)"),
                Refusal(lambda: call(X, (0, 1)), DTypeError, rf"{name}: axis is one integer, got \(0, 1\)"),
                Refusal(lambda: call(X, 3), AxisError, rf"{name}: axis 3 is out of range for 3 axes"),
            ],
        )


CASES = [
    *reduction(
        "mean",
        ops.Mean,
        ndl.mean,
        lambda a, axis, keepdims: np.mean(a.astype(np.float64), axis=axis, keepdims=keepdims),
        empty=False,
        dtypes=EVERY,
        result_dtype=float_of,
    ),
    *reduction(
        "var",
        ops.Var,
        ndl.var,
        lambda a, axis, keepdims: np.var(a.astype(np.float64), axis=axis, keepdims=keepdims),
        empty=False,
        dtypes=EVERY,
        result_dtype=float_of,
    ),
    *reduction("max", ops.Max, ndl.max, np.max, empty=False, dtypes=EVERY, exact=True),
    *reduction("min", ops.Min, ndl.min, np.min, empty=False, dtypes=EVERY, exact=True),
    *reduction("prod", ops.Prod, ndl.prod, np.prod, domain=Domain(0, 1.5)),
    OpCase(
        "prod_booleans",
        ops.Prod,
        lambda a: a.prod(),
        lambda a: np.prod(a.astype(np.int64)),
        dtypes=["bool"],
        result_dtype=lambda dtype: "int64",
    ),
    *argument("argmax", ops.ArgMax, ndl.argmax, np.argmax),
    *argument("argmin", ops.ArgMin, ndl.argmin, np.argmin),
    *(
        OpCase(
            f"cumsum_{axis}",
            ops.CumulativeSum,
            lambda a, axis=axis: ndl.cumsum(a, axis),
            lambda a, axis=axis: np.cumsum(a, axis=axis),
            [((1,),), ((0,),), ((5,),), ((3, 4),), ((2, 1, 3),), ((2, 0),)],
            Domain(0, 3),
            NUMBERS,
            refusals=[
                Refusal(lambda: ndl.cumsum(X, 3), AxisError, "cumsum: axis 3 is out of range for 3 axes"),
                Refusal(lambda: ndl.cumsum(X, None), DTypeError, "cumsum: axis is one integer, got None"),
            ],
        )
        for axis in (0, -1)
    ),
    *(
        OpCase(
            f"method_{name}",
            op,
            lambda a, name=name: getattr(a, name)(),
            lambda a, name=name: getattr(a, name)(),
            [((2, 3),)],
            dtypes=FLOATS,
            differentiable=not name.startswith("arg"),
            result_dtype=(lambda dtype: "int64") if name.startswith("arg") else (lambda dtype: dtype),
        )
        for name, op in [
            ("mean", ops.Mean),
            ("var", ops.Var),
            ("prod", ops.Prod),
            ("max", ops.Max),
            ("min", ops.Min),
            ("argmax", ops.ArgMax),
            ("argmin", ops.ArgMin),
        ]
    ),
]
