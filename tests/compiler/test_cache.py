"""The disk cache: found again, never wrong, never in the way."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from needle.compiler import cache
from needle.compiler.cache import cache_folder, cached_object


class Compiler:
    """Counts how often it compiles."""

    def __init__(self):
        self.calls = 0

    def __call__(self, text):
        self.calls += 1
        return b"code of " + text.encode() * 100


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("NEEDLE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("NEEDLE_CACHE", raising=False)
    return tmp_path / "cache"


def entries(folder):
    return sorted(folder.glob("*.needle-object"))


def test_second_time_is_read_from_disk(folder):
    compiler = Compiler()
    assert cached_object("a", compiler) == cached_object("a", compiler) == compiler("a")
    cached_object("b", compiler)
    assert compiler.calls == 3  # a, the one of the test, b
    assert len(entries(folder)) == 2
    assert list(folder.glob(".writing-*")) == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"not an entry at all"),
        lambda path: path.write_bytes(path.read_bytes()[:60] + b"X" + path.read_bytes()[61:]),
        lambda path: path.write_bytes(b"needle object 0\n" + path.read_bytes()[16:]),
    ],
    ids=["truncated", "empty", "foreign", "flipped", "old"],
)
def test_damaged_entry_is_compiled_and_written_anew(folder, damage):
    compiler = Compiler()
    right = cached_object("a", compiler)
    (path,) = entries(folder)
    damage(path)
    assert cached_object("a", compiler) == right
    assert cached_object("a", compiler) == right
    assert compiler.calls == 2


def test_folder_in_the_place_of_an_entry_does_no_harm(folder):
    compiler = Compiler()
    right = cached_object("a", compiler)
    (path,) = entries(folder)
    path.unlink()
    path.mkdir()
    assert cached_object("a", compiler) == right
    assert list(folder.glob(".writing-*")) == []


def test_size_is_bounded(folder, monkeypatch):
    monkeypatch.setenv("NEEDLE_CACHE_SIZE", "0.01")
    monkeypatch.setattr(cache, "_LOOK_EVERY", 1)
    for number in range(30):
        cached_object(str(number), lambda text: text.encode() * 1000)
    assert sum(path.stat().st_size for path in entries(folder)) <= 0.01 * 2**20


def test_used_entries_stay(folder, monkeypatch):
    monkeypatch.setattr(cache, "_LOOK_EVERY", 1)
    compiler = Compiler()
    for text in "abc":
        cached_object(text, compiler)
    for path in entries(folder):
        os.utime(path, (1, 1))
    cached_object("b", compiler)
    size = entries(folder)[0].stat().st_size
    monkeypatch.setenv("NEEDLE_CACHE_SIZE", str(2.5 * size / 2**20))
    cached_object("d", compiler)
    before = compiler.calls
    cached_object("b", compiler)
    cached_object("d", compiler)
    assert compiler.calls == before
    assert len(entries(folder)) == 2


def test_can_be_turned_off(folder, monkeypatch):
    monkeypatch.setenv("NEEDLE_CACHE", "0")
    compiler = Compiler()
    cached_object("a", compiler)
    cached_object("a", compiler)
    assert compiler.calls == 2
    assert not folder.exists()


def test_folder_that_cannot_be_made_does_no_harm(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NEEDLE_CACHE_DIR", str(tmp_path / "file" / "cache"))
    assert cached_object("a", Compiler()).startswith(b"code")


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="no owners of files here")
def test_folder_that_others_may_write_to_is_not_used(folder):
    folder.mkdir()
    folder.chmod(0o777)
    compiler = Compiler()
    cached_object("a", compiler)
    cached_object("a", compiler)
    assert compiler.calls == 2
    assert entries(folder) == []


def test_default_folder_is_the_users_cache_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("NEEDLE_CACHE_DIR", raising=False)
    monkeypatch.delenv("NEEDLE_CACHE", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "needle"


def test_processes_share_it(folder):
    program = (
        "from needle.compiler.cache import cached_object\n"
        "for number in range(40):\n"
        "    text = str(number % 10)\n"
        "    assert cached_object(text, lambda text: text.encode() * 10000) == text.encode() * 10000\n"
    )
    running = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(4)]
    assert [process.wait(60) for process in running] == [0, 0, 0, 0]
    assert len(entries(folder)) == 10
    assert list(Path(folder).glob(".writing-*")) == []


def test_a_compiled_function_is_read_from_disk_by_the_next_process(folder):
    program = (
        "import needle as ndl\n"
        "import needle.compiler.executable as executable\n"
        "calls = []\n"
        "compile_modules = executable.compile_modules\n"
        "executable.compile_modules = lambda text: calls.append(1) or compile_modules(text)\n"
        "f = ndl.jit(lambda x: ndl.exp(x) * 2)\n"
        "print(len(calls), round(f(ndl.Tensor([0.0])).item()), len(calls))\n"
    )
    runs = [
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
        for _ in range(2)
    ]
    assert runs == [["0", "2", "1"], ["0", "2", "0"]]
