"""A program as a picture: kernels and matrix products as boxes, arrays as arrows, from top to bottom in SVG."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from needle.compiler.loops import Buffer, Call, Reduce, walk
from needle.compiler.schedule import Contraction, Program, Step

__all__ = ["program_svg"]

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
  path { fill: none; stroke: #9aa4ae; }
"""


class _Box:
    """A box with lines of text: a step, or an array from or to the outside."""

    def __init__(self, kind: str, lines: Sequence[str], source: str, tooltip: str) -> None:
        self.kind, self.lines, self.source, self.tooltip = kind, list(lines), source, tooltip
        longest = max(len(line) for line in [*lines, source])
        self.width = longest * _CHARACTER + 2 * _PADDING
        self.height = (len(lines) + bool(source)) * _LINE + 2 * _PADDING
        self.layer = 0
        self.x = self.y = 0.0
        self.before: list[tuple[_Box, str]] = []

    @property
    def centre(self) -> float:
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


def program_svg(program: Program) -> str:
    """Return a scheduled program as an SVG document. A tooltip on each box shows its loops."""
    boxes = _boxes(program)
    layers = _layers(boxes)
    width = _place(layers)
    height = max((box.y + box.height for box in boxes), default=0.0) + _MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}">',
        f"<style>{_STYLE}</style>",
        f'<rect class="page" width="{width:.0f}" height="{height:.0f}"/>',
        *(_arrow(source, box, label) for box in boxes for source, label in box.before),
        *(box.svg() for box in boxes),
        "</svg>",
    ]
    return "\n".join(parts)


def _boxes(program: Program) -> list[_Box]:
    """Make the boxes, with what goes into each."""
    inputs = set(program.inputs)
    used = dict.fromkeys(buffer for step in program.steps for buffer in step.reads() if buffer in inputs)
    maker: dict[Buffer, _Box] = {}
    boxes: list[_Box] = []
    large = [buffer for buffer in used if buffer.size > 1]
    if large:
        names = [f"{buffer.name} {_kind(buffer)}" for buffer in large]
        box = _Box("array", ["inputs", *_folded(names)], "", "\n".join(names))
        maker.update(dict.fromkeys(large, box))
        boxes.append(box)
    for step in program.steps:
        box = _step_box(step)
        sources: dict[int, tuple[_Box, list[str]]] = {}
        for buffer in dict.fromkeys(step.reads()):
            source = maker.get(buffer)
            if source is not None and source is not box:
                sources.setdefault(id(source), (source, []))[1].append(f"{buffer.name} {_kind(buffer)}")
        box.before = [(source, ", ".join(names[:2]) + " …" * (len(names) > 2)) for source, names in sources.values()]
        maker.update(dict.fromkeys(step.writes(), box))
        boxes.append(box)
    outputs = [f"{buffer.name} {_kind(buffer)}" for buffer, _ in program.outputs]
    if outputs:
        last = _Box("array", ["outputs", *_folded(outputs)], "", "\n".join(outputs))
        makers = {id(maker[buffer]): maker[buffer] for buffer, _ in program.outputs if buffer in maker}
        last.before = [(box, "") for box in makers.values()]
        boxes.append(last)
    return boxes


def _folded(names: Sequence[str]) -> list[str]:
    if len(names) <= _MOST_LINES:
        return list(names)
    return [*names[: _MOST_LINES - 1], f"and {len(names) - _MOST_LINES + 1} more"]


def _kind(buffer: Buffer) -> str:
    return f"{buffer.dtype}{list(buffer.shape)}"


def _step_box(step: Step) -> _Box:
    source = ", ".join(_short(one) for one in step.sources[:2])
    if isinstance(step, Contraction):
        product = f"{list(step.a.shape)} @ {list(step.b.shape)}"
        after = [f"then {', '.join(_operations(store.value))}" for store in step.epilogue]
        return _Box("contraction", [f"{step.name}  matrix product", product, *_folded(after)], source, step.show())
    lines = []
    for stage in step.stages:
        operations = _operations(stage.value) + ([stage.function] if isinstance(stage, Reduce) else [])
        lines.append(f"{', '.join(operations) or 'copy'} → {stage.buffer.name}")
    return _Box("kernel", [f"{step.name}  {list(step.shape)}", *_folded(lines)], source, step.show())


def _operations(value: object) -> list[str]:
    """Name the operations of a value, each once, at most a handful."""
    names = list(dict.fromkeys(one.function for one in walk(value) if isinstance(one, Call)))  # type: ignore[arg-type]
    return names if len(names) <= 4 else [*names[:4], "…"]


def _short(source: str) -> str:
    path, _, line = source.rpartition(":")
    return f"{Path(path).name}:{line}"


def _layers(boxes: Sequence[_Box]) -> list[list[_Box]]:
    """Put each box below all that it reads from."""
    for box in boxes:
        box.layer = 1 + max((source.layer for source, _ in box.before), default=-1)
    layers: list[list[_Box]] = [[] for _ in range(1 + max((box.layer for box in boxes), default=-1))]
    for box in boxes:
        layers[box.layer].append(box)
    return layers


def _place(layers: Sequence[list[_Box]]) -> float:
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


def _arrow(source: _Box, target: _Box, label: str) -> str:
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
    side = 1 if span % 2 else -1
    from_x, to_x = (box.centre + side * box.width / 2 for box in (source, target))
    y1, y2 = source.y + source.height / 2, target.y + target.height / 2
    bow = side * (30 + 9 * min(span, 30))
    corner = max(from_x, to_x) + bow if side > 0 else min(from_x, to_x) + bow
    return f'<path d="M{from_x:.1f},{y1:.1f} C{corner:.1f},{y1:.1f} {corner:.1f},{y2:.1f} {to_x:.1f},{y2:.1f}">{title}'
