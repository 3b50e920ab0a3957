"""Compiled matrix products as a share of the processor's multiply-add limit, beside NumPy and PyTorch in the same run.

    python benchmarks/matmul.py                            # every group, 1 and 2 threads, float32
    python benchmarks/matmul.py --group square --threads 2 --dtype float64 --output FOLDER
    python benchmarks/matmul.py --group square --dtype float32 --dtype bfloat16 --dtype float16

The limit is that of a compiled loop of independent multiply-adds, run on as many threads, timed in every round beside
the products, so that a machine whose speed changes changes both. For float16 and bfloat16 it is that of float32, in
which their products are summed: instructions for bfloat16 go beyond it. NumPy has no library for these, and is left
out; so is PyTorch for float16, where it takes a hundred times as long. What it costs to call a program from Python is
timed too, with a product of one number, and is taken off. Rounds of all contestants alternate and medians are shown.
Layouts are n and t for each operand: t means that it lies transposed in memory. NumPy uses as many threads as its
library starts, whatever the column says. With --output the table is written as Markdown and JSON too.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from needle.compiler import Graph, input_node
from needle.compiler.address import address_of
from needle.compiler.executable import Executable
from needle.compiler.graph import make_node
from needle.compiler.host import host
from needle.compiler.native import compile_object, load_object
from needle.compiler.thread_count import set_num_threads
from needle.dtype import as_dtype, bfloat16, float16, is_narrow

LAYOUTS = ("nn", "nt", "tn", "tt")
SQUARE = [(n, n, n) for n in (256, 512, 1024, 2048)]
SMALL_STEP = [(100, 784, 100), (100, 100, 50), (100, 50, 100), (100, 100, 10)]
LARGE_STEP = [(250, 784, 500), (250, 500, 250), (250, 250, 500), (250, 500, 10)]
# How long one measurement of one contestant takes, and the pause before it, in seconds. After their work the threads of
# NumPy's library spin for about 20 ms, and those of PyTorch for a few: on the processors that the next one needs.
LONG_ENOUGH, PAUSE = 0.01, 0.05
PEAK = """
define void @peak(i64 %count, {scalar} %one, ptr %out) {attributes} {{
entry:
  %first = insertelement {vector} poison, {scalar} %one, i64 0
  %ones = shufflevector {vector} %first, {vector} poison, <{lanes} x i32> zeroinitializer
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
  {phis}
  {steps}
  %next = add nuw nsw i64 %i, 1
  %more = icmp slt i64 %next, %count
  br i1 %more, label %loop, label %done
done:
  {uses}
  ret void
}}
declare {vector} @llvm.fma.{mangled}({vector}, {vector}, {vector})
"""


class Peak:
    """A loop of multiply-adds that wait for nothing but themselves."""

    def __init__(self, dtype: str) -> None:
        here, chains = host(), min(host().vector_registers - 4, 24)
        dtype = "float64" if dtype == "float64" else "float32"
        bits = np.dtype(dtype).itemsize * 8
        lanes = here.vector_bytes * 8 // bits
        scalar = "float" if bits == 32 else "double"
        vector, mangled = f"<{lanes} x {scalar}>", f"v{lanes}f{bits}"
        self.flops_each = 2 * lanes * chains
        phis = [f"%c{i} = phi {vector} [ %ones, %entry ], [ %d{i}, %loop ]" for i in range(chains)]
        call = f"call {vector} @llvm.fma.{mangled}"
        steps = [f"%d{i} = {call}({vector} %ones, {vector} %ones, {vector} %c{i})" for i in range(chains)]
        sums = [f"%s{i} = fadd {vector} %d{i}, {f'%s{i - 1}' if i else '%ones'}" for i in range(chains)]
        uses = [*sums, f"store {vector} %s{chains - 1}, ptr %out, align 4"]
        text = PEAK.format(
            attributes=f'{here.attributes} "target-features"="{here.features}"',
            phis="\n  ".join(phis),
            steps="\n  ".join(steps),
            uses="\n  ".join(uses),
            scalar=scalar,
            lanes=lanes,
            vector=vector,
            mangled=mangled,
        )
        address, self.engine = load_object(compile_object(text), "peak")
        real = ctypes.c_float if bits == 32 else ctypes.c_double
        function = ctypes.CFUNCTYPE(None, ctypes.c_int64, real, ctypes.c_void_p)(address)
        self.out = np.zeros(64)
        self.function = lambda count: function(count, 1e-30, self.out.ctypes.data)

    def flops_per_second(self, threads: int) -> float:
        """Return the rate of all threads together."""
        count = 200_000
        workers = [threading.Thread(target=self.function, args=(count * 4,)) for _ in range(threads - 1)]
        for worker in workers:
            worker.start()
        start = time.perf_counter()
        self.function(count)  # the others run longer, so that they are busy all the while
        taken = time.perf_counter() - start
        for worker in workers:
            worker.join()
        return self.flops_each * count * threads / taken


class Product:
    """A compiled product of two arrays."""

    def __init__(self, a: np.ndarray, b: np.ndarray, layout: str) -> None:
        inputs = tuple(input_node(one.shape, one.dtype) for one in (a, b))
        # Narrow numbers are multiplied as operators do it: summed in float32, and rounded once.
        wide, narrow = np.dtype("float32"), a.dtype if is_narrow(a.dtype) else None
        nodes = inputs if narrow is None else [make_node("cast", (node,), dtype=wide) for node in inputs]
        operands = [
            make_node("permute", (node,), axes=(1, 0)) if letter == "t" else node
            for node, letter in zip(nodes, layout, strict=True)
        ]
        product = make_node("matmul", operands)
        start = time.perf_counter()
        result = product if narrow is None else make_node("cast", (product,), dtype=narrow)
        self.executable = Executable(Graph(inputs, (result,)))
        self.compile_seconds = time.perf_counter() - start
        self.arrays = [a, b, *self.executable.new_outputs()]
        self.addresses = self.executable.new_addresses()
        self.addresses[:] = [address_of(one) for one in self.arrays]

    @property
    def out(self) -> np.ndarray:
        """What the last run computed."""
        return self.arrays[2]

    def run(self, count: int) -> None:
        """Compute the product `count` times."""
        for _ in range(count):
            self.executable.run(self.addresses)


def numpy_product(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> Callable[[int], None]:
    def run(count: int) -> None:
        for _ in range(count):
            np.matmul(a, b, out=out)

    return run


def torch_product(a: np.ndarray, b: np.ndarray, out: np.ndarray, threads: int) -> Callable[[int], None] | None:
    try:
        import torch
    except ImportError:
        return None
    if a.dtype == float16:
        return None
    if a.dtype == bfloat16:
        x, y, z = (torch.from_numpy(one.astype("float32")).to(torch.bfloat16) for one in (a, b, out))
    else:
        x, y, z = map(torch.from_numpy, (a, b, out))

    def run(count: int) -> None:
        torch.set_num_threads(threads)
        for _ in range(count):
            torch.mm(x, y, out=z)

    return run


@dataclass(frozen=True, slots=True)
class Row:
    """What was measured of one product: GFLOP/s of each contestant, and how much of the limit Needle reached."""

    shape: str
    layout: str
    threads: int
    dtype: str
    limit: float
    needle: float
    share: float
    numpy: float | None
    torch: float | None
    compile_ms: float


def seconds_each(run: Callable[[int], None], count: int) -> float:
    start = time.perf_counter()
    run(count)
    return (time.perf_counter() - start) / count


def enough(run: Callable[[int], None]) -> int:
    """Return how many runs take long enough to be timed."""
    run(1)
    return max(1, int(LONG_ENOUGH / min(seconds_each(run, 3) for _ in range(3))))


def measure(size: tuple[int, int, int], layout: str, threads: int, dtype: str, settings: argparse.Namespace) -> Row:
    """Time one product."""
    typical = min if settings.best else statistics.median
    m, k, n = size
    rng = np.random.default_rng(0)
    sizes = zip(((m, k), (k, n)), layout, strict=True)
    kind = as_dtype(dtype)
    stored = [rng.standard_normal(s[:: -1 if letter == "t" else 1]).astype(kind) for s, letter in sizes]
    a, b = (one.T if letter == "t" else one for one, letter in zip(stored, layout, strict=True))
    peak, product = Peak(dtype), Product(stored[0], stored[1], layout)
    set_num_threads(threads)
    product.run(1)
    exact = a.astype("float64") @ b.astype("float64")
    rounding = 2.0**-7 * np.abs(exact).max() if is_narrow(kind) else 0
    if np.abs(product.out.astype("float64") - exact).max() > 1e-5 * k + rounding:
        raise ArithmeticError(f"the product {m}x{k}x{n} {layout} is wrong")
    one = np.ones((1, 1), kind)
    runs: dict[str, Callable[[int], None]] = {"needle": product.run, "call": Product(one, one, "nn").run}
    if not settings.without_peers:
        runs |= {} if is_narrow(kind) else {"numpy": numpy_product(a, b, np.empty((m, n), kind))}
        torch_run = torch_product(a, b, np.empty((m, n), kind), threads)
        runs |= {} if torch_run is None else {"torch": torch_run}
    counts = {name: enough(run) for name, run in runs.items()}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    limits = []
    for _ in range(settings.rounds):
        limits.append(peak.flops_per_second(threads))
        for name, run in runs.items():
            time.sleep(PAUSE)
            run(3)  # wakes its own threads
            seconds[name].append(seconds_each(run, counts[name]))
    set_num_threads(None)
    taken = {name: typical(times) for name, times in seconds.items()}
    taken["needle"] -= taken.pop("call")
    rates = {name: 2e-9 * m * k * n / time for name, time in taken.items()}
    limit = (max if settings.best else statistics.median)(limits) / 1e9
    share = rates["needle"] / limit
    shape, compile_ms = f"{m}x{k}x{n}", product.compile_seconds * 1e3
    others = rates.get("numpy"), rates.get("torch")
    return Row(shape, layout, threads, dtype, limit, rates["needle"], share, *others, compile_ms)


def products(group: str) -> Iterator[tuple[tuple[int, int, int], str]]:
    """Yield shapes (rows, inner, columns) and layouts: of a training step those that it has, with their gradients."""
    if group == "square":
        for size in SQUARE:
            yield from ((size, layout) for layout in LAYOUTS)
        return
    for m, k, n in SMALL_STEP if group == "small" else LARGE_STEP:
        yield (m, k, n), "nn"
        yield (m, n, k), "nt"  # the gradient of the left operand
        yield (k, m, n), "tn"  # and of the right one
    yield SMALL_STEP[0] if group == "small" else LARGE_STEP[0], "tt"


def markdown(rows: list[Row]) -> str:
    lines = [
        "| rows x inner x columns | layout | dtype | threads | limit | Needle | share | NumPy | PyTorch | compile ms |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        peers = " | ".join("" if rate is None else f"{rate:.0f}" for rate in (row.numpy, row.torch))
        rates = f"{row.limit:.0f} | {row.needle:.0f} | {row.share:.0%} | {peers}"
        lines.append(f"| {row.shape} | {row.layout} | {row.dtype} | {row.threads} | {rates} | {row.compile_ms:.0f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--group", choices=["square", "small", "large"], action="append")
    parser.add_argument("--threads", type=int, action="append")
    parser.add_argument("--dtype", choices=["float32", "float64", "bfloat16", "float16"], action="append")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--without-peers", action="store_true")
    parser.add_argument("--best", action="store_true", help="the best round, not the median: for a busy machine")
    parser.add_argument("--layout", choices=LAYOUTS, action="append")
    parser.add_argument("--output", type=Path)
    settings = parser.parse_args()
    dtypes, rows = settings.dtype or ["float32"], []
    for group in settings.group or ["square", "small", "large"]:
        for threads in settings.threads or [1, 2]:
            for size, layout in products(group):
                if layout not in (settings.layout or LAYOUTS):
                    continue
                for dtype in dtypes:
                    rows.append(measure(size, layout, threads, dtype, settings))
                    print(".", end="", flush=True)
    text = f"GFLOP/s, {', '.join(dtypes)}, {host().cpu}\n\n{markdown(rows)}\n"
    print(text)
    if settings.output:
        settings.output.mkdir(parents=True, exist_ok=True)
        (settings.output / "matmul.md").write_text(text)
        as_json = [{name: getattr(row, name) for name in Row.__slots__} for row in rows]
        (settings.output / "matmul.json").write_text(json.dumps(as_json, indent=1))


if __name__ == "__main__":
    main()
