"""Epochs and runs of them, against the same steps in plain NumPy."""

import json

import numpy as np
import pytest

import needle as ndl
from needle import nn, optim
from needle.autograd import Tensor
from needle.errors import DataError, TrainingError
from needle.train import EarlyStopping, EpochResult, evaluate_epoch, fit, metrics_jsonl, train_epoch


def as_batches(images, labels, size):
    """Return a list of batches: what a loader without shuffling gives."""
    cuts = range(0, len(images), size)
    return [(Tensor.make_const(images[i : i + size]), Tensor.make_const(labels[i : i + size])) for i in cuts]


@pytest.fixture
def data():
    generator = np.random.default_rng(0)
    images = generator.random((11, 2, 3)).astype(np.float32)
    return images, generator.integers(0, 4, 11)


def losses(model, images, labels):
    z = images.reshape(len(images), -1) @ model.weight.numpy() + model.bias.numpy()
    z = z - z.max(axis=1, keepdims=True)
    log_p = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
    return -log_p[np.arange(len(labels)), labels], log_p.argmax(axis=1) != labels, np.exp(log_p)


def test_evaluate_epoch_gives_every_sample_the_same_weight(data):
    model = nn.Linear(6, 4)
    each, wrong, _ = losses(model, *data)
    result = evaluate_epoch(model, as_batches(*data, 4), nn.SoftmaxLoss())
    assert result.loss == pytest.approx(each.mean(), rel=1e-6)
    assert result.error == pytest.approx(wrong.mean())
    assert result.samples == 11
    assert result.samples_per_second == pytest.approx(11 / result.seconds)


def test_evaluate_epoch_changes_nothing_and_records_no_graph(data):
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Linear(5, 4))
    before = model.state_dict()
    seen = []

    def loss_fn(logits, labels):
        seen.append(logits.requires_grad)
        return nn.SoftmaxLoss()(logits, labels)

    state = np.random.get_state()[1].copy()
    results = [evaluate_epoch(model, as_batches(*data, 4), loss_fn) for _ in range(2)]
    assert results[0].loss == results[1].loss
    assert seen == [False] * 6
    assert not model.training
    np.testing.assert_array_equal(np.random.get_state()[1], state)
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value, before[name])


def test_train_epoch_takes_the_steps_of_gradient_descent(data):
    images, labels = data
    model = nn.Linear(6, 4)
    weight, bias = model.weight.numpy(), model.bias.numpy()
    expected = []
    reference = nn.Linear(6, 4)
    for start in (0, 4, 8):
        x, y = images[start : start + 4].reshape(-1, 6), labels[start : start + 4]
        reference.weight.data, reference.bias.data = Tensor(weight), Tensor(bias)
        each, _, p = losses(reference, x, y)
        expected += list(each)
        slope = (p - np.eye(4)[y]) / len(y)
        weight = (weight - 0.5 * x.T @ slope).astype(np.float32)
        bias = (bias - 0.5 * slope.sum(axis=0)).astype(np.float32)
    result = train_epoch(model, as_batches(*data, 4), optim.SGD(model.parameters(), lr=0.5), nn.SoftmaxLoss())
    np.testing.assert_allclose(model.weight.numpy(), weight, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(model.bias.numpy(), bias, rtol=1e-5, atol=1e-6)
    assert result.loss == pytest.approx(np.mean(expected), rel=1e-5)


def test_train_epoch_calls_back_before_each_step_and_after_each_batch(data):
    model = nn.Linear(6, 4)
    events = []
    train_epoch(
        model,
        as_batches(*data, 4),
        optim.SGD(model.parameters()),
        nn.SoftmaxLoss(),
        before_step=lambda: events.append(model.weight.grad is not None),
        after_batch=lambda so_far: events.append(so_far.samples),
    )
    assert events == [True, 4, True, 8, True, 11]


def test_train_epoch_stops_before_the_step_that_would_spread_a_loss_that_is_not_finite(data):
    images, labels = data
    images[5] = np.nan
    model = nn.Linear(6, 4)
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(TrainingError, match=r"the loss is nan at step 2 of the epoch.*Try a smaller learning rate"):
        train_epoch(model, as_batches(images, labels, 4), optimizer, nn.SoftmaxLoss())
    assert np.isfinite(model.weight.numpy()).all()


def test_evaluate_epoch_reports_a_loss_that_is_not_finite(data):
    images, labels = data
    images[10] = np.inf
    with pytest.raises(TrainingError, match="in batch 3 of the evaluation"):
        evaluate_epoch(nn.Linear(6, 4), as_batches(images, labels, 4), nn.SoftmaxLoss())


@pytest.mark.parametrize("run", [evaluate_epoch, None])
def test_epochs_over_no_data_are_an_error(run):
    model = nn.Linear(6, 4)
    with pytest.raises(DataError, match="the data set is empty"):
        if run is None:
            train_epoch(model, [], optim.SGD(model.parameters()), nn.SoftmaxLoss())
        else:
            run(model, [], nn.SoftmaxLoss())


def test_an_epoch_in_no_time_has_no_finite_throughput():
    assert EpochResult(0.0, 0.0, 5, 0.0).samples_per_second == float("inf")


# ------------------------------------------------------------------------------------------------ many epochs


def make_run(data, epochs=3, lr=0.5, **settings):
    model = nn.Linear(6, 4)
    optimizer = optim.SGD(model.parameters(), lr=lr)
    batches = as_batches(*data, 4)
    return fit(model, optimizer, nn.SoftmaxLoss(), batches, batches, epochs=epochs, **settings), model, optimizer


def test_fit_gives_a_row_after_each_epoch_and_learns(data):
    run, model, _ = make_run(data, epochs=30)
    rows = list(run)
    assert [row["epoch"] for row in rows] == list(range(1, 31))
    assert [row["step"] for row in rows] == list(range(3, 91, 3))
    assert rows[-1]["test_loss"] < rows[0]["test_loss"]
    assert rows[-1]["test_loss"] == pytest.approx(losses(model, *data)[0].mean(), rel=1e-5)


def test_fit_stops_where_its_caller_leaves_the_loop(data):
    run, model, _ = make_run(data)
    next(run)
    after_one = model.weight.numpy()
    run.close()
    np.testing.assert_array_equal(model.weight.numpy(), after_one)


def test_fit_records_the_learning_rate_of_each_epochs_last_step(data):
    rows = list(make_run(data, epochs=2, lr=lambda step: 1 / (step + 1))[0])
    assert [row["lr"] for row in rows] == [1 / 3, 1 / 6]
    assert next(make_run(data)[0])["lr"] == 0.5


def test_fit_calls_back_before_each_step(data):
    model = nn.Linear(6, 4)
    optimizer = optim.SGD(model.parameters(), lr=0.5)
    norms = []
    batches = as_batches(*data, 4)
    clip = lambda: norms.append(optimizer.clip_grad_norm(1e-6))
    before = model.weight.numpy()
    next(fit(model, optimizer, nn.SoftmaxLoss(), batches, batches, epochs=1, before_step=clip))
    assert len(norms) == 3
    np.testing.assert_allclose(model.weight.numpy(), before, atol=2e-6)


def test_fit_measures_the_test_data_with_its_own_loss(data):
    run, _, _ = make_run(data, test_loss_fn=lambda logits, labels: ndl.Tensor(7.0))
    assert next(run)["test_loss"] == 7.0


def test_fit_reports_every_batch_with_its_epoch(data):
    seen = []
    run, _, _ = make_run(data, epochs=2, after_batch=lambda epoch, so_far: seen.append((epoch, so_far.samples)))
    list(run)
    assert seen == [(1, 4), (1, 8), (1, 11), (2, 4), (2, 8), (2, 11)]


def test_fit_says_in_which_epoch_and_step_the_loss_stopped_being_finite(data):
    run, _, _ = make_run(data, lr=lambda step: float("inf") if step == 3 else 0.1)
    with pytest.raises(TrainingError, match=r"epoch 2, step 5 of the run: the loss is \w+ at step 2 of the epoch"):
        list(run)
    run, _, _ = make_run(data, lr=lambda step: float("inf") if step == 5 else 0.1)
    with pytest.raises(TrainingError, match=r"epoch 2, after step 6 of the run: the loss is \w+ in batch 1 of the"):
        list(run)


def test_metrics_are_one_json_object_a_line(data):
    rows = list(make_run(data)[0])
    assert [json.loads(line) for line in metrics_jsonl(rows).splitlines()] == rows


def test_early_stopping_waits_for_its_patience_and_wants_a_real_gain():
    stop = EarlyStopping(patience=2, min_delta=0.1)
    assert [stop(value) for value in (1.0, 0.95, 0.8, 0.75, 0.71)] == [False, False, False, False, True]
    assert stop.best == 0.8
