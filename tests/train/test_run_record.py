"""Run records: round trip, what they hold, damage of every kind, and git as it may be found."""

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

import needle
from needle.errors import CheckpointError, SettingError
from needle.train import begin_run, describe_run, machine, read_run_record, run_record, write_run_record

OPTIONS = {"dataset": "digits", "lr": 0.003, "momentum": None, "augment": True, "seed": 5, "workers": 0}


def git(folder, *arguments):
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository with one commit, as the current folder."""
    git(tmp_path, "init")
    (tmp_path / "code.py").write_text("1\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "one")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_record_comes_back_as_it_was_written(tmp_path):
    record = describe_run({**OPTIONS, "text": Path("a") / "b.txt", "betas": (0.9, 0.99)}, "train")
    assert write_run_record(tmp_path / "new" / "run", record) == tmp_path / "new" / "run" / "run.json"
    assert read_run_record(tmp_path / "new" / "run") == record
    assert record.options["text"] == str(Path("a") / "b.txt")
    assert record.options["betas"] == [0.9, 0.99]
    assert [path.name for path in (tmp_path / "new" / "run").iterdir()] == ["run.json"]


def test_a_record_says_how_and_on_what(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/needle/__main__.py", "train", "--lr", "0.003"])
    before = datetime.now(UTC).replace(microsecond=0)
    record = describe_run({**OPTIONS, "run": print, "parser": object(), "debug": False, "resume": None}, "train")
    assert record.options == OPTIONS
    assert (record.command, record.seed) == ("train", 5)
    assert record.command_line == ("needle", "train", "--lr", "0.003")
    assert record.versions["needle"] == needle.__version__
    assert set(record.versions) == {"needle", "numpy", "llvmlite", "python"}
    assert record.processor
    assert record.cores >= 1
    assert record.memory_bytes > 2**20
    assert before <= datetime.fromisoformat(record.started) <= datetime.now(UTC)
    assert record.started.endswith("+00:00")


@pytest.mark.parametrize("value", [object(), float("nan"), {1, 2}])
def test_an_option_that_json_cannot_hold_is_named(value):
    with pytest.raises(SettingError, match="the option odd cannot be recorded"):
        describe_run({"odd": value}, "train")


def test_a_file_name_that_is_no_text_comes_back(tmp_path):
    record = describe_run({"text": "b\udc80d ü.txt"}, "train")
    write_run_record(tmp_path, record)
    assert read_run_record(tmp_path).options["text"] == "b\udc80d ü.txt"


def test_a_resumed_run_keeps_its_first_record(tmp_path):
    begin_run(tmp_path, {"seed": 1, "resume": None}, "train")
    begin_run(tmp_path, {"seed": 2, "resume": str(tmp_path)}, "train")
    assert read_run_record(tmp_path).seed == 1
    begin_run(tmp_path, {"seed": 3}, "train")  # another run in the same folder
    assert read_run_record(tmp_path).seed == 3


# -------------------------------------------------------------------------------------------------------- git


def test_git_tells_the_commit_and_whether_files_have_changed(repository):
    record = describe_run({}, "train")
    assert len(record.commit) == 40
    assert record.dirty is False
    (repository / "untracked.txt").write_text("git does not know it")
    assert describe_run({}, "train").dirty is False
    (repository / "code.py").write_text("2\n")
    assert describe_run({}, "train").dirty is True


def test_a_repository_with_no_commit_has_none(tmp_path, monkeypatch):
    git(tmp_path, "init")
    monkeypatch.chdir(tmp_path)
    record = describe_run({}, "train")
    assert (record.commit, record.dirty) == (None, None)


def test_no_repository_is_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    record = describe_run({}, "train")
    assert (record.commit, record.dirty) == (None, None)


def test_no_git_is_none(repository, monkeypatch):
    monkeypatch.setenv("PATH", "")
    record = describe_run({}, "train")
    assert (record.commit, record.dirty) == (None, None)


def test_git_that_hangs_is_not_waited_for(repository, monkeypatch):
    folder = repository / "bin"
    folder.mkdir()
    (folder / "git").write_text("#!/bin/sh\nexec sleep 30\n")
    (folder / "git").chmod(0o700)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    monkeypatch.setattr(run_record, "_GIT_SECONDS", 0.05)
    assert describe_run({}, "train").commit is None


# ----------------------------------------------------------------------------------------------------- damage


def changed(**changes):
    return lambda content: json.dumps({**content, **changes}).encode()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: b"", "is damaged or cut short"),
        (lambda content: json.dumps(content).encode()[:-9], "is damaged or cut short"),
        (lambda content: b"\xff\xfe", "is damaged or cut short"),
        (lambda content: b"[" * 100_000, "is damaged or cut short"),
        (lambda content: b'{"seed": NaN}', "NaN is not a number"),
        (lambda content: b"[1]", "holds no JSON object"),
        (lambda content: b"{}", "is not of a format that this version reads"),
        (changed(format={"name": "needle run", "version": 2}), "is not of a format that this version reads"),
        (changed(colour="red"), "the record has unknown entries: colour"),
        (lambda content: json.dumps({k: v for k, v in content.items() if k != "cores"}).encode(), "missing .* cores"),
        (changed(seed="5", cores=True), "malformed entries: cores, seed"),
        (changed(started="yesterday"), "malformed entries: started"),
        (changed(started="2026-01-01T00:00:00"), "malformed entries: started"),  # in no time zone
        (changed(command_line=[]), "malformed entries: command_line"),
        (changed(versions={"numpy": 2}), "malformed entries: versions"),
    ],
)
def test_damage_is_one_line(tmp_path, damage, message):
    path = write_run_record(tmp_path, describe_run(OPTIONS, "train"))
    path.write_bytes(damage(json.loads(path.read_text())))
    with pytest.raises(CheckpointError, match=message) as caught:
        read_run_record(tmp_path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_record_is_told(tmp_path):
    with pytest.raises(CheckpointError, match=r"there is no file .*run\.json"):
        read_run_record(tmp_path)


def test_a_record_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    write_run_record(tmp_path, describe_run({"seed": 1}, "train"))

    def fail(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="No space left"):
        write_run_record(tmp_path, describe_run({"seed": 2}, "train"))
    assert read_run_record(tmp_path).seed == 1
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


# ---------------------------------------------------------------------------------------------------- machine


def test_a_machine_that_tells_little_is_described_all_the_same(monkeypatch):
    monkeypatch.setattr(machine, "_linux_processor", lambda: None)
    monkeypatch.setattr(machine.platform, "processor", lambda: "")
    monkeypatch.delattr(machine.os, "sysconf")
    assert machine.processor_name() == machine.host().cpu
    assert machine.memory_bytes() is None
    assert machine.package_version("no-such-package-anywhere") is None
