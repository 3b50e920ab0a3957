"""What every reader of this package does first with a file: find it, or say clearly that it is not there."""

from __future__ import annotations

import os
from pathlib import Path

from needle.errors import DataError

__all__ = ["MissingFileError", "StrPath", "existing_file"]

StrPath = str | os.PathLike[str]


class MissingFileError(DataError, FileNotFoundError):
    """A file of a data set that is not there. Also Python's `FileNotFoundError`."""


def existing_file(path: StrPath, hint: str = "") -> Path:
    """Return `path` as a Path if a file is there.

    Args:
        path: the file.
        hint: how to get the file, added to the error.

    Raises:
        MissingFileError: nothing is there.
        DataError: something else is there, such as a folder.
    """
    path = Path(path)
    if path.is_file():
        return path
    if path.exists():
        raise DataError(f"{path} is not a file")
    raise MissingFileError(f"there is no file {path}{hint and ': '}{hint}")
