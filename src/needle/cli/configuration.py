"""Options from a file: `--config FILE` on every command, and `--print-config`, which prints what `--config` reads.

A file's options are put in front of those of the command line, as if they had been typed there: those that are typed
win, and what is wrong is told in the same words.
"""

from __future__ import annotations

import argparse
import json
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from needle.errors import SettingError
from needle.train.names import nearest

__all__ = ["add_configuration", "configured", "is_option", "print_configuration", "toml_text"]

# Actions that are no settings: they end the command, or are what this file adds.
_NO_SETTINGS = {"help", "version", "config", "print_config", "debug"}


def add_configuration(parser: argparse.ArgumentParser) -> None:
    """Give a command the options `--config` and `--print-config`."""
    group = parser.add_argument_group("configuration")
    group.add_argument(
        "--config", metavar="FILE", help="take options from this TOML file; those of the command line win over it"
    )
    group.add_argument(
        "--print-config", action="store_true", help="print all options with their values, as such a file, and end"
    )


def is_option(action: argparse.Action) -> bool:
    """Tell whether an action is an option that a file may set."""
    return bool(action.option_strings) and action.dest not in _NO_SETTINGS


# ----------------------------------------------------------------------------------------------------- reading


def configured(arguments: Sequence[str], commands: Mapping[str, argparse.ArgumentParser]) -> list[str]:
    """Return a command line with the options of its configuration file put in.

    Args:
        arguments: the command line, the program's name left out.
        commands: the parsers of all commands by name.

    Raises:
        SettingError: the file cannot be read, or holds an unknown option or a value that does not fit.
    """
    place = next((i for i, word in enumerate(arguments) if word in commands), None)
    files = [] if place is None else list(_named_files(arguments[place + 1 :]))
    if place is None or not files:
        return list(arguments)
    name = arguments[place]
    found = [word for file in files for word in _as_arguments(file, name, commands)]
    return [*arguments[: place + 1], *found, *arguments[place + 1 :]]


def _named_files(arguments: Sequence[str]) -> Iterator[str]:
    for i, word in enumerate(arguments):
        if word == "--":
            return
        if word == "--config" and i + 1 < len(arguments):
            yield arguments[i + 1]
        elif word.startswith("--config="):
            yield word.removeprefix("--config=")


def _as_arguments(file: str, command: str, commands: Mapping[str, argparse.ArgumentParser]) -> Iterator[str]:
    """Yield a file's options as the words that would be typed for them."""
    options = {action.dest: action for action in commands[command]._actions if is_option(action)}
    of_any = {action.dest for parser in commands.values() for action in parser._actions if is_option(action)}
    outside, own = _read(file, command, commands)
    for key, value in {**outside, **own}.items():
        name = key.replace("-", "_")
        action = options.get(name)
        if action is None and key not in own and name in of_any:
            continue  # what stands outside of tables may be for another command
        if action is None:
            known = [one.replace("_", "-") for one in options]
            raise SettingError(f"{file}: needle {command} has no option {key!r}{nearest(key.replace('_', '-'), known)}")
        try:
            yield from _words(action, value)
        except (SettingError, argparse.ArgumentTypeError) as error:
            raise SettingError(f"{file}: {key}: {error}") from None


def _read(
    file: str, command: str, commands: Mapping[str, argparse.ArgumentParser]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a file's keys outside of tables, and those of a command's own table."""
    try:
        rows = tomllib.loads(Path(file).read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingError(f"--config: cannot read {file}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingError(f"--config: {file} is not TOML: {error}") from None
    tables = {key: value for key, value in rows.items() if isinstance(value, dict)}
    for key in tables:
        if key not in commands:
            raise SettingError(f"{file}: there is no command for the table [{key}]{nearest(key, commands)}")
    return {key: value for key, value in rows.items() if key not in tables}, tables.get(command, {})


def _words(action: argparse.Action, value: Any) -> list[str]:
    """Return what would be typed for an option with this value, once that is known to fit."""
    flag = action.option_strings[0]
    if action.nargs == 0:  # on or off
        if not isinstance(value, bool):
            raise SettingError(f"expected true or false, got {_text(value)}")
        has_off = isinstance(action, argparse.BooleanOptionalAction)
        return [flag] if value else [f"--no-{flag.removeprefix('--')}"] if has_off else []
    if isinstance(value, list) and isinstance(action, argparse._AppendAction):
        return [word for one in value for word in _words(action, one)]
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        several = "a list or " if isinstance(action, argparse._AppendAction) else ""
        raise SettingError(f"expected {several}one value, got {_text(value)}")
    convert = action.type
    if callable(convert):
        convert(str(value))  # complains in the option's own words
    return [f"{flag}={value}"]


# ----------------------------------------------------------------------------------------------------- printing


def print_configuration(
    parser: argparse.ArgumentParser, resolve: Callable[[dict[str, Any]], Mapping[str, Any]] | None
) -> Callable[[Any], int]:
    """Return what takes a command's place under `--print-config`.

    Args:
        parser: the command's.
        resolve: fills in defaults that depend on other options; None where there are none.
    """

    def run(options: Any) -> int:
        given = vars(options)
        values = given if resolve is None else resolve(given)
        settings = {action.dest: values.get(action.dest) for action in parser._actions if is_option(action)}
        print(toml_text(settings), end="")
        return 0

    return run


def toml_text(settings: Mapping[str, Any]) -> str:
    """Return settings as TOML: text, numbers, truths, and lists of them. Those that are None are left out.

    Example:
        >>> from needle.cli.configuration import toml_text
        >>> print(toml_text({"lr": 0.5, "weight_decay": None, "text": "a.txt", "augment": True}))
        lr = 0.5
        text = "a.txt"
        augment = true
        <BLANKLINE>
    """
    shown = {name.replace("_", "-"): value for name, value in settings.items() if value is not None}
    return "".join(f"{name} = {_text(value)}\n" for name, value in shown.items())


def _text(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_text, value))}]"
    if isinstance(value, str):
        # JSON's escapes are TOML's, but for DEL, which JSON leaves as it is.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return json.dumps(value) if isinstance(value, (bool, int, float)) else repr(value)
