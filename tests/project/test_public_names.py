"""What programs written against the course's library import is there."""

import pytest

import needle as ndl
from needle import autograd, data, init, nn, ops, optim

OPERATORS = {
    "EWiseAdd": "add",
    "AddScalar": "add_scalar",
    "EWiseMul": "multiply",
    "MulScalar": "mul_scalar",
    "EWisePow": "power",
    "PowerScalar": "power_scalar",
    "EWiseDiv": "divide",
    "DivScalar": "divide_scalar",
    "Transpose": "transpose",
    "Reshape": "reshape",
    "BroadcastTo": "broadcast_to",
    "Summation": "summation",
    "MatMul": "matmul",
    "Negate": "negate",
    "Log": "log",
    "Exp": "exp",
    "ReLU": "relu",
    "LogSumExp": "logsumexp",
    "LogSoftmax": "logsoftmax",
    "MakeTensorTuple": "make_tuple",
    "TupleGetItem": "tuple_get_item",
    "FusedAddScalars": "fused_add_scalars",
    "Tanh": "tanh",
    "Stack": "stack",
    "Split": "split",
    "Flip": "flip",
    "Dilate": "dilate",
    "UnDilate": "undilate",
}
NAMES = {
    ndl: "Tensor TensorTuple Op TensorOp TensorTupleOp Value cpu seed no_grad grad value_and_grad gradcheck",
    autograd: "LAZY_MODE TENSOR_COUNTER compute_gradient_of_variables find_topo_sort Value Tensor TensorTuple Op",
    init: "rand randn constant ones zeros randb one_hot zeros_like ones_like xavier_uniform xavier_normal "
    "kaiming_uniform kaiming_normal",
    nn: "Parameter Module Identity Linear Flatten ReLU Sequential SoftmaxLoss BatchNorm1d BatchNorm2d LayerNorm1d "
    "Dropout Residual Tanh Sigmoid RNNCell RNN LSTMCell LSTM",
    optim: "Optimizer SGD Adam",
    data: "Dataset DataLoader MNISTDataset NDArrayDataset CIFAR10Dataset RandomFlipHorizontal RandomCrop "
    "Dictionary Corpus batchify get_batch",
}


@pytest.mark.parametrize(("operator", "function"), OPERATORS.items())
def test_operator_is_a_class_and_a_function(operator, function):
    assert issubclass(getattr(ops, operator), autograd.Op)
    assert getattr(ndl.ops, function) is getattr(ndl, function)


@pytest.mark.parametrize(("place", "names"), NAMES.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_name_is_there(place, names):
    assert [name for name in names.split() if not hasattr(place, name)] == []


@pytest.mark.parametrize("place", [ndl, ops, init, nn, optim, data], ids=lambda place: place.__name__)
def test_each_listed_name_is_there_and_told(place):
    names = getattr(place, "__all__", [name for name in vars(place) if not name.startswith("_")])
    missing = [name for name in names if not hasattr(place, name)]
    untold = [name for name in names if callable(getattr(place, name)) and not getattr(place, name).__doc__]
    assert (missing, untold) == ([], [])
