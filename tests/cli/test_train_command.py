"""`needle train` as a user meets it."""

import hashlib
import json
import os
import pty
import re
import select
import shlex
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import safetensors.numpy

from needle.cli import language_command, main, train_command, training
from needle.train import Callback

from .needle_process import TINY, run_needle


def untimed(line):
    return {name: value for name, value in json.loads(line).items() if name != "seconds" and "_per_second" not in name}


def run_folder(folder):
    return folder / "runs" / (folder / "runs" / "latest").read_text().strip()


def test_train_in_a_pipe_writes_plain_lines_and_a_table(trained):
    _, process = trained
    assert (process.returncode, process.stderr) == (0, "")
    lines = process.stdout.splitlines()
    assert "\x1b" not in process.stdout
    assert "\r" not in process.stdout
    assert re.match(r"digits: [\d,]+ training and [\d,]+ test images of 8 x 8, 10 classes", lines[0])
    assert lines[2].split() == ["epoch", "train", "loss", "error", "test", "loss", "error", "images/s"]
    figures = r"\d+\.\d{4} +\d+\.\d\d %"
    for number, line in enumerate(lines[3:5], start=1):
        assert re.fullmatch(rf" +{number}/2 +{figures} +{figures} +[\d,]+", line)
    assert any(line.split()[:1] == ["error"] for line in lines)
    assert "needle predict IMAGE" in lines[-1]


def test_train_leaves_a_run_with_all_its_files(trained):
    folder = run_folder(trained[0])
    names = {path.name for path in folder.iterdir()}
    weights = [name for name in names if name.endswith(".safetensors")]
    assert len(weights) == 1
    assert names - set(weights) == {"run.json", "model.json", "metrics.jsonl", "curves.png", "worst.png"}
    for name in ("curves.png", "worst.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")


def test_train_records_every_epoch(trained):
    rows = [json.loads(line) for line in (run_folder(trained[0]) / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2]
    assert set(rows[0]) == {
        *("epoch", "step", "lr", "train_loss", "train_error", "test_loss", "test_error"),
        *("seconds", "samples_per_second"),
    }
    assert rows[1]["step"] == 2 * rows[0]["step"]


def test_train_records_how_the_model_was_made(trained):
    recipe = json.loads((run_folder(trained[0]) / "model.json").read_text())["recipe"]
    assert recipe["dataset"] == "digits"
    assert recipe["seed"] == 0
    assert recipe["hyperparameters"]["hidden_dim"] == 16
    assert recipe["options"]["epochs"] == 2
    assert set(recipe["versions"]) == {"python", "needle", "numpy", "safetensors"}
    assert recipe["results"]["epoch"] == 2


@pytest.mark.parametrize("extra", [[], ["--workers", "2"]])
def test_train_with_the_same_seed_makes_the_same_bits(trained, tmp_path, extra):
    process = run_needle("train", *TINY, *extra, cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    folders = [run_folder(trained[0]), run_folder(tmp_path)]
    weights = [hashlib.sha256(next(folder.glob("*.safetensors")).read_bytes()).hexdigest() for folder in folders]
    assert weights[0] == weights[1]
    rows = [[untimed(line) for line in (folder / "metrics.jsonl").read_text().splitlines()] for folder in folders]
    assert rows[0] == rows[1]


def test_train_with_another_seed_makes_another_model(trained, tmp_path):
    run_needle("train", *TINY, "--seed", 1, cwd=tmp_path)
    assert (
        next(run_folder(tmp_path).glob("*.safetensors")).name != next(run_folder(trained[0]).glob("*.safetensors")).name
    )


@pytest.mark.parametrize(
    "option",
    [
        *(["--optimizer", name] for name in ("adam", "sgd", "rmsprop", "adagrad")),
        *(["--schedule", name] for name in ("constant", "one-cycle", "step")),
        *(["--warmup", "0"], ["--warmup", "1.5"], ["--lr", "0.01"], ["--weight-decay", "0.3"], ["--dropout", "0.5"]),
        *(["--norm", "layer"], ["--batch-size", "30"], ["--label-smoothing", "0.2"], ["--no-augment"]),
        *(["--optimizer", "sgd", "--momentum", "0.3"], ["--num-blocks", "2"], ["--hidden-dim", "17"]),
    ],
    ids=" ".join,
)
def test_train_option_changes_the_model_and_is_recorded(trained, tmp_path, monkeypatch, option, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)  # no pictures: they take longer than the training
    assert main(["train", *TINY, *option]) == 0
    capsys.readouterr()
    weights = [next(run_folder(folder).glob("*.safetensors")).read_bytes() for folder in (trained[0], tmp_path)]
    assert weights[0] != weights[1]
    for array in safetensors.numpy.load(weights[1]).values():
        assert np.isfinite(array).all()
    options = json.loads((run_folder(tmp_path) / "model.json").read_text())["recipe"]["options"]
    for name, value in zip(option[::2], option[1::2], strict=False):
        assert str(options[name.removeprefix("--").replace("-", "_")]).rstrip("0.") == value.rstrip("0.")


def test_train_momentum_counts(tmp_path, monkeypatch, capsys):
    weights = set()
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    for momentum in ("0.0", "0.5"):
        monkeypatch.chdir(tmp_path)
        assert main(["train", *TINY, "--optimizer", "sgd", "--momentum", momentum]) == 0
        weights.add(next(run_folder(tmp_path).glob("*.safetensors")).name)
    assert len(weights) == 2


def test_train_into_a_named_folder_says_how_to_use_it(tmp_path):
    process = run_needle("train", *TINY, "--output-dir", "here", cwd=tmp_path, PYTHONIOENCODING="ascii", LC_ALL="C")
    assert (process.returncode, process.stderr) == (0, "")
    assert "needle predict --model here IMAGE" in process.stdout
    assert not (tmp_path / "runs").exists()
    again = run_needle("evaluate", "here", cwd=tmp_path)
    assert again.returncode == 0


def test_train_without_matplotlib_says_how_to_get_the_pictures(tmp_path, monkeypatch, capsys):
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.chdir(tmp_path)
    assert main(["train", *TINY]) == 0
    output = capsys.readouterr().out
    assert "no pictures: drawing plots needs the package 'matplotlib'" in output
    assert "pip install 'needle-dl[plot]'" in output
    assert not list(tmp_path.rglob("*.png"))
    assert main(["evaluate"]) == 0


# --------------------------------------------------------------------------------------------------- terminal


def in_terminal(arguments, cwd, until=None, send=None):
    """Run the command in a pseudo-terminal; return its status and what it wrote.

    Args:
        until: send the signal `send` once this text has been seen.
    """
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "needle", *arguments],
        cwd=cwd,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30"},
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )
    os.close(slave)
    written = b""
    deadline = time.monotonic() + 100
    while time.monotonic() < deadline:
        if select.select([master], [], [], 0.1)[0]:
            try:
                chunk = os.read(master, 65536)
            except OSError:  # Linux's way to say that the other end is closed
                break
            if not chunk:
                break
            written += chunk
        if until is not None and until in written:
            process.send_signal(send)
            until = None
    os.close(master)
    return process.wait(timeout=20), written.decode()


def test_train_on_a_terminal_shows_a_live_bar_and_the_epochs_lines(tmp_path):
    status, written = in_terminal(["train", *TINY, "--epochs", "20"], tmp_path)
    assert status == 0
    assert re.search(r"loss \d\.\d{4} +error +\d+\.\d\d % +[\d,]+ images/s", written)
    assert "\x1b[?25l" in written  # the cursor is hidden while the bar lives
    assert written.rindex("\x1b[?25h") > written.rindex("\x1b[?25l")
    assert len(re.findall(r"\d+/20 +\d+\.\d{4} ", written)) == 20


def test_train_interrupted_says_in_one_line_how_to_go_on(tmp_path):
    status, written = in_terminal(["train", "--epochs", "5000"], tmp_path, until=b" 2/5000  ", send=signal.SIGINT)
    assert status == 130
    assert re.fullmatch(r"needle: interrupted; `needle train --resume runs/\S+` goes on", written.splitlines()[-1])
    assert "Traceback" not in written
    assert "\x1b[?25h" in written
    (run,) = (tmp_path / "runs").iterdir()
    assert {path.name for path in run.iterdir() if not path.name.startswith("step-")} == {"metrics.jsonl", "run.json"}


def test_train_interrupted_names_the_folder_of_the_data_that_a_run_does_not_keep(tmp_path):
    data = tmp_path / "my data"
    data.mkdir()
    (data / "input.txt").write_text("to be or not to be, that is the question\n" * 60)
    options = ["--text", "tinyshakespeare", "--data-dir", str(data), "--epochs", "5000", "--hidden-dim", "16"]
    options += ["--num-blocks", "1", "--seq-len", "16", "--batch-size", "8"]
    status, written = in_terminal(["train", *options], tmp_path, until=b" 2/5000  ", send=signal.SIGINT)
    assert status == 130
    command = written.replace("\r", "").split("interrupted; `")[-1].split("`")[0].replace("\n", "")
    assert shlex.split(command)[-2:] == ["--data-dir", str(data)]


def weights(folder):
    """Return the name of a run's weights file, which is made of their SHA-256."""
    (name,) = (path.name for path in folder.glob("model-*.safetensors"))
    return name


def untimed_rows(folder):
    return [untimed(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


class StopAt(Callback):
    """Presses Ctrl-C after a step."""

    def __init__(self, step):
        self.step = step

    def on_step(self, trainer):
        if trainer.optimizer.t == self.step:
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("kind", ["image", "text"])
@pytest.mark.parametrize("step", [3, 7, 29])
def test_a_run_that_is_resumed_ends_as_if_it_had_never_stopped(tmp_path, monkeypatch, capsys, kind, step):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fox.txt").write_text("the quick brown fox jumps over the lazy dog.\n" * 40)
    text = ["--text", "fox.txt", "--model", "gru", "--seq-len", "8", "--batch-size", "12", "--hidden-dim", "8"]
    options = ["train", *(TINY[2:] if kind == "image" else text), "--epochs", "3", "--seed", "3", "--num-blocks", "1"]
    assert main([*options, "--output-dir", "whole"]) == 0

    made = training.callbacks
    with monkeypatch.context() as patched:
        for command in (train_command, language_command):
            patched.setattr(command, "callbacks", lambda *parts: [*made(*parts), StopAt(step)])
        assert main([*options, "--output-dir", "parts"]) == 130
    assert "needle train --resume parts" in capsys.readouterr().err
    assert main(["train", "--resume", "parts"]) == 0
    assert f"step {step}\n" in capsys.readouterr().out
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")
    assert untimed_rows(tmp_path / "parts") == untimed_rows(tmp_path / "whole")
    assert not list((tmp_path / "parts").glob("step-*"))


def test_a_text_that_has_changed_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("abc " * 400)
    monkeypatch.setattr(language_command, "callbacks", lambda *parts: [*training.callbacks(*parts), StopAt(2)])
    options = ["--hidden-dim", "8", "--num-blocks", "1", "--batch-size", "8", "--seq-len", "8", "--output-dir", "run"]
    assert main(["train", "--text", "a.txt", *options]) == 130
    (tmp_path / "a.txt").write_text("abc " * 500)
    capsys.readouterr()
    assert main(["train", "--resume", "run"]) == 2
    assert "a.txt has 2,000 tokens now; the run began with 1,600" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "line"),
    [
        (["--accumulate", "2"], "accumulate"),
        (["--clip-norm", "0.1"], "clip_norm"),
        (["--precision", "bfloat16"], "precision"),
        (["--average-decay", "0.5"], "average_decay"),
    ],
)
def test_how_steps_are_made_changes_the_model_and_is_recorded(trained, tmp_path, monkeypatch, capsys, option, line):
    monkeypatch.chdir(tmp_path)
    assert main(["train", *TINY, *option]) == 0
    assert weights(run_folder(tmp_path)) != weights(run_folder(trained[0]))
    recipe = json.loads((run_folder(tmp_path) / "model.json").read_text())["recipe"]
    assert str(recipe["options"][line]) == option[1]
    assert main(["evaluate"]) == 0
    error = json.loads((run_folder(tmp_path) / "metrics.jsonl").read_text().splitlines()[-1])["test_error"]
    assert f"{100 * error:.2f} %" in capsys.readouterr().out


def test_what_one_sees_of_a_run_does_not_change_it(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", *TINY, "--tensorboard", "--layer-statistics", "5", "--checkpoint-steps", "3"]) == 0
    folder = run_folder(tmp_path)
    assert weights(folder) == weights(run_folder(trained[0]))
    assert untimed_rows(folder) == untimed_rows(run_folder(trained[0]))
    assert list((folder / "tensorboard").glob("events*"))
    assert {json.loads(line)["step"] % 5 for line in (folder / "layers.jsonl").read_text().splitlines()} == {0}
    out = capsys.readouterr().out
    assert "layers.jsonl" in out
    assert "event files for TensorBoard" in out


def test_resuming_takes_the_runs_own_options(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--resume", "nowhere"]) == 2
    assert "there is no checkpoint in nowhere" in capsys.readouterr().err
    assert main(["train", "--resume", "nowhere", "--epochs", "3"]) == 2
    assert "--epochs: --resume goes on with the options" in capsys.readouterr().err


def test_train_whose_reader_goes_away_ends_quietly(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "needle", "train", *TINY, "--epochs", "300"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=100) == 1
    assert process.stderr.read() == b""
    process.stderr.close()
