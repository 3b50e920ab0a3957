"""The state of a module as plain arrays by name: taking it out, and putting it back whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from needle.autograd import Tensor
from needle.dtype import is_floating
from needle.errors import CheckpointError

__all__ = ["UnmatchedNames", "copy_state", "load_state"]

NamedTensors = Sequence[tuple[str, Tensor]]


class UnmatchedNames(NamedTuple):
    """What `load_state_dict(strict=False)` left alone."""

    missing: list[str]  # in the module, not in the state
    unexpected: list[str]  # in the state, not in the module


def copy_state(tensors: NamedTensors) -> dict[str, NDArray[Any]]:
    """Copy the tensors' values to the host, by name.

    Raises:
        CheckpointError: two different tensors have the same name.
    """
    return {name: tensor.numpy() for name, tensor in _by_name(tensors).items()}


def load_state(tensors: NamedTensors, state: Mapping[str, Any], strict: bool) -> UnmatchedNames:
    """Put the values of `state` into the tensors, or raise and change nothing."""
    named = _by_name(tensors)
    arrays = {name: _host_array(name, value) for name, value in state.items()}
    unmatched = UnmatchedNames(
        [name for name in named if name not in arrays], [name for name in arrays if name not in named]
    )
    common = [name for name in named if name in arrays]
    faults = _misfits({name: (named[name], arrays[name]) for name in common})
    if strict:
        faults = [
            *(f"missing: {name} {_kind(named[name])}" for name in unmatched.missing),
            *(f"unexpected: {name} {_kind(arrays[name])}" for name in unmatched.unexpected),
            *faults,
        ]
    if faults:
        raise CheckpointError("the state does not fit the module:\n    " + "\n    ".join(faults))
    new_data = {name: named[name].device.array(arrays[name], named[name].dtype) for name in common}
    for name, data in new_data.items():
        named[name].cached_data = data
    return unmatched


def _by_name(tensors: NamedTensors) -> dict[str, Tensor]:
    named: dict[str, Tensor] = {}
    for name, tensor in tensors:
        if named.setdefault(name, tensor) is not tensor:
            raise CheckpointError(f"two different parameters or buffers are both reached as {name}: rename one")
    return named


def _misfits(pairs: Mapping[str, tuple[Tensor, NDArray[Any]]]) -> list[str]:
    """List the arrays that cannot become the data of the tensor of their name."""
    faults = []
    seen: dict[int, str] = {}
    for name, (tensor, array) in pairs.items():
        twin = seen.setdefault(id(tensor), name)
        if tensor.shape != array.shape or not _converts(array.dtype, tensor.dtype):
            faults.append(f"misshapen: {name} is {_kind(tensor)}, got {_kind(array)}")
        elif twin != name and not np.array_equal(array, pairs[twin][1], equal_nan=array.dtype.kind == "f"):
            faults.append(f"contradictory: {twin} and {name} are one shared tensor, got different values for them")
    return faults


def _converts(given: np.dtype[Any], wanted: np.dtype[Any]) -> bool:
    """Tell whether a dtype may be read as another: any floating one as any other, the rest only as themselves."""
    return given == wanted or (is_floating(given) and is_floating(wanted))


def _host_array(name: str, value: Any) -> NDArray[Any]:
    array = value.numpy() if isinstance(value, Tensor) else np.asarray(value)
    if array.dtype == object:
        raise CheckpointError(f"the state holds no array of numbers under {name}, but {type(value).__name__}")
    return array


def _kind(array: Any) -> str:
    return f"{array.dtype} {tuple(array.shape)}"
