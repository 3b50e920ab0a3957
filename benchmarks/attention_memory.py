"""Memory of attention, forwards and backwards, as sequences grow: what is allocated eagerly, and a program's arena.

python benchmarks/attention_memory.py [--lengths 4096 16384] [--only plain causal] [--output FOLDER]

The column "a token" is what is taken for each position, in KiB: it stays as it is where memory grows with the length.
Beside it stands the matrix of weights, whose memory grows with the length's square; it is never there.
"""

from __future__ import annotations

import argparse
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import needle as ndl
from comparison import print_table

HEADS, FEATURES = 2, 64
COLUMNS = ("attention", "length", "eager peak, MiB", "a token, KiB", "arena, MiB", "a token, KiB", "weights, MiB")
# What each kind of attention is called with, by the length.
KINDS: dict[str, Callable[[int], dict[str, Any]]] = {
    "plain": lambda _: {},
    "causal": lambda _: {"causal": True},
    "padding mask": lambda length: {"mask": ndl.Tensor(np.arange(length) < 0.9 * length, requires_grad=False)},
    "learned bias": lambda length: {"mask": ndl.Tensor(np.zeros((HEADS, 1, length), "float32"))},
    "dropout": lambda _: {"causal": True, "dropout": 0.1},
}


def training_step(options: dict[str, Any]) -> Callable[..., tuple[ndl.Tensor, ...]]:
    """Return forward and backward."""

    def step(q: ndl.Tensor, k: ndl.Tensor, v: ndl.Tensor) -> tuple[ndl.Tensor, ...]:
        y = ndl.scaled_dot_product_attention(q, k, v, **options)
        (y * y).sum().backward()
        return q.grad, k.grad, v.grad

    return step


def measure(kind: str, length: int) -> dict[str, float]:
    """Return both peaks, in MiB."""
    draws = np.random.default_rng(0).standard_normal((3, 1, HEADS, length, FEATURES)).astype("float32")
    q, k, v = (ndl.Tensor(one) for one in draws)
    options = KINDS[kind](length)
    tracemalloc.start()
    training_step(options)(q, k, v)
    eager = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    arena = ndl.jit(training_step(options)).lower(q, k, v).program.executable.module.arena.size
    return {"eager": eager / 2**20, "arena": arena / 2**20}


def main() -> None:
    """Print a table with a line for each kind and length."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", nargs="+", type=int, default=[1024, 4096], metavar="T")
    parser.add_argument("--only", nargs="+", choices=KINDS, default=list(KINDS), metavar="KIND", help="; ".join(KINDS))
    parser.add_argument("--output", type=Path, help="folder for the table as Markdown and JSON")
    options = parser.parse_args()
    rows, records = [], {}
    for kind in options.only:
        for length in options.lengths:
            found = records[f"{kind}, {length}"] = measure(kind, length)
            peaks = [f"{number:.1f}" for mib in found.values() for number in (mib, mib * 1024 / length)]
            rows.append([kind, str(length), *peaks, f"{HEADS * length**2 * 4 / 2**20:.0f}"])
    print_table("attention_memory", COLUMNS, rows, records, options.output)


if __name__ == "__main__":
    main()
