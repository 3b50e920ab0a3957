"""`needle train`."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

import needle
from needle import nn
from needle.cli import language_command
from needle.cli.architectures import ARCHITECTURES
from needle.cli.defaults import resolve
from needle.cli.optimization import make_optimizer
from needle.cli.runs import new_run_folder, remember_latest
from needle.cli.show import EpochReport, figures_table, new_console, percent
from needle.cli.sources import Source, open_source
from needle.data import DataLoader
from needle.errors import CheckpointError, MissingExtraError, SettingError
from needle.train import (
    Predictions,
    Recipe,
    Row,
    begin_run,
    check_writable,
    curves_png,
    fit,
    list_checkpoints,
    load_checkpoint,
    metrics_jsonl,
    peek_checkpoint,
    predict_batches,
    save_checkpoint,
    save_model,
    worst_png,
    write_file,
)

__all__ = ["Interrupted", "run"]

# Options that say how the command runs, not what it makes.
_NOT_KEPT = {"run", "parser", "debug", "data_dir", "workers", "resume"}
_NOT_IN_RECIPE = _NOT_KEPT | {"output_dir", "text", "tokens", "seq_len"}


class Interrupted(KeyboardInterrupt):
    """The user has stopped a run; `folder` is where it can be resumed, None where nothing was saved."""

    def __init__(self, folder: str | None) -> None:
        super().__init__()
        self.folder = folder


def run(arguments: Any) -> int:
    """Train as the options say, and save the model, its figures and the pictures."""
    if arguments.text is not None:
        return language_command.run(arguments)
    console = new_console()
    options, folder, rows = _begun(vars(arguments)) if arguments.resume is not None else _new(vars(arguments))
    check_writable(folder)
    source = open_source(options["dataset"], options["data_dir"], console.print)
    _seed(options["seed"])
    architecture, hyperparameters = _ARCHITECTURE_OF[options["model"]](options, source)
    model = ARCHITECTURES[architecture](**hyperparameters)
    _announce(console, options, source, model)
    predictions = _train(console, options, source, model, folder, rows)
    recipe = _recipe(options, source, architecture, hyperparameters, rows[-1])
    pictures, note = _draw(recipe, rows, predictions, source)
    _write(folder, recipe, model, rows, pictures)
    for checkpoint in list_checkpoints(folder):
        shutil.rmtree(checkpoint, ignore_errors=True)  # the run is over
    _conclude(console, folder, rows, note)
    return 0


def _new(given: dict[str, Any]) -> tuple[dict[str, Any], Path, list[Row]]:
    """Return the options of a new run, its folder, and that it has no rows yet."""
    options = resolve(given)
    return options, Path(options["output_dir"] or new_run_folder(options["dataset"])), []


def _begun(given: dict[str, Any]) -> tuple[dict[str, Any], Path, list[Row]]:
    """Return the options of a run that goes on, its folder, and its rows so far.

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
    folder = Path(given["resume"])
    saved = peek_checkpoint(folder).extra
    if not {"options", "rows"} <= saved.keys():
        raise CheckpointError(f"the checkpoints in {folder} are not those of `needle train`")
    own = {name: given[name] for name in ("data_dir", "workers")}
    return {**given, **saved["options"], **own}, folder, list(saved["rows"])


def _seed(seed: int) -> None:
    """Seed the generator that everything draws from: NumPy's global one."""
    needle.seed(None)
    np.random.seed(seed)


def _mlp(options: dict[str, Any], source: Source) -> tuple[str, dict[str, Any]]:
    return "MLPResNet", {
        "dim": int(np.prod(source.image_shape)),
        "hidden_dim": options["hidden_dim"],
        "num_blocks": options["num_blocks"],
        "num_classes": len(source.class_names),
        "norm": options["norm"],
        "drop_prob": options["dropout"],
    }


def _convnet(options: dict[str, Any], source: Source) -> tuple[str, dict[str, Any]]:
    height, width = source.image_shape
    classes = len(source.class_names)
    return "ConvNet", {"height": height, "width": width, "num_classes": classes, "dropout": options["dropout"]}


# From a name to the architecture and what it is made with.
_ARCHITECTURE_OF: dict[str, Callable[[dict[str, Any], Source], tuple[str, dict[str, Any]]]] = {
    "mlp": _mlp,
    "convnet": _convnet,
}


def _announce(console: Console, options: dict[str, Any], source: Source, model: nn.Module) -> None:
    height, width = source.image_shape
    count = sum(parameter.size for parameter in model.parameters())
    console.print(
        f"{options['dataset']}: {len(source.train):,} training and {len(source.test):,} test images of "
        f"{width} x {height}, {len(source.class_names)} classes"
    )
    name = type(model).__name__
    if options["model"] == "mlp":
        name += f": {options['num_blocks']} blocks, {options['hidden_dim']} wide, {options['norm']} norm"
    console.print(f"{name}, {count:,} parameters; {options['optimizer']}, seed {options['seed']}")


# --------------------------------------------------------------------------------------------------- training


def _train(  # noqa: PLR0917  what a run is made of
    console: Console, options: dict[str, Any], source: Source, model: nn.Module, folder: Path, rows: list[Row]
) -> Predictions:
    """Train and append a row for each epoch, after each of which the run may be resumed."""
    train_loader, test_loader = _loaders(options, source)
    optimizer = make_optimizer(options, model.parameters(), len(train_loader))
    parts: dict[str, Any] = {"model": model, "optimizer": optimizer, "loader": train_loader}
    if rows:
        load_checkpoint(folder, **parts)
        console.print(f"going on after epoch {rows[-1]['epoch']}")
    begin_run(folder, options, "train")
    kept = {name: value for name, value in options.items() if name not in _NOT_KEPT}
    with EpochReport(console, options["epochs"], len(source.train)) as report:
        epochs = fit(
            model,
            optimizer,
            nn.SoftmaxLoss(label_smoothing=options["label_smoothing"]),
            train_loader,
            test_loader,
            epochs=options["epochs"],
            test_loss_fn=nn.SoftmaxLoss(),
            after_batch=report.after_batch if report.is_live else None,
            first_epoch=len(rows) + 1,
        )
        try:
            for row in epochs:
                rows.append(row)
                save_checkpoint(folder, step=row["step"], extra={"options": kept, "rows": rows}, **parts)
                report.after_epoch(row)
        except KeyboardInterrupt:
            raise Interrupted(str(folder) if list_checkpoints(folder) else None) from None
    return predict_batches(model, test_loader)


def _loaders(options: dict[str, Any], source: Source) -> tuple[DataLoader, DataLoader]:
    source.train.transforms = source.augmentation if options["augment"] else None
    train = DataLoader(source.train, options["batch_size"], shuffle=True, num_workers=options["workers"])
    return train, DataLoader(source.test, 1000)


# ---------------------------------------------------------------------------------------------------- results


def _recipe(
    options: dict[str, Any], source: Source, architecture: str, hyperparameters: dict[str, Any], last: Row
) -> Recipe:
    measured = ("epoch", "step", "train_loss", "train_error", "test_loss", "test_error")
    return Recipe(
        architecture=architecture,
        hyperparameters=hyperparameters,
        input_shape=source.image_shape,
        class_names=source.class_names,
        dataset=options["dataset"],
        options={name: value for name, value in sorted(options.items()) if name not in _NOT_IN_RECIPE},
        seed=options["seed"],
        results={name: last[name] for name in measured},
    )


def _draw(recipe: Recipe, rows: list[Row], predictions: Predictions, source: Source) -> tuple[dict[str, bytes], str]:
    """Return the run's pictures by file name, or none of them and a line that says how to get them."""
    title = f"{recipe.dataset}: test error {percent(rows[-1]['test_error'])} after {len(rows)} epochs"
    worst = "What the model is most wrong about: what it is → what it was taken for"
    try:
        return {
            "curves.png": curves_png(rows, title),
            "worst.png": worst_png(source.test_images(), predictions, source.class_names, title=worst),
        }, ""
    except MissingExtraError as error:
        return {}, f"no pictures: {error}"


def _write(folder: Path, recipe: Recipe, model: nn.Module, rows: list[Row], pictures: dict[str, bytes]) -> None:
    """Write the run's files, the model last: a folder with a model in it is a run that was finished."""
    folder.mkdir(parents=True, exist_ok=True)
    write_file(folder / "metrics.jsonl", metrics_jsonl(rows))
    for name, png in pictures.items():
        write_file(folder / name, png)
    save_model(folder, model, recipe)


_CONTENTS = {
    "model.json": "how the model was made; its weights lie beside it",
    "metrics.jsonl": "every epoch's figures",
    "curves.png": "loss and error, epoch by epoch",
    "worst.png": "the test images that the model is most wrong about",
}


def _conclude(console: Console, folder: Path, rows: list[Row], note: str) -> None:
    """Print the table of results, where the files are, and what to do next."""
    last = rows[-1]
    figures = [
        ("error", percent(last["train_error"]), percent(last["test_error"])),
        ("loss", f"{last['train_loss']:.4f}", f"{last['test_loss']:.4f}"),
    ]
    console.print(figures_table(figures))
    console.print(
        f"{sum(row['seconds'] for row in rows):.1f} s for {len(rows)} epochs. Saved in {folder}:", markup=False
    )
    for name, contents in _CONTENTS.items():
        if (folder / name).exists():
            console.print(f"  {name:14} {contents}")
    if note:
        console.print(note, markup=False)
    is_latest = remember_latest(folder)
    evaluate, predict = ("", "") if is_latest else (f" {folder}", f" --model {folder}")
    console.print(f"Use it: needle evaluate{evaluate}, or needle predict{predict} IMAGE", markup=False)
