"""The table of a model's layers: its figures, what it leaves alone, and what it says of a layer that fails."""

import os
import pty
import subprocess
import sys

import numpy as np
import pytest

import needle as ndl
from needle import nn
from needle.device import random
from needle.errors import DTypeError, ShapeError, TraceError


def figures(summary):
    return {row.path: (row.output_shape, row.parameters, row.flops, row.activations) for row in summary.rows}


def test_figures_of_linear_layers_add_up():
    model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 1, bias=False))
    summary = ndl.summary(model, (7, 3))
    assert figures(summary) == {
        "": ((7, 1), 0, 0, 0),
        "modules.0": ((7, 5), 20, 2 * 7 * 3 * 5 + 35, 2 * 4 * 35),
        "modules.1": ((7, 5), 0, 35, 4 * 35),
        "modules.2": ((7, 1), 5, 2 * 7 * 5, 4 * 7),
    }
    assert (summary.parameters, summary.parameter_bytes) == (25, 100)
    assert summary.flops == sum(row.flops for row in summary.rows)
    assert summary.activations == sum(row.activations for row in summary.rows)


def test_operations_of_a_recurrent_layer_grow_with_its_length():
    short, longer, longest = (ndl.summary(nn.LSTM(3, 4), (length, 2, 3)).flops for length in (10, 20, 40))
    assert longest - longer == 2 * (longer - short) > 0


@pytest.mark.parametrize(
    ("layer", "shape", "flops"),
    [
        (nn.Conv(3, 8, 3, bias=False), (2, 3, 5, 6), 2 * (2 * 8 * 5 * 6) * (3 * 9)),
        (nn.Conv2d(4, 8, 3, stride=2, groups=2, bias=False), (1, 4, 7, 7), 2 * (8 * 3 * 3) * (2 * 9)),
        (nn.Conv1d(3, 8, 1, bias=False), (1, 3, 1), 2 * 8 * 3),
    ],
    ids=["Conv", "Conv2d", "Conv1d"],
)
def test_operations_of_convolutions_are_their_multiply_adds(layer, shape, flops):
    assert ndl.summary(layer, shape).flops == flops


def test_parameters_of_layers_that_run_their_cells_themselves_are_theirs():
    lstm = nn.LSTM(3, 4, num_layers=2, bidirectional=True)
    (row,) = ndl.summary(lstm, (5, 2, 3)).rows
    assert row.parameters == lstm.num_parameters()
    assert row.output_shape == ((5, 2, 8), ((4, 2, 4), (4, 2, 4)))


def test_a_module_that_is_called_again_adds_up_in_its_row():
    class Twice(nn.Module):
        def __init__(self):
            self.layer = nn.Linear(3, 3)

        def forward(self, x):
            return self.layer(self.layer(x))

    summary = ndl.summary(Twice(), (2, 3))
    row = summary.rows[1]
    assert (row.calls, row.parameters, row.flops) == (2, 12, 2 * (2 * 2 * 3 * 3 + 6))
    assert "Linear(3 → 3), 2 calls" in str(summary)


def test_a_shared_parameter_is_counted_once():
    layer = nn.Linear(3, 3)
    other = nn.Linear(3, 3)
    other.weight = layer.weight
    summary = ndl.summary(nn.Sequential(layer, other), (2, 3))
    assert [row.parameters for row in summary.rows] == [0, 12, 3]
    assert summary.parameters == 15


def test_inputs_are_shapes_tensors_arrays_and_containers_of_them():
    class Pair(nn.Module):
        def forward(self, pair, by_name, factor):
            return pair[0] + pair[1] + by_name["c"] * factor

    inputs = [(2, 3), ndl.init.rand(2, 3)], {"c": np.ones((2, 3), "float32")}, 2.0
    assert ndl.summary(Pair(), *inputs).rows[0].output_shape == (2, 3)
    assert ndl.summary(nn.Embedding(9, 4), (2, 3)).rows[0].output_shape == (2, 3, 4)
    assert ndl.summary(nn.ReLU(), (2,), dtype="float64").activations == 16


def test_nothing_is_changed():
    np.random.seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 2)).train()
    opt = ndl.optim.SGD(model.parameters())
    compiled = ndl.jit(model)
    x = ndl.init.rand(3, 4)
    compiled(x)
    before = model.state_dict(), random.get_state(), [vars(module).copy() for _, module in model.named_modules()]
    ndl.summary(model, (8, 4))
    ndl.summary(model, x)
    after = model.state_dict(), random.get_state(), [vars(module) for _, module in model.named_modules()]
    for name, array in before[0].items():
        np.testing.assert_array_equal(after[0][name], array)
    assert after[1:] == before[1:]
    assert all(p.grad is None for p in opt.params)
    compiled(x)
    assert compiled.cache_info().traces == 1


def test_no_memory_is_needed_for_what_would_not_fit():
    summary = ndl.summary(nn.Sequential(nn.Linear(8, 8), nn.Tanh()), (10**12, 8))
    assert summary.activations == 3 * 32 * 10**12
    assert "96 TB" in str(summary)


def test_rows_go_up_to_the_layer_that_fails_and_the_error_follows():
    model = nn.Sequential(nn.Linear(3, 4), nn.Residual(nn.Linear(5, 5)), nn.ReLU())
    summary = ndl.summary(model, (2, 3))
    assert [(row.path, row.output_shape) for row in summary.rows] == [
        ("", None),
        ("modules.0", (2, 4)),
        ("modules.1", None),
        ("modules.1.fn", None),
    ]
    assert isinstance(summary.error, ShapeError)
    lines = str(summary).splitlines()
    assert any("modules.1.fn" in line and "failed" in line for line in lines)
    assert "in modules.1.fn (Linear)" in lines[-1]
    assert all("forward" not in vars(module) for _, module in model.named_modules())


def test_an_error_of_the_users_own_code_stands_below_the_table():
    class Broken(nn.Module):
        def forward(self, x):
            return self.missing(x)

    assert str(ndl.summary(Broken(), (1,))).endswith("AttributeError: 'Broken' object has no attribute 'missing'")


def test_a_model_that_looks_at_values_is_told_where():
    class Branching(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    summary = ndl.summary(Branching(), (2,))
    assert isinstance(summary.error, TraceError)
    assert "test_summary.py" in str(summary.error)


def test_something_that_is_no_module_is_told():
    with pytest.raises(DTypeError, match="summary takes a module, got function"):
        ndl.summary(lambda x: x, (1,))


PROGRAM = "import needle as ndl; from needle import nn; ndl.summary(nn.Linear(3, 4), (2, 3)).show()"


def test_show_is_plain_in_a_pipe():
    run = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert run.stdout == str(ndl.summary(nn.Linear(3, 4), (2, 3))) + "\n"


def test_show_fits_a_terminal():
    ours, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": "90", "TERM": "xterm-256color"}
    run = subprocess.run([sys.executable, "-c", PROGRAM], stdout=theirs, env=environment, check=True)
    os.close(theirs)
    text = os.read(ours, 100_000).decode()
    assert run.returncode == 0
    assert "\x1b[" in text
    assert "Linear(3 → 4)" in text
