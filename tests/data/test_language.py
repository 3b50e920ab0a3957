"""Words, characters and bytes as numbers, and the batches and windows made of them."""

import json
import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import needle as ndl
from needle.data import (
    ByteTokenizer,
    CharacterTokenizer,
    Corpus,
    DataLoader,
    Dictionary,
    MissingFileError,
    RandomSampler,
    TokenDataset,
    WordTokenizer,
    batchify,
    encode_file,
    get_batch,
    make_tokenizer,
    text_chunks,
    text_lines,
    tiny_shakespeare,
    tokenizer_from_json,
)
from needle.errors import DataError

TRAIN = " no it was n't \nthe <unk> was\n\nno\n"
TEST = "it was the end"

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60)
words = st.text("ab \n\t\u00a0\u2003é", max_size=40)


@pytest.fixture
def corpus_folder(tmp_path):
    (tmp_path / "train.txt").write_text(TRAIN)
    (tmp_path / "test.txt").write_text(TEST)
    return tmp_path


@pytest.fixture
def write(tmp_path):
    def write(content):
        path = tmp_path / "text.txt"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


# ----------------------------------------------------------------------------------------------- the corpus


def test_dictionary_numbers_words_in_the_order_in_which_they_come():
    dictionary = Dictionary()
    assert [dictionary.add_word(word) for word in ["b", "a", "b", "c", "a"]] == [0, 1, 0, 2, 1]
    assert dictionary.idx2word == ["b", "a", "c"]
    assert dictionary.word2idx == {"b": 0, "a": 1, "c": 2}
    assert len(dictionary) == 3


def test_corpus_numbers_the_words_of_both_files(corpus_folder):
    corpus = Corpus(corpus_folder)
    names = corpus.dictionary.idx2word
    expected = ["no", "it", "was", "n't", "<eos>", "the", "<unk>", "was", "<eos>", "<eos>", "no", "<eos>"]
    assert [names[number] for number in corpus.train] == expected
    assert [names[number] for number in corpus.test] == ["it", "was", "the", "end", "<eos>"]
    assert names == ["no", "it", "was", "n't", "<eos>", "the", "<unk>", "end"]


@pytest.mark.parametrize(("max_lines", "train", "test"), [(0, 0, 0), (1, 5, 5), (3, 10, 5), (9, 12, 5)])
def test_corpus_reads_so_many_lines_of_each_file(corpus_folder, max_lines, train, test):
    corpus = Corpus(str(corpus_folder), max_lines)
    assert (len(corpus.train), len(corpus.test)) == (train, test)


def test_corpus_tokenizes_further_files_with_its_dictionary(corpus_folder, write):
    corpus = Corpus(corpus_folder)
    assert corpus.tokenize(write("no way\nno\n"), max_lines=1) == [0, 8, 4]
    assert len(corpus.dictionary) == 9


def test_corpus_names_the_file_that_is_missing(tmp_path):
    with pytest.raises(MissingFileError, match=r"train\.txt"):
        Corpus(tmp_path)


# ----------------------------------------------------------------------------------- batchify and get_batch


@settings(deadline=None)
@given(st.lists(st.integers(0, 255), max_size=40), st.integers(1, 9), st.sampled_from(["float32", "uint8", None]))
def test_batchify_lays_equal_runs_into_columns(data, batch_size, dtype):
    found = batchify(data, batch_size, ndl.cpu(), dtype)
    length = len(data) // batch_size
    assert found.shape == (length, batch_size)
    assert isinstance(found, np.ndarray) and found.flags.c_contiguous
    if dtype is not None:
        assert found.dtype == dtype
    for j in range(batch_size):
        assert found[:, j].tolist() == data[j * length : (j + 1) * length]


def test_batchify_copies():
    data = np.arange(4.0)
    batchify(data, 1, None, None)[0] = 9
    assert data[0] == 0


@settings(deadline=None)
@given(st.data(), st.integers(2, 12), st.integers(1, 5), st.integers(1, 14))
def test_get_batch_gives_rows_and_what_follows_them(data, rows, columns, bptt):
    batches = batchify(range(rows * columns), columns, ndl.cpu(), "float32")
    i = data.draw(st.integers(0, rows - 2))
    x, y = get_batch(batches, i, bptt)
    length = min(bptt, rows - 1 - i)
    assert (x.shape, y.shape) == ((length, columns), (length * columns,))
    for t in range(length):
        for j in range(columns):
            assert x.numpy()[t, j] == j * rows + i + t
            assert y.numpy()[t * columns + j] == j * rows + i + t + 1


@pytest.mark.parametrize(("dtype", "found"), [(None, "float32"), ("float64", "float64"), (np.dtype("int64"), "int64")])
def test_get_batch_gives_the_dtype_that_is_asked_for(dtype, found):
    x, y = get_batch(np.arange(6, dtype=np.uint8).reshape(3, 2), 0, 2, device=ndl.cpu(), dtype=dtype)
    assert (x.dtype, y.dtype) == (found, found)
    assert not x.requires_grad and not y.requires_grad
    assert x.device == ndl.cpu()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: batchify([1, 2], 0), "batch_size is at least 1, got 0"),
        (lambda: batchify([[1, 2]], 1), r"a sequence of ids, got an array of shape \(1, 2\)"),
        (lambda: get_batch(np.zeros((3, 2)), 2, 1), "from 0 to 1, got 2"),
        (lambda: get_batch(np.zeros((3, 2)), -1, 1), "from 0 to 1, got -1"),
        (lambda: get_batch(np.zeros((3, 2)), 0, 0), "bptt is at least 1"),
    ],
)
def test_batches_say_what_cannot_be(call, message):
    with pytest.raises(DataError, match=message):
        call()


# ------------------------------------------------------------------------------------------------ text files


@settings(deadline=None)
@given(texts, st.integers(1, 70))
def test_text_chunks_together_are_the_text(tmp_path_factory, text, size):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(text, encoding="utf-8", newline="")
    chunks = list(text_chunks(path, size))
    plain = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    assert "".join(chunks) == plain
    assert all(len(chunk) == size for chunk in chunks[:-1])


def test_text_is_read_alike_on_every_system(write):
    path = write(b"\xef\xbb\xbfone\r\ntwo\r\n")
    assert list(text_chunks(path, 2)) == ["on", "e\n", "tw", "o\n"]
    assert list(text_lines(path)) == ["one\n", "two\n"]
    assert list(text_lines(path, 1)) == ["one\n"]


def test_text_that_cannot_be_read_is_named(write, tmp_path):
    for read in (text_chunks, text_lines):
        with pytest.raises(DataError, match=r"text\.txt is not text in UTF-8"):
            list(read(write(b"caf\xe9 au lait")))
        with pytest.raises(MissingFileError, match="nowhere"):
            list(read(tmp_path / "nowhere"))
        with pytest.raises(DataError, match="is not a file"):
            list(read(tmp_path))
    with pytest.raises(DataError, match="at least 1 character"):
        list(text_chunks(write("a"), 0))


def test_chunks_are_read_when_they_are_asked_for(write):
    reader = text_chunks(write(b"good " * 20_000 + b"\xff"), 10)
    assert next(reader) == "good good "


def test_tiny_shakespeare_takes_the_file_that_is_there(tmp_path):
    (tmp_path / "input.txt").write_text("First Citizen:")
    assert tiny_shakespeare(tmp_path) == tmp_path / "input.txt"


# ------------------------------------------------------------------------------------------------ tokenizers


@settings(deadline=None)
@given(texts)
def test_character_tokenizer_gives_back_what_it_was_fitted_to(text):
    tokenizer = CharacterTokenizer.fit(text)
    assert tokenizer.vocabulary == tuple(sorted(set(text)))
    assert tokenizer.vocab_size == len(tokenizer.vocabulary)
    ids = tokenizer.encode(text)
    assert ids.tolist() == [tokenizer.vocabulary.index(one) for one in text]
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode(ids.astype(np.float32)) == tokenizer.decode(ndl.Tensor(ids)) == text


@settings(deadline=None)
@given(texts)
def test_byte_tokenizer_gives_back_any_text(text):
    ids = ByteTokenizer().encode(text)
    assert bytes(ids) == text.encode()
    assert ByteTokenizer.fit(text).decode(ids) == text


def test_byte_tokenizer_stands_half_a_character():
    assert ByteTokenizer().decode([195]) == "�"
    assert ByteTokenizer().vocab_size == 256


@settings(deadline=None)
@given(words)
def test_word_tokenizer_gives_back_words_and_line_ends(text):
    tokenizer = WordTokenizer.fit(text)
    lines = [" ".join(line.split()) for line in text.split("\n")]
    assert tokenizer.decode(tokenizer.encode(text)) == "\n".join(lines)


@settings(deadline=None)
@given(words, st.lists(st.integers(0, 40)))
def test_tokenizers_do_not_mind_where_pieces_are_cut(text, cuts):
    edges = [0, *sorted(cuts), len(text)]
    pieces = [text[start:end] for start, end in pairwise(edges)]
    kinds = [WordTokenizer, ByteTokenizer, *([CharacterTokenizer] if text else [])]
    for kind in kinds:
        tokenizer = kind.fit(pieces)
        assert tokenizer.vocabulary == kind.fit(text).vocabulary
        parts = list(tokenizer.encode_chunks(pieces))
        assert np.concatenate([[], *parts]).tolist() == tokenizer.encode(text).tolist()
        assert all(part.dtype == tokenizer.dtype for part in parts)


def test_word_tokenizer_keeps_the_words_that_come_most_often():
    tokenizer = WordTokenizer.fit("c a b b <unk> a b <unk>", max_words=2)
    assert tokenizer.vocabulary == ("<unk>", "<eos>", "b", "a")
    assert tokenizer.encode("a\nc <unk> b").tolist() == [3, 1, 0, 0, 2]


@pytest.mark.parametrize(("count", "dtype"), [(1, "uint8"), (256, "uint8"), (257, "uint16"), (70_000, "uint32")])
def test_ids_come_in_the_smallest_type_that_holds_them(count, dtype):
    tokenizer = CharacterTokenizer(chr(code) for code in range(0x10000, 0x10000 + count))
    assert tokenizer.encode(tokenizer.vocabulary[-1]).dtype == dtype
    assert tokenizer.encode(tokenizer.vocabulary[-1]).tolist() == [count - 1]


@pytest.mark.parametrize(
    "tokenizer", [CharacterTokenizer.fit("né\n\0"), ByteTokenizer(), WordTokenizer.fit("to be")], ids=lambda t: t.kind
)
def test_tokenizers_survive_json(tokenizer):
    again = tokenizer_from_json(json.loads(json.dumps(tokenizer.to_json())))
    assert type(again) is type(tokenizer)
    assert again.vocabulary == tokenizer.vocabulary
    assert type(make_tokenizer(tokenizer.kind, tokenizer.vocabulary)) is type(tokenizer)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: CharacterTokenizer.fit("abc").encode("cabé"), r"'é' \(U\+00E9\) at position 3 is none of the 3"),
        (lambda: CharacterTokenizer.fit("b").encode("a"), r"U\+0061\) at position 0.*ByteTokenizer"),
        (lambda: CharacterTokenizer.fit("ab").encode("\ud800"), r"U\+D800"),
        (lambda: CharacterTokenizer.fit(""), "no text to fit"),
        (lambda: CharacterTokenizer(["a", "bc"]), "single characters, got 'bc'"),
        (lambda: CharacterTokenizer(["\udc00"]), "single characters"),
        (lambda: CharacterTokenizer("aba"), "holds 'a' twice"),
        (lambda: ByteTokenizer(["00"]), "256 bytes"),
        (lambda: WordTokenizer(["<unk>", "word"]), "lacks <eos>"),
        (lambda: ByteTokenizer().decode([256]), "from 0 to 255, got 256"),
        (lambda: ByteTokenizer().decode([-1]), "from 0 to 255, got -1"),
        (lambda: ByteTokenizer().decode([0.5]), "whole numbers, got float64"),
        (lambda: ByteTokenizer().decode([float("nan")]), "whole numbers"),
        (lambda: ByteTokenizer().decode("text"), "whole numbers, got <U4"),
        (lambda: make_tokenizer("pairs", ["a"]), "unknown kind of tokenizer 'pairs'.*characters, bytes, words"),
        (lambda: tokenizer_from_json(["characters"]), "exactly kind and vocabulary"),
        (lambda: tokenizer_from_json({"kind": "characters", "vocabulary": [1]}), "list of text"),
        (lambda: tokenizer_from_json({"kind": "characters", "vocabulary": "ab"}), "list of text"),
    ],
)
def test_tokenizers_say_what_cannot_be(call, message):
    with pytest.raises(DataError, match=message):
        call()


# --------------------------------------------------------------------------------------------------- windows


@settings(deadline=None)
@given(st.data(), st.integers(2, 40), st.integers(1, 9), st.one_of(st.none(), st.integers(1, 12)))
def test_windows_are_runs_of_ids_and_what_follows(data, count, length, stride):
    length = min(length, count - 1)
    ids = data.draw(st.lists(st.integers(0, 300), min_size=count, max_size=count))
    dataset = TokenDataset(ids, length, stride)
    starts = range(0, count - length, stride or length)
    assert len(dataset) == len(starts)
    for (x, y), start in zip(dataset, starts, strict=True):
        assert x.tolist() == ids[start : start + length]
        assert y.tolist() == ids[start + 1 : start + 1 + length]
    x, y = dataset[::-1]
    assert x.shape == y.shape == (len(starts), length)
    np.testing.assert_array_equal(x[-1], dataset[0][0])
    np.testing.assert_array_equal(dataset[np.array([-1])][1][0], dataset[-1][1])


def test_windows_side_by_side_predict_each_token_once():
    dataset = TokenDataset(range(13), 4)
    assert np.concatenate([y for _, y in dataset]).tolist() == list(range(1, 13))


def test_windows_go_through_a_loader_in_batches():
    dataset = TokenDataset(range(20), 5, stride=1)
    assert dataset[2][0].dtype == np.int64
    np.random.seed(0)
    loader = DataLoader(dataset, 4, sampler=RandomSampler(dataset, replacement=True, num_samples=8))
    batches = list(loader)
    assert [x.shape for x, _ in batches] == [(4, 5), (4, 5)]
    for x, y in batches:
        np.testing.assert_array_equal(y.numpy(), x.numpy() + 1)


def test_ids_are_kept_small_and_not_copied(tmp_path):
    assert TokenDataset([1, 2, 3], 1).ids.dtype == np.uint8
    assert TokenDataset([1, 2, 300], 1).ids.dtype == np.uint16
    ids = np.array([1, 2, 3], dtype=np.uint16)
    assert TokenDataset(ids, 2).ids is ids
    ids.tofile(tmp_path / "ids.bin")
    mapped = TokenDataset(np.memmap(tmp_path / "ids.bin", np.uint16, "r"), 2)
    assert mapped[0][1].tolist() == [2, 3]


@pytest.mark.parametrize("kind", [CharacterTokenizer, ByteTokenizer, WordTokenizer])
def test_a_file_becomes_windows(write, kind):
    text = "to be, or not to be:\nthat is the question\n" * 30
    path = write(text)
    tokenizer = kind.fit(text_chunks(path, 7))
    dataset = TokenDataset.from_file(path, tokenizer, 8, stride=3)
    np.testing.assert_array_equal(dataset.ids, tokenizer.encode(text))
    assert dataset.ids.dtype == np.uint8
    assert (dataset.length, dataset.stride) == (8, 3)


def test_a_file_is_never_whole_in_memory_as_text(write, monkeypatch):
    path = write("abcdefgh" * 400)
    sizes = []

    class Watching(ByteTokenizer):
        def encode(self, text):
            sizes.append(len(text))
            return super().encode(text)

    monkeypatch.setattr("needle.data.tokens.text_chunks", lambda path: text_chunks(path, 100))
    assert encode_file(path, Watching()).tobytes() == path.read_bytes()
    assert sizes == [100] * 32


def test_split_takes_the_end_for_validation():
    train, validation = TokenDataset(range(50), 4, stride=2).split(0.3)
    assert train.ids.tolist() == list(range(35))
    assert validation.ids.tolist() == list(range(35, 50))
    assert (validation.length, validation.stride) == (4, 2)
    assert np.shares_memory(train.ids, TokenDataset(train.ids, 1).ids)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: TokenDataset([1, 2, 3], 3), "3 tokens are too few for a window of 3"),
        (lambda: TokenDataset([], 1), "0 tokens are too few"),
        (lambda: TokenDataset([1, 2, 3], 0), "length is at least 1, got 0"),
        (lambda: TokenDataset([1, 2, 3], 1, 0), "stride is at least 1, got 0"),
        (lambda: TokenDataset([0.5, 1.0], 1), "whole numbers in a row, got float64"),
        (lambda: TokenDataset([[1, 2]], 1), r"shape \(1, 2\)"),
        (lambda: TokenDataset([1, -2], 1), "0 or more, got -2"),
        (lambda: TokenDataset(range(20), 4).split(1.0), "between 0 and 1, got 1.0"),
        (lambda: TokenDataset(range(20), 4).split(0.1), "2 tokens are too few"),
        (lambda: TokenDataset(range(20), 4)[[9]], "out of range"),
    ],
)
def test_windows_say_what_cannot_be(call, message):
    with pytest.raises(DataError, match=message):
        call()


def test_windows_end_like_a_list():
    with pytest.raises(IndexError):
        TokenDataset(range(5), 2)[2]


def test_shakespeare_is_read_whole(real_data):
    path = tiny_shakespeare(real_data / "tinyshakespeare")
    tokenizer = CharacterTokenizer.fit(text_chunks(path))
    assert tokenizer.vocab_size == 65
    train, validation = TokenDataset.from_file(path, tokenizer, 256).split(0.1)
    assert len(train.ids) + len(validation.ids) == 1_115_394
    assert train.ids.nbytes == len(train.ids)
    assert tokenizer.decode(train.ids[:14]) == "First Citizen:"


def test_memory_does_not_grow_with_the_text(tmp_path):
    text, ids = tmp_path / "text.txt", tmp_path / "ids"
    with text.open("w") as file:
        for number in range(800):
            file.write(f"{number} to be or not to be, that is the question\n" * 500)  # 18 MB

    def peak(call):
        tracemalloc.start()
        result = call()
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return result, most

    size = text.stat().st_size
    for kind in (CharacterTokenizer, ByteTokenizer, WordTokenizer):
        tokenizer, most = peak(lambda kind=kind: kind.fit(text_chunks(text, 1 << 16)))
        assert most < size / 2
    found, most = peak(lambda: TokenDataset.from_file(text, ByteTokenizer(), 16, into=ids))
    assert most < size / 2
    assert len(found.ids) == size
    np.testing.assert_array_equal(found.ids, np.fromfile(text, "uint8"))
    assert found.ids.base is not None  # a view of the file
    x, y = found[-1]
    assert ByteTokenizer().decode(x[1:]) == ByteTokenizer().decode(y[:-1])
    assert ids.stat().st_size == size
    np.testing.assert_array_equal(encode_file(text, tokenizer, ids), encode_file(text, tokenizer))


def test_ids_of_nothing_and_ids_that_cannot_be_written(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("")
    assert encode_file(text, ByteTokenizer(), tmp_path / "ids").shape == (0,)
    with pytest.raises(DataError, match="nowhere/ids cannot be written: No such file or directory"):
        encode_file(text, ByteTokenizer(), tmp_path / "nowhere/ids")
