"""One training step of the MLPResNet: Needle, eager and compiled, against PyTorch and JAX in the same run.

    python benchmarks/mlp_resnet_step.py [--hidden 100 --batch 100] [--rounds 12] [--output FOLDER]

784 inputs, 3 blocks, 10 classes, Adam with L2 decay, dropout 0.1, batch normalisation, float32; with --large width 500
and batch 250. Rounds of all contestants alternate, and medians are shown. PyTorch runs eagerly and with torch.compile
over model and optimizer, each on one thread and on two; JAX runs as jax.jit of the whole step and chooses its threads
itself. A peer that is not installed is left out. With --output the table is also written as Markdown and JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

import needle as ndl
from comparison import median_seconds
from needle import nn, optim
from needle.models import MLPResNet

LEARNING_RATE, DECAY, DROPOUT = 0.001, 0.001, 0.1
BATCHES = 64
Step = Callable[[], None]


def needle_step(images: np.ndarray, labels: np.ndarray, hidden: int, compiled: bool) -> Step:
    np.random.seed(0)
    model = MLPResNet(784, hidden_dim=hidden, num_blocks=3, num_classes=10, drop_prob=DROPOUT)
    loss_fn = nn.SoftmaxLoss()
    optimizer = optim.Adam(model.parameters(), lr=LEARNING_RATE, weight_decay=DECAY)
    batches = cycle(
        (ndl.Tensor(x, requires_grad=False), ndl.Tensor(y, requires_grad=False))
        for x, y in zip(images, labels, strict=True)
    )

    def step(x: ndl.Tensor, y: ndl.Tensor) -> ndl.Tensor:
        optimizer.reset_grad()
        loss = loss_fn(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    run = ndl.jit(step) if compiled else step

    def once() -> None:
        run(*next(batches))

    return once


def torch_step(images: np.ndarray, labels: np.ndarray, hidden: int, compiled: bool, threads: int) -> Step:
    import torch
    from torch import nn as tnn

    class Residual(tnn.Module):
        def __init__(self, fn: tnn.Module) -> None:
            super().__init__()
            self.fn = fn

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(self.fn(x) + x)

    def block() -> tnn.Module:
        half = hidden // 2
        inner = [tnn.Linear(hidden, half), tnn.BatchNorm1d(half), tnn.ReLU(), tnn.Dropout(DROPOUT)]
        return Residual(tnn.Sequential(*inner, tnn.Linear(half, hidden), tnn.BatchNorm1d(hidden)))

    layers = [tnn.Linear(784, hidden), tnn.ReLU(), block(), block(), block(), tnn.Linear(hidden, 10)]
    model = tnn.Sequential(*layers)
    loss_fn = tnn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, weight_decay=DECAY)
    batches = cycle([(torch.from_numpy(x), torch.from_numpy(y)) for x, y in zip(images, labels, strict=True)])

    def loss_of(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return loss_fn(model(x), y)

    forward = torch.compile(loss_of) if compiled else loss_of
    update = torch.compile(optimizer.step) if compiled else optimizer.step

    def step() -> None:
        torch.set_num_threads(threads)
        optimizer.zero_grad()
        forward(*next(batches)).backward()
        update()

    return step


def jax_step(images: np.ndarray, labels: np.ndarray, hidden: int) -> Step:
    import jax
    from jax import numpy as jnp

    rng = np.random.default_rng(0)

    def linear(rows: int, columns: int) -> tuple[Any, Any]:
        weight = rng.normal(0, np.sqrt(2 / rows), (rows, columns))
        return jnp.asarray(weight, jnp.float32), jnp.zeros(columns)

    def norm(width: int) -> tuple[Any, Any]:
        return jnp.ones(width), jnp.zeros(width)

    half = hidden // 2
    blocks = [(linear(hidden, half), norm(half), linear(half, hidden), norm(hidden)) for _ in range(3)]
    params = (linear(784, hidden), blocks, linear(hidden, 10))
    running = [tuple((jnp.zeros(width), jnp.ones(width)) for width in (half, hidden)) for _ in range(3)]

    def normalize(x: Any, scale: Any, state: Any) -> Any:
        mean, var = x.mean(0), x.var(0)
        new = tuple(0.9 * old + 0.1 * now for old, now in zip(state, (mean, var), strict=True))
        return (x - mean) / jnp.sqrt(var + 1e-5) * scale[0] + scale[1], new

    def loss_of(params: Any, running: Any, key: Any, x: Any, y: Any) -> Any:
        first, blocks, last = params
        h = jax.nn.relu(x @ first[0] + first[1])
        states = []
        for (one, norm_one, two, norm_two), state, k in zip(blocks, running, jax.random.split(key, 3), strict=True):
            z, new_one = normalize(h @ one[0] + one[1], norm_one, state[0])
            mask = jax.random.bernoulli(k, 1 - DROPOUT, z.shape)
            z = jax.nn.relu(z) * mask / (1 - DROPOUT)
            z, new_two = normalize(z @ two[0] + two[1], norm_two, state[1])
            h = jax.nn.relu(z + h)
            states.append((new_one, new_two))
        logits = h @ last[0] + last[1]
        picked = jnp.take_along_axis(logits, y[:, None], 1)[:, 0]
        return (jax.nn.logsumexp(logits, axis=1) - picked).mean(), states

    @jax.jit
    def step(state: Any, x: Any, y: Any) -> Any:
        params, m, v, t, running, key = state
        key, draw = jax.random.split(key)
        (loss, running), grads = jax.value_and_grad(loss_of, has_aux=True)(params, running, draw, x, y)
        t = t + 1
        grads = jax.tree.map(lambda g, p: g + DECAY * p, grads, params)
        m = jax.tree.map(lambda a, g: 0.9 * a + 0.1 * g, m, grads)
        v = jax.tree.map(lambda a, g: 0.999 * a + 0.001 * g * g, v, grads)
        root = jnp.sqrt(1 - 0.999**t)
        params = jax.tree.map(
            lambda p, a, b: p - LEARNING_RATE / (1 - 0.9**t) * a / (jnp.sqrt(b) / root + 1e-8), params, m, v
        )
        return (params, m, v, t, running, key), loss

    zeros = jax.tree.map(jnp.zeros_like, params)
    key = jax.random.key(0, impl="rbg")
    state = [(params, zeros, jax.tree.map(jnp.zeros_like, params), jnp.float32(0), running, key)]
    batches = cycle([(jnp.asarray(x), jnp.asarray(y)) for x, y in zip(images, labels, strict=True)])

    def run() -> None:
        state[0], loss = step(state[0], *next(batches))
        loss.block_until_ready()
        jax.block_until_ready(state[0][0])

    return run


def contestants(images: np.ndarray, labels: np.ndarray, hidden: int) -> Iterator[tuple[str, Step]]:
    """Yield names and steps, of peers that are installed."""
    yield "Needle, eager", needle_step(images, labels, hidden, compiled=False)
    yield "Needle, ndl.jit", needle_step(images, labels, hidden, compiled=True)
    try:
        import torch

        for compiled in (False, True):
            for threads in (1, 2):
                name = f"PyTorch {torch.__version__}, {'torch.compile' if compiled else 'eager'}"
                step = torch_step(images, labels, hidden, compiled, threads)
                yield f"{name}, {threads} thread{'s' * (threads > 1)}", step
    except ImportError:
        print("PyTorch is not installed and left out")
    try:
        import jax

        yield f"JAX {jax.__version__}, jax.jit", jax_step(images, labels, hidden)
    except ImportError:
        print("JAX is not installed and left out")


def table(medians: dict[str, float], first: dict[str, float]) -> list[tuple[str, float, float, float]]:
    """Return name, median milliseconds, the ratio to the best peer's, and the seconds of the first call."""
    peers = [name for name in medians if not name.startswith("Needle")]
    best = medians[min(peers, key=medians.__getitem__, default=next(iter(medians)))]
    return [(name, median * 1e3, median / best, first[name]) for name, median in medians.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large", action="store_true", help="width 500 and batch 250")
    parser.add_argument("--hidden", type=int)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=0.3, help="how long a round of one contestant takes")
    parser.add_argument("--output", type=Path, help="folder for the table as Markdown and JSON")
    options = parser.parse_args()
    hidden = options.hidden or (500 if options.large else 100)
    batch = options.batch or (250 if options.large else 100)
    rng = np.random.default_rng(0)
    # Many batches: one alone is soon known by heart, and gradients that are all but 0 are slow to compute with.
    images = rng.random((BATCHES, batch, 784), dtype=np.float32)
    labels = rng.integers(0, 10, (BATCHES, batch))
    steps, first = {}, {}
    for name, step in contestants(images, labels, hidden):
        start = time.perf_counter()
        step()
        steps[name], first[name] = step, time.perf_counter() - start
    # The pause: until the threads of the one before have stopped spinning.
    rows = table(median_seconds(steps, options.rounds, options.seconds, pause=0.25), first)
    lines = [f"| width {hidden}, batch {batch} | ms a step | ratio | first call, s |", "| --- | ---: | ---: | ---: |"]
    lines += [f"| {name} | {ms:.2f} | {ratio:.2f} | {seconds:.2f} |" for name, ms, ratio, seconds in rows]
    print("\n".join(lines))
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        name = f"mlp_resnet_step_{hidden}"
        (options.output / f"{name}.md").write_text("\n".join(lines) + "\n")
        keys = ("name", "milliseconds", "ratio", "first_call_seconds")
        records = [dict(zip(keys, row, strict=True)) for row in rows]
        (options.output / f"{name}.json").write_text(json.dumps(records, indent=2) + "\n")


if __name__ == "__main__":
    main()
