"""MNIST, Fashion-MNIST and the digits that come with the package."""

import gzip
import hashlib

import numpy as np
import pytest
from idx_bytes import idx_bytes

from needle.data import (
    DataLoader,
    DigitsDataset,
    FashionMNISTDataset,
    MissingFileError,
    MNISTDataset,
    RandomCrop,
    digits,
)
from needle.errors import DataError


def test_mnist_items_are_flat_floats(mnist_files):
    paths, images, labels = mnist_files
    dataset = MNISTDataset(*map(str, paths))
    assert len(dataset) == 12
    image, label = dataset[3]
    assert image.shape == (784,) and image.dtype == np.float32 and label == labels[3]
    np.testing.assert_array_equal(image, images[3].reshape(784).astype(np.float32) / np.float32(255))
    assert dataset[-1][1] == labels[11]
    with pytest.raises(IndexError):
        dataset[12]


@pytest.mark.parametrize(
    "index", [slice(2, 7), slice(None), [5, 0, 5], np.array([1, -1]), slice(0, 0), [], [True] * 12]
)
def test_mnist_slices_and_index_arrays_are_batches(mnist_files, index):
    paths, images, labels = mnist_files
    for transforms in (None, [lambda image: image]):
        batch, batch_labels = MNISTDataset(*paths, transforms=transforms)[index]
        expected = images[index].reshape(-1, 784) / np.float32(255)
        assert batch.shape == expected.shape and batch.dtype == np.float32
        np.testing.assert_array_equal(batch, expected)
        np.testing.assert_array_equal(batch_labels, labels[index])


def test_mnist_transforms_see_one_image_with_a_channel_axis_in_order(mnist_files):
    paths, images, _ = mnist_files
    seen = []

    def transform(image):
        seen.append(image)
        return image[::-1]

    dataset = MNISTDataset(*paths, transforms=[transform])
    batch, _ = dataset[[4, 2]]
    assert [image.shape for image in seen] == [(28, 28, 1)] * 2
    np.testing.assert_array_equal(batch, images[[4, 2], ::-1].reshape(2, 784) / np.float32(255))
    assert dataset[1][0].shape == (784,)


def test_mnist_transforms_draw_item_by_item(mnist_files):
    paths, _, _ = mnist_files
    np.random.seed(3)
    MNISTDataset(*paths, transforms=[RandomCrop(2)])[2:5]
    state = np.random.get_state()[1:3]
    np.random.seed(3)
    for _ in range(3):
        np.random.randint(low=-2, high=3, size=2)
    np.testing.assert_equal(np.random.get_state()[1:3], state)


def test_mnist_transforms_can_be_set_later(mnist_files):
    dataset = MNISTDataset(*mnist_files[0])
    dataset.transforms = [lambda image: image * 0]
    assert not dataset[:][0].any()


def test_mnist_images_are_not_changed_through_items(mnist_files):
    dataset = MNISTDataset(*mnist_files[0])
    dataset[0][0][:] = 5
    dataset[:][0][:] = 5
    assert dataset[:][0].max() <= 1


def test_mnist_counts_must_agree(mnist_files):
    (images, labels), _, _ = mnist_files
    labels.write_bytes(gzip.compress(idx_bytes(np.zeros(11, np.uint8))))
    with pytest.raises(DataError, match=f"^{images} holds 12 images, {labels} 11 labels$"):
        MNISTDataset(images, labels)


def test_mnist_swapped_files_and_other_types(mnist_files, tmp_path):
    (images, labels), _, _ = mnist_files
    with pytest.raises(DataError, match=f"^{images}: expected 1 axes"):
        MNISTDataset(labels, images)
    floats = tmp_path / "floats"
    floats.write_bytes(idx_bytes(np.zeros(12, ">f4"), code=0x0D))
    with pytest.raises(DataError, match=f"^{floats}: expected unsigned bytes, got float32"):
        MNISTDataset(images, floats)


def test_mnist_missing_file_says_how_to_get_it(tmp_path):
    with pytest.raises(MissingFileError, match=r"there is no file .*: FashionMNISTDataset.download\(\) fetches"):
        FashionMNISTDataset.from_folder(tmp_path)


def test_mnist_from_a_folder_packed_or_not(mnist_files, tmp_path):
    (images, _), expected, _ = mnist_files
    assert len(MNISTDataset.from_folder(tmp_path)) == 12
    (tmp_path / "train-images-idx3-ubyte").write_bytes(gzip.decompress(images.read_bytes()))
    images.unlink()
    np.testing.assert_array_equal(MNISTDataset.from_folder(tmp_path).images, expected)
    assert len(MNISTDataset.download(tmp_path)) == 12  # both are there: nothing to fetch


def test_mnist_whole_batches_are_read_in_one_call(mnist_files, monkeypatch):
    indices = []
    read = MNISTDataset.__getitem__
    monkeypatch.setattr(MNISTDataset, "__getitem__", lambda self, index: indices.append(index) or read(self, index))
    assert [len(y.numpy()) for _, y in DataLoader(MNISTDataset(*mnist_files[0]), 5)] == [5, 5, 2]
    assert [i.tolist() for i in indices] == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11]]


def test_mnist_real_files(real_data):
    """The MD5 sums of the unpacked files are those of the original distribution."""
    for train, image_sum, label_sum in (
        (True, "6bbc9ace898e44ae57da46a324031adb", "a25bea736e30d166cdddb491f175f624"),
        (False, "2646ac647ad5339dbf082846283269ea", "27ae3e4e09519cfbb04c329615203637"),
    ):
        dataset = MNISTDataset.from_folder(real_data / "mnist", train)
        for array, expected in ((dataset.images, image_sum), (dataset.labels.astype(np.uint8), label_sum)):
            assert hashlib.md5(idx_bytes(array), usedforsecurity=False).hexdigest() == expected


def test_digits_are_the_published_ones():
    """First image, counts and sum as in the data's text file."""
    train, test = DigitsDataset(), DigitsDataset(train=False)
    assert (len(train), len(test)) == (1442, 355)
    labels = np.concatenate([train.labels, test.labels])
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert train.images[0, :2].tolist() == [[0, 0, 5, 13, 9, 1, 0, 0], [0, 0, 13, 15, 10, 15, 5, 0]]
    assert int(train.images.sum(dtype=int) + test.images.sum(dtype=int)) == 561718
    assert train.labels[:10].tolist() == list(range(10))


def test_digits_test_set_holds_a_fifth_of_each_digit():
    test = DigitsDataset(train=False)
    totals = np.array([178, 182, 177, 183, 181, 182, 181, 179, 174, 180])
    assert np.bincount(test.labels).tolist() == (totals // 5).tolist()


def test_digits_items_and_transforms():
    shapes = []
    dataset = DigitsDataset(transforms=[lambda image: shapes.append(image.shape) or image[:, ::-1]])
    image, label = dataset[0]
    assert shapes == [(8, 8, 1)] and image.shape == (64,) and image.dtype == np.float32 and label == 0
    np.testing.assert_array_equal(image.reshape(8, 8)[0], np.array([0, 0, 1, 9, 13, 5, 0, 0]) / 16)


def test_digits_name_their_source():
    text = (digits._FOLDER / "LICENSE.txt").read_text()
    for part in ("Alpaydin", "Kaynak", "10.24432/C50P49", "CC BY 4.0"):
        assert part in text
