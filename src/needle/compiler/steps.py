"""What a program is made of: kernels, contractions, which are matrix products, and loops, which repeat a program."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from needle.compiler.loops import Buffer, Kernel, Store, buffers_read
from needle.compiler.operand import Operand

__all__ = ["Contraction", "Loop", "Program", "Step"]


@dataclass(frozen=True, slots=True)
class Contraction:
    """out = a @ b over the last two axes; the batch axes before them are equal.

    The shape of `out` may divide the batch axes and rows in another way, as what follows does. `epilogue` is computed
    from the sums where they lie, over the axes of `out`, which it loads at its own place only. Where nothing else reads
    them, `keeps_out` is false, and they need not be written.
    """

    name: str
    a: Operand
    b: Operand
    out: Buffer
    sources: tuple[str, ...] = ()
    epilogue: tuple[Store, ...] = ()
    keeps_out: bool = True

    def reads(self) -> list[Buffer]:
        """Return the buffers of the operands, and those that the epilogue loads."""
        loaded = (buffer for store in self.epilogue for buffer in buffers_read(store) if buffer is not self.out)
        return list(dict.fromkeys([self.a.buffer, self.b.buffer, *loaded]))

    def writes(self) -> list[Buffer]:
        """Return the buffers of the results."""
        return [self.out] * self.keeps_out + [store.buffer for store in self.epilogue]

    def show(self) -> str:
        """Print the contraction in a line."""
        source = f"  # {', '.join(self.sources)}" if self.sources else ""
        lines = [f"contraction {self.name}{source}", f"  {self.out.name}{list(self.out.shape)} = {self.a} @ {self.b}"]
        return "\n".join([*lines, *(f"    {store}" for store in self.epilogue)])


@dataclass(frozen=True, slots=True, eq=False)
class Loop:
    """A program that is repeated: it carries some values on, goes along sequences, and gives values at each step.

    `body` takes what is carried, the elements of `sequences` at the step, and `captured`. `places` says which of its
    outputs are carried on, then which are given: one may be both. `starts` is what the first step gets, `finals` where
    the last one leaves what is carried (None where nobody asks, or where it is given too), `given` where each step's
    output lies at the place of its elements. `every` says for each sequence how many steps get the same element; after
    the last one the first comes again. Where it is `counted`, the first of `captured` says how many steps are made.
    """

    name: str
    length: int
    backwards: bool
    body: Program
    places: tuple[int, ...]
    starts: tuple[Buffer, ...]
    sequences: tuple[Buffer, ...]
    captured: tuple[Buffer, ...]
    finals: tuple[Buffer | None, ...]
    given: tuple[Buffer, ...]
    every: tuple[int, ...]
    counted: bool = False
    sources: tuple[str, ...] = ()

    def reads(self) -> list[Buffer]:
        """Return the buffers that the steps begin with, go along, or read."""
        return list(dict.fromkeys((*self.starts, *self.sequences, *self.captured)))

    def writes(self) -> list[Buffer]:
        """Return the buffers of the results."""
        return [*(one for one in self.finals if one is not None), *self.given]

    def show(self) -> str:
        """Print the loop with its body."""
        source = f"  # {', '.join(self.sources)}" if self.sources else ""
        times = f"{self.length - 1} … 0" if self.backwards else f"0 … {self.length - 1}"
        carried, along = len(self.starts), len(self.starts) + len(self.sequences)
        inside = [one.name for one in self.body.inputs]
        outside = [one.name for one in (*self.starts, *self.sequences, *self.captured)]
        outputs = [self.body.outputs[place][0].name for place in self.places]
        finals = ["_" if one is None else one.name for one in self.finals]
        made = f", {self.captured[0].name} of them" if self.counted else ""
        lines = [f"loop {self.name}{source}", f"  for t = {times}{made}:"]
        lines += [f"    {a} = {b}, then {c}" for a, b, c in zip(inside, outside, outputs, strict=False)][:carried]
        found = zip(inside[carried:along], self.sequences, self.every, strict=True)
        lines += [f"    {a} = {b.name}[{'t' if every == 1 else f't // {every}'}]" for a, b, every in found]
        lines += [f"    {a} = {b}" for a, b in zip(inside[along:], outside[along:], strict=True)]
        lines += ["    " + line for step in self.body.steps for line in step.show().splitlines()]
        lines += [f"    {b.name}[t] = {a}" for a, b in zip(outputs[carried:], self.given, strict=True)]
        return "\n".join([*lines, *(f"  {b} = {a}" for a, b in zip(outputs, finals, strict=False) if b != "_")])


Step: TypeAlias = Kernel | Contraction | Loop


@dataclass(frozen=True, slots=True)
class Program:
    """Steps in the order in which they run, and the buffers that come from and go to the caller.

    `outputs` pairs each graph output's buffer with its shape, since a reshape of a buffer is the buffer itself.
    """

    inputs: tuple[Buffer, ...]
    constants: tuple[tuple[Buffer, np.ndarray], ...]
    outputs: tuple[tuple[Buffer, tuple[int, ...]], ...]
    steps: tuple[Step, ...]

    def show(self) -> str:
        """Print all steps."""
        returned = ", ".join(f"{buffer.name}{list(shape)}" for buffer, shape in self.outputs)
        return "\n".join([*(step.show() for step in self.steps), f"return {returned}"])
