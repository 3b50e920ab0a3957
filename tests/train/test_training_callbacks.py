"""What is written beside training: event files, sample images, statistics of layers; and the search for a rate."""

import json
import struct

import numpy as np
import pytest

from needle import nn, optim
from needle.autograd import Tensor
from needle.data import DataLoader, NDArrayDataset
from needle.errors import DataError, SettingError
from needle.train import LayerStatistics, SampleImages, TensorBoard, Trainer, find_learning_rate


def make(compiled=False, **settings):
    np.random.seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 4))
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    generator = np.random.default_rng(1)
    images, labels = generator.standard_normal((20, 6)).astype(np.float32), generator.integers(0, 4, 20)
    loader = DataLoader(NDArrayDataset(images, labels), 5, shuffle=True)
    trainer = Trainer(model, optimizer, nn.SoftmaxLoss(), progress=False, compiled=compiled, **settings)
    return trainer, loader


# ------------------------------------------------------------------------------------------------ TensorBoard


def scalars(folder):
    """Return the scalars in event files as (step, name) → value, with steps that were purged taken out."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    found = {}
    for path in sorted(folder.iterdir(), key=lambda one: one.stat().st_mtime_ns):
        data, place = path.read_bytes(), 0
        while place < len(data):  # records: a length, its check sum, an event, its check sum
            (length,) = struct.unpack_from("<Q", data, place)
            event = event_pb2.Event.FromString(data[place + 12 : place + 12 + length])
            place += length + 16
            if event.WhichOneof("what") == "session_log":
                found = {key: value for key, value in found.items() if key[0] < event.step}
            for value in event.summary.value:
                found[event.step, value.tag] = value.simple_value
    return found


def test_tensorboard_gets_the_figures_of_steps_and_epochs(tmp_path):
    trainer, loader = make(callbacks=[TensorBoard(tmp_path, every_steps=3)])
    rows = trainer.fit(loader, loader, epochs=3)
    found = scalars(tmp_path)
    assert {step for step, name in found if name == "lr"} == {3, 4, 6, 8, 9, 12}
    for row in rows:
        assert found[row["step"], "loss/train"] == pytest.approx(row["train_loss"], rel=1e-6)
        assert found[row["step"], "loss/valid"] == pytest.approx(row["valid_loss"], rel=1e-6)


def test_tensorboard_forgets_steps_that_a_resumed_run_makes_again(tmp_path):
    trainer, loader = make(callbacks=[TensorBoard(tmp_path / "events", every_steps=1)])
    trainer.fit(loader, epochs=1)
    trainer.save(tmp_path)
    trainer.fit(loader, epochs=2)
    again, loader = make(callbacks=[TensorBoard(tmp_path / "events", every_steps=5)])
    again.load(tmp_path, loader)
    again.fit(loader, epochs=2)
    steps = {step for step, name in scalars(tmp_path / "events") if name == "running/loss"}
    assert steps == {1, 2, 3, 4, 5}


# ----------------------------------------------------------------------------------------------------- images


def test_sample_images_are_drawn_in_evaluation_mode(tmp_path):
    image = pytest.importorskip("PIL.Image")
    modes = []

    def draw(model):
        modes.append(model.training)
        return np.linspace(0, 1, 3 * 2 * 4).reshape(3, 2, 4)

    trainer, loader = make(callbacks=[SampleImages(tmp_path, draw, every_epochs=2, columns=2)])
    trainer.fit(loader, epochs=5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["samples-0002.png", "samples-0004.png"]
    assert modes == [False, False]
    assert trainer.model.training
    pixels = np.asarray(image.open(tmp_path / "samples-0004.png"))
    assert pixels.shape == (5, 9)
    expected = np.round(255 * draw(trainer.model))
    np.testing.assert_array_equal(pixels[:2, :4], expected[0])
    np.testing.assert_array_equal(pixels[:2, 5:], expected[1])
    np.testing.assert_array_equal(pixels[3:, :4], expected[2])
    assert (pixels[2] == 128).all()


def test_sample_images_may_be_in_colour(tmp_path):
    image = pytest.importorskip("PIL.Image")
    trainer, loader = make(callbacks=[SampleImages(tmp_path, lambda model: np.ones((1, 2, 2, 3)))])
    trainer.fit(loader, epochs=1)
    assert np.asarray(image.open(tmp_path / "samples-0001.png")).tolist() == [[[255] * 3] * 2] * 2


# ------------------------------------------------------------------------------------------------- statistics


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_statistics_describe_gradients_and_activations(tmp_path):
    path = tmp_path / "layers.jsonl"
    trainer, loader = make(callbacks=[LayerStatistics(path, every_steps=4)])
    trainer.fit(loader, epochs=1)
    lines = {(line["kind"], line["name"]): line for line in read(path)}
    assert {line["step"] for line in lines.values()} == {4}
    for name, parameter in trainer.model.named_parameters():
        g, weight = (array.astype(np.float64) for array in (parameter.grad.numpy(), parameter.numpy()))
        line = lines["gradient", name]
        assert line["mean"] == pytest.approx(g.mean())
        assert line["std"] == pytest.approx(g.std())
        assert line["max"] == pytest.approx(abs(g).max())
        relative = 0.1 * np.sqrt((g**2).sum() / (weight**2).sum())
        assert lines["update", name]["relative"] == pytest.approx(relative)
    assert [name for kind, name in lines if kind == "activation"] == [f"modules.{number}" for number in range(5)]
    trainer.model.eval()
    relu = trainer.model.modules[2](trainer.model.modules[1](trainer.model.modules[0](trainer.inputs))).numpy()
    assert lines["activation", "modules.2"]["zero"] == pytest.approx((relu == 0).mean())
    assert lines["activation", "modules.2"]["layer"] == "ReLU"


@pytest.mark.parametrize("compiled", [False, True])
def test_statistics_do_not_change_the_run_by_a_bit(tmp_path, compiled):
    states = []
    for callbacks in ([], [LayerStatistics(tmp_path / "layers.jsonl", every_steps=2)]):
        trainer, loader = make(compiled, callbacks=callbacks)
        trainer.fit(loader, epochs=3)
        states.append({name: value.tobytes() for name, value in trainer.model.state_dict().items()})
    assert states[0] == states[1]
    if compiled:
        assert trainer.step._gradients.cache_info().traces == 1


def test_statistics_tell_of_values_that_are_not_finite_and_go_on_where_a_run_does(tmp_path):
    path = tmp_path / "layers.jsonl"
    path.write_text('{"step": 0, "kind": "gradient"}\n{"step": 7, "kind": "gradient"}\n{"step": 8, "ki')
    trainer, loader = make(callbacks=[LayerStatistics(path, every_steps=1)])
    trainer.model.modules[0].weight.data = Tensor(np.full((6, 8), 1e30, np.float32))
    for parameter in trainer.model.parameters():
        parameter.requires_grad = parameter is trainer.model.modules[4].bias
    with np.errstate(all="ignore"):
        trainer.fit([next(iter(loader))], epochs=1)
    lines = read(path)
    assert [line["step"] for line in lines][:2] == [0, 1]
    assert 0 <= max(line.get("not_finite", 0) for line in lines) <= 1


# ------------------------------------------------------------------------------------------------------- rate


@pytest.mark.parametrize("compiled", [False, True])
def test_the_search_finds_a_rate_that_learns_and_leaves_everything_as_it_was(compiled):
    trainer, loader = make(compiled)
    iterator = iter(loader)
    next(iterator)
    states = lambda: (
        {name: value.tobytes() for name, value in trainer.model.state_dict().items()},
        {name: value.tobytes() for name, value in trainer.optimizer.state_dict()["arrays"].items()},
        trainer.optimizer.t,
        trainer.optimizer.lr,
        loader.state_dict()["position"],
        np.random.get_state()[1].tobytes(),
    )
    before = states()
    found = find_learning_rate(
        trainer.model, trainer.optimizer, nn.SoftmaxLoss(), loader, start=1e-4, end=1e4, steps=60, compiled=compiled
    )
    assert states() == before
    assert found.rates[0] == pytest.approx(1e-4)
    assert len(found.rates) == len(found.losses)
    assert 1e-3 < found.suggestion < 100
    assert len(found.losses) < 60  # it diverged, and the search ended


def test_the_search_of_a_parabola_ends_where_rates_are_too_high():
    model = nn.Linear(1, 1, bias=False)
    model.weight.data = Tensor(np.array([[3.0]], np.float32))
    batch = (Tensor(np.ones((1, 1), np.float32)), Tensor(np.zeros((1, 1), np.float32)))
    square = lambda outputs, targets: ((outputs - targets) ** 2).mean()
    optimizer = optim.SGD(model.parameters())
    found = find_learning_rate(model, optimizer, square, [batch], start=1e-3, end=10, steps=40, smoothing=0)
    weight, losses = 3.0, []
    for rate in np.geomspace(1e-3, 10, 40):
        losses.append(weight**2)
        weight -= rate * 2 * weight
    np.testing.assert_allclose(found.losses, losses[: len(found.losses)], rtol=1e-3, atol=1e-9)
    assert found.suggestion < 1  # a step of 1 only changes the weight's sign


def test_a_search_that_makes_no_sense_is_refused():
    trainer, loader = make()
    parts = (trainer.model, trainer.optimizer, nn.SoftmaxLoss())
    with pytest.raises(SettingError, match=r"start and end are positive and rise, got 1 and 0\.1"):
        find_learning_rate(*parts, loader, start=1, end=0.1)
    with pytest.raises(SettingError, match="steps is 10 or more"):
        find_learning_rate(*parts, loader, steps=3)
    with pytest.raises(DataError, match="there are no batches"):
        find_learning_rate(*parts, [], compiled=False)
