"""The table of operators: one row each, from which all tests of an operator are generated.

A row (`OpCase`) holds the call, an independent reference in plain NumPy, the shapes and the domain of its operands,
the dtypes it takes, and samples of what it refuses. Rows stand in `cases/`, one file a family. What a row says is true
of every way to run the operator, so that whatever runs operators (eagerly, lazily, compiled) can be held to it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

import needle as ndl
from needle import Op, Tensor, TensorTuple
from needle.dtype import bfloat16

Shape: TypeAlias = tuple[int, ...]

FLOATS = ("float64", "float32", "float16", "bfloat16")
WIDE_FLOATS = ("float64", "float32")
SIGNED = ("int8", "int32", "int64")
INTEGERS = (*SIGNED, "uint8")
NUMBERS = (*FLOATS, *INTEGERS)
EVERY = (*NUMBERS, "bool")

# Operands' shapes: of no axes, of no elements, of one element, and ordinary ones.
ONE: tuple[tuple[Shape, ...], ...] = (((),), ((1,),), ((0,),), ((5,),), ((3, 4),), ((2, 1, 3),), ((2, 0, 3),))
TWO: tuple[tuple[Shape, ...], ...] = (
    ((), ()),
    ((1,), (1,)),
    ((4,), (4,)),
    ((2, 3), ()),
    ((3,), (2, 3)),
    ((2, 1), (1, 3)),
    ((2, 3, 1), (4,)),
    ((0, 3), (1, 3)),
    ((2, 0), (1,)),
)


@dataclass(frozen=True)
class Domain:
    """Where an operand's elements come from: uniform between two bounds, whole numbers for integer dtypes."""

    low: float = -3.0
    high: float = 3.0
    dtype: str | None = None  # the operand's own dtype, whatever the row is tested in (labels, conditions)

    def draw(self, rng: np.random.Generator, shape: Shape, dtype: str) -> NDArray[Any]:
        wanted = named_dtype(self.dtype or dtype)
        if wanted.kind == "b":
            return np.asarray(rng.integers(0, 2, shape), dtype=bool)
        if wanted.kind in "iu":
            low = max(np.ceil(self.low), 0) if wanted.kind == "u" else np.ceil(self.low)
            return np.asarray(rng.integers(int(low), int(np.floor(self.high)) + 1, shape), dtype=wanted)
        return np.asarray(rng.uniform(self.low, self.high, shape)).astype(wanted)


REAL = Domain()
POSITIVE = Domain(0.5, 3.0)
CONDITION = Domain(dtype="bool")


@dataclass(frozen=True)
class Refusal:
    """A call that must fail, and how: the error's class and a pattern that its message holds."""

    call: Callable[[], Any]
    error: type[Exception]
    message: str


@dataclass(frozen=True)
class OpCase:
    """A row of the table.

    Args:
        name: for reports.
        op: the class of the one node that the call makes; None where a function is composed of several operators.
        call: from Tensors to a Tensor or a TensorTuple.
        reference: the same from float64 (or integer, boolean) arrays to an array or a tuple of them.
        shapes: tuples of operands' shapes to try.
        domains: where the elements come from: one for all operands or one each.
        dtypes: those that the operands may have.
        result_dtype: the result's dtype where it is not that of the operands.
        differentiable: for each operand, whether it gets a gradient; one for all.
        second: whether the gradient can be differentiated again.
        exact: whether the result has exactly the reference's numbers, in each dtype.
        coarse: whether the result is rounded so much, also for float64 operands, that differences of it say nothing.
        data_dependent: whether the result's shape depends on values, so that no program can be made of it.
        refusals: what it refuses.
    """

    name: str
    op: type[Op] | None
    call: Callable[..., Tensor | TensorTuple]
    reference: Callable[..., Any]
    shapes: Sequence[Sequence[Shape]] = ONE
    domains: Domain | Sequence[Domain] = REAL
    dtypes: Sequence[str] = FLOATS
    result_dtype: Callable[[np.dtype[Any]], Any] = field(default=lambda dtype: dtype)
    differentiable: bool | Sequence[bool] = True
    second: bool = True
    exact: bool = False
    coarse: bool = False
    data_dependent: bool = False
    refusals: Sequence[Refusal] = ()

    def domain(self, operand: int) -> Domain:
        return self.domains if isinstance(self.domains, Domain) else self.domains[operand]

    def gets_gradient(self, operand: int) -> bool:
        own = self.domain(operand).dtype
        if own is not None and named_dtype(own).kind in "iub":
            return False
        return self.differentiable if isinstance(self.differentiable, bool) else self.differentiable[operand]

    def draw(self, shapes: Sequence[Shape], dtype: str = "float64", seed: int = 0) -> list[NDArray[Any]]:
        """Return operands: the same for the same arguments."""
        rng = np.random.default_rng([seed, *chain.from_iterable(shapes)])
        return [self.domain(i).draw(rng, shape, dtype) for i, shape in enumerate(shapes)]

    def expected(self, arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Return the reference's results, floating-point operands being taken as float64."""
        wide = [array.astype(np.float64) if is_float(array.dtype) else array for array in arrays]
        result = self.reference(*wide)
        return [np.asarray(one) for one in (result if isinstance(result, tuple) else (result,))]

    def __str__(self) -> str:
        return self.name


def named_dtype(name: str) -> np.dtype[Any]:
    return bfloat16 if name == "bfloat16" else np.dtype(name)


def is_float(dtype: np.dtype[Any]) -> bool:
    return dtype.kind == "f" or dtype == bfloat16


def results(value: Tensor | TensorTuple) -> list[Tensor]:
    """Return a result's Tensors: one, or those of a TensorTuple."""
    return list(value.tuple()) if isinstance(value, TensorTuple) else [value]


def tensors(case: OpCase, arrays: Sequence[NDArray[Any]]) -> list[Tensor]:
    """Return operands as leaves that require a gradient where the operator gives one."""
    return [Tensor(array, requires_grad=case.gets_gradient(i)) for i, array in enumerate(arrays)]


def strided(array: NDArray[Any]) -> NDArray[Any]:
    """Return the same numbers in memory that is neither contiguous nor in order."""
    if array.ndim == 0:
        return np.stack([array, array])[1:].reshape(())
    spread = np.repeat(array, 2, axis=-1)
    turned = np.asfortranarray(spread[::-1])
    return turned[::-1, ..., ::2] if array.ndim > 1 else np.repeat(array[::-1], 2)[::-2]


def weighted_sum(value: Tensor | TensorTuple, seed: int = 0) -> Tensor:
    """Return Σ w · y with random weights: a scalar whose gradient tells all of the operator's adjoints apart."""
    rng = np.random.default_rng(seed)
    total = None
    for one in results(value):
        weights = Tensor(rng.uniform(0.5, 1.5, one.shape), dtype=one.dtype, requires_grad=False)
        part = ndl.summation(one * weights)
        total = part if total is None else total + part
    assert total is not None
    return total
