"""The passes that see where parts are put side by side, so that each is written once, where it belongs.

The gradient of what was cut in pieces is a sum: each piece's gradient in the middle of zeros. Where the pieces cover
everything, that is the pieces side by side. And what is put side by side only to be permuted is permuted on the way.
"""

from __future__ import annotations

from collections import Counter

from needle.compiler.graph import Graph, Node, make_node

__all__ = ["join_pads", "permute_parts"]


def join_pads(graph: Graph) -> Graph:
    """Return a graph in which sums of padded parts that cover each other's zeros are the parts side by side.

    The results are the same but for the sign of zeros: −0 stays, which plus 0 is 0.
    """
    uses = _uses(graph)
    new: dict[Node, Node] = {node: node for node in graph.inputs}
    for node in graph.nodes():
        if node.primitive == "input":
            continue
        parts = _padded_parts(node, uses) if node.primitive == "add" else []
        axis = _joined_axis(parts, node.shape)
        if axis is None:
            new[node] = _rebuilt(node, new)
            continue
        parts.sort(key=lambda part: part.params["widths"][axis][0])
        new[node] = make_node("concat", [new[part.inputs[0]] for part in parts], node.source, axis=axis)
    return Graph(graph.inputs, tuple(new[node] for node in graph.outputs))


def permute_parts(graph: Graph) -> Graph:
    """Return a graph in which what is joined and then permuted, and used in no other order, is permuted in parts."""
    uses = _uses(graph)
    new: dict[Node, Node] = {node: node for node in graph.inputs}
    for node in graph.nodes():
        if node.primitive == "input":
            continue
        joined = node.inputs[0] if node.primitive == "permute" else None
        if joined is None or joined.primitive != "concat" or uses[joined] > 1:
            new[node] = _rebuilt(node, new)
            continue
        order = node.params["axes"]
        parts = [make_node("permute", (new[one],), node.source, axes=order) for one in joined.inputs]
        new[node] = make_node("concat", parts, node.source, axis=order.index(joined.params["axis"]))
    return Graph(graph.inputs, tuple(new[node] for node in graph.outputs))


def _uses(graph: Graph) -> Counter[Node]:
    return Counter([*(one for node in graph.nodes() for one in node.inputs), *graph.outputs])


def _rebuilt(node: Node, new: dict[Node, Node]) -> Node:
    return node.with_inputs(tuple(new[one] for one in node.inputs))


def _padded_parts(node: Node, uses: Counter[Node]) -> list[Node]:
    """Return the padded parts that a sum is made of and nothing else uses; none where it is made of others too."""
    found: list[Node] = []
    # The last one added first: sums over the steps of a long loop are deep on one side, and mostly of other things.
    pending = list(node.inputs)
    while pending:
        one = pending.pop()
        if uses[one] > 1 or one.primitive not in ("pad", "add"):
            return []
        if one.primitive == "pad":
            found.append(one)
        else:
            pending += one.inputs
    return found


def _joined_axis(parts: list[Node], shape: tuple[int, ...]) -> int | None:
    """Return the axis along which padded parts lie side by side without a gap, None where they do not."""
    axes = {axis for part in parts for axis, widths in enumerate(part.params["widths"]) if any(widths)}
    if len(axes) != 1:
        return None
    (axis,) = axes
    end = 0
    for begin, length in sorted((part.params["widths"][axis][0], part.inputs[0].shape[axis]) for part in parts):
        if begin != end:
            return None
        end += length
    return axis if end == shape[axis] else None
