"""The pass that leaves out products with the zeros around an image.

A convolution's image is copied with zeros around it, so that its windows are all alike. But near the image's ends many
of the products are with these zeros: of a 3×3 kernel's on 4×4 elements, three in ten. Here the image is copied without
them, the samples of each element side by side. A tile is as high as there are samples at one element, and sums over
what its window has inside of the image: operands say by `clips` which steps of their sums that is.

A zero that is left out adds nothing, where the product of a zero with an infinite weight would have added a NaN.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, TypeVar

import numpy as np

from needle.compiler.borders import inside_of, part_of
from needle.compiler.dot_products import takes_pairs
from needle.compiler.host import Host
from needle.compiler.loops import (
    Buffer,
    Gather,
    Kernel,
    Place,
    Scatter,
    Stage,
    Store,
    Within,
    index_of_place,
    walk,
    with_buffers,
    with_places,
    zero_place,
)
from needle.compiler.matrices import Product
from needle.compiler.operand import Clip, Operand, Walk, refine
from needle.compiler.overhang import bordered_store
from needle.compiler.steps import Contraction, Loop, Program, Step
from needle.compiler.tiling import least_cycles
from needle.dtype import bfloat16, float32, float64, is_narrow

__all__ = ["without_products_of_zeros"]

_Steps: TypeAlias = list[tuple[int, int]]
_S = TypeVar("_S", bound=Stage)


def without_products_of_zeros(program: Program, host: Host) -> Program:
    """Return a program in which products sum over what is inside of an image, where that takes fewer cycles."""
    outputs = {buffer for buffer, _ in program.outputs}
    found = (_image(step, host) for step in program.steps)
    images = {image.old: image for image in found if image is not None and image.old not in outputs}
    before = {step: _cycles(step, host) for step in _products(program, images)}
    while images:
        try:
            instead = {step: _without_borders(step, images) for step in program.steps}
        except _NeedsBorder as needed:
            del images[needed.buffer]
            continue
        gains = dict.fromkeys(images, 0.0)
        for step in _products(program, images):
            new = instead[step]
            assert isinstance(new, Contraction)
            gains[step.a.buffer] += before[step] - _cycles(new, host)
        if min(gains.values()) > 0:
            return replace(program, steps=tuple(instead.values()))
        images = {buffer: image for buffer, image in images.items() if gains[buffer] > 0}
    return program


def _products(program: Program, images: Container[Buffer]) -> list[Contraction]:
    """Return the products with images on their left."""
    return [step for step in program.steps if isinstance(step, Contraction) and step.a.buffer in images]


def _cycles(step: Contraction, host: Host) -> float:
    products = Product.candidates(step)
    return least_cycles([one.in_pairs() for one in products] if takes_pairs(step, host) else products, host)


class _NeedsBorder(Exception):  # noqa: N818  a finding, not an error
    """A step reads a buffer in a way that it cannot without its border."""

    def __init__(self, buffer: Buffer) -> None:
        self.buffer = buffer


@dataclass(frozen=True, slots=True)
class _Image:
    """A buffer with zeros around an image, and one for the image without them, the samples' axis the last but one.

    Attributes:
        writer: the kernel that writes the first one.
        inside: where the image begins along each axis of the first one, and how long it is.
        strides: how far apart neighbours along these axes are in the other one.
    """

    writer: Kernel
    old: Buffer
    new: Buffer
    inside: Sequence[tuple[int, int]]
    strides: tuple[int, ...]

    def moved(self, place: Place, domain: Sequence[int]) -> tuple[Place, list[Place]]:
        """Return where in the new buffer that lies which is at a place in the old one, and its index in the image."""
        index = index_of_place(place, self.old.shape, domain)
        if index is None:
            raise _NeedsBorder(self.old)
        index = [one.shifted(-begin) for one, (begin, _) in zip(index, self.inside, strict=True)]
        total = zero_place(len(domain))
        for one, stride in zip(index, self.strides, strict=True):
            total += one.scaled(stride)
        return total, index

    def is_inside(self, along: Place, length: int, domain: Sequence[int]) -> bool:
        """Tell whether an index along an axis is inside of the image at each point of a domain."""
        ends = [stride * (n - 1) for stride, n in zip(along.strides, domain, strict=True)]
        low, high = (along.offset + sum(end for end in ends if sign * end > 0) for sign in (-1, 1))
        return low >= 0 and high < length

    def clips(self, index: Sequence[Place], domain: Sequence[int], rows: range, sums: range) -> tuple[Clip, ...]:
        """Return the conditions for an index to be inside, given which axes of the domain are rows' and sums' steps."""
        found = []
        for along, (_, length) in zip(index, self.inside, strict=True):
            if self.is_inside(along, length, domain):
                continue
            of_rows = [axis for axis in rows if along.strides[axis]]
            of_sums = [axis for axis in sums if along.strides[axis]]
            if len(of_rows) > 1 or len(of_sums) != 1 or min(along.strides) < 0:
                raise _NeedsBorder(self.old)
            if sum(map(bool, along.strides)) != len(of_rows) + len(of_sums):
                raise _NeedsBorder(self.old)
            (step,) = of_sums
            row = (of_rows[0] - rows.start, along.strides[of_rows[0]]) if of_rows else (None, 0)
            found.append(Clip(row[0], step - sums.start, row[1], along.strides[step], along.offset, length))
        return tuple(found)


def _image(step: Step, host: Host) -> _Image | None:
    """Return the image that a kernel copies with zeros around it, of a dtype whose products may be clipped."""
    stage = bordered_store(step)
    if stage is None or not isinstance(step, Kernel) or len(step.shape) < 3:
        return None
    assert isinstance(stage.value, Within)
    old = stage.buffer
    inside = inside_of(step, stage.value)
    if stage.value.outside != 0 or inside is None or not _may_be_clipped(old.dtype, host) or not old.size:
        return None
    lengths = [length for _, length in inside]
    last = len(lengths) - 1
    if (lengths[0], lengths[last]) != (old.shape[0], old.shape[last]) or 0 in lengths:
        return None
    order = [*range(1, last), 0, last]
    new = Buffer(old.name, tuple(lengths[axis] for axis in order), old.dtype)
    strides = tuple(new.strides[order.index(axis)] for axis in range(len(order)))
    return _Image(step, old, new, inside, strides)


def _may_be_clipped(dtype: np.dtype[Any], host: Host) -> bool:
    """Tell whether the functions for products of a dtype know of clips: those of the tile registers do not."""
    return dtype in (float32, float64) or (is_narrow(dtype) and not (dtype == bfloat16 and host.has_tiles))


# ------------------------------------------------------------------------------------------------- steps


def _without_borders(step: Step, images: Mapping[Buffer, _Image]) -> Step:
    """Return a step that reads and writes images without their borders."""
    touched = [buffer for buffer in (*step.reads(), *step.writes()) if buffer in images]
    if not touched:
        return step
    if isinstance(step, Loop):  # its body knows of the image as it is
        raise _NeedsBorder(touched[0])
    if isinstance(step, Contraction):
        epilogue = _moved_stages(step.epilogue, step.out.shape, images)
        return _contraction(replace(step, epilogue=epilogue), images)
    for image in images.values():
        if image.writer is step:
            (stage,) = step.stages
            assert isinstance(stage, Store)
            assert isinstance(stage.value, Within)
            step = part_of(step, replace(stage, value=stage.value.value), image.inside)
    return replace(step, stages=_moved_stages(step.stages, step.shape, images))


def _moved_stages(stages: Sequence[_S], domain: Sequence[int], images: Mapping[Buffer, _Image]) -> tuple[_S, ...]:
    def moved(buffer: Buffer | None, place: Place) -> Place:
        if buffer is None or buffer not in images:
            return place
        image = images[buffer]
        new, index = image.moved(place, domain)
        if not all(image.is_inside(one, n, domain) for one, (_, n) in zip(index, image.inside, strict=True)):
            raise _NeedsBorder(buffer)
        return new

    for stage in stages:
        for value in (stage, *walk(stage.value)):
            if isinstance(value, (Gather, Scatter)) and value.buffer in images:
                raise _NeedsBorder(value.buffer)
    return with_buffers(with_places(stages, moved), {old: image.new for old, image in images.items()})


def _contraction(step: Contraction, images: Mapping[Buffer, _Image]) -> Contraction:
    """Return a product of operands inside of images without borders."""
    a, b = (_operand(one, images.get(one.buffer)) for one in (step.a, step.b))
    if b.clips or (a.clips and step.out.dtype not in (float32, float64)):
        raise _NeedsBorder((step.b if b.clips else step.a).buffer)
    if a.clips:
        # The samples, which lie closest, are summed over in the innermost loop.
        together = refine(a.axes[-1], b.axes[-2])
        assert together is not None, "the schedule leaves no walks that cannot be gone together"
        lengths, a_strides, b_strides = together
        if lengths != [length for length, _ in a.axes[-1]]:
            raise _NeedsBorder(step.a.buffer)
        order = sorted(range(len(lengths)), key=lambda number: -a_strides[number])
        a_walk, b_walk = (tuple((lengths[i], strides[i]) for i in order) for strides in (a_strides, b_strides))
        clips = tuple(replace(clip, sum_step=order.index(clip.sum_step)) for clip in a.clips)
        last = len(order) - 1
        # Pairs of neighbours in a sum are both inside.
        if a.buffer.dtype == bfloat16 and (a_walk[last][1] <= 0 or last in [clip.sum_step for clip in clips]):
            raise _NeedsBorder(step.a.buffer)
        a = replace(a, axes=(*a.axes[:-1], a_walk), clips=clips)
        b = replace(b, axes=(*b.axes[:-2], b_walk, b.axes[-1]))
    return replace(step, a=a, b=b)


def _operand(operand: Operand, image: _Image | None) -> Operand:
    """Return an operand inside of the image without its border, clipped where it reached beyond."""
    if image is None:
        return operand
    walks = [_along_axes(walk, image) for walk in operand.axes]
    domain = [length for walk in walks for length, _ in walk]
    place = Place(operand.offset, tuple(stride for walk in walks for _, stride in walk))
    new, index = image.moved(place, domain)
    ends = [len(domain) - len(walks[-1]), len(domain)]
    ends.insert(0, ends[0] - len(walks[-2]))
    clips = image.clips(index, domain, range(ends[0], ends[1]), range(ends[1], ends[2]))
    strides = iter(new.strides)
    axes = tuple(tuple((length, next(strides)) for length, _ in walk) for walk in walks)
    return Operand(image.new, new.offset, axes, clips)


def _along_axes(walk: Walk, image: _Image) -> _Steps:
    """Divide a walk's steps so that each goes along one axis of the buffer: those that went on from one to the next."""
    found: _Steps = []
    for length, stride in walk:
        left, step = length, stride
        steps: _Steps = []
        for axis in reversed(image.old.strides[:-1]):
            within = axis // step if step > 0 and axis % step == 0 else 1
            if within > 1 and left > within:
                if left % within:
                    raise _NeedsBorder(image.old)
                steps.insert(0, (within, step))
                left, step = left // within, axis
        found += [(left, step), *steps]
    return found
