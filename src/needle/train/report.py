"""A run on one page of HTML that needs no other file and no network: `report_html`."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from needle.errors import MissingExtraError
from needle.train.plots import curves_svg
from needle.train.prediction import Predictions, confusion_matrix, worst_indices
from needle.train.running import Row

__all__ = ["Report", "ReportTable", "report_html"]

_TITLES = {"lr": "learning rate", "step": "step", "epoch": "epoch"}


@dataclass(frozen=True)
class ReportTable:
    """A table of text.

    Args:
        heads: the columns' names.
        rows: their cells.
        caption: what stands above.
        layout: "numbers" has all columns but the first aligned to the right, "named" all but two, "text" none.
    """

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    layout: str = "numbers"


@dataclass(frozen=True)
class Report:
    """What a report tells. Parts that are None or empty are left out.

    Args:
        title: its name.
        lead: a sentence below.
        rows: every epoch's figures.
        highlights: the figures that matter most: (name, value).
        settings: how the run was made: (name, value).
        footer: the last line.
        model: the model's layers.
        profile: the kernels of a training step.
        sample: a text that the model has written.
        class_names: what each class stands for.
        predictions: what the model says of the test images.
        images: those images, (N, H, W) or in colour (N, 3, H, W), in [0, 1].
        image_count: how many of the worst are shown.
    """

    title: str
    lead: str
    rows: Sequence[Row]
    highlights: Sequence[tuple[str, str]] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    footer: str = ""
    model: ReportTable | None = None
    profile: ReportTable | None = None
    sample: str = ""
    class_names: Sequence[str] = ()
    predictions: Predictions | None = None
    images: NDArray[Any] | None = None
    image_count: int = 96


def report_html(report: Report) -> bytes:
    """Return the report as one page of HTML, in UTF-8: pictures, styles and scripts are in it.

    Text is escaped: nothing in a run's files can become part of the page's code.

    Raises:
        MissingExtraError: Jinja or matplotlib is not installed.
    """
    try:
        from jinja2 import Environment  # noqa: PLC0415  an extra
    except ImportError:
        raise MissingExtraError("jinja2", "report", "writing a report") from None
    template = files("needle.train").joinpath("report.html").read_text(encoding="utf-8")
    page = (
        Environment(autoescape=True)
        .from_string(template)
        .render(
            title=report.title,
            lead=report.lead,
            highlights=report.highlights,
            curves=curves_svg(report.rows) if len(report.rows) > 1 else "",
            epochs=_epochs(report.rows),
            confusion=_confusion(report),
            class_names=report.class_names,
            images=_images(report),
            sample=report.sample,
            model=report.model,
            profile=report.profile,
            settings=ReportTable(("option", "value"), list(report.settings.items()), layout="text"),
            footer=report.footer,
        )
    )
    return page.encode()


def _epochs(rows: Sequence[Row]) -> ReportTable:
    names = [name for name, value in rows[0].items() if not isinstance(value, list)] if rows else []
    heads = [_TITLES.get(name, name.replace("_per_", "/").replace("_", " ")) for name in names]
    return ReportTable(heads, [[f"{row[name]:.5g}" for name in names] for row in rows])


def _confusion(report: Report) -> list[dict[str, Any]]:
    """Return the confusion matrix's rows, each cell with how dark it is: a share of what the row holds."""
    if report.predictions is None:
        return []
    counts = confusion_matrix(report.predictions.labels, report.predictions.classes, len(report.class_names))
    rows = []
    for label, row in enumerate(counts):
        total = max(int(row.sum()), 1)
        cells = [
            {"count": int(n), "shade": f"{_shade(int(n) / total, label == guess):.3f}"} for guess, n in enumerate(row)
        ]
        rows.append({"cells": cells, "error": f"{100 * (1 - row[label] / total):.2f} %"})
    return rows


def _shade(share: float, is_right: bool) -> float:
    """Return how dark a cell is: mistakes are few, and are to be seen."""
    return share * 0.5 if is_right else min(1.0, 8 * share) * 0.8


def _images(report: Report) -> list[dict[str, Any]]:
    """Return the images that the model is most wrong about."""
    if report.predictions is None or report.images is None:
        return []
    predictions = report.predictions
    shown = []
    for index in worst_indices(predictions, report.image_count):
        guess = int(predictions.classes[index])
        probability = f"{predictions.probabilities[index, guess]:.0%}"
        picture = {"png": _png(report.images[index]), "label": int(predictions.labels[index]), "guess": guess}
        shown.append({**picture, "probability": probability})
    return shown


def _png(image: NDArray[Any]) -> str:
    """Return an image as PNG in base64, a grey one in ink on white."""
    try:
        from PIL import Image  # noqa: PLC0415  comes with matplotlib
    except ImportError:
        raise MissingExtraError("pillow", "report", "writing a report") from None
    buffer = io.BytesIO()
    values = np.clip(np.asarray(image, dtype=np.float64), 0, 1)
    shown = values.transpose(1, 2, 0) if values.ndim == 3 else 1 - values
    pixels = np.round(255 * shown).astype(np.uint8)
    Image.fromarray(pixels).save(buffer, format="PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
