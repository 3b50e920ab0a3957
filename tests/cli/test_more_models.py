"""`needle train` with models besides the first two: ResNet9 on colour images, the autoencoder; and a text by name."""

import json

import numpy as np
import pytest

from needle.cli import autoencoder_command, main, sources, training
from needle.cli.images import prepare_colour, read_colour
from needle.data import CIFAR10Dataset, ShapesDataset
from needle.errors import DataError

from .test_train_command import StopAt, weights


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def few_shapes(monkeypatch):
    monkeypatch.setattr(sources, "ShapesDataset", lambda train: ShapesDataset(train, count=300 if train else 100))


def recipe(folder):
    return json.loads((folder / "model.json").read_text())["recipe"]


def write_cifar(folder, count=20):
    """Write files in CIFAR-10's binary format."""
    generator = np.random.default_rng(0)
    folder.mkdir()
    for name in ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"):
        rows = generator.integers(0, 256, (count, 3073), dtype=np.uint8)
        rows[:, 0] %= 10
        (folder / f"{name}.bin").write_bytes(rows.tobytes())


def test_resnet9_trains_is_measured_and_says_what_a_picture_shows(tmp_path, few_shapes, capsys):
    options = ["--dataset", "shapes", "--epochs", "2", "--batch-size", "50"]
    assert main(["train", "--model", "resnet9", *options, "--output-dir", "run"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("shapes: 300 training and 100 test images of 32 x 32 in colour, 10 classes\nResNet9, 431,946")
    assert (tmp_path / "run" / "worst.png").exists()
    assert recipe(tmp_path / "run")["input_shape"] == [3, 32, 32]
    assert main(["evaluate", "run"]) == 0
    error = recipe(tmp_path / "run")["results"]["test_error"]
    assert f"error {100 * error:.2f} %" in capsys.readouterr().out
    np.save("picture.npy", np.random.default_rng(0).integers(0, 256, (40, 64, 3), dtype=np.uint8))
    assert main(["predict", "--model", "run", "picture.npy"]) == 0
    out = capsys.readouterr().out
    assert "cut to the middle, 40 x 40 of 64 x 40" in out
    assert "resized from 40 x 40 to 32 x 32" in out
    assert main(["report", "run", "--no-profile"]) == 0
    assert (tmp_path / "run" / "report.html").read_text().count("<figure") == 96


def test_cifar_10_is_read_where_it_is(tmp_path, capsys):
    write_cifar(tmp_path / "cifar")
    options = [
        "--model",
        "resnet9",
        "--data-dir",
        "cifar",
        "--epochs",
        "1",
        "--batch-size",
        "50",
        "--output-dir",
        "run",
    ]
    assert main(["train", *options]) == 0
    assert capsys.readouterr().out.startswith("cifar-10: 100 training and 20 test images")
    assert recipe(tmp_path / "run")["dataset"] == "cifar-10"


def test_where_cifar_10_cannot_be_had_shapes_stand_in_and_it_is_said(tmp_path, few_shapes, monkeypatch, capsys):
    def unreachable(*arguments, **options):
        raise DataError("cannot fetch: no network")

    monkeypatch.setattr(CIFAR10Dataset, "download", unreachable)
    options = ["--model", "resnet9", "--data-dir", "none", "--epochs", "1", "--output-dir", "run"]
    assert main(["train", *options]) == 0
    out = capsys.readouterr().out
    assert "CIFAR-10 cannot be had: cannot fetch: no network" in out
    assert "GENERATED SHAPES STAND IN FOR IT" in out
    assert recipe(tmp_path / "run")["dataset"] == "shapes"


def test_the_autoencoder_paints_test_images(tmp_path, capsys):
    options = ["--model", "autoencoder", "--epochs", "3", "--code-size", "6", "--output-dir", "run"]
    assert main(["train", *options]) == 0
    out = capsys.readouterr().out
    assert "an image is said in 6 numbers" in out
    assert "painted.png    test images, and below what the model makes of them" in out
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert rows[2]["test_loss"] < rows[0]["test_loss"] < np.log(2)
    pixels = np.asarray(pytest.importorskip("PIL.Image").open(tmp_path / "run" / "painted.png"))
    assert pixels.shape == (17, 89)
    images = sources.open_source("digits", None, print).test_images()
    np.testing.assert_allclose(pixels[:8, :8], 255 * images[0], atol=0.51)
    assert main(["report", "run", "--no-profile"]) == 0
    assert main(["evaluate", "run"]) == 2
    assert "the model is an autoencoder: it does not say which class" in capsys.readouterr().err


def test_the_autoencoder_goes_on_bit_for_bit(tmp_path, monkeypatch):
    options = ["train", "--model", "autoencoder", "--epochs", "2", "--batch-size", "300"]
    assert main([*options, "--output-dir", "whole"]) == 0
    with monkeypatch.context() as patched:
        stopping = lambda *parts: [*training.callbacks(*parts), StopAt(7)]
        patched.setattr(autoencoder_command, "callbacks", stopping)
        assert main([*options, "--output-dir", "parts"]) == 130
    assert main(["train", "--resume", "parts"]) == 0
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "resnet9", "--dataset", "digits"], "--model resnet9 takes 32 x 32 images in colour of 10 classes"),
        (
            ["--model", "convnet", "--dataset", "shapes"],
            "--model convnet takes grey images, those of shapes are in col",
        ),
        (
            ["--model", "autoencoder", "--dataset", "shapes"],
            "--model autoencoder takes grey images whose sides are div",
        ),
        (["--model", "resnet9", "--hidden-dim", "3"], "--hidden-dim: resnet9 has no use for it"),
        (["--model", "autoencoder", "--label-smoothing", "0.1"], "--label-smoothing: autoencoder has no use for it"),
        (["--code-size", "3"], "--code-size: mlp has no use for it"),
    ],
)
def test_what_does_not_fit_together_is_one_line(capsys, arguments, message, tmp_path):
    assert main(["train", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_colour_pictures_are_read_whatever_they_hold(tmp_path):
    image = pytest.importorskip("PIL.Image")
    pixels = np.zeros((4, 6, 4), np.uint8)
    pixels[..., 0], pixels[..., 3] = 255, 255
    pixels[0, 0] = 0  # transparent: white
    image.fromarray(pixels).save("a.png")
    read = read_colour(tmp_path / "a.png").pixels
    assert read.shape == (4, 6, 3)
    assert read[0, 0].tolist() == [1, 1, 1]
    assert read[3, 3].tolist() == [1, 0, 0]
    np.save("grey.npy", np.full((4, 6), 0.5))
    assert read_colour(tmp_path / "grey.npy").pixels.tolist() == np.full((4, 6, 3), 0.5).tolist()
    prepared = prepare_colour(read_colour(tmp_path / "a.png"), (2, 2))
    assert prepared.pixels.shape == (2, 2, 3)
    assert prepared.steps == ("cut to the middle, 4 x 4 of 6 x 4", "resized from 4 x 4 to 2 x 2")


def test_shakespeare_is_known_by_name(tmp_path, capsys):
    (tmp_path / "plays").mkdir()
    (tmp_path / "plays" / "input.txt").write_text("To be, or not to be.\n" * 60)
    options = ["--hidden-dim", "8", "--num-blocks", "1", "--seq-len", "8", "--batch-size", "8", "--epochs", "1"]
    named = ["train", "--text", "tinyshakespeare", "--data-dir", "plays", *options, "--output-dir", "run"]
    assert main(named) == 0
    assert "tinyshakespeare: 1,260 characters" in capsys.readouterr().out
    assert recipe(tmp_path / "run")["dataset"] == "characters of tinyshakespeare"
