"""The pass that lets a program overwrite what it was given, where the caller allows it and nobody can tell.

A training step replaces parameters and moments by new values. Where each new element is computed from the old element
at the same place, and nothing reads the old ones afterwards, the new ones may lie where the old ones lay: a third less
memory to move, and no second copy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from needle.compiler.loops import Buffer, Call, Gather, Kernel, Load, Scatter, Stage, Store, Value, walk
from needle.compiler.schedule import Program, Step

__all__ = ["overwrite_inputs"]


def overwrite_inputs(program: Program, allowed: Mapping[int, int]) -> tuple[Program, dict[int, int]]:
    """Return a program that writes outputs over inputs, and which output lies on which input.

    Args:
        program: what `schedule` made.
        allowed: for the number of an output, the number of the input that it may overwrite.
    """
    chosen: dict[int, int] = {}
    for output, given in allowed.items():
        new, old = program.outputs[output][0], program.inputs[given]
        if new.shape == old.shape and new.dtype == old.dtype and _may_overwrite(program.steps, new, old):
            program = _renamed(program, new, old)
            chosen[output] = given
    return program, chosen


def _may_overwrite(steps: Sequence[Step], new: Buffer, old: Buffer) -> bool:
    writers = [number for number, step in enumerate(steps) if new in step.writes()]
    readers = [number for number, step in enumerate(steps) if old in step.reads()]
    if len(writers) != 1 or any(number > writers[0] for number in readers):
        return False
    writer = steps[writers[0]]
    if not isinstance(writer, Kernel) or any(old in step.writes() for step in steps):
        return False
    others = [step for step in steps if step is not writer and new in step.reads()]
    return all(isinstance(step, Kernel) for step in others) and _reads_before_it_writes(writer, new, old)


def _reads_before_it_writes(kernel: Kernel, new: Buffer, old: Buffer) -> bool:
    """Tell whether a kernel reads the old element only at the point where it writes the new one, and not after."""
    (number,) = (i for i, stage in enumerate(kernel.stages) if stage.buffer is new)
    writer = kernel.stages[number]
    if not isinstance(writer, Store):
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


def _renamed(program: Program, new: Buffer, old: Buffer) -> Program:
    """Put the buffer `old` in the place of `new`."""
    outputs = tuple((old if buffer is new else buffer, shape) for buffer, shape in program.outputs)
    steps = tuple(
        _in_kernel(step, new, old) if isinstance(step, Kernel) and new in [*step.reads(), *step.writes()] else step
        for step in program.steps
    )
    return replace(program, outputs=outputs, steps=steps)


def _in_kernel(kernel: Kernel, new: Buffer, old: Buffer) -> Kernel:
    known: dict[int, Value] = {}

    def value(one: Value) -> Value:
        if id(one) not in known:
            known[id(one)] = changed(one)
        return known[id(one)]

    def changed(one: Value) -> Value:
        if isinstance(one, Call):
            return Call(one.function, tuple(map(value, one.arguments)), one.dtype)
        if isinstance(one, Gather):
            return replace(one, buffer=old if one.buffer is new else one.buffer, index=value(one.index))
        return replace(one, buffer=old) if isinstance(one, Load) and one.buffer is new else one

    def stage(one: Stage) -> Stage:
        buffer = old if one.buffer is new else one.buffer
        if isinstance(one, Scatter):
            return replace(one, buffer=buffer, value=value(one.value), index=value(one.index))
        return replace(one, buffer=buffer, value=value(one.value))

    return replace(kernel, stages=tuple(map(stage, kernel.stages)))
