"""From nodes to values at one point of a kernel: what moves elements becomes the place of a load."""

from __future__ import annotations

import math
from collections.abc import Sequence

from needle.compiler.buffer_choice import base_of
from needle.compiler.graph import Node
from needle.compiler.loops import (
    Buffer,
    Call,
    Gather,
    Load,
    Number,
    Place,
    Position,
    Value,
    Within,
    buffer_place,
    zero_place,
)
from needle.compiler.primitives import MOVEMENT

__all__ = ["Lowering", "Misaligned", "NeedsBuffer"]


class NeedsBuffer(Exception):  # noqa: N818  a wish, not an error
    """A node cannot be computed where it is used: it must have a buffer."""

    def __init__(self, node: Node) -> None:
        self.node = node


class Misaligned(Exception):  # noqa: N818  a finding, not an error
    """A stage reads another point of what its own kernel writes: it needs a kernel of its own."""


class Lowering:
    """Turns nodes into values at a point of one kernel."""

    def __init__(self, buffers: dict[Node, Buffer], rank: int, own: dict[Node, Place]) -> None:
        self.buffers = buffers
        self.rank = rank
        self.own = own
        self.memo: dict[tuple[Node, tuple[Place, ...]], Value] = {}

    def value(self, node: Node, index: tuple[Place, ...]) -> Value:
        """Return the element of `node` at `index`."""
        if node in self.buffers:
            return self._load(node, buffer_place(self.buffers[node], index, self.rank))
        key = (node, index)
        if key not in self.memo:
            self.memo[key] = self.compute(node, index)
        return self.memo[key]

    def compute(self, node: Node, index: tuple[Place, ...]) -> Value:
        """Return the element of `node` at `index`, computed here even where the node has a buffer."""
        special = {
            "constant": self._constant,
            "iota": self._position,
            "reshape": self._reshaped,
            "pad": self._padded,
            "gather": self._gathered,
        }
        if node.primitive in special:
            return special[node.primitive](node, index)
        if node.primitive in MOVEMENT:
            return self.value(node.inputs[0], moved_index(node, index, self.rank))
        return Call(node.primitive, tuple(self.value(one, index) for one in node.inputs), node.dtype)

    def _load(self, node: Node, place: Place) -> Value:
        if node in self.own and self.own[node] != place:
            raise Misaligned
        return Load(self.buffers[node], place, node.dtype)

    def _constant(self, node: Node, _: tuple[Place, ...]) -> Value:
        return Number(node.params["value"].tobytes(), node.dtype)

    def _position(self, node: Node, index: tuple[Place, ...]) -> Value:
        return Position(index[0], node.dtype)

    def _reshaped(self, node: Node, index: tuple[Place, ...]) -> Value:
        inner = base_of(node)
        if inner in self.buffers:
            flat = Buffer("", node.shape, node.dtype)
            return self._load(inner, buffer_place(flat, index, self.rank))
        (source,) = node.inputs
        return self.value(source, reshaped_index(source, node.shape, index, self.rank))

    def _padded(self, node: Node, index: tuple[Place, ...]) -> Value:
        """Return the element of what is padded, and one number around it."""
        (inner,) = node.inputs
        moved = [place.shifted(-before) for place, (before, _) in zip(index, node.params["widths"], strict=True)]
        limits = zip(moved, inner.shape, node.params["widths"], strict=True)
        bounds = tuple((place, length) for place, length, around in limits if any(around))
        return Within(self.value(inner, tuple(moved)), bounds, node.dtype, node.params.get("value", 0.0))

    def _gathered(self, node: Node, index: tuple[Place, ...]) -> Value:
        source, indices = node.inputs
        count = len(indices.shape)
        flat = Buffer("", source.shape, source.dtype)
        place = buffer_place(flat, (zero_place(self.rank), *index[count:]), self.rank)
        position = self.value(indices, index[:count])
        return self._element_of(source, source, place, position)

    def _element_of(self, source: Node, whole: Node, place: Place, position: Value) -> Value:
        """Return the element of `source` that one of `whole`, of as many elements, stands for at a place."""
        base = base_of(source)
        if base in self.buffers:
            if base in self.own:
                raise Misaligned
            stride = math.prod(whole.shape[1:])
            return Gather(self.buffers[base], place, stride, whole.shape[0] - 1, position, base.dtype)
        if base.primitive == "cast":  # cheaper than an array of what all elements were cast to
            return Call("cast", (self._element_of(base.inputs[0], whole, place, position),), base.dtype)
        raise NeedsBuffer(base)


def moved_index(node: Node, index: tuple[Place, ...], rank: int) -> tuple[Place, ...]:
    """Return where in its input a movement finds the element at `index` of its result."""
    (source,) = node.inputs
    params = node.params
    if node.primitive == "broadcast":
        zero = zero_place(rank)
        return tuple(zero if n == 1 else place for n, place in zip(source.shape, index, strict=True))
    if node.primitive == "permute":
        order = params["axes"]
        return tuple(index[order.index(axis)] for axis in range(len(order)))
    if node.primitive == "windows":
        moved = list(index[: len(source.shape)])
        for axis, within in zip(params["axes"], index[len(source.shape) :], strict=True):
            moved[axis] = moved[axis] + within
        return tuple(moved)
    if node.primitive == "slice":
        starts_steps = zip(index, params["start"], params["step"], strict=True)
        return tuple(place.scaled(step).shifted(start) for place, start, step in starts_steps)
    flipped = params["axis"]
    return tuple(
        place.scaled(-1).shifted(node.shape[axis] - 1) if axis in flipped else place for axis, place in enumerate(index)
    )


def reshaped_index(source: Node, shape: Sequence[int], index: tuple[Place, ...], rank: int) -> tuple[Place, ...]:
    """Return where in `source` a reshape to `shape` finds the element at `index`.

    Axes that stay, split or vanish have such a place. Axes that were joined have not (it takes a division).

    Raises:
        NeedsBuffer: the source's axes were joined.
    """
    result = [zero_place(rank)] * len(source.shape)
    inner = [axis for axis, n in enumerate(source.shape) if n != 1]
    outer = [axis for axis, n in enumerate(shape) if n != 1]
    while inner and outer:
        axis = inner.pop()
        length, place = 1, zero_place(rank)
        while outer and length < source.shape[axis]:
            part = outer.pop()
            place = place + index[part].scaled(length)
            length *= shape[part]
        if length != source.shape[axis]:
            raise NeedsBuffer(source)
        result[axis] = place
    return tuple(result)
