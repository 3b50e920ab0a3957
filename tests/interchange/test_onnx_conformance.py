"""ONNX's own tests of operators: a loaded model gives the results that they expect, or says what it cannot do."""

import warnings

import numpy as np
import pytest

import needle as ndl
from needle.errors import CheckpointError, DTypeError, ShapeError
from needle.jit.arguments import flatten
from needle.onnx.operators import OPERATORS

onnx = pytest.importorskip("onnx")

# Inputs that must be known when the model is loaded, by their places.
FIXED = {
    **dict.fromkeys(("Expand", "Reshape", "Split", "Squeeze", "Tile", "Unsqueeze", "CumSum", "OneHot", "Trilu"), (1,)),
    **dict.fromkeys((name for name in OPERATORS if name.startswith("Reduce")), (1,)),
    "Pad": (1, 2, 3),
    "Slice": (1, 2, 3, 4),
    "Range": (0, 1, 2),
    "ConstantOfShape": (0,),
    "Dropout": (2,),
}
# a − ⌊a/b⌋·b is not what IEEE's remainder is for infinities and zeros.
DIFFERENT = {f"test_mod_float_edge_cases_fmod_0_float{bits}" for bits in (16, 32, 64)}


def cases():
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        collect = pytest.importorskip("onnx.backend.test.case.node").collect_testcases
        return [(one.name, one.model, *data) for one in collect(None) for data in one.data_sets or []]


def is_known(model):
    return {node.op_type for node in model.graph.node} <= OPERATORS.keys() | {"Constant"}


def array(value):
    return onnx.numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else np.asarray(value)


def results(model, inputs):
    given = dict(zip([one.name for one in model.graph.input], map(array, inputs), strict=False))
    places = [(node.input, place) for node in model.graph.node for place in FIXED.get(node.op_type, ())]
    for name in {names[place] for names, place in places if place < len(names)} & given.keys():
        model.graph.initializer.append(onnx.numpy_helper.from_array(given[name], name))
    loaded = ndl.onnx.load(model)
    return [one.numpy() for one in flatten(loaded(*(ndl.Tensor(given[name]) for name in loaded.input_names)))]


def outcome(model, inputs, expected):
    try:
        found = results(model, inputs)
    except (CheckpointError, DTypeError, ShapeError):
        return "refused"
    for one, other in zip(found, map(array, expected), strict=True):
        digits = 2e-2 if other.dtype == ndl.bfloat16 else 1e-3
        is_same = one.shape == other.shape and one.dtype == other.dtype
        if not is_same or not np.allclose(one.astype(float), other.astype(float), digits, digits / 10, equal_nan=True):
            return "different"
    return "same"


@pytest.mark.filterwarnings("ignore")
def test_results_are_those_of_onnx_or_a_refusal():
    found = {}
    for name, model, inputs, expected in cases():
        if is_known(model):
            found.setdefault(outcome(model, inputs, expected), []).append(name)
    assert set(found["different"]) <= DIFFERENT
    assert len(found["same"]) > 400
