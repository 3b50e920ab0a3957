"""Writing LLVM IR as text: types, instructions, loops.

`Function` collects the lines of one function. Values are names with a type, such as `%v3` of `float`; constants are
written into the instruction. Loops are emitted with the induction variable that LLVM's optimiser knows best.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from needle.dtype import bfloat16

__all__ = ["SSA", "Function", "constant", "llvm_type", "memory_type"]

# A bfloat16 is kept as its bits: few processors compute with it, and where one does not, LLVM calls functions that are
# not there.
_TYPES = {"float16": "half", "float32": "float", "float64": "double", "bfloat16": "i16", "bool": "i1"}


def llvm_type(dtype: np.dtype[Any]) -> str:
    """Return the LLVM type that values of a dtype have in registers."""
    return _TYPES.get(str(dtype)) or f"i{dtype.itemsize * 8}"


def memory_type(dtype: np.dtype[Any]) -> str:
    """Return the LLVM type that values of a dtype have in memory: a boolean is a byte there."""
    return "i8" if dtype.kind == "b" else llvm_type(dtype)


def constant(value: Any, dtype: np.dtype[Any]) -> str:
    """Return a number as LLVM writes it: floating-point ones by their bits, so that none is rounded."""
    if dtype.kind == "b":
        return "true" if value else "false"
    if dtype.kind in "iu":
        return str(int(value))
    if dtype in (np.dtype(np.float16), bfloat16):
        bits = np.asarray(value, dtype).view(np.uint16).item()
        return f"0xH{bits:04X}" if dtype == np.float16 else str(bits)
    (bits,) = struct.unpack("<Q", struct.pack("<d", float(np.asarray(value, dtype))))
    return f"0x{bits:016X}"


@dataclass(frozen=True, slots=True)
class SSA:
    """A value in a register: its name (or a constant) and its LLVM type."""

    name: str
    type: str

    def __str__(self) -> str:
        return f"{self.type} {self.name}"


@dataclass
class Function:
    """One function in the making."""

    name: str
    parameters: list[str]
    attributes: str = ""
    linkage: str = "internal "
    lines: list[str] = field(default_factory=list)
    entry: list[str] = field(default_factory=list)
    declarations: set[str] = field(default_factory=set)
    count: int = 0
    block: str = "start"
    calls_kernels: bool = False

    def emit(self, type_: str, instruction: str) -> SSA:
        """Add an instruction that gives a value."""
        name = self.fresh("v")
        self.lines.append(f"  {name} = {instruction}")
        return SSA(name, type_)

    def do(self, instruction: str) -> None:
        """Add an instruction that gives none."""
        self.lines.append(f"  {instruction}")

    def fresh(self, prefix: str) -> str:
        """Return a name that is not used yet."""
        self.count += 1
        return f"%{prefix}{self.count}"

    def binary(self, operation: str, a: SSA, b: SSA) -> SSA:
        """Add `operation a, b`."""
        return self.emit(a.type, f"{operation} {a}, {b.name}")

    def intrinsic(self, name: str, *arguments: SSA, result: str = "") -> SSA:
        """Call one of LLVM's own functions, such as llvm.fabs."""
        type_ = result or arguments[0].type
        overloaded = f"llvm.{name}.{mangled(arguments[0].type)}"
        types = ", ".join(argument.type for argument in arguments)
        self.declarations.add(f"declare {type_} @{overloaded}({types})")
        return self.emit(type_, f"call {type_} @{overloaded}({', '.join(map(str, arguments))})")

    def select(self, condition: SSA, a: SSA, b: SSA) -> SSA:
        """Choose `a` where the condition holds."""
        return self.emit(a.type, f"select {condition}, {a}, {b}")

    def compare(self, predicate: str, a: SSA, b: SSA) -> SSA:
        """Compare with a predicate of fcmp (on floats) or icmp."""
        lanes, _, element = a.type.rpartition(" x ")
        kind = "icmp" if element.startswith("i") else "fcmp"
        return self.emit(f"{lanes} x i1>" if lanes else "i1", f"{kind} {predicate} {a}, {b.name}")

    def slot(self, type_: str, count: int = 1) -> SSA:
        """Reserve memory on the stack, once a call."""
        name = self.fresh("s")
        array = type_ if count == 1 else f"[{count} x {type_}]"
        self.entry.append(f"  {name} = alloca {array}, align 64")
        return SSA(name, "ptr")

    def address(self, pointer: str, type_: str, index: SSA) -> SSA:
        """Return the address of an element."""
        return self.emit("ptr", f"getelementptr inbounds {type_}, ptr {pointer}, {index}")

    def load(self, type_: str, address: SSA, align: int) -> SSA:
        """Load from memory."""
        return self.emit(type_, f"load {type_}, {address}, align {align}")

    def store(self, value: SSA, address: SSA, align: int) -> None:
        """Store to memory."""
        self.do(f"store {value}, {address}, align {align}")

    def label(self, name: str) -> None:
        """Start a block."""
        self.lines.append(f"{name.removeprefix('%')}:")
        self.block = name.removeprefix("%")

    def integer(self, number: int) -> SSA:
        """Return a 64-bit constant."""
        return SSA(str(number), "i64")

    @contextmanager
    def loop(self, begin: SSA, end: SSA, step: int = 1) -> Iterator[SSA]:
        """Run what is emitted inside for begin, begin + step, … below end; nothing where begin ≥ end."""
        head, body, done = self.fresh("head"), self.fresh("body"), self.fresh("done")
        before = self.block
        variable, following = self.fresh("i"), self.fresh("i")
        self.do(f"br label {head}")
        self.label(head)
        self.lines.append("")
        phi_line = len(self.lines) - 1
        go_on = self.emit("i1", f"icmp slt i64 {variable}, {end.name}")
        self.do(f"br {go_on}, label {body}, label {done}")
        self.label(body)
        yield SSA(variable, "i64")
        self.lines.append(f"  {following} = add nsw i64 {variable}, {step}")
        last = self.block
        self.lines[phi_line] = f"  {variable} = phi i64 [ {begin.name}, %{before} ], [ {following}, %{last} ]"
        self.do(f"br label {head}")
        self.label(done)

    @contextmanager
    def when(self, condition: SSA) -> Iterator[None]:
        """Run what is emitted inside only where the condition holds."""
        then, done = self.fresh("then"), self.fresh("done")
        self.do(f"br {condition}, label {then}, label {done}")
        self.label(then)
        yield
        self.do(f"br label {done}")
        self.label(done)

    def declaration(self) -> str:
        """Return the line by which another module knows the function, which returns nothing."""
        types = ", ".join(parameter.split()[0] for parameter in self.parameters)
        return f"declare {self.linkage}void @{self.name}({types})"

    def text(self, result: str = "void", returned: Callable[[], str] | None = None) -> str:
        """Return the whole function."""
        head = f"define {self.linkage}{result} @{self.name}({', '.join(self.parameters)}) {self.attributes} {{"
        last = "  ret void" if returned is None else returned()
        return "\n".join([head, "entry:", *self.entry, "  br label %start", "start:", *self.lines, last, "}"])


def mangled(type_: str) -> str:
    """Return a type as LLVM writes it in the names of its own functions."""
    if type_.startswith("<"):
        count, element = type_.strip("<>").split(" x ")
        return f"v{count}{mangled(element)}"
    return {"float": "f32", "double": "f64", "half": "f16"}.get(type_, type_)
