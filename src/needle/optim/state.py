"""An optimizer's state as plain numbers and arrays: taking it out, and putting it back whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from needle.autograd import Tensor
from needle.dtype import float32, is_narrow
from needle.errors import CheckpointError, SettingError
from needle.optim.groups import check_setting

if TYPE_CHECKING:
    from needle.optim.optimizer import Optimizer

__all__ = ["load_state_dict", "state_dict"]


def state_dict(optimizer: Optimizer) -> dict[str, Any]:
    """Return what `Optimizer.state_dict` documents."""
    arrays = {
        f"{name}.{number}": getattr(optimizer, name)[parameter].numpy()
        for name in optimizer.state_names
        for number, parameter in enumerate(_distinct(optimizer.params))
        if parameter in getattr(optimizer, name)
    }
    return {
        "t": optimizer.t,
        "groups": [_saved_group(optimizer, group) for group in optimizer.groups],
        "arrays": arrays,
    }


def load_state_dict(optimizer: Optimizer, saved: Mapping[str, Any]) -> None:
    """Do what `Optimizer.load_state_dict` documents."""
    owner = type(optimizer).__name__
    missing = {"t", "groups", "arrays"} - set(saved)
    if missing:
        raise CheckpointError(f"{owner}: the saved state lacks {', '.join(sorted(missing))}")
    arrays = {name: np.asarray(array) for name, array in saved["arrays"].items()}
    faults = [*_misfit_groups(optimizer, saved), *_misfit_arrays(optimizer, arrays)]
    if faults:
        raise CheckpointError(f"{owner}: the saved state does not fit:\n    " + "\n    ".join(faults))
    optimizer.t = saved["t"]
    _put_settings(optimizer, saved["groups"])
    _put_arrays(optimizer, arrays)


def _distinct(parameters: list[Tensor]) -> list[Tensor]:
    return list(dict.fromkeys(parameters))


# ------------------------------------------------------------------------------------------- hyperparameters


def _saved_group(optimizer: Optimizer, group: Mapping[str, Any]) -> dict[str, Any]:
    """Return a group's hyperparameters, those that it shares with all groups too, and the number of its parameters."""
    own = {name: optimizer._setting(group, name) for name in optimizer.setting_names}
    plain = {name: _plain(value) for name, value in own.items() if not callable(value)}
    return {"params": len(_distinct(group["params"])), **plain}


def _plain(value: Any) -> Any:
    """Return a number that JSON writes and reads back exactly."""
    return value.item() if isinstance(value, np.generic) else value


def _misfit_groups(optimizer: Optimizer, saved: Mapping[str, Any]) -> list[str]:
    faults = []
    if type(saved["t"]) is not int or saved["t"] < 0:
        faults.append(f"t is a number of steps, got {saved['t']!r}")
    if len(saved["groups"]) != len(optimizer.groups):
        return [*faults, f"it has {len(saved['groups'])} parameter groups, this optimizer {len(optimizer.groups)}"]
    shared: dict[str, Any] = {}
    for number, (group, values) in enumerate(zip(optimizer.groups, saved["groups"], strict=True)):
        faults += [f"group {number}: {fault}" for fault in _misfit_group(_saved_group(optimizer, group), values)]
        for name in values.keys() - group.keys():
            if shared.setdefault(name, values[name]) != values[name]:
                faults.append(f"group {number}: it had a {name} of its own, and has none here")
    return faults


def _misfit_group(here: Mapping[str, Any], saved: Mapping[str, Any]) -> list[str]:
    if saved.get("params") != here["params"]:
        return [f"it has {saved.get('params')} parameters, here it has {here['params']}"]
    faults = [f"{name} is missing: it was a schedule, or of another optimizer" for name in here if name not in saved]
    faults += [f"{name} is unexpected: here it is a schedule, or none" for name in saved if name not in here]
    for name in here.keys() & saved.keys() - {"params"}:
        try:
            check_setting("", name, saved[name])
        except SettingError as error:
            faults.append(error.rule.removeprefix(": "))
    return faults


def _put_settings(optimizer: Optimizer, groups: list[Mapping[str, Any]]) -> None:
    """Set what a group has for itself in the group, the rest in the optimizer, as it was when saved."""
    for group, values in zip(optimizer.groups, groups, strict=True):
        for name in values.keys() - {"params"}:
            if name in group:
                group[name] = values[name]
            else:
                setattr(optimizer, name, values[name])


# --------------------------------------------------------------------------------------------------- arrays


def _misfit_arrays(optimizer: Optimizer, arrays: Mapping[str, Any]) -> list[str]:
    faults = []
    parameters = _distinct(optimizer.params)
    expected = {f"{name}.{i}": p for name in optimizer.state_names for i, p in enumerate(parameters)}
    for key, array in arrays.items():
        if key not in expected:
            faults.append(f"{key} is unexpected")
            continue
        parameter = expected[key]
        dtype = float32 if is_narrow(parameter.dtype) else parameter.dtype
        if array.shape != parameter.shape or array.dtype != dtype:
            faults.append(f"{key} is {array.dtype} {array.shape}, here it is {dtype} {parameter.shape}")
    return faults + [f"{key} is missing" for key in _needed(optimizer, arrays) if key not in arrays]


def _needed(optimizer: Optimizer, arrays: Mapping[str, Any]) -> list[str]:
    """Return the arrays that go with those that are there: Adam's v with its m."""
    # What is in use where all hyperparameters are 0 is in use in any case.
    always = optimizer.state_in_use(SimpleNamespace(**dict.fromkeys(optimizer.setting_names, 0), t=1))
    return [f"{name}.{number}" for number in {key.rpartition(".")[2] for key in arrays} for name in always]


def _put_arrays(optimizer: Optimizer, arrays: Mapping[str, Any]) -> None:
    for name in optimizer.state_names:
        memory = {}
        for number, parameter in enumerate(_distinct(optimizer.params)):
            if f"{name}.{number}" in arrays:
                data = parameter.device.array(arrays[f"{name}.{number}"])
                memory[parameter] = Tensor.make_const(data)
        setattr(optimizer, name, memory)
