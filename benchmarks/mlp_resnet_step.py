"""One training step of the MLPResNet, eager, against PyTorch's eager in the same run.

    python benchmarks/mlp_resnet_step.py [--rounds 40] [--steps 10] [--output FOLDER]

784 inputs, width 100, 3 blocks, batch 100, Adam with L2 decay, dropout 0.1, batch normalisation, float32. Rounds of the
two alternate; PyTorch runs on one thread and on two, and the better one counts. With --output the table is also
written as Markdown and JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import needle as ndl
from needle import nn, optim
from needle.models import MLPResNet

BATCH = 100


def needle_step(images: np.ndarray, labels: np.ndarray) -> Callable[[], None]:
    model = MLPResNet(784, hidden_dim=100, num_blocks=3, num_classes=10, drop_prob=0.1)
    loss_fn = nn.SoftmaxLoss()
    optimizer = optim.Adam(model.parameters(), lr=0.001, weight_decay=0.001)
    x, y = ndl.Tensor(images, requires_grad=False), ndl.Tensor(labels, requires_grad=False)

    def step() -> None:
        optimizer.reset_grad()
        loss_fn(model(x), y).backward()
        optimizer.step()

    return step


def torch_step(images: np.ndarray, labels: np.ndarray) -> Callable[[], None]:
    import torch
    from torch import nn as tnn

    class Residual(tnn.Module):
        def __init__(self, fn: tnn.Module) -> None:
            super().__init__()
            self.fn = fn

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(self.fn(x) + x)

    def block() -> tnn.Module:
        inner = [tnn.Linear(100, 50), tnn.BatchNorm1d(50), tnn.ReLU(), tnn.Dropout(0.1)]
        return Residual(tnn.Sequential(*inner, tnn.Linear(50, 100), tnn.BatchNorm1d(100)))

    model = tnn.Sequential(tnn.Linear(784, 100), tnn.ReLU(), block(), block(), block(), tnn.Linear(100, 10))
    loss_fn = tnn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001, weight_decay=0.001)
    x, y = torch.from_numpy(images), torch.from_numpy(labels)

    def step() -> None:
        optimizer.zero_grad()
        loss_fn(model(x), y).backward()
        optimizer.step()

    return step


def contestants(images: np.ndarray, labels: np.ndarray) -> dict[str, Callable[[], None]]:
    found = {"Needle, eager": needle_step(images, labels)}
    try:
        import torch
    except ImportError:
        print("PyTorch is not installed: no peer to compare with")
        return found
    step = torch_step(images, labels)
    for threads in (1, 2):

        def on_threads(threads: int = threads) -> None:
            torch.set_num_threads(threads)
            step()

        found[f"PyTorch {torch.__version__}, eager, {threads} thread{'s' * (threads > 1)}"] = on_threads
    return found


def measure(steps: dict[str, Callable[[], None]], rounds: int, count: int) -> dict[str, list[float]]:
    """Return each one's seconds a step in every round; the rounds alternate."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds + 3):
        for name, step in steps.items():
            start = time.perf_counter()
            for _ in range(count):
                step()
            if number >= 3:  # the first rounds warm up
                seconds[name].append((time.perf_counter() - start) / count)
    return seconds


def table(seconds: dict[str, list[float]]) -> list[tuple[str, float, float]]:
    """Return name, median milliseconds, and the median ratio to the best peer, round by round."""
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    peers = [name for name in medians if not name.startswith("Needle")]
    best = min(peers, key=lambda name: medians[name], default=next(iter(medians)))
    return [
        (name, medians[name] * 1e3, statistics.median(a / b for a, b in zip(times, seconds[best], strict=True)))
        for name, times in seconds.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--steps", type=int, default=10, help="steps a round")
    parser.add_argument("--output", type=Path, help="folder for table.md and table.json")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    images = rng.random((BATCH, 784), dtype=np.float32)
    labels = rng.integers(0, 10, BATCH)
    rows = table(measure(contestants(images, labels), options.rounds, options.steps))
    lines = ["| | ms a step | ratio |", "| --- | --- | --- |"]
    lines += [f"| {name} | {milliseconds:.2f} | {ratio:.2f} |" for name, milliseconds, ratio in rows]
    print("\n".join(lines))
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        (options.output / "table.md").write_text("\n".join(lines) + "\n")
        keys = ("name", "milliseconds", "ratio")
        (options.output / "table.json").write_text(json.dumps([dict(zip(keys, row, strict=True)) for row in rows]))


if __name__ == "__main__":
    main()
