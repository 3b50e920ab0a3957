"""Every row of the table compiles, and its compiled results and gradients are the eager ones."""

from __future__ import annotations

import numpy as np
import pytest

import needle as ndl
from needle import Tensor
from needle.dtype import bfloat16
from needle.errors import TraceError

from .cases import all_cases
from .op_cases import OpCase, is_float, named_dtype, results, tensors, weighted_sum

CASES = all_cases()
# A compiled sum adds in another order, and its elementary functions round on their own.
TOLERANCE = {np.dtype("float64"): 1e-12, np.dtype("float32"): 3e-6, np.dtype("float16"): 2e-3, bfloat16: 1.6e-2}
FIXED = [case for case in CASES if not case.data_dependent]
ROWS = [pytest.param(case, dtype, id=f"{case.name}-{dtype}") for case in FIXED for dtype in case.dtypes]


def results_and_gradients(case: OpCase, groups: list[list[Tensor]]) -> list[list[Tensor]]:
    """Apply the row to each group of operands, and differentiate Σ w · y where something requires it."""
    found = []
    for leaves in groups:
        value = case.call(*leaves)
        found.append(results(value))
        if any(one.requires_grad and is_float(one.dtype) for one in results(value)):
            weighted_sum(value).backward()
            found.append([leaf.grad for leaf in leaves if leaf.grad is not None])
    return found


def groups_of(case: OpCase, dtype: str) -> list[list[Tensor]]:
    return [tensors(case, case.draw(shapes, dtype)) for shapes in case.shapes]


@pytest.mark.parametrize(("case", "dtype"), ROWS)
def test_compiled_results_and_gradients_are_the_eager_ones(case, dtype):
    expected = results_and_gradients(case, groups_of(case, dtype))
    compiled = ndl.jit(lambda groups: results_and_gradients(case, groups))
    found = compiled(groups_of(case, dtype))
    assert [len(one) for one in found] == [len(one) for one in expected]
    for ones, others in zip(found, expected, strict=True):
        for one, other in zip(ones, others, strict=True):
            assert (one.dtype, one.shape) == (other.dtype, other.shape)
            assert_same(one.numpy(), other.numpy())


@pytest.mark.parametrize("case", [case for case in CASES if case.data_dependent], ids=str)
def test_shape_that_depends_on_values_is_refused(case):
    compiled = ndl.jit(case.call)
    with pytest.raises(TraceError, match=r"has no fixed shape.*indexing.py:\d+.*choose with ndl.where"):
        compiled(*groups_of(case, case.dtypes[0])[0])


def assert_same(found: np.ndarray, expected: np.ndarray) -> None:
    if not is_float(found.dtype):
        np.testing.assert_array_equal(found, expected)
        return
    tolerance = TOLERANCE[found.dtype]
    found, expected = found.astype(np.float64), expected.astype(np.float64)
    scale = np.max(np.abs(expected), initial=1.0, where=np.isfinite(expected))
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance * scale)


def test_named_dtypes_are_covered():
    assert {named_dtype(dtype) for case in CASES for dtype in case.dtypes} >= set(TOLERANCE)
