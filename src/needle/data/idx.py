"""IDX, the format of MNIST's files: a magic number, the sizes of the axes, and the numbers, gzipped or not.

The magic number's third byte is the type, the fourth the count of axes; each axis follows as a big-endian uint32, then
the numbers in C order, big-endian too. A file is read to exactly the length that its header announces: what is shorter,
longer or damaged is an error, and nothing beyond that length is ever inflated.

Reference: Y. LeCun, C. Cortes, C. Burges, "The MNIST database of handwritten digits", 1998, section "File formats".
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from needle.data.files import StrPath, existing_file
from needle.errors import DataError

__all__ = ["read_idx", "write_idx"]

_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_CODES = {np.dtype(name).newbyteorder("="): code for code, name in _TYPES.items()}
_GZIP_MAGIC = b"\x1f\x8b"
_MAX_BYTES = 1 << 30  # 1 GiB: 21 times MNIST's training images
_MAX_AXES = 64  # NumPy's own limit


def read_idx(path: StrPath, *, ndim: int | None = None, max_bytes: int = _MAX_BYTES, hint: str = "") -> NDArray[Any]:
    """Read an IDX file, gzipped or not.

    Args:
        path: the file.
        ndim: how many axes the array must have; None takes any number.
        max_bytes: refuse a file whose header announces more than this, so that a small file cannot fill the memory.
        hint: how to get the file, added to the error where there is none.

    Returns:
        A new array in the machine's byte order: uint8, int8, int16, int32, float32 or float64.

    Raises:
        MissingFileError: there is no such file.
        DataError: the file is no IDX file, is damaged, or is shorter or longer than its header says.

    Example:
        >>> import tempfile, numpy as np
        >>> from needle.data import read_idx, write_idx
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_idx(f"{folder}/a.gz", np.array([[1, 2], [3, 4]], dtype="uint8"))
        ...     read_idx(f"{folder}/a.gz")
        array([[1, 2],
               [3, 4]], dtype=uint8)
    """
    path = existing_file(path, hint)
    with _reading(path) as file:
        shape, dtype = _read_header(file, path, ndim)
        size = math.prod(shape) * dtype.itemsize
        if size > max_bytes:
            raise DataError(
                f"{path}: the header announces {_described(shape)}, {size:,} bytes, more than the limit of "
                f"{max_bytes:,}: pass max_bytes={size} if the file is meant to be that large"
            )
        data = _read_numbers(file, path, shape, size)
    array = data.view(dtype).reshape(shape)
    return array if dtype.isnative else array.astype(dtype.newbyteorder("="))


def write_idx(path: StrPath, array: NDArray[Any]) -> None:
    """Write an array as IDX, gzipped where the name ends in `.gz`.

    The same array always gives the same bytes. The file appears under its name only once it is complete.

    Raises:
        DataError: IDX has no code for the array's type.
    """
    path, array = Path(path), np.asarray(array)
    code = _CODES.get(array.dtype.newbyteorder("="))
    if code is None:
        raise DataError(f"IDX has no type for {array.dtype}; it has {', '.join(map(str, _CODES))}")
    content = (
        struct.pack(f">HBB{array.ndim}I", 0, code, array.ndim, *array.shape) + array.astype(_TYPES[code]).tobytes()
    )
    if path.suffix == ".gz":
        content = gzip.compress(content, mtime=0)
    unfinished = path.with_name(path.name + ".part")
    try:
        unfinished.write_bytes(content)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def _reading(path: Path) -> Iterator[IO[bytes]]:
    """Open a file, inflating it where it is gzipped, and turn what its reading raises into a DataError."""
    try:
        with path.open("rb") as raw:
            is_gzip = raw.read(2) == _GZIP_MAGIC
            raw.seek(0)
            # A GzipFile reads like any file; the standard library's types do not say so.
            with cast("IO[bytes]", gzip.GzipFile(fileobj=raw)) if is_gzip else raw as file:
                yield file
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: the gzip data are damaged or cut off: {error}") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error


def _read_header(file: IO[bytes], path: Path, ndim: int | None) -> tuple[tuple[int, ...], np.dtype[Any]]:
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in _TYPES or magic[3] > _MAX_AXES:
        raise DataError(
            f"{path}: not an IDX file: expected the magic number 00 00 type axes, got {magic.hex(' ') or 'nothing'}"
        )
    if ndim is not None and magic[3] != ndim:
        raise DataError(f"{path}: expected {ndim} axes (magic number {magic[2]:#06x}{ndim:02x}), got {magic[3]}")
    sizes = file.read(4 * magic[3])
    if len(sizes) < 4 * magic[3]:
        raise DataError(f"{path}: cut off within the header: expected {4 + 4 * magic[3]} bytes, got {4 + len(sizes)}")
    return struct.unpack(f">{magic[3]}I", sizes), np.dtype(_TYPES[magic[2]])


def _read_numbers(file: IO[bytes], path: Path, shape: tuple[int, ...], size: int) -> NDArray[np.uint8]:
    """Read exactly `size` bytes and check that they are all there are."""
    data = np.empty(size, dtype=np.uint8)
    read = 0
    while read < size and (count := _read_into(file, data[read:])):
        read += count
    if read < size:
        raise DataError(f"{path}: cut off: the header announces {_described(shape)}, {size:,} bytes, got {read:,}")
    if file.read(1):  # at the end of gzip data, this also checks their checksum
        raise DataError(f"{path}: longer than the {_described(shape)}, {size:,} bytes, that the header announces")
    return data


def _read_into(file: IO[bytes], array: NDArray[np.uint8]) -> int:
    count: int = cast("Any", file).readinto(array)  # the standard library's type of files leaves `readinto` out
    return count


def _described(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) + " numbers" if shape else "1 number"
