"""What a program is made of: kernels, which are loops, and contractions, which are matrix products."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from needle.compiler.loops import Buffer, Kernel, Store, buffers_read
from needle.compiler.operand import Operand

__all__ = ["Contraction", "Program", "Step"]


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


Step: TypeAlias = Kernel | Contraction


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
