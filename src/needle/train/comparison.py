"""Curves of several runs in one picture: a panel for each metric, a colour for each run."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

from needle.errors import SettingError
from needle.train.metrics_file import Figures
from needle.train.names import nearest
from needle.train.plots import FAINT, INK, new_figure, style_axes, title_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["compare_curves", "default_metrics", "known_metrics"]

Runs = Mapping[str, Sequence[Figures]]

# Told apart also by those who see few colours; further runs take colours from between.
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f3c8d", "#222222")
_TITLES = {
    "loss": "Loss (nats)",
    "error": "Error (% of images)",
    "perplexity": "Perplexity",
    "lr": "Learning rate",
    "bits_per_token": "Bits per token",
    "seconds": "Seconds per epoch",
}
_NO_METRICS = {"epoch", "step"}
_LOG_RANGE = 20
_MARKED_EPOCHS = 40


def known_metrics(runs: Runs) -> list[str]:
    """Return what can be drawn of runs: `loss` for `train_loss` and `test_loss` together, and each by itself.

    Example:
        >>> from needle.train import known_metrics
        >>> known_metrics({"a": [{"epoch": 1, "train_loss": 0.7, "valid_loss": 0.9, "perplexity": 2.5}]})
        ['loss', 'perplexity', 'train_loss', 'valid_loss']
    """
    names = [name for name in dict.fromkeys(chain(*chain(*runs.values()))) if name not in _NO_METRICS]
    together = dict.fromkeys(_base(name) for name in names)
    return [*together, *(name for name in names if name not in together)]


def default_metrics(runs: Runs) -> list[str]:
    """Return the metrics that say most of runs: the loss, and with it the error or the perplexity, where they have it.

    Example:
        >>> from needle.train import default_metrics
        >>> default_metrics({"a": [{"epoch": 1, "test_loss": 0.7, "test_error": 0.1}]})
        ['loss', 'error']
    """
    known = known_metrics(runs)
    return [metric for metric in ("loss", "error", "perplexity") if metric in known] or known[:1]


def _base(name: str) -> str:
    for part in ("train_", "test_", "valid_"):
        name = name.removeprefix(part)
    return name


def compare_curves(runs: Runs, metrics: Sequence[str] = (), *, kind: str = "png") -> bytes:
    """Draw metrics of runs against the epoch, and return a picture.

    What is measured on training data is dashed, everything else solid. An axis is logarithmic where its largest value
    is more than 20 times its smallest.

    Args:
        runs: the rows of each run, by the name that the legend has for it.
        metrics: what to draw, a panel for each: `known_metrics` tells what there is. Those of `default_metrics` where
            none is named.
        kind: `png` or `svg`.

    Raises:
        SettingError: a metric is unknown, there is nothing to draw, or the kind is another.
        MissingExtraError: matplotlib is not installed.

    Example:
        >>> from needle.train import compare_curves
        >>> runs = {name: [{"epoch": 1, "test_loss": loss}] for name, loss in (("a", 0.5), ("b", 0.7))}
        >>> compare_curves(runs)[:4]  # doctest: +SKIP
        b'\\x89PNG'
    """
    if kind not in {"png", "svg"}:
        raise SettingError(f"compare_curves: kind is 'png' or 'svg', got {kind!r}")
    metrics = tuple(dict.fromkeys(metrics)) or tuple(default_metrics(runs))
    _check(metrics, runs)
    figure, panels = _new_panels(len(metrics), runs)
    colors = dict(zip(runs, _colors(len(runs)), strict=True))
    parts: set[str] = set()
    for axes, metric in zip(panels, metrics, strict=True):
        parts.update(_draw(axes, metric, runs, colors))
    _add_legend(figure, colors, parts)
    return _encode(figure, kind)


def _new_panels(count: int, runs: Runs) -> tuple[Figure, list[Axes]]:
    """Return a figure with room for a legend beside `count` panels, and those."""
    width = 2 if count == 4 else min(count, 3)
    height = -(-count // width)
    beside = 0.7 + 0.085 * max(18, *map(len, runs))  # inches that the legend takes
    figure = new_figure(4.4 * width + beside, max(3.5 * height, 0.22 * (len(runs) + 3)))
    panels = list(figure.subplots(height, width, squeeze=False).flat)
    for axes in panels[count:]:
        axes.set_axis_off()
    return figure, panels[:count]


def _check(metrics: Sequence[str], runs: Runs) -> None:
    known = known_metrics(runs)
    if not known:
        raise SettingError("there is nothing to draw: no run has figures of an epoch")
    for metric in metrics:
        if metric not in known:
            raise SettingError(f"unknown metric {metric!r}{nearest(metric, known)}")


def _colors(count: int) -> list[Any]:
    if count <= len(_COLORS):
        return list(_COLORS[:count])
    from matplotlib import colormaps  # noqa: PLC0415  an extra

    return [colormaps["turbo"](0.05 + 0.9 * index / (count - 1)) for index in range(count)]


# ----------------------------------------------------------------------------------------------------- panels


def _draw(axes: Axes, metric: str, runs: Runs, colors: Mapping[str, Any]) -> set[str]:
    """Draw one metric of all runs that have it; return which of train and test there were."""
    scale = 100 if _base(metric) == "error" else 1
    curves = [(name, *curve) for name, rows in runs.items() for curve in _curves(rows, metric, scale)]
    longest = max(len(points) for _, _, points in curves)
    for name, part, points in curves:
        epochs, values = zip(*points, strict=True)
        style: dict[str, Any] = {"linestyle": "--", "linewidth": 1.2} if part == "train" else {"linewidth": 1.9}
        has_markers = len(points) == 1 or (part == "test" and longest <= _MARKED_EPOCHS)
        style |= {"marker": "o" if has_markers else None, "markersize": 3.2, "clip_on": False, "zorder": 3}
        axes.plot(epochs, values, color=colors[name], **style)
    _scale(axes, [value for _, _, points in curves for _, value in points])
    style_axes(axes, sorted({epoch for _, _, points in curves for epoch, _ in points}))
    axes.set_title(_title(metric), **title_style())
    return {part for _, part, _ in curves}


def _curves(rows: Sequence[Figures], metric: str, scale: float) -> list[tuple[str, list[tuple[int, float]]]]:
    """Return the curves of a metric, each as train or test and its points; `train_loss` is a part of `loss`."""
    columns = [name for name in (f"train_{metric}", f"test_{metric}", f"valid_{metric}", metric) if _has(rows, name)]
    return [
        (
            "train" if name.startswith("train_") else "test",
            [(row["epoch"], scale * row[name]) for row in rows if name in row],
        )
        for name in columns
    ]


def _has(rows: Sequence[Figures], name: str) -> bool:
    return any(name in row for row in rows)


def _title(metric: str) -> str:
    title = _TITLES.get(_base(metric), metric.replace("_", " ").capitalize())
    part = metric.removesuffix(_base(metric)).rstrip("_")
    return f"{title}, {part}" if part else title


def _scale(axes: Axes, values: Sequence[float]) -> None:
    low, high = min(values), max(values)
    if low > 0 and high > _LOG_RANGE * low:
        axes.set_yscale("log")
    elif low >= 0:
        axes.set_ylim(bottom=0, top=None if high > 0 else 1)


# ----------------------------------------------------------------------------------------------------- legend


def _add_legend(figure: Figure, colors: Mapping[str, Any], parts: set[str]) -> None:
    """Name each run's colour beside the panels and, where there are both, what is dashed."""
    from matplotlib.lines import Line2D  # noqa: PLC0415  an extra

    lines = {_as_label(name): Line2D([], [], color=color, linewidth=2.5) for name, color in colors.items()}
    if len(parts) > 1:
        lines["test or validation"] = Line2D([], [], color=FAINT, linewidth=1.9)
        lines["training"] = Line2D([], [], color=FAINT, linewidth=1.2, linestyle="--")
    style: dict[str, Any] = {"frameon": False, "fontsize": 9, "labelcolor": INK}
    figure.legend(list(lines.values()), list(lines), loc="outside right upper", **style)


def _as_label(name: str) -> str:
    """Return a name as matplotlib shows it as it is: `$` begins a formula, and `_` a label that is hidden."""
    shown = name.replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown


def _encode(figure: Figure, kind: str) -> bytes:
    from matplotlib import rc_context  # noqa: PLC0415  an extra

    buffer = io.BytesIO()
    # The same figure gives the same bytes: no date, no random names of elements.
    metadata = {"Software": None} if kind == "png" else {"Date": None, "Creator": None}
    with rc_context({"svg.hashsalt": "needle"}):
        figure.savefig(buffer, format=kind, metadata=metadata)
    return buffer.getvalue()
