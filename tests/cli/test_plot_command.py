"""`needle plot` draws curves of several runs into one picture."""

import sys
import xml.etree.ElementTree as ET

import pytest

from needle.cli import main
from needle.errors import SettingError
from needle.train import compare_curves, comparison, default_metrics, known_metrics

from .needle_process import run_in_terminal, run_needle
from .run_folders import IMAGES, TEXT, image_row, lines, text_row, write_run

pytest.importorskip("matplotlib")

SVG = "{http://www.w3.org/2000/svg}"
IMAGE_ROWS = [image_row(epoch, loss) for epoch, loss in enumerate((2.0, 0.8, 0.9), 1)]
TEXT_ROWS = [text_row(1, 0.5), text_row(2, 0.4)]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "runs" / "digits-1", IMAGE_ROWS, IMAGES)
    write_run(tmp_path / "runs" / "digits-2", [image_row(1, 1.0)], IMAGES)
    write_run(tmp_path / "runs" / "fox-1", TEXT_ROWS, TEXT)
    write_run(tmp_path / "runs" / "begun", options=IMAGES, finished=False)
    (tmp_path / "runs" / "latest").write_text("fox-1\n")
    return tmp_path


@pytest.fixture
def drawn(monkeypatch):
    """Return the figures that are drawn."""
    figures = []

    def keep(figure, kind):
        figures.append(figure)
        return encode(figure, kind)

    encode = comparison._encode
    monkeypatch.setattr(comparison, "_encode", keep)
    return figures


def titles(figure):
    return [axes.get_title(loc="left") for axes in figure.axes if axes.axison]


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


# ----------------------------------------------------------------------------------------------------- command


def test_a_process_writes_a_png(folder):
    process = run_needle("plot", "digits-1", "runs/digits-2", "latest", cwd=folder)
    assert (process.returncode, process.stderr) == (0, "")
    assert process.stdout == "3 runs drawn into curves-compare.png\n"
    assert (folder / "curves-compare.png").read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in folder.iterdir()} == {"runs", "curves-compare.png"}


def test_a_process_on_a_terminal_writes_an_svg(folder):
    status, written = run_in_terminal("plot", "digits-1", "--output", "a.SVG", cwd=folder)
    assert (status, written) == (0, "1 run drawn into a.SVG\n")
    assert ET.parse(folder / "a.SVG").getroot().tag == f"{SVG}svg"  # noqa: S314  our own picture


def test_the_metrics_that_are_named_are_drawn(folder, drawn):
    assert main(["plot", "digits-1", "fox-1"]) == 0
    assert main(["plot", "digits-1", "--metric", "test_error", "--metric", "lr", "--metric", "lr"]) == 0
    assert titles(drawn[0]) == ["Loss (nats)", "Error (% of images)", "Perplexity"]
    assert titles(drawn[1]) == ["Error (% of images), test", "Learning rate"]


def test_a_run_that_was_trained_is_drawn(trained, tmp_path):
    process = run_needle("plot", "latest", "--output", tmp_path / "a.png", cwd=trained[0])
    assert (process.returncode, process.stderr) == (0, "")
    assert (tmp_path / "a.png").exists()


def test_a_run_with_no_epoch_is_left_out_and_told(folder, capsys, drawn):
    assert main(["plot", "digits-1", "begun"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "note: begun: no epoch is over yet, left out",
        "1 run drawn into curves-compare.png",
    ]
    assert "begun" not in legend(drawn[0])


def test_a_half_written_line_is_told(folder, capsys):
    (folder / "runs" / "digits-1" / "metrics.jsonl").write_text(lines(IMAGE_ROWS)[:-30])
    assert main(["plot", "digits-1"]) == 0
    assert "note: digits-1: metrics.jsonl: the last line, 3, is half written" in capsys.readouterr().out


def test_runs_of_one_name_are_told_by_their_paths_and_one_run_is_drawn_once(folder, drawn):
    write_run(folder / "other" / "digits-1", IMAGE_ROWS, IMAGES)
    assert main(["plot", "runs/digits-1", "other/digits-1", "runs/digits-1", "--metric", "lr"]) == 0
    assert legend(drawn[0]) == ["runs/digits-1", "other/digits-1"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: RUN"),
        (["nowhere"], "there is no run nowhere, neither here nor in runs/"),
        (["digits1"], "did you mean digits-1?"),
        (["runs"], "runs is no run: it has neither run.json nor metrics.jsonl"),
        (["begun"], "there is nothing to draw: no epoch of begun is over yet"),
        (["digits-1", "--metric", "los"], "unknown metric 'los': did you mean loss? Known are "),
        (["digits-1", "--metric", "perplexity"], "unknown metric 'perplexity'"),
        (["digits-1", "--metric", "epoch"], "unknown metric 'epoch'"),
        (["digits-1", "--output", "a.pdf"], "--output: a picture's name ends in .png or .svg, got a.pdf"),
        (["digits-1", "--output", "png"], "--output: a picture's name ends in .png or .svg, got png"),
        (["digits-1", "--output", "no/a.png"], "--output: there is no folder no"),
        (["digits-1", "--output", "folder.png"], "--output: folder.png is a folder"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(folder, capsys, arguments, message):
    (folder / "folder.png").mkdir()
    before = sorted(folder.rglob("*"))
    assert main(["plot", *arguments]) == 2
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert message in line
    assert captured.out == ""
    assert sorted(folder.rglob("*")) == before


def test_bad_input_of_a_process_gives_status_2(folder):
    process = run_needle("plot", "digits-1", "--metric", "los", cwd=folder)
    assert (process.returncode, process.stdout, process.stderr.count("\n")) == (2, "", 1)


def test_without_matplotlib_it_is_told_how_to_get_it(folder, capsys, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["plot", "digits-1"]) == 2
    assert "run `pip install 'needle-dl[plot]'`" in capsys.readouterr().err
    assert not (folder / "curves-compare.png").exists()


# ----------------------------------------------------------------------------------------------------- picture


def test_train_is_dashed_and_each_run_has_a_colour(drawn):
    compare_curves({"a": IMAGE_ROWS, "b": IMAGE_ROWS[:2]})
    for axes in drawn[0].axes:
        dashed, solid, *others = axes.lines
        assert (dashed.get_linestyle(), solid.get_linestyle()) == ("--", "-")
        assert dashed.get_color() == solid.get_color() != others[0].get_color()
    loss, error = drawn[0].axes
    assert list(loss.lines[1].get_ydata()) == [row["test_loss"] for row in IMAGE_ROWS]
    assert list(error.lines[1].get_ydata()) == [100 * row["test_error"] for row in IMAGE_ROWS]
    assert legend(drawn[0]) == ["a", "b", "test or validation", "training"]


def test_the_legend_lies_beside_the_panels(drawn):
    compare_curves({f"a run with a rather long name {number}": IMAGE_ROWS for number in range(30)})
    (figure,) = drawn
    box = figure.legends[0].get_window_extent()
    assert all(box.x0 >= axes.get_window_extent().x1 for axes in figure.axes)
    assert box.y0 >= 0
    assert box.x1 <= figure.bbox.x1
    colors = {line.get_color() for line in figure.axes[0].lines}
    assert len(colors) == 30


@pytest.mark.parametrize(("lowest", "scale"), [(0.1, "linear"), (0.09, "log"), (0.0, "linear"), (-1.0, "linear")])
def test_an_axis_is_logarithmic_over_a_wide_range(drawn, lowest, scale):
    compare_curves({"a": [{"epoch": 1, "lr": 2.0}, {"epoch": 2, "lr": lowest}]}, ["lr"])
    assert drawn[0].axes[0].get_yscale() == scale


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_the_same_runs_give_the_same_bytes(kind):
    runs = {"a": IMAGE_ROWS, "b": TEXT_ROWS}
    assert compare_curves(runs, kind=kind) == compare_curves(runs, kind=kind)


@pytest.mark.parametrize("name", ["_hidden", "$x$", r"$\frac{", "a\nb", "ü"])
def test_a_name_is_shown_as_it_is(drawn, name):
    compare_curves({name: IMAGE_ROWS}, ["lr"])
    assert legend(drawn[0])[0].strip().replace(r"\$", "$") == name


def test_a_single_epoch_and_metrics_in_rows_are_drawn(drawn):
    compare_curves({"a": IMAGE_ROWS[:1]}, ["loss", "error", "lr", "seconds", "samples_per_second"])
    assert len(titles(drawn[0])) == 5
    assert len(drawn[0].axes) == 6


def test_what_there_is_to_draw_is_known():
    runs = {"a": IMAGE_ROWS, "b": TEXT_ROWS}
    assert default_metrics(runs) == ["loss", "error", "perplexity"]
    assert default_metrics({"b": TEXT_ROWS}) == ["loss", "perplexity"]
    assert default_metrics({"c": [{"epoch": 1, "lr": 0.1}]}) == ["lr"]
    assert {"loss", "valid_loss", "bits_per_token"} <= set(known_metrics(runs))
    assert not {"epoch", "step", "train_", "valid"} & set(known_metrics(runs))


def test_nothing_to_draw_and_another_kind_are_refused():
    with pytest.raises(SettingError, match="there is nothing to draw"):
        compare_curves({"a": []})
    with pytest.raises(SettingError, match="kind is 'png' or 'svg', got 'pdf'"):
        compare_curves({"a": IMAGE_ROWS}, kind="pdf")
