"""What `needle train` does whatever it trains: seeds, callbacks, going on with a run, leaving its folder tidy."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

import needle
from needle.errors import CheckpointError, SettingError
from needle.train import (
    Batches,
    Callback,
    Checkpoints,
    LayerStatistics,
    MetricsLog,
    Progress,
    Row,
    TensorBoard,
    Trainer,
    list_checkpoints,
    peek_checkpoint,
)

__all__ = [
    "NOT_KEPT",
    "callbacks",
    "recipe_options",
    "remove_checkpoints",
    "resumed_options",
    "run_trainer",
    "seed_run",
    "settings",
]

# Options that say how the command runs, not what it makes.
NOT_KEPT = {"run", "parser", "debug", "data_dir", "workers", "resume"}
# Options that change what one sees of a run, and not what it makes.
_SEEING = {"checkpoint_steps", "tensorboard", "layer_statistics"}


def seed_run(seed: int) -> None:
    """Seed the generator that everything draws from: NumPy's global one."""
    needle.seed(None)
    np.random.seed(seed)


def settings(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of a trainer's settings that have an option of the same name."""
    names = ("accumulate", "clip_norm", "precision", "average_decay")
    return {**{name: options[name] for name in names}, "progress": False}


def callbacks(console: Console, options: Mapping[str, Any], folder: Path, unit: str | None = None) -> list[Callback]:
    """Return what is done beside training, as the options say."""
    kept = {name: value for name, value in options.items() if name not in NOT_KEPT}
    found: list[Callback] = [
        Progress(console, unit),
        MetricsLog(folder / "metrics.jsonl"),
        Checkpoints(folder, every_steps=options["checkpoint_steps"], extra={"options": kept}),
    ]
    if options["tensorboard"]:
        found.append(TensorBoard(folder / "tensorboard"))
    if options["layer_statistics"]:
        found.append(LayerStatistics(folder / "layers.jsonl", options["layer_statistics"]))
    return found


def run_trainer(  # noqa: PLR0917  all that a run is made of
    console: Console,
    trainer: Trainer,
    options: Mapping[str, Any],
    folder: Path,
    train: Batches,
    evaluations: Mapping[str, Batches],
) -> list[Row]:
    """Train to the last epoch, from the beginning or from where the run was stopped; return every epoch's figures."""
    if options["resume"] is not None:
        trainer.load(folder, train)
        within = f" and {trainer.running.batches} batches of the next" if trainer.running.batches else ""
        console.print(f"going on after epoch {trainer.epoch}{within}, step {trainer.optimizer.t}")
    return trainer.fit(train, evaluations, epochs=options["epochs"])


def resumed_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a run that goes on.

    Raises:
        SettingError: other options are given, which would make another run of it.
        CheckpointError: there is no checkpoint in the folder, or not one of `needle train`.
    """
    free = {"resume", "data_dir", "workers", "run", "parser", "debug"}
    others = [name for name, value in given.items() if name not in free and value not in (None, 0)]
    if others:
        raise SettingError(
            f"--{others[0].replace('_', '-')}: --resume goes on with the options that the run began with"
        )
    saved = peek_checkpoint(given["resume"]).extra.get("user", {})
    if "options" not in saved:
        raise CheckpointError(f"the checkpoints in {given['resume']} are not those of `needle train`")
    own = {name: given[name] for name in ("data_dir", "workers", "resume")}
    return {**given, **saved["options"], **own}


def recipe_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return those options that say how the model was made."""
    left_out = {*NOT_KEPT, *_SEEING, "output_dir", "text", "tokens", "seq_len"}
    return {name: value for name, value in sorted(options.items()) if name not in left_out}


def remove_checkpoints(folder: Path) -> None:
    """Remove what nobody goes on with any more: the run is over."""
    for checkpoint in list_checkpoints(folder):
        shutil.rmtree(checkpoint, ignore_errors=True)
