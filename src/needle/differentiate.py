"""Differentiation in functional form: from a function to the function that computes its gradient.

`backward` stores gradients in `.grad` of the Tensors that it reaches; these store nothing anywhere. The function is
called with stand-ins for the arguments, and the reverse pass goes from its result back to those.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from needle.autograd import Alias, Tensor, Value, enable_grad, find_topo_sort, gradients_of, is_recording
from needle.device import array_namespace
from needle.errors import DTypeError, GradientError

__all__ = ["grad", "value_and_grad"]

ArgNums = int | Sequence[int]


def grad(fn: Callable[..., Any], argnums: ArgNums = 0) -> Callable[..., Any]:
    """Return the function that computes the gradient of `fn`, a function that returns one number.

    What differentiation touches is left as it is: no `.grad` is set. The gradient can be differentiated again, by
    another `grad` around it, and by `backward` with respect to what required a gradient beforehand: an argument, or
    a Tensor that `fn` uses from outside. Where nothing did, the result is a constant that keeps no graph, so that a
    loop of `w = w - lr * grad(loss)(w)` over constants does not grow.

    Args:
        fn: takes Tensors, and returns a Tensor of one element.
        argnums: the position of the argument to differentiate with respect to, or several positions. Each such
            argument is a Tensor, a number or an array; lists, tuples and dicts of these; or a module, which stands
            for its parameters. All others, keywords too, are passed on as they are.

    Returns:
        A function of the same arguments. It gives the gradient in the form of the argument: a Tensor for a Tensor, a
        dict of Tensors for a dict, a dict by name for a module; a tuple of these for several positions. An argument
        that does not influence the result has a gradient of zeros.

    Raises:
        GradientError: when called: the result is not one number, or there is no argument at a position.
        DTypeError: when called: an argument is nothing that can be differentiated with respect to.

    Example:
        >>> import needle as ndl
        >>> cube = lambda x: x**3
        >>> ndl.grad(cube)(2.0)
        needle.Tensor(12.0)
        >>> ndl.grad(ndl.grad(cube))(2.0)
        needle.Tensor(12.0)
    """
    both = value_and_grad(fn, argnums)

    @functools.wraps(fn, updated=())
    def gradient(*args: Any, **kwargs: Any) -> Any:
        return both(*args, **kwargs)[1]

    return gradient


def value_and_grad(fn: Callable[..., Any], argnums: ArgNums = 0, has_aux: bool = False) -> Callable[..., Any]:
    """Return the function that computes the value of `fn` and its gradient, as `grad` does, in one go.

    Args:
        fn: takes Tensors, and returns a Tensor of one element; with `has_aux` a pair of that and anything else.
        argnums: as in `grad`.
        has_aux: whether `fn` returns something beside the number, such as a model's predictions.

    Returns:
        A function of the same arguments. It gives (value, gradient), or ((value, aux), gradient) with `has_aux`.

    Raises:
        GradientError: when called: the result is not one number, or there is no argument at a position.
        DTypeError: when called: an argument is nothing that can be differentiated with respect to.

    Example:
        >>> import needle as ndl
        >>> def loss(weights, x):
        ...     return ((weights["w"] * x + weights["b"]) ** 2).sum()
        >>> value, slopes = ndl.value_and_grad(loss)({"w": 2.0, "b": 1.0}, 3.0)
        >>> value, slopes
        (needle.Tensor(49.0), {'w': needle.Tensor(42.0), 'b': needle.Tensor(14.0)})
    """
    positions = (argnums,) if isinstance(argnums, int) else tuple(argnums)

    @functools.wraps(fn, updated=())
    def value_and_gradient(*args: Any, **kwargs: Any) -> Any:
        recording = is_recording()
        with enable_grad():
            arguments = _Arguments(args, positions, recording)
            output, aux = _checked(fn(*arguments.passed, **kwargs), has_aux)
        keeps_graph = recording and arguments.reach_others([output, *_tensors(aux)])
        gradients = arguments.gradients(output, keeps_graph)
        if not keeps_graph:
            output, aux = output.detach(), _map(_detached, aux)
        return (output, aux) if has_aux else output, gradients[0] if isinstance(argnums, int) else gradients

    return value_and_gradient


class _Arguments:
    """The arguments of one call, with stand-ins where the gradient is asked for.

    A stand-in is a node of its own, so that a Tensor that is passed twice has a gradient for each place. It hangs on
    the argument where that requires a gradient, and is a leaf that nobody else knows where not.
    """

    def __init__(self, args: Sequence[Any], positions: Sequence[int], recording: bool) -> None:
        self.recording = recording
        self.own: set[Value] = set()  # the stand-ins that are leaves
        self.passed = list(args)  # what the function is called with
        self.wanted: list[Any] = []  # what to differentiate with respect to, one entry for each position
        for position in positions:
            if not -len(args) <= position < len(args):
                raise GradientError(
                    f"argnums names position {position} of a call with {len(args)} positional arguments"
                )
            arg = args[position]
            if hasattr(arg, "named_parameters"):
                self.wanted.append({name: p for name, p in arg.named_parameters() if p.requires_grad})
            else:
                self.passed[position] = _map(self._stand_in, arg)
                self.wanted.append(self.passed[position])

    def _stand_in(self, value: Any) -> Tensor:
        tensor = _as_tensor(value)
        if self.recording and tensor.requires_grad:
            return Alias()(tensor)
        leaf = Tensor.make_const(tensor.realize_cached_data(), requires_grad=True)
        self.own.add(leaf)
        return leaf

    def reach_others(self, results: Sequence[Value]) -> bool:
        """Tell whether results depend on anything that requires a gradient beside the stand-ins themselves."""
        if any(leaf not in self.own for leaf in _tensors(self.wanted)):
            return True
        leaves = (node for node in find_topo_sort(results) if node.requires_grad and node.is_leaf())
        return any(leaf not in self.own for leaf in leaves)

    def gradients(self, output: Tensor, keep_graph: bool) -> tuple[Any, ...]:
        """Return the gradient of `output` for each position, in the form of its argument."""
        leaves = list(dict.fromkeys(_tensors(self.wanted)))
        found: list[Tensor | None] = [None] * len(leaves)
        if output.requires_grad:
            found = list(gradients_of(output, output.ones_like(), leaves))
        if not keep_graph:
            found = [None if one is None else one.detach() for one in found]
        by_leaf = {leaf: _zeros(leaf) if one is None else one for leaf, one in zip(leaves, found, strict=True)}
        return tuple(_map(by_leaf.__getitem__, one) for one in self.wanted)


def _as_tensor(value: Any) -> Tensor:
    """Return what the function is to be differentiated with respect to as a Tensor."""
    if isinstance(value, (int, float)):
        value = float(value)
    if not isinstance(value, (Tensor, float, np.ndarray, np.generic)):
        raise DTypeError(
            f"cannot differentiate with respect to {type(value).__name__}: it is no Tensor, nor made of any"
        )
    tensor = value if isinstance(value, Tensor) else Tensor(value, requires_grad=False)
    if tensor.dtype.kind == "b":
        raise DTypeError("cannot differentiate with respect to a bool Tensor: booleans carry no gradient")
    return tensor


def _checked(result: Any, has_aux: bool) -> tuple[Tensor, Any]:
    """Split what the function returned into the number and the rest."""
    if has_aux and not (isinstance(result, tuple) and len(result) == 2):
        raise GradientError(f"with has_aux the function returns a pair (number, aux), got {type(result).__name__}")
    output, aux = result if has_aux else (result, None)
    if not isinstance(output, Tensor):
        raise GradientError(f"the function returns a Tensor of one element, got {type(output).__name__}")
    if output.size != 1:
        raise GradientError(f"the function returns one number, got shape {output.shape}: sum it, or take its mean")
    return output, aux


def _zeros(tensor: Tensor) -> Tensor:
    data = tensor.realize_cached_data()
    return Tensor.make_const(array_namespace(data).zeros_like(data))


# ------------------------------------------------------------------------------------------------ containers


def _map(change: Callable[[Any], Any], value: Any) -> Any:
    """Apply `change` to everything in lists, tuples and dicts."""
    if isinstance(value, dict):
        return {key: _map(change, one) for key, one in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_map(change, one) for one in value))
    if isinstance(value, (list, tuple)):
        return type(value)(_map(change, one) for one in value)
    return change(value)


def _tensors(value: Any) -> list[Tensor]:
    """Return the Tensors in lists, tuples and dicts."""
    found: list[Tensor] = []
    _map(lambda one: found.append(one) if isinstance(one, Tensor) else None, value)
    return found


def _detached(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value
