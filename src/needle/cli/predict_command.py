"""`needle predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from needle.autograd import Tensor
from needle.cli.architectures import ARCHITECTURES, check_classifier
from needle.cli.images import Picture, prepare, prepare_colour, read_colour, read_grey
from needle.cli.parser import add_command
from needle.cli.runs import MODEL_OPTIONS, find_model
from needle.cli.show import new_console, percent, probability_table
from needle.cli.sources import ink_box
from needle.train import load_model, predict_probabilities
from needle.train.recipe import Recipe

__all__ = ["add_to", "run"]


def add_to(commands: Any) -> None:
    """Add the command, with its options."""
    parser = add_command(
        commands,
        "predict",
        run,
        help="say what pictures show",
        description="Say what pictures show, with the probability of each class. Pictures are PNG, JPEG and whatever\n"
        "else Pillow reads, or NumPy's .npy; they are made grey, brought to the model's size and to the training\n"
        "data's polarity, and each step is told.",
        epilog="examples:\n  needle predict scan.png\n"
        "  needle predict --model runs/mnist-20260101-120000 a.png b.jpg c.npy",
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="a picture file")
    parser.add_argument("--model", **MODEL_OPTIONS)
    parser.add_argument("--as-is", action="store_true", help="do not crop, centre or invert; only make grey and resize")


def run(arguments: Any) -> int:
    """Say what pictures show. All of them are read before anything is printed, so that a bad one is seen first."""
    console = new_console()
    saved = load_model(find_model(arguments.model), ARCHITECTURES)
    check_classifier(saved.recipe)
    paths = [Path(name) for name in arguments.images]
    pictures = [_prepared(path, saved.recipe, arguments.as_is) for path in paths]
    for path, picture in zip(paths, pictures, strict=True):
        probabilities = predict_probabilities(saved.model, _as_batch(picture, saved.recipe))[0]
        best = int(probabilities.argmax())
        console.print(f"{path}: {saved.recipe.class_names[best]} ({percent(float(probabilities[best]))})", markup=False)
        for step in picture.steps:
            console.print(f"  {step}", markup=False)
        console.print(probability_table(probabilities, saved.recipe.class_names))
    return 0


def _prepared(path: Path, recipe: Recipe, as_is: bool) -> Picture:
    if len(recipe.input_shape) == 3:
        picture = prepare_colour(read_colour(path), recipe.input_shape[1:])
        return Picture(picture.pixels.transpose(2, 0, 1), picture.steps)
    height, width = recipe.input_shape
    return prepare(read_grey(path), (height, width), ink_box(recipe.dataset), as_is=as_is)


def _as_batch(picture: Picture, recipe: Recipe) -> Tensor:
    pixels = (picture.pixels - recipe.input_mean) / recipe.input_std
    return Tensor(pixels.reshape(1, -1), dtype="float32", requires_grad=False)
