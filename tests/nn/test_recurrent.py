"""Recurrent layers: against loops in NumPy written from the formulas, PyTorch, differences, and themselves compiled."""

import gc

import numpy as np
import pytest

import needle as ndl
from needle import nn, optim
from needle.errors import DTypeError, SettingError, ShapeError

from .differences import check_gradients

NAMES = ("W_ih", "W_hh", "bias_ih", "bias_hh")


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def rnn_step(f, x, h, w_ih, w_hh, b_ih, b_hh):
    return (f(x @ w_ih + b_ih + h[0] @ w_hh + b_hh),)


def lstm_step(x, state, w_ih, w_hh, b_ih, b_hh):
    h, c = state
    i, f, g, o = np.split(x @ w_ih + b_ih + h @ w_hh + b_hh, 4, axis=1)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def gru_step(x, state, w_ih, w_hh, b_ih, b_hh):
    (h,) = state
    x_r, x_z, x_n = np.split(x @ w_ih + b_ih, 3, axis=1)
    h_r, h_z, h_n = np.split(h @ w_hh + b_hh, 3, axis=1)
    r, z = sigmoid(x_r + h_r), sigmoid(x_z + h_z)
    return ((1 - z) * np.tanh(x_n + r * h_n) + z * h,)


class Kind:
    """One of the recurrent layers, its formula, and its name in PyTorch."""

    def __init__(self, layer, cell, cells, gates, step, torch_name, **options):
        self.layer, self.cell, self.cells = layer, cell, cells
        self.gates, self.step, self.torch_name, self.options = gates, step, torch_name, options
        self.states = 2 if layer is nn.LSTM else 1

    def make_layer(self, *sizes, **options):
        return self.layer(*sizes, **self.options, **options)

    def make_cell(self, *sizes, **options):
        return self.cell(*sizes, **self.options, **options)

    def state(self, arrays):
        """Return arrays as the layer takes them: a pair for an LSTM, else one."""
        tensors = tuple(map(ndl.Tensor, arrays))
        return tensors if self.states == 2 else tensors[0]

    def parts(self, state):
        """Return what a layer gave for its states as a tuple."""
        return state if self.states == 2 else (state,)


KINDS = {
    "tanh": Kind(nn.RNN, nn.RNNCell, "rnn_cells", 1, lambda *a: rnn_step(np.tanh, *a), "RNN"),
    "relu": Kind(
        nn.RNN,
        nn.RNNCell,
        "rnn_cells",
        1,
        lambda *a: rnn_step(lambda s: np.maximum(s, 0), *a),
        "RNN",
        nonlinearity="relu",
    ),
    "lstm": Kind(nn.LSTM, nn.LSTMCell, "lstm_cells", 4, lstm_step, "LSTM"),
    "gru": Kind(nn.GRU, nn.GRUCell, "gru_cells", 3, gru_step, "GRU"),
}


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param]


def values(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def weights(cell):
    return [0.0 if getattr(cell, name) is None else getattr(cell, name).numpy() for name in NAMES]


def reference(kind, layer, x, state):
    """Run a layer as plain loops over layers, directions and time; states are lists of (layers·directions, B, H)."""
    ends = []
    for number, cell in enumerate(getattr(layer, kind.cells)):
        outputs = []
        for one in (cell, *layer.reverse_cells[number : number + 1]):
            at = tuple(part[len(ends)] for part in state)
            order = range(len(x)) if one is cell else range(len(x) - 1, -1, -1)
            found = [None] * len(x)
            for t in order:
                at = kind.step(x[t], at, *weights(one))
                found[t] = at[0]
            outputs.append(np.stack(found))
            ends.append(at)
        x = np.concatenate(outputs, axis=2)
    return x, [np.stack(part) for part in zip(*ends, strict=True)]


# --------------------------------------------------------------------------------------------------- the cells


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(("features", "hidden"), [(1, 1), (4, 5)])
def test_cells_are_their_formulas(kind, features, hidden, batch, bias):
    cell = kind.make_cell(features, hidden, bias=bias, dtype="float64")
    x, state = values(batch, features), [values(batch, hidden, seed=i + 1) for i in range(kind.states)]
    zeros = [np.zeros((batch, hidden))] * kind.states
    for given, start in ((kind.state(state), state), (None, zeros)):
        found = kind.parts(cell(ndl.Tensor(x), given))
        for one, expected in zip(found, kind.step(x, start, *weights(cell)), strict=True):
            np.testing.assert_allclose(one.numpy(), expected, rtol=1e-10, atol=1e-12)
    assert [parameter.shape for parameter in cell.parameters()] == [
        (features, kind.gates * hidden),
        (hidden, kind.gates * hidden),
        *[(kind.gates * hidden,)] * (2 * bias),
    ]
    assert bias or cell.bias_ih is cell.bias_hh is None


def test_cells_have_the_derivatives_of_their_formulas(kind):
    cell = kind.make_cell(2, 3, dtype="float64")

    def run(x, w_ih, w_hh, b_ih, b_hh, *state):
        for name, tensor in zip(NAMES, (w_ih, w_hh, b_ih, b_hh), strict=True):
            setattr(cell, name, tensor)
        found = kind.parts(cell(x, state if kind.states == 2 else state[0]))
        return found[0] if len(found) == 1 else found[0] + found[1] * 0.7

    check_gradients(run, values(2, 2), *weights(cell), *[values(2, 3, seed=i + 1) for i in range(kind.states)])


# --------------------------------------------------------------------------------------------------- the layers


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(
    ("steps", "batch", "features", "hidden", "layers"),
    [(1, 1, 1, 1, 1), (1, 3, 4, 5, 2), (6, 1, 4, 5, 3), (13, 3, 1, 5, 1), (6, 3, 4, 1, 2)],
)
def test_layers_are_their_formulas(kind, steps, batch, features, hidden, layers, bidirectional, given):
    layer = kind.make_layer(features, hidden, layers, bidirectional=bidirectional, dtype="float64")
    x = values(steps, batch, features)
    count = layers * (1 + bidirectional)
    start = [values(count, batch, hidden, seed=i + 1) * given for i in range(kind.states)]
    output, state = layer(ndl.Tensor(x), *[kind.state(start)] * given)
    expected, ends = reference(kind, layer, x, start)
    assert output.shape == (steps, batch, hidden * (1 + bidirectional))
    np.testing.assert_allclose(output.numpy(), expected, rtol=1e-9, atol=1e-12)
    for one, end in zip(kind.parts(state), ends, strict=True):
        assert one.shape == (count, batch, hidden)
        np.testing.assert_allclose(one.numpy(), end, rtol=1e-9, atol=1e-12)
    assert type(state) is (tuple if kind.states == 2 else ndl.Tensor)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("layers", [1, 2])
def test_layers_have_the_derivatives_of_their_formulas(kind, layers, bidirectional, bias):
    layer = kind.make_layer(2, 2, layers, bias=bias, bidirectional=bidirectional, dtype="float64")
    cells = [*getattr(layer, kind.cells), *layer.reverse_cells]
    places = [(cell, name) for cell in cells for name in NAMES[: 2 + 2 * bias]]

    def run(x, *arrays):
        state, given = arrays[: kind.states], arrays[kind.states :]
        for (cell, name), tensor in zip(places, given, strict=True):
            setattr(cell, name, tensor)
        output, ends = layer(x, state if kind.states == 2 else state[0])
        total = (output * output).sum(0).sum(1)  # the outputs at all times, and the last states, each in its way
        return sum(((end * (0.3 + i)).sum(0).sum(1) for i, end in enumerate(kind.parts(ends))), start=total)

    count = layers * (1 + bidirectional)
    states = [values(count, 2, 2, seed=i + 1) for i in range(kind.states)]
    check_gradients(run, values(3, 2, 2), *states, *(getattr(cell, name).numpy() for cell, name in places))


@pytest.mark.parametrize("batch_first", [False, True])
def test_batch_first_turns_input_and_outputs_only(kind, batch_first):
    layer = kind.make_layer(4, 5, 2, bidirectional=True, batch_first=batch_first, dtype="float64")
    x, state = values(6, 3, 4), [values(4, 3, 5, seed=i + 1) for i in range(kind.states)]
    turned = x.transpose(1, 0, 2) if batch_first else x
    output, ends = layer(ndl.Tensor(turned), kind.state(state))
    expected, last = reference(kind, layer, x, state)
    np.testing.assert_allclose(output.numpy(), expected.transpose(1, 0, 2) if batch_first else expected, rtol=1e-9)
    for one, end in zip(kind.parts(ends), last, strict=True):
        np.testing.assert_allclose(one.numpy(), end, rtol=1e-9)


def test_a_sequence_may_be_run_in_pieces(kind):
    layer = kind.make_layer(4, 5, 2, dtype="float64")
    x = ndl.Tensor(values(6, 3, 4))
    whole, last = layer(x)
    first, state = layer(x[:2])
    second, state = layer(x[2:], state)
    np.testing.assert_allclose(whole.numpy(), np.concatenate([first.numpy(), second.numpy()]), rtol=1e-12)
    for one, end in zip(kind.parts(state), kind.parts(last), strict=True):
        np.testing.assert_allclose(one.numpy(), end.numpy(), rtol=1e-12)


def test_an_empty_batch_has_empty_outputs(kind):
    output, state = kind.make_layer(4, 5)(ndl.Tensor(np.zeros((3, 0, 4), dtype="float32")))
    assert output.shape == (3, 0, 5)
    assert kind.parts(state)[0].shape == (1, 0, 5)


def test_steps_leave_no_tensors_behind(kind):
    layer = kind.make_layer(4, 5, 2)
    optimizer = optim.SGD(layer.parameters())
    x = ndl.Tensor(values(3, 2, 4).astype("float32"))

    def alive():
        optimizer.reset_grad()
        layer(x)[0].sum().backward()
        optimizer.step()
        return ndl.autograd.TENSOR_COUNTER

    alive()
    gc.collect()  # of what other tests have left
    assert alive() == alive() == alive()
    with ndl.no_grad():
        output, _ = layer(x)
    assert output.op is None
    assert not output.requires_grad


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_layers_keep_the_dtype_and_the_device(kind, dtype):
    layer = kind.make_layer(4, 5, 2, device=ndl.cpu(), dtype=dtype)
    x = ndl.Tensor(values(6, 3, 4), dtype=dtype)
    output, state = layer(x)
    (output.sum() + kind.parts(state)[-1].sum()).backward()
    assert {output.dtype, x.grad.dtype, *(one.dtype for one in kind.parts(state))} == {x.dtype}
    assert {parameter.grad.dtype for parameter in layer.parameters()} == {x.dtype}
    assert output.device == kind.parts(state)[0].device == x.device == ndl.cpu()


def test_sums_of_any_size_are_borne(kind):
    if kind.options:
        pytest.skip("ReLU has no bound")
    layer = kind.make_layer(1, 3)
    x = ndl.Tensor(np.array([[[1e4]], [[-1e4]], [[1e30]], [[-1e30]]], dtype="float32"))
    output, _ = layer(x)
    output.backward()
    assert np.isfinite(output.numpy()).all()
    assert np.isfinite(x.grad.numpy()).all()


# ------------------------------------------------------------------------------------------------ the contract


def test_replaced_attributes_are_used_and_get_gradients(kind):
    layer = kind.make_layer(4, 5, 2, bidirectional=True, dtype="float64")
    x, start = values(1, 1, 4), [np.zeros((4, 1, 5))] * kind.states
    layer(ndl.Tensor(x))
    for cell in (*getattr(layer, kind.cells), *layer.reverse_cells):
        for number, name in enumerate(NAMES):
            setattr(cell, name, ndl.Tensor(values(*getattr(cell, name).shape, seed=number)))
    output, _ = layer(ndl.Tensor(x))
    np.testing.assert_allclose(output.numpy(), reference(kind, layer, x, start)[0], rtol=1e-9)
    output.backward()  # of more than one element
    for cell in (*getattr(layer, kind.cells), *layer.reverse_cells):
        for name in NAMES:
            tensor = getattr(cell, name)
            assert tensor.grad.shape == tensor.shape
            assert name == "W_hh" or np.abs(tensor.grad.numpy()).sum() > 0
    assert layer.parameters() == []


def test_cells_draw_their_weights_in_the_order_of_the_contract(kind):
    shapes = [(4, kind.gates * 9), (9, kind.gates * 9), (kind.gates * 9,), (kind.gates * 9,)]
    for bias in (True, False):
        np.random.seed(3)
        drawn = [np.random.rand(*shape) for shape in shapes[: 2 + 2 * bias]]
        after = np.random.rand()
        np.random.seed(3)
        cell = kind.make_cell(4, 9, bias=bias)
        assert np.random.rand() == after
        for name, draw in zip(NAMES, drawn, strict=False):
            np.testing.assert_array_equal(getattr(cell, name).numpy(), (draw * 2 / 3 - 1 / 3).astype("float32"))


def test_layers_draw_layer_by_layer_and_forward_first(kind):
    np.random.seed(3)
    forward, reverse = kind.make_cell(4, 5), kind.make_cell(4, 5)
    second = kind.make_cell(10, 5)
    np.random.seed(3)
    layer = kind.make_layer(4, 5, 2, bidirectional=True)
    cells = getattr(layer, kind.cells)
    for one, expected in ((cells[0], forward), (layer.reverse_cells[0], reverse), (cells[1], second)):
        for name in NAMES:
            np.testing.assert_array_equal(getattr(one, name).numpy(), getattr(expected, name).numpy())


def test_a_forward_pass_draws_nothing_without_dropout(kind):
    layer = kind.make_layer(4, 5, 2)
    np.random.seed(3)
    layer(ndl.Tensor(values(6, 3, 4)))[0].backward()
    drawn = np.random.rand()
    np.random.seed(3)
    assert drawn == np.random.rand()


def test_dropout_is_one_draw_for_each_gap_between_layers_in_training(kind):
    layer = kind.make_layer(4, 5, 3, dropout=0.3, dtype="float64")
    x = values(6, 2, 4)
    np.random.seed(3)
    masks = [np.random.rand(6, 2, 5) <= 0.7 for _ in range(2)]
    after = np.random.rand()
    np.random.seed(3)
    output, _ = layer(ndl.Tensor(x))
    assert np.random.rand() == after
    below = x
    for number, cell in enumerate(getattr(layer, kind.cells)):
        single = kind.make_layer(below.shape[2], 5, dtype="float64")
        setattr(single, kind.cells, [cell])
        below, _ = reference(kind, single, below, [np.zeros((1, 2, 5))] * kind.states)
        below = below if number == 2 else below * masks[number] / 0.7
    np.testing.assert_allclose(output.numpy(), below, rtol=1e-9)
    layer.eval()
    expected, _ = reference(kind, layer, x, [np.zeros((3, 2, 5))] * kind.states)
    np.testing.assert_allclose(layer(ndl.Tensor(x))[0].numpy(), expected, rtol=1e-9)


def test_arguments_of_the_contract_have_their_places():
    cpu = ndl.cpu()
    assert nn.RNNCell(2, 3, False, "relu", cpu, "float64").W_ih.dtype == "float64"
    assert nn.RNN(2, 3, 2, False, "relu", cpu, "float64").rnn_cells[1].W_ih.dtype == "float64"
    assert nn.LSTMCell(2, 3, False, cpu, "float64").W_ih.dtype == "float64"
    assert nn.LSTM(2, 3, 2, False, cpu, "float64").lstm_cells[1].W_ih.dtype == "float64"
    x = ndl.Tensor(np.ones((1, 1, 2), dtype="float32"))
    nn.RNNCell(2, 3)(X=x[0], h=None)
    nn.LSTMCell(2, 3)(X=x[0], h=None)
    nn.RNN(2, 3)(X=x, h0=None)
    nn.LSTM(2, 3)(X=x, h=None)


def test_the_tree_and_the_paths_of_the_parameters(kind):
    layer = kind.make_layer(2, 3, 2, bidirectional=True, dropout=0.1)
    paths = [path for path, _ in layer.named_parameters()]
    assert paths[0] == f"{kind.cells}.0.W_ih"
    assert paths[-1] == "reverse_cells.1.bias_hh"
    assert len(paths) == 16
    assert "2 layers, bidirectional" in repr(layer)
    other = kind.make_layer(2, 3, 2, bidirectional=True, dropout=0.1)
    other.load_state_dict(layer.state_dict())
    x = ndl.Tensor(values(4, 2, 2), dtype="float32")
    np.testing.assert_array_equal(other.eval()(x)[0].numpy(), layer.eval()(x)[0].numpy())


# -------------------------------------------------------------------------------------------------- what fails


@pytest.mark.parametrize("shape", [(3, 7), (3,), (2, 3, 4)])
def test_cells_refuse_inputs_of_other_shapes(kind, shape):
    name = kind.cell.__name__
    with pytest.raises(ShapeError, match=rf"{name} takes X of shape \(B, 4\), got \({shape[0]},"):
        kind.make_cell(4, 5)(ndl.Tensor(np.zeros(shape, dtype="float32")))


def test_layers_refuse_inputs_of_other_shapes(kind):
    name = kind.layer.__name__
    with pytest.raises(ShapeError, match=rf"{name} takes X of shape \(T, B, 4\), got \(2, 3, 7\)"):
        kind.make_layer(4, 5)(ndl.Tensor(np.zeros((2, 3, 7))))
    with pytest.raises(ShapeError, match=rf"{name} takes X of shape \(B, T, 4\), got \(2, 4\)"):
        kind.make_layer(4, 5, batch_first=True)(ndl.Tensor(np.zeros((2, 4))))
    with pytest.raises(ShapeError, match=rf"{name} takes at least one time step, got X of shape \(0, 3, 4\)"):
        kind.make_layer(4, 5)(ndl.Tensor(np.zeros((0, 3, 4))))


def test_states_of_other_shapes_are_refused(kind):
    cell, layer = kind.cell.__name__, kind.layer.__name__
    good, wrong = np.zeros((3, 5)), np.zeros((3, 6))
    letter = "c" if kind.states == 2 else "h"
    with pytest.raises(ShapeError, match=rf"{cell} takes {letter} of shape \(3, 5\), got \(3, 6\)"):
        kind.make_cell(4, 5)(ndl.Tensor(np.zeros((3, 4))), kind.state([good, wrong][-kind.states :]))
    with pytest.raises(ShapeError, match=rf"{layer} takes h of shape \(2, 3, 5\), got \(1, 3, 5\)"):
        kind.make_layer(4, 5, 2)(ndl.Tensor(np.zeros((2, 3, 4))), kind.state([good[None]] * kind.states))


def test_an_lstm_refuses_a_state_that_is_no_pair():
    x, h = ndl.Tensor(np.zeros((2, 3, 4))), ndl.Tensor(np.zeros((2, 3, 5)))
    with pytest.raises(DTypeError, match=r"LSTM takes the state as a pair \(h, c\), got a Tensor"):
        nn.LSTM(4, 5)(x, h)
    with pytest.raises(DTypeError, match=r"LSTMCell takes the state as a pair \(h, c\), got a tuple of 1"):
        nn.LSTMCell(4, 5)(x[0], (h[0],))


def test_settings_that_make_no_sense_are_refused(kind):
    cell, layer = kind.cell.__name__, kind.layer.__name__
    with pytest.raises(SettingError, match=f"{cell}: input_size and hidden_size are at least 1, got 4 and 0"):
        kind.make_cell(4, 0)
    with pytest.raises(SettingError, match=f"{layer}: num_layers is at least 1, got 0"):
        kind.make_layer(4, 5, 0)
    with pytest.raises(SettingError, match=rf"{layer}: dropout is a probability in \[0, 1\), got 1"):
        kind.make_layer(4, 5, dropout=1)
    for make in (nn.RNN, nn.RNNCell):
        with pytest.raises(SettingError, match="RNNCell: nonlinearity is 'tanh' or 'relu', got 'sigmoid'"):
            make(4, 5, nonlinearity="sigmoid")


# ------------------------------------------------------------------------------------------------- and PyTorch


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("layers", [1, 3])
def test_layers_and_their_gradients_are_those_of_pytorch(kind, layers, bidirectional, bias, batch_first):
    torch = pytest.importorskip("torch")
    options = {"bidirectional": bidirectional, "bias": bias, "batch_first": batch_first}
    theirs = getattr(torch.nn, kind.torch_name)(4, 5, layers, **options, **kind.options, dtype=torch.float64)
    ours = kind.make_layer(4, 5, layers, **options, dtype="float64")
    pairs = []
    for suffix, cells in (("", getattr(ours, kind.cells)), ("_reverse", ours.reverse_cells)):
        for number, cell in enumerate(cells):
            for name, other in zip(NAMES, ("weight_ih", "weight_hh", "bias_ih", "bias_hh"), strict=True):
                if getattr(cell, name) is not None:
                    pairs.append((getattr(cell, name), getattr(theirs, f"{other}_l{number}{suffix}")))
    for tensor, parameter in pairs:
        tensor.data = ndl.Tensor(parameter.detach().numpy().T.copy())
    count = layers * (1 + bidirectional)
    x = values(6, 3, 4)
    states = [values(count, 3 if not batch_first else 6, 5, seed=i + 1) for i in range(kind.states)]
    mine, torch_x = ndl.Tensor(x), torch.tensor(x, requires_grad=True)
    torch_states = [torch.tensor(one, requires_grad=True) for one in states]
    my_states = [ndl.Tensor(one) for one in states]
    output, ends = ours(mine, tuple(my_states) if kind.states == 2 else my_states[0])
    expected, last = theirs(torch_x, tuple(torch_states) if kind.states == 2 else torch_states[0])
    np.testing.assert_allclose(output.numpy(), expected.detach().numpy(), rtol=1e-9, atol=1e-12)
    ends, last = kind.parts(ends), kind.parts(last)
    for one, other in zip(ends, last, strict=True):
        np.testing.assert_allclose(one.numpy(), other.detach().numpy(), rtol=1e-9, atol=1e-12)
    sum(((one**2).sum() for one in ends), start=(output**3).sum()).backward()
    sum(((one**2).sum() for one in last), start=(expected**3).sum()).backward()
    pairs += [(mine, torch_x), *zip(my_states, torch_states, strict=True)]
    for tensor, parameter in pairs:
        np.testing.assert_allclose(
            tensor.grad.numpy(),
            parameter.grad.numpy().T if tensor.ndim < 3 else parameter.grad.numpy(),
            rtol=1e-8,
            atol=1e-10,
        )


# --------------------------------------------------------------------------------------------------- and compiled


def training(kind, dtype, wrap=lambda fn: fn, **options):
    np.random.seed(5)
    layer = kind.make_layer(3, 6, **options, dtype=dtype)
    optimizer = optim.Adam(layer.parameters(), lr=0.01)

    @wrap
    def step(x, y, *state):
        optimizer.reset_grad()
        output, ends = layer(x, *state)
        last = kind.parts(ends)[-1]
        loss = ((output - y) ** 2).mean() + (last * last).mean()
        loss.backward()
        optimizer.step()
        return loss, output, ends

    return layer, step


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("steps", "batch", "options"),
    [
        (1, 1, {}),
        (5, 3, {}),
        (4, 3, {"num_layers": 2, "dropout": 0.3, "bidirectional": True}),
        (5, 1, {"num_layers": 2, "batch_first": True, "bias": False}),
        (3, 35, {"bidirectional": True}),
    ],
)
@pytest.mark.parametrize("in_loops", [False, True])
def test_a_compiled_training_step_is_the_eager_one(kind, steps, batch, options, dtype, in_loops, monkeypatch):
    monkeypatch.setattr(ndl.ops.recurrence, "_FEWEST_STEPS", 1 if in_loops else 1000)
    directions = 1 + options.get("bidirectional", False)
    shape = (batch, steps) if options.get("batch_first") else (steps, batch)
    count = options.get("num_layers", 1) * directions
    eager, step = training(kind, dtype, **options)
    compiled, compiled_step = training(kind, dtype, ndl.jit, **options)
    tolerance = {"rtol": 2e-4, "atol": 2e-5} if dtype == "float32" else {"rtol": 1e-8, "atol": 1e-10}
    for number in range(3):
        x = ndl.Tensor(values(*shape, 3, seed=number), dtype=dtype)
        y = ndl.Tensor(values(*shape, 6 * directions, seed=number), dtype=dtype)
        start = kind.state([values(count, batch, 6, seed=i).astype(dtype) for i in range(kind.states)])
        found = []
        for one in (step, compiled_step):
            np.random.seed(number)
            loss, output, ends = one(x, y, start)
            found.append([loss, output, *kind.parts(ends)])
        for one, other in zip(*found, strict=True):
            np.testing.assert_allclose(one.numpy(), other.numpy(), **tolerance)
        for one, other in zip(eager.parameters(), compiled.parameters(), strict=True):
            np.testing.assert_allclose(one.grad.numpy(), other.grad.numpy(), **tolerance)
            np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=2e-3, atol=2e-4)
    assert compiled_step.cache_info().traces == 1
    assert ("  for t = " in compiled_step.lower(x, y, start).show()) == in_loops


def test_a_compiled_layer_sees_replaced_weights(kind):
    layer = kind.make_layer(3, 4, dtype="float64")
    forward = ndl.jit(lambda x: layer(x)[0])
    x = values(4, 2, 3)
    forward(ndl.Tensor(x))
    cell = getattr(layer, kind.cells)[0]
    cell.W_hh = ndl.Tensor(values(*cell.W_hh.shape))
    expected, _ = reference(kind, layer, x, [np.zeros((1, 2, 4))] * kind.states)
    np.testing.assert_allclose(forward(ndl.Tensor(x)).numpy(), expected, rtol=1e-9)
    cell.bias_hh.data = cell.bias_hh.data + 1
    expected, _ = reference(kind, layer, x, [np.zeros((1, 2, 4))] * kind.states)
    np.testing.assert_allclose(forward(ndl.Tensor(x)).numpy(), expected, rtol=1e-9)
