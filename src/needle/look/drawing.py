"""Pictures of what was computed: the graph behind a Tensor, that of its gradients, and compiled programs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from needle.autograd import Tensor, TensorTuple, Value, find_topo_sort, gradients_of
from needle.compiler.layered import Box, svg_document
from needle.errors import DTypeError, GradientError, SettingError
from needle.jit.function import JitFunction
from needle.jit.lowered import Lowered
from needle.nn import Buffer, Module, Parameter

__all__ = ["Drawing", "draw"]


class Drawing:
    """A picture in SVG. A notebook shows it; `save` writes it to a file; `svg` is its text."""

    def __init__(self, svg: str) -> None:
        self.svg = svg

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the picture to a file, whole or not at all, and return its path."""
        from needle.train.files import write_file  # noqa: PLC0415  `import needle` needs no files

        write_file(path, self.svg.encode())
        return Path(path)

    def _repr_svg_(self) -> str:
        return self.svg

    def __str__(self) -> str:
        return self.svg

    def __repr__(self) -> str:
        return f"<drawing, {len(self.svg):,} bytes of SVG: .save(path) writes it>"


def draw(
    what: Tensor | JitFunction[..., Any] | Lowered,
    path: str | os.PathLike[str] | None = None,
    *,
    model: Module | None = None,
    names: Mapping[str, Tensor] | None = None,
    gradients: bool = False,
) -> Drawing:
    """Draw the graph that a Tensor was computed by, or the program of a compiled function.

    Operators are boxes, from top to bottom in the order of computing, each with the dtype and shape of its result;
    leaves are named. A tooltip on each box tells the operator's formula and settings. Of a compiled function the
    program of the last call is drawn: its kernels and the arrays between them.

    Args:
        what: a Tensor with a graph, a function made by `ndl.jit` that was called, or `function.lower(*args)`.
        path: a file to write the SVG to; none where not given.
        model: whose parameters are named by their paths.
        names: more names, such as `{"x": x}`.
        gradients: whether to draw also how the gradients of all leaves come about.

    Returns:
        A `Drawing`, which a notebook shows.

    Raises:
        DTypeError: `what` is something else.
        GradientError: `gradients` of a Tensor that requires none.
        SettingError: the compiled function was not called yet, or was asked for gradients: its program has them in it.
        OSError: the file cannot be written.

    Example:
        >>> import needle as ndl
        >>> from needle import nn
        >>> model = nn.Linear(3, 2)
        >>> drawing = ndl.draw(model(ndl.init.rand(4, 3)).sum(), model=model)
        >>> [word for word in ("matmul", "summation", "weight", "bias") if word not in drawing.svg]
        []
    """
    if isinstance(what, Tensor):
        drawing = Drawing(svg_document(_graph_boxes(what, _known_names(model, names), gradients)))
    elif isinstance(what, (JitFunction, Lowered)):
        if gradients:
            raise SettingError("draw: a compiled program has its gradients in it already: leave out gradients=True")
        drawing = Drawing(_lowered(what).picture())
    else:
        raise DTypeError(f"draw takes a Tensor or a compiled function, got {type(what).__name__}")
    if path is not None:
        drawing.save(path)
    return drawing


def _lowered(what: JitFunction[..., Any] | Lowered) -> Lowered:
    if isinstance(what, Lowered):
        return what
    if what.last_program is None:
        raise SettingError(
            f"draw: {what.__name__} has no program yet: call it once, or draw {what.__name__}.lower(arguments)"
        )
    return Lowered(what.last_program, [])


def _known_names(model: Module | None, names: Mapping[str, Tensor] | None) -> dict[int, str]:
    known = [] if model is None else [*model.named_parameters(), *model.named_buffers()]
    return {id(tensor): name for name, tensor in [*known, *(names or {}).items()]}


def _graph_boxes(output: Tensor, names: Mapping[int, str], gradients: bool) -> list[Box]:
    """Make a box for each node, with those that it comes from."""
    forward = find_topo_sort([output])
    of: dict[Value, str] = {}
    if gradients:
        of = _gradients(output, [one for one in forward if one.is_leaf() and one.requires_grad], names)
    is_forward = set(forward)
    boxes: dict[Value, Box] = {}
    for node in [*forward, *(one for one in find_topo_sort(list(of)) if one not in is_forward)]:
        boxes[node] = box = _box(node, names, of.get(node), node in is_forward)
        box.before = [(boxes[one], "") for one in dict.fromkeys(node.inputs)]
    return list(boxes.values())


def _gradients(output: Tensor, leaves: list[Any], names: Mapping[int, str]) -> dict[Value, str]:
    """Return the gradients of the leaves, with a name for each."""
    if not output.requires_grad:
        raise GradientError("draw: this Tensor requires no gradient, so that there are none to draw")
    found = gradients_of(output, output.ones_like(), leaves)
    return {
        gradient: f"gradient of {names.get(id(leaf), 'a leaf')}"
        for leaf, gradient in zip(leaves, found, strict=True)
        if gradient is not None
    }


def _box(node: Value, names: Mapping[int, str], gradient_of: str | None, is_forward: bool) -> Box:
    kind = _described(node)
    if gradient_of is not None:
        return Box("parameter", [gradient_of, kind], "", gradient_of)
    name = names.get(id(node), "")
    if node.op is None:
        own = {Parameter: "parameter", Buffer: "buffer"}.get(type(node), "leaf" if node.requires_grad else "constant")
        style = "parameter" if isinstance(node, Parameter) else "leaf"
        return Box(style, [name or own, kind], "", f"{own}, requires_grad={node.requires_grad}")
    title = f"{node.op.called} → {name}" if name else node.op.called
    return Box("operator" if is_forward else "gradient", [title, kind], "", _tooltip(node.op))


def _described(node: Value) -> str:
    if isinstance(node, Tensor):
        return f"{node.dtype} {node.shape}"
    assert isinstance(node, TensorTuple)
    shapes = [str(tuple(array.shape)) for array in node.realize_cached_data()]
    return ", ".join(shapes if len(shapes) <= 3 else [*shapes[:3], f"… {len(shapes)} in all"])


def _tooltip(op: Any) -> str:
    """Return an operator's class, its formula, and its settings."""
    lines = [type(op).__name__, (type(op).__doc__ or "").strip().split("\n", 1)[0]]
    settings = {name: value for name, value in vars(op).items() if isinstance(value, (int, float, str, tuple))}
    return "\n".join([*lines, *(f"{name} = {value}" for name, value in settings.items() if not name.startswith("_"))])
