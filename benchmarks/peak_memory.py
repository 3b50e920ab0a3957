"""The most memory that a training step takes: Needle, compiled, and PyTorch, eager, each in a process of its own.

    python benchmarks/peak_memory.py [--only ResNet9 "GPT, small"] [--output FOLDER]

Counted is the resident set's peak above what the process holds once libraries are loaded, and the model and its data
made. "step" is the peak of a few steps, state such as Adam's moments included, in a process that found its program on
disk; "first" the peak in the process before that, which compiled it. PyTorch, which compiles nothing, runs in one
process, on as many threads as Needle. Needs Linux, whose /proc tells the peak.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import needle as ndl
from comparison import print_table
from networks import NETWORKS, Step, needle_step, torch_step

COLUMNS = ("network", "Needle, step, MiB", "PyTorch, step, MiB", "ratio", "Needle, first, MiB")
STEPS = 5
MIB = 1024


def resident(field: str) -> int:
    """Return the kibibytes of VmRSS, what is resident now, or VmHWM, its peak."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak(framework: str, network: str) -> float:
    """Return the peak in this process, in MiB."""
    step = make_step(framework, network)
    before = resident("VmRSS")
    forget_peak()
    for _ in range(STEPS):
        step()
    return (resident("VmHWM") - before) / MIB


def make_step(framework: str, network: str) -> Step:
    if framework == "Needle":
        import needle.compiler.executable  # noqa: F401  LLVM is a library like others

        return needle_step(NETWORKS[network])
    return torch_step(NETWORKS[network], False, ndl.get_num_threads())


def in_new_process(framework: str, network: str, cache: str) -> float | None:
    """Return the peak in a fresh process that keeps programs in `cache`; None where the framework is not installed."""
    command = [sys.executable, __file__, "--inside", framework, network]
    environment = {**os.environ, "NEEDLE_CACHE_DIR": cache}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = done.stderr.strip().rpartition("\n")[2]
        print(f"{framework} is left out for {network}: {reason}")
        return None
    return float(done.stdout)


def measure(network: str) -> dict[str, float | None]:
    with tempfile.TemporaryDirectory() as cache:
        first, step = (in_new_process("Needle", network, cache) for _ in range(2))
        return {"needle_first": first, "needle": step, "pytorch": in_new_process("PyTorch", network, cache)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = list(NETWORKS)
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NETWORK", help="; ".join(names))
    parser.add_argument("--output", type=Path, help="folder for the table as Markdown and JSON")
    parser.add_argument("--inside", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        print(peak(*options.inside))
        return
    records = {network: measure(network) for network in options.only}
    rows = []
    for network, found in records.items():
        first, own, peer = ("-" if one is None else f"{one:.1f}" for one in found.values())
        ratio = f"{found['needle'] / found['pytorch']:.2f}" if found["needle"] and found["pytorch"] else "-"
        rows.append([network, own, peer, ratio, first])
    print_table("peak_memory", COLUMNS, rows, records, options.output)


if __name__ == "__main__":
    main()
