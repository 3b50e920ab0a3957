"""Text files, read piece by piece: a file of any size takes no more memory than one piece.

Files are UTF-8, with or without a byte-order mark; line ends of any system are read as newlines.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO

from needle.data.files import StrPath, existing_file
from needle.data.remote import download, find_data_folder
from needle.errors import DataError

__all__ = ["text_chunks", "text_lines", "tiny_shakespeare"]

ENCODING = "utf-8-sig"
_URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"


def text_chunks(path: StrPath, size: int = 1 << 20) -> Iterator[str]:
    """Give the text of a file in pieces of `size` characters, the last one shorter.

    Args:
        path: the file.
        size: how many characters make a piece.

    Raises:
        MissingFileError: nothing is there.
        DataError: the file cannot be read, or is not UTF-8.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from needle.data import text_chunks
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "text.txt"
        ...     _ = path.write_text("to be or not")
        ...     list(text_chunks(path, size=5))
        ['to be', ' or n', 'ot']
    """
    if size < 1:
        raise DataError(f"a piece of text has at least 1 character, got size={size}")
    with _opened(path) as file:
        while chunk := file.read(size):
            yield chunk


def text_lines(path: StrPath, max_lines: int | None = None) -> Iterator[str]:
    """Give the lines of a file, with their line ends.

    Args:
        path: the file.
        max_lines: how many to read at most; all of them where None.

    Raises:
        MissingFileError: nothing is there.
        DataError: the file cannot be read, or is not UTF-8.
    """
    with _opened(path) as file:
        yield from islice(file, max_lines)


@contextmanager
def _opened(path: StrPath) -> Iterator[IO[str]]:
    """Open a text file, and say of any trouble with it which file it is."""
    path = existing_file(path)
    try:
        with path.open(encoding=ENCODING) as file:
            yield file
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not text in UTF-8: {error.reason}. Convert it, with iconv for example") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error


def tiny_shakespeare(folder: StrPath | None = None, *, progress: bool = True) -> Path:
    """Return the path of 1.1 MB of Shakespeare's plays, fetching the file if it is not there yet.

    Args:
        folder: where `input.txt` is or will be; None is `tinyshakespeare` under `default_data_folder()`.
        progress: show how far the fetching is.

    Raises:
        DataError: the file is missing and cannot be fetched; says what to do by hand.

    Reference: A. Karpathy, "The unreasonable effectiveness of recurrent neural networks", 2015.
    """
    path = find_data_folder(folder, "tinyshakespeare") / "input.txt"
    return path if path.exists() else download(_URL, path, sha256=_SHA256, progress=progress)
