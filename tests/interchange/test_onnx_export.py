"""Exported functions give the same results in ONNX Runtime."""

import numpy as np
import pytest

import needle as ndl
from needle import nn
from needle.compiler.primitives import PRIMITIVES
from needle.errors import CompileError, DTypeError, MissingExtraError, SettingError, TraceError
from needle.jit.arguments import flatten
from needle.models import MLPResNet, ResNet9
from needle.onnx.primitives import PrimitiveWriter
from ops.cases import all_cases
from ops.op_cases import results, tensors

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")


def run(exported, arrays):
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(exported.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, dict(zip([one.name for one in session.get_inputs()], arrays, strict=True)))


def check(function, arrays, expected=None, rtol=2e-5, atol=2e-5, **settings):
    given = [ndl.Tensor(array, requires_grad=False) for array in arrays]
    exported = ndl.onnx.export(function, given, **settings)
    wanted = [one.numpy() for one in flatten(function(*given))] if expected is None else expected
    found = run(exported, arrays)
    for one, other in zip(found, wanted, strict=True):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        np.testing.assert_allclose(one, other, rtol=rtol, atol=atol)
    return exported


# NumPy has no bfloat16 of its own, so that ONNX Runtime does not give it to Python. What drops weights by a hash is for
# training, and ONNX shifts no bits as it does.
CASES = [
    case
    for case in all_cases()
    if not case.data_dependent and case.name != "astype_bfloat16" and "dropping" not in case.name
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_operator_gives_the_same_results(case):
    dtype = "float32" if "float32" in case.dtypes else case.dtypes[0]
    for shapes in case.shapes:
        arrays = case.draw(shapes, dtype)
        expected = [one.numpy() for one in results(case.call(*tensors(case, arrays)))]
        check(lambda *xs: results(case.call(*xs)), arrays, expected)


def test_every_primitive_is_known_but_for_those_that_onnx_has_not():
    never_met = {"widening_matmul", "multiply_add", "repeat", "result"}  # made by passes; loops, written out before
    unknown = {name for name in PRIMITIVES if not PrimitiveWriter.knows(name)} - never_met
    assert unknown == {"arctan2", "copysign", "left_shift", "right_shift", "signbit"}


# name: (the layer, the shapes of its inputs, the axis of the batch)
LAYERS = {
    "Linear": (lambda: nn.Linear(5, 3), [(4, 5)], 0),
    "Linear of one": (lambda: nn.Linear(1, 1, bias=False), [(1, 1)], 0),
    "Linear over sequences": (lambda: nn.Linear(5, 3), [(2, 4, 5)], 0),
    "Conv": (lambda: nn.Conv(2, 3, 3, 2), [(2, 2, 9, 8)], 0),
    "Conv1d": (lambda: nn.Conv1d(4, 6, 3, dilation=2, groups=2, padding="same"), [(2, 4, 11)], 0),
    "Conv2d": (lambda: nn.Conv2d(4, 4, (2, 3), (1, 2), [(1, 0), (2, 1)], groups=4), [(1, 4, 5, 6)], 0),
    "Conv3d": (lambda: nn.Conv3d(1, 2, 2), [(1, 1, 3, 4, 5)], 0),
    "ConvTranspose1d": (lambda: nn.ConvTranspose1d(2, 3, 4, 3, output_padding=2), [(1, 2, 7)], 0),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(4, 6, 3, 2, 1, 1, 2, dilation=2), [(2, 4, 5, 4)], 0),
    "ConvTranspose3d": (lambda: nn.ConvTranspose3d(2, 1, 2, 2), [(1, 2, 2, 3, 2)], 0),
    "AvgPool1d": (lambda: nn.AvgPool1d(3, 2, padding=1), [(2, 3, 7)], 0),
    "AvgPool2d": (lambda: nn.AvgPool2d(3, 2, padding=1, count_include_pad=False), [(2, 3, 7, 6)], 0),
    "MaxPool1d": (lambda: nn.MaxPool1d(3, padding=1, dilation=2), [(2, 3, 9)], 0),
    "MaxPool2d": (lambda: nn.MaxPool2d((3, 2), 2, padding=1), [(2, 3, 7, 6)], 0),
    "AdaptiveAvgPool1d": (lambda: nn.AdaptiveAvgPool1d(3), [(2, 3, 7)], 0),
    "AdaptiveAvgPool2d": (lambda: nn.AdaptiveAvgPool2d((3, 1)), [(2, 3, 7, 6)], 0),
    "AvgPool2d over the end": (lambda: nn.AvgPool2d(3, 2, ceil_mode=True), [(2, 3, 6, 8)], 0),
    "AvgPool3d": (lambda: nn.AvgPool3d(2), [(1, 2, 2, 4, 5)], 0),
    "MaxPool2d over the end": (lambda: nn.MaxPool2d(3, 2, padding=1, ceil_mode=True), [(2, 3, 6, 7)], 0),
    "MaxPool3d": (lambda: nn.MaxPool3d(2), [(1, 2, 2, 4, 5)], 0),
    "AdaptiveAvgPool3d": (lambda: nn.AdaptiveAvgPool3d(1), [(1, 2, 2, 4, 5)], 0),
    "AdaptiveMaxPool1d": (lambda: nn.AdaptiveMaxPool1d(2), [(2, 3, 7)], 0),
    "AdaptiveMaxPool3d": (lambda: nn.AdaptiveMaxPool3d(1), [(1, 2, 2, 4, 5)], 0),
    "AdaptiveMaxPool2d": (lambda: nn.AdaptiveMaxPool2d(2), [(2, 3, 7, 5)], 0),
    "Upsample": (lambda: nn.Upsample(scale_factor=2), [(2, 3, 3, 4)], 0),
    "Upsample bilinear": (lambda: nn.Upsample((5, 7), mode="bilinear"), [(2, 3, 3, 4)], 0),
    "Dropout1d": (lambda: nn.Dropout1d(0.5), [(2, 3, 4)], 0),
    "Dropout3d": (lambda: nn.Dropout3d(0.5), [(2, 3, 2, 1, 4)], 0),
    "Dropout2d": (lambda: nn.Dropout2d(0.5), [(2, 3, 3, 4)], 0),
    "BatchNorm1d": (lambda: nn.BatchNorm1d(3), [(4, 3)], 0),
    "BatchNorm2d": (lambda: nn.BatchNorm2d(3), [(2, 3, 4, 5)], 0),
    "BatchNorm3d": (lambda: nn.BatchNorm3d(3), [(2, 3, 2, 4, 5)], 0),
    "InstanceNorm3d": (lambda: nn.InstanceNorm3d(3), [(2, 3, 2, 4, 5)], 0),
    "InstanceNorm1d": (lambda: nn.InstanceNorm1d(3), [(2, 3, 4)], 0),
    "InstanceNorm2d": (lambda: nn.InstanceNorm2d(3, affine=True), [(2, 3, 4, 5)], 0),
    "LayerNorm": (lambda: nn.LayerNorm((3, 4)), [(2, 3, 4)], 0),
    "LayerNorm1d": (lambda: nn.LayerNorm1d(4), [(3, 4)], 0),
    "GroupNorm": (lambda: nn.GroupNorm(2, 6), [(2, 6, 5)], 0),
    "RMSNorm": (lambda: nn.RMSNorm(4), [(3, 4)], 0),
    "RNN": (lambda: nn.RNN(3, 4, 2, nonlinearity="relu"), [(5, 2, 3)], 1),
    "LSTM": (lambda: nn.LSTM(3, 4, 2, bidirectional=True), [(5, 2, 3)], 1),
    "LSTM batch first": (lambda: nn.LSTM(3, 4, batch_first=True), [(2, 1, 3)], 0),
    "LSTM long": (lambda: nn.LSTM(3, 4), [(20, 2, 3)], 1),
    "GRU": (lambda: nn.GRU(3, 4, bidirectional=True), [(5, 2, 3)], 1),
    "RNNCell": (lambda: nn.RNNCell(3, 4), [(2, 3), (2, 4)], 0),
    "LSTMCell": (lambda: nn.LSTMCell(3, 4), [(2, 3)], 0),
    "GRUCell": (lambda: nn.GRUCell(3, 4), [(2, 3), (2, 4)], 0),
    "MultiHeadAttention": (lambda: nn.MultiHeadAttention(causal=True), [(2, 3, 4, 5)] * 3, 0),
    "AttentionLayer": (lambda: nn.AttentionLayer(6, 2, 3), [(2, 4, 6)], 0),
    "TransformerLayer": (lambda: nn.TransformerLayer(6, 2, 3, 8, dropout=0.1), [(2, 4, 6)], 0),
    "Transformer": (lambda: nn.Transformer(6, 8, 2, num_head=2, dim_head=3, sequence_len=9), [(4, 2, 6)], 1),
    "Dropout": (lambda: nn.Dropout(0.5), [(2, 3)], 0),
    "Flatten": (nn.Flatten, [(2, 3, 4)], 0),
    "Residual": (lambda: nn.Residual(nn.Linear(3, 3)), [(2, 3)], 0),
    "Identity": (nn.Identity, [(2, 3)], 0),
    **{name: (getattr(nn, name), [(2, 4)], 0) for name in nn.activation.__all__},
    "MSELoss": (nn.MSELoss, [(2, 3), (2, 3)], None),
    "L1Loss": (nn.L1Loss, [(2, 3), (2, 3)], None),
    "HuberLoss": (nn.HuberLoss, [(2, 3), (2, 3)], None),
    "Attention": (lambda: nn.Attention(8, 2), [(2, 5, 8)], 0),
    "TransformerEncoderLayer": (lambda: nn.TransformerEncoderLayer(8, 2, activation="gelu"), [(2, 5, 8)], 0),
    "TransformerDecoderLayer": (lambda: nn.TransformerDecoderLayer(8, 2), [(2, 5, 8), (2, 3, 8)], 0),
    "TransformerEncoder": (lambda: nn.TransformerEncoder(2, 8, 2, norm_first=True), [(2, 5, 8)], 0),
    "TransformerDecoder": (lambda: nn.TransformerDecoder(2, 8, 2), [(2, 5, 8), (2, 3, 8)], 0),
    "SinusoidalPositions": (lambda: nn.SinusoidalPositions(6, 9), [(2, 5, 6)], 0),
    "LearnedPositions": (lambda: nn.LearnedPositions(6, 9), [(2, 5, 6)], 0),
    "RotaryPositions": (lambda: nn.RotaryPositions(6, 9), [(2, 5, 6)], 0),
    "Sequential": (lambda: nn.Sequential(nn.Linear(3, 4), nn.ReLU()), [(2, 3)], 0),
    "MLPResNet": (lambda: MLPResNet(8, hidden_dim=6), [(3, 8)], 0),
    "ResNet9": (ResNet9, [(2, 3, 16, 16)], 0),
}


# Containers that are not called, and what has labels or probabilities, which the table of operators covers.
OTHERS = {"Module", "ModuleList", "ModuleDict", "Embedding"} | {name for name in nn.__all__ if name.endswith("Loss")}


def test_every_layer_has_a_row():
    layers = {name for name in nn.__all__ if isinstance(getattr(nn, name), type)}
    layers = {name for name in layers if issubclass(getattr(nn, name), nn.Module)} - OTHERS
    assert layers <= LAYERS.keys()


def make(name):
    np.random.seed(0)
    layer, shapes, axis = LAYERS[name]
    layer = layer().eval()
    rng = np.random.default_rng(1)
    for tensor in [*layer.parameters(), *layer.buffers()]:
        tensor.cached_data = rng.uniform(0.1, 1, tensor.shape).astype("float32")
    return layer, [rng.normal(size=shape).astype("float32") for shape in shapes], axis


@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_gives_the_same_results(name):
    layer, arrays, _ = make(name)
    exported = check(layer, arrays, rtol=1e-4, atol=1e-4)
    assert {one.name for one in exported.graph.input}.isdisjoint(one.name for one in exported.graph.initializer)


@pytest.mark.parametrize("name", [name for name, (_, _, axis) in LAYERS.items() if axis is not None])
def test_every_layer_takes_any_batch_where_it_is_open(name):
    layer, arrays, axis = make(name)
    exported = ndl.onnx.export(layer, [ndl.Tensor(one) for one in arrays], batch_axis=axis)
    for size in (1, 3):
        resized = [np.repeat(np.take(one, [0], axis), size, axis) for one in arrays]
        expected = flatten(layer(*map(ndl.Tensor, resized)))
        for one, other in zip(run(exported, resized), expected, strict=True):
            np.testing.assert_allclose(one, other.numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "operator"), [("MaxPool2d", "MaxPool"), ("AvgPool2d", "AveragePool"), ("Conv", "Conv")]
)
def test_windows_are_written_as_onnx_has_them(name, operator):
    layer, arrays, axis = make(name)
    exported = ndl.onnx.export(layer, arrays, batch_axis=axis)
    written = [node.op_type for node in exported.graph.node]
    assert operator in written
    assert "Slice" not in written


def test_embedding_and_labels_are_integers():
    layer, loss = nn.Embedding(7, 3), nn.CrossEntropyLoss()
    check(layer, [np.array([[0, 6, 1]])])
    check(loss, [np.random.rand(2, 3).astype("float32"), np.array([2, 0])])


def test_double_precision_is_kept():
    layer = nn.Linear(3, 2, dtype="float64")
    check(layer, [np.random.rand(4, 3)], rtol=1e-14, atol=0)


def test_parameters_and_inputs_are_named_and_the_rest_is_gone():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU()).eval()
    exported = ndl.onnx.export(model, [np.zeros((2, 3), "float32")], batch_axis=0, output_names=["y"])
    names = [one.name for one in exported.graph.initializer]
    assert names[:2] == ["modules.0.weight", "modules.0.bias"]
    assert [name.split("_")[0] for name in names[2:]] == ["modules.1.running", "modules.1.weight", "modules.1.bias"]
    assert [one.name for one in exported.graph.input] == ["x"]
    assert [one.name for one in exported.graph.output] == ["y"]
    assert exported.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    used = {name for node in exported.graph.node for name in node.input}
    assert set(names) <= used
    assert "Sqrt" not in [node.op_type for node in exported.graph.node]


def test_inputs_and_results_may_be_nested():
    def function(pair, by_name):
        return {"sum": pair[0] + pair[1], "parts": (by_name["c"] * 2, pair[0])}

    a, b, c = (ndl.init.rand(2, 3) for _ in range(3))
    exported = ndl.onnx.export(function, [(a, b), {"c": c}], input_names=["a", "b", "c"])
    found = run(exported, [a.numpy(), b.numpy(), c.numpy()])
    for one, other in zip(found, (a + b, c * 2, a), strict=True):
        np.testing.assert_array_equal(one, other.numpy())


def test_a_compiled_function_and_one_with_a_scalar_are_exported():
    factor = ndl.Tensor(3.0, dtype="float32")
    check(ndl.jit(lambda x: x * factor + 1), [np.ones((2, 2), "float32")])
    check(lambda x: x.sum(), [np.ones((), "float32")])


def test_a_file_is_written_whole(tmp_path):
    path = tmp_path / "model.onnx"
    exported = ndl.onnx.export(nn.Linear(2, 1), [ndl.init.rand(3, 2)], path)
    assert onnx.load(path) == exported
    assert [one.name for one in tmp_path.iterdir()] == ["model.onnx"]
    with pytest.raises(FileNotFoundError):
        ndl.onnx.export(nn.Linear(2, 1), [ndl.init.rand(3, 2)], tmp_path / "none" / "model.onnx")


def test_nothing_is_changed_by_an_export():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).eval()
    before = model.state_dict()
    ndl.onnx.export(model, [ndl.init.rand(2, 3)])
    for name, array in before.items():
        np.testing.assert_array_equal(model.state_dict()[name], array)


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        (nn.Dropout(0.5), TraceError, r"draws random numbers.*model.eval\(\)"),
        (nn.BatchNorm1d(3), TraceError, r"changes state.*model.eval\(\)"),
        (lambda x: x if x.sum() > 0 else -x, TraceError, "a branch on a value"),
    ],
    ids=["draws", "state", "branch"],
)
def test_what_a_file_cannot_hold_is_told(model, error, message):
    with pytest.raises(error, match=message):
        ndl.onnx.export(model, [ndl.init.rand(2, 3)])


def test_impossible_settings_are_told():
    x = ndl.init.rand(2, 3)
    with pytest.raises(DTypeError, match="an input is a Tensor or an array, got float"):
        ndl.onnx.export(abs, [1.0])
    with pytest.raises(SettingError, match="input_names are 1 different names"):
        ndl.onnx.export(abs, [x], input_names=["a", "b"])
    with pytest.raises(SettingError, match="batch_axis is 2, and an input has shape"):
        ndl.onnx.export(abs, [x], batch_axis=2)
    with pytest.raises(CompileError, match="leave out batch_axis"):
        ndl.onnx.export(lambda x: x * x.shape[0], [x], batch_axis=0)
    with pytest.raises(CompileError, match="leave out batch_axis"):
        ndl.onnx.export(lambda x: x.sum() if x.shape[0] == 5 else x.mean(), [x], batch_axis=0)


def test_a_missing_package_is_told(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(MissingExtraError, match=r"needle-dl\[onnx\]"):
        ndl.onnx.export(abs, [ndl.init.rand(2)])
