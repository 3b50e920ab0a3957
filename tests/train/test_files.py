"""Files that are whole or absent."""

import os

import pytest

from needle.errors import DataError
from needle.train import check_writable, write_file


def test_write_file_replaces_the_old_contents_and_leaves_no_other_file(tmp_path):
    path = tmp_path / "figures"
    write_file(path, b"old")
    write_file(path, b"new and longer")
    assert path.read_bytes() == b"new and longer"
    assert [one.name for one in tmp_path.iterdir()] == ["figures"]


@pytest.mark.parametrize("failing", ["replace", "fsync"])
def test_write_file_that_fails_leaves_the_old_file_and_no_part_of_the_new(tmp_path, monkeypatch, failing):
    path = tmp_path / "figures"
    write_file(path, b"old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, failing, fail)
    with pytest.raises(OSError, match="No space left"):
        write_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert [one.name for one in tmp_path.iterdir()] == ["figures"]


def test_write_file_interrupted_leaves_no_temporary_file(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_file(tmp_path / "figures", b"new")
    assert list(tmp_path.iterdir()) == []


def test_write_file_is_on_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    order = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: order.append("fsync") or fsync(fd))
    monkeypatch.setattr(os, "replace", lambda a, b: order.append("replace") or replace(a, b))
    write_file(tmp_path / "figures", b"x")
    assert order == ["fsync", "replace", "fsync"]


def test_check_writable_leaves_nothing_behind(tmp_path):
    check_writable(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []


def test_check_writable_names_the_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match=r"cannot write into the folder .*file/run: Not a directory"):
        check_writable(tmp_path / "file" / "run")
    with pytest.raises(DataError, match=r"cannot write into the folder .*file: File exists"):
        check_writable(tmp_path / "file")
