"""`needle train --text` and `needle sample` as a user meets them."""

import json

import numpy as np
import pytest

from needle.cli import language_command
from needle.data import ByteTokenizer

from .needle_process import run_needle

TEXT = "the quick brown fox jumps over the lazy dog.\n" * 60
TINY = ["--hidden-dim", "16", "--num-blocks", "1", "--seq-len", "16", "--batch-size", "8"]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Train a tiny model on a text of one sentence."""
    folder = tmp_path_factory.mktemp("language")
    (folder / "fox.txt").write_text(TEXT)
    process = run_needle("train", "--text", "fox.txt", *TINY, "--epochs", "40", "--lr", "0.02", cwd=folder)
    return folder, process


def test_training_in_a_pipe_writes_plain_lines(written):
    folder, process = written
    assert (process.returncode, process.stderr) == (0, "")
    assert "\x1b" not in process.stdout
    lines = process.stdout.splitlines()
    assert lines[0] == "fox.txt: 2,700 characters, 29 different ones, the last 10% for validation"
    assert lines[1].startswith("gpt: 1 layers, 16 wide, ")
    assert lines[2].split()[:3] == ["epoch", "train", "loss"]
    assert len([line for line in lines if "/40" in line]) == 40
    assert lines[-1] == "Use it: needle sample"
    run = folder / "runs" / (folder / "runs" / "latest").read_text().strip()
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["valid_loss"] < 0.5 < rows[0]["valid_loss"]
    recipe = json.loads((run / "model.json").read_text())
    assert recipe["recipe"]["architecture"] == "GPT"


def test_sampling_writes_what_was_learned(written):
    folder, _ = written
    run = run_needle("sample", "--prompt", "the quick", "--length", "35", "--temperature", "0", cwd=folder)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout == "the quick brown fox jumps over the lazy dog.\n"


def test_the_same_seed_writes_the_same(written):
    folder, _ = written
    one, two, other = (
        run_needle("sample", "--temperature", "2", "--length", "40", "--seed", seed, cwd=folder).stdout
        for seed in (1, 1, 2)
    )
    assert one == two != other


@pytest.mark.parametrize("model", ["lstm", "gru", "rnn", "transformer"])
def test_every_model_trains_and_writes(tmp_path, model):
    (tmp_path / "fox.txt").write_text(TEXT)
    run = run_needle("train", "--text", "fox.txt", "--model", model, *TINY, "--epochs", "1", cwd=tmp_path)
    assert (run.returncode, run.stderr) == (0, "")
    sample = run_needle("sample", "--length", "20", "--top-k", "3", "--top-p", "0.9", cwd=tmp_path)
    assert (sample.returncode, sample.stderr) == (0, "")


def test_words_may_be_the_tokens(tmp_path):
    (tmp_path / "fox.txt").write_text(TEXT * 5)
    run = run_needle("train", "--text", "fox.txt", "--tokens", "words", *TINY, "--epochs", "1", cwd=tmp_path)
    assert "words, " in run.stdout
    assert run_needle("sample", "--prompt", "the quick", "--length", "5", cwd=tmp_path).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--text", "missing.txt"], "missing.txt"),
        (["train", "--text", "short.txt"], "too few for one batch"),
        (["train", "--text", "fox.txt", "--norm", "batch"], "--norm: it is for images"),
        (["train", "--text", "fox.txt", "--model", "convnet"], "is for images; a text is learned by gpt"),
        (["train", "--model", "lstm"], "--model lstm learns text: name a file with --text FILE"),
        (["train", "--model", "convnet", "--num-blocks", "3"], "--num-blocks: convnet has no use for it"),
        (["train", "--model", "convnett"], "convnet"),
        (["train", "--seq-len", "3"], "--seq-len: mlp has no use for it"),
        (["sample", "--top-p", "2"], "--top-p: must be more than 0 and at most 1, got 2"),
        (["sample"], "there is no model"),
        (["sample", "nowhere"], "nowhere"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path, arguments, message):
    (tmp_path / "fox.txt").write_text(TEXT)
    (tmp_path / "short.txt").write_text("too short")
    run = run_needle(*arguments, cwd=tmp_path)
    assert run.returncode == 2
    assert message in run.stderr
    assert len(run.stderr.splitlines()) == 1
    assert not (tmp_path / "runs").exists()


def test_an_image_model_cannot_write(written, tmp_path):
    options = ["--model", "convnet", "--epochs", "1", "--no-augment"]
    assert run_needle("train", *options, cwd=tmp_path).returncode == 0
    run = run_needle("sample", cwd=tmp_path)
    assert "holds no language model" in run.stderr
    assert run_needle("evaluate", cwd=tmp_path).stdout.splitlines()[1].startswith("error ")


def test_unknown_characters_are_told(written):
    run = run_needle("sample", "--prompt", "Äh", cwd=written[0])
    assert run.returncode == 2
    assert "'Ä'" in run.stderr


def test_the_ids_of_a_large_text_are_in_a_file_that_is_gone_afterwards(tmp_path, monkeypatch):
    text = tmp_path / "fox.txt"
    text.write_text(TEXT)
    monkeypatch.setattr(language_command, "_LARGE_TEXT_BYTES", 1)
    with language_command._encoded(text, ByteTokenizer(), tmp_path / "run") as ids:
        assert type(ids) is np.memmap
        assert ids.tobytes() == TEXT.encode()
        del ids
    assert list((tmp_path / "run").iterdir()) == []
