"""The later homeworks' scripts, against the same loops in plain NumPy."""

import numpy as np
import pytest

import needle as ndl
from needle import nn
from needle.data import DataLoader, NDArrayDataset

CLASSES = 5


def softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def step_of(logits, labels):
    """Return the right ones, the mean loss and its slope."""
    p = softmax(logits)
    rows = np.arange(len(labels))
    slope = (p - np.eye(p.shape[1])[labels]) / len(labels)
    return int((p.argmax(axis=1) == labels).sum()), -np.log(p[rows, labels]).mean(), slope


class Bigrams(nn.Module):
    """Logits from a table, and a running sum of them as the state, in the way of a recurrent layer.

    Formula: logits_t = table[x_t] + 0.1 · h, h' = h/2 + mean over t of table[x_t].
    """

    def __init__(self, kind=lambda h: h):
        np.random.seed(7)
        self.table = nn.Parameter(ndl.init.randn(CLASSES, CLASSES, dtype="float64"))
        self.kind = kind
        self.calls = []

    def forward(self, x, h=None):
        self.calls.append((x, h, self.training))
        rows = self.table[x.astype("int64")]  # (T, B, C)
        state = ndl.init.zeros(*rows.shape[1:], dtype="float64") if h is None else (h[0] if isinstance(h, tuple) else h)
        logits = (rows + 0.1 * state).reshape((-1, CLASSES))
        return logits, self.kind(state * 0.5 + rows.mean(0))


def bigram_epoch(table, data, seq_len, lr=None, clip=None):
    """Do what the loop does with `Bigrams`, the slope by hand: none goes through the state."""
    correct, losses, h = 0, [], 0.0
    for row in range(0, len(data) - 1, seq_len):
        length = min(seq_len, len(data) - 1 - row)
        x, y = data[row : row + length], data[row + 1 : row + 1 + length].reshape(-1)
        rows = table[x]
        right, loss, slope = step_of((rows + 0.1 * h).reshape(-1, CLASSES), y)
        h = h * 0.5 + rows.mean(0)
        correct += right
        losses += [loss] * len(y)
        if lr is not None:
            total = np.zeros_like(table)
            np.add.at(total, x.reshape(-1), slope)
            norm = np.sqrt((total**2).sum())
            table = table - lr * total * (1 if clip is None else min(1, clip / norm))
    return table, correct / len(losses), np.mean(losses)


@pytest.fixture
def text():
    return np.random.default_rng(3).integers(0, CLASSES, (12, 3))


@pytest.mark.parametrize("seq_len", [1, 4, 5, 11, 40])
def test_evaluate_ptb_averages_over_words(simple_ml, text, seq_len):
    model = Bigrams()
    found = simple_ml.evaluate_ptb(model, text.astype(np.float32), seq_len)
    _, accuracy, loss = bigram_epoch(model.table.numpy(), text, seq_len)
    assert found == pytest.approx((accuracy, loss), rel=1e-12)


@pytest.mark.parametrize("clip", [None, 0.05])
def test_train_ptb_takes_the_steps_of_gradient_descent(simple_ml, text, clip):
    model = Bigrams()
    table = model.table.numpy().copy()
    found = simple_ml.train_ptb(model, text.astype(np.float32), 4, n_epochs=3, lr=0.7, clip=clip)
    for _ in range(3):
        table, *figures = bigram_epoch(table, text, 4, 0.7, clip)
    assert found == pytest.approx(figures, rel=1e-10)
    np.testing.assert_allclose(model.table.numpy(), table, rtol=1e-10)


@pytest.mark.parametrize("kind", [lambda h: h, lambda h: (h, h * 2)], ids=["tensor", "tuple"])
def test_ptb_carries_the_state_without_its_graph(simple_ml, text, kind):
    model = Bigrams(kind)
    simple_ml.epoch_general_ptb(text, model, 5, opt=ndl.optim.SGD(model.parameters()), dtype="float64")
    assert [x.shape for x, _, _ in model.calls] == [(5, 3), (5, 3), (1, 3)]
    assert [x.dtype for x, _, _ in model.calls] == ["float64"] * 3
    np.testing.assert_array_equal(np.concatenate([x.numpy() for x, _, _ in model.calls]), text[:11])
    assert model.calls[0][1] is None
    for _, h, training in model.calls[1:]:
        assert all(part.is_leaf() for part in (h if isinstance(h, tuple) else (h,)))
        assert training


def test_evaluation_changes_nothing_and_sets_the_mode(simple_ml, text):
    model = Bigrams()
    before = model.table.numpy().copy()
    assert simple_ml.evaluate_ptb(model, text) == simple_ml.epoch_general_ptb(text, model)
    np.testing.assert_array_equal(model.table.numpy(), before)
    assert not any(training for _, _, training in model.calls)


# --------------------------------------------------------------------------------------------------- images


@pytest.fixture
def images():
    generator = np.random.default_rng(5)
    return generator.standard_normal((11, 6)), generator.integers(0, CLASSES, 11)


def linear_epoch(weight, bias, data, batch, lr=None):
    correct, losses = 0, []
    for start in range(0, len(data[1]), batch):
        x, y = (part[start : start + batch] for part in data)
        right, loss, slope = step_of(x @ weight + bias, y)
        correct += right
        losses += [loss] * len(y)
        if lr is not None:
            weight, bias = weight - lr * x.T @ slope, bias - lr * slope.sum(0)
    return weight, bias, correct / len(losses), np.mean(losses)


def test_train_cifar10_takes_the_steps_of_gradient_descent(simple_ml, images):
    model = nn.Linear(6, CLASSES, dtype="float64")
    weight, bias = model.weight.numpy().copy(), model.bias.numpy().copy()
    loader = DataLoader(NDArrayDataset(*images), 4)
    found = simple_ml.train_cifar10(model, loader, 3, ndl.optim.SGD, lr=0.2, weight_decay=0.0)
    for _ in range(3):
        weight, bias, *figures = linear_epoch(weight, bias, images, 4, 0.2)
    assert found == pytest.approx(figures, rel=1e-10)
    np.testing.assert_allclose(model.weight.numpy(), weight, rtol=1e-10)
    *_, accuracy, loss = linear_epoch(weight, bias, images, 4)
    assert simple_ml.evaluate_cifar10(model, loader) == pytest.approx((accuracy, loss), rel=1e-10)
    assert not model.training


def test_train_cifar10_is_adam_with_a_penalty_by_default(simple_ml, images):
    loader = DataLoader(NDArrayDataset(*images), 4)
    models = [nn.Linear(6, CLASSES) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    simple_ml.train_cifar10(models[0], loader)
    opt = ndl.optim.Adam(models[1].parameters(), lr=0.001, weight_decay=0.001)
    simple_ml.epoch_general_cifar10(loader, models[1], nn.SoftmaxLoss(), opt)
    np.testing.assert_array_equal(models[0].weight.numpy(), models[1].weight.numpy())


@pytest.mark.parametrize("name", ["train_cifar10", "evaluate_cifar10"])
def test_cifar10_figures_do_not_depend_on_what_was_drawn_before(simple_ml, images, name):
    loader = DataLoader(NDArrayDataset(*images), 4, shuffle=True)
    figures = []
    for _ in range(2):
        model = nn.Sequential(nn.Linear(6, CLASSES), nn.Dropout(0.5))
        model[0].weight.cached_data[...] = 0.1
        model[0].bias.cached_data[...] = 0
        figures.append(getattr(simple_ml, name)(model, loader))
    assert figures[0] == figures[1]


def test_epochs_keep_no_tensors(simple_ml, text):
    model = Bigrams()
    counts = []
    for _ in range(3):
        model.calls.clear()
        simple_ml.train_ptb(model, text, 5)
        model.calls.clear()
        model.table.grad = None
        counts.append(ndl.autograd.TENSOR_COUNTER)
    assert counts[1] == counts[2]


# --------------------------------------------------------------------------------------------------- models


def test_importing_models_seeds_numpy_with_zero(models):
    drawn = np.random.rand(3)
    np.random.seed(0)
    np.testing.assert_array_equal(drawn, np.random.rand(3))


def test_resnet9_learns_a_few_images(simple_ml, models):
    generator = np.random.default_rng(0)
    labels = np.arange(12) % 3
    pictures = generator.random((3, 3, 32, 32))[labels] + 0.1 * generator.standard_normal((12, 3, 32, 32))
    loader = DataLoader(NDArrayDataset(pictures.astype(np.float32), labels), 6)
    model = models.ResNet9()
    accuracy, loss = simple_ml.train_cifar10(model, loader, 4)
    assert accuracy == 1.0
    assert loss < 0.5
