"""Saved models: a folder with `model.json` (how it was made) and a safetensors file (its weights).

    model-<first digits of its SHA-256>.safetensors    the arrays, by their names in the model
    model.json                                         the recipe, the weights' file name, length and SHA-256

The weights' file is named for its contents and written first, `model.json` last. Renaming `model.json` into place is
the one moment at which a folder goes from the old model to the new, so that a save that is killed anywhere leaves
the old model whole. Loading trusts nothing: sums, names, shapes and dtypes are checked, classes come from the
table that the caller gives, and no file is ever unpickled or evaluated.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import safetensors
import safetensors.numpy

from needle.device import random
from needle.errors import CheckpointError, NeedleError
from needle.nn import Module
from needle.train.files import write_file
from needle.train.json_objects import read_object
from needle.train.names import nearest
from needle.train.recipe import Recipe

__all__ = ["MODEL_FILE", "SavedModel", "load_model", "read_recipe", "save_model"]

MODEL_FILE = "model.json"
FORMAT = {"name": "needle model", "version": 1}

_M = TypeVar("_M", bound=Module)


@dataclass(frozen=True)
class SavedModel(Generic[_M]):
    """A loaded model, in evaluation mode, and how it was made."""

    model: _M
    recipe: Recipe


# ---------------------------------------------------------------------------------------------------- writing


def save_model(folder: str | os.PathLike[str], model: Module, recipe: Recipe) -> Path:
    """Write a model into a folder, whole or not at all.

    Args:
        folder: made where it does not exist. A model that is already in it is replaced.
        model: its `state_dict` is saved: parameters and buffers.
        recipe: how to build the model again, and how it was trained.

    Returns:
        The path of `model.json`.

    Raises:
        CheckpointError: the recipe holds something that JSON does not, such as an array or NaN.
        OSError: the folder cannot be written. What was in it before is then still there.

    Example:
        >>> import tempfile
        >>> import needle.nn as nn
        >>> from needle.train import Recipe, load_model, save_model
        >>> recipe = Recipe("Linear", {"in_features": 4, "out_features": 2}, (2, 2), ("no", "yes"))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = save_model(folder, nn.Linear(4, 2), recipe)
        ...     saved = load_model(folder, {"Linear": nn.Linear})
        >>> saved.recipe.class_names
        ('no', 'yes')
    """
    folder = Path(folder)
    weights = safetensors.numpy.save(model.state_dict())
    digest = hashlib.sha256(weights).hexdigest()
    name = f"model-{digest[:12]}.safetensors"
    description = _encode(recipe, {"file": name, "bytes": len(weights), "sha256": digest})
    folder.mkdir(parents=True, exist_ok=True)
    is_new = not (folder / name).exists()
    write_file(folder / name, weights)
    try:
        write_file(folder / MODEL_FILE, description)
    except BaseException:
        if is_new:  # otherwise the model that is there already has these very weights
            (folder / name).unlink(missing_ok=True)
        raise
    _remove_old_weights(folder, name)
    return folder / MODEL_FILE


def _encode(recipe: Recipe, weights: dict[str, Any]) -> bytes:
    content = {"format": FORMAT, "recipe": recipe.to_json(), "weights": weights}
    try:
        content = json.loads(json.dumps(content, allow_nan=False))  # tuples are lists and keys are text from here on
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"the recipe cannot be written as JSON: {error}") from None
    content["sha256"] = _digest(content)
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()


def _digest(content: Mapping[str, Any]) -> str:
    """Return the sum over everything in `model.json` but the sum itself, whatever its layout."""
    rest = {key: value for key, value in content.items() if key != "sha256"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _remove_old_weights(folder: Path, current: str) -> None:
    for path in folder.glob("model-" + "[0-9a-f]" * 12 + ".safetensors"):
        if path.name != current:
            path.unlink(missing_ok=True)


# ---------------------------------------------------------------------------------------------------- reading


def read_recipe(folder: str | os.PathLike[str]) -> Recipe:
    """Read how a saved model was made, without its weights.

    Raises:
        CheckpointError: there is no model, or its `model.json` is damaged.
    """
    return _read_description(_description_path(folder))[0]


def load_model(folder: str | os.PathLike[str], architectures: Mapping[str, Callable[..., _M]]) -> SavedModel[_M]:
    """Read a model that `save_model` wrote.

    Draws nothing from the random generator: building the model uses it, and it is put back.

    Args:
        folder: the folder, or the path of its `model.json`.
        architectures: the closed table of what may be built: name → class or function that takes the recipe's
            hyperparameters.

    Raises:
        CheckpointError: a file is missing, damaged or cut short, or does not fit the architecture.
    """
    path = _description_path(folder)
    recipe, weights = _read_description(path)
    arrays = _read_weights(path.parent, weights)
    model = _build(recipe, architectures, path)
    try:
        model.load_state_dict(arrays)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error.rule}") from None
    model.eval()
    return SavedModel(model, recipe)


def _description_path(folder: str | os.PathLike[str]) -> Path:
    path = Path(folder)
    path = path / MODEL_FILE if path.is_dir() or path.suffix not in {".json", ".safetensors"} else path
    return path.with_name(MODEL_FILE) if path.suffix == ".safetensors" else path


def _read_description(path: Path) -> tuple[Recipe, Mapping[str, Any]]:
    content = read_object(path)
    if content.get("format") != FORMAT:
        raise CheckpointError(f"{path} is not of a format that this version reads: {json.dumps(FORMAT)}")
    if content.get("sha256") != _digest(content):
        raise CheckpointError(f"{path} is damaged or was edited: its SHA-256 sum does not fit its contents")
    try:
        return Recipe.from_json(content.get("recipe")), _checked_weights(content.get("weights"))
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error.rule}") from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise CheckpointError(f"there is no file {path}") from None
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from None


def _checked_weights(weights: object) -> Mapping[str, Any]:
    if not isinstance(weights, dict) or weights.keys() != {"file", "bytes", "sha256"}:
        raise CheckpointError("the entry `weights` must have exactly file, bytes and sha256")
    name = weights["file"]
    if not isinstance(name, str) or Path(name).name != name or name in {"", ".", ".."}:
        raise CheckpointError("the weights' file must be a plain name in the same folder")
    return weights


def _read_weights(folder: Path, weights: Mapping[str, Any]) -> dict[str, Any]:
    path = folder / weights["file"]
    data = _read(path)
    if len(data) != weights["bytes"]:
        raise CheckpointError(f"{path} is damaged or cut short: {len(data):,} bytes of {weights['bytes']:,}")
    if hashlib.sha256(data).hexdigest() != weights["sha256"]:
        raise CheckpointError(f"{path} is damaged: its SHA-256 sum is not the one in {MODEL_FILE}")
    try:
        return dict(safetensors.numpy.load(data))
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path} is not a safetensors file that can be read: {error}") from None


def _build(recipe: Recipe, architectures: Mapping[str, Callable[..., _M]], path: Path) -> _M:
    name = recipe.architecture
    if name not in architectures:
        raise CheckpointError(f"{path}: unknown architecture {name!r}{nearest(name, architectures)}")
    state = random.get_state()
    try:
        return architectures[name](**recipe.hyperparameters)
    except (NeedleError, TypeError, ValueError, OverflowError, MemoryError) as error:
        raise CheckpointError(f"{path}: {name} cannot be built from its hyperparameters: {error}") from None
    finally:
        random.set_state(state)
