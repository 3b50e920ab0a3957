"""Following one call of a function: from Python to a traced program, with all that it read left as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from needle import autograd, tracing
from needle.autocasting import autocast_dtype
from needle.jit.arguments import map_leaves
from needle.jit.free_objects import free_objects
from needle.jit.leaks import leak_error
from needle.jit.notes import ArgumentPlace
from needle.jit.program import CompiledCall
from needle.jit.recorder import Recorder
from needle.jit.side_effects import BeforeTrace
from needle.jit.watching import watching

__all__ = ["follow_call", "trace_call"]


def trace_call(
    fn: Callable[..., Any], args: Any, kwargs: Any, leaves: list[Any], overwrite: bool = True
) -> CompiledCall:
    """Trace and compile one call: see `follow_call`."""
    program = follow_call(fn, args, kwargs, leaves, overwrite)
    try:
        program.compile()
    except BaseException:
        program.recorder.undo_creations()
        raise
    return program


def follow_call(
    fn: Callable[..., Any], args: Any, kwargs: Any, leaves: list[Any], overwrite: bool = True
) -> CompiledCall:
    """Trace one call. Whatever it reads and writes is left as it was.

    Raises:
        TraceError: the function does something that a program cannot: it looks at values, or keeps traced Tensors.
    """
    try:
        return _follow_once(fn, args, kwargs, leaves, overwrite)
    except tracing.NotOneLoop as failure:
        with tracing.loops_written_out(because=failure):
            return _follow_once(fn, args, kwargs, leaves, overwrite)


def _follow_once(fn: Callable[..., Any], args: Any, kwargs: Any, leaves: list[Any], overwrite: bool) -> CompiledCall:
    recorder = Recorder(leaves)
    given = [*args, *kwargs.values()]
    before = BeforeTrace(fn, given)
    mode = autograd.is_recording()
    numbers: dict[int, int] = {id(leaf): number for number, leaf in enumerate(leaves)}  # of arrays among the arguments

    def stand_in(leaf: Any) -> Any:
        if isinstance(leaf, np.ndarray):
            return recorder.new_input(leaf.shape, leaf.dtype, ArgumentPlace(numbers[id(leaf)]))
        return leaf

    positional, named = map_leaves(stand_in, args), map_leaves(stand_in, kwargs)
    try:
        try:
            with watching(recorder):
                recorder.guard(autocast_dtype, "the dtype of autocast")
                result = fn(*positional, **named)
                modules = recorder.modules.values()
                found = free_objects(fn, given, modules, recorder.called_code(), recorder.array_ids())
                before.check_draws(found.functions)
                program = CompiledCall(recorder, result, found.guards, mode, overwrite)
                recorder.check_loops(program.graph)
        except Exception as failure:
            if recorder.loops:  # what a function makes of a loop may not be what it makes of the steps
                raise tracing.NotOneLoop from failure
            raise
        finally:
            recorder.undo_effects()
        del result
        recorder.forget_values()
        error = leak_error(recorder)
        if error is not None:
            raise error
    except BaseException:
        recorder.undo_creations()
        before.go_back(recorder.settings)
        raise
    before.warn_of_changes(recorder.settings)
    before.warn_of_outside_calls(found.functions)
    return program
