"""Hooks: functions that are called when a module is, to look at what goes in and out, or to change it.

A module without hooks knows nothing of them. The first hook puts a `HookedForward` in the place of the module's
`forward`, as an attribute of that one object; the last one that is removed takes it away again.

A backward hook needs the gradients of all inputs, and of all results, at one time. So the inputs pass through one
operator and the results through another, both of which change nothing: in the reverse pass the operator behind the
module notes the gradients of the results, and the one before it, which is reached last, calls the hook.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from needle.autograd import Tensor, TensorTuple, TensorTupleOp, is_recording
from needle.device import Array
from needle.errors import DTypeError, GradientError, ShapeError
from needle.jit.arguments import flatten, map_leaves
from needle.ops import make_tuple, tuple_get_item

__all__ = ["BackwardBoundary", "HookHandle", "HookedForward"]

Gradients = tuple["Tensor | None", ...]


class HookHandle:
    """What a `register_…_hook` method returns: it takes the hook away again.

    Example:
        >>> import needle as ndl
        >>> from needle import nn
        >>> layer = nn.Linear(3, 2)
        >>> with layer.register_forward_hook(lambda module, args, result: print(result.shape)):
        ...     y = layer(ndl.init.rand(4, 3))
        (4, 2)
        >>> y = layer(ndl.init.rand(4, 3))
    """

    def __init__(self, module: Any, kind: str, hook: Callable[..., Any]) -> None:
        self._module = module
        self._kind = kind
        self._entry = (hook,)  # a tuple of its own, so that a function may be registered twice
        current = _hooks_of(module) or HookedForward(module, vars(module).get("forward"))
        _change(module, current, kind, (*getattr(current, kind), self._entry))

    def remove(self) -> None:
        """Take the hook away. A second call does nothing."""
        current = _hooks_of(self._module)
        if current is None:
            return
        left = tuple(one for one in getattr(current, self._kind) if one is not self._entry)
        _change(self._module, current, self._kind, left)

    def __enter__(self) -> HookHandle:
        return self

    def __exit__(self, *exception: object) -> None:
        self.remove()


def _hooks_of(module: Any) -> HookedForward | None:
    forward = vars(module).get("forward")
    return forward if isinstance(forward, HookedForward) else None


def _change(module: Any, current: HookedForward, kind: str, hooks: tuple[Any, ...]) -> None:
    """Give a module other hooks of a kind: as a new object, by which compiled functions see that they differ."""
    changes: dict[str, Any] = {kind: hooks}
    hooked = replace(current, **changes)
    if hooked.before or hooked.after or hooked.backward:
        module.forward = hooked
    elif hooked.own_forward is not None:
        module.forward = hooked.own_forward
    else:
        del module.forward


@dataclass(frozen=True, eq=False)
class HookedForward:
    """Stands in for the `forward` of one module that has hooks.

    Fields: `module`; `own_forward`, what the object itself had as its `forward`, None where that is its class's; and
    the hooks of each kind in the order in which they were registered.
    """

    module: Any
    own_forward: Callable[..., Any] | None
    before: tuple[tuple[Callable[..., Any]], ...] = ()
    after: tuple[tuple[Callable[..., Any]], ...] = ()
    backward: tuple[tuple[Callable[..., Any]], ...] = ()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the hooks, and the forward between them."""
        for (hook,) in self.before:
            changed = hook(self.module, args)
            if changed is not None:
                args = changed if isinstance(changed, tuple) else (changed,)
        watch = _BackwardWatch(self.module, self.backward) if self.backward and is_recording() else None
        if watch is not None:
            args = watch.enter(args)
        if self.own_forward is None:
            result = type(self.module).forward(self.module, *args, **kwargs)
        else:
            result = self.own_forward(*args, **kwargs)
        if watch is not None:
            result = watch.leave(result)
        for (hook,) in self.after:
            changed = hook(self.module, args, result)
            result = result if changed is None else changed
        return result


class BackwardBoundary(TensorTupleOp):
    """The same values under another node, whose gradients somebody sees: y = a, for several Tensors together.

    Args:
        see: gets the gradients, one for each Tensor, and returns what to pass on.
    """

    computes_wide = False

    def __init__(self, see: Callable[[tuple[Tensor, ...]], Sequence[Tensor]]) -> None:
        self.see = see

    def compute(self, arrays: tuple[Array, ...]) -> tuple[Array, ...]:
        """Return the arrays themselves."""
        return arrays

    def gradient(self, out_grad: TensorTuple, node: TensorTuple) -> TensorTuple:
        """Show the gradients, and pass on what is made of them."""
        return make_tuple(*self.see(out_grad.tuple()))


class _BackwardWatch:
    """One call of a module whose backward pass is watched."""

    def __init__(self, module: Any, hooks: Sequence[tuple[Callable[..., Any]]]) -> None:
        self.module = module
        self.hooks = hooks
        self.has_inputs = False
        self.input_count = 0
        self.out_grads: Gradients = ()

    def enter(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the arguments with their Tensors behind a boundary."""
        leaves = flatten(args)
        self.input_count = len(leaves)
        self.places = [place for place, one in enumerate(leaves) if _has_gradient(one)]
        self.has_inputs = bool(self.places)
        return _behind_boundary(args, leaves, self.places, self._at_inputs)

    def leave(self, result: Any) -> Any:
        """Return the result with its Tensors behind a boundary."""
        leaves = flatten(result)
        self.result_count = len(leaves)
        self.result_places = [place for place, one in enumerate(leaves) if _has_gradient(one)]
        return _behind_boundary(result, leaves, self.result_places, self._at_results)

    def _at_results(self, gradients: tuple[Tensor, ...]) -> Sequence[Tensor]:
        out_grads = _spread(gradients, self.result_places, self.result_count)
        if self.has_inputs:
            self.out_grads = out_grads
        else:  # nothing further back to wait for
            for (hook,) in self.hooks:
                hook(self.module, (None,) * self.input_count, out_grads)
        return gradients

    def _at_inputs(self, gradients: tuple[Tensor, ...]) -> Sequence[Tensor]:
        current = _spread(gradients, self.places, self.input_count)
        for (hook,) in self.hooks:
            changed = hook(self.module, current, self.out_grads)
            if changed is not None:
                current = _checked(self.module, changed, current)
        self.out_grads = ()  # the node outlives this pass, they need not
        return [one for place in self.places if (one := current[place]) is not None]


def _has_gradient(value: Any) -> bool:
    return isinstance(value, Tensor) and value.requires_grad


def _behind_boundary(value: Any, leaves: list[Any], places: list[int], see: Callable[..., Sequence[Tensor]]) -> Any:
    if not places:
        return value
    crossed = BackwardBoundary(see)(make_tuple(*(leaves[place] for place in places)))
    new = dict(zip(places, (tuple_get_item(crossed, number) for number in range(len(places))), strict=True))
    order = iter(range(len(leaves)))

    def replaced(leaf: Any) -> Any:
        return new.get(next(order), leaf)

    return map_leaves(replaced, value)


def _spread(gradients: Sequence[Tensor], places: Sequence[int], count: int) -> Gradients:
    """Return gradients at their places among all Tensors, None elsewhere."""
    by_place = dict(zip(places, gradients, strict=True))
    return tuple(by_place.get(place) for place in range(count))


def _checked(module: Any, changed: Any, current: Gradients) -> Gradients:
    """Return what a hook gave in place of the inputs' gradients, where it can be such."""
    given = changed if isinstance(changed, tuple) else (changed,)
    name = type(module).__name__
    if len(given) != len(current):
        raise GradientError(f"a backward hook of {name} returned {len(given)} gradients for {len(current)} inputs")
    for new, old in zip(given, current, strict=True):
        if old is None:
            continue
        if not isinstance(new, Tensor):
            raise DTypeError(f"a backward hook of {name} returns None or Tensors, got {type(new).__name__}")
        if new.shape != old.shape:
            raise ShapeError(f"a backward hook of {name} returned a gradient of shape {new.shape} for {old.shape}")
    return tuple(None if old is None else new for new, old in zip(given, current, strict=True))
