"""Tensors in einops: `rearrange`, `reduce`, `repeat`, `pack`, `einsum` and the rest, differentiable and compiled.

einops finds the library of an array among the subclasses of its `AbstractBackend`. Ours can only be made when einops
is there, and Needle does not import it. So Needle leaves a note with Python's import system, and makes the subclass
when the program imports einops.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

from needle import ops
from needle.autograd import Tensor
from needle.dtype import is_floating

__all__ = ["make_known"]

_BACKENDS = "einops._backends"


def make_known() -> None:
    """Make Tensors known to einops: now where it is imported already, otherwise when it is."""
    if _BACKENDS in sys.modules:
        define_backend(sys.modules[_BACKENDS])
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Finds one module, once, and lets Python's own finder do the work."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return how to load einops' module of backends; None for any other module."""
        if fullname != _BACKENDS:
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(Loader):
    """Loads a module as another loader does, and then makes Tensors known to it."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Leave it to the other loader."""
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Run the module, and add the subclass."""
        self.loader.exec_module(module)
        if module.__spec__ is not None:
            module.__spec__.loader = self.loader
        define_backend(module)


def define_backend(backends: ModuleType) -> None:
    """Make the subclass that einops looks for."""
    base: Any = backends.AbstractBackend

    class NeedleBackend(_Operations, base):  # type: ignore[misc]  # the base is known when einops is there
        framework_name = "needle"

    # einops finds subclasses by itself, which Python knows weakly: this keeps ours alive.
    backends.NeedleBackend = NeedleBackend  # type: ignore[attr-defined]


class _Operations:
    """What einops asks of a library."""

    def is_appropriate_type(self, tensor: object) -> bool:
        """Tell whether a value is a Tensor."""
        return isinstance(tensor, Tensor)

    def from_numpy(self, x: Any) -> Tensor:
        """Return a Tensor of an array."""
        return Tensor(x)

    def to_numpy(self, x: Tensor) -> Any:
        """Return an array of a Tensor."""
        return x.numpy()

    def arange(self, start: int, stop: int) -> Tensor:
        """Return the integers from start to stop."""
        return Tensor(range(start, stop), requires_grad=False)

    def reshape(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        """Return the same elements in another shape."""
        return ops.reshape(x, tuple(shape))

    def transpose(self, x: Tensor, axes: Sequence[int]) -> Tensor:
        """Return the axes in another order."""
        return ops.permute(x, tuple(axes))

    def reduce(self, x: Tensor, operation: str, axes: Sequence[int]) -> Tensor:
        """Reduce over axes by one of einops' operations."""
        if operation in ("any", "all"):
            flags = ops.astype(ops.not_equal(x, 0), "int8")
            return ops.astype((ops.max if operation == "any" else ops.min)(flags, tuple(axes)), "bool")
        reductions: dict[str, Any] = {
            "sum": ops.summation,
            "mean": ops.mean,
            "max": ops.max,
            "min": ops.min,
            "prod": ops.prod,
        }
        result: Tensor = reductions[operation](x, tuple(axes))
        return result

    def stack_on_zeroth_dimension(self, tensors: Sequence[Tensor]) -> Tensor:
        """Put Tensors side by side along a new first axis."""
        return ops.stack(list(tensors), 0)

    def add_axis(self, x: Tensor, new_position: int) -> Tensor:
        """Insert an axis of length 1."""
        return ops.expand_dims(x, new_position)

    def tile(self, x: Tensor, repeats: Sequence[int]) -> Tensor:
        """Repeat axes of length 1, the only ones that einops repeats."""
        return ops.broadcast_to(x, tuple(n * times for n, times in zip(x.shape, repeats, strict=True)))

    def concat(self, tensors: Sequence[Tensor], axis: int) -> Tensor:
        """Put Tensors one behind another along an axis."""
        return ops.concatenate(list(tensors), axis)

    def is_float_type(self, x: Tensor) -> bool:
        """Tell whether a Tensor holds floating-point numbers."""
        return is_floating(x.dtype)

    def einsum(self, pattern: str, *tensors: Tensor) -> Tensor:
        """Sum products by a pattern."""
        return ops.einsum(pattern, *tensors)
