"""Checkpoints: all that a training run needs to go on, bit for bit, as if it had never stopped.

    step-00001200/
        model.safetensors, optimizer.safetensors    arrays, by their names; arrays.safetensors: those that you add
        state.json                                  the step, settings, generators, the loader's place, what you add
        manifest.json                               the length and SHA-256 of each file above, written last

A checkpoint is written into a temporary folder beside its place, each file and then the folder is flushed to the disk,
and one rename puts it there: it is whole or absent, whenever the process or the machine ends. The last ones are kept,
so that where one was damaged later there is one before it. Nothing is unpickled or evaluated on the way back.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import safetensors
import safetensors.numpy

from needle.device import random
from needle.errors import CheckpointError
from needle.nn import Module
from needle.optim import Optimizer
from needle.train.files import sync_folder, write_through

__all__ = ["Checkpoint", "list_checkpoints", "load_checkpoint", "peek_checkpoint", "save_checkpoint"]

_PREFIX = "step-"
_FORMAT = {"name": "needle checkpoint", "version": 1}


class HasState(Protocol):
    """What a loader is to a checkpoint."""

    def state_dict(self) -> dict[str, Any]:
        """Return its place, as what JSON can hold."""

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go back to a place."""


@dataclass(frozen=True)
class Checkpoint:
    """What was read besides what was put back: the step, what the caller had added, and where it lay."""

    step: int
    path: Path
    extra: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, Any] = field(default_factory=dict)


def save_checkpoint(
    folder: str | os.PathLike[str],
    *,
    step: int,
    model: Module,
    optimizer: Optimizer | None = None,
    loader: HasState | None = None,
    arrays: Mapping[str, Any] | None = None,
    extra: Mapping[str, Any] | None = None,
    keep: int = 2,
) -> Path:
    """Write a checkpoint into a run's folder, whole or not at all, and remove old ones.

    The state of both random generators is part of it. Save between two steps; with a loader, between two batches.

    Args:
        folder: the run's folder; made where it does not exist.
        step: how many steps have been made. A checkpoint of the same step is replaced.
        model: its parameters and buffers are saved.
        optimizer: its state and number of steps, so that a schedule goes on too.
        loader: where in the epoch it is, and in which order.
        arrays: other NumPy arrays by name, such as averaged weights.
        extra: anything else that JSON can hold, such as the rows of figures so far.
        keep: how many checkpoints stay, 1 or more.

    Returns:
        The checkpoint's folder.

    Raises:
        CheckpointError: `extra` holds what JSON does not, or `keep` is less than 1. Nothing is written then.
        OSError: the folder cannot be written. Older checkpoints are then still there.

    Example:
        >>> import tempfile
        >>> from needle import nn, optim
        >>> from needle.train import load_checkpoint, save_checkpoint
        >>> model = nn.Linear(4, 2)
        >>> optimizer = optim.Adam(model.parameters())
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = save_checkpoint(folder, step=100, model=model, optimizer=optimizer, extra={"best": 0.5})
        ...     found = load_checkpoint(folder, model=model, optimizer=optimizer)
        >>> path.name, found.step, found.extra
        ('step-00000100', 100, {'best': 0.5})
    """
    if keep < 1:
        raise CheckpointError(f"save_checkpoint: keep is 1 or more, got {keep}")
    files = _encode(step, model, optimizer, loader, arrays, extra)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / f"{_PREFIX}{step:08d}"
    temporary = folder / f".{place.name}.{secrets.token_hex(4)}.tmp"
    temporary.mkdir()
    try:
        for name, data in files.items():
            write_through(temporary / name, data)
        sync_folder(temporary)
        _put(temporary, place)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_folder(folder)
    for old in list_checkpoints(folder)[:-keep]:
        if old != place:
            shutil.rmtree(old, ignore_errors=True)
    return place


def list_checkpoints(folder: str | os.PathLike[str]) -> list[Path]:
    """Return the folders of a run's checkpoints, the oldest first, damaged ones among them."""
    found = [one for one in Path(folder).glob(f"{_PREFIX}*") if one.name.removeprefix(_PREFIX).isdigit()]
    return sorted(found, key=lambda one: int(one.name.removeprefix(_PREFIX)))


def load_checkpoint(
    folder: str | os.PathLike[str],
    *,
    model: Module,
    optimizer: Optimizer | None = None,
    loader: HasState | None = None,
    generators: bool = True,
    check: Callable[[Mapping[str, Any], Mapping[str, Any]], object] | None = None,
) -> Checkpoint:
    """Put back the latest checkpoint of a run that is whole. Training goes on from there bit for bit.

    A checkpoint that is damaged is told by a warning, and the one before it is taken.

    Args:
        folder: the run's folder.
        model: gets the parameters and buffers.
        optimizer: gets its state; made with the same settings and schedule as then.
        loader: gets its place in the epoch; made as then.
        generators: whether the random generators are put back too.
        check: called with `extra` and `arrays` before anything is put back; it may raise.

    Raises:
        CheckpointError: there is no whole checkpoint, or it is one of another model or optimizer. Nothing is changed
            then.
    """
    path, files = _latest(folder)
    if check is not None:
        check(json.loads(files["state.json"])["extra"], _added(path, files))
    return _put_back(path, files, model, optimizer, loader, generators)


def peek_checkpoint(folder: str | os.PathLike[str]) -> Checkpoint:
    """Return what the latest checkpoint that is whole tells without a model: the step, and what the caller had added.

    Raises:
        CheckpointError: there is none.
    """
    path, files = _latest(folder)
    state = json.loads(files["state.json"])
    return Checkpoint(state["step"], path, state["extra"], _added(path, files))


# ---------------------------------------------------------------------------------------------------- writing


def _encode(  # noqa: PLR0917  all that is saved
    step: int,
    model: Module,
    optimizer: Optimizer | None,
    loader: HasState | None,
    arrays: Mapping[str, Any] | None,
    extra: Mapping[str, Any] | None,
) -> dict[str, bytes]:
    """Return the contents of all files by name, the manifest last."""
    state: dict[str, Any] = {"step": step, "generators": random.get_state(), "extra": dict(extra or {})}
    files = {"model.safetensors": safetensors.numpy.save(model.state_dict())}
    if optimizer is not None:
        saved = optimizer.state_dict()
        files["optimizer.safetensors"] = safetensors.numpy.save(saved.pop("arrays"))
        state["optimizer"] = saved
    if arrays:
        files["arrays.safetensors"] = safetensors.numpy.save(dict(arrays))
    if loader is not None:
        place = loader.state_dict()
        order = place["order"]
        state["loader"] = {**place, "order": None if order is None else [int(index) for index in order]}
    try:
        files["state.json"] = json.dumps(state, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"save_checkpoint: JSON cannot hold what is to be saved: {error}") from None
    sums = {name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in files.items()}
    files["manifest.json"] = json.dumps({"format": _FORMAT, "files": sums}, indent=1).encode()
    return files


def _put(temporary: Path, place: Path) -> None:
    """Rename a folder into place; what is there makes way first, and comes back where that fails."""
    if not place.exists():
        os.rename(temporary, place)  # noqa: PTH104  one seam for tests that make the rename fail
        return
    aside = place.with_name(f".{place.name}.{secrets.token_hex(4)}.old")
    place.rename(aside)
    try:
        os.rename(temporary, place)  # noqa: PTH104
    except BaseException:
        aside.rename(place)
        raise
    shutil.rmtree(aside, ignore_errors=True)


# ---------------------------------------------------------------------------------------------------- reading


def _latest(folder: str | os.PathLike[str]) -> tuple[Path, dict[str, bytes]]:
    """Return the latest checkpoint that is whole, and its files; warn of those after it that are not."""
    faults: list[str] = []
    for path in reversed(list_checkpoints(folder)):
        try:
            files = _read(path)
        except CheckpointError as error:
            faults.append(str(error))
            continue
        for fault in faults:
            warnings.warn(f"{fault}; {path.name} is taken instead", stacklevel=3)
        return path, files
    if faults:
        raise CheckpointError(f"no checkpoint in {folder} is whole:\n    " + "\n    ".join(faults))
    raise CheckpointError(f"there is no checkpoint in {folder}")


def _read(path: Path) -> dict[str, bytes]:
    """Return a checkpoint's files, each of which is what the manifest says.

    Raises:
        CheckpointError: one is not, or there is no manifest that can be read.
    """
    try:
        manifest = json.loads((path / "manifest.json").read_bytes())
        if manifest["format"] != _FORMAT:
            raise CheckpointError(f"{path / 'manifest.json'} has the format {manifest['format']}, not {_FORMAT}")
        sums = dict(manifest["files"])
        return dict(_checked(path, sums))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is not whole: {type(error).__name__}: {error}") from None


def _checked(path: Path, sums: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, bytes]]:
    known = {"model.safetensors", "optimizer.safetensors", "arrays.safetensors", "state.json"}
    if not {"model.safetensors", "state.json"} <= sums.keys() <= known:
        raise CheckpointError(f"{path / 'manifest.json'} names the files {', '.join(sorted(sums))}")
    for name, expected in sums.items():
        data = (path / name).read_bytes()
        if len(data) != expected["bytes"] or hashlib.sha256(data).hexdigest() != expected["sha256"]:
            raise CheckpointError(f"{path / name} is damaged: its SHA-256 is not that of the manifest")
        yield name, data


def _put_back(  # noqa: PLR0917  all that is put back
    path: Path,
    files: Mapping[str, bytes],
    model: Module,
    optimizer: Optimizer | None,
    loader: HasState | None,
    generators: bool,
) -> Checkpoint:
    state = json.loads(files["state.json"])
    for name, wanted in (("optimizer", optimizer), ("loader", loader)):
        if wanted is not None and name not in state:
            raise CheckpointError(f"{path} was saved without the state of its {name}")
    before = model.state_dict()
    try:
        model.load_state_dict(_arrays(path, "model.safetensors", files))
        if optimizer is not None:
            arrays = _arrays(path, "optimizer.safetensors", files)
            optimizer.load_state_dict({**state["optimizer"], "arrays": arrays})
    except BaseException:
        model.load_state_dict(before)
        raise
    if loader is not None:
        loader.load_state_dict(state["loader"])
    if generators:
        random.set_state(state["generators"])
    return Checkpoint(state["step"], path, state["extra"], _added(path, files))


def _added(path: Path, files: Mapping[str, bytes]) -> dict[str, Any]:
    return _arrays(path, "arrays.safetensors", files) if "arrays.safetensors" in files else {}


def _arrays(path: Path, name: str, files: Mapping[str, bytes]) -> dict[str, Any]:
    try:
        return dict(safetensors.numpy.load(files[name]))
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path / name} is not a safetensors file that can be read: {error}") from None
