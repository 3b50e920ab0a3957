"""Memory of a training step with and without checkpointing: what is allocated eagerly, and a program's arena.

python benchmarks/checkpoint_memory.py
"""

from __future__ import annotations

import argparse
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np

import needle as ndl
from needle import nn

LAYERS, LAYERS_A_PART, WIDTH, BATCH = 32, 4, 128, 1024


def parts() -> list[nn.Module]:
    """Return a deep network in parts."""
    np.random.seed(0)
    return [
        nn.Sequential(*(one for _ in range(LAYERS_A_PART) for one in (nn.Linear(WIDTH, WIDTH), nn.Tanh())))
        for _ in range(LAYERS // LAYERS_A_PART)
    ]


def training_step(wrap: Callable[[Any], Any]) -> Callable[[ndl.Tensor], ndl.Tensor]:
    """Return forward and backward of the network, each part wrapped."""
    layers = [wrap(part) for part in parts()]

    def step(x: ndl.Tensor) -> ndl.Tensor:
        for layer in layers:
            x = layer(x)
        loss = (x * x).mean()
        loss.backward()
        return loss

    return step


def main() -> None:
    """Print a table with a line for each way."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    x = ndl.Tensor(np.random.default_rng(0).standard_normal((BATCH, WIDTH)).astype("float32"), requires_grad=False)
    ways = {"everything kept": lambda part: part, f"checkpoints every {LAYERS_A_PART} layers": ndl.checkpoint}
    print(f"| {LAYERS} layers of {WIDTH}, batch {BATCH} | eager peak, MiB | compiled arena, MiB |")
    print("| --- | ---: | ---: |")
    for name, wrap in ways.items():
        tracemalloc.start()
        training_step(wrap)(x)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        arena = ndl.jit(training_step(wrap)).lower(x).program.executable.module.arena.size
        print(f"| {name} | {peak / 2**20:.1f} | {arena / 2**20:.1f} |")


if __name__ == "__main__":
    main()
