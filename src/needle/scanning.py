"""A loop over time as a function: the same step for each element of a sequence, with a state that is carried on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from needle import tracing
from needle.autograd import Tensor, TensorTuple
from needle.errors import DTypeError, SettingError, ShapeError
from needle.jit.arguments import flatten, map_leaves
from needle.looping import loop_over, warn_if_written_out
from needle.ops import split, stack

__all__ = ["scan"]


def scan(
    step: Callable[[Any, Any], tuple[Any, Any]],
    carry: Any,
    xs: Any = None,
    *,
    length: int | None = None,
    reverse: bool = False,
) -> tuple[Any, Any]:
    """Repeat a step along the first axis of a sequence, and carry a state from each to the next.

    Formula::

        cₜ, yₜ = step(cₜ₋₁, xₜ)      t = 1 … T, with c₀ = carry

    The gradient reaches `carry`, `xs` and Tensors that `step` uses from outside, such as weights. All states are kept
    for it; `ndl.scan(ndl.checkpoint(step), …)` keeps only what is carried, and computes each step again.

    In a compiled function each length is a program of its own. Sixteen steps and more are compiled as one loop: the
    step is called two or three times then, not once for each element. Where it is not the same for each (it draws
    random numbers, counts, or writes to a Tensor), the steps are written out, and planned one by
    one: a warning says so where that takes long.

    Shapes:
        xs: (T, …) each; a step gets (…).
        ys: (T, …) each, where a step returns (…).

    Args:
        step: takes the state and an element of the sequence, and returns the next state and a result.
        carry: the state to begin with: a Tensor, or tuples, lists and dicts of them.
        xs: the sequence: likewise, arrays become Tensors; None where the steps take none (they get None).
        length: how many steps; needed where there are no `xs`.
        reverse: make the steps from the last element to the first. Results stay at the places of their elements.

    Returns:
        The last state, and the results, stacked along a new first axis. What is no Tensor in a step's result is that of
        the last step made.

    Raises:
        SettingError: neither `xs` nor `length` says how many steps there are, or it is less than 1.
        ShapeError: Tensors of different lengths, or a step that returns another state than it takes: other containers,
            shapes or dtypes.
        DTypeError: something in `xs` is a TensorTuple, or a step returns no pair.

    Example:
        >>> import needle as ndl
        >>> ndl.scan(lambda total, x: (total + x, total * 10), ndl.Tensor(0.0), ndl.Tensor([1.0, 2.0, 3.0]))
        (needle.Tensor(6.0), needle.Tensor([ 0. 10. 30.]))
    """
    steps = _count_steps(xs, length)

    def checked(state: Any, elements: Any) -> tuple[Any, Any]:
        returned: Any = step(state, elements)
        if not isinstance(returned, tuple) or len(returned) != 2:
            raise DTypeError(f"scan: the step returns a pair (state, result), got {type(returned).__name__}")
        _check_same("the state", state, returned[0])
        return returned

    found = loop_over(checked, carry, map_leaves(_as_tensor, xs), steps, reverse)
    if found is not None:
        return found
    parts = [_along_time(leaf) for leaf in flatten(xs)]
    results: list[Any] = [None] * steps
    start = carry
    for t in reversed(range(steps)) if reverse else range(steps):
        carry, results[t] = checked(carry, _filled(xs, [part[t] for part in parts]))
    stacked = _stacked(results, results[0 if reverse else -1])
    if tracing.active:
        warn_if_written_out(steps, (start, xs), (carry, stacked))
    return carry, stacked


def _count_steps(xs: Any, length: int | None) -> int:
    leaves = flatten(xs)
    if any(isinstance(one, TensorTuple) for one in leaves):
        raise DTypeError("scan: xs holds a TensorTuple: pass a tuple of Tensors, one.tuple()")
    if any(not one.shape for one in leaves):
        raise ShapeError("scan: xs holds a Tensor of no axes: the first axis is that of the steps")
    lengths = {one.shape[0] for one in leaves} | (set() if length is None else {length})
    if not lengths:
        raise SettingError("scan: there is no Tensor in xs, so length= must say how many steps there are")
    if len(lengths) > 1:
        told = "" if length is None else f", and length={length}"
        raise ShapeError(f"scan: first axes of different lengths in xs: {[one.shape for one in leaves]}{told}")
    (steps,) = lengths
    if steps < 1:
        raise SettingError(f"scan: there is at least one step, got {steps}")
    return steps


def _along_time(leaf: Any) -> Sequence[Tensor]:
    """Return what a step gets of a sequence, for each step."""
    return split(_as_tensor(leaf), 0).tuple()


def _as_tensor(leaf: Any) -> Tensor:
    return leaf if isinstance(leaf, Tensor) else Tensor(leaf, requires_grad=False)


def _check_same(what: str, before: Any, now: Any) -> None:
    """Check that two steps return the same containers, shapes and dtypes."""
    old, new = _form(before), _form(now)
    if old != new:
        raise ShapeError(f"scan: {what} that a step returned differs from the one before: {new} after {old}")


def _form(value: Any) -> str:
    """Describe the containers of a value, and the dtypes and shapes in them."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key!r}: {_form(one)}" for key, one in value.items()) + "}"
    if isinstance(value, (tuple, list)):
        return f"{type(value).__name__}({', '.join(map(_form, value))})"
    leaf = flatten(value)
    return f"{leaf[0].dtype} {leaf[0].shape}" if leaf else type(value).__name__


def _stacked(results: Sequence[Any], last: Any) -> Any:
    """Stack the Tensors of all steps' results."""
    for one in results:
        _check_same("the result", last, one)
    columns = zip(*map(flatten, results), strict=True)
    return _filled(last, [stack(list(column), 0) for column in columns])


def _filled(value: Any, leaves: Sequence[Tensor]) -> Any:
    """Return a value with other Tensors in it."""
    rest = iter(leaves)
    return map_leaves(lambda _: next(rest), value)
