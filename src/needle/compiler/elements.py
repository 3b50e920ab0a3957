"""The elements of matrix products' operands: in what units they lie in memory, and how they get into registers.

float16 and bfloat16 are converted to float32 when they are loaded. For instructions that take pairs of bfloat16, a pair
is one element of 32 bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from needle.compiler.ir import SSA, Function, llvm_type
from needle.dtype import bfloat16

__all__ = ["PAIR", "Element", "join_pairs", "load_pair"]

# Two numbers of bfloat16 that stand beside each other in a sum, the first one in the lower half.
PAIR = np.dtype(np.uint32)


@dataclass(frozen=True, slots=True)
class Element:
    """How an operand's elements are loaded.

    Attributes:
        memory: the dtype that places in memory count in.
        loaded: the dtype that is loaded from there.
        result: the dtype that it is converted to.
    """

    memory: np.dtype[Any]
    loaded: np.dtype[Any]
    result: np.dtype[Any]

    @property
    def unit(self) -> str:
        """The LLVM type that addresses count in."""
        return llvm_type(self.memory)

    @property
    def align(self) -> int:
        """What addresses are a multiple of."""
        return self.memory.itemsize

    def vector(self, lanes: int) -> str:
        """Return the LLVM type of a vector as it is loaded."""
        return f"<{lanes} x {llvm_type(self.loaded)}>"

    def moved(self, f: Function, address: SSA, elements: int) -> SSA:
        """Return an address so many elements further on."""
        return f.address(address.name, self.unit, f.integer(elements))

    def load(self, f: Function, address: SSA) -> SSA:
        """Load one element."""
        return self.converted(f, f.load(llvm_type(self.loaded), address, self.align))

    def converted(self, f: Function, value: SSA) -> SSA:
        """Convert an element, or a vector of them."""
        if self.loaded == self.result:
            return value
        if self.result == PAIR:
            return join_pairs(f, value, None)
        assert self.result == np.float32
        if self.loaded == bfloat16:  # the upper half of a float32
            bits = shifted(f, f.emit(_like(value, "i32"), f"zext {value} to {_like(value, 'i32')}"))
            return f.emit(_like(value, "float"), f"bitcast {bits} to {_like(value, 'float')}")
        return f.emit(_like(value, "float"), f"fpext {value} to {_like(value, 'float')}")


def join_pairs(f: Function, even: SSA, odd: SSA | None) -> SSA:
    """Return the pairs of two numbers of 16 bits, or of two vectors of them; zeros where there is no second one."""
    wide = _like(even, "i32")
    lower = f.emit(wide, f"zext {even} to {wide}")
    if odd is None:
        return lower
    return f.binary("or", lower, shifted(f, f.emit(wide, f"zext {odd} to {wide}")))


def load_pair(f: Function, address: SSA, stride: int) -> SSA:
    """Return the pair of a number and the one that lies `stride` further on."""
    even, odd = (f.load("i16", f.address(address.name, "i16", f.integer(at)), 2) for at in (0, stride))
    return join_pairs(f, even, odd)


def shifted(f: Function, value: SSA) -> SSA:
    """Move numbers of 32 bits into their upper half."""
    count = _count(value)
    sixteen = "16" if count is None else f"<{', '.join(['i32 16'] * count)}>"
    return f.binary("shl", value, SSA(sixteen, value.type))


def _like(value: SSA, scalar: str) -> str:
    """Return the type of as many elements as a value has."""
    count = _count(value)
    return scalar if count is None else f"<{count} x {scalar}>"


def _count(value: SSA) -> int | None:
    return int(value.type.strip("<").split(" x ")[0]) if value.type.startswith("<") else None
