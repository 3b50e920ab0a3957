"""Modules: layers, activations, losses, and what holds them together.

A `Module` is a function with parameters; modules nest into a tree, and each file here is a family of them. The
mathematics is in `needle.ops`; a module adds the parameters, the state and the options.
"""

from needle.nn.activation import (
    ELU,
    GELU,
    GLU,
    SELU,
    Hardsigmoid,
    Hardswish,
    LeakyReLU,
    LogSigmoid,
    LogSoftmax,
    Mish,
    PReLU,
    ReLU,
    ReLU6,
    Sigmoid,
    SiLU,
    Softmax,
    Softplus,
    Softsign,
    Tanh,
)
from needle.nn.attention import AttentionLayer, MultiHeadAttention
from needle.nn.batch_normalization import (
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    InstanceNorm1d,
    InstanceNorm2d,
    InstanceNorm3d,
)
from needle.nn.container import Flatten, Identity, ModuleDict, ModuleList, Residual, Sequential
from needle.nn.convolution import Conv, Conv1d, Conv2d, Conv3d, ConvTranspose1d, ConvTranspose2d, ConvTranspose3d
from needle.nn.dropout import Dropout, Dropout1d, Dropout2d, Dropout3d
from needle.nn.embedding import Embedding
from needle.nn.gru import GRU, GRUCell
from needle.nn.linear import Linear
from needle.nn.loss import (
    BCEWithLogitsLoss,
    CrossEntropyLoss,
    HuberLoss,
    KLDivLoss,
    L1Loss,
    MSELoss,
    NLLLoss,
    SoftmaxLoss,
)
from needle.nn.lstm import LSTM, LSTMCell
from needle.nn.module import Module, _child_modules, _unpack_params
from needle.nn.normalization import GroupNorm, LayerNorm, LayerNorm1d, RMSNorm
from needle.nn.parameter import Buffer, Parameter
from needle.nn.pooling import (
    AdaptiveAvgPool1d,
    AdaptiveAvgPool2d,
    AdaptiveAvgPool3d,
    AdaptiveMaxPool1d,
    AdaptiveMaxPool2d,
    AdaptiveMaxPool3d,
    AvgPool1d,
    AvgPool2d,
    AvgPool3d,
    MaxPool1d,
    MaxPool2d,
    MaxPool3d,
)
from needle.nn.positions import LearnedPositions, RotaryPositions, SinusoidalPositions
from needle.nn.recurrent import RNN, RNNCell
from needle.nn.regularization import l1_penalty, l2_penalty
from needle.nn.resizing import Upsample
from needle.nn.state import UnmatchedNames
from needle.nn.transformer import Transformer, TransformerLayer
from needle.nn.transformer_layers import (
    Attention,
    ContextCache,
    KeyValueCache,
    TransformerDecoderLayer,
    TransformerEncoderLayer,
)
from needle.nn.transformer_stacks import TransformerDecoder, TransformerEncoder

__all__ = [
    "ELU",
    "GELU",
    "GLU",
    "GRU",
    "LSTM",
    "RNN",
    "SELU",
    "AdaptiveAvgPool1d",
    "AdaptiveAvgPool2d",
    "AdaptiveAvgPool3d",
    "AdaptiveMaxPool1d",
    "AdaptiveMaxPool2d",
    "AdaptiveMaxPool3d",
    "Attention",
    "AttentionLayer",
    "AvgPool1d",
    "AvgPool2d",
    "AvgPool3d",
    "BCEWithLogitsLoss",
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "Buffer",
    "ContextCache",
    "Conv",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "CrossEntropyLoss",
    "Dropout",
    "Dropout1d",
    "Dropout2d",
    "Dropout3d",
    "Embedding",
    "Flatten",
    "GRUCell",
    "GroupNorm",
    "Hardsigmoid",
    "Hardswish",
    "HuberLoss",
    "Identity",
    "InstanceNorm1d",
    "InstanceNorm2d",
    "InstanceNorm3d",
    "KLDivLoss",
    "KeyValueCache",
    "L1Loss",
    "LSTMCell",
    "LayerNorm",
    "LayerNorm1d",
    "LeakyReLU",
    "LearnedPositions",
    "Linear",
    "LogSigmoid",
    "LogSoftmax",
    "MSELoss",
    "MaxPool1d",
    "MaxPool2d",
    "MaxPool3d",
    "Mish",
    "Module",
    "ModuleDict",
    "ModuleList",
    "MultiHeadAttention",
    "NLLLoss",
    "PReLU",
    "Parameter",
    "RMSNorm",
    "RNNCell",
    "ReLU",
    "ReLU6",
    "Residual",
    "RotaryPositions",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "SinusoidalPositions",
    "Softmax",
    "SoftmaxLoss",
    "Softplus",
    "Softsign",
    "Tanh",
    "Transformer",
    "TransformerDecoder",
    "TransformerDecoderLayer",
    "TransformerEncoder",
    "TransformerEncoderLayer",
    "TransformerLayer",
    "UnmatchedNames",
    "Upsample",
    "_child_modules",
    "_unpack_params",
    "l1_penalty",
    "l2_penalty",
]
