"""The processor that programs are compiled for: its vectors, its registers, and LLVM's description of it."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import llvmlite.binding as llvm

from needle.errors import SettingError

__all__ = ["Host", "host"]


# Levels of x86-64 that a program can be compiled for instead of this processor: bytes of a vector, vector registers,
# and features by which to know a processor that has the level. (System V ABI, AMD64 supplement, table 3.1.)
_LEVELS = {
    "x86-64-v3": (32, 16, ("avx2", "bmi2", "f16c", "fma")),
    "x86-64-v4": (64, 32, ("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")),
}


@dataclass(frozen=True, slots=True)
class Host:
    """What code generation needs to know of a processor."""

    cpu: str
    features: str
    vector_bytes: int
    vector_registers: int
    is_x86: bool
    first_cache_bytes: int
    second_cache_bytes: int
    has_tiles: bool = False  # registers of whole matrices of bfloat16, which this process may use
    has_dots: bool = False  # instructions that add products of pairs of bfloat16 to vectors of float32

    @property
    def pause(self) -> str:
        """What a waiting thread does between two looks, in LLVM IR: little, and for some hundred cycles.

        Under a hypervisor a loop of nothing but `pause` is taken for one that waits for a thread which is not running,
        and interrupted; multiplications that wait for each other in between keep it from being noticed.
        """
        if not self.is_x86:
            return 'call void asm sideeffect "yield", ""()'
        waiting = "; ".join(["imul %rax, %rax"] * 80)
        return f'call void asm sideeffect "pause; {waiting}", "~{{rax}},~{{flags}}"()'

    @property
    def attributes(self) -> str:
        """The attributes that LLVM gives a function for this processor."""
        return f'"prefer-vector-width"="{self.vector_bytes * 8}" "target-cpu"="{self.cpu}"'


@cache
def host() -> Host:
    """Return the processor to compile for: this process's, or the level of x86-64 that NEEDLE_CPU names.

    Raises:
        SettingError: NEEDLE_CPU names no level that this processor has.
    """
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    llvm.initialize_native_asmparser()
    is_x86 = llvm.get_process_triple().startswith(("x86_64", "i686", "amd64"))
    features = llvm.get_host_cpu_features()
    caches = _cache_bytes(1) or 32 << 10, _cache_bytes(2) or 512 << 10
    chosen = os.environ.get("NEEDLE_CPU")
    if chosen:
        return _of_level(chosen, [name for name in features if features[name]] if is_x86 else [], caches)
    if features.get("avx512f"):
        vector_bytes, registers = 64, 32
    elif features.get("avx"):
        vector_bytes, registers = 32, 16
    else:
        vector_bytes, registers = 16, 16 if is_x86 else 32
    flags = features.flatten()
    # LLVM uses half the vector width of some processors unless told otherwise.
    flags = f"{flags},-prefer-256-bit" if is_x86 else flags
    narrow = _has_tiles(features), vector_bytes == 64 and bool(features.get("avx512bf16"))
    return Host(llvm.get_host_cpu_name(), flags, vector_bytes, registers, is_x86, *caches, *narrow)


def _of_level(level: str, features: Collection[str], caches: tuple[int, int]) -> Host:
    there = [name for name, (_, _, needed) in _LEVELS.items() if set(needed) <= set(features)]
    if level not in there:
        raise SettingError(
            f"NEEDLE_CPU is a level of x86-64 that this processor has ({' or '.join(there) or 'none'}), or not set; "
            f"got {level!r}"
        )
    vector_bytes, registers, _ = _LEVELS[level]
    return Host(level, "-prefer-256-bit", vector_bytes, registers, True, *caches)


def _has_tiles(features: Mapping[str, bool]) -> bool:
    """Tell whether there are tile registers for bfloat16, and Linux lets this process use them, which must be asked."""
    if not features.get("amx-bf16") or not sys.platform.startswith("linux"):
        return False
    arch_prctl, request_permission, tile_data = 158, 0x1023, 18
    return ctypes.CDLL(None).syscall(arch_prctl, request_permission, tile_data) == 0


def _cache_bytes(level: int) -> int:
    """Return the size of one core's data cache as Linux tells it; 0 where nobody does."""
    for folder in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        try:
            found, kind, size = ((folder / name).read_text().strip() for name in ("level", "type", "size"))
        except OSError:
            continue
        if found == str(level) and kind != "Instruction" and size.endswith("K"):
            return int(size[:-1]) << 10
    return 0
