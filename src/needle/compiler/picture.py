"""A program as a picture: kernels and matrix products as boxes, arrays as arrows, from top to bottom in SVG."""

from __future__ import annotations

from pathlib import Path

from needle.compiler.layered import Box, folded, svg_document
from needle.compiler.loops import Buffer, Call, Reduce, walk
from needle.compiler.steps import Contraction, Loop, Program, Step

__all__ = ["program_svg"]


def program_svg(program: Program) -> str:
    """Return a scheduled program as an SVG document. A tooltip on each box shows its loops."""
    return svg_document(_boxes(program))


def _boxes(program: Program) -> list[Box]:
    """Make the boxes, with what goes into each."""
    inputs = set(program.inputs)
    used = dict.fromkeys(buffer for step in program.steps for buffer in step.reads() if buffer in inputs)
    maker: dict[Buffer, Box] = {}
    boxes: list[Box] = []
    large = [buffer for buffer in used if buffer.size > 1]
    if large:
        names = [f"{buffer.name} {_kind(buffer)}" for buffer in large]
        box = Box("array", ["inputs", *folded(names)], "", "\n".join(names))
        maker.update(dict.fromkeys(large, box))
        boxes.append(box)
    for step in program.steps:
        box = _step_box(step)
        sources: dict[int, tuple[Box, list[str]]] = {}
        for buffer in dict.fromkeys(step.reads()):
            source = maker.get(buffer)
            if source is not None and source is not box:
                sources.setdefault(id(source), (source, []))[1].append(f"{buffer.name} {_kind(buffer)}")
        box.before = [(source, ", ".join(names[:2]) + " …" * (len(names) > 2)) for source, names in sources.values()]
        maker.update(dict.fromkeys(step.writes(), box))
        boxes.append(box)
    outputs = [f"{buffer.name} {_kind(buffer)}" for buffer, _ in program.outputs]
    if outputs:
        last = Box("array", ["outputs", *folded(outputs)], "", "\n".join(outputs))
        makers = {id(maker[buffer]): maker[buffer] for buffer, _ in program.outputs if buffer in maker}
        last.before = [(box, "") for box in makers.values()]
        boxes.append(last)
    return boxes


def _kind(buffer: Buffer) -> str:
    return f"{buffer.dtype}{list(buffer.shape)}"


def _step_box(step: Step) -> Box:
    source = ", ".join(_short(one) for one in step.sources[:2])
    if isinstance(step, Loop):
        inside = [line for one in step.body.steps for line in _step_box(one).lines]
        return Box("kernel", [f"{step.name}  {step.length} times", *folded(inside)], source, step.show())
    if isinstance(step, Contraction):
        product = f"{list(step.a.shape)} @ {list(step.b.shape)}"
        after = [f"then {', '.join(_operations(store.value))}" for store in step.epilogue]
        return Box("contraction", [f"{step.name}  matrix product", product, *folded(after)], source, step.show())
    lines = []
    for stage in step.stages:
        operations = _operations(stage.value) + ([stage.function] if isinstance(stage, Reduce) else [])
        lines.append(f"{', '.join(operations) or 'copy'} → {stage.buffer.name}")
    return Box("kernel", [f"{step.name}  {list(step.shape)}", *folded(lines)], source, step.show())


def _operations(value: object) -> list[str]:
    """Name the operations of a value, each once, at most a handful."""
    names = list(dict.fromkeys(one.function for one in walk(value) if isinstance(one, Call)))  # type: ignore[arg-type]
    return names if len(names) <= 4 else [*names[:4], "…"]


def _short(source: str) -> str:
    path, _, line = source.rpartition(":")
    return f"{Path(path).name}:{line}"
