"""Products of bfloat16 and float16 whose sums are float32, as functions of arrays: what tests of each renderer run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

from needle.compiler import Graph, TracedArray, input_node


def narrow(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(ml_dtypes.bfloat16)


def wide(x: Any) -> Any:
    return x.astype("float32")


def traced(function: Callable[..., Any], arrays: tuple[np.ndarray, ...]) -> Graph:
    inputs = tuple(input_node(array.shape, array.dtype) for array in arrays)
    found = function(*map(TracedArray, inputs))
    return Graph(inputs, tuple(one.node for one in (found if isinstance(found, tuple) else (found,))))


def windows(x: Any, w: Any) -> Any:
    """Convolve images (N, H, W, C) with (3, 3, C, F), a border of zeros around them, stride 2 along the width."""
    x = np.pad(wide(x), ((0, 0), (1, 1), (1, 1), (0, 0)))
    view = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2))[:, :, ::2].transpose(0, 1, 2, 4, 5, 3)
    rows = view.reshape(-1, view.shape[3] * view.shape[4] * view.shape[5])
    return rows @ wide(w).reshape(rows.shape[1], -1)


def weight_gradient(x: Any, g: Any) -> Any:
    view = np.lib.stride_tricks.sliding_window_view(wide(x), (3, 3), axis=(1, 2)).transpose(0, 1, 2, 4, 5, 3)
    rows = view.reshape(-1, view.shape[3] * view.shape[4] * view.shape[5])
    return rows.T @ wide(g).reshape(rows.shape[0], -1)


def input_gradient(g: Any, w: Any) -> Any:
    """Convolve with the kernel (3, 3, C, F) turned by half a turn, its channels exchanged."""
    g = np.pad(wide(g), ((0, 0), (2, 2), (2, 2), (0, 0)))
    view = np.lib.stride_tricks.sliding_window_view(g, (3, 3), axis=(1, 2)).transpose(0, 1, 2, 4, 5, 3)
    rows = view.reshape(-1, view.shape[3] * view.shape[4] * view.shape[5])
    return rows @ np.flip(wide(w), (0, 1)).transpose(0, 1, 3, 2).reshape(rows.shape[1], -1)


FUNCTIONS: dict[str, tuple[Callable[..., Any], tuple[np.ndarray, ...]]] = {
    "rows and columns past the tiles": (lambda a, b: wide(a) @ wide(b), (narrow(70, 100), narrow(100, 90))),
    "a right operand on its side": (lambda a, b: wide(a) @ wide(b).T, (narrow(70, 100), narrow(90, 100))),
    "a left operand on its side": (lambda a, b: wide(a).T @ wide(b), (narrow(100, 70), narrow(100, 90))),
    "both on their sides": (lambda a, b: wide(a).T @ wide(b).T, (narrow(101, 70), narrow(90, 101))),
    "an odd sum": (lambda a, b: wide(a) @ wide(b), (narrow(64, 77), narrow(77, 64))),
    "a long sum, in cuts": (lambda a, b: wide(a) @ wide(b), (narrow(40, 3001), narrow(3001, 50))),
    "many blocks": (lambda a, b: wide(a) @ wide(b), (narrow(600, 64), narrow(64, 600))),
    "a batch": (lambda a, b: wide(a) @ wide(b), (narrow(3, 64, 70), narrow(3, 70, 80))),
    "a batch by one matrix": (lambda a, b: wide(a) @ wide(b), (narrow(3, 5, 64, 70), narrow(70, 80))),
    "heads": (
        lambda q, k: wide(q).transpose(0, 2, 1, 3) @ wide(k).transpose(0, 2, 3, 1),
        (narrow(2, 80, 3, 64), narrow(2, 80, 3, 64)),
    ),
    "what follows elementwise": (
        lambda a, b: np.maximum(wide(a) @ wide(b) + 1, 0) * 2,
        (narrow(70, 100), narrow(100, 90)),
    ),
    "what follows, and the sums too": (
        lambda a, b: (np.tanh(wide(a) @ wide(b)), wide(a) @ wide(b)),
        (narrow(33, 2200), narrow(2200, 65)),
    ),
    "a result that is narrow": (
        lambda a, b: (wide(a) @ wide(b)).astype(ml_dtypes.bfloat16).astype("float32"),
        (narrow(64, 64), narrow(64, 64)),
    ),
    "a convolution": (windows, (narrow(2, 12, 13, 32), narrow(3, 3, 32, 40))),
    "a convolution of few channels": (windows, (narrow(2, 40, 40, 3), narrow(3, 3, 3, 64))),
    "a convolution of lines that end a number after its windows": (
        lambda x, w: np.lib.stride_tricks.sliding_window_view(wide(x), (3, 21), axis=(1, 2)).reshape(-1, 63) @ wide(w),
        (narrow(6, 20, 22), narrow(63, 40)),
    ),
    "its weight's gradient": (weight_gradient, (narrow(2, 12, 13, 32), narrow(2, 10, 11, 40))),
    "its weight's gradient along an even width": (weight_gradient, (narrow(2, 12, 14, 32), narrow(2, 10, 12, 40))),
    "its image's gradient": (input_gradient, (narrow(2, 11, 12, 32), narrow(3, 3, 24, 32))),
}

# Of those the processor's matrix registers are not used for, which want 16 of each.
SMALL_FUNCTIONS: dict[str, tuple[Callable[..., Any], tuple[np.ndarray, ...]]] = {
    "one number": (lambda a, b: wide(a) @ wide(b), (narrow(1, 1), narrow(1, 1))),
    "one row": (lambda a, b: wide(a) @ wide(b), (narrow(1, 50), narrow(50, 70))),
    "one column": (lambda a, b: wide(a) @ wide(b), (narrow(70, 50), narrow(50, 1))),
    "one step": (lambda a, b: wide(a) @ wide(b), (narrow(20, 1), narrow(1, 30))),
    "three steps on their sides": (lambda a, b: wide(a).T @ wide(b).T, (narrow(3, 20), narrow(30, 3))),
    "slices of odd places": (lambda a, b: wide(a)[1:, 1:-2] @ wide(b)[3:, 1:], (narrow(9, 33), narrow(33, 21))),
    "every other step": (lambda a, b: wide(a)[:, ::2] @ wide(b)[::2], (narrow(9, 36), narrow(36, 21))),
    "backwards": (lambda a, b: np.flip(wide(a), (0, 1)) @ np.flip(wide(b), (0,)), (narrow(9, 36), narrow(36, 21))),
    "windows of one line": (
        lambda x, w: np.lib.stride_tricks.sliding_window_view(wide(x), 6) @ wide(w),
        (narrow(40), narrow(6, 5)),
    ),
    "windows of one line, on their sides": (
        lambda x, w: np.lib.stride_tricks.sliding_window_view(wide(x), 5).T @ wide(w),
        (narrow(40), narrow(36, 5)),
    ),
    "a repeated left operand": (
        lambda a, b: np.broadcast_to(wide(a), (3, 7, 10)) @ wide(b),
        (narrow(7, 10), narrow(3, 10, 4)),
    ),
    "no rows": (lambda a, b: wide(a) @ wide(b), (narrow(0, 5), narrow(5, 4))),
    "no steps": (lambda a, b: wide(a) @ wide(b), (narrow(3, 0), narrow(0, 4))),
}
