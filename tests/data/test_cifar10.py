import io
import os
import pickle
import struct
import tarfile

import numpy as np
import pytest

from needle.data import CIFAR10Dataset, DataLoader, MissingFileError
from needle.data import cifar10 as module
from needle.errors import DataError

RNG = np.random.default_rng(0)


def python2_pickle(pixels, labels):
    """The bytes that Python 2's cPickle writes for a batch with protocol 2, instruction by instruction."""

    def text(value):
        return b"U" + bytes([len(value)]) + value

    def count(value):
        return b"M" + struct.pack("<H", value)

    def items(parts):
        return b"](" + b"".join(parts) + b"e"

    raw = pixels.tobytes()
    shape = count(pixels.shape[0]) + count(pixels.shape[1]) + b"\x86"
    dtype = b"cnumpy\ndtype\nq\x08" + text(b"u1") + b"K\x00K\x01\x87R"
    dtype += b"(K\x03" + text(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\nq\x05cnumpy\nndarray\nK\x00\x85" + text(b"b") + b"\x87R"
    array += b"(K\x01" + shape + dtype + b"\x89" + b"T" + struct.pack("<I", len(raw)) + raw + b"tb"
    names = items([text(b"a.png") + b"r\x00\x01\x00\x00"] * len(labels))
    content = b"".join(
        [
            *(text(b"data") + b"q\x02" + array, text(b"labels"), items([b"K" + bytes([y]) for y in labels])),
            *(text(b"batch_label") + text(b"training batch 1 of 5"), text(b"filenames") + names),
        ]
    )
    return b"\x80\x02}q\x01(" + content + b"u."


def python3_pickle(protocol, keys=bytes):
    def write(pixels, labels):
        key = (lambda name: name.encode()) if keys is bytes else str
        return pickle.dumps({key("data"): pixels, key("labels"): [int(y) for y in labels]}, protocol=protocol)

    return write


def binary(pixels, labels):
    return np.concatenate([labels.astype(np.uint8)[:, None], pixels], axis=1).tobytes()


WRITERS = {
    "Python 2": (python2_pickle, ""),
    "protocol 2": (python3_pickle(2), ""),
    "protocol 4": (python3_pickle(4), ""),
    "protocol 3": (python3_pickle(3, str), ""),
    "binary": (binary, ".bin"),
}


def write_batches(folder, write, suffix):
    folder.mkdir(parents=True, exist_ok=True)
    batches = {}
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        pixels, labels = RNG.integers(0, 256, (3, 3072), dtype=np.uint8), RNG.integers(0, 10, 3)
        (folder / (name + suffix)).write_bytes(write(pixels, labels))
        batches[name] = pixels, labels
    return batches


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("within", [".", "cifar-10-batches-py"])
def test_cifar10_reads_its_batches_in_order(tmp_path, kind, within):
    batches = write_batches(tmp_path / within, *WRITERS[kind])
    train, test = CIFAR10Dataset(str(tmp_path), train=True), CIFAR10Dataset(tmp_path, train=False)
    assert (len(train), len(test)) == (15, 3)
    pixels = np.concatenate([batches[f"data_batch_{i}"][0] for i in range(1, 6)]).reshape(-1, 3, 32, 32)
    image, label = item = train[4]
    assert isinstance(item, tuple) and image.shape == (3, 32, 32) and image.dtype == np.float32
    np.testing.assert_array_equal(image, pixels[4] / np.float32(255))
    assert label == batches["data_batch_2"][1][1]
    np.testing.assert_array_equal(train[3:6][0], pixels[3:6] / np.float32(255))
    np.testing.assert_array_equal(train.X, pixels / np.float32(255))
    np.testing.assert_array_equal(train[4][0], image)  # also after X was asked for
    assert train.X.dtype == np.float32 and train.y.tolist()[:3] == batches["data_batch_1"][1].tolist()
    np.testing.assert_array_equal(test.y, batches["test_batch"][1])


def test_cifar10_X_and_y_can_be_set_and_changed(tmp_path):
    write_batches(tmp_path, binary, ".bin")
    dataset = CIFAR10Dataset(tmp_path, True, 0.5)
    dataset.X[0] = 0.25
    assert (dataset[0][0] == 0.25).all()
    dataset.X, dataset.y = dataset.X[:2], dataset.y[:2]
    assert len(dataset) == 2 and dataset[:][0].shape == (2, 3, 32, 32)


def test_cifar10_transforms_see_channels_last(tmp_path):
    write_batches(tmp_path, binary, ".bin")
    shapes = []
    plain = CIFAR10Dataset(tmp_path, True)
    flipped = CIFAR10Dataset(tmp_path, True, transforms=[lambda i: shapes.append(i.shape) or i[:, ::-1]])
    np.testing.assert_array_equal(flipped[2][0], plain[2][0][:, :, ::-1])
    (batch, _), *_ = DataLoader(flipped, 4)
    assert batch.shape == (4, 3, 32, 32) and batch.cached_data.flags.c_contiguous
    assert set(shapes) == {(32, 32, 3)}


class Evil:
    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


class Plain:
    pass


HOSTILE = {
    "a call": (pickle.dumps({b"data": Evil(os.mkdir, "made")}, 2), "asks for a call of posix mkdir"),
    "a call of eval": (pickle.dumps({b"data": Evil(eval, "1")}, 4), "asks for a call of builtins eval"),
    "old instructions": (b"cos\nmkdir\n(S'made'\ntR.", "asks for a call of os mkdir"),
    "an instance": (b"(S'made'\nios\nmkdir\n.", "holds the instruction INST"),
    "a new object": (pickle.dumps({"data": Plain()}, 2), "holds the instruction NEWOBJ|call"),
    "a state": (b"}}b.", "fills a dict"),
    "floats": (pickle.dumps({"data": np.zeros((1, 3072)), "labels": [0]}, 2), "arrays hold f8, expected unsigned"),
    "an extension": (b"\x80\x02\x82\x01.", "holds the instruction EXT1"),
    "an outside reference": (b"\x80\x02Q.", "holds the instruction BINPERSID"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_cifar10_never_runs_what_a_pickle_asks_for(tmp_path, kind, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content, message = HOSTILE[kind]
    (tmp_path / "test_batch").write_bytes(content)
    with pytest.raises(DataError, match=f"test_batch: not a batch of CIFAR-10: .*({message})"):
        CIFAR10Dataset(tmp_path, train=False)
    assert [p.name for p in tmp_path.iterdir()] == ["test_batch"]


GOOD = python2_pickle(np.zeros((2, 3072), np.uint8), [1, 2])
DAMAGED = {
    "empty": (b"", "damaged or cut off"),
    "cut": (GOOD[:-50], "damaged or cut off"),
    "cut in the pixels": (GOOD[:3000], "damaged or cut off"),
    "text": (b"hello", "damaged or cut off|not a batch"),
    "a list": (pickle.dumps([1]), "not a batch of CIFAR-10: expected a dict, got list"),
    "no labels": (pickle.dumps({"data": 1}), r"not a batch of CIFAR-10: expected data and labels, got \['data'\]"),
    "too few labels": (python2_pickle(np.zeros((2, 3072), np.uint8), [1]), r"n labels, got \(2, 3072\) and 1 labels"),
    "other images": (python2_pickle(np.zeros((2, 3000), np.uint8), [1, 2]), r"expected data \(n, 3072\) and n labels"),
    "label out of range": (python2_pickle(np.zeros((1, 3072), np.uint8), [10]), "labels must be from 0 to 9"),
    "label of text": (pickle.dumps({"data": np.zeros((1, 3072), np.uint8), "labels": ["a"]}, 2), "must be whole"),
    "an empty stack": (b"\x80\x02\x85.", "damaged or cut off"),
    "nothing remembered": (b"\x80\x02h\x05.", "damaged or cut off"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_cifar10_damage_is_one_clear_error(tmp_path, kind):
    content, message = DAMAGED[kind]
    (tmp_path / "test_batch").write_bytes(content)
    with pytest.raises(DataError, match=f"test_batch: .*({message})"):
        CIFAR10Dataset(tmp_path, train=False)


def test_cifar10_damaged_pickles_never_raise_anything_else(tmp_path):
    good = python2_pickle(np.zeros((1, 3072), np.uint8), [1])
    generator = np.random.default_rng(1)
    places = [i for i in range(len(good)) if not 200 < i < 3100]
    refused = 0
    for _ in range(400):
        content = bytearray(good)
        content[generator.choice(places)] = generator.integers(256)
        (tmp_path / "test_batch").write_bytes(content)
        try:
            read = CIFAR10Dataset(tmp_path, train=False)
        except DataError:
            refused += 1
        else:  # a byte that does not matter, a pixel, or another label
            assert read.images.shape == (1, 3, 32, 32)
            assert 0 <= read.labels[0] <= 9
    assert 100 < refused < 400


def test_cifar10_binary_of_the_wrong_length(tmp_path):
    (tmp_path / "test_batch.bin").write_bytes(bytes(3073 * 2 - 1))
    with pytest.raises(DataError, match="expected a multiple of 3,073 bytes, a label and an image each, got 6,145"):
        CIFAR10Dataset(tmp_path, train=False)


def test_cifar10_missing_files(tmp_path):
    (tmp_path / "data_batch_1").write_bytes(GOOD)
    with pytest.raises(
        MissingFileError, match=rf"{tmp_path} does not hold all of data_batch_1, .*download\(\) fetches"
    ):
        CIFAR10Dataset(tmp_path, train=True)


def archive(path, names):
    with tarfile.open(path, "w:gz") as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = len(GOOD)
            tar.addfile(member, io.BytesIO(GOOD))


def test_cifar10_unpacks_the_batches_and_nothing_else(tmp_path, monkeypatch):
    names = [f"cifar-10-batches-py/{n}" for n in ("test_batch", *(f"data_batch_{i}" for i in range(1, 6)))]
    outside = ["../evil", "/evil", "cifar-10-batches-py/../../evil", "cifar-10-batches-py/readme.html"]
    monkeypatch.setattr(module, "download", lambda url, path, **_: archive(path, names + outside) or path)
    folder = tmp_path / "cifar"
    folder.mkdir()
    assert len(CIFAR10Dataset.download(folder, train=False)) == 2
    assert sorted(p.name for p in folder.rglob("*") if p.is_file()) == sorted(
        ["cifar-10-python.tar.gz", *(n.split("/")[1] for n in names)]
    )
    assert [p.name for p in tmp_path.iterdir()] == ["cifar"]
    monkeypatch.setattr(module, "download", None)
    assert len(CIFAR10Dataset.download(folder)) == 10  # they are there: nothing to fetch


def test_cifar10_damaged_archive(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "download", lambda url, path, **_: path.write_bytes(b"\x1f\x8b\x08no") and path)
    with pytest.raises(DataError, match=r"cifar-10-python\.tar\.gz: damaged"):
        CIFAR10Dataset.download(tmp_path, train=False)
