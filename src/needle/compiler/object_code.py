"""Machine code of LLVM's text, in this process or, where there is much of it, in several at once.

LLVM keeps one processor busy, and its Python binding lets one thread in at a time. So this file is a program too: run
with a processor's name and features, it compiles what comes in through its standard input, until that ends. It imports
nothing but the binding, to be there quickly.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import Any, BinaryIO

import llvmlite.binding as llvm

__all__ = ["compile_side_by_side", "compile_text", "target_machine"]

# Less text than this is compiled before another process would have started.
_WORTH_A_PROCESS = 150_000

_prepared = False


def target_machine(cpu: str, features: str) -> Any:
    """Return what LLVM needs to know of a processor."""
    global _prepared  # noqa: PLW0603  once a process
    if not _prepared:
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        _prepared = True
    return llvm.Target.from_default_triple().create_target_machine(cpu=cpu, features=features, opt=2, jit=True)


def compile_text(text: str, cpu: str, features: str) -> bytes:
    """Compile LLVM IR to an object file."""
    machine = target_machine(cpu, features)
    module = llvm.parse_assembly(text)
    module.verify()
    # Level 3 takes a third longer, and its programs were measured to be no faster.
    options = llvm.create_pipeline_tuning_options(speed_level=2)
    options.loop_vectorization = True
    options.slp_vectorization = False
    builder = llvm.create_pass_builder(machine, options)
    builder.getModulePassManager().run(module, builder)
    return bytes(machine.emit_object(module))


def compile_side_by_side(texts: Sequence[str], cpu: str, features: str, processors: int) -> list[bytes]:
    """Compile several texts, the longest first, in this process and in others beside it."""
    left = sorted(range(len(texts)), key=lambda number: len(texts[number]))
    found: dict[int, bytes] = {}
    others = min(processors - 1, sum(map(len, texts)) // _WORTH_A_PROCESS, len(texts) - 1)

    def serve() -> None:
        """Let another process compile; what it cannot, this one does."""
        try:
            _let_compile(texts, left, found, [cpu, features])
        except OSError:  # it could not be started, or has died
            return

    threads = [threading.Thread(target=serve, daemon=True) for _ in range(others)]
    for thread in threads:
        thread.start()
    while left:
        number = left.pop()
        found[number] = compile_text(texts[number], cpu, features)
    for thread in threads:
        thread.join()
    return [found[n] if n in found else compile_text(text, cpu, features) for n, text in enumerate(texts)]


def _let_compile(texts: Sequence[str], left: list[int], found: dict[int, bytes], arguments: list[str]) -> None:
    """Have another process compile texts, as long as any are left."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    # -P: this file's folder holds modules with the names of Python's own.
    command = [sys.executable, "-P", __file__, *arguments]
    with subprocess.Popen(  # noqa: S603  this very file
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        while left:
            try:
                number = left.pop()
            except IndexError:  # another thread was faster
                break
            _write(process.stdin, texts[number].encode())
            code = _read(process.stdout)
            if code is None:
                raise OSError("the compiling process has ended")
            found[number] = code


def _write(stream: BinaryIO | Any, data: bytes) -> None:
    stream.write(len(data).to_bytes(8, "little") + data)
    stream.flush()


def _read(stream: BinaryIO | Any) -> bytes | None:
    """Return what was written on the other side; None at the end."""
    head = stream.read(8)
    if len(head) < 8:
        return None
    length = int.from_bytes(head, "little")
    data: bytes = stream.read(length)
    return data if len(data) == length else None


def _compile_what_comes(cpu: str, features: str) -> None:
    while (text := _read(sys.stdin.buffer)) is not None:
        _write(sys.stdout.buffer, compile_text(text.decode(), cpu, features))


if __name__ == "__main__":
    _compile_what_comes(*sys.argv[1:])
