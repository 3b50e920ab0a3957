"""Pictures of graphs: boxes with text, in layers from top to bottom, each below all that it comes from, in SVG."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

__all__ = ["Box", "folded", "svg_document"]

_CHARACTER, _LINE, _PADDING = 6.7, 15, 8
_GAP_ACROSS, _GAP_DOWN, _MARGIN, _SIDE = 26, 46, 24, 240
_MOST_LINES = 6
_STYLE = """
  rect.page { fill: #ffffff; }
  text { font: 11px ui-monospace, Menlo, Consolas, monospace; fill: #1f2328; }
  text.title { font-weight: bold; }
  text.source, text.label { fill: #6a737d; font-size: 10px; }
  rect.kernel { fill: #eef4fb; stroke: #4a7db5; }
  rect.contraction { fill: #fdf1e3; stroke: #c9822b; }
  rect.array { fill: #f2f2f2; stroke: #9a9a9a; }
  rect.operator { fill: #eef4fb; stroke: #4a7db5; }
  rect.parameter { fill: #e9f5ec; stroke: #4c9a61; }
  rect.leaf { fill: #f2f2f2; stroke: #9a9a9a; }
  rect.gradient { fill: #f9ecf3; stroke: #b35a8c; }
  path { fill: none; stroke: #9aa4ae; }
"""


class Box:
    """A box with lines of text, such as a step of a program; `before` is what it comes from, each with a label."""

    def __init__(self, kind: str, lines: Sequence[str], source: str, tooltip: str) -> None:
        self.kind, self.lines, self.source, self.tooltip = kind, list(lines), source, tooltip
        longest = max(len(line) for line in [*lines, source])
        self.width = longest * _CHARACTER + 2 * _PADDING
        self.height = (len(lines) + bool(source)) * _LINE + 2 * _PADDING
        self.layer = 0
        self.x = self.y = 0.0
        self.before: list[tuple[Box, str]] = []

    @property
    def centre(self) -> float:
        """The middle, from the left."""
        return self.x + self.width / 2

    def svg(self) -> str:
        """Return the box with its text."""
        lines = [f"<g><title>{escape(self.tooltip)}</title>"]
        place = f'x="{self.x:.1f}" y="{self.y:.1f}" width="{self.width:.1f}" height="{self.height:.1f}"'
        lines.append(f'<rect class="{self.kind}" {place} rx="4"/>')
        y = self.y + _PADDING + 0.75 * _LINE
        for number, line in enumerate(self.lines):
            lines.append(_text("title" if number == 0 else "", self.x + _PADDING, y, line))
            y += _LINE
        if self.source:
            lines.append(_text("source", self.x + _PADDING, y, self.source))
        return "\n".join([*lines, "</g>"])


def _text(kind: str, x: float, y: float, text: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'


def svg_document(boxes: Sequence[Box]) -> str:
    """Return boxes and the arrows between them as an SVG document. A tooltip on each box tells more."""
    layers = _layers(boxes)
    width = _place(layers)
    height = max((box.y + box.height for box in boxes), default=0.0) + _MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}">',
        f"<style>{_STYLE}</style>",
        f'<rect class="page" width="{width:.0f}" height="{height:.0f}"/>',
        *(_arrow(source, box, label, layers) for box in boxes for source, label in box.before),
        *(box.svg() for box in boxes),
        "</svg>",
    ]
    return "\n".join(parts)


def folded(names: Sequence[str]) -> list[str]:
    """Return the first of many lines, and how many more there are."""
    if len(names) <= _MOST_LINES:
        return list(names)
    return [*names[: _MOST_LINES - 1], f"and {len(names) - _MOST_LINES + 1} more"]


def _layers(boxes: Sequence[Box]) -> list[list[Box]]:
    """Put each box below all that it comes from, and what comes from nothing right above the first that needs it."""
    for box in boxes:
        box.layer = 1 + max((source.layer for source, _ in box.before), default=-1)
    needed: dict[Box, int] = {}
    for box in boxes:
        for source, _ in box.before:
            needed[source] = min(needed.get(source, box.layer), box.layer)
    for source, layer in needed.items():
        if not source.before:
            source.layer = layer - 1
    layers: list[list[Box]] = [[] for _ in range(1 + max((box.layer for box in boxes), default=-1))]
    for box in boxes:
        layers[box.layer].append(box)
    return layers


def _place(layers: Sequence[list[Box]]) -> float:
    """Give the boxes their places: each layer ordered by the middle of what it reads from; return the width."""
    widths = [sum(box.width for box in layer) + _GAP_ACROSS * (len(layer) - 1) for layer in layers]
    # Room on both sides for curves around boxes.
    width = max(widths, default=0.0) + 2 * _MARGIN + 2 * _SIDE
    y = float(_MARGIN)
    for layer, needed in zip(layers, widths, strict=True):
        layer.sort(key=lambda box: sum(source.centre for source, _ in box.before) / max(len(box.before), 1))
        x = (width - needed) / 2
        for box in layer:
            box.x, box.y = x, y
            x += box.width + _GAP_ACROSS
        y += max(box.height for box in layer) + _GAP_DOWN
    return width


def _arrow(source: Box, target: Box, label: str, layers: Sequence[list[Box]]) -> str:
    """Draw a curve from one box to another, around what lies between; its tooltip names the arrays."""
    span = target.layer - source.layer
    x1, y1, x2, y2 = source.centre, source.y + source.height, target.centre, target.y
    title = f"<title>{escape(label)}</title></path>"
    if span == 1:
        middle = (y1 + y2) / 2
        curve = f'<path d="M{x1:.1f},{y1:.1f} C{x1:.1f},{middle:.1f} {x2:.1f},{middle:.1f} {x2:.1f},{y2:.1f}">'
        return curve + title + (_text("label", x2 + 4, y2 - 5, label) if label else "")
    if source.kind == "array":  # inputs are read everywhere: the boxes' tooltips name them
        return ""
    side = _freer_side(source, target, layers[source.layer : target.layer + 1])
    from_x, to_x = (box.centre + side * box.width / 2 for box in (source, target))
    y1, y2 = source.y + source.height / 2, target.y + target.height / 2
    between = [box.centre + side * box.width / 2 for layer in layers[source.layer + 1 : target.layer] for box in layer]
    outermost = max(side * one for one in [*between, from_x, to_x]) * side + side * (10 + 4 * min(span, 20))
    # Half way down, the curve is three quarters of the way from its ends to this point.
    corner = (outermost - (from_x + to_x) / 8) / 0.75
    return f'<path d="M{from_x:.1f},{y1:.1f} C{corner:.1f},{y1:.1f} {corner:.1f},{y2:.1f} {to_x:.1f},{y2:.1f}">{title}'


def _freer_side(source: Box, target: Box, layers: Sequence[list[Box]]) -> int:
    """Return 1 where fewer boxes beside the two are on their right, else -1."""

    def beside(box: Box, layer: list[Box]) -> int:
        return sum((other.centre > box.centre) - (other.centre < box.centre) for other in layer)

    more_right = beside(source, layers[0]) + beside(target, layers[-1])
    return -1 if more_right > 0 or (more_right == 0 and len(layers) % 2) else 1
