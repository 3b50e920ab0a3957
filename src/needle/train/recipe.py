"""What a saved model must say about itself, so that someone else can use it: a `Recipe`."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from needle.errors import CheckpointError

__all__ = ["Recipe", "installed_versions"]


def installed_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that training leans on."""
    found = {"python": platform.python_version()}
    for name, package in (("needle", "needle-dl"), ("numpy", "numpy"), ("safetensors", "safetensors")):
        try:
            found[name] = version(package)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found


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
        if not isinstance(row, dict):
            raise CheckpointError(f"a recipe is a JSON object, got {type(row).__name__}")
        unknown = sorted(set(row) - _KINDS.keys())
        missing = sorted(_REQUIRED - row.keys())
        wrong = sorted(name for name, value in row.items() if name in _KINDS and not _KINDS[name](value))
        for fault, names in (("unknown", unknown), ("missing", missing), ("malformed", wrong)):
            if names:
                raise CheckpointError(f"the recipe has {fault} entries: {', '.join(names)}")
        entries: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in row.items()
        }
        return cls(**entries)


def _is_object(value: object) -> bool:
    return isinstance(value, dict)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_list_of(kind: type) -> Callable[[object], bool]:
    return lambda value: isinstance(value, list) and all(type(one) is kind for one in value) and bool(value)


_KINDS: dict[str, Callable[[object], bool]] = {
    "architecture": lambda value: isinstance(value, str),
    "hyperparameters": _is_object,
    "input_shape": _is_list_of(int),
    "class_names": _is_list_of(str),
    "dataset": lambda value: isinstance(value, str),
    "input_mean": _is_number,
    "input_std": lambda value: _is_number(value) and value != 0,
    "options": _is_object,
    "seed": lambda value: value is None or type(value) is int,
    "results": _is_object,
    "versions": _is_object,
}
_REQUIRED = {"architecture", "hyperparameters", "input_shape", "class_names"}
assert _KINDS.keys() == {one.name for one in fields(Recipe)}
