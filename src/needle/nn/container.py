"""Modules that hold other modules: in a row, in a list, in a dict, or beside a shortcut."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, MutableSequence
from typing import Any, overload

from needle.autograd import Tensor
from needle.errors import DTypeError, ShapeError
from needle.nn.module import Module, _find
from needle.nn.parameter import Buffer, Parameter
from needle.ops import reshape

__all__ = ["Flatten", "Identity", "ModuleDict", "ModuleList", "Residual", "Sequential"]


class Sequential(Module):
    """Modules in a row: each gets the result of the one before.

    Formula::

        y = mₙ(… m₂(m₁(x)))

    Args:
        modules: one argument each; other functions of a Tensor are allowed too.

    State:
        modules: the tuple of them.

    Raises:
        DTypeError: something in the row cannot be called.

    Example:
        >>> from needle import nn
        >>> model = nn.Sequential(nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 10))
        >>> model
        Sequential · 79,510 parameters
          (0): Linear(784 → 100) · 78,500 parameters
          (1): ReLU()
          (2): Linear(100 → 10) · 1,010 parameters
        >>> model[0].weight.shape
        (784, 100)
    """

    def __init__(self, *modules: Module | Callable[[Any], Any]) -> None:
        for module in modules:
            if not callable(module):
                raise DTypeError(
                    f"Sequential takes modules, one argument each, got {type(module).__name__}"
                    + (": write Sequential(*modules)" if isinstance(module, (list, tuple)) else "")
                )
        self.modules = modules

    def forward(self, x: Any) -> Any:
        """Apply the modules one after the other."""
        for module in self.modules:
            x = module(x)
        return x

    def __len__(self) -> int:
        return len(self.modules)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.modules)

    def __getitem__(self, index: int | slice) -> Any:
        chosen = self.modules[index]
        return Sequential(*chosen) if isinstance(chosen, tuple) else chosen


class Residual(Module):
    """A shortcut around a module: y = fn(x) + x.

    The gradient reaches x through the shortcut unchanged, which is why deep networks made of these can be trained.

    Args:
        fn: keeps the shape of its input.

    Raises:
        ShapeError: `fn` changes the shape.

    Reference:
        K. He et al., "Deep residual learning for image recognition", 2016, equation 1.
    """

    def __init__(self, fn: Callable[[Tensor], Tensor]) -> None:
        self.fn = fn

    def forward(self, x: Tensor) -> Tensor:
        """Return fn(x) + x."""
        y = self.fn(x)
        if y.shape != x.shape:
            raise ShapeError(f"Residual adds fn(x) to x, so fn keeps the shape: it made {y.shape} of {x.shape}")
        return y + x


class Identity(Module):
    """The module that changes nothing: y = x. Takes the place of one that is left out."""

    def forward(self, x: Any) -> Any:
        """Return x itself."""
        return x


class Flatten(Module):
    """All axes behind the first made one.

    Shapes:
        x: (B, …).
        result: (B, the product of the other lengths).

    Raises:
        ShapeError: x has no axes.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return x as rows."""
        if not x.shape:
            raise ShapeError("Flatten keeps the first axis, and this Tensor has none")
        return reshape(x, (x.shape[0], math.prod(x.shape[1:])))


class ModuleList(Module, MutableSequence[Module]):
    """A list of modules, with a list's methods. It cannot be called: its owner does what is to be done with them.

    A plain Python list as an attribute is found as well; this one checks what is put in.

    Args:
        modules: the modules, in order.

    Raises:
        DTypeError: something that is no module is put in.

    Example:
        >>> from needle import nn
        >>> layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        >>> layers.append(nn.ReLU())
        >>> len(layers), layers[-1]
        (4, ReLU())
    """

    def __init__(self, modules: Iterable[Module] = ()) -> None:
        self._list: list[Module] = []
        self.extend(modules)

    def _contents(self) -> Iterator[tuple[str, Parameter | Buffer | Module]]:
        return _find("", self._list)

    @overload
    def __getitem__(self, index: int) -> Module: ...
    @overload
    def __getitem__(self, index: slice) -> ModuleList: ...
    def __getitem__(self, index: int | slice) -> Module | ModuleList:
        return ModuleList(self._list[index]) if isinstance(index, slice) else self._list[index]

    def __setitem__(self, index: Any, value: Any) -> None:
        self._list[index] = list(map(_checked, value)) if isinstance(index, slice) else _checked(value)

    def __delitem__(self, index: int | slice) -> None:
        del self._list[index]

    def __len__(self) -> int:
        return len(self._list)

    def insert(self, index: int, value: Module) -> None:
        """Put a module before the one at `index`."""
        self._list.insert(index, _checked(value))


class ModuleDict(Module, MutableMapping[str, Module]):
    """Modules by name, with a dict's methods. It cannot be called: its owner does what is to be done with them.

    A plain Python dict as an attribute is found as well; this one checks what is put in.

    Args:
        modules: the modules by name, in order.

    Raises:
        DTypeError: something that is no module is put in, or a name that is no text without a dot.

    Example:
        >>> from needle import nn
        >>> heads = nn.ModuleDict({"digit": nn.Linear(8, 10), "parity": nn.Linear(8, 2)})
        >>> heads["parity"]
        Linear(8 → 2) · 18 parameters
    """

    # A module is equal to itself only, also where Mapping would compare contents.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __init__(self, modules: Mapping[str, Module] | Iterable[tuple[str, Module]] = ()) -> None:
        self._dict: dict[str, Module] = {}
        self.update(modules)

    def _contents(self) -> Iterator[tuple[str, Parameter | Buffer | Module]]:
        return _find("", self._dict)

    def __getitem__(self, name: str) -> Module:
        return self._dict[name]

    def __setitem__(self, name: Any, value: Module) -> None:
        if not isinstance(name, str) or not name or "." in name:
            raise DTypeError(f"ModuleDict: a name is text without dots, since it is part of a path, got {name!r}")
        self._dict[name] = _checked(value)

    def __delitem__(self, name: str) -> None:
        del self._dict[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._dict)

    def __len__(self) -> int:
        return len(self._dict)


def _checked(value: object) -> Module:
    if not isinstance(value, Module):
        raise DTypeError(f"expected a module, got {type(value).__name__}")
    return value
