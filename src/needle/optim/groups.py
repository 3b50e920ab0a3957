"""Parameters in groups, each with hyperparameters of its own, and what hyperparameters may be."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from needle.autograd import Tensor
from needle.dtype import is_floating
from needle.errors import DTypeError, GradientError, SettingError

__all__ = ["check_setting", "make_groups"]

# Hyperparameters that lie between 0 and 1, 1 itself left out.
_FRACTIONS = frozenset({"momentum", "beta1", "beta2", "alpha"})
_FLAGS = frozenset({"nesterov"})


def make_groups(params: Any, settings: Mapping[str, Any]) -> tuple[list[Tensor], list[dict[str, Any]]]:
    """Return all parameters, and the groups that they are in: dicts with "params" and the settings that differ."""
    listed = _listed(params)
    if not listed:
        raise SettingError("an optimizer needs at least one parameter, got an empty list")
    if isinstance(listed[0], Mapping):
        groups = [_group(number, one, settings) for number, one in enumerate(listed)]
        listed = [parameter for group in groups for parameter in group["params"]]
    else:
        groups = [{"params": listed}]
    _check_parameters(groups)
    return listed, groups


def _listed(params: Any) -> list[Any]:
    if isinstance(params, list):
        return params
    if isinstance(params, Tensor):
        raise DTypeError("an optimizer takes a list of Tensors: put this one in brackets")
    if not isinstance(params, Iterable):
        hint = ": give it .parameters()" if hasattr(params, "parameters") else ""
        raise DTypeError(f"an optimizer takes a list of Tensors, got {type(params).__name__}{hint}")
    return list(params)


def _group(number: int, given: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(given, Mapping) or "params" not in given:
        raise SettingError(f'parameter group {number} is no dict with "params"')
    for name, value in given.items():
        if name != "params" and name not in settings:
            raise SettingError(f"parameter group {number}: no hyperparameter {name!r}; there are {sorted(settings)}")
        if name != "params":
            check_setting(f"parameter group {number}", name, value)
    return {**given, "params": _listed(given["params"])}


def _check_parameters(groups: Sequence[Mapping[str, Any]]) -> None:
    group_of: dict[int, int] = {}
    for number, group in enumerate(groups):
        for place, parameter in enumerate(group["params"]):
            if not isinstance(parameter, Tensor):
                raise DTypeError(f"parameter {place} of group {number} is no Tensor but {type(parameter).__name__}")
            if not is_floating(parameter.dtype):
                raise DTypeError(f"parameter {place} of group {number} is {parameter.dtype}, which cannot be stepped")
            if group_of.setdefault(id(parameter), number) != number:
                raise SettingError(f"a parameter is in group {group_of[id(parameter)]} and in group {number}")
    parameters = [parameter for group in groups for parameter in group["params"]]
    if not any(parameter.requires_grad for parameter in parameters):
        raise GradientError("none of the parameters requires a gradient, so that there is nothing to train")


def check_setting(owner: str, name: str, value: Any) -> None:
    """Check one hyperparameter.

    Raises:
        SettingError: it is negative, infinite or no number, or not below 1 where it must be.
    """
    if name == "lr" and callable(value):
        return
    if isinstance(value, bool) or name in _FLAGS:
        if isinstance(value, bool) != (name in _FLAGS):
            raise SettingError(f"{owner}: {name} is {'True or False' if name in _FLAGS else 'a number'}, got {value!r}")
        return
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise SettingError(f"{owner}: {name} is a number, got {value!r}") from None
    if not math.isfinite(number) or number < 0:
        raise SettingError(f"{owner}: {name} is 0 or more and finite, got {value}")
    if name in _FRACTIONS and number >= 1:
        raise SettingError(f"{owner}: {name} is below 1, got {value}")
