import numpy as np
import pytest

from needle.data import NDArrayDataset, RandomSampler, SequentialSampler, SubsetSampler, WeightedSampler
from needle.device import random
from needle.errors import DataError, DTypeError

DATA = NDArrayDataset(np.arange(7))


def drawn(sampler, reference):
    """The sampler's indices, after checking that it draws what the reference draws and nothing else."""
    np.random.seed(2)
    indices = list(sampler)
    state = np.random.rand()
    np.random.seed(2)
    expected = reference()
    assert np.random.rand() == state
    assert len(indices) == len(sampler) and all(type(i) is int for i in indices)
    return indices, expected


def test_sequential_sampler_draws_nothing():
    indices, _ = drawn(SequentialSampler(DATA), lambda: None)
    assert indices == list(range(7))
    assert list(SequentialSampler(3)) == [0, 1, 2]


def test_random_sampler_draws_one_permutation():
    indices, expected = drawn(RandomSampler(DATA), lambda: np.random.permutation(7))
    assert indices == expected.tolist()
    indices, expected = drawn(RandomSampler(7, num_samples=3), lambda: np.random.permutation(7))
    assert indices == expected[:3].tolist()


def test_random_sampler_with_replacement_draws_integers():
    sampler = RandomSampler(DATA, replacement=True, num_samples=20)
    indices, expected = drawn(sampler, lambda: np.random.randint(0, 7, 20))
    assert indices == expected.tolist()


def test_weighted_sampler_inverts_the_running_sum():
    weights = np.array([0.0, 1.0, 3.0, 0.0, 6.0, 0.0])
    indices, uniform = drawn(WeightedSampler(weights, 4000), lambda: np.random.rand(4000))
    expected = [next(i for i in range(6) if weights[: i + 1].sum() > u * 10) for u in uniform]
    assert indices == expected
    np.testing.assert_allclose(np.bincount(indices, minlength=6) / 4000, weights / 10, atol=0.03)


def test_weighted_sampler_never_takes_weight_zero_at_the_ends(monkeypatch):
    monkeypatch.setattr(random, "rand", lambda count: np.array([0.0, np.nextafter(1, 0)]))
    assert list(WeightedSampler([0.0, 0.1, 0.2, 0.0], 2)) == [1, 2]


def test_weighted_sampler_without_replacement_has_the_right_chances():
    """The first is i with chance wᵢ / Σw; the second then j with chance wⱼ / (Σw − wᵢ)."""
    sampler = WeightedSampler([1.0, 2.0, 0.0, 5.0], 2, replacement=False)
    indices, _ = drawn(sampler, lambda: np.random.rand(4))
    assert len(set(indices)) == 2
    pairs = [tuple(sampler) for _ in range(4000)]
    share = sum(pair == (3, 1) for pair in pairs) / 4000
    assert abs(share - 5 / 8 * 2 / 3) < 0.03
    assert not any(2 in pair for pair in pairs)


def test_subset_sampler():
    indices, expected = drawn(SubsetSampler([5, 2, 9]), lambda: np.random.permutation(3))
    assert indices == np.array([5, 2, 9])[expected].tolist()
    indices, _ = drawn(SubsetSampler([5, 2, 9], shuffle=False), lambda: None)
    assert indices == [5, 2, 9]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: RandomSampler(3, num_samples=4), DataError, "cannot draw 4 of 3 items without replacement"),
        (lambda: RandomSampler(-3), DataError, "cannot have -3 items"),
        (lambda: SequentialSampler(True), DTypeError, "got a bool"),
        (lambda: WeightedSampler([-1.0, 2.0]), DataError, "finite numbers, 0 or more"),
        (lambda: WeightedSampler([np.nan]), DataError, "finite numbers, 0 or more"),
        (lambda: WeightedSampler([0.0]), DataError, "cannot draw 1 items: 0 weights are more than 0"),
        (lambda: WeightedSampler([1.0, 0.0], replacement=False), DataError, "cannot draw 2 items: 1 weights"),
        (lambda: SubsetSampler([0.5]), DataError, "whole numbers"),
    ],
)
def test_sampler_errors(make, error, message):
    with pytest.raises(error, match=message):
        make()
