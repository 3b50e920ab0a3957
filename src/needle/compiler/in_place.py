"""The pass that lets a program overwrite what it was given, where the caller allows it and nobody can tell.

A training step replaces parameters and moments by new values. Where each new element is computed from the old element
at the same place, and nothing reads the old ones afterwards, the new ones may lie where the old ones lay: a third less
memory to move, and no second copy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from needle.compiler.loops import Buffer, Gather, Kernel, Load, Scatter, Stage, Store, Value, walk, with_buffers
from needle.compiler.steps import Program, Step

__all__ = ["overwrite_inputs"]


def overwrite_inputs(program: Program, allowed: Mapping[int, int]) -> tuple[Program, dict[int, int]]:
    """Return a program that writes outputs over inputs, and which output lies on which input.

    Args:
        program: what `schedule` made.
        allowed: for the number of an output, the number of the input that it may overwrite.
    """
    writers: dict[Buffer, list[int]] = {}
    readers: dict[Buffer, list[int]] = {}
    for number, step in enumerate(program.steps):
        for found, buffers in ((writers, step.writes()), (readers, step.reads())):
            for buffer in buffers:
                found.setdefault(buffer, []).append(number)
    chosen: dict[int, int] = {}
    instead: dict[Buffer, Buffer] = {}
    for output, given in allowed.items():
        new, old = program.outputs[output][0], program.inputs[given]
        if new.shape != old.shape or new.dtype != old.dtype or old in writers:
            continue
        if _may_overwrite(program.steps, writers.get(new, []), readers.get(old, []), readers.get(new, []), new, old):
            chosen[output] = given
            instead[new] = old
    return _renamed(program, instead), chosen


def _may_overwrite(  # noqa: PLR0917  all of one question
    steps: Sequence[Step],
    writers: Sequence[int],
    old_readers: Sequence[int],
    new_readers: Sequence[int],
    new: Buffer,
    old: Buffer,
) -> bool:
    if len(writers) != 1 or any(number > writers[0] for number in old_readers):
        return False
    writer = steps[writers[0]]
    if not isinstance(writer, Kernel):
        return False
    others = (steps[number] for number in new_readers)
    return all(isinstance(step, Kernel) for step in others) and _reads_before_it_writes(writer, new, old)


def _reads_before_it_writes(kernel: Kernel, new: Buffer, old: Buffer) -> bool:
    """Tell whether a kernel reads the old element only at the point where it writes the new one, and not after."""
    number, *others = (i for i, stage in enumerate(kernel.stages) if stage.buffer is new)
    writer = kernel.stages[number]
    if not isinstance(writer, Store) or others:
        return False
    for i, stage in enumerate(kernel.stages):
        for value in _values(stage):
            if not isinstance(value, (Load, Gather)) or value.buffer is not old:
                continue
            if i > number or isinstance(value, Gather) or value.place != writer.place:
                return False
    return True


def _values(stage: Stage) -> list[Value]:
    roots = [stage.value, stage.index] if isinstance(stage, Scatter) else [stage.value]
    return [value for root in roots for value in walk(root)]


def _renamed(program: Program, instead: Mapping[Buffer, Buffer]) -> Program:
    """Put other buffers in the place of some."""
    outputs = tuple((instead.get(buffer, buffer), shape) for buffer, shape in program.outputs)
    steps = tuple(_in_kernel(step, instead) if isinstance(step, Kernel) else step for step in program.steps)
    return replace(program, outputs=outputs, steps=steps)


def _in_kernel(kernel: Kernel, instead: Mapping[Buffer, Buffer]) -> Kernel:
    if not any(buffer in instead for buffer in (*kernel.reads(), *kernel.writes())):
        return kernel
    return replace(kernel, stages=with_buffers(kernel.stages, instead))
