"""`needle evaluate`."""

from __future__ import annotations

from typing import Any

from needle.cli.architectures import ARCHITECTURES, check_classifier
from needle.cli.parser import add_command, whole
from needle.cli.runs import MODEL_OPTIONS, find_model
from needle.cli.show import confusion_table, new_console, percent
from needle.cli.sources import DATASETS, Source, add_data, open_source
from needle.data import DataLoader
from needle.errors import CheckpointError
from needle.train import Recipe, confusion_matrix, load_model, predict_batches

__all__ = ["add_to", "run"]


def add_to(commands: Any) -> None:
    """Add the command, with its options."""
    parser = add_command(
        commands,
        "evaluate",
        run,
        help="measure a saved model on test images",
        description="Measure a saved model on test images: error, loss, and which class is taken for which.",
        epilog="examples:\n  needle evaluate\n  needle evaluate runs/mnist-20260101-120000 --data-dir data/mnist",
    )
    parser.add_argument("model", nargs="?", **MODEL_OPTIONS)
    add_data(parser, f"{', '.join(DATASETS)} (default: the one that the model was trained on)")
    parser.add_argument(
        "--batch-size", type=whole(1), default=1000, metavar="N", help="images at a time (default: 1000)"
    )


def run(arguments: Any) -> int:
    """Measure a saved model on a data set's test images."""
    console = new_console()
    folder = find_model(arguments.model)
    saved = load_model(folder, ARCHITECTURES)
    check_classifier(saved.recipe)
    dataset = arguments.dataset or saved.recipe.dataset
    source = open_source(dataset, arguments.data_dir, console.print)
    _check_same_kind(saved.recipe, source, dataset)
    predictions = predict_batches(saved.model, DataLoader(source.test, arguments.batch_size))
    console.print(f"{folder}, trained on {saved.recipe.dataset}, on {len(source.test):,} test images of {source.name}:")
    console.print(f"error {percent(predictions.error)}   loss {predictions.loss:.4f}")
    counts = confusion_matrix(predictions.labels, predictions.classes, len(source.class_names))
    console.print(confusion_table(counts, source.class_names))
    return 0


def _check_same_kind(recipe: Recipe, source: Source, dataset: str) -> None:
    if source.image_shape != recipe.input_shape or len(source.class_names) != len(recipe.class_names):
        raise CheckpointError(
            f"the model takes {recipe.input_shape} images of {len(recipe.class_names)} classes, "
            f"and {dataset} has {source.image_shape} images of {len(source.class_names)}"
        )
