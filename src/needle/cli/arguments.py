"""The options of each command: their types, defaults and help."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import needle
from needle.cli import (
    completion_command,
    doctor_command,
    evaluate_command,
    plot_command,
    predict_command,
    report_command,
    runs_command,
    sample_command,
    train_command,
)
from needle.cli.configuration import add_configuration, configured, print_configuration
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
from needle.cli.run_folders import FIELDS
from needle.train.names import nearest

__all__ = ["build_parser"]

DATASETS = tuple(DEFAULTS)
OPTIMIZERS = tuple(LEARNING_RATES)
SCHEDULES = ("constant", "cosine", "step", "one-cycle")
NORMS = ("batch", "layer")
PRECISIONS = ("float32", "bfloat16", "float16")


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose complaints are one line, and name the nearest known option or command."""

    def __init__(self, **settings: Any) -> None:
        settings.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(allow_abbrev=False, **settings)
        self.commands: dict[str, Parser] = {}

    def error(self, message: str) -> NoReturn:
        """Print the complaint in one line and end with status 2."""
        self.exit(2, f"needle: error: {message} (see `{self.prog} --help`)\n")

    def parse_args(  # type: ignore[override]  # argparse overloads it by its namespace
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> Any:
        """Parse, and name the nearest known option for the first one that is unknown."""
        words = configured(sys.argv[1:] if args is None else args, self.commands)
        options, unknown = self.parse_known_args(words, namespace)
        command = getattr(options, "parser", self)
        if unknown:
            command.error(f"unknown argument {unknown[0]}{command.nearest_option(unknown[0])}")
        settings: Any = vars(options)
        if settings.pop("print_config", False):
            options.run = print_configuration(command, settings.get("resolve"))
        settings.pop("config", None)
        settings.pop("resolve", None)
        return options

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Answer an unknown command with the nearest known one; argparse calls this for everything with choices."""
        if action.choices is not None and value not in action.choices:
            raise argparse.ArgumentError(action, f"unknown name {value!r}{nearest(value, action.choices)}")

    def nearest_option(self, name: str) -> str:
        """Return a hint for an unknown option, or nothing for a stray word."""
        return nearest(name.split("=", maxsplit=1)[0], self._option_string_actions) if name.startswith("-") else ""


# --------------------------------------------------------------------------------------------- kinds of value


def one_of(*names: str) -> Callable[[str], str]:
    """Return a type for argparse that takes one of `names`, and names the nearest one otherwise."""

    def parse(text: str) -> str:
        if text not in names:
            raise argparse.ArgumentTypeError(f"unknown name {text!r}{nearest(text, names)}")
        return text

    parse.names = names  # type: ignore[attr-defined]  # for the completion of shells
    return parse


def whole(low: int, high: int | None = None) -> Callable[[str], int]:
    """Return a type for argparse that takes whole numbers from `low` to `high`."""
    bounds = f"{low} or more" if high is None else f"from {low} to {high}"

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"expected a whole number, got {text!r}") from None
        if value < low or (high is not None and value > high):
            raise argparse.ArgumentTypeError(f"must be {bounds}, got {value}")
        return value

    return parse


def number(
    low: float, below: float = math.inf, *, above: bool = False, most: float = math.inf
) -> Callable[[str], float]:
    """Return a type for argparse: finite numbers from `low` (not `low` itself where `above`), < `below`, ≤ `most`."""
    bounds = f"more than {low:g}" if above else f"{low:g} or more"
    bounds += "" if below == math.inf else f" and less than {below:g}"
    bounds += "" if most == math.inf else f" and at most {most:g}"

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"expected a number, got {text!r}") from None
        if not (low < value if above else low <= value) or not value < below or value > most:
            raise argparse.ArgumentTypeError(f"must be {bounds}, got {text}")
        return value

    return parse


# ---------------------------------------------------------------------------------------------------- parsers


def build_parser() -> Parser:
    """Return the parser of `needle` with all its commands."""
    parser = Parser(
        prog="needle",
        description="Train, evaluate and use small neural networks with Needle.",
        epilog="examples:\n"
        "  needle train                      train on the digits that come with Needle, in seconds\n"
        "  needle train --dataset mnist      train on MNIST, which is fetched once\n"
        "  needle evaluate                   measure the latest model\n"
        "  needle predict scan.png           say which digit a picture shows\n"
        "  needle train --text book.txt      learn to write like a book\n"
        "  needle sample                     write\n"
        "  needle runs                       list what was trained\n"
        "  needle plot latest                draw how the loss fell",
    )
    parser.add_argument("--version", action="version", version=f"needle {needle.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=Parser)
    _add_train(commands)
    _add_evaluate(commands)
    _add_predict(commands)
    _add_sample(commands)
    _add_runs(commands)
    _add_plot(commands)
    _add_report(commands)
    _add_doctor(commands)
    _add_completion(commands)
    parser.commands = commands.choices
    return parser


def _add_command(commands: Any, name: str, run: Callable[[Any], int], **texts: str) -> Parser:
    parser: Parser = commands.add_parser(name, **texts)
    parser.set_defaults(run=run, parser=parser)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    add_configuration(parser)
    return parser


def _add_data(parser: Any, dataset_help: str) -> None:
    parser.add_argument("--dataset", type=one_of(*DATASETS), metavar="NAME", help=dataset_help)
    parser.add_argument(
        "--data-dir",
        metavar="DIR",
        help="the folder with the data set's files; all but the digits and the shapes, which come with Needle, are "
        "fetched into it where they are not there yet (default: ~/.cache/needle/NAME)",
    )


def _add_train(commands: Any) -> None:
    parser = _add_command(
        commands,
        "train",
        train_command.run,
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
    _add_data(data, f"{', '.join(DATASETS)} (default: digits)")
    data.add_argument("--batch-size", type=whole(1), metavar="N", help=_default("images in one step", "batch_size"))
    data.add_argument(
        "--augment",
        action=argparse.BooleanOptionalAction,
        help=_default("shift (for Fashion-MNIST also mirror) training images at random", "augment"),
    )
    data.add_argument(
        "--workers", type=whole(0, 64), default=0, metavar="N", help="threads that prepare batches ahead (default: 0)"
    )
    text = parser.add_argument_group("text")
    text.add_argument(
        "--text",
        metavar="FILE",
        help=f"train a language model on this UTF-8 file, or on {SHAKESPEARE}, which is fetched once",
    )
    text.add_argument(
        "--tokens",
        type=one_of(*TOKENS),
        metavar="NAME",
        help=f"what is predicted: {', '.join(TOKENS)} (default: {TEXT_DEFAULTS['tokens']})",
    )
    text.add_argument(
        "--seq-len",
        type=whole(1),
        metavar="N",
        help=f"tokens that gradients go back over (default: {TEXT_DEFAULTS['seq_len']})",
    )
    _add_model_options(parser.add_argument_group("model"))
    _add_optimization_options(parser.add_argument_group("optimization"))
    run = parser.add_argument_group("run")
    run.add_argument(
        "--seed",
        type=whole(0, 2**32 - 1),
        default=0,
        metavar="N",
        help="the same seed gives the same model, bit for bit (default: 0)",
    )
    run.add_argument(
        "--resume",
        metavar="RUN",
        help="go on with a run that was stopped, where it was saved last, bit for bit",
    )
    run.add_argument(
        "--checkpoint-steps",
        type=whole(0),
        metavar="N",
        help="save the run after each N steps too; it is saved after each epoch, and where Ctrl-C stops it (default: "
        "0, not)",
    )
    run.add_argument("--tensorboard", action="store_true", help="write event files for TensorBoard into the folder")
    run.add_argument(
        "--layer-statistics",
        type=whole(0),
        metavar="N",
        help="write every N steps what gradients and activations of each layer look like (default: 0, never)",
    )
    run.add_argument("--output-dir", metavar="DIR", help="the run's folder (default: runs/DATASET-DATE-TIME)")


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


def _add_evaluate(commands: Any) -> None:
    parser = _add_command(
        commands,
        "evaluate",
        evaluate_command.run,
        help="measure a saved model on test images",
        description="Measure a saved model on test images: error, loss, and which class is taken for which.",
        epilog="examples:\n  needle evaluate\n  needle evaluate runs/mnist-20260101-120000 --data-dir data/mnist",
    )
    parser.add_argument("model", nargs="?", metavar="MODEL", help="a run's folder (default: the latest under runs/)")
    _add_data(parser, f"{', '.join(DATASETS)} (default: the one that the model was trained on)")
    parser.add_argument(
        "--batch-size", type=whole(1), default=1000, metavar="N", help="images at a time (default: 1000)"
    )


def _add_predict(commands: Any) -> None:
    parser = _add_command(
        commands,
        "predict",
        predict_command.run,
        help="say what pictures show",
        description="Say what pictures show, with the probability of each class. Pictures are PNG, JPEG and whatever\n"
        "else Pillow reads, or NumPy's .npy; they are made grey, brought to the model's size and to the training\n"
        "data's polarity, and each step is told.",
        epilog="examples:\n  needle predict scan.png\n"
        "  needle predict --model runs/mnist-20260101-120000 a.png b.jpg c.npy",
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="a picture file")
    parser.add_argument("--model", metavar="MODEL", help="a run's folder (default: the latest under runs/)")
    parser.add_argument("--as-is", action="store_true", help="do not crop, centre or invert; only make grey and resize")


def _add_doctor(commands: Any) -> None:
    parser = _add_command(
        commands,
        "doctor",
        doctor_command.run,
        help="say what is installed, what the machine can do, and what is missing",
        description="Print versions, devices, vector width, threads, measured limits, and which extras are missing.\n"
        "Ends with status 1 where something is broken.",
        epilog="examples:\n  needle doctor\n  needle doctor --quick",
    )
    parser.add_argument("--quick", action="store_true", help="measure nothing")


def _add_report(commands: Any) -> None:
    parser = _add_command(
        commands,
        "report",
        report_command.run,
        help="write a page about a run that opens in any browser",
        description="Write one page of HTML about a finished run: curves, what is taken for what, the worst images or\n"
        "a sample of text, the model's layers, where a step's time goes, and every option. It needs no network.",
        epilog="examples:\n  needle report\n  needle report runs/mnist-20260101-120000 --data-dir data/mnist",
    )
    parser.add_argument("run_folder", nargs="?", metavar="RUN", help="a run's folder (default: the latest)")
    parser.add_argument("--output", metavar="FILE", help="where to write it (default: report.html in the run's folder)")
    parser.add_argument("--data-dir", metavar="DIR", help="the folder with the data set's files, as for train")
    parser.add_argument("--no-profile", action="store_true", help="do not measure where a training step's time goes")


def _add_completion(commands: Any) -> None:
    parser = _add_command(
        commands,
        "completion",
        completion_command.run,
        help="print a script that lets a shell complete commands and options",
        description="Print a script that lets a shell complete commands, options, names and files.",
        epilog="examples:\n"
        '  eval "$(needle completion bash)"                                   in ~/.bashrc\n'
        '  needle completion zsh > "${fpath[1]}/_needle"                      once\n'
        "  needle completion fish > ~/.config/fish/completions/needle.fish    once",
    )
    parser.add_argument(
        "shell", type=one_of(*completion_command.SHELLS), metavar="SHELL", help=", ".join(completion_command.SHELLS)
    )


def _add_sample(commands: Any) -> None:
    parser = _add_command(
        commands,
        "sample",
        sample_command.run,
        help="write text with a trained language model",
        description="Write text with a language model that `needle train --text FILE` has made.",
        epilog='examples:\n  needle sample\n  needle sample runs/book-20260101-120000 --prompt "Once upon" --top-k 20',
    )
    parser.add_argument("model", nargs="?", metavar="MODEL", help="a run's folder (default: the latest under runs/)")
    parser.add_argument("--prompt", metavar="TEXT", help="what the text begins with (default: a new line)")
    parser.add_argument("--length", type=whole(0), default=400, metavar="N", help="tokens to write (default: 400)")
    parser.add_argument(
        "--temperature",
        type=number(0),
        default=0.8,
        metavar="T",
        help="lower is more careful, 0 takes the likeliest token (default: 0.8)",
    )
    parser.add_argument("--top-k", type=whole(1), metavar="N", help="draw from the N likeliest tokens (default: all)")
    parser.add_argument(
        "--top-p",
        type=number(0, above=True, most=1),
        default=1.0,
        metavar="P",
        help="draw from the likeliest tokens that have this share of the probability (default: 1, all)",
    )
    parser.add_argument(
        "--seed", type=whole(0, 2**32 - 1), default=0, metavar="N", help="the same seed writes the same (default: 0)"
    )


def _add_runs(commands: Any) -> None:
    parser = _add_command(
        commands,
        "runs",
        runs_command.run,
        help="list runs with their figures, or compare some of them",
        description="List runs with their figures, or put some of them side by side, with the options in which they\n"
        "differ. Loss, error and perplexity are those on test or validation data. A run is finished when its model\n"
        "is saved, and interrupted when it has written nothing for far longer than an epoch takes.",
        epilog="examples:\n"
        "  needle runs\n"
        "  needle runs --sort best_error\n"
        "  needle runs digits-20260101-120000 latest\n"
        "  needle runs --json experiments > runs.json",
    )
    parser.add_argument(
        "runs",
        nargs="*",
        metavar="RUN",
        help="a folder of runs to list (default: runs/), or runs to compare: folders, names in runs/, or `latest`",
    )
    parser.add_argument(
        "--sort",
        type=one_of(*FIELDS),
        metavar="FIELD",
        help=f"lowest first: {', '.join(FIELDS)} (default: by name)",
    )
    parser.add_argument("--json", action="store_true", help="print everything that is known of each run, as JSON")


def _add_plot(commands: Any) -> None:
    parser = _add_command(
        commands,
        "plot",
        plot_command.run,
        help="draw the curves of runs into one picture",
        description="Draw the curves of runs into one picture: a panel for each metric, a colour for each run.\n"
        "Training data is dashed, test and validation data solid. Needs matplotlib.",
        epilog="examples:\n"
        "  needle plot latest\n"
        "  needle plot digits-20260101-120000 digits-20260101-130000 --output lr.svg\n"
        "  needle plot runs/* --metric test_error --metric lr",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run's folder, its name in runs/, or `latest`")
    parser.add_argument(
        "--metric",
        action="append",
        metavar="NAME",
        help="what to draw, once for each panel: loss, train_loss, test_error, lr, ... "
        "(default: loss, and error or perplexity)",
    )
    parser.add_argument(
        "--output",
        default="curves-compare.png",
        metavar="FILE",
        help="the picture, .png or .svg (default: curves-compare.png)",
    )
