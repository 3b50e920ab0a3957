"""The state of models under PyTorch's names and in its layouts, both ways, without PyTorch.

    Needle                                          PyTorch
    Linear.weight (in, out), bias (1, out)          weight (out, in), bias (out,)
    convolutions' weight (*kernel, a, b)            weight (b, a, *kernel)
    cells' W_ih (I, gates·H), W_hh (H, gates·H)     weight_ih (gates·H, I), weight_hh (gates·H, H)
    LSTM.lstm_cells.1.W_ih                          weight_ih_l1, and weight_ih_l1_reverse of `reverse_cells`
    Sequential.modules.0                            0
    all else                                        the same

Gates are in the same order in both. A model of the user's own maps by the names of its attributes: it loads where the
class in PyTorch calls its parts the same.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from needle.errors import CheckpointError, DTypeError
from needle.nn import Buffer, Linear, Module, Parameter, Sequential, UnmatchedNames
from needle.nn.convolution import ConvolutionLayer
from needle.nn.recurrent import RecurrentCell, RecurrentLayer

__all__ = ["from_torch_state_dict", "load_torch_file", "save_torch_file", "to_torch_state_dict"]

# What PyTorch counts and Needle does not.
_IGNORED = ("num_batches_tracked",)
_CELL_NAMES = {"W_ih": "weight_ih", "W_hh": "weight_hh"}


@dataclass(frozen=True)
class _Entry:
    """A parameter or buffer: its name there, and how its values go there and back."""

    path: str
    name: str
    tensor: Parameter | Buffer
    there: Callable[[NDArray[Any]], NDArray[Any]]
    back: Callable[[NDArray[Any]], NDArray[Any]]


def to_torch_state_dict(model: Module) -> dict[str, NDArray[Any]]:
    """Return a model's parameters and buffers as PyTorch would name them and lay them out.

    In PyTorch: `theirs.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()})`.

    Raises:
        CheckpointError: two different parameters or buffers have the same name there.

    Example:
        >>> from needle import nn
        >>> from needle.interchange import to_torch_state_dict
        >>> model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
        >>> {name: array.shape for name, array in to_torch_state_dict(model).items()}
        {'0.weight': (5, 3), '0.bias': (5,), '2.weight': (2, 5), '2.bias': (2,)}
    """
    return {one.name: np.ascontiguousarray(one.there(one.tensor.numpy())) for one in _by_name(model).values()}


def from_torch_state_dict(model: Module, state: Mapping[str, Any], strict: bool = True) -> UnmatchedNames:
    """Load a PyTorch model's state into a model that is built the same.

    Args:
        model: its parameters and buffers stay the same objects.
        state: `theirs.state_dict()`: tensors or arrays by PyTorch's names.
        strict: whether the names must be exactly those of this model. Shapes must fit in any case.

    Returns:
        What is missing, by Needle's names, and what is unexpected, by PyTorch's; both empty where strict.

    Raises:
        CheckpointError: something does not fit. Everything that does not is listed, and nothing was changed.
        DTypeError: `state` is no mapping.

    Example:
        >>> import numpy as np
        >>> from needle import nn
        >>> from needle.interchange import from_torch_state_dict
        >>> layer = nn.Linear(2, 1)
        >>> from_torch_state_dict(layer, {"weight": np.array([[1.0, 2.0]]), "bias": np.array([3.0])})
        UnmatchedNames(missing=[], unexpected=[])
        >>> layer.weight
        needle.Tensor([[1.] [2.]])
    """
    if not isinstance(state, Mapping):
        raise DTypeError(f"from_torch_state_dict takes arrays by name, got {type(state).__name__}")
    entries = _by_name(model)
    ours: dict[str, Any] = {}
    for name, value in state.items():
        if name in entries:
            ours[entries[name].path] = entries[name].back(_array(name, value))
        elif name.rpartition(".")[2] not in _IGNORED:
            ours[name] = value
    return model.load_state_dict(ours, strict)


def save_torch_file(path: str | os.PathLike[str], model: Module) -> Path:
    """Write a model's state into a safetensors file, whole or not at all, for PyTorch.

    In PyTorch: `theirs.load_state_dict(safetensors.torch.load_file(path))`.

    Raises:
        OSError: the file cannot be written. What was there before is then still there.
    """
    import safetensors.numpy  # noqa: PLC0415  `import needle` needs no files

    from needle.train.files import write_file  # noqa: PLC0415

    write_file(path, safetensors.numpy.save(to_torch_state_dict(model)))
    return Path(path)


def load_torch_file(path: str | os.PathLike[str], model: Module, strict: bool = True) -> UnmatchedNames:
    """Load a safetensors file of a PyTorch model's state: see `from_torch_state_dict`.

    Raises:
        CheckpointError: the file is missing or damaged, or does not fit the model.
    """
    import safetensors  # noqa: PLC0415  `import needle` needs no files
    import safetensors.numpy  # noqa: PLC0415

    try:
        state = safetensors.numpy.load(Path(path).read_bytes())
    except FileNotFoundError:
        raise CheckpointError(f"there is no file {path}") from None
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path} is not a safetensors file that can be read: {error}") from None
    return from_torch_state_dict(model, state, strict)


def _array(name: str, value: Any) -> NDArray[Any]:
    """Return a value of a state as an array, a tensor of PyTorch's too."""
    try:
        array = np.asarray(value.detach() if hasattr(value, "detach") else value)
    except (TypeError, RuntimeError) as error:
        raise CheckpointError(f"the state holds no array of numbers under {name}: {error}") from None
    return array


# ------------------------------------------------------------------------------------------ names and layouts


def _by_name(model: Module) -> dict[str, _Entry]:
    entries: dict[str, _Entry] = {}
    for one in _entries(model, "", "", ()):
        if entries.setdefault(one.name, one).tensor is not one.tensor:
            raise CheckpointError(f"{entries[one.name].path} and {one.path} would both be called {one.name}")
    return entries


def _entries(module: Module, path: str, name: str, above: Sequence[Module]) -> Iterator[_Entry]:
    if any(module is one for one in above):
        return
    for own, item in module._contents():
        there = _name_there(module, own)
        if isinstance(item, RecurrentCell) and isinstance(module, RecurrentLayer):
            number, direction = own.rpartition(".")[2], "_reverse" if own.startswith("reverse") else ""
            yield from _cell(item, f"{path}{own}.", name, f"_l{number}{direction}")
        elif isinstance(item, Module):
            yield from _entries(item, f"{path}{own}.", f"{name}{there}.", (*above, module))
        else:
            yield _Entry(path + own, name + there, item, *_layout(module, own, item))


def _cell(cell: RecurrentCell, path: str, name: str, suffix: str) -> Iterator[_Entry]:
    """Yield the parameters of one layer and direction, which are the recurrent layer's own there."""
    for own, item in cell._contents():
        assert not isinstance(item, Module)
        yield _Entry(path + own, f"{name}{_name_there(cell, own)}{suffix}", item, *_layout(cell, own, item))


def _name_there(module: Module, own: str) -> str:
    if isinstance(module, Sequential):
        return own.removeprefix("modules.")
    return _CELL_NAMES.get(own, own) if isinstance(module, RecurrentCell) else own


def _layout(
    module: Module, own: str, tensor: Parameter | Buffer
) -> tuple[Callable[[NDArray[Any]], NDArray[Any]], Callable[[NDArray[Any]], NDArray[Any]]]:
    """Return how the values of a module's tensor go there and back."""
    if isinstance(module, ConvolutionLayer) and own == "weight":
        return _kernel_last, _kernel_first
    if (isinstance(module, Linear) and own == "weight") or (isinstance(module, RecurrentCell) and own in _CELL_NAMES):
        return np.transpose, np.transpose
    if isinstance(module, Linear) and own == "bias":
        shape = tensor.shape
        return np.ravel, lambda array: array.reshape(shape) if array.shape == shape[-1:] else array
    return np.asarray, np.asarray


def _kernel_last(weight: NDArray[Any]) -> NDArray[Any]:
    """Return (*kernel, a, b) as (b, a, *kernel)."""
    rank = weight.ndim - 2
    return weight.transpose(rank + 1, rank, *range(rank))


def _kernel_first(weight: NDArray[Any]) -> NDArray[Any]:
    """Return (b, a, *kernel) as (*kernel, a, b); what has no such axes as it is, to be found misshapen."""
    return weight.transpose(*range(2, weight.ndim), 1, 0) if weight.ndim > 2 else weight
