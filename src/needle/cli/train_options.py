"""The options of `needle train`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from needle.cli.architectures import NORMS
from needle.cli.defaults import (
    DEFAULTS,
    IMAGE_MODELS,
    LEARNING_RATES,
    MOMENTA,
    TEXT_DEFAULTS,
    TEXT_MODELS,
    WEIGHT_DECAYS,
    resolve_any,
)
from needle.cli.language_command import SHAKESPEARE, TOKENS
from needle.cli.parser import add_command, number, one_of, whole
from needle.cli.sources import DATASETS, add_data

__all__ = ["add_train"]

OPTIMIZERS = tuple(LEARNING_RATES)
SCHEDULES = ("constant", "cosine", "step", "one-cycle")
PRECISIONS = ("float32", "bfloat16", "float16")


def add_train(commands: Any, run: Callable[[Any], int]) -> None:
    """Add the command, which `run` does, with its options."""
    parser = add_command(
        commands,
        "train",
        run,
        help="train a network on images or on a text, and save it",
        description="Train a network on images, or a language model on a text.\n"
        "With no options: on the digits that come with Needle, in seconds.",
        epilog="examples:\n"
        "  needle train\n"
        "  needle train --dataset mnist --data-dir data/mnist --model convnet\n"
        "  needle train --text book.txt --model lstm --epochs 10\n"
        "  needle train --text tinyshakespeare --num-blocks 4 --epochs 8\n"
        "  needle train --dataset cifar-10 --model resnet9\n"
        "  needle train --dataset mnist --model autoencoder\n"
        "  needle train --dataset fashion-mnist --epochs 20 --hidden-dim 512 --seed 7\n"
        "  needle train --optimizer sgd --lr 0.5 --schedule constant --no-augment",
    )
    parser.set_defaults(resolve=resolve_any)
    data = parser.add_argument_group("data")
    add_data(data, f"{', '.join(DATASETS)} (default: digits)")
    data.add_argument("--batch-size", type=whole(1), metavar="N", help=_default("images in one step", "batch_size"))
    data.add_argument(
        "--augment",
        action=argparse.BooleanOptionalAction,
        help=_default("shift (for Fashion-MNIST also mirror) training images at random", "augment"),
    )
    data.add_argument(
        "--workers", type=whole(0, 64), default=0, metavar="N", help="threads that prepare batches ahead (default: 0)"
    )
    _add_text_options(parser.add_argument_group("text"))
    _add_model_options(parser.add_argument_group("model"))
    _add_optimization_options(parser.add_argument_group("optimization"))
    _add_run_options(parser.add_argument_group("run"))


def _add_text_options(group: Any) -> None:
    group.add_argument(
        "--text",
        metavar="FILE",
        help=f"train a language model on this UTF-8 file, or on {SHAKESPEARE}, which is fetched once",
    )
    group.add_argument(
        "--tokens",
        type=one_of(*TOKENS),
        metavar="NAME",
        help=f"what is predicted: {', '.join(TOKENS)} (default: {TEXT_DEFAULTS['tokens']})",
    )
    group.add_argument(
        "--seq-len",
        type=whole(1),
        metavar="N",
        help=f"tokens that gradients go back over (default: {TEXT_DEFAULTS['seq_len']})",
    )


def _add_model_options(group: Any) -> None:
    group.add_argument(
        "--model",
        type=one_of(*IMAGE_MODELS, *TEXT_MODELS),
        metavar="NAME",
        help=f"for images {', '.join(IMAGE_MODELS)} (default: mlp, a residual MLP); "
        f"for a text {', '.join(TEXT_MODELS)} (default: gpt)",
    )
    group.add_argument("--hidden-dim", type=whole(2), metavar="N", help=_default("width of the model", "hidden_dim"))
    group.add_argument("--num-blocks", type=whole(0), metavar="N", help=_default("residual blocks", "num_blocks"))
    group.add_argument(
        "--norm", type=one_of(*NORMS), metavar="NAME", help=_default("normalisation: batch or layer", "norm")
    )
    group.add_argument(
        "--code-size",
        type=whole(1),
        metavar="N",
        help=f"numbers that an autoencoder says an image in (default: {IMAGE_MODELS['autoencoder']['code_size']})",
    )
    group.add_argument(
        "--dropout",
        type=number(0, 1),
        metavar="P",
        help=_default("share of activations dropped in training", "dropout"),
    )


def _add_optimization_options(group: Any) -> None:
    group.add_argument(
        "--epochs", type=whole(1), metavar="N", help=_default("passes over the training images", "epochs")
    )
    group.add_argument(
        "--optimizer", type=one_of(*OPTIMIZERS), metavar="NAME", help=_default(", ".join(OPTIMIZERS), "optimizer")
    )
    group.add_argument(
        "--lr",
        type=number(0, above=True),
        metavar="RATE",
        help=f"highest learning rate ({_by_optimizer(LEARNING_RATES)})",
    )
    group.add_argument(
        "--schedule",
        type=one_of(*SCHEDULES),
        metavar="NAME",
        help=_default(f"of the learning rate: {', '.join(SCHEDULES)}", "schedule"),
    )
    group.add_argument(
        "--warmup",
        type=number(0),
        metavar="EPOCHS",
        help="epochs over which the learning rate rises to its highest (default: 1, or 0.3 of the run if that is less)",
    )
    group.add_argument(
        "--weight-decay", type=number(0), metavar="W", help=f"pull of the weights to 0 ({_by_optimizer(WEIGHT_DECAYS)})"
    )
    group.add_argument(
        "--momentum",
        type=number(0, 1),
        metavar="M",
        help=f"of those optimizers that have it ({_by_optimizer(MOMENTA)})",
    )
    group.add_argument(
        "--label-smoothing",
        type=number(0, 1),
        metavar="E",
        help=_default("share of each label spread over all classes", "label_smoothing"),
    )
    group.add_argument(
        "--accumulate",
        type=whole(1),
        metavar="N",
        help=_default("batches whose gradients make one step together", "accumulate"),
    )
    group.add_argument(
        "--clip-norm",
        type=number(0, above=True),
        metavar="NORM",
        help=f"norm that all gradients together are cut to (default: none; {TEXT_DEFAULTS['clip_norm']:g} for a text)",
    )
    group.add_argument(
        "--precision",
        type=one_of(*PRECISIONS),
        metavar="NAME",
        help=_default(f"what products are computed in: {', '.join(PRECISIONS)}", "precision"),
    )
    group.add_argument(
        "--average-decay",
        type=number(0, 1, above=True),
        metavar="D",
        help="measure and save an exponential moving average of the weights with this decay, such as 0.999 "
        "(default: the last weights)",
    )


def _add_run_options(group: Any) -> None:
    group.add_argument(
        "--seed",
        type=whole(0, 2**32 - 1),
        default=0,
        metavar="N",
        help="the same seed gives the same model, bit for bit (default: 0)",
    )
    group.add_argument(
        "--resume",
        metavar="RUN",
        help="go on with a run that was stopped, where it was saved last, bit for bit",
    )
    group.add_argument(
        "--checkpoint-steps",
        type=whole(0),
        metavar="N",
        help="save the run after each N steps too; it is saved after each epoch, and where Ctrl-C stops it (default: "
        "0, not)",
    )
    group.add_argument("--tensorboard", action="store_true", help="write event files for TensorBoard into the folder")
    group.add_argument(
        "--layer-statistics",
        type=whole(0),
        metavar="N",
        help="write every N steps what gradients and activations of each layer look like (default: 0, never)",
    )
    group.add_argument("--output-dir", metavar="DIR", help="the run's folder (default: runs/DATASET-DATE-TIME)")


def _by_optimizer(values: dict[str, float]) -> str:
    return "default: " + ", ".join(f"{value:g} for {name}" for name, value in values.items())


def _default(text: str, name: str) -> str:
    """Add an option's default to its help: one value, or one for each data set where they differ."""
    values = {dataset: _show(options[name]) for dataset, options in DEFAULTS.items()}
    if len(set(values.values())) == 1:
        return f"{text} (default: {values['digits']})"
    return f"{text} (default: {', '.join(f'{value} for {dataset}' for dataset, value in values.items())})"


def _show(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)
