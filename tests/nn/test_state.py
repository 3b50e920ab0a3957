"""Saving a module's state and putting it back."""

import numpy as np
import pytest

import needle as ndl
from needle import nn
from needle.errors import CheckpointError, DTypeError

LAYERS = {
    "Linear": lambda: nn.Linear(4, 3),
    "BatchNorm1d": lambda: nn.BatchNorm1d(4),
    "BatchNorm2d": lambda: nn.BatchNorm2d(4),
    "InstanceNorm1d": lambda: nn.InstanceNorm1d(4, affine=True, track_running_stats=True),
    "InstanceNorm2d": lambda: nn.InstanceNorm2d(4),
    "GroupNorm": lambda: nn.GroupNorm(2, 4),
    "LayerNorm": lambda: nn.LayerNorm((2, 2)),
    "LayerNorm1d": lambda: nn.LayerNorm1d(4),
    "RMSNorm": lambda: nn.RMSNorm(4),
    "Dropout": nn.Dropout,
    "ReLU": nn.ReLU,
    "Residual": lambda: nn.Residual(nn.Linear(2, 2)),
    "Sequential": lambda: nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)),
    "ModuleList": lambda: nn.ModuleList([nn.Linear(2, 2)]),
    "ModuleDict": lambda: nn.ModuleDict({"a": nn.Linear(2, 2)}),
    "SoftmaxLoss": nn.SoftmaxLoss,
}


def state_of(module):
    return {name: array.copy() for name, array in module.state_dict().items()}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", LAYERS)
def test_state_goes_round_through_every_layer(name, dtype):
    module, twin = LAYERS[name]().to(dtype=dtype), LAYERS[name]().to(dtype=dtype)
    rng = np.random.default_rng(0)
    for tensor in (*module.parameters(), *module.buffers()):
        tensor.data = ndl.Tensor(rng.standard_normal(tensor.shape), dtype=dtype)
    before = [*twin.parameters(), *twin.buffers()]
    assert twin.load_state_dict(module.state_dict()) == ([], [])
    assert all(a is b for a, b in zip([*twin.parameters(), *twin.buffers()], before, strict=True))
    assert list(twin.state_dict()) == list(module.state_dict())
    for key, array in module.state_dict().items():
        assert type(array) is np.ndarray
        np.testing.assert_array_equal(twin.state_dict()[key], array)
        assert twin.state_dict()[key].dtype == dtype


def test_state_is_a_copy_both_ways():
    layer = nn.Linear(2, 2)
    state = layer.state_dict()
    state["weight"][:] = 5
    assert not (layer.weight.numpy() == 5).any()
    layer.load_state_dict(state)
    state["weight"][:] = 6
    assert (layer.weight.numpy() == 5).all()


def test_state_may_be_given_as_tensors_and_lists():
    layer = nn.Linear(1, 2)
    layer.load_state_dict({"weight": ndl.Tensor([[1.0, 2.0]]), "bias": [[3.0, 4.0]]})
    np.testing.assert_array_equal(layer.weight.numpy(), [[1, 2]])
    np.testing.assert_array_equal(layer.bias.numpy(), [[3, 4]])
    assert layer.weight.dtype == "float32"


def test_a_misfit_lists_all_that_is_wrong_and_changes_nothing():
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    before = state_of(model)
    state = state_of(model)
    del state["modules.0.bias"], state["modules.1.running_mean"]
    state["modules.0.weight"] = np.zeros((3, 2), dtype="float32")
    state["modules.1.bias"] = np.zeros(3, dtype="int64")
    state["modules.1.weight"] = np.full(3, 9, dtype="float32")
    state["extra"] = np.zeros(1)
    with pytest.raises(CheckpointError) as raised:
        model.load_state_dict(state)
    assert str(raised.value) == "\n    ".join(
        [
            "the state does not fit the module:",
            "missing: modules.0.bias float32 (1, 3)",
            "missing: modules.1.running_mean float32 (3,)",
            "unexpected: extra float64 (1,)",
            "misshapen: modules.0.weight is float32 (2, 3), got float32 (3, 2)",
            "misshapen: modules.1.bias is float32 (3,), got int64 (3,)",
        ]
    )
    for name, array in state_of(model).items():
        np.testing.assert_array_equal(array, before[name])


def test_loading_loosely_tells_what_was_left_alone():
    layer = nn.Linear(2, 2)
    bias = layer.bias.numpy()
    missing, unexpected = layer.load_state_dict({"weight": np.eye(2), "more": np.ones(1)}, strict=False)
    assert (missing, unexpected) == (["bias"], ["more"])
    np.testing.assert_array_equal(layer.weight.numpy(), np.eye(2))
    np.testing.assert_array_equal(layer.bias.numpy(), bias)
    with pytest.raises(CheckpointError, match=r"misshapen: weight is float32 \(2, 2\), got float64 \(2,\)"):
        layer.load_state_dict({"weight": np.ones(2)}, strict=False)


def test_a_shared_parameter_is_saved_under_both_names_and_stays_shared():
    layer = nn.Linear(2, 2, bias=False)
    model = nn.Sequential(layer, layer)
    state = model.state_dict()
    assert list(state) == ["modules.0.weight", "modules.1.weight"]
    assert state["modules.0.weight"] is not state["modules.1.weight"]
    model.load_state_dict({name: np.full((2, 2), np.nan) for name in state})
    assert model[0].weight is model[1].weight
    with pytest.raises(
        CheckpointError, match=r"contradictory: modules\.0\.weight and modules\.1\.weight are one shared"
    ):
        model.load_state_dict({"modules.0.weight": np.eye(2), "modules.1.weight": np.zeros((2, 2))})


def test_two_tensors_of_one_name_are_refused():
    model = nn.Sequential()
    model.parts = {1: nn.Parameter([1.0]), "1": nn.Parameter([2.0])}
    with pytest.raises(CheckpointError, match=r"two different parameters or buffers are both reached as parts\.1"):
        model.state_dict()


def test_what_is_no_state_is_refused():
    with pytest.raises(DTypeError, match="load_state_dict takes a dict of arrays by path, got list"):
        nn.Linear(1, 1).load_state_dict([1])
    with pytest.raises(CheckpointError, match="the state holds no array of numbers under weight, but object"):
        nn.Linear(1, 1).load_state_dict({"weight": object()})
