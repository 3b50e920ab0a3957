"""`needle completion`: scripts for shells, and what bash makes of one."""

import shutil
import subprocess
import sys

import pytest

from needle.cli import main
from needle.cli.completion_command import SHELLS

from .needle_process import run_needle

pytest.importorskip("shtab")


@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_gets_a_script_that_knows_commands_and_options(shell, capsys):
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for word in ("train", "report", "hidden-dim", "fashion-mnist", "print-config"):
        assert word in script


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (["needle", "tr"], ["train"]),
        (["needle", "train", "--wei"], ["--weight-decay"]),
        (["needle", "train", "--optimizer", "a"], ["adamw", "adam", "adagrad"]),
        (["needle", "train", "--model", "l"], ["lstm"]),
        (["needle", "train", "--text", "no"], ["notes.txt"]),
        (["needle", "report", "--no"], ["--no-profile"]),
    ],
    ids=" ".join,
)
def test_bash_completes(tmp_path, typed, expected):
    (tmp_path / "notes.txt").touch()
    (tmp_path / "other.txt").touch()
    script = run_needle("completion", "bash", cwd=tmp_path).stdout
    (tmp_path / "completion.bash").write_text(script)
    words = " ".join(typed)
    asked = f"""
        source ./completion.bash
        complete -p needle > /dev/null || exit 1
        COMP_WORDS=({words}); COMP_CWORD={len(typed) - 1}; COMP_LINE="{words}"; COMP_POINT=${{#COMP_LINE}}
        function=$(complete -p needle | sed 's/.*-F \\([^ ]*\\).*/\\1/')
        $function needle {typed[-1]} {typed[-2]}
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    process = subprocess.run(
        ["bash", "-c", asked], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
    )
    assert {word.strip() for word in process.stdout.split()} == set(expected)


def test_an_unknown_shell_and_a_missing_extra_are_told(capsys, monkeypatch):
    assert main(["completion", "bsh"]) == 2
    assert "unknown name 'bsh': did you mean bash?" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "bash"]) == 2
    assert "pip install 'needle-dl[completion]'" in capsys.readouterr().err
