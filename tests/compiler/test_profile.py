"""Counts of operations and bytes against counts by hand, and the table."""

import numpy as np

import needle as ndl
from needle import nn
from needle.compiler.profile import count_bytes, count_operations
from needle.compiler.steps import Contraction


def program_of(function, *arrays):
    return ndl.jit(function).lower(*(ndl.Tensor(array, requires_grad=False) for array in arrays))


def test_elementwise_counts():
    lowered = program_of(lambda x, y: x * y + 1, np.ones((4, 8), np.float32), np.ones((4, 8), np.float32))
    (kernel,) = lowered.program.executable.program.steps
    assert count_operations(kernel) == 2 * 32  # a product and a sum each
    assert count_bytes(kernel) == 3 * 32 * 4  # two read, one written
    lowered = program_of(lambda x, y: 1 - x * y, np.ones((4, 8), np.float32), np.ones((4, 8), np.float32))
    (kernel,) = lowered.program.executable.program.steps
    assert count_operations(kernel) == 2 * 32


def test_reduction_counts():
    lowered = program_of(lambda x: (x * x).sum((1,)), np.ones((4, 8)))
    (kernel,) = lowered.program.executable.program.steps
    assert count_operations(kernel) == 2 * 32  # a product, and an addition to the sum
    assert count_bytes(kernel) == 32 * 8 + 4 * 8


def test_matrix_product_counts():
    lowered = program_of(lambda x, w: x @ w, np.ones((5, 7), np.float32), np.ones((7, 3), np.float32))
    (product,) = lowered.program.executable.program.steps
    assert isinstance(product, Contraction)
    assert count_operations(product) == 2 * 5 * 7 * 3
    assert count_bytes(product) == 4 * (35 + 21 + 15)


def test_in_place_update_counts_both_ways():
    w = ndl.Tensor(np.ones(16, np.float32))
    opt = ndl.optim.SGD([w], lr=0.1)
    w.grad = ndl.Tensor(np.ones(16, np.float32))
    lowered = ndl.jit(lambda: opt.step()).lower()  # noqa: PLW0108  a function with no arguments
    (kernel,) = lowered.program.executable.program.steps
    assert count_bytes(kernel) == 4 * (16 + 16 + 16 + 1)  # weights read and written, gradient, the rate


def test_table_names_kernels_and_lines_and_changes_nothing():
    w = ndl.Tensor(np.ones((8, 8), np.float32))
    opt = ndl.optim.SGD([w], lr=0.1)

    @ndl.jit
    def step(x):
        opt.reset_grad()
        loss = ((x @ w) ** 2).sum()
        loss.backward()
        opt.step()
        return loss

    x = ndl.Tensor(np.ones((4, 8), np.float32), requires_grad=False)
    step(x)
    before = w.numpy()
    profile = step.lower(x).profile(repeats=3)
    text = str(profile)
    assert "4x8 @ 8x8" in text
    assert "test_profile.py:" in text
    assert "GFLOP/s" in text.splitlines()[0]
    assert text.splitlines()[-1].startswith("one call: ")
    assert all(one.seconds > 0 and one.share > 0 for one in profile.kernels)
    np.testing.assert_array_equal(w.numpy(), before)


def test_kernels_take_no_longer_than_the_whole_and_most_of_it():
    a, b = (ndl.Tensor(np.ones((400, 400), np.float32), requires_grad=False) for _ in range(2))
    ndl.set_num_threads(1)
    try:
        profile = ndl.jit(lambda x, y: ndl.tanh(x @ y).sum()).lower(a, b).profile(repeats=5)
    finally:
        ndl.set_num_threads(None)
    total = sum(one.seconds for one in profile.kernels)
    assert 0.3 * profile.seconds < total <= 1.05 * profile.seconds


def test_a_kernel_is_timed_apart_from_others():
    large, small = np.ones((500, 500), np.float32), np.ones((10, 10), np.float32)
    profile = program_of(lambda x, y: (x @ x, y @ y), large, small).profile(repeats=5)
    times = {one.what: one.seconds for one in profile.kernels}
    assert times["500x500 @ 500x500"] > 20 * times["10x10 @ 10x10"]


def test_steps_that_are_divided_into_lanes_count_once():
    cell = nn.LSTM(8, 16)
    x = ndl.init.rand(8, 16, 8)  # 8 time steps of 16 samples
    table = ndl.jit(lambda x: cell(x)[0]).lower(x).profile()
    assert len({kernel.name for kernel in table.kernels}) == len(table.kernels)
    assert all(kernel.seconds > 0 for kernel in table.kernels)
