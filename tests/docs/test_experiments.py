"""The programs whose results the guide shows still run, and the guide names only files that are there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXPERIMENTS = ROOT / "docs" / "experiments"
GUIDE = ROOT / "docs" / "guide"


def run(script, *arguments, folder):
    return subprocess.run(
        [sys.executable, str(EXPERIMENTS / script), *arguments],
        cwd=folder,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def rows_of(table):
    return [line for line in table.splitlines() if line.startswith("| ")]


@pytest.mark.parametrize(
    ("script", "options", "rows"),
    [
        ("convolution_digits.py", ["--quick"], 5),
        ("initialisation.py", ["--quick"], 8),
        ("optimizer_paths.py", [], 8),
        ("receptive_fields.py", ["--quick"], 6),
        ("regularization.py", ["--quick"], 9),
        ("residual_depth.py", ["--quick"], 9),
    ],
)
def test_experiment_prints_its_table(script, options, rows, tmp_path):
    result = run(script, *options, folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert len(rows_of(result.stdout)) == rows


@pytest.mark.parametrize("script", ["convolution_windows.py", "normalization_axes.py", "schedules.py"])
def test_picture_is_drawn(script, tmp_path):
    pytest.importorskip("matplotlib")
    result = run(script, str(tmp_path / "picture.png"), folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_optimizer_table_is_the_one_in_the_guide(tmp_path):
    printed = rows_of(run("optimizer_paths.py", folder=tmp_path).stdout)
    assert set(printed) <= set((GUIDE / "optimizers-and-schedules.md").read_text(encoding="utf-8").splitlines())


def test_map_of_the_source_names_only_what_is_there():
    text = (GUIDE / "how-it-is-built.md").read_text(encoding="utf-8")
    paths = set(re.findall(r"`([a-z_]+/(?:[a-z_]+\.py)?|[a-z_]+\.py)`", text))
    folders = (ROOT / "src" / "needle", ROOT / "src" / "needle" / "ops")
    assert len(paths) > 15
    assert [path for path in paths if not any((folder / path).exists() for folder in folders)] == []
