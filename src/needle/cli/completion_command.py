"""`needle completion`: a script by which a shell completes commands, options and names."""

from __future__ import annotations

import argparse
from typing import Any

from needle.cli.parser import add_command, one_of
from needle.errors import MissingExtraError

__all__ = ["SHELLS", "add_to", "run"]

SHELLS = ("bash", "zsh", "fish", "tcsh")
# What stands for a value in help texts, and is a path.
_FILES, _FOLDERS = {"FILE", "IMAGE"}, {"DIR", "RUN", "MODEL"}


def add_to(commands: Any) -> None:
    """Add the command, with its options."""
    parser = add_command(
        commands,
        "completion",
        run,
        help="print a script that lets a shell complete commands and options",
        description="Print a script that lets a shell complete commands, options, names and files.",
        epilog="examples:\n"
        '  eval "$(needle completion bash)"                                   in ~/.bashrc\n'
        '  needle completion zsh > "${fpath[1]}/_needle"                      once\n'
        "  needle completion fish > ~/.config/fish/completions/needle.fish    once",
    )
    parser.add_argument("shell", type=one_of(*SHELLS), metavar="SHELL", help=", ".join(SHELLS))


def run(arguments: Any) -> int:
    """Print the script for a shell."""
    from needle.cli.arguments import build_parser  # noqa: PLC0415  it imports this file

    try:
        import shtab  # noqa: PLC0415  an extra
    except ImportError:
        raise MissingExtraError("shtab", "completion", "writing a completion script") from None
    parser = build_parser()
    for command in parser.commands.values():
        for action in command._actions:
            _tell(action, shtab)
    print(shtab.complete(parser, shell=arguments.shell))
    return 0


def _tell(action: argparse.Action, shtab: Any) -> None:
    """Add to an action what its value may be, for the shell."""
    names = getattr(action.type, "names", None)
    if names is not None:
        action.choices = names
    elif action.metavar in _FILES:
        action.complete = shtab.FILE  # type: ignore[attr-defined]  # what shtab looks for
    elif action.metavar in _FOLDERS:
        action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
