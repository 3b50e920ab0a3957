"""The whole program as one LLVM module: its kernels, and the function that runs them one after another.

    void program(ptr arrays, ptr arena, i64 thread, i64 threads)

`arrays` points to the addresses of inputs, constants and outputs. Every thread calls it; in each round they take chunks
of the work until none is left, and wait until all are done.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import itemgetter

from needle.compiler.alike import Renderings
from needle.compiler.bands import render_in_bands
from needle.compiler.borders import render_bordered
from needle.compiler.draws import GENERATOR, render_draws
from needle.compiler.host import Host
from needle.compiler.ir import Function
from needle.compiler.lanes import LaneStep, in_lanes
from needle.compiler.loop_code import RenderedLoop, render_loop
from needle.compiler.loops import Buffer, Kernel
from needle.compiler.math import math_functions
from needle.compiler.memory import Arena, plan_rounds
from needle.compiler.native import MODULE_BREAK
from needle.compiler.postpone import postpone
from needle.compiler.products import render_product
from needle.compiler.rebase import rebase
from needle.compiler.render import render_kernel
from needle.compiler.rendered import Bands, RenderedKernel
from needle.compiler.round_code import RoundCode, render_rounds
from needle.compiler.rounds import make_rounds
from needle.compiler.row_blocks import in_row_blocks
from needle.compiler.row_sums import rows_then_sums, sums_behind_rows
from needle.compiler.sharing import share_functions, share_packed
from needle.compiler.stencil_code import render_stencil
from needle.compiler.steps import Contraction, Loop, Program, Step
from needle.compiler.thread_count import available_processors

__all__ = ["Module", "render_program"]

# A program that has less to share, in points × operations, is done before a second thread has taken part in it; with
# less than the second number (some 100 µs), before one has woken up that sleeps.
_WORTH_A_THREAD, _WORTH_WAKING = 500_000, 5_000_000
# Modules are compiled side by side; each is to be worth the start of a process.
_MOST_MODULES, _MODULE_SIZE = 16, 60_000


@dataclass(frozen=True, slots=True)
class Module:
    """LLVM's text, of several modules where it is long, the arena, and whether a second thread has anything to do.

    A program `is_long` if it is worth waking another thread for.

    Behind the arena's buffers lie `control_bytes` that are 0 when the program starts. The last of them hold the times
    of the `timed` steps, in nanoseconds of all threads together; a step of several phases is there several times.
    """

    text: str
    arena: Arena
    control_bytes: int
    parallel: bool
    is_long: bool
    timed: tuple[str, ...] = ()


def render_program(program: Program, host: Host, is_timed: bool = False, drawn: Sequence[int] = ()) -> Module:
    """Write a program as LLVM IR; one that counts the time that its steps take where `is_timed`.

    The inputs of the numbers `drawn` it fills itself, in this order (see `draws`).
    """
    steps = in_lanes(program, available_processors())
    rendered, loops, inside = _render_steps(steps, host)
    phases = share_functions([phase for phase in rendered if phase.parts > 0])
    of_steps = {buffer for one in steps for buffer in (*one.step.reads(), *one.step.writes())}
    phases = [*render_draws([program.inputs[number] for number in drawn]), *share_packed(phases, of_steps)]
    outside = [
        *program.inputs,
        *(buffer for buffer, _ in program.constants),
        *(buffer for buffer, _ in program.outputs),
        *[GENERATOR][: len(drawn)],
    ]
    known = set(outside)
    rounds = postpone(make_rounds(phases), known)
    arena = plan_rounds(rounds, known)
    called = [*inside, *(function for loop in loops for function in loop.functions)]
    kernels = list({one.name: one for one in (*(phase.function for phase in phases), *called)}.values())
    code = render_rounds(rounds, outside, arena, host, is_timed)
    # Those that call kernels are where all kernels are known.
    callers = [one for one in kernels if one.calls_kernels]
    code.functions[:0] = callers
    text = MODULE_BREAK.join(_modules(code, [one for one in kernels if one not in callers], host))
    has_lanes = any(phase.lane is not None for phase in phases)
    shared = sum(phase.work or math.inf for phase in phases if not phase.is_alone)
    parallel, is_long = (has_lanes or shared >= least for least in (_WORTH_A_THREAD, _WORTH_WAKING))
    return Module(text, arena, code.control_bytes, parallel, is_long, code.timed)


def _render_steps(
    steps: Sequence[LaneStep], host: Host
) -> tuple[list[RenderedKernel], list[RenderedLoop], list[Function]]:
    """Return the functions that compute steps, in order, the loops among them, and the kernels that they call."""
    phases: list[RenderedKernel] = []
    of_lanes = {buffer for one in steps if one.lane is not None for buffer in one.step.writes()}
    right_operands = Counter(one.step.b for one in steps if isinstance(one.step, Contraction))
    renderings: dict[tuple[bool, Bands | None, int | None], Renderings] = {}
    bands_of: dict[Buffer, tuple[int, Bands]] = {}  # of what is written in bands, and when
    loops: list[RenderedLoop] = []
    behind = sums_behind_rows(steps, host)
    finishing: dict[int, list[RenderedKernel]] = {}  # what is left of sums that were begun behind rows
    inside: list[Function] = []

    def renderings_of(packs_once: bool, bands: Bands | None = None, blocks: int | None = None) -> Renderings:
        render = partial(
            _render_step, host=host, is_alone=len(steps) == 1, packs_once=packs_once, bands=bands, blocks=blocks
        )
        return renderings.setdefault((packs_once, bands, blocks), Renderings(render))

    for number, one in enumerate(steps):
        if isinstance(one.step, Loop):
            loops.append(render_loop(one.step, available_processors(), lambda own, once: renderings_of(once)(own)))
            phases += loops[-1].phases
            continue
        if number in finishing:
            phases += finishing[number]
            continue
        number_of_sums, blocks = behind.get(number, (number, 0))
        sums = steps[number_of_sums]
        if blocks and bands_of.keys().isdisjoint([*one.step.reads(), *sums.step.reads()]):
            (rows,), (first, *rest) = renderings_of(False)(one.step), renderings_of(False, None, blocks)(sums.step)
            phases.append(replace(rows_then_sums(rows, first), step=one.name))
            finishing[number_of_sums] = [replace(phase, step=sums.name) for phase in rest]
            inside += [rows.function, first.function]
            continue
        rebased, begins = rebase(one.step)
        packs_once = isinstance(one.step, Contraction) and right_operands[one.step.b] > 1
        found = [bands_of[buffer] for buffer in one.step.reads() if buffer in bands_of]
        bands = max(found, key=itemgetter(0))[1] if found and isinstance(one.step, Kernel) else None
        for phase in renderings_of(packs_once, bands)(rebased):
            # What only prepares the weights is done for all lanes.
            lane = None if of_lanes.isdisjoint(phase.buffers) else one.lane
            phases.append(replace(phase, begins=begins, lane=lane, step=one.name))
            if phase.bands is not None and lane is None:
                bands_of.update(
                    dict.fromkeys(phases[-1].in_bands.intersection(phase.writes), (len(phases), phase.bands))
                )
    return phases, loops, inside


def _render_step(  # noqa: PLR0917  what is known of a step
    step: Step, host: Host, is_alone: bool, packs_once: bool, bands: Bands | None, blocks: int | None
) -> list[RenderedKernel]:
    """Return the functions that compute a step, in order.

    It is the program's only one where it `is_alone`. Other products have its right operand where `packs_once`. What it
    reads was written in `bands`, if any. Its rows fall into so many `blocks` where that is given.
    """
    if isinstance(step, Kernel):
        in_bands = render_in_bands(step, bands, host) if bands is not None else None
        if in_bands is not None:
            return [in_bands]
        return [_render_kernel(kernel, host) for kernel in in_row_blocks(step, blocks)]
    assert isinstance(step, Contraction)
    return render_product(step, host, packs_once, is_alone)


def _render_kernel(kernel: Kernel, host: Host) -> RenderedKernel:
    return render_bordered(kernel) or render_stencil(kernel, host) or render_kernel(kernel)


def _modules(rounds: RoundCode, kernels: Sequence[Function], host: Host) -> list[str]:
    """Return the texts of modules that can be compiled side by side: that of the rounds, and kernels."""
    size = sum(len(kernel.text()) for kernel in kernels)
    count = min(_MOST_MODULES, size // _MODULE_SIZE)
    if count < 2:
        return [_module([*kernels, *rounds.functions], host, rounds.text)]
    groups: list[list[Function]] = [[] for _ in range(count)]
    sizes = [0] * count
    for kernel in sorted(kernels, key=lambda kernel: -len(kernel.text())):
        smallest = sizes.index(min(sizes))
        groups[smallest].append(kernel)
        sizes[smallest] += len(kernel.text())
        kernel.linkage = "hidden "
    declared = "\n".join(kernel.declaration() for kernel in kernels)
    return [_module(rounds.functions, host, rounds.text, declared), *(_module(group, host) for group in groups)]


def _module(functions: Sequence[Function], host: Host, *others: str) -> str:
    """Return the text of functions and all that they need."""
    declarations = set().union(*(function.declarations for function in functions))
    attributes = f'attributes #0 = {{ {host.attributes} "target-features"="{host.features}" }}'
    return "\n\n".join([*others, *_declared(declarations), *(one.text() for one in functions), attributes])


def _declared(declarations: Iterable[str]) -> list[str]:
    """Turn what functions said they need into declarations and definitions, in a fixed order."""
    ordered = sorted(declarations)
    needed = [tuple(one.split()[1:]) for one in ordered if one.startswith("needs ")]
    powers = [_INTEGER_POWER.format(type=type_) for name, type_ in needed if name == "ipow"]
    elementary = [(name, type_) for name, type_ in needed if name != "ipow"]
    text = math_functions(elementary) if elementary else ""
    known = {line for line in text.splitlines() if line.startswith("declare ")}
    plain = [one for one in ordered if one.startswith("declare ") and one not in known]
    return [*plain, *powers, text]


_INTEGER_POWER = """define internal {type} @needle.ipow.{type}({type} %base, {type} %exponent) nounwind {{
entry:
  br label %loop
loop:
  %result = phi {type} [ 1, %entry ], [ %kept, %step ]
  %square = phi {type} [ %base, %entry ], [ %squared, %step ]
  %left = phi {type} [ %exponent, %entry ], [ %halved, %step ]
  %go = icmp sgt {type} %left, 0
  br i1 %go, label %step, label %done
step:
  %bit = and {type} %left, 1
  %odd = icmp ne {type} %bit, 0
  %times = mul {type} %result, %square
  %kept = select i1 %odd, {type} %times, {type} %result
  %squared = mul {type} %square, %square
  %halved = lshr {type} %left, 1
  br label %loop
done:
  ret {type} %result
}}"""
