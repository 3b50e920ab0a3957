"""Files that are whole or absent: written under a temporary name in the target folder, flushed to disk, renamed.

A reader, or a machine that loses power, sees the old file or the new one and never a part of either.
"""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

from needle.errors import DataError

__all__ = ["check_writable", "sync_folder", "write_file", "write_through"]


def write_file(path: str | os.PathLike[str], data: bytes) -> None:
    """Put `data` into the file `path`, replacing what was there, in one step that cannot be half done.

    Raises:
        OSError: the folder cannot be written, or the disk is full. The old file is then still there.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        write_through(temporary, data)
        os.replace(temporary, path)  # noqa: PTH105  one seam for tests that make the rename fail
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_through(path: Path, data: bytes) -> None:
    """Write a new file and wait until the disk has it."""
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until the disk has the folder's new names. Systems that cannot open a folder do so by themselves."""
    with suppress(PermissionError, IsADirectoryError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def check_writable(folder: str | os.PathLike[str]) -> None:
    """Find out before hours of work whether files can be written into `folder`, which may not exist yet.

    Leaves nothing behind: a folder that had to be made for the trial is removed again.

    Raises:
        DataError: the folder cannot be made or written.
    """
    folder = Path(folder)
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        trial = folder / f".{secrets.token_hex(4)}.tmp"
        trial.touch(exist_ok=False)
        trial.unlink()
    except OSError as error:
        raise DataError(f"cannot write into the folder {folder}: {error.strerror or error}") from None
    finally:
        for one in missing:
            with suppress(OSError):
                one.rmdir()
