"""Every differentiable operator, one file a family: forward, gradient, checks and documentation side by side.

Each family lists its operators (classes) and the functions that apply them in `__all__`, and they are re-exported
here as they stand, so that a new operator is written in one place.
"""

import sys

from needle.autograd import Tensor as Tensor
from needle.autograd import TensorTuple as TensorTuple
from needle.ops.activation import *
from needle.ops.arithmetic import *
from needle.ops.attention import *
from needle.ops.broadcasting import *
from needle.ops.casting import *
from needle.ops.class_loss import *
from needle.ops.comparison import *
from needle.ops.convolution import *
from needle.ops.dilation import *
from needle.ops.elementwise import *
from needle.ops.embedding import *
from needle.ops.exponential import *
from needle.ops.indexing import *
from needle.ops.joining import *
from needle.ops.linear_algebra import *
from needle.ops.loss import *
from needle.ops.movement import *
from needle.ops.normalization import *
from needle.ops.padding import *
from needle.ops.pooling import *
from needle.ops.reduction import *
from needle.ops.resizing import *
from needle.ops.softmax import *
from needle.ops.tuple import *
from needle.tensor_operators import TensorOperators

# The signs and methods of a Tensor find their operators here.
TensorOperators.operators = sys.modules[__name__]
