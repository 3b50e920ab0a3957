import numpy as np
import pytest

import needle as ndl
from needle.data import Dataset, NDArrayDataset, RandomCrop, Subset, random_split
from needle.data.dataset import using_draws
from needle.errors import DataError

X, Y = np.arange(12.0).reshape(6, 2), np.arange(6)


class Images(Dataset):
    """Items of one image each, whose transforms are applied `times` times."""

    def __init__(self, transforms=None, times=1):
        super().__init__(transforms)
        self.times = times

    def __len__(self):
        return 5

    def __getitem__(self, index):
        image = np.full((2, 2, 1), float(index))
        for _ in range(self.times):
            image = self.apply_transforms(image)
        return image


def test_dataset_applies_transforms_in_order():
    dataset = Dataset([lambda x: x + 1, lambda x: x * 10])
    assert dataset.apply_transforms(2) == 30
    assert Dataset().transforms is None and Dataset().apply_transforms(2) == 2


def test_dataset_subclass_need_not_call_init():
    class Bare(Dataset):
        def __init__(self):
            pass

    assert Bare().apply_transforms(3) == 3
    for method in (len, lambda d: d[0]):
        with pytest.raises(NotImplementedError, match="Bare"):
            method(Bare())


@pytest.mark.parametrize("index", [3, -1, slice(1, 4), np.array([2, 2, 0]), [True, False] * 3])
def test_ndarray_dataset_indexes_each_array(index):
    x, y = NDArrayDataset(X, Y)[index]
    np.testing.assert_array_equal(x, X[index])
    np.testing.assert_array_equal(y, Y[index])


def test_ndarray_dataset_takes_lists_and_tensors():
    dataset = NDArrayDataset([[1, 2], [3, 4]], ndl.Tensor([5.0, 6.0]))
    assert len(dataset) == 2 and dataset[1][1] == 6.0
    assert [type(a) for a in dataset.arrays] == [np.ndarray] * 2


def test_ndarray_dataset_transforms_its_first_array():
    dataset = NDArrayDataset(X, Y, transforms=[lambda row: row[::-1]])
    np.testing.assert_array_equal(dataset[2][0], [5, 4])
    np.testing.assert_array_equal(dataset[1:3][0], [[3, 2], [5, 4]])
    assert dataset[1:1][0].shape == (0, 2)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [((), "at least one array"), ((X, Y[:5]), r"differ in length: .*\(6, 2\), \(5,\)"), ((3.0,), "differ in length")],
)
def test_ndarray_dataset_errors(arrays, message):
    with pytest.raises(DataError, match=message):
        NDArrayDataset(*arrays)


def test_subset_is_a_view_in_its_own_order():
    subset = Subset(NDArrayDataset(X, Y), [4, 0, -1])
    assert len(subset) == 3 and subset[1][1] == 0 and subset[2][1] == 5
    assert subset[[0, 2]][1].tolist() == [4, 5]
    assert subset[:2][1].tolist() == [4, 0]
    assert subset.takes_index_arrays and not Subset(Images(), [0]).takes_index_arrays
    assert Subset(subset, [1])[0][1] == 0
    transforms = [RandomCrop()]
    assert Subset(Subset(Images(transforms), [0]), [0]).all_transforms() is transforms


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ([6], "index 6 is out of range for 6 items"),
        ([-7, 0], "index -7 is out of range for 6 items"),
        ([0.5], "indices must be whole numbers in a row, got float64"),
        ([[1]], "whole numbers in a row"),
    ],
)
def test_subset_errors(indices, message):
    with pytest.raises(DataError, match=message):
        Subset(NDArrayDataset(X), indices)


@pytest.mark.parametrize(
    ("lengths", "sizes"), [([4, 2], [4, 2]), ([0.5, 0.25, 0.25], [3, 1, 2]), ([1.0], [6]), ([6, 0], [6, 0])]
)
def test_random_split_draws_one_permutation(lengths, sizes):
    np.random.seed(0)
    parts = random_split(NDArrayDataset(Y), lengths)
    order = np.concatenate([part.indices for part in parts])
    state = np.random.rand()
    np.random.seed(0)
    np.testing.assert_array_equal(order, np.random.permutation(6))
    assert np.random.rand() == state
    assert abs(np.array([len(part) for part in parts]) - sizes).max() <= (0 if sizes[0] != 3 else 1)


@pytest.mark.parametrize("lengths", [[3, 2], [0.5, 0.4], [7, -1]])
def test_random_split_errors(lengths):
    with pytest.raises(DataError, match="lengths must"):
        random_split(NDArrayDataset(Y), lengths)


def test_given_draws_are_used_and_none_are_made():
    dataset = Images([RandomCrop(1)])
    np.random.seed(0)
    expected = [dataset[i] for i in (3, 1)]
    np.random.seed(0)
    draws = [(RandomCrop(1).draw(),) for _ in range(2)]
    with using_draws(draws):
        got = [dataset[i] for i in (3, 1)]
    np.testing.assert_array_equal(got, expected)
    assert np.random.rand() != dataset[0][0, 0, 0]  # outside, draws are made again


@pytest.mark.parametrize(
    ("times", "message"), [(2, "Images applied more transforms"), (0, "1 items were read without")]
)
def test_given_draws_must_fit(times, message):
    dataset = Images([RandomCrop(1)], times)
    with pytest.raises(DataError, match=message), using_draws([(np.array([0, 0]),)]):
        dataset[0]
