"""The short apps: they run, and learn something."""

import gzip
import importlib.util
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from needle.errors import DataError

APPS = Path(__file__).parents[2] / "apps"


def load(name):
    spec = importlib.util.spec_from_file_location(f"app_{name}", APPS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_autoencoder_learns_and_paints(tmp_path, monkeypatch, capsys):
    app = load("autoencoder")
    _, loss = app.train(epochs=3)
    assert loss < 0.5  # that of grey everywhere is log 2
    pytest.importorskip("matplotlib")
    whole = app.train
    monkeypatch.setattr(app, "train", lambda: whole(epochs=1))
    app.main(str(tmp_path / "digits.png"))
    assert (tmp_path / "digits.png").read_bytes().startswith(b"\x89PNG")
    assert "digits above" in capsys.readouterr().out


def test_the_language_model_learns(tmp_path, capsys):
    path = tmp_path / "fox.txt"
    path.write_text("\nthe quick brown fox jumps over the lazy dog." * 30)
    loss = load("language_model").main(path, steps=160, batch_size=8, length=16, width=32, num_layers=1)
    assert loss < 1.5
    assert capsys.readouterr().out.count("step ") == 8


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_the_recurrent_language_model_learns(kind, tmp_path, capsys):
    path = tmp_path / "fox.txt"
    path.write_text("\nthe quick brown fox jumps over the lazy dog." * 60)
    loss = load("recurrent_language_model").main(path, kind, epochs=12, batch_size=8, seq_len=16, width=32)
    assert loss < 1.5
    assert capsys.readouterr().out.count("epoch ") == 12


def test_resnet9_learns_what_stands_in_for_cifar(tmp_path, monkeypatch, capsys):
    app = load("resnet9")

    def nothing(folder, **_):
        raise DataError(f"{folder} is empty")

    monkeypatch.setattr(app.CIFAR10Dataset, "download", nothing)
    train, test = app.open_data(tmp_path)
    assert "GENERATED SHAPES STAND IN FOR IT" in capsys.readouterr().out
    assert train.images.shape[1:] == test.images.shape[1:] == (3, 32, 32)
    error = app.main(app.ShapesDataset(count=40), app.ShapesDataset(False, count=20), epochs=1, batch_size=10)
    assert 0 <= error <= 1
    assert "epoch 1: train loss" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["language_model", "missing.txt"], "there is no file missing.txt"),
        (["recurrent_language_model", "missing.txt"], "there is no file missing.txt"),
        (["recurrent_language_model"], "usage: "),
    ],
)
def test_what_is_wrong_is_one_line(arguments, message, tmp_path):
    name, *rest = arguments
    command = [sys.executable, str(APPS / f"{name}.py"), *rest]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert message in run.stderr
    assert len(run.stderr.splitlines()) == 1


def test_the_convnet_reads_mnist_files(tmp_path, capsys):
    generator = np.random.default_rng(0)
    for prefix, count in (("train", 30), ("t10k", 10)):
        for kind, shape in (("images-idx3", (count, 28, 28)), ("labels-idx1", (count,))):
            head = struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape)
            content = gzip.compress(head + generator.integers(0, 10, shape, dtype=np.uint8).tobytes())
            (tmp_path / f"{prefix}-{kind}-ubyte.gz").write_bytes(content)
    error = load("mnist_convnet").main(tmp_path, epochs=1, batch_size=10)
    assert 0 <= error <= 1
    assert "epoch 1: train loss" in capsys.readouterr().out
