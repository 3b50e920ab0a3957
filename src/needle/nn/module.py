"""Modules: functions with parameters, nested in each other as a tree.

A module is an ordinary Python object. What belongs to it is found by looking at its attributes, and through those that
are dicts, lists and tuples, in the order in which they were set: `Parameter`s, `Buffer`s and other modules. There is
no registry to keep in step, so that an attribute may be replaced at any time. The place of each thing in the tree is
its path, the names and indices joined by dots: `blocks.2.fn.weight`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from numpy.typing import DTypeLike, NDArray

from needle import tracing
from needle.device import Device
from needle.dtype import as_dtype, is_floating
from needle.errors import DeviceError, DTypeError, NeedleError
from needle.nn.hooks import HookedForward, HookHandle
from needle.nn.parameter import Buffer, Parameter, in_evaluation
from needle.nn.state import UnmatchedNames, copy_state, load_state

__all__ = ["Module", "evaluating"]

_M = TypeVar("_M", bound="Module")


class Module:
    """A function with parameters: a layer, a loss, or a whole network.

    A subclass makes its parameters and inner modules in `__init__` and says in `forward` what it computes. Calling
    `super().__init__()` is allowed and not needed.

    State:
        training: whether the module is being trained, which layers such as dropout ask; True until `eval()`.

    Example:
        >>> import needle as ndl
        >>> from needle import nn
        >>> class Classifier(nn.Module):
        ...     def __init__(self):
        ...         self.layers = [nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)]
        ...     def forward(self, x):
        ...         for layer in self.layers:
        ...             x = layer(x)
        ...         return x
        >>> model = Classifier()
        >>> model(ndl.init.rand(2, 4)).shape
        (2, 3)
        >>> [name for name, _ in model.named_parameters()]
        ['layers.0.weight', 'layers.0.bias', 'layers.2.weight', 'layers.2.bias']
        >>> model
        Classifier · 67 parameters
          (layers.0): Linear(4 → 8) · 40 parameters
          (layers.1): ReLU()
          (layers.2): Linear(8 → 3) · 27 parameters
    """

    training = True

    # ---------------------------------------------------------------------------------------------- calling

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Compute the module's result; a subclass writes this. Users call the module itself."""
        raise NotImplementedError(f"{type(self).__name__}.forward is not written")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Compute `forward`; an error on the way out is told the path of the module that it arose in."""
        if tracing.active and (recorder := tracing.recorder()) is not None:
            recorder.module(self)
        try:
            return self.forward(*args, **kwargs)
        except NeedleError as error:
            self._add_path(error)
            raise

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)
        tracing.note_change()

    def __delattr__(self, name: str) -> None:
        object.__delattr__(self, name)
        tracing.note_change()

    def _add_path(self, error: NeedleError) -> None:
        """Note where in this module's tree an error arose: the innermost module is set by itself, the path by each."""
        if error.module is None:
            error.module = self
            return
        for path, found in _walk("", self):
            if found is error.module:
                error.module_path = path
                return

    # ----------------------------------------------------------------------------------- what belongs to it

    def _contents(self) -> Iterator[tuple[str, Parameter | Buffer | Module]]:
        """Find what the attributes hold, without looking into inner modules."""
        return _find("", self.__dict__)

    def parameters(self) -> list[Parameter]:
        """List the parameters of this module and all below, in the order of definition.

        A parameter that is reached in two ways is listed twice.
        """
        return _unpack_params(self)

    def named_parameters(self) -> list[tuple[str, Parameter]]:
        """List the parameters with their paths: as many as `parameters()`, in the same order.

        A parameter that is reached in two ways is listed under both paths.
        """
        return [(path, item) for path, item in _walk("", self) if isinstance(item, Parameter)]

    def buffers(self) -> list[Buffer]:
        """List the buffers of this module and all below, in the order of definition."""
        return [buffer for _, buffer in self.named_buffers()]

    def named_buffers(self) -> list[tuple[str, Buffer]]:
        """List the buffers with their paths, under each path by which they are reached."""
        return [(path, item) for path, item in _walk("", self) if isinstance(item, Buffer)]

    def named_modules(self) -> list[tuple[str, Module]]:
        """List this module (its path is empty) and all below with their paths, each before what it holds."""
        return [(path, item) for path, item in _walk("", self) if isinstance(item, Module)]

    def named_children(self) -> list[tuple[str, Module]]:
        """List the modules that the attributes hold, with their names, and not those further below."""
        return [(path, item) for path, item in self._contents() if isinstance(item, Module)]

    def children(self) -> list[Module]:
        """List the modules that the attributes hold, and not those further below."""
        return [module for _, module in self.named_children()]

    def _children(self) -> list[Module]:
        """List all modules below this one."""
        return [module for _, module in self.named_modules()[1:]]

    def num_parameters(self) -> int:
        """Return how many numbers are trained, a shared parameter counted once."""
        return sum(parameter.size for parameter in {id(one): one for one in self.parameters()}.values())

    # ------------------------------------------------------------------------------------- changing it whole

    def train(self: _M, mode: bool = True) -> _M:
        """Set `training` on this module and all below, and return this module."""
        modules = [module for _, module in self.named_modules()]
        for module in modules:
            module.training = mode
        if mode:
            in_evaluation.difference_update(self.parameters())
        elif any(map(_asks_for_mode, modules)):
            in_evaluation.update(self.parameters())
        return self

    def eval(self: _M) -> _M:
        """Set `training` to False on this module and all below, and return this module."""
        return self.train(False)

    def requires_grad_(self: _M, requires_grad: bool = True) -> _M:
        """Freeze all parameters (False) or let them be trained again (True), and return this module."""
        for parameter in self.parameters():
            parameter.requires_grad = requires_grad
        return self

    def apply(self: _M, function: Callable[[Module], object]) -> _M:
        """Call `function` once with each module, inner ones before those that hold them, and return this module."""
        for module in {id(one): one for one in _inner_first(self, ())}.values():
            function(module)
        return self

    def to(self: _M, device: Device | None = None, dtype: DTypeLike | None = None) -> _M:
        """Move the parameters and buffers to another device or dtype, and return this module.

        They stay the same objects with other data, so that an optimizer that knows them goes on. Integer and boolean
        ones keep their dtype. Gradients of what changes are dropped.

        Args:
            device: where to; stays where None.
            dtype: a floating-point dtype; stays where None.

        Raises:
            DTypeError: `dtype` is no floating-point dtype.
            DeviceError: `device` is something else.
        """
        if device is not None and not isinstance(device, Device):
            raise DeviceError(f"to(device, dtype): the device is a needle.device.Device, got {device!r}")
        wanted = None if dtype is None else as_dtype(dtype)
        if wanted is not None and not is_floating(wanted):
            raise DTypeError(f"a module is moved to floating-point dtypes, got {wanted}")
        for _, item in _walk("", self):
            if not isinstance(item, Module):
                _move(item, device, wanted)
        return self

    # ------------------------------------------------------------------------------------------------- hooks

    def register_forward_pre_hook(self, hook: Callable[..., Any]) -> HookHandle:
        """Have `hook(module, args)` called before each `forward` of this module.

        Where it returns something else than None, that takes the place of the positional arguments: a tuple of them,
        or the only one. Hooks run in the order of registration. A copy of the module, or a pickled one, has none.

        In a compiled function hooks run while it is followed, not in each call: what they compute from Tensors, and
        put in place of arguments or into the `.data` of a Tensor that was there before, is in the program.

        Returns:
            A handle: `handle.remove()` takes the hook away, and so does the end of a `with` block.

        Example:
            >>> import needle as ndl
            >>> from needle import nn
            >>> layer = nn.ReLU()
            >>> with layer.register_forward_pre_hook(lambda module, args: -args[0]):
            ...     layer(ndl.Tensor([-1.0, 2.0]))
            needle.Tensor([1. 0.])
        """
        return HookHandle(self, "before", hook)

    def register_forward_hook(self, hook: Callable[..., Any]) -> HookHandle:
        """Have `hook(module, args, result)` called after each `forward` of this module.

        Where it returns something else than None, that takes the place of the result. For the rest see
        `register_forward_pre_hook`.

        Example:
            >>> import needle as ndl
            >>> from needle import nn
            >>> model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
            >>> seen = {}
            >>> for name, module in model.named_modules():
            ...     handle = module.register_forward_hook(lambda _, args, y, name=name: seen.update({name: y.shape}))
            >>> y = model(ndl.init.rand(4, 3))
            >>> seen
            {'modules.0': (4, 5), 'modules.1': (4, 5), 'modules.2': (4, 2), '': (4, 2)}
        """
        return HookHandle(self, "after", hook)

    def register_backward_hook(self, hook: Callable[..., Any]) -> HookHandle:
        """Have `hook(module, grad_inputs, grad_outputs)` called when `backward` has been through this module.

        Both are tuples, with an entry for each Tensor among the positional arguments and in the result, those in
        tuples, lists and dicts too: its gradient, or None where it requires none. Where the hook returns something
        else than None, that takes the place of `grad_inputs` further back. Where no input requires a gradient, the
        hook is called as soon as those of the results are known.

        A gradient that is itself differentiated runs the reverse pass again, and the hook with it. For the rest see
        `register_forward_pre_hook`.

        Raises:
            GradientError: in `backward`: the hook returned too many or too few gradients.
            ShapeError: in `backward`: it returned one of another shape.

        Example:
            >>> import needle as ndl
            >>> from needle import nn
            >>> layer, x = nn.Tanh(), ndl.Tensor([0.0])
            >>> handle = layer.register_backward_hook(lambda module, before, after: print(before[0], after[0]))
            >>> (3 * layer(x)).backward()
            [3.] [3.]
        """
        return HookHandle(self, "backward", hook)

    def __getstate__(self) -> dict[str, Any]:
        """Return the attributes for a copy: all, but for hooks, which belong to this object."""
        state = dict(vars(self))
        hooked = state.get("forward")
        if isinstance(hooked, HookedForward):
            del state["forward"]
            if hooked.own_forward is not None:
                state["forward"] = hooked.own_forward
        return state

    # ------------------------------------------------------------------------------------------------ saving

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Copy the parameters and buffers into a dict of NumPy arrays by path.

        A parameter that is reached in two ways is saved under both paths, so that each part of a model can be
        loaded by itself.

        Raises:
            CheckpointError: two different parameters or buffers have the same path.

        Example:
            >>> from needle import nn
            >>> {path: array.shape for path, array in nn.BatchNorm1d(2).state_dict().items()}
            {'weight': (2,), 'bias': (2,), 'running_mean': (2,), 'running_var': (2,)}
        """
        return copy_state(self._named_state())

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> UnmatchedNames:
        """Copy saved arrays into the parameters and buffers, which stay the same objects.

        Values of another floating-point dtype are converted to the parameter's own; any other difference in dtype
        is an error.

        Args:
            state: arrays or Tensors by path, as `state_dict` gives them.
            strict: whether the paths must be exactly those of this module. Shapes must fit in any case.

        Returns:
            The paths that are missing and those that are unexpected; both empty where strict.

        Raises:
            CheckpointError: something does not fit. Everything that does not is listed, and nothing was changed.
        """
        if not isinstance(state, Mapping):
            raise DTypeError(f"load_state_dict takes a dict of arrays by path, got {type(state).__name__}")
        return load_state(self._named_state(), state, strict)

    def _named_state(self) -> list[tuple[str, Parameter | Buffer]]:
        return [(path, item) for path, item in _walk("", self) if not isinstance(item, Module)]

    # ----------------------------------------------------------------------------------------------- showing

    def extra_repr(self) -> str:
        """Return what stands in the parentheses of the module's line in `repr`: its own tensors' shapes.

        A subclass may say something better.
        """
        own = ((name, item) for name, item in self._contents() if not isinstance(item, Module))
        return ", ".join(f"{name} {item.shape}" for name, item in own)

    def __repr__(self) -> str:
        return "\n".join(_lines(self, ()))


def _asks_for_mode(module: Module) -> bool:
    """Tell whether a module's forward is another one in training, by the names in its code."""
    code = getattr(type(module).forward, "__code__", None)
    return code is not None and "training" in code.co_names and getattr(module, "p", None) != 0


def _find(path: str, value: object) -> Iterator[tuple[str, Parameter | Buffer | Module]]:
    """Find parameters, buffers and modules in a value, through dicts, lists and tuples, not into modules."""
    if isinstance(value, (Parameter, Buffer, Module)):
        yield path, value
    elif isinstance(value, dict):
        for key, member in value.items():
            yield from _find(_join(path, str(key)), member)
    elif isinstance(value, (list, tuple)):
        for index, member in enumerate(value):
            yield from _find(_join(path, str(index)), member)


def _walk(
    path: str, item: Parameter | Buffer | Module, above: tuple[Module, ...] = ()
) -> Iterator[tuple[str, Parameter | Buffer | Module]]:
    """Go through an item and all below it, each before what it holds. A module inside itself is not entered again."""
    if not isinstance(item, Module):
        yield path, item
    elif not any(item is module for module in above):
        yield path, item
        for name, member in item._contents():
            yield from _walk(_join(path, name), member, (*above, item))


def _inner_first(module: Module, above: tuple[Module, ...]) -> Iterator[Module]:
    """Go through a module and all below it, each after what it holds."""
    for child in module.children():
        if not any(child is one for one in (*above, module)):
            yield from _inner_first(child, (*above, module))
    yield module


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _unpack_params(value: object) -> list[Parameter]:
    """List the parameters in a value: a parameter, a module, or dicts, lists and tuples of them."""
    found = (pair for path, item in _find("", value) for pair in _walk(path, item))
    return [item for _, item in found if isinstance(item, Parameter)]


def _child_modules(value: object) -> list[Module]:
    """List the modules in a value, itself included where it is one, each before those below it."""
    found = (pair for path, item in _find("", value) for pair in _walk(path, item))
    return [item for _, item in found if isinstance(item, Module)]


def _move(tensor: Parameter | Buffer, device: Device | None, dtype: Any) -> None:
    """Put other data into a tensor, on `device` and, where it is floating-point, in `dtype`."""
    new_device = tensor.device if device is None else device
    new_dtype = dtype if dtype is not None and is_floating(tensor.dtype) else tensor.dtype
    if (new_device, new_dtype) != (tensor.device, tensor.dtype):
        tensor.cached_data = new_device.array(tensor.numpy(), new_dtype)
        tensor.grad = None


def _lines(module: Module, above: tuple[Module, ...]) -> Iterator[str]:
    """Draw a module's tree, a line for each module."""
    children = module.named_children()
    extra, count = module.extra_repr(), module.num_parameters()
    name = type(module).__name__
    head = name if children and not extra else f"{name}({extra})"
    yield f"{head} · {count:,} parameter{'s' if count > 1 else ''}" if count else head
    for path, child in children:
        label = path.removeprefix("modules.")
        lines = iter(["…"]) if any(child is one for one in (*above, module)) else _lines(child, (*above, module))
        yield f"  ({label}): {next(lines)}"
        yield from (f"  {line}" for line in lines)


@contextmanager
def evaluating(model: Module) -> Iterator[None]:
    """Put a model into evaluation mode inside the block, and each of its modules back into its own mode after it."""
    modes = [(module, module.training) for _, module in model.named_modules()]
    model.eval()
    try:
        yield
    finally:
        model.train(dict(modes)[model])
        for module, mode in modes:
            if module.training != mode:
                module.training = mode
