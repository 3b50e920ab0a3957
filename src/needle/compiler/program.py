"""The whole program as one LLVM module: its kernels, and the function that runs them one after another.

    void program(ptr arrays, ptr arena, i64 thread, i64 threads, ptr meeting)

`arrays` points to the addresses of inputs, constants and outputs. Every thread calls it; each does its share of every
kernel, and between kernels they wait for each other at a barrier.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from needle.compiler.contract import render_contraction
from needle.compiler.host import Host
from needle.compiler.ir import SSA, Function
from needle.compiler.loops import Buffer, Kernel
from needle.compiler.math import math_functions
from needle.compiler.memory import Arena, plan_memory
from needle.compiler.render import RenderedKernel, render_kernel
from needle.compiler.rounds import Turn, make_rounds
from needle.compiler.schedule import Program
from needle.compiler.sharing import share_functions

__all__ = ["Module", "render_program"]

# How often a waiting thread looks before it lets the operating system run another one.
_SPINS_BEFORE_YIELD = 2000


@dataclass(frozen=True, slots=True)
class Module:
    """LLVM's text, how large the arena is, and whether more than one thread has anything to do."""

    text: str
    arena: Arena
    parallel: bool


def render_program(program: Program, host: Host) -> Module:
    """Write a program as LLVM IR."""
    phases: list[RenderedKernel] = []
    for step in program.steps:
        if isinstance(step, Kernel):
            phases.append(render_kernel(step))
        else:
            phases.extend(render_contraction(step, host))
    phases = share_functions([phase for phase in phases if phase.parts > 0])
    outside = [
        *program.inputs,
        *(buffer for buffer, _ in program.constants),
        *(buffer for buffer, _ in program.outputs),
    ]
    rounds = make_rounds(phases)
    known = set(outside)
    own = [[buffer for turn in turns for buffer in turn.phase.buffers if buffer not in known] for turns in rounds]
    arena = plan_memory(own)
    main = _render_main(rounds, outside, arena)
    functions = [*{phase.function.name: phase.function for phase in phases}.values()]
    declarations = set().union(main.declarations, *(function.declarations for function in functions))
    text = "\n\n".join(
        [
            _BARRIER.format(spins=_SPINS_BEFORE_YIELD, pause=host.pause),
            *_declared(declarations),
            *(function.text() for function in functions),
            main.text(),
            f'attributes #0 = {{ {host.attributes} "target-features"="{host.features}" }}',
        ]
    )
    return Module(text, arena, not all(phase.is_alone for phase in phases))


def _render_main(rounds: Sequence[Sequence[Turn]], outside: Sequence[Buffer], arena: Arena) -> Function:
    parameters = ["ptr %arrays", "ptr %arena", "i64 %thread", "i64 %threads", "ptr %meeting"]
    main = Function("program", parameters, "nounwind #0", linkage="")
    pointers: dict[Buffer, SSA] = {}
    for number, buffer in enumerate(outside):
        slot = main.address("%arrays", "ptr", main.integer(number))
        pointers[buffer] = main.load("ptr", slot, 8)
    for buffer, offset in arena.offsets.items():
        pointers[buffer] = main.address("%arena", "i8", main.integer(offset))
    for number, turns in enumerate(rounds):
        if number:
            main.do("call void @barrier(ptr %meeting, i64 %threads)")
        for turn in turns:
            _render_turn(main, turn, ", ".join(str(pointers[buffer]) for buffer in turn.phase.buffers))
    return main


def _render_turn(main: Function, turn: Turn, arguments: str) -> None:
    """Call a phase: its owner for all of it, or each thread for its share."""
    phase = turn.phase
    if turn.owner is None:
        begin, end = (_share(main, phase.parts, one) for one in ("%thread", _next_thread(main)))
        main.do(f"call void @{phase.function.name}({arguments}, {begin}, {end})")
        return
    owner = main.emit("i64", f"urem i64 {turn.owner}, %threads")
    with main.when(main.compare("eq", SSA("%thread", "i64"), owner)):
        main.do(f"call void @{phase.function.name}({arguments}, i64 0, i64 {phase.parts})")


def _next_thread(main: Function) -> str:
    return main.emit("i64", "add i64 %thread, 1").name


def _share(main: Function, parts: int, thread: str) -> SSA:
    """Return where a thread's share of `parts` begins: parts · thread / threads."""
    product = main.emit("i64", f"mul i64 {thread}, {parts}")
    return main.emit("i64", f"udiv {product}, %threads")


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


_BARRIER = """declare i32 @sched_yield()

define internal void @barrier(ptr %meeting, i64 %threads) nounwind {{
entry:
  %generation = getelementptr i8, ptr %meeting, i64 64
  %alone = icmp eq i64 %threads, 1
  br i1 %alone, label %done, label %arrive
arrive:
  %now = load atomic i64, ptr %generation acquire, align 8
  %arrived = atomicrmw add ptr %meeting, i64 1 acq_rel, align 8
  %count = add i64 %arrived, 1
  %last = icmp eq i64 %count, %threads
  br i1 %last, label %open, label %wait
open:
  store atomic i64 0, ptr %meeting monotonic, align 8
  %next = add i64 %now, 1
  store atomic i64 %next, ptr %generation release, align 8
  br label %done
wait:
  %spins = phi i64 [ 0, %arrive ], [ %more, %again ], [ 0, %give ]
  %seen = load atomic i64, ptr %generation acquire, align 8
  %opened = icmp ne i64 %seen, %now
  br i1 %opened, label %done, label %look
look:
  {pause}
  %more = add i64 %spins, 1
  %long = icmp ugt i64 %more, {spins}
  br i1 %long, label %give, label %again
again:
  br label %wait
give:
  %ignored = call i32 @sched_yield()
  br label %wait
done:
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
