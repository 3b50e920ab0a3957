"""Metrics against formulas written for one sample at a time."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from needle.errors import DataError, SettingError, ShapeError
from needle.train import F1, Accuracy, ConfusionMatrix, ErrorRate, Perplexity, TopKAccuracy

CLASSES = 4
METRICS = [
    *(Accuracy(), ErrorRate(), TopKAccuracy(2), TopKAccuracy(9), Perplexity(), ConfusionMatrix(CLASSES)),
    *(F1(CLASSES), F1(CLASSES, "micro"), F1(CLASSES, "weighted")),
]


def by_hand(metric, logits, labels):
    """Compute a figure in loops, from its definition."""
    said = [max(range(CLASSES), key=lambda c: (row[c], -c)) for row in logits]
    right = sum(s == y for s, y in zip(said, labels, strict=True))
    match metric:
        case ErrorRate():
            return 1 - right / len(labels)
        case Accuracy():
            return right / len(labels)
        case TopKAccuracy():
            ranks = [sorted(range(CLASSES), key=lambda c: (-row[c], c)) for row in logits]
            return sum(y in rank[: metric.k] for rank, y in zip(ranks, labels, strict=True)) / len(labels)
        case Perplexity():
            p = [np.exp(row)[y] / np.exp(row).sum() for row, y in zip(logits, labels, strict=True)]
            return np.prod([one ** (-1 / len(labels)) for one in p])
        case F1():
            return f1_by_hand(metric.average, said, labels)
        case _:
            counts = np.zeros((CLASSES, CLASSES), int)
            for y, s in zip(labels, said, strict=True):
                counts[y, s] += 1
            return counts


def f1_by_hand(average, said, labels):
    pairs = list(zip(said, labels, strict=True))
    tp = [sum(s == y == c for s, y in pairs) for c in range(CLASSES)]
    fp = [sum(s == c != y for s, y in pairs) for c in range(CLASSES)]
    fn = [sum(y == c != s for s, y in pairs) for c in range(CLASSES)]
    if average == "micro":
        return 2 * sum(tp) / (2 * sum(tp) + sum(fp) + sum(fn))
    scores = [2 * t / (2 * t + p + n) if t + p + n else 0.0 for t, p, n in zip(tp, fp, fn, strict=True)]
    if average == "macro":
        return sum(scores) / CLASSES
    return sum(score * (t + n) for score, t, n in zip(scores, tp, fn, strict=True)) / len(labels)


def name(metric):
    return f"{metric.name}-{metric.average}" if isinstance(metric, F1) else metric.name


@pytest.mark.parametrize("metric", METRICS, ids=name)
@given(seed=st.integers(0, 10_000), size=st.integers(1, 12), data=st.data())
def test_a_metric_is_its_definition_however_the_samples_are_cut(metric, seed, size, data):
    generator = np.random.default_rng(seed)
    logits = generator.integers(-2, 3, (size, CLASSES)).astype(np.float64)  # with ties
    labels = generator.integers(0, CLASSES, size)
    expected = by_hand(metric, logits, labels)
    cut = data.draw(st.integers(0, size))
    metric.reset()
    for part in (slice(0, cut), slice(cut, None)):
        if len(labels[part]):
            metric.update(logits[part], labels[part])
    np.testing.assert_allclose(metric.compute(), expected, rtol=1e-9)
    metric.reset()
    metric.add(metric.sums(logits[cut:], labels[cut:]))  # sums made elsewhere
    metric.add(metric.sums(logits[:cut], labels[:cut]))
    np.testing.assert_allclose(metric.compute(), expected, rtol=1e-9)


def test_targets_may_have_several_axes():
    logits = np.random.default_rng(0).standard_normal((2, 3, CLASSES))
    labels = logits.argmax(axis=-1)
    for metric in (Accuracy(), TopKAccuracy(1)):
        metric.update(logits, labels)
        assert metric.compute() == 1.0


def test_logits_that_are_nan_are_never_right():
    metric = TopKAccuracy(2)
    metric.update(np.full((3, CLASSES), np.nan), np.zeros(3, int))
    assert metric.compute() == 0.0


def test_a_perplexity_of_huge_losses_is_finite():
    metric = Perplexity()
    metric.update(np.array([[0.0, 1e6]]), np.array([0]))
    assert np.isfinite(metric.compute())


@pytest.mark.parametrize(
    ("use", "error", "message"),
    [
        (lambda: Accuracy().compute(), DataError, "'accuracy': there was no batch"),
        (lambda: Accuracy().update(np.zeros((3, 2)), np.zeros(2, int)), ShapeError, r"got \(3, 2\) and \(2,\)"),
        (lambda: Accuracy().update(np.zeros((2, 2)), np.zeros(2)), DataError, "whole numbers, got float64"),
        (lambda: Accuracy().update(np.zeros((2, 2)), np.array([0, 2])), DataError, "from 0 to 1, got 0 to 2"),
        (lambda: F1(3).update(np.zeros((2, 2)), np.array([0, 1])), ShapeError, r"'f1' is of 3 classes"),
        (lambda: TopKAccuracy(0), SettingError, "k is 1 or more, got 0"),
        (lambda: F1(0), SettingError, "num_classes is 1 or more"),
        (lambda: F1(2, "most"), SettingError, "average is macro, micro or weighted, got 'most'"),
    ],
)
def test_mistakes_are_told(use, error, message):
    with pytest.raises(error, match=message):
        use()
