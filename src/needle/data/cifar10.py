"""CIFAR-10: 32 × 32 colour photographs of ten classes, 50,000 to train on and 10,000 to test."""

from __future__ import annotations

import math
import tarfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from needle.data.files import MissingFileError, StrPath
from needle.data.images import ImageDataset
from needle.data.pickled_batch import read_pickled_dict
from needle.data.remote import download, find_data_folder
from needle.errors import DataError

__all__ = ["CIFAR10Dataset", "ChannelsFirstImages"]

_SHAPE = (3, 32, 32)
_BYTES = math.prod(_SHAPE)
_NAMES = {True: tuple(f"data_batch_{number}" for number in range(1, 6)), False: ("test_batch",)}
_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
_MD5 = "c58f30108f718f92721af3b95e74349a"


class ChannelsFirstImages(ImageDataset):
    """Labelled images (n, C, H, W); a subclass says what they are."""

    def _unchanged(self, images: NDArray[Any]) -> NDArray[Any]:
        return images

    def _to_hwc(self, image: NDArray[Any]) -> NDArray[Any]:
        return image.transpose(1, 2, 0)

    def _from_hwc(self, image: NDArray[Any]) -> NDArray[Any]:
        return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


class CIFAR10Dataset(ChannelsFirstImages):
    """Colour photographs of airplanes, cars, birds and the like.

    An item is the tuple (image, label): float32 (3, 32, 32) in [0, 1] and a whole number. A slice or an index array
    gives (n, 3, 32, 32) and (n,). Transforms see one image at a time, as (32, 32, 3).

    Args:
        base_folder: holds the files of the python version (`data_batch_1` …) or of the binary one
            (`data_batch_1.bin` …), or the folder that the archive of either makes. The pickles of the python version
            are read without unpickling.
        train: the five training batches in order, not the test batch.
        p: read by nobody; older programs pass it.
        transforms: applied to each image.

    State: `X` (n, 3, 32, 32) float32 in [0, 1]; `y` (n,) int64. The images are kept as bytes until X is asked for.

    Raises:
        MissingFileError: a file is not there.
        DataError: a file is damaged, or holds anything else.

    Reference: A. Krizhevsky, "Learning multiple layers of features from tiny images", 2009.
    """

    class_names: ClassVar[tuple[str, ...]] = (
        *("airplane", "automobile", "bird", "cat", "deer"),
        *("dog", "frog", "horse", "ship", "truck"),
    )

    def __init__(
        self,
        base_folder: StrPath,
        train: bool,
        p: float = 0.5,
        transforms: Sequence[Callable[[Any], Any]] | None = None,
    ) -> None:
        self.p = p
        batches = [_read_batch(path) for path in _find(Path(base_folder), _NAMES[train])]
        super().__init__(np.concatenate([b[0] for b in batches]), np.concatenate([b[1] for b in batches]), transforms)

    @classmethod
    def download(
        cls,
        folder: StrPath | None = None,
        train: bool = True,
        transforms: Sequence[Callable[[Any], Any]] | None = None,
        *,
        progress: bool = True,
    ) -> Self:
        """Read the training or the test part, fetching the archive (170 MB) if its files are not there yet.

        Args:
            folder: where the files are or will be; None is `cifar-10` under `default_data_folder()`.
            train: the training part, not the test part.
            transforms: applied to each image.
            progress: show how far the fetching is.

        Raises:
            DataError: the archive is missing and cannot be fetched; says what to do by hand.
        """
        folder = find_data_folder(folder, "cifar-10")
        try:
            _find(folder, _NAMES[train])
        except MissingFileError:
            archive = download(_URL, folder / "cifar-10-python.tar.gz", md5=_MD5, progress=progress)
            _unpack(archive, folder / "cifar-10-batches-py")
        return cls(folder, train, transforms=transforms)

    @property
    def X(self) -> NDArray[Any]:  # noqa: N802  the contract's name
        """The images, float32 in [0, 1]; may be changed in place or set."""
        if self.images.dtype == np.uint8:
            self.images = self._scaled(self.images)
        return self.images

    @X.setter
    def X(self, images: NDArray[Any]) -> None:  # noqa: N802
        self.images = np.asarray(images)

    @property
    def y(self) -> NDArray[np.int64]:
        """The labels."""
        return self.labels

    @y.setter
    def y(self, labels: NDArray[Any]) -> None:
        self.labels = np.asarray(labels)


def _find(folder: Path, names: Sequence[str]) -> list[Path]:
    """Return where the batches are: in the folder itself or in the one that an archive makes, pickled or binary."""
    for place in (folder, folder / "cifar-10-batches-py", folder / "cifar-10-batches-bin"):
        for suffix in ("", ".bin"):
            paths = [place / (name + suffix) for name in names]
            if all(path.is_file() for path in paths):
                return paths
    raise MissingFileError(
        f"{folder} does not hold all of {', '.join(names)}, pickled or .bin, nor does a folder cifar-10-batches-py or "
        f"cifar-10-batches-bin in it: CIFAR10Dataset.download() fetches them"
    )


def _read_batch(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return images (n, 3, 32, 32) and labels (n,) of one file."""
    try:
        pixels, labels = _read_binary(path) if path.suffix == ".bin" else _read_pickled(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    if len(labels) and not (labels.min() >= 0 and labels.max() <= 9):
        raise DataError(f"{path}: labels must be from 0 to 9, got {labels.min()} to {labels.max()}")
    return pixels.reshape(-1, *_SHAPE), labels


def _read_binary(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Read records of a label and the bytes of an image."""
    size = path.stat().st_size
    if size == 0 or size % (1 + _BYTES):
        raise DataError(f"{path}: expected a multiple of {1 + _BYTES:,} bytes, a label and an image each, got {size:,}")
    records = np.fromfile(path, dtype=np.uint8).reshape(-1, 1 + _BYTES)
    return records[:, 1:], records[:, 0].astype(np.int64)


def _read_pickled(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Read a dict with `data` (n, 3072) and `labels`."""
    batch = {_as_text(key): value for key, value in read_pickled_dict(path).items()}
    pixels, labels = batch.get("data"), batch.get("labels")
    if not isinstance(pixels, np.ndarray) or not isinstance(labels, list):
        raise DataError(f"{path}: not a batch of CIFAR-10: expected data and labels, got {sorted(batch)}")
    if pixels.ndim != 2 or pixels.shape[1] != _BYTES or len(pixels) != len(labels):
        raise DataError(
            f"{path}: expected data (n, {_BYTES}) and n labels, got {pixels.shape} and {len(labels)} labels"
        )
    if not all(type(label) is int for label in labels):
        raise DataError(f"{path}: labels must be whole numbers")
    return pixels, np.array(labels, dtype=np.int64)


def _as_text(key: Any) -> str:
    return key.decode("latin-1") if isinstance(key, bytes) else str(key)


def _unpack(archive: Path, folder: Path) -> None:
    """Take the batches out of the archive, by name; whatever else it holds is not looked at."""
    wanted = {f"cifar-10-batches-py/{name}" for part in _NAMES.values() for name in part}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tarfile.open(archive) as tar:
            for member in tar:
                if member.name in wanted and member.isreg():
                    _write_member(tar, member, folder / Path(member.name).name)
    except (tarfile.TarError, zlib.error, EOFError) as error:
        raise DataError(f"{archive}: damaged: {error}") from None
    except OSError as error:
        raise DataError(f"{archive} cannot be unpacked to {folder}: {error.strerror or error}") from error


def _write_member(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    content = tar.extractfile(member)
    assert content is not None  # a regular file's never is
    unfinished = path.with_name(path.name + ".part")
    unfinished.write_bytes(content.read())
    unfinished.replace(path)
