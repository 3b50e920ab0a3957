"""The parser of the whole command line, made of what each command adds to it."""

from __future__ import annotations

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
from needle.cli.parser import Parser

__all__ = ["build_parser"]

# In the order in which `needle --help` lists them.
_COMMANDS = (
    train_command,
    evaluate_command,
    predict_command,
    sample_command,
    runs_command,
    plot_command,
    report_command,
    doctor_command,
    completion_command,
)


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
    for command in _COMMANDS:
        command.add_to(commands)
    parser.commands = commands.choices
    return parser
