"""`needle doctor` says what is there, what is missing, and what is broken."""

import re

import pytest

import needle
from needle.cli import doctor_command, main

from .needle_process import run_needle


def test_everything_is_told_as_a_process(tmp_path):
    run = run_needle("doctor", cwd=tmp_path, NEEDLE_CACHE_DIR=str(tmp_path / "cache"))
    assert (run.returncode, run.stderr) == (0, "")
    for line in (
        rf"needle +{re.escape(needle.__version__)}",
        r"Python +3\.\d+",
        r"numpy +\d",
        r"vectors +\d+ bits \(\d+ float32\)",
        r"processor +\S.*, \d+ of \d+ cores",
        r"memory +\d+\.\d GiB",
        r"threads +\d",
        r"devices +cpu",
        r"NEEDLE_CACHE_DIR +\S+cache",
        r"compiler +works",
        r"cache of programs +\S+cache: \d+ files?",
        r"gradients +work",
        r"multiply-adds, 1 thread +[1-9]\d* GFLOP/s",
        r"copying in memory +[1-9]\d* GB/s",
        "nothing is broken",
    ):
        assert re.search(line, run.stdout), line


def test_quick_measures_nothing(capsys):
    assert main(["doctor", "--quick"]) == 0
    assert "GFLOP/s" not in capsys.readouterr().out


def test_a_fault_is_told_and_ends_with_status_1(capsys, monkeypatch):
    def fail():
        raise OSError("no room")

    monkeypatch.setattr(doctor_command, "_cache", fail)
    assert main(["doctor", "--quick"]) == 1
    printed = capsys.readouterr().out
    assert "FAULT: OSError: no room" in printed
    assert "1 fault" in printed


@pytest.mark.parametrize(
    ("have", "message"), [("2.0", "onnx 2.0"), (None, "missing onnx: run pip install 'needle-dl[onnx]'")]
)
def test_an_extra_is_there_or_told_how_to_install(capsys, monkeypatch, have, message):
    known = doctor_command.package_version
    monkeypatch.setattr(doctor_command.metadata, "requires", lambda name: ["numpy>=2", 'onnx>=1; extra == "onnx"'])
    monkeypatch.setattr(doctor_command, "package_version", lambda name: have if name == "onnx" else known(name))
    assert main(["doctor", "--quick"]) == 0
    assert message in " ".join(capsys.readouterr().out.split())


def test_sources_that_are_not_installed_are_told(capsys, monkeypatch):
    def missing(name):
        raise doctor_command.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor_command.metadata, "requires", missing)
    assert main(["doctor", "--quick"]) == 0
    assert "is not installed" in capsys.readouterr().out


def test_no_cache_is_told(capsys, monkeypatch):
    monkeypatch.setenv("NEEDLE_CACHE", "0")
    assert main(["doctor", "--quick"]) == 0
    assert "off: NEEDLE_CACHE=0" in capsys.readouterr().out
