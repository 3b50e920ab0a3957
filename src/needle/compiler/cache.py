"""Compiled programs on disk, so that a process need not compile again what another has compiled before.

An entry is named by the hash of all that it depends on: for machine code LLVM's text, the versions of LLVM and of
Needle, the processor. It carries the hash of its own content; what does not match is taken for absent and written
anew, so that a damaged or foreign file is never run. Entries appear whole or not at all, whoever else is writing. The
folder is
`NEEDLE_CACHE_DIR`, or `needle` in the user's cache folder; it holds at most `NEEDLE_CACHE_SIZE` MiB (256), of which
those that have not been used for longest go first. `NEEDLE_CACHE=0` turns it off.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import llvmlite
import llvmlite.binding as llvm

from needle.compiler.host import host

__all__ = ["cache_folder", "cached_object", "entry_name", "object_name", "read_entry", "write_entry"]

_MAGIC = b"needle object 2\n"  # its number changes whenever what is kept is laid out otherwise
_SUFFIX = ".needle-object"
# A write in so many looks whether the folder has become too large.
_LOOK_EVERY = 16


def cached_object(text: str, compile_object: Callable[[str], bytes]) -> bytes:
    """Return the object code of LLVM's text: from disk where it is there and whole, else compiled and kept."""
    if _usable_folder() is None:
        return compile_object(text)
    name = object_name(text)
    code = read_entry(name)
    if code is None:
        code = compile_object(text)
        write_entry(name, code)
    return code


def object_name(text: str) -> str:
    """Return the name of the entry for LLVM's text compiled for this processor."""
    here = host()
    version = ".".join(map(str, llvm.llvm_version_info))
    return entry_name(llvmlite.__version__, version, sys.platform, here.cpu, here.features, text)


def entry_name(*parts: str) -> str:
    """Return the name of the entry for what depends on these parts."""
    return hashlib.sha256("\0".join((_MAGIC.decode(), *parts)).encode()).hexdigest()


def read_entry(name: str) -> bytes | None:
    """Return what an entry holds; None where there is none, or it is not whole."""
    folder = _usable_folder()
    return None if folder is None else _read(folder / f"{name}{_SUFFIX}")


def write_entry(name: str, content: bytes) -> None:
    """Keep an entry where the disk allows it: a full or read-only one costs time, not the program."""
    folder = _usable_folder()
    if folder is None:
        return
    with contextlib.suppress(OSError):
        _write(folder / f"{name}{_SUFFIX}", content)
        if int(name[:8], 16) % _LOOK_EVERY == 0:
            _evict(folder)


def cache_folder() -> Path | None:
    """Return where entries are kept; None where NEEDLE_CACHE=0 says nowhere."""
    if os.environ.get("NEEDLE_CACHE") == "0":
        return None
    chosen = os.environ.get("NEEDLE_CACHE_DIR")
    if chosen:
        return Path(chosen)
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or str(Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = str(Path.home() / "Library" / "Caches")
    else:
        base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "needle"


def _usable_folder() -> Path | None:
    """Return the folder, made where it is not there; None where it cannot be used, or where others may write to it."""
    try:
        folder = cache_folder()
        if folder is None:
            return None
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder if _is_ours(folder.stat()) else None
    except (OSError, RuntimeError):  # RuntimeError: there is no home
        return None


def _is_ours(status: os.stat_result) -> bool:
    """Tell whether nobody but this user can have written a file or a folder."""
    if not hasattr(os, "getuid"):
        return True
    return status.st_uid == os.getuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _read(path: Path) -> bytes | None:
    """Return an entry's content, None where there is none or it is not whole; a use makes it young again."""
    try:
        with path.open("rb") as file:
            if not _is_ours(os.fstat(file.fileno())):
                return None
            entry = file.read()
    except OSError:
        return None
    head = len(_MAGIC)
    digest, content = entry[head : head + 32], entry[head + 32 :]
    if entry[:head] != _MAGIC or hashlib.sha256(content).digest() != digest:
        return None
    with contextlib.suppress(OSError):
        os.utime(path)
    return content


def _write(path: Path, content: bytes) -> None:
    """Put an entry in place whole: written under another name first."""
    if path.is_dir():
        return
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".writing-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(_MAGIC + hashlib.sha256(content).digest() + content)
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(temporary).unlink()
        raise


def _evict(folder: Path) -> None:
    """Remove what has not been used for longest until the rest fits, and what writers left that died."""
    limit = _limit()
    entries: list[tuple[float, int, str]] = []
    total = 0
    with os.scandir(folder) as found:
        for entry in found:
            if not entry.is_file(follow_symlinks=False) or not entry.name.endswith(_SUFFIX):
                continue
            with contextlib.suppress(OSError):  # another process may have removed it
                status = entry.stat(follow_symlinks=False)
                entries.append((status.st_mtime, status.st_size, entry.path))
                total += status.st_size
    for _, size, path in sorted(entries):
        if total <= limit:
            return
        with contextlib.suppress(OSError):
            Path(path).unlink()
            total -= size


def _limit() -> int:
    """Return how many bytes the folder may hold."""
    try:
        mebibytes = float(os.environ.get("NEEDLE_CACHE_SIZE", "256"))
    except ValueError:
        mebibytes = 256.0
    return int(mebibytes * 2**20)
