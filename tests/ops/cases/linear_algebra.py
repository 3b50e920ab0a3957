"""Rows of needle.ops.linear_algebra."""

import numpy as np

import needle as ndl
from needle import ops
from needle.errors import DTypeError, ShapeError

from ..op_cases import FLOATS, OpCase, Refusal

A, B = ndl.Tensor(np.ones((4, 3))), ndl.Tensor(np.ones((5, 2)))


def products(a, b):
    """Σₖ a[…, i, k] · b[…, k, j], written out."""
    return (a[..., :, :, None] * b[..., None, :, :]).sum(axis=-2, dtype=a.dtype)


EINSUMS = [
    ("ij,jk->ik", ((2, 3), (3, 4))),
    ("ij,jk", ((2, 3), (3, 4))),
    ("ij->ji", ((2, 3),)),
    ("ba", ((2, 3),)),
    ("ij->", ((2, 3),)),
    ("i->i", ((0,),)),
    ("ij->j", ((2, 3),)),
    ("ii", ((3, 3),)),
    ("ii->i", ((3, 3),)),
    ("iij->j", ((3, 3, 2),)),
    ("iji,j->i", ((3, 2, 3), (2,))),
    ("iii->i", ((2, 2, 2),)),
    ("i,i", ((3,), (3,))),
    ("i,j->ij", ((3,), (2,))),
    ("i,j->ji", ((3,), (2,))),
    (",i->i", ((), (3,))),
    ("->", ((),)),
    ("bij,bjk->bik", ((2, 3, 4), (2, 4, 1))),
    ("bhid,bhjd->bhij", ((2, 2, 3, 4), (2, 2, 3, 4))),
    ("i,ij,j->", ((2,), (2, 3), (3,))),
    ("ij,jk,kl,lm->im", ((2, 3), (3, 1), (1, 4), (4, 2))),
    ("ij,ij,ij->ij", ((2, 3), (2, 3), (2, 3))),
    ("...ij,...jk->...ik", ((2, 2, 3), (2, 3, 1))),
    ("...ij,...jk", ((4, 2, 3), (3, 2))),
    ("...i,...i->...", ((2, 1, 3), (4, 3))),
    ("i...->...", ((3, 2),)),
    ("...i->i...", ((2, 3),)),
    ("ij...,j->i...", ((2, 3, 2, 1), (3,))),
    ("...", ((2, 3),)),
    ("...,...", ((2, 3), (3,))),
    ("i,ij->ij", ((1,), (2, 3))),
    ("ij,j->i", ((2, 0), (0,))),
    (" i j , j k -> i k ", ((2, 3), (3, 2))),
    ("Ab,bA->b", ((2, 3), (3, 2))),
]

CASES = [
    OpCase(
        "matmul",
        ops.MatMul,
        ndl.matmul,
        products,
        [
            ((2, 3), (3, 4)),
            ((1, 1), (1, 1)),
            ((2, 0), (0, 3)),
            ((0, 2), (2, 3)),
            ((2, 2, 3), (2, 3, 1)),
            ((2, 1, 2, 3), (3, 3, 1)),
            ((3, 2), (2, 2, 1)),
            ((2, 2, 3), (3, 2)),
        ],
        dtypes=(*FLOATS, "int64"),
        refusals=[
            Refusal(
                lambda: A @ B,
                ShapeError,
                r"^matmul: inner dimensions differ: a.shape\[-1\] = 3, b.shape\[-2\] = 5\n"
                r"  a: float64 \(4, 3\) on cpu      b: float64 \(5, 2\) on cpu",
            ),
            Refusal(lambda: A @ ndl.Tensor(np.ones(3)), ShapeError, "matmul: takes matrices"),
            Refusal(
                lambda: ndl.Tensor(np.ones((2, 1, 1))) @ ndl.Tensor(np.ones((3, 1, 1))),
                ShapeError,
                r"matmul: the batch axes differ: shapes \(2,\) and \(3,\) do not broadcast: axis -1 has 2 against 3",
            ),
        ],
    ),
    OpCase("matmul_sign", ops.MatMul, lambda a, b: a @ b, products, [((2, 3), (3, 1))]),
    *(
        OpCase(
            f"einsum_{subscripts}".replace(" ", "_"),
            None,
            lambda *tensors, subscripts=subscripts: ndl.einsum(subscripts, *tensors),
            lambda *arrays, subscripts=subscripts: np.einsum(subscripts, *arrays),
            [shapes],
            dtypes=(*FLOATS, "int64"),
        )
        for subscripts, shapes in EINSUMS
    ),
    OpCase(
        "einsum_refusals",
        None,
        lambda a: ndl.einsum("i", a),
        lambda a: a,
        [((2,),)],
        refusals=[
            Refusal(
                lambda: ndl.einsum("ij,jk->ik", A), ShapeError, "einsum: 'ij,jk->ik' names 2 Tensors, 1 were given"
            ),
            Refusal(
                lambda: ndl.einsum("ij,jk->ik", A, B), ShapeError, r"einsum: 'j' is 3 and 5 in 'ij,jk->ik' with shapes"
            ),
            Refusal(
                lambda: ndl.einsum("ijk->i", A), ShapeError, r"einsum: 'ijk' does not name the axes of .* \(4, 3\)"
            ),
            Refusal(lambda: ndl.einsum("i->i", A), ShapeError, r"einsum: 'i' does not name the axes of .* \(4, 3\)"),
            Refusal(lambda: ndl.einsum("ij->k", A), ShapeError, "einsum: cannot read 'ij->k'"),
            Refusal(lambda: ndl.einsum("ij->ii", A), ShapeError, "einsum: cannot read"),
            Refusal(lambda: ndl.einsum("i1->i", A), ShapeError, "einsum: cannot read"),
            Refusal(lambda: ndl.einsum("ii->i", A), ShapeError, "einsum: 'i' is 4 and 3"),
            Refusal(lambda: ndl.einsum("..ij->ij", A), ShapeError, "einsum: cannot read"),
            Refusal(lambda: ndl.einsum(A, "ij"), DTypeError, "einsum: the subscripts are a string, got Tensor"),
            Refusal(lambda: ndl.einsum("i.j.->ij", A), ShapeError, "einsum: cannot read"),
            Refusal(lambda: ndl.einsum("ij->...ij->i", A), ShapeError, "einsum: cannot read"),
            Refusal(lambda: ndl.einsum("...i...", A), ShapeError, "einsum: cannot read"),
        ],
    ),
]
