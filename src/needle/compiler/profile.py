"""Where the time of a compiled program goes: each kernel timed by itself, beside what the machine can do at most."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from needle.compiler.executable import Executable, Memory, address_of
from needle.compiler.host import host
from needle.compiler.limits import copy_limit, multiply_add_limit
from needle.compiler.loops import Buffer, Call, Kernel, walk
from needle.compiler.native import compile_modules, load_modules
from needle.compiler.program import render_program
from needle.compiler.runtime import run_program
from needle.compiler.schedule import Contraction, Program, Step
from needle.compiler.thread_count import get_num_threads

__all__ = ["KernelTime", "Profile", "count_bytes", "count_operations", "profile_program"]


@dataclass(frozen=True, slots=True)
class KernelTime:
    """One kernel's figures.

    Fields: `name`; `what`, its shape and operations; `seconds`; `operations`, floating-point ones; `bytes`, of the
    arrays that it reads and writes; `share` of the machine's limit, the time that it would take there over the time
    that it took; `sources`, the lines of the user's program.
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
        lines.append(
            f"one call: {self.seconds * 1e6:.1f} µs on {threads}; the kernels one by one: {total * 1e6:.1f} µs"
        )
        return "\n".join(lines)


def profile_program(executable: Executable, arrays: Sequence[NDArray[Any]], repeats: int = 50) -> Profile:
    """Time each kernel of a program on copies of its inputs.

    Args:
        executable: the program.
        arrays: its inputs; they are copied and stay what they are.
        repeats: how often each kernel runs; the median counts.
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
    whole = _median(lambda: executable.run(addresses), repeats)
    threads = get_num_threads()
    nothing = _time_of(replace(executable.program, steps=()), addresses, repeats)
    kernels = []
    for step in executable.program.steps:
        seconds = max(_time_of(replace(executable.program, steps=(step,)), addresses, repeats) - nothing, 1e-8)
        kernels.append(_figures(step, seconds, threads))
    return Profile(tuple(sorted(kernels, key=lambda one: -one.seconds)), whole, threads)


def _median(run: Callable[[], None], repeats: int) -> float:
    times = []
    for _ in range(repeats + 3):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times[3:])


def _time_of(program: Program, addresses: NDArray[np.uintp], repeats: int) -> float:
    """Return the seconds that a part of a program takes by itself, in memory of its own."""
    module = render_program(program, host())
    address, code = load_modules(compile_modules(module.text), "program")
    memory, arrays = Memory(module.arena.size, module.control_bytes), address_of(addresses)
    memory.whole.fill(0)

    def run() -> None:
        memory.control.fill(0)
        run_program(address, arrays, memory.address, module.parallel)

    seconds = _median(run, repeats)
    del code
    return seconds


def _figures(step: Step, seconds: float, threads: int) -> KernelTime:
    operations, touched = count_operations(step), count_bytes(step)
    # Each thread moves its share, in its own caches where that fits.
    bandwidth = threads * copy_limit(touched // threads)
    least = max(operations / multiply_add_limit(threads), touched / bandwidth)
    return KernelTime(step.name, _describe(step), seconds, operations, touched, least / seconds, step.sources)


def _describe(step: Step) -> str:
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
    if isinstance(step, Contraction):
        after = sum(_calls(store) for store in step.epilogue)
        return math.prod(step.out.shape) * (2 * step.a.shape[-1] + after)
    total = 0
    grid = math.prod(step.shape[axis] for axis in step.grid)
    for stage in step.stages:
        points = grid if getattr(stage, "on_grid_only", False) else math.prod(step.shape)
        total += points * (_calls(stage) + hasattr(stage, "function"))
    return total


def _calls(stage: Any) -> int:
    return sum(isinstance(value, Call) for value in walk(stage.value))


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
