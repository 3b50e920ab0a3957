"""Whole training steps of known networks: Needle, compiled, against PyTorch and JAX in the same run.

    python benchmarks/network_steps.py
    python benchmarks/network_steps.py --only ResNet9 LSTM --without torch.compile --rounds 20 --output FOLDER
    python benchmarks/network_steps.py --dtype bfloat16

The networks are those of networks.py, in float32, with Adam or, for GPT, AdamW. Before anything is timed, the losses of
the first two steps of all contestants are compared. PyTorch runs eagerly, for images in both layouts, on one thread and
on two, and with torch.compile over loss and optimizer; JAX runs as one jax.jit. With `--dtype bfloat16`, Needle and
PyTorch run under their autocasts, beside Needle in float32; JAX, which has none, is left out. `ratio` is Needle's time
by that of the best peer, `target` is what it aims for.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from comparison import median_seconds, print_table
from networks import NETWORKS, Network, Step, jax_step, needle_step, torch_step

COLUMNS = ("network", "contestant", "ms a step", "÷ best peer", "target", "first call, s")
Row = dict[str, str | float | None]
# How far the losses of the first two steps may lie apart. Adam's first step divides each gradient by its size: those
# near 0 move their weights by chance.
_TOLERANCES = {"float32": (1e-5, 1e-2), "bfloat16": (1e-2, 5e-2)}


def contestants(network: Network, without: Sequence[str], dtype: str) -> Iterator[tuple[str, Callable[[], Step]]]:
    """Yield names and what makes the step, of peers that are installed and wanted."""
    yield "Needle, ndl.jit", partial(needle_step, network, dtype=dtype)
    if dtype != "float32":
        yield "Needle, ndl.jit, float32", partial(needle_step, network)
    try:
        import torch  # noqa: F401

        if "eager" not in without:
            for last in (False, True) if network.of_images else (False,):
                layout = "channels last" if last else "channels first" if network.of_images else ""
                for threads in (1, 2):
                    name = ", ".join(filter(None, ("PyTorch, eager", layout, f"{threads} thread{'s' * (threads > 1)}")))
                    yield name, partial(torch_step, network, False, threads, last, dtype)
        if "torch.compile" not in without:
            yield "PyTorch, torch.compile, 2 threads", partial(torch_step, network, True, 2, network.of_images, dtype)
    except ImportError:
        print("PyTorch is not installed and left out")
    try:
        import jax  # noqa: F401

        if network.jax is not None and "jax" not in without and dtype == "float32":
            yield "JAX, jax.jit", partial(jax_step, network)
    except ImportError:
        print("JAX is not installed and left out")


def measure(name: str, rounds: int, without: Sequence[str], dtype: str) -> list[Row]:
    network = NETWORKS[name]
    steps: dict[str, Step] = {}
    first: dict[str, float] = {}
    losses: dict[str, list[float]] = {}
    for contestant, make in contestants(network, without, dtype):
        steps[contestant] = step = make()
        start = time.perf_counter()
        losses[contestant] = [step()]
        first[contestant] = time.perf_counter() - start
        losses[contestant].append(step())
    if not name.startswith("MLPResNet"):  # its dropout draws from generators that differ
        check_losses(name, losses, _TOLERANCES[dtype])
    milliseconds = {one: seconds * 1e3 for one, seconds in median_seconds(steps, rounds, 0.3, pause=0.25).items()}
    peers = [one for one in steps if not one.startswith("Needle")]
    best = min((milliseconds[one] for one in peers), default=None)
    return [
        {
            "network": name,
            "contestant": one,
            "dtype": dtype if not one.endswith("float32") else "float32",
            "milliseconds": milliseconds[one],
            "ratio": None if best is None else milliseconds[one] / best,
            "target": network.target if dtype == "float32" and one not in peers else None,
            "first_call_seconds": first[one],
        }
        for one in steps
    ]


def check_losses(name: str, losses: dict[str, list[float]], tolerances: tuple[float, float]) -> None:
    """Raise where contestants do not compute the same.

    Raises:
        AssertionError: the losses differ by more than rounding.
    """
    own, *others = losses.items()
    for contestant, found in others:
        for expected, loss, tolerance in zip(own[1], found, tolerances, strict=True):
            np.testing.assert_allclose(loss, expected, rtol=tolerance, err_msg=f"{name}: {own[0]} and {contestant}")


def cells(row: Row) -> list[str]:
    texts = [str(row["network"]), str(row["contestant"])]
    for key in ("milliseconds", "ratio", "target", "first_call_seconds"):
        value = row[key]
        texts.append("-" if value is None else f"{value:.2f}")
    return texts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = list(NETWORKS)
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NETWORK", help="; ".join(names))
    parser.add_argument("--without", nargs="+", default=[], choices=["eager", "torch.compile", "jax"])
    parser.add_argument("--dtype", choices=list(_TOLERANCES), default="float32", help="what products are of")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--output", type=Path, help="folder for the table as Markdown and JSON")
    options = parser.parse_args()
    rows = [row for name in options.only for row in measure(name, options.rounds, options.without, options.dtype)]
    name = "network_steps" if options.dtype == "float32" else f"network_steps_{options.dtype}"
    print_table(name, COLUMNS, [cells(row) for row in rows], rows, options.output)


if __name__ == "__main__":
    main()
