"""Loaded ONNX models compute what ONNX Runtime computes, and are modules like any other."""

import io
import pickle
from pathlib import Path

import numpy as np
import pytest

import needle as ndl
from needle import nn
from needle.errors import CheckpointError, DTypeError, ShapeError
from needle.jit.arguments import flatten

from .test_onnx_export import LAYERS, make, run

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
helper = onnx.helper
RNG = np.random.default_rng(0)


def f(*shape):
    return RNG.normal(size=shape).astype("float32")


def positive(*shape):
    return RNG.uniform(0.5, 2, shape).astype("float32")


def i(*values):
    return np.array(values, dtype=np.int64)


def flags(*values):
    return np.array(values, dtype=bool)


def model_of(operator, inputs, fixed=(), results=1, version=18, **attributes):
    """Return a model of one operator: `inputs` are the model's, `fixed` known by their places, None left out."""
    names = [f"x{n}" for n in range(len(inputs))]
    known = {f"c{n}": array for n, array in enumerate(fixed) if array is not None}
    given = [*names, *(f"c{n}" if array is not None else "" for n, array in enumerate(fixed))]
    outputs = [f"y{n}" for n in range(results)]
    node = helper.make_node(operator, given, outputs, **attributes)
    graph = helper.make_graph(
        [node],
        "one",
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            for name, array in zip(names, inputs, strict=True)
        ],
        [helper.make_empty_tensor_value_info(name) for name in outputs],
        [onnx.numpy_helper.from_array(array, name) for name, array in known.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)], ir_version=9)
    return onnx.shape_inference.infer_shapes(model)


ONE = [
    *("Abs", "Ceil", "Cos", "Cosh", "Elu", "Erf", "Exp", "Floor", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu"),
    *(
        "LogSoftmax",
        "Neg",
        "Relu",
        "Round",
        "Selu",
        "Sigmoid",
        "Sign",
        "Sin",
        "Sinh",
        "Softmax",
        "Softplus",
        "Tan",
        "Tanh",
    ),
    *("Shape", "Transpose", "Flatten", "IsNaN", "IsInf", "Dropout"),
]
TWO = ["Add", "Sub", "Mul", "Div", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Equal", "PRelu"]
CASES = {
    **{name: (name, [f(2, 3)], [], {}) for name in ONE},
    **{name: (name, [positive(2, 3)], [], {}) for name in ("Log", "Sqrt", "Reciprocal")},
    **{name: (name, [f(2, 3), f(3)], [], {}) for name in TWO},
    **{name: (name, [f(2, 3), f(2, 3), f(1, 3)], [], {}) for name in ("Max", "Min", "Sum", "Mean")},
    **{name: (name, [flags([1, 0, 1]), flags([1, 1, 0])], [], {}) for name in ("And", "Or", "Xor")},
    "Not": ("Not", [flags(1, 0)], [], {}),
    "Elu alpha": ("Elu", [f(4)], [], {"alpha": 0.5}),
    "Gelu": ("Gelu", [f(4)], [], {"version": 20}),
    "Gelu tanh": ("Gelu", [f(4)], [], {"version": 20, "approximate": "tanh"}),
    "Div of integers": ("Div", [i(7, -7, 7), i(2, 2, -2)], [], {}),
    "Mod": ("Mod", [i(7, -7, 7), i(2, 3, -3)], [], {}),
    "Mod of floats": ("Mod", [f(5), positive(5)], [], {"fmod": 1}),
    "Pow": ("Pow", [positive(3), f(3)], [], {}),
    "Pow number": ("Pow", [f(3)], [np.array(2.0, "float32")], {}),
    "Clip": ("Clip", [f(9)], [np.array(-0.5, "float32"), np.array(0.25, "float32")], {}),
    "Clip above": ("Clip", [f(9)], [None, np.array(0.25, "float32")], {}),
    "Where": ("Where", [flags(1, 0, 1), f(2, 3), f(3)], [], {}),
    "Cast": ("Cast", [3 * f(9)], [], {"to": onnx.TensorProto.INT32}),
    "Cast to bool": ("Cast", [np.array([0.0, 0.5, -1.0], "float32")], [], {"to": onnx.TensorProto.BOOL}),
    **{
        f"{name} {keep}": (name, [f(2, 3, 4)], [i(0, -1)], {"keepdims": keep})
        for name in ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL2", "ReduceSumSquare")
        for keep in (0, 1)
    },
    "ReduceSum all": ("ReduceSum", [f(2, 3)], [], {}),
    "ReduceSum nothing": ("ReduceSum", [f(2, 3)], [i()], {"noop_with_empty_axes": 1}),
    "ReduceMean of old": ("ReduceMean", [f(2, 3)], [], {"version": 13, "axes": [1]}),
    "ArgMax": ("ArgMax", [f(3, 4)], [], {"axis": 1, "keepdims": 0}),
    "ArgMin": ("ArgMin", [f(3, 4)], [], {}),
    "CumSum": ("CumSum", [f(3, 4)], [i(1).reshape(())], {}),
    "MatMul": ("MatMul", [f(2, 3, 4), f(4, 5)], [], {}),
    "MatMul of vectors": ("MatMul", [f(4), f(4)], [], {}),
    "MatMul of a vector": ("MatMul", [f(2, 3, 4), f(4)], [], {}),
    "MatMul by a vector": ("MatMul", [f(3), f(2, 3, 4)], [], {}),
    "Gemm": ("Gemm", [f(2, 3)], [f(4, 3), f(4)], {"transB": 1, "alpha": 0.5, "beta": 2.0}),
    "Gemm transposed": ("Gemm", [f(3, 2)], [f(3, 4)], {"transA": 1}),
    "Einsum": ("Einsum", [f(2, 3), f(4, 3)], [], {"equation": "ij, kj -> ik"}),
    "Reshape": ("Reshape", [f(2, 3, 4)], [i(0, -1)], {}),
    "Transpose by": ("Transpose", [f(2, 3, 4)], [], {"perm": [1, 2, 0]}),
    "Flatten at": ("Flatten", [f(2, 3, 4)], [], {"axis": -1}),
    "Flatten all": ("Flatten", [f(2, 3)], [], {"axis": 0}),
    "Squeeze": ("Squeeze", [f(1, 3, 1)], [i(-1)], {}),
    "Squeeze all": ("Squeeze", [f(1, 3, 1)], [], {}),
    "Unsqueeze": ("Unsqueeze", [f(2, 3)], [i(0, -1)], {}),
    "Concat": ("Concat", [f(2, 3), f(2, 1)], [], {"axis": -1}),
    "Split": ("Split", [f(2, 6)], [i(1, 5)], {"axis": 1, "results": 2}),
    "Split evenly": ("Split", [f(5, 2)], [], {"num_outputs": 2, "results": 2}),
    "Slice": ("Slice", [f(5, 6)], [i(1, -1), i(100, -100), i(0, 1), i(2, -2)], {}),
    "Slice in front": ("Slice", [f(5, 6)], [i(-3), i(-1)], {}),
    "Gather": ("Gather", [f(4, 3), i([0, -1], [2, 2])], [], {}),
    "Gather fixed": ("Gather", [f(4, 3)], [i(2).reshape(())], {"axis": 1}),
    "Expand": ("Expand", [f(3, 1)], [i(2, 1, 4)], {}),
    "Tile": ("Tile", [f(2, 3)], [i(3, 2)], {}),
    "Pad": ("Pad", [f(2, 3)], [i(1, 0, 0, 2), np.array(1.5, "float32")], {}),
    "Pad an axis": ("Pad", [f(2, 3)], [i(1, 2), None, i(-1)], {}),
    "Pad mirrored": ("Pad", [f(3, 4)], [i(1, 0, 2, 3)], {"mode": "reflect"}),
    "Pad repeated": ("Pad", [f(3, 4)], [i(1, 0, 2, 5)], {"mode": "edge"}),
    "OneHot": ("OneHot", [i(0, 2, -1)], [i(3).reshape(()), np.array([-1.0, 5.0], "float32")], {"axis": 0}),
    "Trilu": ("Trilu", [f(3, 4)], [i(1).reshape(())], {"upper": 0}),
    "ScatterND": ("ScatterND", [f(4, 2), i([1], [1], [3]), f(3, 2)], [], {"reduction": "add"}),
    "Shape part": ("Shape", [f(2, 3, 4)], [], {"start": 1, "end": -1}),
    "Conv": ("Conv", [f(2, 4, 7, 6)], [f(6, 2, 3, 2), f(6)], {"group": 2, "strides": [2, 1], "pads": [1, 0, 2, 1]}),
    "Conv same": ("Conv", [f(1, 2, 7)], [f(3, 2, 4)], {"auto_pad": "SAME_UPPER", "strides": [2]}),
    "Conv same lower": ("Conv", [f(1, 2, 7)], [f(3, 2, 4)], {"auto_pad": "SAME_LOWER", "dilations": [1]}),
    "ConvTranspose": (
        "ConvTranspose",
        [f(1, 4, 5, 4)],
        [f(4, 3, 3, 2), f(6)],
        {"group": 2, "strides": [2, 1], "pads": [1, 0, 0, 1], "output_padding": [1, 0]},
    ),
    "MaxPool": ("MaxPool", [f(2, 3, 7, 8)], [], {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 0, 1, 1]}),
    "AveragePool": ("AveragePool", [f(1, 2, 7)], [], {"kernel_shape": [3], "strides": [2], "pads": [1, 1]}),
    "AveragePool all": (
        "AveragePool",
        [f(1, 2, 7)],
        [],
        {"kernel_shape": [3], "pads": [1, 0], "count_include_pad": 1},
    ),
    "GlobalAveragePool": ("GlobalAveragePool", [f(2, 3, 4, 5)], [], {}),
    "GlobalMaxPool": ("GlobalMaxPool", [f(2, 3, 4)], [], {}),
    "BatchNormalization": ("BatchNormalization", [f(2, 3, 4)], [f(3), f(3), f(3), positive(3)], {"epsilon": 0.01}),
    "InstanceNormalization": ("InstanceNormalization", [f(2, 3, 4)], [f(3), f(3)], {}),
    "LayerNormalization": ("LayerNormalization", [f(2, 3, 4)], [f(3, 4), f(3, 4)], {"axis": 1}),
    "LayerNormalization last": ("LayerNormalization", [f(2, 3, 4)], [f(4)], {}),
    "LSTM": ("LSTM", [f(5, 2, 3)], [f(1, 16, 3), f(1, 16, 4), f(1, 32)], {"hidden_size": 4, "results": 3}),
    "LSTM both ways": (
        "LSTM",
        [f(5, 2, 3)],
        [f(2, 16, 3), f(2, 16, 4), f(2, 32), None, f(2, 2, 4), f(2, 2, 4)],
        {"hidden_size": 4, "results": 3, "direction": "bidirectional"},
    ),
    "LSTM backwards": (
        "LSTM",
        [f(5, 2, 3)],
        [f(1, 16, 3), f(1, 16, 4)],
        {"hidden_size": 4, "results": 2, "direction": "reverse"},
    ),
    "GRU": (
        "GRU",
        [f(5, 2, 3)],
        [f(2, 12, 3), f(2, 12, 4), f(2, 24)],
        {"hidden_size": 4, "results": 2, "direction": "bidirectional", "linear_before_reset": 1},
    ),
    "RNN": ("RNN", [f(5, 1, 3)], [f(1, 4, 3), f(1, 4, 4), f(1, 8)], {"hidden_size": 4, "results": 2}),
    "RNN relu": ("RNN", [f(5, 1, 3)], [f(1, 4, 3), f(1, 4, 4)], {"hidden_size": 4, "activations": ["Relu"]}),
    "ReduceL1": ("ReduceL1", [f(2, 3)], [i(1)], {}),
    "ReduceLogSumExp": ("ReduceLogSumExp", [f(2, 3)], [i(1)], {}),
    "CumSum backwards": ("CumSum", [f(3, 4)], [i(1).reshape(())], {"reverse": 1, "exclusive": 1}),
    "MaxPool rounded up": ("MaxPool", [f(1, 2, 6, 7)], [], {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
    "ArgMax last": ("ArgMax", [np.ones((2, 3), "float32")], [], {"axis": 1, "select_last_index": 1}),
    "LRN": ("LRN", [f(2, 5, 3, 1)], [], {"size": 3, "alpha": 0.1, "bias": 2.0}),
    "Softmax axis": ("Softmax", [f(2, 3, 4)], [], {"axis": 1}),
}


@pytest.mark.parametrize("name", CASES)
def test_operators_give_the_results_of_onnx_runtime(name):
    operator, inputs, fixed, settings = CASES[name]
    model = model_of(operator, inputs, fixed, **settings)
    expected = run(model, inputs)
    loaded = ndl.onnx.load(model)
    tensors = [ndl.Tensor(one) for one in inputs]
    for function in (loaded, ndl.jit(loaded)):
        for one, other in zip(flatten(function(*tensors)), expected, strict=True):
            assert (one.dtype, one.shape) == (other.dtype, other.shape)
            np.testing.assert_allclose(one.numpy(), other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["squeezenet", "shufflenet", "zfnet512"])
def test_networks_that_come_with_onnx_are_computed(name, tmp_path):
    """All their weights are alike: logits may be 10¹⁰, and a softmax of what differs in the last bit is one-hot."""
    folder = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
    if not (folder / f"light_{name}.onnx").exists():
        pytest.skip("this version of onnx comes without its light networks")
    model = onnx.load(folder / f"light_{name}.onnx")
    softmax = model.graph.node.pop()
    assert softmax.op_type == "Softmax"
    model.graph.output[0].name = softmax.input[0]
    model.graph.output[0].type.tensor_type.ClearField("shape")
    x = np.ones((1, 3, 224, 224), np.float32)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (expected,) = session.run(None, {session.get_inputs()[0].name: x})
    model.graph.output[0].CopyFrom(
        helper.make_tensor_value_info(softmax.input[0], onnx.TensorProto.FLOAT, expected.shape)
    )
    onnx.save(model, tmp_path / "logits.onnx")
    with ndl.no_grad():
        logits = ndl.onnx.load(tmp_path / "logits.onnx")(ndl.Tensor(x))
    np.testing.assert_allclose(logits.numpy(), expected, rtol=1e-4)
    whole = onnx.TensorProto.FromString((folder / f"light_{name}_output_0.pb").read_bytes())
    if np.abs(expected).max() < 100:
        probabilities = ndl.onnx.load(folder / f"light_{name}.onnx")(ndl.Tensor(x))
        np.testing.assert_allclose(probabilities.numpy(), onnx.numpy_helper.to_array(whole), rtol=1e-3, atol=1e-6)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["convolutional", "recurrent"])
def test_what_pytorch_exports_is_computed(kind):
    torch = pytest.importorskip("torch")
    tnn = torch.nn
    torch.manual_seed(0)
    if kind == "convolutional":
        layers = [
            tnn.Conv2d(1, 4, 3),
            tnn.BatchNorm2d(4),
            tnn.ReLU(),
            tnn.MaxPool2d(2),
            tnn.Flatten(),
            tnn.Linear(36, 3),
        ]
        theirs, x = tnn.Sequential(*layers).eval(), torch.rand(2, 1, 8, 8)
    else:
        theirs, x = tnn.LSTM(3, 4, 2, bidirectional=True).eval(), torch.rand(5, 2, 3)
    file = io.BytesIO()
    torch.onnx.export(theirs, (x,), file, dynamo=False)
    loaded = ndl.onnx.load(file.getvalue())
    with torch.no_grad():
        expected = flatten(tuple(one.numpy() for one in torch.utils._pytree.tree_leaves(theirs(x))))
    for one, other in zip(flatten(loaded(ndl.from_dlpack(x))), expected, strict=True):
        np.testing.assert_allclose(one.numpy(), other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_comes_back_as_it_was(name):
    layer, arrays, axis = make(name)
    inputs = [ndl.Tensor(one) for one in arrays]
    expected = flatten(layer(*inputs))
    loaded = ndl.onnx.load(ndl.onnx.export(layer, inputs, batch_axis=axis))
    for one, other in zip(flatten(loaded(*inputs)), expected, strict=True):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-4, atol=1e-4)


def test_a_loaded_model_is_a_module_like_any_other():
    np.random.seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2))
    x, y = ndl.init.rand(16, 3), ndl.Tensor(np.arange(16) % 2, requires_grad=False)
    loaded = ndl.onnx.load(ndl.onnx.export(model, [x], batch_axis=0))
    assert [name for name, _ in loaded.named_parameters()] == [f"arrays.{name}" for name, _ in model.named_parameters()]
    opt, loss_fn = ndl.optim.Adam(loaded.parameters(), lr=0.05), nn.SoftmaxLoss()

    @ndl.jit
    def step(x, y):
        opt.reset_grad()
        loss = loss_fn(loaded(x), y)
        loss.backward()
        opt.step()
        return loss

    losses = [float(step(x, y)) for _ in range(40)]
    assert losses[-1] < 0.5 * losses[0]
    again = ndl.onnx.load(ndl.onnx.export(loaded, [x], batch_axis=0))
    np.testing.assert_allclose(again(x[:5]).numpy(), loaded(x[:5]).numpy(), rtol=1e-6)
    copied = pickle.loads(pickle.dumps(loaded))  # noqa: S301  our own
    np.testing.assert_array_equal(copied(x).numpy(), loaded(x).numpy())


def test_running_statistics_are_buffers():
    loaded = ndl.onnx.load(model_of("BatchNormalization", [f(2, 3)], [f(3), f(3), f(3), positive(3)]))
    assert [name for name, _ in loaded.named_buffers()] == ["arrays.c2", "arrays.c3"]


def test_a_file_is_read(tmp_path):
    path = tmp_path / "model.onnx"
    x = ndl.init.rand(2, 3)
    layer = nn.Linear(3, 4)
    ndl.onnx.export(layer, [x], path)
    for source in (path, str(path), path.read_bytes()):
        np.testing.assert_allclose(ndl.onnx.load(source)(x).numpy(), layer(x).numpy(), rtol=1e-6)


def test_an_old_model_is_converted():
    loaded = ndl.onnx.load(model_of("Clip", [f(4)], version=6, min=-0.5, max=0.5))
    x = f(4)
    np.testing.assert_array_equal(loaded(ndl.Tensor(x)).numpy(), np.clip(x, -0.5, 0.5))


def test_what_cannot_be_read_is_told(tmp_path):
    with pytest.raises(CheckpointError, match="there is no file"):
        ndl.onnx.load(tmp_path / "none.onnx")
    (tmp_path / "cut.onnx").write_bytes(ndl.onnx.export(nn.Linear(2, 2), [f(1, 2)]).SerializeToString()[:-30])
    with pytest.raises(CheckpointError, match=r"cut\.onnx is no ONNX model"):
        ndl.onnx.load(tmp_path / "cut.onnx")
    with pytest.raises(CheckpointError, match="the bytes are no ONNX model"):
        ndl.onnx.load(b"nonsense")


def test_operators_that_are_not_there_are_listed():
    model = model_of("Det", [f(2, 2)])
    with pytest.raises(CheckpointError, match="operators that Needle has not: Det"):
        ndl.onnx.load(model)
    loaded = ndl.onnx.load(model_of("Pad", [f(2)], [i(-1, 1)]))
    with pytest.raises(CheckpointError, match="Pad with negative pads"):
        loaded(ndl.Tensor(f(2)))


def test_wrong_inputs_are_told_with_the_operator():
    loaded = ndl.onnx.load(model_of("MatMul", [f(2, 3)], [f(3, 4)]))
    with pytest.raises(DTypeError, match="the model takes x0: 1, got 2"):
        loaded(f(2, 3), f(2, 3))
    with pytest.raises(ShapeError) as caught:
        loaded(ndl.Tensor(f(2, 5)))
    assert "in the operator MatMul that computes 'y0'" in caught.value.__notes__
    loaded = ndl.onnx.load(model_of("Reshape", [f(4), i(2, 2)]))
    with pytest.raises(DTypeError, match="shape is computed from values"):
        loaded(ndl.Tensor(f(4)), ndl.Tensor(i(2, 2)))
