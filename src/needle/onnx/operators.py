"""ONNX's operators in those of Needle: what a loaded model is made of, one entry an operator.

A rule gets the call (its attributes) and the values of its inputs: Tensors, or NumPy arrays where a value is known
without the model's inputs, such as a shape; None for one that is left out. It returns a Tensor, an array, or a tuple.
"""

from __future__ import annotations

from needle.onnx.rules.call import Rule
from needle.onnx.rules.elementwise import ELEMENTWISE
from needle.onnx.rules.movement import MOVEMENT
from needle.onnx.rules.normalization import NORMALIZATION
from needle.onnx.rules.recurrence import RECURRENCE
from needle.onnx.rules.sums import SUMS
from needle.onnx.rules.windows import WINDOWS

__all__ = ["OPERATORS"]

OPERATORS: dict[str, Rule] = {**ELEMENTWISE, **SUMS, **MOVEMENT, **WINDOWS, **NORMALIZATION, **RECURRENCE}
