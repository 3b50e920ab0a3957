"""The trainer against the same steps in plain NumPy, and against itself where it must not matter how it is run."""

import json
import signal
from itertools import pairwise

import numpy as np
import pytest

import needle as ndl
from needle import nn, optim
from needle.autograd import Tensor
from needle.data import DataLoader, NDArrayDataset
from needle.errors import CheckpointError, DataError, SettingError, TrainingError
from needle.train import (
    Accuracy,
    Callback,
    Checkpoints,
    EarlyStopping,
    ErrorRate,
    ExponentialMovingAverage,
    MetricsLog,
    Trainer,
    TrainingInterrupted,
    flat,
    list_checkpoints,
)


def as_batches(images, labels, size):
    """Return a list of batches: what a loader without shuffling gives."""
    cuts = range(0, len(images), size)
    return [(Tensor.make_const(images[i : i + size]), Tensor.make_const(labels[i : i + size])) for i in cuts]


class Flattening(Trainer):
    def forward(self, inputs):
        return self.model(flat(inputs))


def make_trainer(model, optimizer=None, loss_fn=None, **settings):
    optimizer = optimizer or optim.SGD(model.parameters(), lr=0.5)
    return Flattening(model, optimizer, loss_fn or nn.SoftmaxLoss(), **{"progress": False, **settings})


@pytest.fixture
def data():
    generator = np.random.default_rng(0)
    images = generator.random((11, 2, 3)).astype(np.float32)
    return images, generator.integers(0, 4, 11)


both = pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])


def losses(model, images, labels):
    z = images.reshape(len(images), -1) @ model.weight.numpy() + model.bias.numpy()
    z = z - z.max(axis=1, keepdims=True)
    log_p = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
    return -log_p[np.arange(len(labels)), labels], log_p.argmax(axis=1) != labels, np.exp(log_p)


def untimed(rows):
    return [{name: v for name, v in row.items() if name not in {"seconds", "samples_per_second"}} for row in rows]


# -------------------------------------------------------------------------------------------------- the steps


@both
def test_training_takes_the_steps_of_gradient_descent(data, compiled):
    images, labels = data
    model = nn.Linear(6, 4)
    weight, bias = model.weight.numpy(), model.bias.numpy()
    expected, wrong = [], []
    reference = nn.Linear(6, 4)
    for start in (0, 4, 8):
        x, y = images[start : start + 4].reshape(-1, 6), labels[start : start + 4]
        reference.weight.data, reference.bias.data = Tensor(weight), Tensor(bias)
        each, errors, p = losses(reference, x, y)
        expected += list(each)
        wrong += list(errors)
        slope = (p - np.eye(4)[y]) / len(y)
        weight = (weight - 0.5 * x.T @ slope).astype(np.float32)
        bias = (bias - 0.5 * slope.sum(axis=0)).astype(np.float32)
    trainer = make_trainer(model, metrics=[ErrorRate()], compiled=compiled)
    (row,) = trainer.fit(as_batches(*data, 4), epochs=1)
    np.testing.assert_allclose(model.weight.numpy(), weight, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(model.bias.numpy(), bias, rtol=1e-5, atol=1e-6)
    assert row["train_loss"] == pytest.approx(np.mean(expected), rel=1e-5)
    assert row["train_error"] == pytest.approx(np.mean(wrong))
    assert (row["epoch"], row["step"], row["lr"]) == (1, 3, 0.5)


@both
@pytest.mark.parametrize("sizes", [[4, 4, 3], [1, 2, 5, 3], [11]], ids=str)
def test_batches_that_are_accumulated_make_the_step_of_one_that_holds_them_all(data, compiled, sizes):
    found = []
    for cuts, accumulate in ((sizes, len(sizes)), ([11], 1)):
        np.random.seed(0)
        model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4))
        edges = np.cumsum([0, *cuts])
        batches = [tuple(Tensor.make_const(part[a:b]) for part in data) for a, b in pairwise(edges)]
        optimizer = optim.Adam(model.parameters(), lr=0.1)
        trainer = make_trainer(model, optimizer, accumulate=accumulate, compiled=compiled, clip_norm=0.5)
        rows = trainer.fit(batches, epochs=3)
        assert optimizer.t == 3
        found.append((np.concatenate([p.numpy().ravel() for p in model.parameters()]), rows[-1]["train_loss"]))
    np.testing.assert_allclose(found[0][0], found[1][0], rtol=1e-4, atol=1e-5)
    assert found[0][1] == pytest.approx(found[1][1], rel=1e-5)


def test_a_last_window_that_is_short_counts_by_its_own_samples(data):
    model, reference = nn.Linear(6, 4), nn.Linear(6, 4)
    reference.load_state_dict(model.state_dict())
    make_trainer(model, accumulate=2).fit(as_batches(*data, 4), epochs=1)
    make_trainer(reference).fit(
        [tuple(Tensor.make_const(part[a:b]) for part in data) for a, b in ((0, 8), (8, 11))], epochs=1
    )
    np.testing.assert_allclose(model.weight.numpy(), reference.weight.numpy(), rtol=1e-5)


def test_parameters_that_no_loss_depends_on_are_left_alone(data):
    model = nn.Linear(6, 4)
    model.unused = nn.Parameter(np.ones(3, np.float32))
    optimizer = optim.AdamW(model.parameters(), lr=0.1, weight_decay=1.0)
    make_trainer(model, optimizer, accumulate=2).fit(as_batches(*data, 4), epochs=1)
    np.testing.assert_array_equal(model.unused.numpy(), 1)


@both
def test_gradients_are_clipped_together(data, compiled):
    model = nn.Linear(6, 4)
    before = model.state_dict()
    make_trainer(model, clip_norm=1e-3, compiled=compiled).fit(as_batches(*data, 11), epochs=1)
    moved = [model.state_dict()[name] - value for name, value in before.items()]
    norm = np.sqrt(sum((part.astype(np.float64) ** 2).sum() for part in moved))
    assert norm == pytest.approx(0.5e-3, rel=1e-3)


@both
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_mixed_precision_learns_nearly_the_same(data, compiled, precision):
    found = []
    for name in ("float32", precision):
        np.random.seed(0)
        model = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 4))
        optimizer = optim.SGD(model.parameters(), lr=0.1)
        trainer = make_trainer(model, optimizer, precision=name, compiled=compiled, accumulate=2)
        found.append(trainer.fit(as_batches(*data, 4), epochs=20)[-1]["train_loss"])
        assert all(p.dtype == np.float32 for p in model.parameters())
    assert found[0] != found[1]
    assert found[0] == pytest.approx(found[1], rel=0.05)
    assert (trainer.precision.scaler is None) == (precision == "bfloat16")


@both
def test_averaged_weights_follow_the_formula_and_are_what_is_evaluated(data, compiled):
    model = nn.Linear(6, 4)
    averages = {name: value.astype(np.float64) for name, value in model.state_dict().items()}

    class Follow(Callback):
        def on_step(self, trainer):
            t = trainer.optimizer.t - 1
            d = min(0.5, (1 + t) / (10 + t))
            for name, value in model.state_dict().items():
                averages[name] = d * averages[name] + (1 - d) * value

    trainer = make_trainer(model, average_decay=0.5, compiled=compiled, callbacks=[Follow()])
    trainer.fit(as_batches(*data, 2), epochs=3)
    saved = trainer.average.state_dict()
    for name, value in averages.items():
        np.testing.assert_allclose(saved[name], value, rtol=1e-5, atol=1e-6)
    own = model.state_dict()
    averaged = nn.Linear(6, 4)
    averaged.load_state_dict({name: saved[name] for name in own})
    assert trainer.evaluate(as_batches(*data, 4))["loss"] == pytest.approx(losses(averaged, *data)[0].mean(), rel=1e-5)
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value, own[name])


def test_an_average_of_another_model_is_refused():
    one, other = (ExponentialMovingAverage(nn.Linear(n, 2)) for n in (3, 4))
    with pytest.raises(CheckpointError, match="another model: weight"):
        one.load_state_dict(other.state_dict())


# ------------------------------------------------------------------------------------------------- evaluation


@both
def test_evaluation_gives_every_sample_the_same_weight(data, compiled):
    model = nn.Linear(6, 4)
    each, wrong, _ = losses(model, *data)
    trainer = make_trainer(model, metrics=[ErrorRate(), Accuracy()], compiled=compiled)
    found = trainer.evaluate(as_batches(*data, 4))
    assert found["loss"] == pytest.approx(each.mean(), rel=1e-6)
    assert found["error"] == pytest.approx(wrong.mean())
    assert found["accuracy"] == pytest.approx(1 - wrong.mean())


def test_evaluation_and_prediction_change_nothing_and_record_no_graph(data):
    model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Linear(5, 4))
    before = model.state_dict()
    seen = []

    def loss_fn(logits, labels):
        seen.append(logits.requires_grad)
        return nn.SoftmaxLoss()(logits, labels)

    state = np.random.get_state()[1].copy()
    trainer = make_trainer(model, loss_fn=loss_fn, compiled=False)
    results = [trainer.evaluate(as_batches(*data, 4)) for _ in range(2)]
    assert results[0] == results[1]
    assert trainer.predict(as_batches(*data, 4)).shape == (11, 4)
    assert seen == [False] * 6
    assert model.training
    np.testing.assert_array_equal(np.random.get_state()[1], state)
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value, before[name])


@both
def test_predictions_are_the_models_outputs_in_order(data, compiled):
    model = nn.Linear(6, 4)
    expected = data[0].reshape(11, 6) @ model.weight.numpy() + model.bias.numpy()
    trainer = make_trainer(model, compiled=compiled)
    loader = DataLoader(NDArrayDataset(*data), 4)
    for batches in (loader, as_batches(*data, 3), [x for x, _ in loader]):
        np.testing.assert_allclose(trainer.predict(batches), expected, rtol=1e-5)


def test_evaluations_have_names_and_their_own_loss(data):
    trainer = make_trainer(nn.Linear(6, 4), evaluation_loss_fn=lambda logits, labels: ndl.Tensor(7.0))
    batches = as_batches(*data, 4)
    (row,) = trainer.fit(batches, {"test": batches, "other": batches[:1]}, epochs=1)
    assert row["test_loss"] == row["other_loss"] == 7.0
    assert make_trainer(nn.Linear(6, 4)).fit(batches, batches, epochs=1)[0]["valid_loss"] > 0


# --------------------------------------------------------------------------------------------------- mistakes


@both
def test_a_loss_that_is_not_finite_stops_before_the_step_that_would_spread_it(data, compiled):
    images, labels = data
    images[5] = np.nan
    model = nn.Linear(6, 4)
    with pytest.raises(TrainingError, match=r"the loss is nan at step 2, in epoch 1.*Try a smaller learning rate"):
        make_trainer(model, compiled=compiled).fit(as_batches(images, labels, 4), epochs=1)
    assert np.isfinite(model.weight.numpy()).all()


def test_evaluation_reports_a_loss_that_is_not_finite(data):
    data[0][10] = np.inf
    with pytest.raises(TrainingError, match="batch 3 of the evaluation after step 0"):
        make_trainer(nn.Linear(6, 4)).evaluate(as_batches(*data, 4))


def test_epochs_over_no_data_are_an_error():
    trainer = make_trainer(nn.Linear(6, 4))
    for use in (lambda: trainer.fit([], epochs=1), lambda: trainer.evaluate([]), lambda: trainer.predict([])):
        with pytest.raises(DataError, match="there are no batches: the data set is empty"):
            use()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"accumulate": 0}, "accumulate is 1 or more, got 0"),
        ({"clip_norm": 0}, "clip_norm is above 0, got 0"),
        ({"precision": "int8"}, "precision is float32, bfloat16 or float16, got 'int8'"),
        ({"average_decay": 1.0}, "decay is between 0 and 1, got 1.0"),
        ({"metrics": [Accuracy(), Accuracy()]}, "metrics have different names.*got accuracy, accuracy"),
    ],
)
def test_settings_out_of_range_are_told(settings, message):
    with pytest.raises(SettingError, match=message):
        make_trainer(nn.Linear(6, 4), **settings)


# -------------------------------------------------------------------------------------------------- callbacks


def test_callbacks_are_told_in_order(data):
    events = []

    class Note(Callback):
        def __getattribute__(self, name):
            if name.startswith("on_"):
                return lambda trainer, *arguments: events.append((name, trainer.optimizer.t, trainer.epoch))
            return super().__getattribute__(name)

    make_trainer(nn.Linear(6, 4), callbacks=[Note()], accumulate=2).fit(as_batches(*data, 4), epochs=2)
    assert events == [
        ("on_fit_start", 0, 0),
        *[("on_step", 1, 0), ("on_step", 2, 0), ("on_epoch_end", 2, 1)],
        *[("on_step", 3, 1), ("on_step", 4, 1), ("on_epoch_end", 4, 2)],
        ("on_fit_end", 4, 2),
    ]


def test_the_learning_rate_of_an_epochs_last_step_is_recorded(data):
    model = nn.Linear(6, 4)
    trainer = make_trainer(model, optim.SGD(model.parameters(), lr=lambda step: 1 / (step + 1)))
    assert [row["lr"] for row in trainer.fit(as_batches(*data, 4), epochs=2)] == [1 / 3, 1 / 6]


def test_early_stopping_waits_for_its_patience_and_wants_a_real_gain(data):
    stop = EarlyStopping(patience=2, min_delta=0.1)
    assert [stop.is_over(value) for value in (1.0, 0.95, 0.8, 0.75, 0.71)] == [False, False, False, False, True]
    assert stop.best == 0.8
    higher = EarlyStopping(patience=1, higher_is_better=True)
    assert [higher.is_over(value) for value in (0.1, 0.2, float("nan"))] == [False, False, True]
    batches = as_batches(*data, 4)
    trainer = make_trainer(nn.Linear(6, 4), callbacks=[EarlyStopping(patience=2, min_delta=10)])
    assert len(trainer.fit(batches, batches, epochs=9)) == 3
    with pytest.raises(SettingError, match="EarlyStopping: no figure is called 'valid_los': did you mean valid_loss"):
        make_trainer(nn.Linear(6, 4), callbacks=[EarlyStopping(1, "valid_los")]).fit(batches, batches, epochs=1)


def test_the_log_has_a_line_of_json_for_each_epoch(data, tmp_path):
    trainer = make_trainer(nn.Linear(6, 4), callbacks=[MetricsLog(tmp_path / "log" / "metrics.jsonl")])
    rows = trainer.fit(as_batches(*data, 4), epochs=3)
    text = (tmp_path / "log" / "metrics.jsonl").read_text()
    assert [json.loads(line) for line in text.splitlines()] == rows


def test_the_best_epoch_is_kept(data, tmp_path):
    batches = as_batches(*data, 4)
    model = nn.Linear(6, 4)
    rates = lambda step: 0.5 if step < 9 else 50.0  # epochs after the third spoil what was learned
    best = Checkpoints(tmp_path, best="valid_loss")
    trainer = make_trainer(model, optim.SGD(model.parameters(), lr=rates), callbacks=[best])
    rows = trainer.fit(batches, batches, epochs=5)
    least = min(row["valid_loss"] for row in rows)
    assert least < rows[-1]["valid_loss"]
    trainer.load(tmp_path / "best", batches)
    assert trainer.evaluate(batches)["loss"] == pytest.approx(least, rel=1e-6)
    assert len(list_checkpoints(tmp_path)) == 2


# ----------------------------------------------------------------------------------------- stopping, going on


class StopAt(Callback):
    """Ends training after a step, as Ctrl-C does."""

    def __init__(self, step):
        self.step = step

    def on_step(self, trainer):
        if trainer.optimizer.t == self.step:
            signal.raise_signal(signal.SIGINT)


def make_run(folder, settings, shuffled=True, stop=None):
    np.random.seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.ReLU(), nn.Linear(8, 4))
    optimizer = optim.Adam(model.parameters(), lr=optim.CosineDecay(0.05, 100))
    generator = np.random.default_rng(1)
    images, labels = generator.random((23, 6)).astype(np.float32), generator.integers(0, 4, 23)
    loader = DataLoader(NDArrayDataset(images, labels), 5, shuffle=True) if shuffled else as_batches(images, labels, 5)
    early = EarlyStopping(100, "train_loss", min_delta=0.05)
    callbacks = [MetricsLog(folder / "metrics.jsonl"), Checkpoints(folder), early, *([StopAt(stop)] if stop else [])]
    trainer = make_trainer(model, optimizer, metrics=[Accuracy()], callbacks=callbacks, **settings)
    return trainer, loader


def outcome(trainer, loader):
    rows = trainer.fit(loader, {"valid": loader} if isinstance(loader, list) else None, epochs=3)
    state = {**trainer.model.state_dict(), **(trainer.average.state_dict() if trainer.average else {})}
    callbacks = [callback.state_dict() for callback in trainer.callbacks if callback.state_dict()]
    return untimed(rows), {name: value.tobytes() for name, value in state.items()}, callbacks


RUNS = {
    "plain": {},
    "compiled": {"compiled": True},
    "accumulated": {"accumulate": 2, "clip_norm": 0.1},
    "averaged": {"average_decay": 0.9},
    "float16": {"precision": "float16"},
}


@pytest.mark.parametrize("shuffled", [True, False], ids=["loader", "list"])
@pytest.mark.parametrize("kind", RUNS)
def test_a_run_that_is_stopped_anywhere_and_goes_on_ends_bit_for_bit_the_same(tmp_path, kind, shuffled):
    settings = {"compiled": False, **RUNS[kind]}
    whole = outcome(*make_run(tmp_path / "whole", settings, shuffled))
    steps = whole[0][-1]["step"]
    for stop in (1, 2, 3, 5, steps - 1) if settings["compiled"] else range(1, steps + 1):
        folder = tmp_path / str(stop)
        trainer, loader = make_run(folder, settings, shuffled, stop)
        with pytest.raises(TrainingInterrupted) as stopped:
            outcome(trainer, loader)
        assert stopped.value.folder == str(folder)
        trainer, loader = make_run(folder, settings, shuffled)
        trainer.load(folder, loader)
        assert trainer.optimizer.t == stop
        assert outcome(trainer, loader) == whole
        assert untimed(json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()) == whole[0]


def test_a_run_of_another_kind_is_refused_and_nothing_is_changed(tmp_path):
    trainer, loader = make_run(tmp_path, {"compiled": False})
    trainer.fit(loader, epochs=1)
    for settings, message in (({"average_decay": 0.9}, "without averaged"), ({"precision": "float16"}, "precision")):
        other, loader = make_run(tmp_path, {"compiled": False, **settings})
        before = other.model.state_dict()
        with pytest.raises(CheckpointError, match=message):
            other.load(tmp_path, loader)
        assert all((other.model.state_dict()[name] == value).all() for name, value in before.items())
        assert (other.epoch, other.optimizer.t) == (0, 0)


def test_callbacks_get_their_state_back_whatever_stands_beside_them(data, tmp_path):
    batches = as_batches(*data, 4)
    stops = [EarlyStopping(5, "train_loss"), EarlyStopping(7, "train_loss")]
    trainer = make_trainer(nn.Linear(6, 4), callbacks=[Checkpoints(tmp_path, best="train_loss"), *stops])
    trainer.fit(batches, epochs=2)
    again = [EarlyStopping(5, "train_loss"), Checkpoints(tmp_path, best="train_loss"), EarlyStopping(7, "train_loss")]
    new = EarlyStopping(9)
    resumed = make_trainer(nn.Linear(6, 4), callbacks=[MetricsLog(tmp_path / "log.jsonl"), *again, new])
    resumed.load(tmp_path, batches)
    assert [again[0].best, again[1].best_value, again[2].best] == [stops[0].best] * 3
    assert new.best is None


def test_a_second_interrupt_stops_at_once(data):
    class Twice(Callback):
        def on_step(self, trainer):
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    trainer = make_trainer(nn.Linear(6, 4), callbacks=[Twice()])
    with pytest.raises(KeyboardInterrupt) as stopped:
        trainer.fit(as_batches(*data, 4), epochs=1)
    assert not isinstance(stopped.value, TrainingInterrupted)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupt_that_nobody_saves_says_so(data):
    trainer = make_trainer(nn.Linear(6, 4), callbacks=[StopAt(2)])
    with pytest.raises(TrainingInterrupted) as stopped:
        trainer.fit(as_batches(*data, 4), epochs=1)
    assert stopped.value.folder is None
    assert trainer.optimizer.t == 2


def test_a_fit_may_be_followed_by_another(data):
    batches = as_batches(*data, 4)
    model, reference = nn.Linear(6, 4), nn.Linear(6, 4)
    reference.load_state_dict(model.state_dict())
    trainer = make_trainer(model)
    trainer.fit(batches, epochs=1)
    rows = trainer.fit(batches, epochs=3)
    assert untimed(rows) == untimed(make_trainer(reference).fit(batches, epochs=3))
