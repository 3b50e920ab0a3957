"""Generated images."""

import hashlib

import numpy as np
import pytest

from needle.data import ShapesDataset
from needle.errors import DataError


def test_images_are_the_same_everywhere_and_ask_no_generator():
    np.random.seed(0)
    state = np.random.get_state()[1].copy()
    one, other = ShapesDataset(count=30), ShapesDataset(count=30)
    np.testing.assert_array_equal(one.images, other.images)
    np.testing.assert_array_equal(np.random.get_state()[1], state)
    sums = {
        hashlib.sha256(dataset.images.tobytes()).hexdigest()
        for dataset in (one, ShapesDataset(train=False, count=30), ShapesDataset(count=30, seed=1))
    }
    assert len(sums) == 3


def test_items_have_the_format_of_cifar_10():
    shapes = ShapesDataset(count=25)
    image, label = shapes[7]
    assert (image.shape, image.dtype) == ((3, 32, 32), np.float32)
    assert 0 <= image.min() < image.max() <= 1
    images, labels = shapes[:25]
    assert images.shape == (25, 3, 32, 32)
    np.testing.assert_array_equal(labels, np.arange(25) % 10)
    assert shapes.class_names[label] == "columns"
    turned = ShapesDataset(count=3, transforms=[lambda x: x[::-1]])  # seen as (H, W, C)
    np.testing.assert_array_equal(turned[1][0], shapes[1][0][:, ::-1])


def test_shapes_look_like_their_names():
    shapes = ShapesDataset(count=400)
    images = shapes[:400][0].mean(axis=1)
    varies = lambda axis: images.mean(axis=3 - axis).std(axis=1).reshape(40, 10).mean(axis=0)
    down, right = varies(1), varies(2)
    bars, columns, checks = (shapes.class_names.index(name) for name in ("bars", "columns", "checks"))
    assert down[bars] > 5 * right[bars]
    assert right[columns] > 5 * down[columns]
    assert max(down[checks], right[checks]) < 0.5 * down[bars]


def test_there_may_be_none_but_not_fewer():
    assert len(ShapesDataset(count=0)) == 0
    assert ShapesDataset(count=0)[:][0].shape == (0, 3, 32, 32)
    with pytest.raises(DataError, match="count is 0 or more, got -1"):
        ShapesDataset(count=-1)
