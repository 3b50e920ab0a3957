"""The command line: `needle train`, `evaluate`, `predict`, `sample`, `runs`, `plot` and `doctor`.

Each command is a file here; it reads options, calls `needle.train` and shows what came out. `main` turns what goes
wrong into one line and an exit status: 0 done, 1 `doctor` found a fault, 2 the user's input or files are at fault, 130
interrupted.
"""

from __future__ import annotations

import os
import shlex
import sys
import traceback
from collections.abc import Sequence

from needle.errors import NeedleError

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status.

    Args:
        argv: the arguments after the program's name; those of the process where None.

    Example:
        >>> from needle.cli import main
        >>> main(["--version"])
        needle 0.1.0
        0
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    try:
        status = _run(arguments)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        return _interrupted("nothing was saved")
    except BrokenPipeError:  # whoever read our output has gone, as in `needle train | head -1`
        _silence_stdout()
        return 1
    except (NeedleError, OSError, MemoryError) as error:
        if debug:
            traceback.print_exc()
        print(f"needle: error: {_in_one_line(error)}", file=sys.stderr)
        return 2


def _run(arguments: list[str]) -> int:
    # `import needle.cli` stays quick.
    from needle.cli.arguments import build_parser  # noqa: PLC0415
    from needle.train import TrainingInterrupted  # noqa: PLC0415

    parser = build_parser()
    try:
        options = parser.parse_args(arguments)
        return int(options.run(options))
    except SystemExit as stop:  # argparse's way to end after --help, --version and mistakes
        return stop.code if isinstance(stop.code, int) else 0
    except TrainingInterrupted as stop:
        if stop.folder is None:
            raise
        # A run does not keep where its data is: that is for each command to say.
        place = [] if options.data_dir is None else ["--data-dir", options.data_dir]
        return _interrupted(f"`{shlex.join(['needle', 'train', '--resume', stop.folder, *place])}` goes on")


def _interrupted(what_then: str) -> int:
    print(f"\nneedle: interrupted; {what_then}", file=sys.stderr)
    return 130


def _in_one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        named = f"{error.filename}: " if error.filename is not None else ""
        return f"{named}{error.strerror}"
    if isinstance(error, MemoryError):
        return "not enough memory: try a smaller --hidden-dim or --batch-size"
    return " ".join(str(error).split()) or type(error).__name__


def _silence_stdout() -> None:
    """Keep Python from complaining about the closed pipe once more when it flushes at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
