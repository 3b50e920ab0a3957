"""Models with PyTorch's weights give PyTorch's results, and the other way about."""

import numpy as np
import pytest

from needle import Tensor, nn
from needle.errors import CheckpointError, DTypeError
from needle.interchange import from_torch_state_dict, load_torch_file, save_torch_file, to_torch_state_dict

torch = pytest.importorskip("torch")
tnn = torch.nn

# name: (ours, theirs, the shape of an input)
PAIRS = {
    "linear": (lambda: nn.Linear(5, 3), lambda: tnn.Linear(5, 3), (4, 5)),
    "linear of one": (lambda: nn.Linear(1, 1), lambda: tnn.Linear(1, 1), (1, 1)),
    "linear without bias": (lambda: nn.Linear(5, 3, bias=False), lambda: tnn.Linear(5, 3, bias=False), (4, 5)),
    "conv": (lambda: nn.Conv(2, 3, 3, 2), lambda: tnn.Conv2d(2, 3, 3, 2, padding=1), (2, 2, 9, 8)),
    "conv1d": (
        lambda: nn.Conv1d(4, 6, 3, dilation=2, groups=2),
        lambda: tnn.Conv1d(4, 6, 3, dilation=2, groups=2),
        (2, 4, 11),
    ),
    "conv2d": (
        lambda: nn.Conv2d(2, 3, (2, 3), padding=(1, 2)),
        lambda: tnn.Conv2d(2, 3, (2, 3), padding=(1, 2)),
        (1, 2, 5, 6),
    ),
    "conv3d": (lambda: nn.Conv3d(1, 2, 2), lambda: tnn.Conv3d(1, 2, 2), (1, 1, 3, 4, 5)),
    "conv transpose": (
        lambda: nn.ConvTranspose2d(4, 6, 3, 2, 1, 1, groups=2),
        lambda: tnn.ConvTranspose2d(4, 6, 3, 2, 1, 1, groups=2),
        (2, 4, 5, 4),
    ),
    "conv transpose 1d": (lambda: nn.ConvTranspose1d(2, 3, 4), lambda: tnn.ConvTranspose1d(2, 3, 4), (1, 2, 7)),
    "batch norm": (lambda: nn.BatchNorm1d(3), lambda: tnn.BatchNorm1d(3), (4, 3)),
    "batch norm 2d": (lambda: nn.BatchNorm2d(3), lambda: tnn.BatchNorm2d(3), (2, 3, 4, 5)),
    "instance norm": (
        lambda: nn.InstanceNorm2d(3, affine=True, track_running_stats=True),
        lambda: tnn.InstanceNorm2d(3, affine=True, track_running_stats=True),
        (2, 3, 4, 5),
    ),
    "layer norm": (lambda: nn.LayerNorm((3, 4)), lambda: tnn.LayerNorm((3, 4)), (2, 3, 4)),
    "group norm": (lambda: nn.GroupNorm(2, 6), lambda: tnn.GroupNorm(2, 6), (2, 6, 5)),
    "rnn": (lambda: nn.RNN(3, 4, 2), lambda: tnn.RNN(3, 4, 2), (5, 2, 3)),
    "rnn relu": (lambda: nn.RNN(3, 4, nonlinearity="relu"), lambda: tnn.RNN(3, 4, nonlinearity="relu"), (5, 2, 3)),
    "lstm": (lambda: nn.LSTM(3, 4), lambda: tnn.LSTM(3, 4), (5, 2, 3)),
    "lstm both ways": (
        lambda: nn.LSTM(3, 4, 2, bidirectional=True, batch_first=True),
        lambda: tnn.LSTM(3, 4, 2, bidirectional=True, batch_first=True),
        (2, 5, 3),
    ),
    "lstm without bias": (lambda: nn.LSTM(3, 4, bias=False), lambda: tnn.LSTM(3, 4, bias=False), (1, 1, 3)),
    "gru": (lambda: nn.GRU(3, 4, 2, bidirectional=True), lambda: tnn.GRU(3, 4, 2, bidirectional=True), (5, 2, 3)),
    "rnn cell": (lambda: nn.RNNCell(3, 4), lambda: tnn.RNNCell(3, 4), (2, 3)),
    "lstm cell": (lambda: nn.LSTMCell(3, 4), lambda: tnn.LSTMCell(3, 4), (2, 3)),
    "gru cell": (lambda: nn.GRUCell(3, 4), lambda: tnn.GRUCell(3, 4), (2, 3)),
    "nested": (
        lambda: nn.Sequential(nn.Sequential(nn.Linear(5, 4), nn.Tanh()), nn.Linear(4, 2)),
        lambda: tnn.Sequential(tnn.Sequential(tnn.Linear(5, 4), tnn.Tanh()), tnn.Linear(4, 2)),
        (3, 5),
    ),
}


def make_pair(name):
    ours, theirs, shape = PAIRS[name]
    np.random.seed(0)
    torch.manual_seed(0)
    theirs = theirs()
    with torch.no_grad():
        for one in [*theirs.parameters(), *theirs.buffers()]:
            if one.is_floating_point():
                one.copy_(torch.rand_like(one) + 0.1)
    return ours().eval(), theirs.eval(), np.random.default_rng(1).normal(size=shape).astype("float32")


def flat(result):
    return [array for one in result for array in flat(one)] if isinstance(result, tuple) else [result]


def check_same_results(ours, theirs, x):
    with torch.no_grad():
        expected = flat(theirs(torch.from_numpy(x)))
    for one, other in zip(flat(ours(Tensor(x))), expected, strict=True):
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("name", PAIRS)
def test_a_model_with_torchs_state_gives_torchs_results(name):
    ours, theirs, x = make_pair(name)
    from_torch_state_dict(ours, theirs.state_dict())
    check_same_results(ours, theirs, x)


@pytest.mark.parametrize("name", PAIRS)
def test_torch_with_our_state_gives_our_results(name):
    ours, theirs, x = make_pair(name)
    for tensor in [*ours.parameters(), *ours.buffers()]:
        tensor.cached_data = np.random.default_rng(2).uniform(0.1, 1, tensor.shape).astype("float32")
    theirs.load_state_dict({name: torch.from_numpy(array) for name, array in to_torch_state_dict(ours).items()})
    check_same_results(ours, theirs, x)


def test_embedding_goes_both_ways():
    ours, theirs = nn.Embedding(7, 3), tnn.Embedding(7, 3)
    from_torch_state_dict(ours, theirs.state_dict())
    ids = np.array([[0, 6, 2]])
    np.testing.assert_array_equal(ours(Tensor(ids)).numpy(), theirs(torch.from_numpy(ids)).detach().numpy())
    np.testing.assert_array_equal(to_torch_state_dict(ours)["weight"], theirs.weight.detach().numpy())


def test_files_go_both_ways(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    ours, theirs, x = make_pair("lstm both ways")
    safetensors.save_file(theirs.state_dict(), tmp_path / "theirs.safetensors")
    load_torch_file(tmp_path / "theirs.safetensors", ours)
    check_same_results(ours, theirs, x)
    save_torch_file(tmp_path / "ours.safetensors", ours)
    other = tnn.LSTM(3, 4, 2, bidirectional=True, batch_first=True)
    other.load_state_dict(safetensors.load_file(tmp_path / "ours.safetensors"))
    check_same_results(ours, other, x)


def test_there_and_back_is_the_same_bit_for_bit():
    class Net(nn.Module):
        def __init__(self):
            self.layers = [nn.Conv(1, 2, 3), nn.BatchNorm2d(2)]
            self.by_name = {"head": nn.Linear(2, 3)}
            self.attention = nn.TransformerLayer(4, 2, 2, 8)

    np.random.seed(0)
    one, other = Net(), Net()
    from_torch_state_dict(other, to_torch_state_dict(one))
    for name, array in one.state_dict().items():
        np.testing.assert_array_equal(other.state_dict()[name], array)


def test_a_bias_that_was_replaced_by_a_vector_is_loaded():
    layer = nn.Linear(2, 3)
    layer.bias = nn.Parameter(np.zeros(3, "float32"))
    from_torch_state_dict(layer, tnn.Linear(2, 3).state_dict())
    assert layer.bias.shape == (3,)


def test_what_does_not_fit_is_listed_and_nothing_is_changed():
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    before = model.state_dict()
    state = {"0.weight": np.ones((3, 3)), "0.bias": np.ones(3), "1.weight": np.ones((1, 3)), "2.bias": np.ones(1)}
    with pytest.raises(CheckpointError) as caught:
        from_torch_state_dict(model, state)
    for fault in ("missing: modules.1.bias", "unexpected: 2.bias", "misshapen: modules.0.weight"):
        assert fault in str(caught.value)
    for name, array in before.items():
        np.testing.assert_array_equal(model.state_dict()[name], array)
    unmatched = from_torch_state_dict(model, {"0.bias": np.ones(3), "other": np.ones(1)}, strict=False)
    assert unmatched == (["modules.0.weight", "modules.1.weight", "modules.1.bias"], ["other"])


def test_a_state_of_something_else_is_told(tmp_path):
    with pytest.raises(DTypeError, match="arrays by name, got list"):
        from_torch_state_dict(nn.Linear(1, 1), [])
    with pytest.raises(CheckpointError, match="there is no file"):
        load_torch_file(tmp_path / "none.safetensors", nn.Linear(1, 1))
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        load_torch_file(tmp_path / "cut.safetensors", nn.Linear(1, 1))


def test_two_tensors_of_one_name_there_are_told():
    class Net(nn.Module):
        def __init__(self):
            self.parts = {"a.b": nn.Parameter([1.0]), "a": {"b": nn.Parameter([2.0])}}

    with pytest.raises(CheckpointError, match=r"would both be called parts\.a\.b"):
        to_torch_state_dict(Net())
