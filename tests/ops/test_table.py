"""What every row of the table is tested for: values, dtypes, gradients, layouts, lazy mode, refusals."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator

import numpy as np
import pytest

import needle as ndl
from needle import Op, Tensor, autograd, ops
from needle.dtype import bfloat16

from .cases import all_cases
from .op_cases import OpCase, is_float, named_dtype, results, strided, tensors, weighted_sum

CASES = all_cases()
TRAINED = [case for case in CASES if any(case.gets_gradient(operand) for operand in range(len(case.shapes[0])))]
TOLERANCE = {np.dtype("float64"): 1e-11, np.dtype("float32"): 5e-6, np.dtype("float16"): 2e-3, bfloat16: 1.6e-2}
STEP = 1e-5  # of central differences, whose error is about STEP²


def for_each(cases: Iterable[OpCase]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in cases])


def samples(case: OpCase, *dtypes: str) -> Iterator[tuple[list[np.ndarray], str]]:
    """Return operands of all the row's shapes in some dtypes, all that the row has where none are named."""
    for shapes in case.shapes:
        for dtype in dtypes or case.dtypes:
            yield case.draw(shapes, dtype), f"{case}: {shapes} in {dtype}"


def assert_close(found: np.ndarray, expected: np.ndarray, case: OpCase, where: str) -> None:
    assert found.shape == expected.shape, where
    if is_float(found.dtype) and not case.exact:
        tolerance = TOLERANCE[found.dtype]
        scale = np.max(np.abs(expected), initial=1.0)
        found = found.astype(np.float64)
        np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance * scale, err_msg=where)
    else:
        np.testing.assert_array_equal(found, expected.astype(found.dtype), err_msg=where)


# ------------------------------------------------------------------------------------------------- the forward


@for_each(CASES)
def test_result_is_the_references(case):
    for arrays, where in samples(case):
        found = results(case.call(*tensors(case, arrays)))
        expected = case.expected(arrays)
        assert len(found) == len(expected), where
        dtypes = [array.dtype for i, array in enumerate(arrays) if case.domain(i).dtype is None]
        for one, reference in zip(found, expected, strict=True):
            assert one.dtype == case.result_dtype(dtypes[0] if dtypes else arrays[0].dtype), where
            assert_close(one.numpy(), reference, case, where)


@for_each(CASES)
def test_result_is_the_same_for_any_layout(case):
    for arrays, where in samples(case, case.dtypes[0]):
        leaves = [Tensor.make_const(strided(array)) for array in arrays]
        for one, reference in zip(results(case.call(*leaves)), case.expected(arrays), strict=True):
            assert_close(one.numpy(), reference, case, where)


@for_each(CASES)
def test_operands_stay_what_they_were(case):
    for arrays, where in samples(case, case.dtypes[0]):
        leaves = tensors(case, arrays)
        value = case.call(*leaves)
        if any(one.requires_grad for one in results(value)):
            weighted_sum(value).backward()
        for leaf, array in zip(leaves, arrays, strict=True):
            np.testing.assert_array_equal(leaf.numpy(), array, err_msg=where)


@for_each(CASES)
def test_lazy_result_is_the_eager_one(case, monkeypatch):
    for arrays, where in samples(case):
        eager = results(case.call(*tensors(case, arrays)))
        with monkeypatch.context() as context:
            context.setattr(autograd, "LAZY_MODE", True)
            found = results(case.call(*tensors(case, arrays)))
            # Shapes and dtypes are known before anything is computed.
            assert [(one.shape, one.dtype) for one in found] == [(one.shape, one.dtype) for one in eager], where
            for one, other in zip(found, eager, strict=True):
                assert one.realize_cached_data().dtype == other.dtype, where
                np.testing.assert_array_equal(one.numpy(), other.numpy(), err_msg=where)


# ------------------------------------------------------------------------------------------------ the gradient


def weighted(case: OpCase, arrays: list[np.ndarray]) -> float:
    return float(weighted_sum(case.call(*map(Tensor, arrays))).numpy())


def gradients(case: OpCase, arrays: list[np.ndarray]) -> tuple[list[Tensor], list[Tensor]]:
    """Return the leaves that get a gradient, and it: of Σ w · y, with its graph."""
    leaves = tensors(case, arrays)
    weighted_sum(case.call(*leaves)).backward()
    trained = [leaf for leaf in leaves if leaf.requires_grad]
    return trained, [leaf.grad for leaf in trained]


def trained_operands(case: OpCase, arrays: list[np.ndarray]) -> list[int]:
    return [operand for operand in range(len(arrays)) if case.gets_gradient(operand)]


def differences(case: OpCase, arrays: list[np.ndarray], operand: int) -> np.ndarray:
    """Return the slope of Σ w · y by each element of an operand, by central differences."""
    slopes = np.zeros(arrays[operand].shape)
    for index in np.ndindex(slopes.shape):
        sides = []
        for sign in (1, -1):
            moved = [array.copy() for array in arrays]
            moved[operand][index] += sign * STEP
            sides.append(weighted(case, moved))
        slopes[index] = (sides[0] - sides[1]) / (2 * STEP)
    return slopes


@for_each(case for case in TRAINED if not case.coarse)
def test_gradient_is_the_slope(case):
    for arrays, where in samples(case, "float64"):
        _, found = gradients(case, arrays)
        for operand, one in zip(trained_operands(case, arrays), found, strict=True):
            expected = differences(case, arrays, operand)
            assert one.shape == expected.shape, where
            np.testing.assert_allclose(one.numpy(), expected, rtol=1e-6, atol=1e-7, err_msg=where)


@for_each(case for case in TRAINED if case.second and not case.coarse)
def test_second_derivative_is_the_slope_of_the_gradient(case):
    for arrays, where in samples(case, "float64"):
        rng = np.random.default_rng(1)
        directions = {i: rng.uniform(0.5, 1.5, arrays[i].shape) for i in trained_operands(case, arrays)}
        leaves, first = gradients(case, arrays)
        parts = [
            (one * Tensor(direction, requires_grad=False)).sum()
            for one, direction in zip(first, directions.values(), strict=True)
        ]
        total = sum(parts[1:], start=parts[0])
        for leaf in leaves:
            leaf.grad = None
        if total.requires_grad:
            total.backward()
        sides = []
        for sign in (1, -1):
            moved = [
                array + sign * STEP * directions[i] if i in directions else array for i, array in enumerate(arrays)
            ]
            sides.append([one.numpy() for one in gradients(case, moved)[1]])
        for leaf, up, down in zip(leaves, *sides, strict=True):
            found = np.zeros(leaf.shape) if leaf.grad is None else leaf.grad.numpy()
            np.testing.assert_allclose(found, (up - down) / (2 * STEP), rtol=1e-5, atol=1e-6, err_msg=where)


@for_each(case for case in TRAINED if any(is_float(named_dtype(dtype)) for dtype in case.dtypes))
def test_gradient_has_the_operands_dtype(case):
    for arrays, where in samples(case, *(dtype for dtype in case.dtypes if is_float(named_dtype(dtype)))):
        leaves, found = gradients(case, arrays)
        for leaf, one in zip(leaves, found, strict=True):
            assert (one.dtype, one.shape) == (leaf.dtype, leaf.shape), where


@for_each(TRAINED)
def test_lazy_gradient_is_the_eager_one(case, monkeypatch):
    for arrays, where in samples(case, "float64"):
        eager = [one.numpy() for one in gradients(case, arrays)[1]]
        with monkeypatch.context() as context:
            context.setattr(autograd, "LAZY_MODE", True)
            for one, other in zip(gradients(case, arrays)[1], eager, strict=True):
                np.testing.assert_array_equal(one.numpy(), other, err_msg=where)


@for_each(case for case in TRAINED if len(case.shapes[0]) > 1)
def test_operands_that_need_no_gradient_get_none(case):
    for arrays, where in samples(case, "float64"):
        operands = trained_operands(case, arrays)
        expected = dict(zip(operands, gradients(case, arrays)[1], strict=True))
        for operand in operands:
            leaves = [Tensor(array, requires_grad=i == operand) for i, array in enumerate(arrays)]
            weighted_sum(case.call(*leaves)).backward()
            np.testing.assert_array_equal(leaves[operand].grad.numpy(), expected[operand].numpy(), err_msg=where)
            assert all(leaf.grad is None for i, leaf in enumerate(leaves) if i != operand), where


@for_each(case for case in CASES if case.differentiable is False)
def test_result_without_a_gradient_keeps_no_graph(case):
    value = case.call(*map(Tensor, case.draw(case.shapes[-1], case.dtypes[0])))
    assert all(not one.requires_grad and one.is_leaf() for one in results(value))


# ------------------------------------------------------------------------------------------------- the refusals


@pytest.mark.parametrize(
    "refusal",
    [pytest.param(refusal, id=f"{case}-{i}") for case in CASES for i, refusal in enumerate(case.refusals)],
)
def test_refusal_says_why(refusal):
    with pytest.raises(refusal.error, match=refusal.message):
        refusal.call()


# ---------------------------------------------------------------------------------------------- the table itself


def operator_classes() -> dict[str, type[Op]]:
    """Return the operators of needle.ops that a user or another operator can apply: those with a name."""
    found: dict[str, type[Op]] = {}
    pending = Op.__subclasses__()
    while pending:
        cls = pending.pop()
        pending.extend(cls.__subclasses__())
        if cls.__module__.startswith("needle.ops.") and cls.name:
            found[cls.__name__] = cls
    return found


def test_every_operator_has_a_row():
    rows = {case.op for case in CASES}
    assert [name for name, cls in sorted(operator_classes().items()) if cls not in rows] == []


def test_every_public_operator_has_a_name():
    public = [value for value in vars(ops).values() if inspect.isclass(value) and issubclass(value, Op)]
    assert [cls.__name__ for cls in public if not cls.name] == []


def test_row_names_differ():
    names = [case.name for case in CASES]
    assert sorted(names) == sorted(set(names))


@for_each(case for case in CASES if case.op is not None)
def test_call_makes_a_node_of_its_operator(case, monkeypatch):
    monkeypatch.setattr(autograd, "LAZY_MODE", True)
    leaves = tensors(case, case.draw(case.shapes[0], case.dtypes[0]))
    node = case.call(*leaves)
    assert type(node.op) is case.op


def test_every_function_has_a_docstring_that_says_what_it_does():
    public = [value for value in vars(ops).values() if inspect.isfunction(value)]
    assert [one.__name__ for one in public if not re.match(r"[A-Z][^\n]*[.;:]", inspect.getdoc(one) or "")] == []


def test_operators_are_functions_of_the_package_too():
    public = {name for name, value in vars(ops).items() if inspect.isfunction(value)}
    assert public == {name for name in public if getattr(ndl, name, None) is getattr(ops, name)}
