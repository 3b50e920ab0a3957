"""Models as ONNX files: any inference function can be exported, and common models are loaded as Modules.

A function is followed as `ndl.jit` follows it, and each of its primitives becomes an operator of ONNX, so that there is
no list of layers that can be exported. The package `onnx` is needed for both: `pip install 'needle-dl[onnx]'`.
"""

from needle.onnx.export import export
from needle.onnx.load import OnnxModel, load

__all__ = ["OnnxModel", "export", "load"]
