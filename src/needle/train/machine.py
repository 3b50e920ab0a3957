"""Facts about the machine and the installed packages: what `needle doctor` prints and a run's record keeps."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

from needle.compiler.host import host

__all__ = ["memory_bytes", "package_version", "processor_name", "system_name"]


def package_version(package: str) -> str | None:
    """Return the version of an installed package, None where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def system_name() -> str:
    """Return the operating system, its release and the kind of machine, as in `Linux 6.1, x86_64`."""
    return f"{platform.system()} {platform.release()}, {platform.machine()}"


def processor_name() -> str:
    """Return what the maker calls the processor, and in brackets what the compiler takes it for."""
    kind = host().cpu
    named = _linux_processor() or platform.processor()
    return f"{named} ({kind})" if named and named != kind else kind


def _linux_processor() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return None
    found = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(found, None)


def memory_bytes() -> int | None:
    """Return the machine's memory, None where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return None
