"""What goes wrong is one line, status 2, and nothing on disk."""

import gzip
import os

import pytest

from needle.cli import main
from needle.data import MNISTDataset

from .needle_process import TINY, idx, run_needle, write_mnist


def complaint(capsys):
    """Return the one line on stderr."""
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert line.startswith("needle: error: ")
    return line.removeprefix("needle: error: ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "the following arguments are required: COMMAND (see `needle --help`)"),
        (
            "tarin",
            "argument COMMAND: unknown name 'tarin': did you mean train? Known are "
            "train, evaluate, predict, sample, runs, plot, report, doctor, completion",
        ),
        ("train --batch-size 0", "argument --batch-size: must be 1 or more, got 0"),
        ("train --batch-size ten", "argument --batch-size: expected a whole number, got 'ten'"),
        ("train --epochs 0", "argument --epochs: must be 1 or more, got 0"),
        ("train --lr -0.1", "argument --lr: must be more than 0, got -0.1"),
        ("train --lr 0", "argument --lr: must be more than 0, got 0"),
        ("train --lr nan", "argument --lr: must be more than 0, got nan"),
        ("train --lr inf", "argument --lr: must be more than 0, got inf"),
        ("train --lr fast", "argument --lr: expected a number, got 'fast'"),
        ("train --dropout 1", "argument --dropout: must be 0 or more and less than 1, got 1"),
        ("train --weight-decay -1", "argument --weight-decay: must be 0 or more, got -1"),
        ("train --momentum 1.5", "argument --momentum: must be 0 or more and less than 1, got 1.5"),
        ("train --hidden-dim 1", "argument --hidden-dim: must be 2 or more, got 1"),
        ("train --seed -1", "argument --seed: must be from 0 to 4294967295, got -1"),
        ("train --optimizer adma", "unknown name 'adma': did you mean adam? Known are adamw, adam, sgd"),
        ("train --dataset mnits", "unknown name 'mnits': did you mean mnist? Known are digits, mnist, fashion-mnist"),
        ("train --schedule one_cycle", "unknown name 'one_cycle': did you mean one-cycle?"),
        ("train --norm instance", "argument --norm: unknown name 'instance': Known are batch, layer"),
        ("train --epoch 3", "unknown argument --epoch: did you mean --epochs?"),
        ("train --batchsize=3", "unknown argument --batchsize=3: did you mean --batch-size?"),
        ("train digits", "unknown argument digits (see `needle train --help`)"),
        ("train --lr", "argument --lr: expected one argument"),
        ("predict", "the following arguments are required: IMAGE (see `needle predict --help`)"),
        ("evaluate", "there is no model in runs/ yet: run `needle train`, or name a run's folder"),
        ("evaluate nowhere", "there is no file nowhere/model.json"),
        ("predict a.png", "there is no model in runs/ yet: run `needle train`, or name a run's folder"),
        ("predict --model nowhere a.png", "there is no file nowhere/model.json"),
        ("train --momentum 0.5", "--momentum goes with sgd and rmsprop, not with adamw"),
        ("train --warmup 50", "--warmup: 50 epochs are more than the run's 40"),
    ],
)
def test_bad_arguments_are_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(arguments.split()) == 2
    assert message in complaint(capsys)
    assert list(tmp_path.iterdir()) == []


def test_bad_arguments_of_a_process_give_status_2(tmp_path):
    process = run_needle("train", "--batch-size", "0", cwd=tmp_path)
    assert (process.returncode, process.stdout) == (2, "")
    assert process.stderr.count("\n") == 1


def test_divergence_of_a_process_is_one_line_without_warnings(tmp_path):
    options = ["--optimizer", "sgd", "--lr", "1e30", "--output-dir", "run"]
    process = run_needle("train", *options, cwd=tmp_path)
    assert process.returncode == 2
    assert process.stderr.count("\n") == 1
    assert "at step 2, in epoch 1: training has diverged" in process.stderr
    assert "Try a smaller learning rate" in process.stderr
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["run.json"]  # it had begun


def test_debug_shows_the_traceback(tmp_path):
    process = run_needle("evaluate", "nowhere", "--debug", cwd=tmp_path)
    assert process.returncode == 2
    assert process.stderr.startswith("Traceback")
    assert "CheckpointError: there is no file" in process.stderr


def test_output_folder_is_checked_before_training(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("in the way")
    assert main(["train", *TINY, "--output-dir", "file/run"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "needle: error: cannot write into the folder file/run: Not a directory\n"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_output_folder_without_permission_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "locked").mkdir(mode=0o500)
    assert main(["train", *TINY, "--output-dir", "locked/run"]) == 2
    assert complaint(capsys) == "cannot write into the folder locked/run: Permission denied"


# ------------------------------------------------------------------------------------------------- data files


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"train_images": gzip.compress(idx((30, 28, 28)))[:40]}, "train-images"),
        ({"train_images": b"not gzip"}, "train-images"),
        ({"train_images": gzip.compress(idx((30, 28, 28), size=100))}, "train-images"),
        ({"train_images": b""}, "train-images"),
        ({"train_labels": gzip.compress(idx((29,)))}, "29"),
        ({"train_labels": gzip.compress(idx((30,), size=0) + bytes([10] * 30))}, "10"),
        ({"train_images": gzip.compress(idx((0, 28, 28))), "train_labels": gzip.compress(idx((0,)))}, "0 images"),
        ({"t10k_images": gzip.compress(idx((10, 8, 8)))}, "8"),
    ],
)
def test_damaged_data_files_are_one_line(changes, named, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_mnist(tmp_path / "data", **changes)
    assert main(["train", *TINY, "--dataset", "mnist", "--data-dir", "data"]) == 2
    assert named in complaint(capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_data_that_cannot_be_fetched_is_one_line_and_says_what_was_tried(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(MNISTDataset, "mirrors", ("http://127.0.0.1:9/",))  # nobody answers there
    assert main(["train", *TINY, "--dataset", "mnist", "--data-dir", "data"]) == 2
    captured = capsys.readouterr()
    fetched = captured.out.splitlines()[0]
    assert fetched.startswith("fetching into data from http://127.0.0.1:9/: train-images-idx3-ubyte.gz, ")
    assert captured.err.splitlines()[-1].startswith("needle: error: http://127.0.0.1:9/train-")
    assert not list(tmp_path.rglob("*.gz"))


def test_data_dir_that_is_a_file_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    assert main(["train", *TINY, "--dataset", "mnist", "--data-dir", "file"]) == 2
    assert "file" in complaint(capsys)


# --------------------------------------------------------------------------------------------------- versions


def test_version_and_help(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("needle ")
    for command in ([], ["train"], ["evaluate"], ["predict"], ["runs"], ["plot"], ["report"]):
        assert main([*command, "--help"]) == 0
        text = capsys.readouterr().out
        assert "examples:" in text
        assert "default: None" not in text


def test_train_help_gives_each_options_default(capsys):
    main(["train", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for shown in ("(default: digits)", "(default: 0)", "(default: adamw)", "0.5 for sgd"):
        assert shown in text
