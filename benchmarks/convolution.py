"""Compiled convolutions: forward, gradient of the image, gradient of the weight, beside PyTorch in the same run.

    python benchmarks/convolution.py
    python benchmarks/convolution.py --only 1x1 --rounds 20 --output FOLDER

Rounds of both alternate and medians are shown, as GFLOP/s, and the ratio of Needle's time to PyTorch's, whose tensors
lie channels last, which is its better layout. Both use all processors. With --output the table is written as Markdown
and JSON too.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

import needle as ndl
from comparison import median_seconds

# Batch, side, input channels, kernel, output channels, stride, groups.
SHAPES = {
    "64": (64, 32, 64, 3, 64, 1, 1),
    "128": (64, 16, 128, 3, 128, 1, 1),
    "256": (64, 8, 256, 3, 256, 1, 1),
    "7x7": (128, 32, 3, 7, 16, 4, 1),
    "strided": (128, 8, 16, 3, 32, 2, 1),
    "1x1": (64, 16, 128, 1, 128, 1, 1),
    "depthwise": (64, 16, 128, 3, 128, 1, 128),
}
# Until the threads of the one before have stopped spinning, in seconds.
PAUSE = 0.05
PASSES = ("forward", "image's gradient", "weight's gradient")


@dataclass(frozen=True)
class Result:
    convolution: str
    computed: str
    needle_gflops: float
    pytorch_gflops: float | None
    ratio: float | None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = list(SHAPES)
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="SHAPE", help=", ".join(names))
    parser.add_argument("--rounds", type=int, default=9, help="how often each contestant is timed (default 9)")
    parser.add_argument("--output", type=Path, help="a folder for the table as Markdown and JSON")
    options = parser.parse_args()
    results = [result for name in options.only for result in measure(SHAPES[name], options.rounds)]
    table = as_markdown(results)
    print(table)
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        (options.output / "convolution.md").write_text(table + "\n", encoding="utf-8")
        text = json.dumps([asdict(result) for result in results], indent=2)
        (options.output / "convolution.json").write_text(text + "\n", encoding="utf-8")


def measure(shape: tuple[int, ...], rounds: int) -> list[Result]:
    batch, side, channels, kernel, features, stride, groups = shape
    padding = kernel // 2
    rng = np.random.default_rng(0)
    image = rng.standard_normal((batch, side, side, channels), dtype=np.float32)
    weight = rng.standard_normal((kernel, kernel, channels // groups, features), dtype=np.float32)
    count = (side + 2 * padding - kernel) // stride + 1
    adjoint = rng.standard_normal((batch, count, count, features), dtype=np.float32)
    own = needle_calls((image, weight, adjoint), stride, padding, groups)
    peers = torch_calls((image, weight, adjoint), stride, padding, groups)
    operations = 2 * batch * count**2 * kernel**2 * channels // groups * features
    depthwise = f", {groups} groups" if groups > 1 else ""
    name = f"{kernel}x{kernel}, {channels} → {features} at {side}², stride {stride}, batch {batch}{depthwise}"
    found = []
    for number, computed in enumerate(PASSES):
        contestants = {who: calls[number] for who, calls in (("Needle", own), ("PyTorch", peers)) if calls}
        times = list(median_seconds(contestants, rounds, pause=PAUSE).values())
        rates = [operations / seconds / 1e9 for seconds in times]
        peer, ratio = (rates[1], times[0] / times[1]) if len(times) > 1 else (None, None)
        found.append(Result(name, computed, rates[0], peer, ratio))
    return found


def needle_calls(arrays: Sequence[np.ndarray], stride: int, padding: int, groups: int) -> list[Callable[[], object]]:
    a, b, g = (ndl.Tensor(array, requires_grad=False) for array in arrays)
    settings = {"stride": stride, "padding": padding, "groups": groups}
    forward = ndl.jit(lambda a, b: ndl.conv(a, b, **settings))
    of_image = ndl.jit(ndl.ops.ConvTranspose(**settings, size=arrays[0].shape[1:3]))
    of_weight = ndl.jit(ndl.ops.ConvWeightGradient(**settings, kernel=arrays[1].shape[:2]))
    return [lambda: forward(a, b), lambda: of_image(g, b), lambda: of_weight(a, g)]


def torch_calls(arrays: Sequence[np.ndarray], stride: int, padding: int, groups: int) -> list[Callable[[], object]]:
    try:
        import torch
    except ImportError:
        print("PyTorch is not installed: measured without it")
        return []
    image, weight, adjoint = arrays
    last = torch.channels_last
    a, g = (torch.tensor(one.transpose(0, 3, 1, 2)).to(memory_format=last) for one in (image, adjoint))
    b = torch.tensor(weight.transpose(3, 2, 0, 1)).to(memory_format=last)
    two = [[one, one] for one in (stride, padding, 1)]

    def backward(*wanted: bool) -> object:
        return torch.ops.aten.convolution_backward(g, a, b, None, *two, False, [0, 0], groups, [*wanted, False])

    def forward() -> object:
        return torch.nn.functional.conv2d(a, b, None, stride, padding, 1, groups)

    return [forward, lambda: backward(True, False), lambda: backward(False, True)]


def as_markdown(results: list[Result]) -> str:
    lines = [
        "| convolution | computed | Needle, GFLOP/s | PyTorch, GFLOP/s | ratio of times |",
        "| --- | --- | ---: | ---: | ---: |",
    ]
    for one in results:
        peer = "-" if one.pytorch_gflops is None else f"{one.pytorch_gflops:.0f}"
        ratio = "-" if one.ratio is None else f"{one.ratio:.2f}"
        lines.append(f"| {one.convolution} | {one.computed} | {one.needle_gflops:.0f} | {peer} | {ratio} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
