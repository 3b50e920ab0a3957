"""Words as numbers, and batches of them for networks that read a text from front to back.

A `Corpus` turns two text files into lists of word ids. `batchify` lays such a list into columns, each a run of the text
that goes on from row to row; `get_batch` cuts rows out of them. A recurrent network that is given one cut after the
other sees in each column the text that follows, so that its state may be carried over.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from needle.autograd import Tensor
from needle.data.files import StrPath
from needle.data.text import text_lines
from needle.device import Device
from needle.errors import DataError

__all__ = ["END_OF_LINE", "Corpus", "Dictionary", "batchify", "get_batch"]

END_OF_LINE = "<eos>"


class Dictionary:
    """Words and their numbers, in the order in which they were first seen.

    State: `word2idx`, a dict from words to numbers; `idx2word`, the list of words.

    Example:
        >>> from needle.data import Dictionary
        >>> dictionary = Dictionary()
        >>> [dictionary.add_word(word) for word in "to be or not to be".split()]
        [0, 1, 2, 3, 0, 1]
        >>> len(dictionary), dictionary.idx2word[2]
        (4, 'or')
    """

    def __init__(self) -> None:
        self.word2idx: dict[str, int] = {}
        self.idx2word: list[str] = []

    def add_word(self, word: str) -> int:
        """Return a word's number, the next free one if it is new."""
        number = self.word2idx.setdefault(word, len(self.idx2word))
        if number == len(self.idx2word):
            self.idx2word.append(word)
        return number

    def __len__(self) -> int:
        """Return how many words there are."""
        return len(self.idx2word)


class Corpus:
    """A folder with `train.txt` and `test.txt` as two lists of word ids over one dictionary.

    Words are what white space separates; each line ends with the word `<eos>`. The files are read line by line.

    Args:
        base_dir: the folder.
        max_lines: how many lines of each file to read at most; all of them where None.

    State: `dictionary`; `train`, `test`, lists of ids.

    Raises:
        MissingFileError: a file is not there.
        DataError: a file cannot be read, or is not UTF-8.
    """

    def __init__(self, base_dir: StrPath, max_lines: int | None = None) -> None:
        self.dictionary = Dictionary()
        self.train = self.tokenize(Path(base_dir) / "train.txt", max_lines)
        self.test = self.tokenize(Path(base_dir) / "test.txt", max_lines)

    def tokenize(self, path: StrPath, max_lines: int | None = None) -> list[int]:
        """Return the ids of a file's words, adding new words to the dictionary.

        Args:
            path: the file.
            max_lines: how many lines to read at most.
        """
        add_word = self.dictionary.add_word
        return [add_word(word) for line in text_lines(path, max_lines) for word in (*line.split(), END_OF_LINE)]


def batchify(
    data: ArrayLike,
    batch_size: int,
    device: Device | None = None,  # noqa: ARG001  the contract's
    dtype: DTypeLike | None = "float32",
) -> NDArray[Any]:
    """Lay a sequence of ids into columns: column j is the j-th of `batch_size` equal runs of it.

    Formula, with n = ⌊len(data) / batch_size⌋::

        result[i, j] = data[j·n + i]

    What is left over at the end is cut off.

    Shapes:
        data: (N,).
        result: (⌊N / batch_size⌋, batch_size), a new array.

    Args:
        data: the ids.
        batch_size: how many columns.
        device: looked at by nobody: `get_batch` makes the Tensors, where it is told.
        dtype: of the result; that of `data` where None. An unsigned type as small as the vocabulary allows is best for
            long texts.

    Raises:
        DataError: batch_size is less than 1, or data has not one axis.

    Example:
        >>> from needle.data import batchify
        >>> batchify(list("abcdefg"), 2, dtype=None)
        array([['a', 'd'],
               ['b', 'e'],
               ['c', 'f']], dtype='<U1')
    """
    ids = np.asarray(data)
    if batch_size < 1:
        raise DataError(f"batchify: batch_size is at least 1, got {batch_size}")
    if ids.ndim != 1:
        raise DataError(f"batchify takes a sequence of ids, got an array of shape {ids.shape}")
    rows = len(ids) // batch_size
    columns = ids[: rows * batch_size].reshape(batch_size, rows)
    return np.array(columns.T, dtype=dtype, order="C")


def get_batch(
    batches: NDArray[Any], i: int, bptt: int, device: Device | None = None, dtype: DTypeLike | None = None
) -> tuple[Tensor, Tensor]:
    """Cut rows out of what `batchify` made, and the ids that follow each of them.

    Formula, with n = min(bptt, len(batches) − 1 − i)::

        X = batches[i : i + n],  y = batches[i + 1 : i + 1 + n], row after row

    Shapes:
        batches: (rows, B).
        result: X (n, B) and y (n·B,).

    Args:
        batches: the columns of ids.
        i: the row to begin at.
        bptt: how many rows at most ("back-propagation through time": how far gradients reach back).
        device: where the Tensors are made; the CPU where None.
        dtype: of both; float32 where None.

    Raises:
        DataError: no row follows row i, or bptt is less than 1.

    Example:
        >>> from needle.data import batchify, get_batch
        >>> X, y = get_batch(batchify(range(8), 2), 0, 2)
        >>> print(X, y)
        [[0. 4.]
         [1. 5.]] [1. 5. 2. 6.]
    """
    last = len(batches) - 1
    if not 0 <= i < last:
        raise DataError(f"get_batch: i is a row that another one follows, from 0 to {last - 1}, got {i}")
    if bptt < 1:
        raise DataError(f"get_batch: bptt is at least 1, got {bptt}")
    end = i + min(bptt, last - i)
    settings: dict[str, Any] = {
        "device": device,
        "dtype": "float32" if dtype is None else dtype,
        "requires_grad": False,
    }
    return Tensor(batches[i:end], **settings), Tensor(batches[i + 1 : end + 1].reshape(-1), **settings)
