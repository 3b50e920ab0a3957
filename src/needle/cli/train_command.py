"""`needle train`."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from needle import nn
from needle.autograd import Tensor
from needle.cli import autoencoder_command, language_command
from needle.cli.architectures import ARCHITECTURES
from needle.cli.defaults import resolve
from needle.cli.optimization import make_optimizer
from needle.cli.runs import new_run_folder, remember_latest
from needle.cli.show import figures_table, new_console, percent, run_time
from needle.cli.sources import Source, open_source
from needle.cli.train_options import add_train
from needle.cli.training import (
    callbacks,
    recipe_options,
    remove_checkpoints,
    resumed_options,
    run_trainer,
    seed_run,
    settings,
)
from needle.data import DataLoader
from needle.errors import MissingExtraError, SettingError
from needle.train import (
    ErrorRate,
    Predictions,
    Recipe,
    Row,
    Trainer,
    begin_run,
    check_writable,
    curves_png,
    flat,
    predict_batches,
    save_model,
    worst_png,
    write_file,
)

__all__ = ["add_to", "run"]


def add_to(commands: Any) -> None:
    """Add the command, with its options."""
    add_train(commands, run)


def run(arguments: Any) -> int:
    """Train as the options say, and save the model, its figures and the pictures."""
    given = vars(arguments)
    options = resolve(given) if arguments.text is None and arguments.resume is None else None
    if options is None:
        options = given if arguments.resume is None else resumed_options(given)
    if options["text"] is not None:
        return language_command.run(arguments)
    console = new_console()
    folder = Path(options["resume"] or options["output_dir"] or new_run_folder(options["dataset"]))
    check_writable(folder)
    source = open_source(options["dataset"], options["data_dir"], console.print)
    if options["model"] == "autoencoder":
        return autoencoder_command.run(console, options, source, folder)
    seed_run(options["seed"])
    architecture, hyperparameters = _ARCHITECTURE_OF[options["model"]](options, source)
    model = ARCHITECTURES[architecture](**hyperparameters)
    _announce(console, options, source, model)
    rows, predictions = _train(console, options, source, model, folder)
    recipe = _recipe(options, source, architecture, hyperparameters, rows[-1])
    pictures, note = _draw(recipe, rows, predictions, source)
    _write(folder, recipe, model, pictures)
    remove_checkpoints(folder)
    _conclude(console, folder, rows, note)
    return 0


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
    if len(source.image_shape) != 2:
        raise SettingError(f"--model convnet takes grey images, those of {source.name} are in colour: take resnet9")
    height, width = source.image_shape
    classes = len(source.class_names)
    return "ConvNet", {"height": height, "width": width, "num_classes": classes, "dropout": options["dropout"]}


def _resnet9(_: dict[str, Any], source: Source) -> tuple[str, dict[str, Any]]:
    if source.image_shape != (3, 32, 32) or len(source.class_names) != 10:
        raise SettingError(
            f"--model resnet9 takes 32 x 32 images in colour of 10 classes (cifar-10, shapes), {source.name} has "
            f"{source.image_shape} of {len(source.class_names)}"
        )
    return "ResNet9", {}


# From a name to the architecture and what it is made with.
_ARCHITECTURE_OF: dict[str, Callable[[dict[str, Any], Source], tuple[str, dict[str, Any]]]] = {
    "mlp": _mlp,
    "convnet": _convnet,
    "resnet9": _resnet9,
}


def _announce(console: Console, options: dict[str, Any], source: Source, model: nn.Module) -> None:
    count = sum(parameter.size for parameter in model.parameters())
    console.print(source.describe())
    name = type(model).__name__ if options["model"] != "resnet9" else "ResNet9"
    if options["model"] == "mlp":
        name += f": {options['num_blocks']} blocks, {options['hidden_dim']} wide, {options['norm']} norm"
    console.print(f"{name}, {count:,} parameters; {options['optimizer']}, seed {options['seed']}")


# --------------------------------------------------------------------------------------------------- training


class ImageTrainer(Trainer):
    """Gives models images as rows; those that want pixels in their places put them there again."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the model's logits."""
        logits: Tensor = self.model(flat(inputs))
        return logits


def _train(
    console: Console, options: dict[str, Any], source: Source, model: nn.Module, folder: Path
) -> tuple[list[Row], Predictions]:
    """Train, and return every epoch's figures and what the model says of the test images."""
    train_loader, test_loader = _loaders(options, source)
    steps = math.ceil(len(train_loader) / options["accumulate"])
    trainer = ImageTrainer(
        model,
        make_optimizer(options, model.parameters(), steps),
        nn.SoftmaxLoss(label_smoothing=options["label_smoothing"]),
        metrics=[ErrorRate()],
        evaluation_loss_fn=nn.SoftmaxLoss(),
        callbacks=callbacks(console, options, folder, "images"),
        **settings(options),
    )
    begin_run(folder, options, "train")
    rows = run_trainer(console, trainer, options, folder, train_loader, {"test": test_loader})
    if trainer.average is not None:
        model.load_state_dict(trainer.average.state_dict(), strict=False)
    return rows, predict_batches(model, test_loader)


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
        dataset=source.name,
        options=recipe_options(options),
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


def _write(folder: Path, recipe: Recipe, model: nn.Module, pictures: dict[str, bytes]) -> None:
    """Write the run's files, the model last: a folder with a model in it is a run that was finished."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, png in pictures.items():
        write_file(folder / name, png)
    save_model(folder, model, recipe)


_CONTENTS = {
    "model.json": "how the model was made; its weights lie beside it",
    "metrics.jsonl": "every epoch's figures",
    "curves.png": "loss and error, epoch by epoch",
    "worst.png": "the test images that the model is most wrong about",
    "layers.jsonl": "gradients and activations of each layer",
    "tensorboard": "event files for TensorBoard",
}


def _conclude(console: Console, folder: Path, rows: list[Row], note: str) -> None:
    """Print the table of results, where the files are, and what to do next."""
    last = rows[-1]
    figures = [
        ("error", percent(last["train_error"]), percent(last["test_error"])),
        ("loss", f"{last['train_loss']:.4f}", f"{last['test_loss']:.4f}"),
    ]
    console.print(figures_table(figures))
    console.print(f"{run_time(rows)}. Saved in {folder}:", markup=False)
    for name, contents in _CONTENTS.items():
        if (folder / name).exists():
            console.print(f"  {name:14} {contents}")
    if note:
        console.print(note, markup=False)
    is_latest = remember_latest(folder)
    evaluate, predict = ("", "") if is_latest else (f" {folder}", f" --model {folder}")
    console.print(f"Use it: needle evaluate{evaluate}, or needle predict{predict} IMAGE", markup=False)
