"""The most memory that a training step takes: Needle, compiled, and PyTorch, eager, each in a process of its own.

    python benchmarks/peak_memory.py [--only ResNet9 "GPT, small"] [--output FOLDER]

Counted is the resident set's peak above what the process holds once libraries are loaded, and the model and its data
made. "step" is the peak of a few steps once the program is compiled and state such as Adam's moments is there;
"compiling" the peak of the first step, which compiles (programs kept on disk are not used), and has only to be made
once. PyTorch runs on as many threads as Needle. Needs Linux, whose /proc tells the peak.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import needle as ndl
from comparison import print_table
from networks import NETWORKS, Step, needle_step, torch_step

COLUMNS = (
    "network",
    "Needle, step, MiB",
    "PyTorch, step, MiB",
    "ratio",
    "Needle, compiling, MiB",
    "PyTorch, first, MiB",
)
STEPS = 5
MIB = 1024


def resident(field: str) -> int:
    """Return the kibibytes of VmRSS, what is resident now, or VmHWM, its peak."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peaks(framework: str, network: str) -> dict[str, float]:
    """Return the peaks in this process, in MiB."""
    step = make_step(framework, network)
    before = resident("VmRSS")
    forget_peak()
    step()
    first = resident("VmHWM") - before
    step()
    forget_peak()
    for _ in range(STEPS):
        step()
    return {"first": first / MIB, "step": (resident("VmHWM") - before) / MIB}


def make_step(framework: str, network: str) -> Step:
    if framework == "Needle":
        return needle_step(NETWORKS[network])
    return torch_step(NETWORKS[network], False, ndl.get_num_threads())


def in_new_process(framework: str, network: str) -> dict[str, float] | None:
    """Return the peaks in a fresh process; None where the framework is not installed."""
    command = [sys.executable, __file__, "--inside", framework, network]
    environment = {**os.environ, "NEEDLE_CACHE": "0"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = done.stderr.strip().rpartition("\n")[2]
        print(f"{framework} is left out for {network}: {reason}")
        return None
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = list(NETWORKS)
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NETWORK", help="; ".join(names))
    parser.add_argument("--output", type=Path, help="folder for the table as Markdown and JSON")
    parser.add_argument("--inside", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        print(json.dumps(peaks(*options.inside)))
        return
    records, rows = [], []
    for network in options.only:
        own, peer = (in_new_process(framework, network) for framework in ("Needle", "PyTorch"))
        records.append({"network": network, "needle": own, "pytorch": peer})
        ratio = f"{own['step'] / peer['step']:.2f}" if own and peer else "-"
        steps, firsts = ([f"{one[key]:.1f}" if one else "-" for one in (own, peer)] for key in ("step", "first"))
        rows.append([network, *steps, ratio, *firsts])
    print_table("peak_memory", COLUMNS, rows, records, options.output)


if __name__ == "__main__":
    main()
