"""Machine code in this process: compiling LLVM's text, and loading what comes of it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import llvmlite.binding as llvm

from needle.compiler.host import host
from needle.compiler.object_code import compile_side_by_side, compile_text, target_machine
from needle.compiler.thread_count import available_processors

__all__ = [
    "MODULE_BREAK",
    "compile_modules",
    "compile_object",
    "load_modules",
    "load_object",
]

_lock = threading.RLock()

# Stands between modules' texts.
MODULE_BREAK = "\n; ---- module ----\n"


def compile_object(text: str) -> bytes:
    """Compile LLVM IR to an object file for this processor, in memory."""
    with _lock:
        return compile_text(text, host().cpu, host().features)


def compile_modules(text: str) -> bytes:
    """Compile modules of LLVM IR with `MODULE_BREAK` between them; what comes out is for `load_modules`."""
    texts = text.split(MODULE_BREAK)
    with _lock:
        codes = compile_side_by_side(texts, host().cpu, host().features, available_processors())
    return b"".join(len(code).to_bytes(8, "little") + code for code in codes)


def load_object(code: bytes, symbol: str) -> tuple[int, Any]:
    """Load an object file and return the address of one of its functions, and what keeps the code alive."""
    return _load([code], symbol)


def load_modules(codes: bytes, symbol: str) -> tuple[int, Any]:
    """Load what `compile_modules` made, whose functions call each other; otherwise like `load_object`."""
    found = []
    while codes:
        length = int.from_bytes(codes[:8], "little")
        found.append(codes[8 : 8 + length])
        codes = codes[8 + length :]
    return _load(found, symbol)


def _load(codes: Sequence[bytes], symbol: str) -> tuple[int, Any]:
    with _lock:
        machine = target_machine(host().cpu, host().features)
        engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
        for code in codes:
            engine.add_object_file(llvm.ObjectFileRef.from_data(code))
        engine.finalize_object()
        return int(engine.get_function_address(symbol)), engine
