"""Needle: a deep-learning framework small enough to read.

`import needle as ndl` gives the Tensor, its operators (`ndl.exp`, `ndl.matmul`, …) and the packages `ndl.nn`,
`ndl.init`, `ndl.optim` and `ndl.data`.
"""

from typing import TYPE_CHECKING, Any

from needle import autograd as autograd
from needle import data as data
from needle import device as device
from needle import errors as errors
from needle import init as init
from needle import interchange as interchange
from needle import nn as nn
from needle import ops as ops
from needle import optim as optim
from needle.autocasting import autocast as autocast
from needle.autograd import Op as Op
from needle.autograd import Tensor as Tensor
from needle.autograd import TensorOp as TensorOp
from needle.autograd import TensorTuple as TensorTuple
from needle.autograd import TensorTupleOp as TensorTupleOp
from needle.autograd import Value as Value
from needle.autograd import enable_grad as enable_grad
from needle.autograd import no_grad as no_grad
from needle.checkpointing import checkpoint as checkpoint
from needle.compiler.thread_count import get_num_threads as get_num_threads
from needle.compiler.thread_count import set_num_threads as set_num_threads
from needle.device import all_devices as all_devices
from needle.device import cpu as cpu
from needle.device import cpu_numpy as cpu_numpy
from needle.device import default_device as default_device
from needle.device import seed as seed
from needle.differentiate import grad as grad
from needle.differentiate import value_and_grad as value_and_grad
from needle.dtype import *
from needle.gradcheck import gradcheck as gradcheck
from needle.gradient_accumulation import GradientAccumulator as GradientAccumulator
from needle.interchange.dlpack import from_dlpack as from_dlpack
from needle.interchange.einops import make_known as _make_known_to_einops
from needle.jit.finite import debug_nan as debug_nan
from needle.jit.finite import watch_from_environment as _watch_from_environment
from needle.jit.function import jit as jit
from needle.look.drawing import draw as draw
from needle.look.summary import summary as summary
from needle.ops import *
from needle.scanning import scan as scan
from needle.tracing import is_recomputing as is_recomputing

if TYPE_CHECKING:
    from needle import onnx as onnx

__version__ = "0.1.0"

_watch_from_environment()
_make_known_to_einops()


def __getattr__(name: str) -> Any:
    """Load `ndl.onnx` when it is asked for: few programs need it."""
    if name != "onnx":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import needle.onnx  # noqa: PLC0415

    return needle.onnx
