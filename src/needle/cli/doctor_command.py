"""`needle doctor`."""

from __future__ import annotations

import os
import platform
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from importlib import metadata
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

import needle
from needle.cli.parser import add_command
from needle.cli.show import new_console
from needle.compiler.cache import cache_folder
from needle.compiler.host import host
from needle.compiler.limits import copy_limit, multiply_add_limit
from needle.compiler.thread_count import available_processors
from needle.train.machine import memory_bytes, package_version, processor_name, system_name

__all__ = ["add_to", "run"]

_DISTRIBUTION = "needle-dl"
# Large enough to lie in memory and in no cache.
_LARGE = 1 << 28
# What each extra is for, where its name does not say so.
_PURPOSES = {"plot": "curves and picture grids", "image": "picture files in `needle predict`", "onnx": "ONNX files"}
_DEVELOPMENT = ("test", "lint", "docs", "dev")
Row = tuple[str, str]


def add_to(commands: Any) -> None:
    """Add the command, with its options."""
    parser = add_command(
        commands,
        "doctor",
        run,
        help="say what is installed, what the machine can do, and what is missing",
        description="Print versions, devices, vector width, threads, measured limits, and which extras are missing.\n"
        "Ends with status 1 where something is broken.",
        epilog="examples:\n  needle doctor\n  needle doctor --quick",
    )
    parser.add_argument("--quick", action="store_true", help="measure nothing")


def run(arguments: Any) -> int:
    """Print what is installed, what the machine can do, and what is missing; return 1 where something is broken."""
    console = new_console()
    faults: list[str] = []
    _print(console, "versions", _versions())
    _print(console, "machine", [*_machine(), *_settings()])
    _print(console, "checks", _checks(faults))
    if not arguments.quick:
        _print(console, "measured, float32", _limits())
    _print(console, "extras", _extras())
    console.print(f"{len(faults)} fault{'s' * (len(faults) > 1)}" if faults else "nothing is broken")
    return 1 if faults else 0


def _print(console: Console, title: str, rows: Iterable[Row]) -> None:
    rows = list(rows)
    if not console.is_terminal:  # whole lines, however long
        width = max((len(name) for name, _ in rows), default=0)
        lines = [title, *(f"{name:{width}}  {value}" for name, value in rows), ""]
        console.print(Text("\n".join(lines)))
        return
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, Text(value))  # text, in which brackets are no markup
    console.print(Text(title, style="underline"))
    console.print(table)
    console.print()


# ---------------------------------------------------------------------------------------------- what is there


def _versions() -> Iterator[Row]:
    yield "needle", needle.__version__
    yield "Python", f"{platform.python_version()} ({platform.python_implementation()})"
    for package in ("numpy", "llvmlite", "ml_dtypes", "safetensors", "rich"):
        yield package, package_version(package) or "missing"


def _machine() -> Iterator[Row]:
    processor, memory = host(), memory_bytes()
    yield "system", system_name()
    yield "processor", f"{processor_name()}, {available_processors()} of {os.cpu_count()} cores"
    yield "memory", "unknown" if memory is None else f"{memory / 2**30:.1f} GiB"
    lanes = processor.vector_bytes // 4
    yield "vectors", f"{processor.vector_bytes * 8} bits ({lanes} float32), {processor.vector_registers} registers"
    narrow = {"matrix registers": processor.has_tiles, "dot products": processor.has_dots}
    yield "bfloat16", ", ".join(name for name, is_there in narrow.items() if is_there) or "no instructions"
    yield "threads", f"{needle.get_num_threads()} (ndl.set_num_threads sets them)"
    yield "devices", ", ".join(device.name for device in needle.all_devices() if device.enabled())
    yield "default device", needle.default_device().name


def _settings() -> Iterator[Row]:
    """Yield those environment variables that are set: they change what this process does."""
    for name, value in sorted(os.environ.items()):
        if name.startswith("NEEDLE_"):
            yield name, value


# ---------------------------------------------------------------------------------------------------- checks


def _checks(faults: list[str]) -> Iterator[Row]:
    for name, check in {"compiler": _compile, "cache of programs": _cache, "gradients": _differentiate}.items():
        yield name, _outcome(name, check, faults)


def _outcome(name: str, check: Callable[[], str], faults: list[str]) -> str:
    try:
        return check()
    except Exception as error:  # a doctor looks at whatever is wrong
        faults.append(name)
        return f"FAULT: {type(error).__name__}: {error}"


def _compile() -> str:
    x = needle.Tensor(np.arange(8, dtype="float32"), requires_grad=False)
    start = time.perf_counter()
    found = needle.jit(lambda x: (x * 2 + 1).sum())(x).item()
    seconds = time.perf_counter() - start
    if found != 64:
        raise ArithmeticError(f"a compiled sum is 64, got {found}")
    return f"works; a small function takes {seconds:.2f} s the first time"


def _cache() -> str:
    folder = cache_folder()
    if folder is None:
        return "off: NEEDLE_CACHE=0"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder):
        pass
    files = [path.stat().st_size for path in folder.iterdir() if path.is_file()]
    return f"{folder}: {len(files)} files, {sum(files) / 1e6:.1f} MB"


def _differentiate() -> str:
    x = needle.Tensor([0.5, -2.0])
    (x * x * x).sum().backward()
    if not np.allclose(x.grad.numpy(), 3 * x.numpy() ** 2):
        raise ArithmeticError("the gradient of x³ is not 3x²")
    return "work"


def _limits() -> Iterator[Row]:
    threads = needle.get_num_threads()
    for count in dict.fromkeys((1, threads)):
        plural = "s" * (count > 1)
        yield f"multiply-adds, {count} thread{plural}", f"{multiply_add_limit(count) / 1e9:.0f} GFLOP/s"
    yield "copying in the first cache", f"{copy_limit(host().first_cache_bytes) / 1e9:.0f} GB/s a thread"
    yield "copying in memory", f"{copy_limit(_LARGE) / 1e9:.0f} GB/s a thread"


# ---------------------------------------------------------------------------------------------------- extras


def _extras() -> Iterator[Row]:
    """Yield each extra: the versions of its packages, or the command that installs what is missing."""
    try:
        required = metadata.requires(_DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        yield _DISTRIBUTION, "runs from its sources and is not installed, so that its extras are not known"
        return
    by_extra: dict[str, list[str]] = {}
    for requirement in required:
        extra = re.search(r"extra\s*==\s*['\"]([\w-]+)['\"]", requirement)
        package = re.match(r"[\w.-]+", requirement)
        if extra and package and package[0] != _DISTRIBUTION:
            by_extra.setdefault(extra[1], []).append(package[0])
    for name, packages in by_extra.items():
        if name not in _DEVELOPMENT:
            yield name, _extra(name, packages)


def _extra(name: str, packages: list[str]) -> str:
    found = {package: package_version(package) for package in packages}
    missing = [package for package, version in found.items() if version is None]
    purpose = _PURPOSES.get(name, "")
    if missing:
        return f"{purpose}: missing {', '.join(missing)}: run pip install '{_DISTRIBUTION}[{name}]'"
    return f"{purpose}: " + ", ".join(f"{package} {version}" for package, version in found.items())
