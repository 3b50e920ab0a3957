"""`needle evaluate` and `needle predict` on a saved run."""

import json
import shutil

import numpy as np
import pytest

from needle.cli import main
from needle.cli.sources import open_source

from .needle_process import run_needle, write_mnist


@pytest.fixture
def run_dir(trained, tmp_path, monkeypatch):
    """A copy of the trained run to work in, and to damage; the run's own folder is returned."""
    shutil.copytree(trained[0] / "runs", tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs" / (tmp_path / "runs" / "latest").read_text().strip()


def results(run_dir):
    return json.loads((run_dir / "model.json").read_text())["recipe"]["results"]


def test_evaluate_measures_what_training_measured(run_dir, capsys):
    assert main(["evaluate"]) == 0
    output = capsys.readouterr().out
    assert f"error {100 * results(run_dir)['test_error']:.2f} %   loss {results(run_dir)['test_loss']:.4f}" in output


def test_evaluate_counts_every_test_image_once_in_its_table(run_dir, capsys):
    main(["evaluate", str(run_dir)])
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    rows = [row for row in rows if len(row) == 13 and row[0].isdigit()]
    counts = np.array([[0 if cell == "." else int(cell) for cell in row[1:11]] for row in rows])
    labels = np.bincount(open_source("digits", None, print).test.labels, minlength=10)
    np.testing.assert_array_equal(counts.sum(axis=1), labels)
    assert 1 - counts.trace() / counts.sum() == pytest.approx(results(run_dir)["test_error"])


def test_evaluate_as_a_process_reads_the_latest_run(run_dir, tmp_path):
    process = run_needle("evaluate", cwd=tmp_path)
    assert (process.returncode, process.stderr) == (0, "")


def test_evaluate_refuses_data_of_another_kind(run_dir, tmp_path, capsys):
    write_mnist(tmp_path / "data")
    assert main(["evaluate", "--dataset", "mnist", "--data-dir", "data"]) == 2
    assert "takes (8, 8) images of 10 classes, and mnist has (28, 28)" in capsys.readouterr().err


def test_predict_prints_probabilities_that_sum_to_one(run_dir, tmp_path, capsys):
    source = open_source("digits", None, print)
    image = source.test_images()[0]
    np.save(tmp_path / "digit.npy", image)
    assert main(["predict", "digit.npy"]) == 0
    lines = capsys.readouterr().out.splitlines()
    shares = [float(line.split()[1]) for line in lines[1:] if line.strip()]
    assert len(shares) == 10
    assert sum(shares) == pytest.approx(100, abs=0.06)
    assert shares == sorted(shares, reverse=True)
    assert lines[0].startswith(f"digit.npy: {lines[1].split()[0]} (")


def test_predict_of_an_enlarged_inverted_picture_agrees_with_the_picture(run_dir, tmp_path, capsys):
    image_module = pytest.importorskip("PIL.Image")
    images = open_source("digits", None, print).test_images()
    agree = 0
    for index in range(20):
        np.save(tmp_path / "small.npy", images[index])
        page = np.full((200, 160), 250, dtype=np.uint8)
        ink = np.kron(images[index] / images[index].max(), np.ones((12, 12)))
        page[60:156, 40:136] = (250 - 240 * ink).astype(np.uint8)
        image_module.fromarray(page).save(tmp_path / "page.png")
        assert main(["predict", "small.npy", "page.png"]) == 0
        answers = [
            line.split()[1] for line in capsys.readouterr().out.splitlines() if ".npy:" in line or ".png:" in line
        ]
        agree += answers[0] == answers[1]
    assert agree >= 15


def test_predict_says_what_it_did_to_the_picture(run_dir, tmp_path):
    image_module = pytest.importorskip("PIL.Image")
    page = np.full((60, 50, 3), 255, dtype=np.uint8)
    page[10:50, 22:28] = (0, 0, 120)
    image_module.fromarray(page).save(tmp_path / "scan [1].png")
    process = run_needle("predict", "scan [1].png", cwd=tmp_path)
    assert (process.returncode, process.stderr) == (0, "")
    lines = process.stdout.splitlines()
    assert lines[0].startswith("scan [1].png: ")
    assert [line.strip() for line in lines[1:4]] == [
        "made grey from RGB",
        "inverted: the training data are bright on black, this is dark on a light ground",
        "cropped to the strokes, scaled to 1 x 8, centred in 8 x 8",
    ]


def test_predict_reads_every_picture_before_it_answers(run_dir, tmp_path, capsys):
    np.save(tmp_path / "good.npy", np.eye(8))
    assert main(["predict", "good.npy", "missing.npy"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "needle: error: there is no file missing.npy\n"


@pytest.mark.parametrize("command", [["evaluate"], ["predict", "x.npy"]])
def test_damaged_models_are_one_line(run_dir, tmp_path, capsys, command):
    np.save(tmp_path / "x.npy", np.eye(8))
    weights = next(run_dir.glob("*.safetensors"))
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-10])
    assert main(command) == 2
    assert "is damaged or cut short" in capsys.readouterr().err
    weights.write_bytes(whole)
    (run_dir / "model.json").write_text("{")
    assert main(command) == 2
    assert "model.json is damaged or cut short" in capsys.readouterr().err


@pytest.mark.parametrize("pointer", [b"", b"../elsewhere", b"\xff\xfe"])
def test_damaged_pointer_to_the_latest_run_is_one_line(run_dir, tmp_path, capsys, pointer):
    (tmp_path / "runs" / "latest").write_bytes(pointer)
    assert main(["evaluate"]) == 2
    assert capsys.readouterr().err.startswith("needle: error: ")
