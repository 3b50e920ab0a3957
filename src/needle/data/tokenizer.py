"""Tokenizers: text to numbers and back, by character, by byte or by word.

A tokenizer does not change once it is made: `fit` makes one for a text. It is described by its kind and its
vocabulary, so that a model's file can hold it (`to_json`, `tokenizer_from_json`). Ids come in the smallest unsigned
integers that hold the vocabulary.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from needle.autograd import Tensor
from needle.data.corpus import END_OF_LINE
from needle.errors import DataError

__all__ = [
    "ByteTokenizer",
    "CharacterTokenizer",
    "Tokenizer",
    "WordTokenizer",
    "make_tokenizer",
    "tokenizer_from_json",
]

Ids = NDArray[np.unsignedinteger[Any]]


class Tokenizer(ABC):
    """What all tokenizers share. A subclass names its kind, and writes `encode`, `decode` and `fit`.

    Args:
        vocabulary: what each id stands for, in order.

    Raises:
        DataError: the vocabulary is empty, or names something twice.
    """

    kind: ClassVar[str]

    def __init__(self, vocabulary: Iterable[str]) -> None:
        self.vocabulary: tuple[str, ...] = tuple(vocabulary)
        if not self.vocabulary:
            raise DataError(f"{type(self).__name__}: the vocabulary is empty: was there no text to fit it to?")
        if len(set(self.vocabulary)) < len(self.vocabulary):
            twice = next(name for name, count in Counter(self.vocabulary).items() if count > 1)
            raise DataError(f"{type(self).__name__}: the vocabulary holds {twice!r} twice")
        # The smallest unsigned integers that hold every id.
        self.dtype: np.dtype[Any] = np.min_scalar_type(len(self.vocabulary) - 1)

    @classmethod
    @abstractmethod
    def fit(cls, text: str | Iterable[str]) -> Self:
        """Make a tokenizer for a text, which may come in pieces."""

    @abstractmethod
    def encode(self, text: str) -> Ids:
        """Return the ids of a text."""

    @abstractmethod
    def decode(self, ids: ArrayLike | Tensor) -> str:
        """Return the text that ids stand for."""

    def encode_chunks(self, chunks: Iterable[str]) -> Iterator[Ids]:
        """Give the ids of a text that comes in pieces, cut anywhere; together they are those of the whole text."""
        return map(self.encode, chunks)

    @property
    def vocab_size(self) -> int:
        """How many ids there are."""
        return len(self.vocabulary)

    def to_json(self) -> dict[str, Any]:
        """Return what `tokenizer_from_json` makes this tokenizer of again."""
        return {"kind": self.kind, "vocabulary": list(self.vocabulary)}

    def _checked(self, ids: ArrayLike | Tensor) -> NDArray[np.integer[Any]]:
        """Return ids as an array of one axis.

        Raises:
            DataError: they are not whole numbers from 0 to the vocabulary's size − 1.
        """
        array = np.asarray(ids.numpy() if isinstance(ids, Tensor) else ids).reshape(-1)
        # Floats too: `get_batch` makes float32 of ids. A list of none is float64.
        if array.dtype.kind not in "iuf" or not (array == np.floor(array)).all():
            raise DataError(f"{type(self).__name__}: ids are whole numbers, got {array.dtype}")
        whole = array.astype(np.int64)
        if whole.size and not (whole.min() >= 0 and whole.max() < self.vocab_size):
            wrong = int(whole.min() if whole.min() < 0 else whole.max())
            raise DataError(f"{type(self).__name__}: ids are from 0 to {self.vocab_size - 1}, got {wrong}")
        return whole

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.vocab_size:,} {self.kind})"


class CharacterTokenizer(Tokenizer):
    """An id for each character of the text that it was fitted to, in the order of Unicode.

    Args:
        vocabulary: the characters, one each.

    Raises:
        DataError: one of them is not a single character; when encoding: a character is not among them.

    Example:
        >>> from needle.data import CharacterTokenizer
        >>> tokenizer = CharacterTokenizer.fit("hello")
        >>> tokenizer.vocabulary
        ('e', 'h', 'l', 'o')
        >>> tokenizer.encode("hole")
        array([1, 3, 2, 0], dtype=uint8)
        >>> tokenizer.decode([1, 0])
        'he'
    """

    kind = "characters"

    def __init__(self, vocabulary: Iterable[str]) -> None:
        super().__init__(vocabulary)
        for one in self.vocabulary:
            if len(one) != 1 or "\ud800" <= one <= "\udfff":
                raise DataError(f"CharacterTokenizer: the vocabulary holds single characters, got {one!r}")
        self._codes = _code_points("".join(self.vocabulary))
        self._id_of_code = np.full(int(self._codes.max()) + 1, -1, dtype=np.int32)
        self._id_of_code[self._codes] = np.arange(self.vocab_size)

    @classmethod
    def fit(cls, text: str | Iterable[str]) -> Self:
        """Make a tokenizer for the characters of a text, which may come in pieces."""
        found: set[str] = set()
        for piece in _in_pieces(text):
            found.update(piece)
        return cls(sorted(found))

    def encode(self, text: str) -> Ids:
        """Return the ids of a text's characters.

        Raises:
            DataError: a character is unknown; says which, and where.
        """
        codes = _code_points(text)
        known = codes < len(self._id_of_code)
        ids = np.where(known, self._id_of_code[np.where(known, codes, 0)], -1)
        if (ids < 0).any():
            raise self._unknown(text, int((ids < 0).argmax()))
        return ids.astype(self.dtype)

    def _unknown(self, text: str, place: int) -> DataError:
        one = text[place]
        return DataError(
            f"CharacterTokenizer: {one!r} (U+{ord(one):04X}) at position {place} is none of the {self.vocab_size:,} "
            f"characters that it was fitted to: fit it to text that holds this one too, or use ByteTokenizer"
        )

    def decode(self, ids: ArrayLike | Tensor) -> str:
        """Return the text that ids stand for."""
        return self._codes[self._checked(ids)].tobytes().decode("utf-32-le")


def _code_points(text: str) -> NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


class ByteTokenizer(Tokenizer):
    """The bytes of a text in UTF-8: 256 ids that any text can be written with, and nothing to fit.

    Args:
        vocabulary: the bytes in hexadecimal, "00" to "ff"; nothing else is possible, so that it can be left out.

    Raises:
        DataError: the vocabulary is another.

    Example:
        >>> from needle.data import ByteTokenizer
        >>> ByteTokenizer().encode("né")
        array([110, 195, 169], dtype=uint8)
        >>> ByteTokenizer().decode([110, 195, 169])
        'né'
    """

    kind = "bytes"
    _names = tuple(f"{byte:02x}" for byte in range(256))

    def __init__(self, vocabulary: Iterable[str] = _names) -> None:
        super().__init__(vocabulary)
        if self.vocabulary != self._names:
            raise DataError("ByteTokenizer: the vocabulary is the 256 bytes from '00' to 'ff'")

    @classmethod
    def fit(cls, text: str | Iterable[str]) -> Self:
        """Make a tokenizer. The text is not looked at."""
        return cls()

    def encode(self, text: str) -> Ids:
        """Return the bytes of a text."""
        return np.frombuffer(text.encode("utf-8", "surrogatepass"), dtype=np.uint8)

    def decode(self, ids: ArrayLike | Tensor) -> str:
        """Return the text that bytes stand for; � takes the place of bytes that are no UTF-8."""
        return self._checked(ids).astype(np.uint8).tobytes().decode("utf-8", "replace")


class WordTokenizer(Tokenizer):
    """An id for each word, which is what white space separates; a newline is the word `<eos>`.

    Words that it does not know become `<unk>`. White space other than newlines comes back from `decode` as one blank.

    Args:
        vocabulary: the words; `<unk>` and `<eos>` are among them.

    Raises:
        DataError: `<unk>` or `<eos>` is missing.

    Example:
        >>> from needle.data import WordTokenizer
        >>> tokenizer = WordTokenizer.fit("to be or not to be")
        >>> tokenizer.vocabulary
        ('<unk>', '<eos>', 'to', 'be', 'or', 'not')
        >>> tokenizer.decode(tokenizer.encode("be   whole\\nor not"))
        'be <unk>\\nor not'
    """

    kind = "words"
    unknown: ClassVar[str] = "<unk>"
    _pattern = re.compile(r"\n|\S+")

    def __init__(self, vocabulary: Iterable[str]) -> None:
        super().__init__(vocabulary)
        self._id_of_word = {word: number for number, word in enumerate(self.vocabulary)}
        for special in (self.unknown, END_OF_LINE):
            if special not in self._id_of_word:
                raise DataError(f"WordTokenizer: the vocabulary lacks {special}")

    @classmethod
    def fit(cls, text: str | Iterable[str], max_words: int | None = None) -> Self:
        """Make a tokenizer for the words of a text, which may come in pieces.

        Args:
            text: the text.
            max_words: keep only so many, those that come most often; all where None.
        """
        counts: Counter[str] = Counter()
        for words in cls._pieces(_in_pieces(text)):
            counts.update(words)
        special = (cls.unknown, END_OF_LINE)
        for one in special:
            counts.pop(one, None)
        return cls((*special, *(word for word, _ in counts.most_common(max_words))))

    def encode(self, text: str) -> Ids:
        """Return the ids of a text's words."""
        return self._numbers(self._words(text))

    def encode_chunks(self, chunks: Iterable[str]) -> Iterator[Ids]:
        """Give the ids of a text that comes in pieces, cut anywhere; together they are those of the whole text."""
        return map(self._numbers, self._pieces(chunks))

    def decode(self, ids: ArrayLike | Tensor) -> str:
        """Return the words that ids stand for, with blanks between them."""
        words = (self.vocabulary[number] for number in self._checked(ids).tolist())
        text = " ".join("\n" if word == END_OF_LINE else word for word in words)
        return text.replace(" \n", "\n").replace("\n ", "\n")

    def _numbers(self, words: Sequence[str]) -> Ids:
        unknown, id_of_word = self._id_of_word[self.unknown], self._id_of_word
        return np.fromiter((id_of_word.get(word, unknown) for word in words), self.dtype, len(words))

    @classmethod
    def _words(cls, text: str) -> list[str]:
        return [END_OF_LINE if word == "\n" else word for word in cls._pattern.findall(text)]

    @classmethod
    def _pieces(cls, chunks: Iterable[str]) -> Iterator[list[str]]:
        """Give the words of each piece, but for one at its end that the next piece may go on with."""
        rest = ""
        for chunk in chunks:
            text = rest + chunk
            rest = _begun_word(text)
            yield cls._words(text.removesuffix(rest))
        yield cls._words(rest)


def _begun_word(text: str) -> str:
    """Return what follows the last white space: a word that may go on."""
    return text.rsplit(maxsplit=1)[-1] if text and not text[-1].isspace() else ""


def _in_pieces(text: str | Iterable[str]) -> Iterable[str]:
    return [text] if isinstance(text, str) else text


_KINDS: dict[str, type[Tokenizer]] = {one.kind: one for one in (CharacterTokenizer, ByteTokenizer, WordTokenizer)}


def make_tokenizer(kind: str, vocabulary: Iterable[str]) -> Tokenizer:
    """Make a tokenizer of a kind: "characters", "bytes" or "words".

    Raises:
        DataError: the kind is unknown, or the vocabulary does not fit it.
    """
    if kind not in _KINDS:
        raise DataError(f"unknown kind of tokenizer {kind!r}: known are {', '.join(_KINDS)}")
    return _KINDS[kind](vocabulary)


def tokenizer_from_json(row: object) -> Tokenizer:
    """Make the tokenizer again that `to_json` described.

    Raises:
        DataError: this is no such description.

    Example:
        >>> from needle.data import CharacterTokenizer, tokenizer_from_json
        >>> tokenizer_from_json(CharacterTokenizer.fit("abc").to_json())
        CharacterTokenizer(3 characters)
    """
    if not isinstance(row, dict) or row.keys() != {"kind", "vocabulary"}:
        raise DataError("a tokenizer is a JSON object with exactly kind and vocabulary")
    kind, vocabulary = row["kind"], row["vocabulary"]
    if not isinstance(vocabulary, (list, tuple)) or not all(isinstance(one, str) for one in vocabulary):
        raise DataError("a tokenizer's vocabulary is a list of text")
    return make_tokenizer(str(kind), vocabulary)
