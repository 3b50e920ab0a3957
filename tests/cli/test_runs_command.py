"""`needle runs` lists runs, whole, old and damaged ones, and puts some of them side by side."""

import json
import signal

import pytest

from needle import nn
from needle.cli import main
from needle.train import Progress, Recipe, save_model

from .needle_process import TINY, run_in_terminal, run_needle
from .run_folders import IMAGES, TEXT, image_row, lines, make_old, text_row, write_run


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with four runs: two on images, one on a text, one that was interrupted."""
    monkeypatch.chdir(tmp_path)
    runs = tmp_path / "runs"
    write_run(runs / "digits-1", [image_row(epoch, loss) for epoch, loss in enumerate((2.0, 0.8, 0.9), 1)], IMAGES)
    write_run(runs / "digits-2", [image_row(1, 1.0)], IMAGES, lr=0.01, epochs=1, output_dir="elsewhere")
    write_run(runs / "fox-1", [text_row(1, 0.5), text_row(2, 0.4)], TEXT)
    make_old(write_run(runs / "stopped", [image_row(1, 3.0)], IMAGES, finished=False))
    (runs / "latest").write_text("fox-1\n")
    (runs / "notes").mkdir()  # no run
    return tmp_path


def printed(capsys, *arguments, status=0):
    assert main(["runs", *arguments]) == status
    captured = capsys.readouterr()
    return (captured.out if status == 0 else captured.err).splitlines()


def test_a_list_in_a_pipe_is_plain_lines(folder):
    process = run_needle("runs", cwd=folder, COLUMNS="40")
    assert (process.returncode, process.stderr) == (0, "")
    assert process.stdout.splitlines() == [
        "run       data     model  epochs  best loss  last loss  best err/ppl  last err/ppl   time  state",
        "digits-1  digits   mlp       3/4     0.9000     1.0000       10.00 %       11.25 %  4.5 s  finished",
        "digits-2  digits   mlp       1/1     1.1000     1.1000       12.50 %       12.50 %  1.5 s  finished",
        "fox-1     fox.txt  gpt       2/2     0.6000     0.6000          8.00          8.00  2 min  finished",
        "stopped   digits   mlp       1/4     3.1000     3.1000       37.50 %       37.50 %  1.5 s  interrupted",
    ]


def test_a_list_on_a_terminal_is_a_table_that_fits(folder):
    status, written = run_in_terminal("runs", cwd=folder, columns=120)
    assert status == 0
    assert "last err/ppl" in written
    assert "───" in written
    status, written = run_in_terminal("runs", cwd=folder, columns=60)
    assert max(map(len, written.splitlines())) <= 60
    assert "last loss" not in written.splitlines()[0]
    assert "a wider terminal also shows: " in written
    for name in ("digits-1", "digits-2", "fox-1", "stopped", "interrupted"):
        assert name in written


def test_a_run_that_was_trained_is_listed(trained, capsys, monkeypatch):
    monkeypatch.chdir(trained[0])
    heading, line = printed(capsys)
    assert heading.split()[0] == "run"
    assert line.split()[1:4] == ["digits", "mlp", "2/2"]
    assert line.endswith("finished")


@pytest.mark.parametrize(
    ("field", "names"),
    [
        ("name", ["digits-1", "digits-2", "fox-1", "stopped"]),
        ("best_loss", ["fox-1", "digits-1", "digits-2", "stopped"]),
        ("last_error", ["digits-1", "digits-2", "stopped", "fox-1"]),  # a run on a text has none
        ("epochs", ["digits-2", "stopped", "fox-1", "digits-1"]),
        ("state", ["digits-1", "digits-2", "fox-1", "stopped"]),
    ],
)
def test_a_list_is_sorted_by_a_field(folder, capsys, field, names):
    assert [line.split()[0] for line in printed(capsys, "--sort", field)[1:]] == names


def test_every_field_sorts(folder, capsys):
    main(["runs", "--help"])
    fields = " ".join(capsys.readouterr().out.split()).split("lowest first: ")[1].split(" (default")[0].split(", ")
    assert len(fields) == 13
    for field in fields:
        assert len(printed(capsys, "--sort", field)) == 5


def test_json_holds_everything(folder, capsys):
    found = {one["name"]: one for one in json.loads("\n".join(printed(capsys, "--json")))}
    assert list(found) == ["digits-1", "digits-2", "fox-1", "stopped"]
    one = found["digits-1"]
    assert (one["best_loss"], one["last_loss"], one["best_error"]) == (0.9, 1.0, 0.1)
    assert (one["epochs"], one["planned_epochs"], one["seconds"], one["state"]) == (3, 4, 4.5, "finished")
    assert one["options"] == IMAGES
    assert set(one["record"]["versions"]) == {"needle", "numpy", "llvmlite", "python"}
    assert found["fox-1"]["best_perplexity"] == 8.0
    assert (found["fox-1"]["best_error"], found["fox-1"]["notes"]) == (None, [])


# ---------------------------------------------------------------------------------------- old and damaged runs


def test_an_old_run_tells_what_its_model_knows(folder, capsys):
    old = write_run(folder / "runs" / "old", [image_row(1, 1.0)])
    recipe = Recipe("MLPResNet", {}, (2, 2), ("a", "b"), dataset="mnist", options={"model": "mlp", "epochs": 7})
    save_model(old, nn.Linear(4, 2), recipe)
    out = printed(capsys)
    assert next(line for line in out if line.startswith("old ")).split()[1:4] == ["mnist", "mlp", "1/7"]
    assert out[-1] == "note: old: no run.json: made by an older version, or by a loop of your own"


def test_damaged_runs_are_listed_and_told(folder, capsys):
    runs = folder / "runs"
    half = write_run(runs / "half", options=IMAGES)
    (half / "metrics.jsonl").write_text(lines([image_row(1, 1.0), image_row(2, 0.5)])[:-40])
    odd = write_run(runs / "odd", options=IMAGES)
    (odd / "metrics.jsonl").write_bytes(b'\xff\n[1]\n{"epoch": 2, "test_loss": 1e999, "seconds": 1}\n')
    worse = write_run(runs / "worse")
    (worse / "run.json").write_text('{"format"')
    (write_run(runs / "worst", options=IMAGES) / "metrics.jsonl").mkdir()
    out = printed(capsys)
    assert len([line for line in out if not line.startswith("note: ")]) == 9
    told = "\n".join(out)
    assert "note: half: metrics.jsonl: the last line, 2, is half written and left out" in told
    assert "note: odd: metrics.jsonl: line 1 is no row of figures and left out" in told
    assert "note: odd: metrics.jsonl: line 2 is no row of figures and left out" in told
    assert "note: worse: runs/worse/run.json is damaged or cut short: " in told
    assert "note: worse: runs/worse/model.json is not of a format" in told
    assert "note: worst: cannot read metrics.jsonl: Is a directory" in told


def test_names_are_printed_as_they_are_and_end_no_line(folder, capsys):
    write_run(folder / "runs" / "[red]a\x1b[31m\nb", [image_row(1, 1.0)], IMAGES)
    assert any(line.startswith("[red]a?[31m?b  digits") for line in printed(capsys))
    process = run_needle("runs", cwd=folder, PYTHONIOENCODING="ascii", LC_ALL="C")
    assert process.returncode == 0
    write_run(folder / "runs" / "größer", [image_row(1, 1.0)], IMAGES)
    process = run_needle("runs", cwd=folder, PYTHONIOENCODING="ascii", LC_ALL="C")
    assert "gr??er" in process.stdout


def test_a_run_that_goes_on_or_was_stopped_is_told_from_a_finished_one(folder, capsys):
    begun = write_run(folder / "runs" / "begun", options=IMAGES, finished=False)

    def state():
        return next(line for line in printed(capsys) if line.startswith("begun ")).split()[-1]

    assert state() == "running?"
    make_old(begun, seconds=3600)
    assert state() == "running?"  # its first epoch may take hours
    make_old(begun, seconds=90_000)
    assert state() == "interrupted"
    (begun / "metrics.jsonl").write_text(lines([image_row(1, 1.0)]))
    assert state() == "running?"
    make_old(begun, seconds=70)  # a minute, and more than three epochs of 1.5 s
    assert state() == "interrupted"
    (begun / "model.json").write_text("{}")
    assert state() == "finished"


def test_two_runs_are_put_side_by_side(folder):
    process = run_needle("runs", "runs/digits-1", "digits-2", cwd=folder)
    assert (process.returncode, process.stderr) == (0, "")
    figures = process.stdout.split("\n\n")[0].splitlines()
    rows = {line.split("  ")[0]: line.split()[-2:] for line in figures}
    assert rows["epochs"] == ["3/4", "1/1"]
    assert rows["best loss"] == ["0.9000", "1.1000"]
    assert rows["best error"][1] == "%"
    options = process.stdout.split("options that differ")[1].splitlines()
    assert [line.split() for line in options[1:]] == [["epochs", "4", "1"], ["lr", "0.003", "0.01"]]
    assert "circumstances" not in process.stdout


def test_a_comparison_on_a_terminal_is_a_table(folder):
    status, written = run_in_terminal("runs", "digits-1", "latest", cwd=folder, columns=60)
    assert status == 0
    assert "fox-1" in written.splitlines()[0]
    assert "best perplexity" in written
    assert max(map(len, written.splitlines())) <= 60


def test_circumstances_that_differ_are_told(folder, capsys):
    path = folder / "runs" / "digits-2" / "run.json"
    record = json.loads(path.read_text())
    record.update(commit="0123456789abcdef", dirty=True, processor="another")
    path.write_text(json.dumps(record))
    told = "\n".join(printed(capsys, "digits-1", "digits-2")).split("circumstances that differ")[1]
    assert "another" in told
    assert "0123456789ab + changes" in told
    assert "numpy" not in told


def test_one_run_is_told_whole(folder, capsys):
    out = printed(capsys, "latest")
    assert out[0].split() == ["fox-1"]
    for row in (["data", "fox.txt"], ["tokens", "characters"], ["dataset", "-"], ["best", "perplexity", "8.00"]):
        assert row in [line.split() for line in out]


def test_an_option_that_an_old_run_does_not_know_is_no_difference(folder, capsys):
    write_run(folder / "runs" / "old", [image_row(1, 1.0)])
    assert "options that differ" not in "\n".join(printed(capsys, "old", "digits-1"))


def test_runs_of_one_name_are_told_by_their_paths(folder, capsys):
    write_run(folder / "other" / "digits-1", [image_row(1, 0.1)], IMAGES)
    assert printed(capsys, "runs/digits-1", "other/digits-1")[0].split() == ["runs/digits-1", "other/digits-1"]


# ---------------------------------------------------------------------------------------------------- bad input


def test_no_runs_is_no_mistake(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert printed(capsys) == ["there are no runs in runs/ yet: `needle train` makes one"]
    assert printed(capsys, "--json") == ["[]"]
    (tmp_path / "empty").mkdir()
    assert printed(capsys, "empty") == ["there are no runs in empty yet: `needle train` makes one"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "there is no run nowhere, neither here nor in runs/"),
        (["digit-1"], "there is no run digit-1, neither here nor in runs/: did you mean digits-1?"),
        (["digits-1", "runs"], "runs is no run: it has neither run.json nor metrics.jsonl"),
        (["--sort", "best_los"], "argument --sort: unknown name 'best_los': did you mean best_loss?"),
        (["--jsn"], "unknown argument --jsn: did you mean --json?"),
    ],
)
def test_bad_input_is_one_line(folder, capsys, arguments, message):
    (line,) = printed(capsys, *arguments, status=2)
    assert message in line


def test_bad_input_of_a_process_gives_status_2(folder):
    process = run_needle("runs", "digits-1", "nowhere", cwd=folder)
    assert (process.returncode, process.stdout, process.stderr.count("\n")) == (2, "", 1)


def test_looking_changes_nothing(folder, capsys):
    before = {path: (path.stat().st_mtime_ns, path.is_file() and path.read_bytes()) for path in folder.rglob("*")}
    printed(capsys)
    printed(capsys, "digits-1", "fox-1")
    assert before == {
        path: (path.stat().st_mtime_ns, path.is_file() and path.read_bytes()) for path in folder.rglob("*")
    }


def test_a_resumed_run_keeps_its_first_record(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def stop(self, trainer, row):
        signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patched:
        patched.setattr(Progress, "on_epoch_end", stop)
        assert main(["train", *TINY, "--output-dir", "runs/one"]) == 130
    capsys.readouterr()
    record = (tmp_path / "runs" / "one" / "run.json").read_text()
    assert printed(capsys)[1].split()[3] == "1/2"
    assert main(["train", "--resume", "runs/one"]) == 0
    capsys.readouterr()
    assert printed(capsys)[1].split()[3] == "2/2"
    assert (tmp_path / "runs" / "one" / "run.json").read_text() == record
    assert json.loads(record)["options"]["optimizer"] == "adamw"
