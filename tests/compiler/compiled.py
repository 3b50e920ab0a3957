"""Functions of arrays as compiled programs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from needle.compiler import Graph, TracedArray, input_node, interpret
from needle.compiler.executable import Executable


def compile_function(function: Callable[..., Any], *arrays: np.ndarray) -> Executable:
    """Compile a function of NumPy arrays."""
    inputs = tuple(input_node(array.shape, array.dtype) for array in arrays)
    traced = function(*(TracedArray(node) for node in inputs))
    outputs = traced if isinstance(traced, tuple) else (traced,)
    return Executable(Graph(inputs, tuple(one.node for one in outputs)))


def assert_compiles(function: Callable[..., Any], *arrays: np.ndarray, rtol: float = 2e-5) -> None:
    """Check a compiled function against the interpreter, which runs NumPy."""
    compiled = compile_function(function, *arrays)
    for got, expected in zip(compiled(arrays), interpret(compiled.graph, arrays), strict=True):
        assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
        np.testing.assert_allclose(got, expected, rtol=rtol, atol=2e-4)
