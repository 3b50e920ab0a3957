"""Figures of runs are read as far as they can be, and what cannot is told."""

import json

import pytest

from needle.train import metrics_jsonl, read_metrics

ROWS = [{"epoch": 1, "step": 5, "test_loss": 0.5}, {"epoch": 2, "step": 10, "test_loss": 0.25}]


def read(tmp_path, data):
    (tmp_path / "metrics.jsonl").write_bytes(data)
    return read_metrics(tmp_path)


def test_what_was_written_comes_back(tmp_path):
    found = read(tmp_path, metrics_jsonl(ROWS))
    assert list(found.rows) == ROWS
    assert found.faults == ()
    assert read_metrics(tmp_path / "metrics.jsonl") == found


def test_every_cut_of_the_last_line_leaves_the_first(tmp_path):
    data = metrics_jsonl(ROWS)
    first = data.index(b"\n") + 1
    for end in range(first + 1, len(data) - 1):
        found = read(tmp_path, data[:end])
        assert list(found.rows) == ROWS[:1]
        assert found.faults == ("metrics.jsonl: the last line, 2, is half written and left out",)
    assert list(read(tmp_path, data[:-1]).rows) == ROWS  # only the line's end is missing


@pytest.mark.parametrize(
    "line", [b"", b"[1]", b"{", b'{"test_loss": 1}', b'{"epoch": "2"}', b'{"epoch": 2.0}', b'{"epoch": true}', b"\xff"]
)
def test_a_line_that_is_no_row_is_left_out_and_told(tmp_path, line):
    first, second = metrics_jsonl(ROWS).splitlines()
    found = read(tmp_path, b"\n".join([first, line, second, b""]))
    assert list(found.rows) == ROWS
    assert found.faults == (("metrics.jsonl: line 2 is no row of figures and left out",) if line else ())


@pytest.mark.parametrize("value", ["NaN", "1e999", "1" + "0" * 400, "true", '"x"', "null", "[1]"])
def test_only_finite_numbers_are_figures(tmp_path, value):
    found = read(tmp_path, b'{"epoch": 1, "odd": %s}\n{"epoch": 2, "step": 3}\n' % value.encode())
    assert all(set(row) <= {"epoch", "step"} for row in found.rows)
    assert found.rows[-1] == {"epoch": 2, "step": 3}


def test_the_last_row_of_an_epoch_counts(tmp_path):
    rows = [{"epoch": epoch, "step": step} for step, epoch in enumerate((1, 2, 3, 2))]
    found = read(tmp_path, "".join(json.dumps(row) + "\n" for row in rows).encode())
    assert [row["epoch"] for row in found.rows] == [1, 2, 3]
    assert [row["step"] for row in found.rows] == [0, 3, 2]


def test_no_file_and_an_empty_one_have_no_rows(tmp_path):
    assert read_metrics(tmp_path) == read(tmp_path, b"")
    assert read_metrics(tmp_path).faults == ()


def test_a_file_that_cannot_be_read_is_told(tmp_path):
    (tmp_path / "metrics.jsonl").mkdir()
    assert read_metrics(tmp_path).faults == ("cannot read metrics.jsonl: Is a directory",)
