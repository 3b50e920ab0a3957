"""Pictures of a run, drawn with matplotlib where it is installed (the extra `plot`).

Figures are made as objects and drawn off screen: no display, no `pyplot`, nothing global is touched.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from needle.errors import MissingExtraError
from needle.train.prediction import Predictions, worst_indices
from needle.train.running import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["curves_png", "curves_svg", "worst_png"]

# How Needle's pictures look; `needle.train.comparison` draws with them too.
INK, FAINT, GRID = "#222222", "#6b6b6b", "#e4e4e4"
TRAIN, TEST = "#8a8f98", "#c8102e"


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of a size in inches.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415  an extra
    except ImportError:
        raise MissingExtraError("matplotlib", "plot", "drawing plots") from None
    return Figure(figsize=(width, height), dpi=150, facecolor="white", layout="constrained")


def _as_png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})  # the same figure gives the same bytes
    return buffer.getvalue()


# ----------------------------------------------------------------------------------------------------- curves


def curves_png(rows: Sequence[Row], title: str = "") -> bytes:
    """Draw loss and error against the epoch, for the training and the other data, and return a PNG.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    return _as_png(_curves(rows, title))


def curves_svg(rows: Sequence[Row], title: str = "") -> str:
    """Draw what `curves_png` draws as an `<svg>` element, to stand in a page.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure = _curves(rows, title)
    import matplotlib as mpl  # noqa: PLC0415  an extra

    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "needle", "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _curves(rows: Sequence[Row], title: str) -> Figure:
    """Draw the loss, and beside it the error of a classifier where there is one."""
    others = [name.removesuffix("_loss") for name in rows[0] if name.endswith("_loss") and name != "train_loss"]
    kinds = [kind for kind in ("loss", "error") if f"train_{kind}" in rows[0]]
    figure = new_figure(4.5 * len(kinds), 3.6)
    epochs = [row["epoch"] for row in rows]
    for axes, kind in zip(figure.subplots(1, len(kinds), squeeze=False)[0], kinds, strict=True):
        scale, label, name = _UNITS[kind]
        curves = {part: [scale * row[f"{part}_{kind}"] for row in rows] for part in ("train", *others[:1])}
        _draw_curves(axes, epochs, curves, label)
        axes.set_title(name, **title_style())
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=10, color=FAINT)
    return figure


# By what a figure is multiplied, how it is written, and what its panel is called.
_UNITS = {"loss": (1, "{:.3f}", "Loss (cross-entropy, nats)"), "error": (100, "{:.2f} %", "Error (% of images)")}


def title_style() -> dict[str, Any]:
    """Return how a panel's title looks."""
    return {"loc": "left", "fontsize": 11, "color": INK, "fontweight": "bold", "pad": 10}


def _draw_curves(axes: Axes, epochs: list[int], curves: Mapping[str, list[float]], label: str) -> None:
    """Draw one curve or two on a logarithmic axis, each named with its last value at its right end."""
    values = [value for curve in curves.values() for value in curve]
    marker = "o" if len(epochs) <= 40 else None
    colors = dict(zip(curves, (TRAIN, TEST), strict=False))
    for name, curve in curves.items():
        axes.plot(
            epochs, curve, color=colors[name], linewidth=1.8, marker=marker, markersize=3.2, clip_on=False, zorder=3
        )
    if min(values) > 0 and max(values) > 4 * min(values):
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    style_axes(axes, epochs)
    _label_ends(axes, epochs[-1], {name: (curve[-1], colors[name]) for name, curve in curves.items()}, label)


def style_axes(axes: Axes, epochs: list[int]) -> None:
    """Take away what is not read, and count epochs in whole numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator  # noqa: PLC0415  an extra

    if axes.get_yscale() == "log":
        low, high = axes.get_ylim()
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 1000 * low else (1.0,)))
        axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlim(epochs[0], epochs[-1]) if len(epochs) > 1 else axes.set_xticks(epochs)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)
    axes.grid(axis="y", color=GRID, linewidth=0.7)
    axes.tick_params(which="both", length=0, labelsize=9, labelcolor=FAINT)
    axes.set_xlabel("epoch", fontsize=9, color=FAINT)


def _label_ends(axes: Axes, x: float, ends: dict[str, tuple[float, str]], label: str) -> None:
    """Name each curve at its end, moved apart where two ends would overlap."""
    to_pixels = axes.transData.transform
    heights = {name: to_pixels((x, value))[1] for name, (value, _) in ends.items()}
    names = sorted(heights, key=heights.__getitem__)
    gap = heights[names[-1]] - heights[names[0]] if len(names) > 1 else math.inf
    shift = max(0.0, (30.0 - gap) / 2) * 72 / axes.figure.dpi  # pixels → points
    for name, sign in zip(names, (-1, 1), strict=False):
        value, color = ends[name]
        axes.annotate(
            f"{name} {label.format(value)}",
            (x, value),
            xytext=(8, sign * shift),
            textcoords="offset points",
            va="center",
            fontsize=9,
            color=color,
            fontweight="bold",
            annotation_clip=False,
        )


# ------------------------------------------------------------------------------------------------ worst images


def worst_png(
    images: NDArray[Any],
    predictions: Predictions,
    class_names: Sequence[str],
    *,
    rows: int = 4,
    columns: int = 8,
    title: str = "",
) -> bytes:
    """Draw the images that the model is most wrong about, each with what it is and what it was taken for.

    Shapes:
        images: (N, H, W), or (N, 3, H, W) in colour; in the order of `predictions`.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    indices = worst_indices(predictions, rows * columns)
    figure = new_figure(1.35 * columns, 1.75 * rows + 0.5)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, index in zip(grid.flat, indices, strict=False):
        _draw_image(axes, images[index], predictions, int(index), class_names)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, color=INK, fontweight="bold")
    return _as_png(figure)


def _draw_image(
    axes: Axes, image: NDArray[Any], predictions: Predictions, index: int, class_names: Sequence[str]
) -> None:
    """Draw an image (grey ones in ink on white) under what it is and, in red where wrong, what it was taken for."""
    label, guess = int(predictions.labels[index]), int(predictions.classes[index])
    shown = np.asarray(image, dtype=float)
    if shown.ndim == 3:
        axes.imshow(np.clip(shown.transpose(1, 2, 0), 0, 1), interpolation="nearest")
    else:
        axes.imshow(shown, cmap="gray_r", interpolation="nearest", vmin=0.0)
    lines = (
        (1.15, class_names[label], INK),
        (
            1.02,
            f"→ {class_names[guess]}  {predictions.probabilities[index, guess]:.0%}",
            TEST if guess != label else FAINT,
        ),
    )
    for height, text, color in lines:
        style: dict[str, Any] = {"ha": "center", "va": "bottom", "fontsize": 9, "color": color, "fontweight": "bold"}
        axes.text(0.5, height, text, transform=axes.transAxes, **style)
