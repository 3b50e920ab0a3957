"""Windows of a long sequence of token ids, for models that predict the next token at each place of a window."""

from __future__ import annotations

from collections.abc import Iterable
from operator import index as as_int
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from needle.data.dataset import Dataset, as_indices
from needle.data.files import StrPath
from needle.data.text import text_chunks
from needle.data.tokenizer import Tokenizer
from needle.errors import DataError

__all__ = ["TokenDataset", "encode_file"]


class TokenDataset(Dataset):
    """Windows of a sequence of ids: `length` of them, and those that follow each.

    Formula::

        x = ids[k·stride : k·stride + length],  y = ids[k·stride + 1 : k·stride + 1 + length]

    The ids are kept once, in the smallest unsigned integers that hold them; windows are made when they are asked for.
    With the default stride the windows stand side by side, so that each token is predicted once. For windows that
    begin anywhere, take stride 1 and let a sampler say how many make an epoch.

    Shapes:
        an item: x (length,) and y (length,), int64. For a slice or an index array: (n, length) each.

    Args:
        ids: whole numbers, 0 or more. An unsigned array is not copied, so that it may be a memory map of a file.
        length: how many tokens a window has.
        stride: how far apart windows begin; `length` where None.

    State: `ids`, of an unsigned dtype.

    Raises:
        DataError: the ids are not whole numbers in a row, or too few for one window.

    Example:
        >>> from needle.data import DataLoader, RandomSampler, TokenDataset
        >>> dataset = TokenDataset(range(10), length=3)
        >>> len(dataset), dataset[1]
        (3, (array([3, 4, 5]), array([4, 5, 6])))
        >>> anywhere = TokenDataset(range(100), length=3, stride=1)
        >>> loader = DataLoader(anywhere, 4, sampler=RandomSampler(anywhere, replacement=True, num_samples=8))
        >>> [x.shape for x, y in loader]
        [(4, 3), (4, 3)]
    """

    takes_index_arrays = True

    def __init__(self, ids: ArrayLike, length: int, stride: int | None = None) -> None:
        super().__init__()
        self.ids = _as_ids(ids)
        self.length, self.stride = length, length if stride is None else stride
        for name, value in (("length", self.length), ("stride", self.stride)):
            if value < 1:
                raise DataError(f"TokenDataset: {name} is at least 1, got {value}")
        if len(self.ids) <= length:
            raise DataError(
                f"TokenDataset: {len(self.ids):,} tokens are too few for a window of {length:,} and the token that "
                f"follows it: take shorter windows, or more text"
            )

    @classmethod
    def from_file(
        cls, path: StrPath, tokenizer: Tokenizer, length: int, stride: int | None = None, *, into: StrPath | None = None
    ) -> Self:
        """Make a data set of a text file, which is read in pieces and kept as ids only.

        Args:
            path: the file.
            tokenizer: makes ids of text.
            length: how many tokens a window has.
            stride: how far apart windows begin; `length` where None.
            into: a file to keep the ids in, and not in memory: see `encode_file`.

        Raises:
            MissingFileError: nothing is there.
            DataError: the file is not UTF-8, holds something that the tokenizer does not know, or is too short.
        """
        return cls(encode_file(path, tokenizer, into), length, stride)

    def split(self, validation: float = 0.1) -> tuple[Self, Self]:
        """Return the first part of the tokens for training, and the last for validation, with no token in common.

        Args:
            validation: the last part's share of the tokens.

        Raises:
            DataError: the share is not between 0 and 1, or a part is too short for a window.
        """
        if not 0 < validation < 1:
            raise DataError(f"TokenDataset.split: the share is between 0 and 1, got {validation}")
        end = len(self.ids) - round(len(self.ids) * validation)
        train, rest = (type(self)(part, self.length, self.stride) for part in (self.ids[:end], self.ids[end:]))
        return train, rest

    def __len__(self) -> int:
        """Return how many windows there are."""
        return (len(self.ids) - 1 - self.length) // self.stride + 1

    def __getitem__(self, index: Any) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the window, or the windows, at `index`: an int, a slice or an index array.

        Raises:
            IndexError: an int is out of range.
            DataError: an index array is no whole numbers, or one is out of range.
        """
        starts = self._numbers(index) * self.stride
        windows = self.ids[starts[..., None] + np.arange(self.length + 1)].astype(np.int64)  # (…, length + 1)
        return windows[..., :-1], windows[..., 1:]

    def _numbers(self, index: Any) -> NDArray[np.int64]:
        """Return the windows' numbers, from 0."""
        if isinstance(index, slice):
            return np.arange(*index.indices(len(self)))
        if np.ndim(index):
            return as_indices(index, len(self)) % len(self)
        return np.array(range(len(self))[as_int(index)])


def encode_file(path: StrPath, tokenizer: Tokenizer, into: StrPath | None = None) -> NDArray[np.unsignedinteger[Any]]:
    """Return the ids of a text file, which is read in pieces.

    Args:
        path: the file.
        tokenizer: makes ids of text.
        into: a file to write the ids to, one behind the other in the tokenizer's dtype. The result is a view of it then
            (a memory map): text and ids may be larger than memory.

    Raises:
        MissingFileError: nothing is there.
        DataError: the file is not UTF-8, or holds something that the tokenizer does not know; `into` cannot be written.
    """
    parts = (part.astype(tokenizer.dtype, copy=False) for part in tokenizer.encode_chunks(text_chunks(path)))
    if into is None:
        return _joined(parts, tokenizer.dtype)
    try:
        with Path(into).open("wb") as file:
            for part in parts:
                file.write(part.tobytes())
            is_empty = not file.tell()
    except OSError as error:
        raise DataError(f"{into} cannot be written: {error.strerror or error}") from error
    return np.empty(0, tokenizer.dtype) if is_empty else np.memmap(into, tokenizer.dtype, mode="r")


def _joined(parts: Iterable[NDArray[Any]], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Put arrays one behind the other, with no more than one of them beside the result."""
    grown = bytearray()
    for part in parts:
        grown += part.tobytes()
    return np.frombuffer(grown, dtype)


def _as_ids(ids: ArrayLike) -> NDArray[np.unsignedinteger[Any]]:
    array = np.asarray(ids)
    if array.ndim != 1 or (array.dtype.kind not in "iu" and array.size):
        raise DataError(f"TokenDataset: ids are whole numbers in a row, got {array.dtype} of shape {array.shape}")
    if array.dtype.kind == "u":
        return array
    if array.size and array.min() < 0:
        raise DataError(f"TokenDataset: ids are 0 or more, got {array.min()}")
    return array.astype(np.min_scalar_type(int(array.max()) if array.size else 0))
