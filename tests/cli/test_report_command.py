"""`needle report`: a page about a run, as text and in a browser."""

import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

from needle.errors import MissingExtraError
from needle.train import Predictions, Report, ReportTable, report_html

from .needle_process import run_needle

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
in_browser = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")


@pytest.fixture(scope="module")
def digits(trained):
    folder, _ = trained
    process = run_needle("report", "--output", "page.html", cwd=folder)
    return folder, process


def test_the_report_of_images_holds_all_that_a_run_tells(digits):
    folder, process = digits
    assert (process.returncode, process.stderr) == (0, "")
    assert process.stdout == "written to page.html: open it in a browser\n"
    page = (folder / "page.html").read_text(encoding="utf-8")
    for part in (
        "Curves",
        "What is taken for what",
        "most wrong about",
        "The model",
        "Where the time",
        "How it was made",
    ):
        assert part in page
    assert page.count("<figure") == 96
    assert re.search(r"<td>hidden_dim</td><td>16</td>", page)
    assert re.search(r"<td>command line</td><td>needle train ", page)
    assert re.search(r"A step with Adam on a batch of \d+ takes [\d.e-]+ ms", page)


def test_the_report_needs_nothing_from_elsewhere(digits):
    page = (digits[0] / "page.html").read_text(encoding="utf-8")
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)""", page)
    assert not re.findall(r"@import|url\((?!#)", page)


def test_counts_and_shares_are_those_of_the_predictions():
    labels = np.array([0, 0, 0, 1, 1])
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3], [0.4, 0.6], [0.3, 0.7]])
    rows = [{"epoch": 1, "train_loss": 1.0, "test_loss": 1.0}]
    images = np.zeros((5, 2, 2))
    parts = {"class_names": ("cat", "dog"), "predictions": Predictions(probabilities, labels), "images": images}
    page = report_html(Report("a run", "", rows, image_count=2, **parts)).decode()
    cells = re.findall(r'data-cell="(\d-\d)" style[^>]*>(\d*)</td>', page)
    assert cells == [("0-0", "2"), ("0-1", "1"), ("1-0", ""), ("1-1", "2")]
    assert "33.33 %" in page
    assert re.findall(r'<figure data-cell="(\d-\d)"', page) == ["0-1", "1-1"]  # the least sure first
    assert "80%" in page


def test_nothing_in_a_runs_files_becomes_part_of_the_page():
    bad = "<script>alert(1)</script>"
    rows = [{"epoch": 1, "train_loss": 1.0}]
    page = report_html(
        Report(bad, bad, rows, settings={bad: bad}, sample=bad, model=ReportTable([bad], [[bad]]))
    ).decode()
    assert page.count("<script>") == 1
    assert page.count("&lt;script&gt;") == 8


def test_without_its_extra_the_report_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'needle-dl\[report\]'"):
        report_html(Report("a", "b", [{"epoch": 1, "train_loss": 1.0}]))


def test_a_text_is_sampled(tmp_path):
    (tmp_path / "fox.txt").write_text("the quick brown fox jumps over the lazy dog.\n" * 40)
    tiny = ["--hidden-dim", "16", "--num-blocks", "1", "--seq-len", "16", "--batch-size", "8"]
    for model in ("gpt", "gru"):
        trained = run_needle("train", "--text", "fox.txt", "--model", model, *tiny, "--output-dir", model, cwd=tmp_path)
        assert trained.returncode == 0, trained.stderr
        process = run_needle("report", model, cwd=tmp_path)
        assert (process.returncode, process.stderr) == (0, "")
        page = (tmp_path / model / "report.html").read_text(encoding="utf-8")
        assert "What it writes" in page
        assert "perplexity" in page
        assert "confusion" not in page.split("<script>")[0].split("</style>")[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere"),
        (["--output", "no/such/folder/page.html"], "no/such/folder"),
        (["--profile"], "unknown argument --profile: did you mean --no-profile"),
    ],
)
def test_mistakes_are_told_in_a_line_and_nothing_is_written(trained, arguments, message):
    process = run_needle("report", *arguments, cwd=trained[0])
    assert process.returncode == 2
    assert message in process.stderr
    assert len(process.stderr.splitlines()) == 1
    assert "Traceback" not in process.stderr


def test_a_damaged_run_is_told(trained, tmp_path):
    shutil.copytree(trained[0] / "runs", tmp_path / "runs")
    run = tmp_path / "runs" / (tmp_path / "runs" / "latest").read_text().strip()
    (run / "metrics.jsonl").write_text("{")
    process = run_needle("report", cwd=tmp_path)
    assert process.returncode == 2
    assert "cannot read" in process.stderr
    assert not list(tmp_path.rglob("report.html"))


# ------------------------------------------------------------------------------------------------ in a browser


def opened(page, tmp_path, cell=""):
    """Return the page's elements as a browser has them, once its script has run."""
    quiet = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-sync"
    address = f"{page.as_uri()}#cell={cell}" if cell else page.as_uri()
    own = ["--disable-component-update", f"--user-data-dir={tmp_path}", "--dump-dom", address]
    process = subprocess.run(
        [CHROMIUM, *quiet.split(), *own],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return process.stdout


def visible(dom):
    return [cell for cell, hidden in re.findall(r'<figure data-cell="([\d-]+)"( hidden="")?', dom) if not hidden]


@in_browser
def test_a_browser_shows_the_images_that_a_cell_counts(digits, tmp_path):
    page = digits[0] / "page.html"
    dom = opened(page, tmp_path)
    everything = visible(dom)
    assert len(everything) == 96
    assert "<svg" in dom
    wrong = next(cell for cell in everything if cell[0] != cell[2])
    dom = opened(page, tmp_path, wrong)
    assert visible(dom) == [wrong] * everything.count(wrong)
    assert f"{everything.count(wrong)} of these 96 images." in dom
    assert re.search(rf'class="chosen"[^>]*data-cell="{wrong}"|data-cell="{wrong}"[^>]*class="chosen"', dom)
