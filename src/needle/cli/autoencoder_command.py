"""`needle train --model autoencoder`: a network that says an image in a few numbers, and paints it again."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from needle import nn
from needle.autograd import Tensor, no_grad
from needle.cli.architectures import ARCHITECTURES
from needle.cli.optimization import make_optimizer
from needle.cli.runs import remember_latest
from needle.cli.show import run_time
from needle.cli.sources import Source
from needle.cli.training import callbacks, recipe_options, remove_checkpoints, run_trainer, seed_run, settings
from needle.data import DataLoader
from needle.errors import MissingExtraError, SettingError
from needle.nn.module import evaluating
from needle.ops import sigmoid
from needle.train import Recipe, Row, Trainer, begin_run, curves_png, flat, image_grid_png, save_model, write_file

__all__ = ["run"]

_PAINTED = 10


class PaintingTrainer(Trainer):
    """Trains a model to give back its inputs; what the data say of them is not looked at."""

    def __init__(self, model: nn.Module, optimizer: Any, **options: Any) -> None:
        super().__init__(model, optimizer, lambda outputs, targets: nn.BCEWithLogitsLoss()(*outputs), **options)

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits of the painted pixels, and the pixels."""
        pixels = flat(inputs)
        return self.model(pixels), pixels


def run(console: Console, options: dict[str, Any], source: Source, folder: Path) -> int:
    """Train as the options say, and save the model, its figures and what it paints."""
    if len(source.image_shape) != 2 or any(side % 4 for side in source.image_shape):
        raise SettingError(
            f"--model autoencoder takes grey images whose sides are divisible by 4, {source.name} has "
            f"{source.image_shape}"
        )
    seed_run(options["seed"])
    height, width = source.image_shape
    hyperparameters = {"height": height, "width": width, "code_size": options["code_size"]}
    model = ARCHITECTURES["Autoencoder"](**hyperparameters)
    console.print(f"{source.describe()}; an image is said in {options['code_size']} numbers")
    console.print(f"Autoencoder, {model.num_parameters():,} parameters; {options['optimizer']}, seed {options['seed']}")
    rows = _train(console, options, source, model, folder)
    last = rows[-1]
    recipe = Recipe(
        architecture="Autoencoder",
        hyperparameters=hyperparameters,
        input_shape=source.image_shape,
        class_names=source.class_names,
        dataset=source.name,
        options=recipe_options(options),
        seed=options["seed"],
        results={name: last[name] for name in ("epoch", "step", "train_loss", "test_loss")},
    )
    folder.mkdir(parents=True, exist_ok=True)
    note = _draw(folder, rows, source, model)
    save_model(folder, model, recipe)
    remove_checkpoints(folder)
    remember_latest(folder)
    console.print(f"{run_time(rows)}. Saved in {folder}:", markup=False)
    console.print(note, markup=False)
    return 0


def _train(console: Console, options: dict[str, Any], source: Source, model: nn.Module, folder: Path) -> list[Row]:
    source.train.transforms = source.augmentation if options["augment"] else None
    train = DataLoader(source.train, options["batch_size"], shuffle=True, num_workers=options["workers"])
    optimizer = make_optimizer(options, model.parameters(), math.ceil(len(train) / options["accumulate"]))
    begin_run(folder, options, "train")
    trainer = PaintingTrainer(
        model, optimizer, callbacks=callbacks(console, options, folder, "images"), **settings(options)
    )
    rows = run_trainer(console, trainer, options, folder, train, {"test": DataLoader(source.test, 1000)})
    if trainer.average is not None:
        model.load_state_dict(trainer.average.state_dict(), strict=False)
    return rows


def _draw(folder: Path, rows: list[Row], source: Source, model: nn.Module) -> str:
    """Draw the curves, and test images above what the model makes of them; return what is to be said of it."""
    images = source.test_images()[:_PAINTED]
    with evaluating(model), no_grad():
        logits = model(Tensor(images.reshape(len(images), -1), dtype="float32", requires_grad=False))
        painted = sigmoid(logits).numpy().reshape(images.shape)
    title = f"{source.name}: {rows[-1]['test_loss']:.4f} nats a pixel after {len(rows)} epochs"
    try:
        pictures = {
            "curves.png": curves_png(rows, title),
            "painted.png": image_grid_png(np.concatenate([images, painted]), columns=len(images)),
        }
    except MissingExtraError as error:
        return f"no pictures: {error}"
    for name, png in pictures.items():
        write_file(folder / name, png)
    return "  painted.png    test images, and below what the model makes of them"
