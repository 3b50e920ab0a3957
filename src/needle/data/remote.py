"""Fetching files: over HTTP only, checked against a checksum, going on where an earlier try stopped.

What has come so far is kept beside the file as `NAME.part`, and gets the file's name when it is complete and right; so
a file that is there is whole, and an interrupted download is not lost. One connection's work is in `transfer`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from needle.data.files import StrPath
from needle.errors import DataError

__all__ = ["default_data_folder", "download", "find_data_folder"]


def default_data_folder() -> Path:
    """Return the folder under which data sets are kept that Needle fetches.

    It is `needle` in the folder that the environment variable XDG_CACHE_HOME names, else in the home folder's `.cache`.
    """
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "needle"


def find_data_folder(folder: StrPath | None, name: str) -> Path:
    """Return the folder that was given, or that of the data set `name` under `default_data_folder()`."""
    return default_data_folder() / name if folder is None else Path(folder)


def download(
    url: str | Sequence[str],
    path: StrPath,
    *,
    sha256: str | None = None,
    md5: str | None = None,
    progress: bool = True,
    timeout: float = 30.0,
    retries: int = 2,
) -> Path:
    """Fetch a file, unless it is there and has the right checksum.

    Args:
        url: its address, http or https; or several of the same file, tried in order.
        path: the file to write. Folders above it are made.
        sha256: what the file's SHA-256 must be, in hexadecimal.
        md5: what its MD5 must be, where no SHA-256 is known.
        progress: show on the standard error how far it is: a bar on a terminal, else a line at the start and the end.
        timeout: seconds to wait for the server at any one time.
        retries: how often to go on after the connection broke, before giving up.

    Returns:
        The path.

    Raises:
        DataError: nobody answers, the server refuses, the checksum is wrong, or the file cannot be written. `path` is
            not touched then; what came stays in `path.part` if it can be gone on with.
    """
    urls = [url] if isinstance(url, str) else list(url)
    for address in urls:
        _check_address(address)
    path = Path(path)
    checksum = _Checksum.of(sha256, md5)
    if path.is_dir():
        raise DataError(f"{path} is a folder: name the file in it that {urls[0]} is to be written to")
    if path.is_file() and checksum.fits(path):
        return path
    return _from_any([_Order(address, path, checksum, timeout, progress) for address in urls], retries)


@dataclass(frozen=True)
class _Checksum:
    algorithm: str
    expected: str | None

    @staticmethod
    def of(sha256: str | None, md5: str | None) -> _Checksum:
        algorithm, expected = ("md5", md5) if sha256 is None else ("sha256", sha256)
        return _Checksum(algorithm, expected and expected.lower())

    def measure(self, path: Path) -> str:
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.new(self.algorithm, usedforsecurity=False)).hexdigest()

    def fits(self, path: Path) -> bool:
        return self.expected is None or self.measure(path) == self.expected


@dataclass(frozen=True)
class _Order:
    """What to fetch from one address."""

    url: str
    path: Path
    checksum: _Checksum
    timeout: float
    progress: bool


def _check_address(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise DataError(f"{url}: only addresses that begin with http:// or https:// can be fetched")


def _from_any(orders: Sequence[_Order], retries: int) -> Path:
    """Fetch from the first address that gives the right file."""
    failures = []
    for order in orders:
        try:
            return _from_one(order, retries)
        except DataError as failure:
            failures.append(str(failure))
    remedy = f"Where there is no network: fetch the file on another machine and put it at {orders[0].path}"
    raise DataError(". ".join([*failures, remedy]))


def _from_one(order: _Order, retries: int) -> Path:
    # Imported here: urllib.request and what it needs would be a quarter of the time that `import needle` takes.
    from needle.data.transfer import Transfer  # noqa: PLC0415

    path, part, checksum = order.path, order.path.with_name(order.path.name + ".part"), order.checksum
    transfer = Transfer(order.url, part, order.timeout, order.progress)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        was_begun = part.exists() and part.stat().st_size > 0
        transfer.run(retries)
        if was_begun and not checksum.fits(part):  # what lay there was of another file: once more from the start
            part.unlink()
            transfer.run(retries)
        _check(order.url, part, checksum)
        part.replace(path)
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror or error}") from error
    return path


def _check(url: str, part: Path, checksum: _Checksum) -> None:
    """Remove the file that came if it is not the one expected."""
    if checksum.fits(part):
        return
    got, size = checksum.measure(part), part.stat().st_size
    part.unlink()
    raise DataError(
        f"{url} is not the file expected: its {checksum.algorithm} is {got} ({size:,} bytes), expected "
        f"{checksum.expected}; nothing was kept"
    )
