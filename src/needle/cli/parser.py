"""The parser of a command, which complains in one line, and the kinds of value that options take."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from needle.cli.configuration import add_configuration, configured, print_configuration
from needle.train.names import nearest

__all__ = ["Parser", "add_command", "number", "one_of", "whole"]


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


def add_command(commands: Any, name: str, run: Callable[[Any], int], **texts: str) -> Parser:
    """Add a command that `run` does, with the options that each has."""
    parser: Parser = commands.add_parser(name, **texts)
    parser.set_defaults(run=run, parser=parser)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    add_configuration(parser)
    return parser


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
