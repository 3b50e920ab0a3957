"""`--config` and `--print-config`."""

import json
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from needle.cli import main
from needle.cli.arguments import build_parser
from needle.cli.configuration import toml_text

from .needle_process import TINY, run_needle

COMMANDS = ["train", "evaluate", "predict", "sample", "runs", "plot", "report", "doctor", "completion"]
POSITIONAL = {"predict": ["a.png"], "plot": ["run"], "completion": ["bash"]}


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(text, name="needle.toml"):
    Path(name).write_text(text, encoding="utf-8")
    return name


def printed(capsys, *arguments):
    assert main([*arguments, "--print-config"]) == 0
    return tomllib.loads(capsys.readouterr().out)


def complaint(capsys, *arguments):
    assert main(list(arguments)) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert error.count("\n") == 1
    return error.removeprefix("needle: error: ").strip()


def test_a_file_sets_options_and_the_command_line_wins(capsys):
    file = write('epochs = 7\nlr = 0.25\noptimizer = "sgd"\naugment = false\n')
    settings = printed(capsys, "train", "--config", file, "--lr", "0.5", f"--config={file}")
    assert (settings["epochs"], settings["lr"], settings["optimizer"]) == (7, 0.5, "sgd")
    assert settings["augment"] is False
    assert settings["momentum"] == 0.9  # a default of the optimizer that the file names
    assert printed(capsys, "train", "--config", file, "--augment")["augment"] is True


def test_a_command_takes_its_own_table_over_what_stands_outside(capsys):
    file = write("seed = 1\nbatch-size = 10\n[train]\nbatch_size = 20\n[sample]\nlength = 3\n")
    settings = printed(capsys, "train", "--config", file)
    assert (settings["seed"], settings["batch-size"]) == (1, 20)
    # Outside of tables there may be what only other commands take.
    assert printed(capsys, "sample", "--config", file) == {**printed(capsys, "sample"), "length": 3, "seed": 1}
    write("[sample]\nbatch-size = 3\n")
    assert complaint(capsys, "sample", "--config", file).startswith("needle.toml: needle sample has no option 'batch-s")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_prints_what_it_reads_back(capsys, command):
    arguments = [command, *POSITIONAL.get(command, [])]
    first = printed(capsys, *arguments)
    text = write(toml_text(first))
    assert printed(capsys, *arguments, "--config", text) == first
    options = {action.dest.replace("_", "-") for action in build_parser().commands[command]._actions}
    assert first.keys() <= options


def test_a_run_with_a_file_is_the_run_with_the_options(tmp_path, capsys):
    assert main(["train", *TINY, "--output-dir", "typed"]) == 0
    capsys.readouterr()
    settings = printed(capsys, "train", *TINY)
    file = write(f"[train]\n{toml_text(settings)}")
    process = run_needle("train", "--config", file, "--output-dir", "read", cwd=tmp_path)
    assert (process.returncode, process.stderr) == (0, "")
    weights = [next((tmp_path / run).glob("*.safetensors")).name for run in ("typed", "read")]
    assert weights[0] == weights[1]
    options = [json.loads((tmp_path / run / "run.json").read_text())["options"] for run in ("typed", "read")]
    assert not {"config", "print_config", "resolve"} & options[1].keys()


def test_options_that_are_given_several_times_are_lists(capsys):
    file = write('metric = ["test_loss", "test_error"]\n')
    assert printed(capsys, "plot", "run", "--config", file)["metric"] == ["test_loss", "test_error"]
    write('metric = "test_loss"\n')
    assert printed(capsys, "plot", "run", "--config", file)["metric"] == ["test_loss"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch = 3", "needle.toml: needle train has no option 'epoch': did you mean epochs? Known are dataset, "),
        ("[tarin]", "needle.toml: there is no command for the table [tarin]: did you mean train?"),
        ("epochs = 0", "needle.toml: epochs: must be 1 or more, got 0"),
        ("epochs = 2.5", "needle.toml: epochs: expected a whole number, got '2.5'"),
        ('lr = "fast"', "needle.toml: lr: expected a number, got 'fast'"),
        ('model = "mpl"', "needle.toml: model: unknown name 'mpl': did you mean mlp?"),
        ("epochs = true", "needle.toml: epochs: expected one value, got true"),
        ("epochs = [1, 2]", "needle.toml: epochs: expected one value, got [1, 2]"),
        ("augment = 1", "needle.toml: augment: expected true or false, got 1"),
        ("debug = true", "needle.toml: needle train has no option 'debug'"),
        ("epochs = 2020-01-01", "needle.toml: epochs: expected one value, got datetime.date(2020, 1, 1)"),
        ("epochs = ", "--config: needle.toml is not TOML: Invalid value (at end of document)"),
    ],
)
def test_what_is_wrong_in_a_file_is_one_line_with_file_and_key(capsys, text, message, tmp_path):
    assert complaint(capsys, "train", "--config", write(text)).startswith(message)
    assert [path.name for path in tmp_path.iterdir()] == ["needle.toml"]


def test_a_file_that_cannot_be_read_is_told(capsys, tmp_path):
    assert (
        complaint(capsys, "train", "--config", "none.toml")
        == "--config: cannot read none.toml: No such file or directory"
    )
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    assert complaint(capsys, "train", "--config", "bytes.toml").startswith("--config: bytes.toml is not TOML")
    assert complaint(capsys, "train", "--config").startswith("argument --config: expected one argument")


texts = st.text(st.characters(codec="utf-8"))
values = st.one_of(texts, st.integers(-(2**60), 2**60), st.floats(allow_nan=False, allow_infinity=False), st.booleans())


@given(st.dictionaries(st.from_regex(r"[a-z][a-z-]*", fullmatch=True), st.one_of(values, st.lists(texts)), max_size=4))
def test_what_is_printed_is_read_back_as_it_was(settings):
    assert tomllib.loads(toml_text(settings)) == settings
