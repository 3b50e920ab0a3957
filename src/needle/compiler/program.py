"""The whole program as one LLVM module: its kernels, and the function that runs them one after another.

    void program(ptr arrays, ptr arena, i64 thread, i64 threads)

`arrays` points to the addresses of inputs, constants and outputs. Every thread calls it; in each round they take chunks
of the work until none is left, and wait until all are done.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from needle.compiler.alike import Renderings
from needle.compiler.borders import render_bordered
from needle.compiler.contract import render_contraction
from needle.compiler.host import Host
from needle.compiler.ir import SSA, Function
from needle.compiler.loops import Buffer, Kernel
from needle.compiler.math import math_functions
from needle.compiler.memory import Arena, plan_memory
from needle.compiler.native import MODULE_BREAK
from needle.compiler.rebase import rebase
from needle.compiler.render import RenderedKernel, render_kernel
from needle.compiler.rounds import Share, Turn, in_moments, make_rounds, shares_of
from needle.compiler.row_blocks import in_row_blocks
from needle.compiler.schedule import Program, Step
from needle.compiler.sharing import share_functions
from needle.compiler.thread_count import available_processors
from needle.compiler.tile_products import render_tile_product

__all__ = ["Module", "render_program"]

# Chunks of one round: what threads of a large machine share, of several phases side by side.
_MOST_CHUNKS = 1008
# Modules are compiled side by side; each is to be worth the start of a process.
_MOST_MODULES, _MODULE_SIZE = 16, 60_000
# How often a waiting thread looks before it lets the operating system run another one.
_SPINS_BEFORE_YIELD = 1000


@dataclass(frozen=True, slots=True)
class Module:
    """LLVM's text, of several modules where it is long, the arena, and whether a second thread has anything to do.

    Behind the arena's buffers lie `control_bytes` that are 0 when the program starts.
    """

    text: str
    arena: Arena
    control_bytes: int
    parallel: bool


def render_program(program: Program, host: Host) -> Module:
    """Write a program as LLVM IR."""
    phases: list[RenderedKernel] = []
    render = Renderings(partial(_render_step, host=host))
    for step in program.steps:
        rebased, begins = rebase(step)
        phases.extend(replace(phase, begins=begins) for phase in render(rebased))
    phases = share_functions([phase for phase in phases if phase.parts > 0])
    outside = [
        *program.inputs,
        *(buffer for buffer, _ in program.constants),
        *(buffer for buffer, _ in program.outputs),
    ]
    rounds = make_rounds(phases)
    known = set(outside)
    own = [
        [buffer for turn in turns for buffer in turn.phase.buffers if buffer not in known]
        for round_turns in rounds
        for turns in in_moments(round_turns)
    ]
    arena = plan_memory(own)
    kernels = list({phase.function.name: phase.function for phase in phases}.values())
    main = _render_main(rounds, outside, arena)
    text = MODULE_BREAK.join(_modules(main, kernels, host))
    return Module(text, arena, len(rounds) * _ROUND_BYTES, not all(phase.is_alone for phase in phases))


def _render_step(step: Step, host: Host) -> list[RenderedKernel]:
    """Return the functions that compute a step, in order."""
    if isinstance(step, Kernel):
        return [render_bordered(kernel) or render_kernel(kernel) for kernel in in_row_blocks(step)]
    is_narrow = step.a.buffer.dtype != step.out.dtype
    return (render_tile_product if is_narrow else render_contraction)(step, host)


def _modules(main: Sequence[Function], kernels: Sequence[Function], host: Host) -> list[str]:
    """Return the texts of modules that can be compiled side by side: that of the rounds, and kernels."""
    share = _SHARE.format(spins=_SPINS_BEFORE_YIELD, pause=host.pause)
    size = sum(len(kernel.text()) for kernel in kernels)
    count = min(_MOST_MODULES, size // _MODULE_SIZE)
    if count < 2:
        return [_module([*kernels, *main], host, share)]
    groups: list[list[Function]] = [[] for _ in range(count)]
    sizes = [0] * count
    for kernel in sorted(kernels, key=lambda kernel: -len(kernel.text())):
        smallest = sizes.index(min(sizes))
        groups[smallest].append(kernel)
        sizes[smallest] += len(kernel.text())
        kernel.linkage = "hidden "
    declared = "\n".join(kernel.declaration() for kernel in kernels)
    return [_module(main, host, share, declared), *(_module(group, host) for group in groups)]


def _module(functions: Sequence[Function], host: Host, *others: str) -> str:
    """Return the text of functions and all that they need."""
    declarations = set().union(*(function.declarations for function in functions))
    attributes = f'attributes #0 = {{ {host.attributes} "target-features"="{host.features}" }}'
    return "\n\n".join([*others, *_declared(declarations), *(one.text() for one in functions), attributes])


def _render_main(rounds: Sequence[Sequence[Turn]], outside: Sequence[Buffer], arena: Arena) -> list[Function]:
    """Write a function for each round, that does one chunk of it, and the one that goes through the rounds."""
    main = Function("program", ["ptr %arrays", "ptr %arena", "i64 %thread", "i64 %threads"], "nounwind #0", linkage="")
    functions: list[Function] = []
    for number, turns in enumerate(rounds):
        shares = shares_of(turns, 2 * available_processors())
        functions.append(_render_round(f"round{number}", shares, outside, arena))
        chunks = sum(share.count for share in shares)
        control = main.address("%arena", "i8", main.integer(arena.size + number * _ROUND_BYTES))
        main.do(
            f"call void @share({control}, i64 {chunks}, i64 %thread, i64 %threads, "
            f"ptr @round{number}, ptr %arrays, ptr %arena)"
        )
    return [*functions, main]


def _render_round(name: str, shares: Sequence[Share], outside: Sequence[Buffer], arena: Arena) -> Function:
    """Write the function that does one chunk of a round."""
    f = Function(name, ["ptr %arrays", "ptr %arena", "i64 %chunk"], "nounwind #0")
    numbers = {buffer: number for number, buffer in enumerate(outside)}
    used = dict.fromkeys(buffer for share in shares for phase in share.phases for buffer in phase.buffers)
    pointers: dict[Buffer, SSA] = {}
    for buffer in used:
        if buffer in numbers:
            pointers[buffer] = f.load("ptr", f.address("%arrays", "ptr", f.integer(numbers[buffer])), 8)
        else:
            pointers[buffer] = f.address("%arena", "i8", f.integer(arena.offsets[buffer]))
    first = 0
    for share in shares:
        number = f.binary("sub", SSA("%chunk", "i64"), f.integer(first))
        # As a number without sign, that of a chunk before these is far above all.
        with f.when(f.compare("ult", number, f.integer(share.count))):
            for phase in share.phases:
                bounds = (_bound(f, number, phase.parts, share.count, more) for more in (0, 1))
                arguments = ", ".join(str(_begin(f, pointers[one], one, phase)) for one in phase.buffers)
                f.do(f"call void @{phase.function.name}({arguments}, {', '.join(map(str, bounds))})")
        first += share.count
    return f


def _bound(f: Function, number: SSA, parts: int, count: int, more: int) -> SSA:
    """Return where the parts of a chunk, and `more` chunks, begin: spread evenly."""
    if count == 1:
        return f.integer(parts * more)
    scaled = f.binary("mul", f.binary("add", number, f.integer(more)), f.integer(parts))
    return f.binary("udiv", scaled, f.integer(count))


def _begin(f: Function, pointer: SSA, buffer: Buffer, phase: RenderedKernel) -> SSA:
    """Return the pointer into a buffer that a phase is given."""
    begin = phase.begins.get(buffer, 0) * buffer.dtype.itemsize
    return f.address(pointer.name, "i8", f.integer(begin)) if begin else pointer


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


# What a round needs while it runs: how many chunks are done, and from 64 bytes on whether each has been taken.
_ROUND_BYTES = 64 + 4 * _MOST_CHUNKS

# A thread takes the chunks that nobody has taken, starting from those that are its own by number, and then waits until
# all are done. So no thread ever waits for one that has nothing in hand, such as one that the system has put to sleep.
_SHARE = """declare i32 @sched_yield()

define internal void @share(ptr %round, i64 %chunks, i64 %thread, i64 %threads,
                            ptr %work, ptr %arrays, ptr %arena) nounwind noinline {{
entry:
  %alone = icmp eq i64 %threads, 1
  br i1 %alone, label %one, label %begin
one:
  %n = phi i64 [ 0, %entry ], [ %n1, %one ]
  call void %work(ptr %arrays, ptr %arena, i64 %n)
  %n1 = add i64 %n, 1
  %left = icmp ult i64 %n1, %chunks
  br i1 %left, label %one, label %over
begin:
  %all = trunc i64 %chunks to i32
  %already = load atomic i32, ptr %round acquire, align 4
  %finished = icmp eq i32 %already, %all
  br i1 %finished, label %over, label %mine
mine:
  %flags = getelementptr i8, ptr %round, i64 64
  %scaled = mul i64 %thread, %chunks
  %start = udiv i64 %scaled, %threads
  %single = icmp eq i64 %chunks, 1
  %other = icmp ne i64 %thread, 0
  %leave = and i1 %single, %other
  br i1 %leave, label %wait, label %try
try:
  %i = phi i64 [ 0, %mine ], [ %i1, %next ]
  %sum = add i64 %start, %i
  %over_end = icmp uge i64 %sum, %chunks
  %wrapped = sub i64 %sum, %chunks
  %chunk = select i1 %over_end, i64 %wrapped, i64 %sum
  %flag = getelementptr i32, ptr %flags, i64 %chunk
  %seen = load atomic i32, ptr %flag monotonic, align 4
  %free = icmp eq i32 %seen, 0
  br i1 %free, label %take, label %next
take:
  %before = atomicrmw xchg ptr %flag, i32 1 acq_rel, align 4
  %got = icmp eq i32 %before, 0
  br i1 %got, label %do, label %next
do:
  call void %work(ptr %arrays, ptr %arena, i64 %chunk)
  %count = atomicrmw add ptr %round, i32 1 release, align 4
  br label %next
next:
  %i1 = add i64 %i, 1
  %more = icmp ult i64 %i1, %chunks
  br i1 %more, label %try, label %wait
wait:
  %spins = phi i64 [ 0, %mine ], [ 0, %next ], [ %spins1, %look ], [ 0, %give ]
  %done = load atomic i32, ptr %round acquire, align 4
  %complete = icmp eq i32 %done, %all
  br i1 %complete, label %over, label %look
look:
  {pause}
  %spins1 = add i64 %spins, 1
  %long = icmp ugt i64 %spins1, {spins}
  br i1 %long, label %give, label %wait
give:
  %ignored = call i32 @sched_yield()
  br label %wait
over:
  ret void
}}"""

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
