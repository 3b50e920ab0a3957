"""What a saved model must say about itself, so that someone else can use it: a `Recipe`."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from needle.train.json_objects import Check, check_entries, is_list_of, is_number, is_object, is_text
from needle.train.machine import package_version

__all__ = ["Recipe", "installed_versions"]


def installed_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that training leans on."""
    packages = {"needle": "needle-dl", "numpy": "numpy", "safetensors": "safetensors"}
    found = {name: package_version(package) or "unknown" for name, package in packages.items()}
    return {"python": platform.python_version(), **found}


@dataclass(frozen=True)
class Recipe:
    """How a model was made: everything but its weights.

    Args:
        architecture: the model's name among the architectures that the loader knows.
        hyperparameters: what that architecture is called with.
        input_shape: one input's shape, before it is flattened: (height, width).
        class_names: what each output stands for, in order.
        dataset: the name of the data that it was trained on.
        input_mean: subtracted from pixels in [0, 1] before they enter the model.
        input_std: what they are then divided by.
        options: every option of the training run.
        seed: the seed of the run.
        results: the figures of the last epoch.
        versions: of Python and of the packages.
    """

    architecture: str
    hyperparameters: Mapping[str, Any]
    input_shape: tuple[int, ...]
    class_names: tuple[str, ...]
    dataset: str = ""
    input_mean: float = 0.0
    input_std: float = 1.0
    options: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None
    results: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=installed_versions)

    def to_json(self) -> dict[str, Any]:
        """Return the recipe as what JSON can hold."""
        return asdict(self)

    @classmethod
    def from_json(cls, row: object) -> Recipe:
        """Read a recipe back.

        Raises:
            CheckpointError: an entry is missing, unknown or of the wrong kind.
        """
        checked = check_entries(row, _KINDS, _REQUIRED, "recipe")
        entries: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in checked.items()
        }
        return cls(**entries)


_KINDS: dict[str, Check] = {
    "architecture": is_text,
    "hyperparameters": is_object,
    "input_shape": is_list_of(int),
    "class_names": is_list_of(str),
    "dataset": is_text,
    "input_mean": is_number,
    "input_std": lambda value: is_number(value) and value != 0,
    "options": is_object,
    "seed": lambda value: value is None or type(value) is int,
    "results": is_object,
    "versions": is_object,
}
_REQUIRED = {"architecture", "hyperparameters", "input_shape", "class_names"}
assert _KINDS.keys() == {one.name for one in fields(Recipe)}
