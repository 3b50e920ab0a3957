import itertools
import threading

import numpy as np
import pytest
from reading import Images, Noise, Troubled

import needle as ndl
from needle.data import DataLoader, NDArrayDataset, RandomCrop, RandomFlipHorizontal, SubsetSampler
from needle.device import random
from needle.errors import DataError, DTypeError

X, Y = np.arange(46.0).reshape(23, 2), np.arange(23)
DATA = NDArrayDataset(X, Y)


def labels(loader):
    return [y.numpy().tolist() for _, y in loader]


def test_loader_gives_tuples_of_constant_tensors():
    batches = list(DataLoader(DATA, 5))
    assert [type(b) for b in batches] == [tuple] * 5
    assert all(isinstance(t, ndl.Tensor) and not t.requires_grad and t.device == ndl.cpu() for b in batches for t in b)
    np.testing.assert_array_equal(np.concatenate([x.numpy() for x, _ in batches]), X)
    assert [x.shape for x, _ in batches] == [(5, 2)] * 4 + [(3, 2)]
    assert batches[0][0].dtype == np.float64 and batches[0][1].dtype == np.int64


def test_loader_defaults_to_batches_of_one():
    x, y = next(iter(DataLoader(DATA)))
    assert x.shape == (1, 2) and y.shape == (1,)


def test_loader_batches_share_no_memory_with_the_data_set():
    data = NDArrayDataset(np.zeros((4, 2)))
    (x,) = next(iter(DataLoader(data, 4)))
    x.cached_data[:] = 1
    assert not data.arrays[0].any()


def test_loader_draws_one_permutation_an_epoch_and_none_in_the_constructor():
    np.random.seed(0)
    loader = DataLoader(DATA, 4, shuffle=True)
    epochs = [labels(loader) for _ in range(2)]
    after = np.random.rand()
    np.random.seed(0)
    for epoch in epochs:
        order = np.random.permutation(23)
        assert epoch == [order[i : i + 4].tolist() for i in range(0, 23, 4)]
    assert np.random.rand() == after


def test_loader_without_shuffle_draws_nothing():
    np.random.seed(0)
    labels(DataLoader(DATA, 4))
    first = np.random.rand()
    np.random.seed(0)
    assert np.random.rand() == first


def test_loader_augmentation_draws_item_by_item_when_a_batch_is_asked_for():
    np.random.seed(0)
    iterator = iter(DataLoader(Images([RandomCrop(1), RandomFlipHorizontal()]), 3, shuffle=True))
    for count in (3, 3):
        next(iterator)
        marks = [np.random.rand()]
        assert count == len(marks) * 3
    state = np.random.get_state()[1:3]
    np.random.seed(0)
    np.random.permutation(23)
    for _ in range(2):
        for _ in range(3):
            np.random.randint(low=-1, high=2, size=2)
            np.random.rand()
        np.random.rand()
    np.testing.assert_equal(np.random.get_state()[1:3], state)


def test_loader_ordering():
    loader = DataLoader(DATA, 10)
    assert [o.tolist() for o in loader.ordering] == [list(range(10)), list(range(10, 20)), [20, 21, 22]]
    loader = DataLoader(DATA, 10, shuffle=True)
    assert loader.ordering is None
    assert labels(loader) == [o.tolist() for o in loader.ordering]


def test_loader_iterators_are_independent():
    loader = DataLoader(DATA, 12)
    assert [(a, b) for a in labels(loader) for b in labels(loader)] == list(itertools.product(labels(loader), repeat=2))
    nested = [(int(a[1].numpy()[0]), int(b[1].numpy()[0])) for a in loader for b in loader]
    assert nested == [(0, 0), (0, 12), (12, 0), (12, 12)]


def test_loader_zip_of_two():
    shuffled, plain = DataLoader(DATA, 6, shuffle=True), DataLoader(DATA, 6)
    pairs = list(zip(shuffled, plain, strict=True))
    assert len(pairs) == 4
    assert sorted(np.concatenate([a[1].numpy() for a, _ in pairs]).tolist()) == list(range(23))
    assert labels(plain) == [b[1].numpy().tolist() for _, b in pairs]


def test_loader_next_goes_on_with_the_epoch_begun_last():
    loader = DataLoader(DATA, 10)
    with pytest.raises(DataError, match="comes after iter"):
        next(loader)
    iter(loader)
    assert [next(loader)[1].numpy()[0] for _ in range(3)] == [0, 10, 20]
    for _ in range(2):
        with pytest.raises(StopIteration):
            next(loader)
    iter(loader)
    assert next(loader)[1].numpy()[0] == 0


def test_loader_drop_last_and_len():
    assert (len(DataLoader(DATA, 5)), len(DataLoader(DATA, 5, drop_last=True)), len(DataLoader(DATA, 23))) == (5, 4, 1)
    assert [len(b) for b in labels(DataLoader(DATA, 5, drop_last=True))] == [5] * 4


def test_loader_sampler():
    loader = DataLoader(DATA, 2, sampler=SubsetSampler([5, 3, 9], shuffle=False))
    assert (len(loader), labels(loader)) == (2, [[5, 3], [9]])
    assert labels(DataLoader(DATA, 2, sampler=[1, 1, 4])) == [[1, 1], [4]]


def test_loader_collates_dicts_lone_arrays_and_nested_results():
    class Dicts(Images):
        def __getitem__(self, index):
            return {"image": np.full(2, index), "label": index}

    batch = next(iter(DataLoader(Dicts(), 3)))
    assert set(batch) == {"image", "label"} and batch["image"].shape == (3, 2)
    batch = next(iter(DataLoader([np.ones(2), np.zeros(2)], 2)))
    assert type(batch) is tuple and batch[0].shape == (2, 2)


def test_loader_collate_gets_items_and_keeps_what_is_no_array():
    def collate(items):
        return {"x": np.stack([x for x, _ in items]), "names": [f"no. {y}" for _, y in items], "n": len(items)}

    batch = next(iter(DataLoader(DATA, 2, collate=collate)))
    assert isinstance(batch["x"], ndl.Tensor) and batch["names"] == ["no. 0", "no. 1"] and batch["n"] == 2


def test_loader_reads_subclasses_that_index_their_own_way_item_by_item():
    class Doubled(NDArrayDataset):
        def __getitem__(self, index):
            assert isinstance(index, int)
            x, y = super().__getitem__(index)
            return x * 2, y

    x, _ = next(iter(DataLoader(Doubled(X, Y), 3)))
    np.testing.assert_array_equal(x.numpy(), X[:3] * 2)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: DataLoader(DATA, 0), DataError, "batch_size must be 1 or more, got 0"),
        (lambda: DataLoader(DATA, -2), DataError, "batch_size must be 1 or more, got -2"),
        (lambda: DataLoader(DATA, 2.5), DTypeError, "batch_size must be a whole number, got 2.5"),
        (lambda: DataLoader(DATA, num_workers=-1), DataError, "num_workers must be 0 or more, got -1"),
        (lambda: DataLoader(DATA, prefetch=-1), DataError, "prefetch must be 0 or more, got -1"),
        (lambda: DataLoader(DATA, workers="fork"), DataError, 'workers must be "thread" or "process", got \'fork\''),
        (lambda: DataLoader(DATA, timeout=0), DataError, "timeout must be more than 0 seconds"),
        (lambda: DataLoader([]), DataError, "the data set is empty"),
        (lambda: DataLoader(DATA, sampler=[]), DataError, "nothing to load"),
        (lambda: DataLoader(DATA, 24, drop_last=True), DataError, "of 23 items, which is less than batch_size = 24"),
        (lambda: DataLoader(DATA, shuffle=True, sampler=[1]), DataError, "leave out shuffle=True"),
        (lambda: list(DataLoader(DATA, sampler=[40])), DataError, "index 40 is out of range for 23 items"),
        (lambda: list(DataLoader([np.ones(1), np.ones(2)], 2)), DataError, r"field 0 differs in shape .* \(1,\) and"),
        (lambda: list(DataLoader([(1, 2), (1,)], 2)), DataError, r"different numbers of fields: \[1, 2\]"),
        (lambda: list(DataLoader([{"a": 1}, {"b": 1}], 2)), DataError, "different keys"),
        (lambda: list(DataLoader([("a", 1)])), DataError, "items of type <U1 cannot be put into a Tensor"),
        (lambda: list(DataLoader(Troubled("stop"), 4)), DataError, "item 9 of Troubled raised StopIteration"),
    ],
)
def test_loader_errors(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_loader_says_which_item_failed():
    with pytest.raises(KeyError, match="no such picture") as caught:
        list(DataLoader(Troubled("fail"), 4))
    assert caught.value.__notes__ == ["while reading item 9 of Troubled"]


def test_loader_data_set_that_has_become_empty():
    data = [np.ones(1)]
    loader = DataLoader(data)
    data.clear()
    with pytest.raises(DataError, match="the data set is empty"):
        iter(loader)


@pytest.mark.parametrize("taken", [0, 1, 4, 6])
def test_loader_state_resumes_in_the_middle_of_an_epoch(taken):
    def batches(loader):
        return [(x.numpy().tolist(), y.numpy().tolist()) for x, y in loader]

    def new():
        return DataLoader(Images([Noise()]), 4, shuffle=True)

    np.random.seed(0)
    loader = new()
    expected = batches(loader) + batches(loader)
    np.random.seed(0)
    loader = new()
    got = batches(itertools.islice(loader, taken))
    saved, generator = loader.state_dict(), random.get_state()
    np.random.seed(99)
    resumed = new()
    resumed.load_state_dict(saved)
    random.set_state(generator)
    if 0 < taken < 6:
        got += batches(resumed)
    got += batches(resumed)
    assert got == expected[: len(got)] and len(got) == (6 if taken == 0 else 12)


def test_loader_state_between_epochs_begins_anew():
    loader = DataLoader(DATA, 10)
    assert loader.state_dict() == {"order": None, "position": 0, "batch_size": 10}
    list(loader)
    assert loader.state_dict()["order"] is None
    loader.load_state_dict(loader.state_dict())
    assert len(list(loader)) == 3


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"order": None, "position": 0, "batch_size": 3}, "the state is of batch_size 3, this loader has 10"),
        ({"order": [23], "position": 0, "batch_size": 10}, "index 23 is out of range"),
        ({"order": [1], "position": 2, "batch_size": 10}, "position 2 is not within the epoch's 1 batches"),
    ],
)
def test_loader_state_of_another_loader(state, message):
    with pytest.raises(DataError, match=message):
        DataLoader(DATA, 10).load_state_dict(state)


def test_loader_with_a_bare_function_reads_in_the_calling_thread():
    threads = set()

    def augment(image):
        threads.add(threading.get_ident())
        return image + np.random.rand()

    def read(num_workers):
        np.random.seed(0)
        return [x.numpy() for x, _ in DataLoader(Images([augment]), 4, shuffle=True, num_workers=num_workers)]

    for a, b in zip(read(0), read(2), strict=True):
        np.testing.assert_array_equal(a, b)
    assert threads == {threading.get_ident()}
