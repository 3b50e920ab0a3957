"""`needle report`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

import needle
from needle import nn, ops, optim
from needle.autograd import Tensor
from needle.cli.architectures import ARCHITECTURES
from needle.cli.parser import add_command
from needle.cli.runs import find_model
from needle.cli.sample_command import beginning, read_tokenizer
from needle.cli.show import new_console, percent
from needle.cli.sources import open_source
from needle.data import DataLoader
from needle.errors import CheckpointError, DataError
from needle.train import (
    Recipe,
    Report,
    ReportTable,
    Row,
    SavedModel,
    TokenSampler,
    flat,
    load_model,
    predict_batches,
    read_run_record,
    report_html,
    sample_tokens,
    write_file,
)
from needle.train.run_record import RUN_FILE

__all__ = ["add_to", "run"]

_SAMPLE_LENGTH = 500


def add_to(commands: Any) -> None:
    """Add the command, with its options."""
    parser = add_command(
        commands,
        "report",
        run,
        help="write a page about a run that opens in any browser",
        description="Write one page of HTML about a finished run: curves, what is taken for what, the worst images or\n"
        "a sample of text, the model's layers, where a step's time goes, and every option. It needs no network.",
        epilog="examples:\n  needle report\n  needle report runs/mnist-20260101-120000 --data-dir data/mnist",
    )
    parser.add_argument("run_folder", nargs="?", metavar="RUN", help="a run's folder (default: the latest)")
    parser.add_argument("--output", metavar="FILE", help="where to write it (default: report.html in the run's folder)")
    parser.add_argument("--data-dir", metavar="DIR", help="the folder with the data set's files, as for train")
    parser.add_argument("--no-profile", action="store_true", help="do not measure where a training step's time goes")


def run(arguments: Any) -> int:
    """Write a page of HTML about a run."""
    console = new_console()
    folder = find_model(arguments.run_folder)
    target = Path(arguments.output or folder / "report.html")
    saved = load_model(folder, ARCHITECTURES)
    rows = _read_rows(folder / "metrics.jsonl")
    is_text = (folder / "tokenizer.json").exists()
    parts: dict[str, Any] = {}
    if is_text:
        parts = _text_parts(folder, saved)
    elif saved.recipe.architecture != "Autoencoder":
        parts = _image_parts(saved, arguments.data_dir, console.print)
    report = Report(
        title=folder.resolve().name,
        lead=_lead(saved),
        rows=rows,
        highlights=_highlights(rows),
        settings={**_settings(saved.recipe), **_circumstances(folder)},
        footer=f"Written by Needle {needle.__version__}. The weights are in {folder.resolve().name}.",
        model=_model_table(saved, is_text),
        profile=None if arguments.no_profile else _profile(saved, is_text),
        **parts,
    )
    write_file(target, report_html(report))
    console.print(f"written to {target}: open it in a browser", markup=False)
    return 0


def _read_rows(path: Path) -> list[Row]:
    """Return every epoch's figures.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from None
    if not rows or not all(isinstance(row, dict) and "epoch" in row for row in rows):
        raise CheckpointError(f"{path} holds no epochs' figures")
    return rows


def _lead(saved: SavedModel[nn.Module]) -> str:
    recipe = saved.recipe
    kind = recipe.options.get("model", recipe.architecture)
    return f"{kind} with {saved.model.num_parameters():,} parameters, trained on {recipe.dataset}"


def _highlights(rows: list[Row]) -> list[tuple[str, str]]:
    last, seconds = rows[-1], sum(row["seconds"] for row in rows)
    shown = [("test error", percent(last["test_error"]))] if "test_error" in last else []
    shown += [(name.replace("_", " "), f"{last[name]:.4f}") for name in ("test_loss", "valid_loss") if name in last]
    shown += [("perplexity", f"{last['perplexity']:.2f}")] if "perplexity" in last else []
    return [
        *shown,
        ("epochs", str(len(rows))),
        ("time", f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 60:.0f} min"),
    ]


def _settings(recipe: Recipe) -> dict[str, str]:
    shown = {name: _show(value) for name, value in recipe.options.items() if value is not None}
    hyperparameters = {f"model: {name}": _show(value) for name, value in recipe.hyperparameters.items()}
    versions = {f"version: {name}": value for name, value in recipe.versions.items()}
    return {**shown, "seed": _show(recipe.seed), **hyperparameters, **versions}


def _circumstances(folder: Path) -> dict[str, str]:
    """Return where and from what the run was started, where it has a record."""
    if not (folder / RUN_FILE).exists():
        return {}
    record = read_run_record(folder)
    changed = ", with changes that were not committed" if record.dirty else ""
    told = {
        "started": record.started,
        "command line": " ".join(record.command_line),
        "git commit": f"{record.commit}{changed}" if record.commit else None,
        "machine": f"{record.processor}, {record.cores} processors, {record.system}",
    }
    return {name: value for name, value in told.items() if value is not None}


def _show(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


# ------------------------------------------------------------------------------------------- images and texts


def _image_parts(saved: SavedModel[nn.Module], data_dir: str | None, say: Any) -> dict[str, Any]:
    """Return what is told of a model that classifies images."""
    try:
        source = open_source(saved.recipe.dataset, data_dir, say)
    except DataError as error:
        say(f"no confusion matrix and no images: {error}")
        return {}
    predictions = predict_batches(saved.model, DataLoader(source.test, 1000))
    return {"class_names": source.class_names, "predictions": predictions, "images": source.test_images()}


def _text_parts(folder: Path, saved: SavedModel[nn.Module]) -> dict[str, Any]:
    """Return what is told of a language model: a text that it writes."""
    tokenizer = read_tokenizer(folder)
    prompt = tokenizer.encode(beginning(tokenizer)).astype(np.int64)
    sampler = TokenSampler(0.8, rng=np.random.default_rng(0))
    tokens = list(sample_tokens(saved.model, prompt, _SAMPLE_LENGTH, sampler))
    return {"sample": tokenizer.decode(tokens)}


# ---------------------------------------------------------------------------------------- the model, its time


def _inputs(saved: SavedModel[nn.Module], is_text: bool, batch_size: int) -> tuple[Tensor, Tensor]:
    """Return a batch such as the model was trained on: inputs, and targets."""
    if not is_text:
        images = Tensor(np.zeros((batch_size, *saved.recipe.input_shape), np.float32), requires_grad=False)
        return flat(images), Tensor(np.zeros(batch_size, np.int64), requires_grad=False)
    (length,) = saved.recipe.input_shape
    shape = (batch_size, length) if hasattr(saved.model, "stream") else (length, batch_size)
    ids, targets = (Tensor(np.zeros(size, np.int64), requires_grad=False) for size in (shape, batch_size * length))
    return ids, targets


def _batch_size(recipe: Recipe) -> int:
    size = recipe.options.get("batch_size", 1)
    return size if isinstance(size, int) and size > 0 else 1


def _model_table(saved: SavedModel[nn.Module], is_text: bool) -> ReportTable:
    size = _batch_size(saved.recipe)
    found = needle.summary(saved.model, _inputs(saved, is_text, size)[0])
    heads = ("module", "type", "output shape", "parameters", "FLOPs", "activations")
    caption = f"FLOPs and activations of a forward pass of {size} {'texts' if is_text else 'images'}."
    return ReportTable(heads, [row.cells() for row in found.rows], caption, "named")


def _profile(saved: SavedModel[nn.Module], is_text: bool) -> ReportTable:
    """Time a training step's kernels, with Adam, on this machine."""
    model, size = saved.model, _batch_size(saved.recipe)
    optimizer = optim.Adam(model.parameters())

    @needle.jit
    def step(inputs: Tensor, targets: Tensor) -> Tensor:
        optimizer.reset_grad()
        outputs: Any = model(inputs)
        logits = outputs[0] if isinstance(outputs, tuple) else outputs
        if saved.recipe.architecture == "Autoencoder":
            loss = nn.BCEWithLogitsLoss()(logits, inputs)
        else:
            loss = nn.SoftmaxLoss()(ops.reshape(logits, (-1, logits.shape[-1])), targets)
        loss.backward()
        optimizer.step()
        return loss

    model.train()
    profile = step.lower(*_inputs(saved, is_text, size)).profile(repeats=10)
    rows = profile.rows()[:40]
    left = len(profile.kernels) - len(rows)
    caption = (
        f"A step with Adam on a batch of {size} takes {profile.seconds * 1e3:.3g} ms on this machine, with "
        f"{profile.threads} threads; kernels by themselves, the slowest first"
    )
    heads = ("kernel", "what", "µs", "of sum", "GFLOP/s", "GB/s", "of limit")
    cells = [row[: len(heads)] for row in rows]  # the source lines are this file's
    return ReportTable(heads, cells, f"{caption}{f'; {left} more are left out' if left else ''}.", "named")
