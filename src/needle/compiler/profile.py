"""Where the time of a compiled program goes: each kernel timed where it runs, beside what the machine can do at most.

The program is written anew, with two looks at the clock around each call of a kernel. So a kernel finds in the caches
what it finds there otherwise, and the kernels' times and the time that threads wait for each other make up the whole.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from needle.compiler import board
from needle.compiler.address import address_of
from needle.compiler.cache import cached_object
from needle.compiler.executable import Executable, Memory
from needle.compiler.host import host
from needle.compiler.limits import copy_limit, multiply_add_limit
from needle.compiler.loops import Buffer, Call, Kernel, walk
from needle.compiler.native import compile_modules, load_modules
from needle.compiler.program import render_program
from needle.compiler.runtime import run_program
from needle.compiler.steps import Contraction, Loop, Program, Step
from needle.compiler.thread_count import get_num_threads

__all__ = ["KernelTime", "Profile", "count_bytes", "count_operations", "profile_program"]

# The floating-point operations of functions that are not one: a change of sign goes into what uses it.
_ARITHMETIC = {"multiply_add": 2, "negative": 0}

# Runs that do not count: the first ones wake the threads and fill the caches.
_WARM_UP = 3


@dataclass(frozen=True, slots=True)
class KernelTime:
    """One kernel's figures.

    Fields: `name`; `what`, its shape and operations; `seconds`, those of all threads over the number of threads;
    `operations`, floating-point ones; `bytes`, of the arrays that it reads and writes; `share` of the machine's limit,
    the time that it would take there over the time that it took; `sources`, the lines of the user's program.
    """

    name: str
    what: str
    seconds: float
    operations: int
    bytes: int
    share: float
    sources: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Profile:
    """A program's kernels, the slowest first, and the time of the whole."""

    kernels: tuple[KernelTime, ...]
    seconds: float
    threads: int

    def rows(self) -> list[tuple[str, ...]]:
        """Return the table: name, what, microseconds, share of the sum, GFLOP/s, GB/s, share of the limit, sources."""
        total = sum(one.seconds for one in self.kernels) or 1.0
        return [
            (
                one.name,
                one.what,
                f"{one.seconds * 1e6:.1f}",
                f"{one.seconds / total:.0%}",
                f"{one.operations / one.seconds / 1e9:.1f}",
                f"{one.bytes / one.seconds / 1e9:.1f}",
                f"{one.share:.0%}",
                ", ".join(one.sources),
            )
            for one in self.kernels
        ]

    def __str__(self) -> str:
        heads = ("kernel", "what", "µs", "of sum", "GFLOP/s", "GB/s", "of limit", "from")
        rows = [heads, *self.rows()]
        widths = [max(len(row[column]) for row in rows) for column in range(len(heads) - 1)]
        lines = []
        for row in rows:
            cells = [row[0].ljust(widths[0]), row[1].ljust(widths[1])]
            cells += [cell.rjust(width) for cell, width in zip(row[2:-1], widths[2:], strict=True)]
            lines.append("  ".join([*cells, row[-1]]).rstrip())
        total = sum(one.seconds for one in self.kernels)
        threads = f"{self.threads} thread{'s' * (self.threads > 1)}"
        rest = max(self.seconds - total, 0.0)
        lines.append(
            f"one call: {self.seconds * 1e6:.1f} µs on {threads}, {total * 1e6:.1f} µs of it in kernels and "
            f"{rest * 1e6:.1f} µs starting and waiting for each other"
        )
        return "\n".join(lines)


def profile_program(executable: Executable, arrays: Sequence[NDArray[Any]], repeats: int = 50) -> Profile:
    """Time each kernel of a program where it runs in it, on copies of the program's inputs.

    Args:
        executable: the program.
        arrays: its inputs; they are copied and stay what they are.
        repeats: how often the program runs; the medians count.
    """
    given = [np.array(array, order="C") for array in arrays]
    outputs = executable.new_outputs()
    for output, overwritten in executable.overwrites.items():
        outputs[output] = given[overwritten]
    addresses = executable.new_addresses()
    for number, array in enumerate(given):
        addresses[number] = address_of(array)
    for number, array in enumerate(outputs, executable.output_start):
        addresses[number] = address_of(array)
    threads = get_num_threads()
    whole, of_steps = _times(executable.program, addresses, repeats)
    figures = [_figures(step, max(of_steps[step.name] / threads, 1e-9), threads) for step in executable.program.steps]
    return Profile(tuple(sorted(figures, key=lambda one: -one.seconds)), whole, threads)


def _times(program: Program, addresses: NDArray[np.uintp], repeats: int) -> tuple[float, dict[str, float]]:
    """Return the seconds that a program takes, and those of its steps, of all threads together."""
    module = render_program(program, host(), is_timed=True)
    address, code = load_modules(cached_object(module.text, compile_modules), "program")
    memory = Memory(address, module.arena.size, module.control_bytes)
    memory.whole.fill(0)
    memory.job.use(address_of(addresses))
    alone = board.alone()
    counters = memory.control[module.control_bytes - 8 * len(module.timed) :].view(np.int64)
    wholes, counts = [], []
    for _ in range(repeats + _WARM_UP):
        start = time.perf_counter()
        if module.parallel:
            run_program(memory.job, module.is_long)
        else:
            alone(memory.job.address)
        wholes.append(time.perf_counter() - start)
        counts.append(counters * 1e-9)
    del code
    of_steps = dict.fromkeys((step.name for step in program.steps), 0.0)
    for name, seconds in zip(module.timed, np.median(counts[_WARM_UP:], axis=0), strict=True):
        of_steps[name] += float(seconds)
    return statistics.median(wholes[_WARM_UP:]), of_steps


def _figures(step: Step, seconds: float, threads: int) -> KernelTime:
    operations, touched = count_operations(step), count_bytes(step)
    # Each thread moves its share, in its own caches where that fits.
    bandwidth = threads * copy_limit(touched // threads)
    least = max(operations / multiply_add_limit(threads), touched / bandwidth)
    return KernelTime(step.name, _describe(step), seconds, operations, touched, least / seconds, step.sources)


def _describe(step: Step) -> str:
    if isinstance(step, Loop):
        return f"{step.length} times: {', '.join(map(_describe, step.body.steps))}"
    if isinstance(step, Contraction):
        after = f" + {len(step.epilogue)} elementwise" if step.epilogue else ""
        return f"{_by(step.a.shape)} @ {_by(step.b.shape)}{after}"
    functions = [getattr(stage, "function", "") for stage in step.stages]
    reductions = ", ".join(dict.fromkeys(name.removeprefix("reduce_") for name in functions if name))
    stages = f"{len(step.stages)} stage{'s' * (len(step.stages) > 1)}"
    return f"{_by(step.shape)}, {stages}" + (f", {reductions}" if reductions else "")


def _by(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "1"


def count_operations(step: Step) -> int:
    """Return the arithmetic operations of a kernel; a multiply-add is two, an elementary function one."""
    if isinstance(step, Loop):
        return step.length * sum(map(count_operations, step.body.steps))
    if isinstance(step, Contraction):
        after = sum(_calls(store) for store in step.epilogue)
        products = math.prod(step.out.shape) * step.a.shape[-1] * step.a.share
        return int(2 * products) + math.prod(step.out.shape) * after
    total = 0
    grid = math.prod(step.shape[axis] for axis in step.grid)
    for stage in step.stages:
        points = grid if getattr(stage, "on_grid_only", False) else math.prod(step.shape)
        total += points * (_calls(stage) + hasattr(stage, "function"))
    return total


def _calls(stage: Any) -> int:
    return sum(_ARITHMETIC.get(value.function, 1) for value in walk(stage.value) if isinstance(value, Call))


def count_bytes(step: Step) -> int:
    """Return the size of the arrays that a kernel reads, and of those that it writes."""
    reads, writes = dict.fromkeys(step.reads()), dict.fromkeys(step.writes())
    inside = set(writes) if isinstance(step, Kernel) else set()
    loaded = [buffer for buffer in reads if buffer not in inside or _is_overwritten(step, buffer)]
    return sum(buffer.size * buffer.dtype.itemsize for buffer in [*loaded, *writes])


def _is_overwritten(step: Step, buffer: Buffer) -> bool:
    """Tell whether a buffer that a kernel writes had values before: it is read where it is written, or earlier."""
    if not isinstance(step, Kernel):
        return False
    for stage in step.stages:
        if any(getattr(value, "buffer", None) is buffer for value in walk(stage.value)):
            return True
        if stage.buffer is buffer:
            return False
    return False
