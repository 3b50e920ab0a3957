"""The check that an operator's `gradient` is the derivative of its `compute`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from needle.autograd import Tensor, TensorTuple, no_grad, sum_node_list
from needle.differentiate import grad
from needle.dtype import is_floating
from needle.errors import GradientError

__all__ = ["gradcheck"]

_MAX_ROWS = 8


def gradcheck(
    fn: Callable[..., Any],
    *inputs: Any,
    eps: float = 1e-6,
    rtol: float = 1e-5,
    atol: float = 1e-7,
    second_order: bool = False,
) -> bool:
    """Check the gradient of an operator, or of any function of Tensors, against central differences in float64.

    Formula::

        s(x) = Σ w · fn(x)                     w: fixed random weights, which `gradient` gets as its out_grad
        ∂s/∂xᵢ ≈ (s(x + eps·eᵢ) − s(x − eps·eᵢ)) / (2·eps)          where |xᵢ| > 1 with eps·|xᵢ| for eps

    Draws nothing from the random numbers of the program, and leaves the inputs as they are: `fn` is called with copies.

    Args:
        fn: a TensorOp such as `MyOp()`, or a function of Tensors; gives one Tensor or several.
        inputs: Tensors or arrays. Floating-point ones are checked, as float64, but for Tensors that require no
            gradient; the rest is passed on as it is.
        eps: the step of the differences.
        rtol: the difference that is allowed, as a share of the derivative.
        atol: the difference that is allowed in any case.
        second_order: whether to check the derivatives of the gradient too, along a random direction.

    Returns:
        True.

    Raises:
        GradientError: a derivative differs: the message is a table of where, what `gradient` says and what the
            differences say. Or there is nothing to check. Functions with a corner, such as relu at 0, differ there.

    Example:
        >>> import needle as ndl
        >>> class Square(ndl.TensorOp):
        ...     def compute(self, a):
        ...         return a * a
        ...     def gradient(self, out_grad, node):
        ...         return out_grad * node.inputs[0]
        >>> ndl.gradcheck(Square(), ndl.Tensor([1.0, 3.0]))
        Traceback (most recent call last):
        ...
        needle.errors.GradientError: gradcheck: Square: 2 of 2 derivatives differ from central differences
          input  index  gradient says  differences say
              0  (0,)       0.1257302        0.2514604
              0  (1,)      -0.3963146       -0.7926292
    """
    leaves = [_leaf(value) for value in inputs]
    checked = [i for i, leaf in enumerate(leaves) if leaf.requires_grad]
    if not checked:
        raise GradientError("gradcheck: there is nothing to check: no floating-point input requires a gradient")
    tolerance = _Tolerance(eps, rtol, atol)
    name = getattr(fn, "__name__", type(fn).__name__)
    first = _Weighted(lambda *tensors: _parts(fn(*tensors)), leaves, seed=0)
    _check(first, leaves, checked, tolerance, f"{name}: ")
    if second_order:
        second = _Weighted(grad(first, checked), leaves, seed=1)
        _check(second, leaves, checked, tolerance, f"{name}, second derivative: ")
    return True


class _Tolerance(NamedTuple):
    eps: float
    rtol: float
    atol: float

    def accepts(self, analytic: float, numeric: float) -> bool:
        return abs(analytic - numeric) <= self.atol + self.rtol * abs(numeric)


def _leaf(value: Any) -> Tensor:
    """Return an input as the function is to get it: a copy in float64 where it is checked."""
    tensor = value if isinstance(value, Tensor) else Tensor(value)
    is_checked = tensor.requires_grad and is_floating(tensor.dtype)
    array = np.array(tensor.numpy(), dtype=np.float64) if is_checked else tensor.numpy()
    return Tensor.make_const(array, requires_grad=is_checked)


class _Weighted:
    """A function of several results, made one number: the sum of the results with fixed random weights."""

    def __init__(self, parts: Callable[..., Sequence[Tensor]], leaves: Sequence[Tensor], seed: int) -> None:
        rng = np.random.default_rng(seed)  # of its own: the program's random numbers stay where they are
        self.parts = parts
        with no_grad():
            self.weights = [_constant(rng.standard_normal(part.shape)) for part in parts(*leaves)]

    def __call__(self, *tensors: Tensor) -> Tensor:
        pairs = zip(self.parts(*tensors), self.weights, strict=True)
        total: Tensor = sum_node_list([(part * weight).sum() for part, weight in pairs])
        return total

    def difference(self, above: Sequence[Tensor], below: Sequence[Tensor]) -> float:
        """Return the sum at one place less that at another. Parts that do not differ cancel without rounding."""
        triples = zip(self.parts(*above), self.parts(*below), self.weights, strict=True)
        return sum(float(((upper - lower) * weight).sum()) for upper, lower, weight in triples)


def _constant(values: Any) -> Tensor:
    return Tensor.make_const(np.asarray(values))


def _parts(result: Any) -> Sequence[Tensor]:
    """Return the Tensors that a function gave."""
    if isinstance(result, Tensor):
        return [result]
    if not isinstance(result, (TensorTuple, tuple, list)):
        raise GradientError(f"gradcheck: the function returns Tensors, got {type(result).__name__}")
    return list(result)


def _check(
    scalar: _Weighted, leaves: Sequence[Tensor], checked: Sequence[int], tolerance: _Tolerance, name: str
) -> None:
    """Compare every partial derivative of a function of the leaves."""
    gradients = grad(scalar, checked)(*leaves)
    rows, count = [], 0
    for i, gradient in zip(checked, gradients, strict=True):
        differences = _differences(scalar, leaves, i, tolerance.eps)
        count += differences.size
        for index in np.ndindex(differences.shape):
            analytic, numeric = float(gradient.numpy()[index]), float(differences[index])
            if not tolerance.accepts(analytic, numeric):
                rows.append((i, index, analytic, numeric))
    if rows:
        raise GradientError(
            f"gradcheck: {name}{len(rows)} of {count} derivatives differ from central differences\n{_table(rows)}"
        )


def _differences(scalar: _Weighted, leaves: Sequence[Tensor], i: int, eps: float) -> NDArray[np.float64]:
    values = leaves[i].numpy()
    slopes = np.zeros(values.shape)
    with no_grad():
        for index in np.ndindex(values.shape):
            step = eps * max(1.0, abs(float(values[index])))
            above, below = values.copy(), values.copy()
            above[index] += step
            below[index] -= step
            ends = ([*leaves[:i], _constant(moved), *leaves[i + 1 :]] for moved in (above, below))
            slopes[index] = scalar.difference(*ends) / (above[index] - below[index])
    return slopes


def _table(rows: Sequence[tuple[int, tuple[int, ...], float, float]]) -> str:
    width = max(len("index"), *(len(str(index)) for _, index, _, _ in rows[:_MAX_ROWS]))
    lines = [f"  input  {'index':{width}}  gradient says  differences say"]
    lines += [
        f"  {i:5}  {index!s:{width}}  {analytic:13.7g}  {numeric:15.7g}"
        for i, index, analytic, numeric in rows[:_MAX_ROWS]
    ]
    if len(rows) > _MAX_ROWS:
        lines.append(f"  … and {len(rows) - _MAX_ROWS} more")
    return "\n".join(lines)
