"""Pictures of a run, drawn with matplotlib where it is installed (the extra `plot`).

Figures are made as objects and drawn off screen: no display, no `pyplot`, nothing global is touched.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from needle.errors import MissingExtraError
from needle.train.fit import Row
from needle.train.prediction import Predictions, worst_indices

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["curves_png", "worst_png"]

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
    """Draw loss and error against the epoch, for the training and the test data, and return a PNG.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure = new_figure(9.0, 3.6)
    loss, error = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in rows]
    _draw_curves(loss, epochs, [row["train_loss"] for row in rows], [row["test_loss"] for row in rows], "{:.3f}")
    train_error, test_error = ([100 * row[name] for row in rows] for name in ("train_error", "test_error"))
    _draw_curves(error, epochs, train_error, test_error, "{:.2f} %")
    loss.set_title("Loss (cross-entropy, nats)", **title_style())
    error.set_title("Error (% of images)", **title_style())
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=10, color=FAINT)
    return _as_png(figure)


def title_style() -> dict[str, Any]:
    """Return how a panel's title looks."""
    return {"loc": "left", "fontsize": 11, "color": INK, "fontweight": "bold", "pad": 10}


def _draw_curves(axes: Axes, epochs: list[int], train: list[float], test: list[float], label: str) -> None:
    """Draw two curves on a logarithmic axis, each named with its last value at its right end."""
    positive = all(value > 0 for value in (*train, *test))
    marker = "o" if len(epochs) <= 40 else None
    for values, color in ((train, TRAIN), (test, TEST)):
        axes.plot(epochs, values, color=color, linewidth=1.8, marker=marker, markersize=3.2, clip_on=False, zorder=3)
    if positive and max(*train, *test) > 4 * min(*train, *test):
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    style_axes(axes, epochs)
    _label_ends(axes, epochs[-1], {"train": (train[-1], TRAIN), "test": (test[-1], TEST)}, label)


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
    gap = heights[names[1]] - heights[names[0]]
    shift = max(0.0, (30.0 - gap) / 2) * 72 / axes.figure.dpi  # pixels → points
    for name, sign in zip(names, (-1, 1), strict=True):
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
        images: (N, H, W), in the order of `predictions`.

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
    """Draw one image in ink on white, under what it is and, in colour where that is wrong, what it was taken for."""
    label, guess = int(predictions.labels[index]), int(predictions.classes[index])
    axes.imshow(np.asarray(image, dtype=float), cmap="gray_r", interpolation="nearest", vmin=0.0)
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
