"""What is alive after graphs are dropped, and that loops do not grow."""

import gc
import tracemalloc
import weakref

import numpy as np
import pytest

import needle as ndl
from needle import autograd, nn

STEPS = 10_000
rng = np.random.default_rng(0)
X = ndl.Tensor(rng.standard_normal((4, 3)), dtype="float32", requires_grad=False)
Y = ndl.Tensor(rng.standard_normal((4, 1)), dtype="float32", requires_grad=False)


@pytest.fixture(autouse=True)
def _collected():
    gc.collect()


def alive():
    return autograd.TENSOR_COUNTER


def weights():
    return ndl.Tensor(np.full((3, 1), 0.5), dtype="float32")


def loss(w):
    return ((X @ w - Y) ** 2).mean()


def test_counter_counts_live_tensors():
    before = alive()
    x = ndl.Tensor([1.0])
    y = x * 2 + 1
    assert alive() == before + 3
    del y
    assert alive() == before + 1
    del x
    assert alive() == before


def test_counter_returns_after_a_failed_construction():
    before = alive()
    with pytest.raises(TypeError):
        ndl.Tensor("text")
    gc.collect()
    assert alive() == before


def test_forward_without_backward_needs_no_collector():
    w, before = weights(), alive()
    gc.disable()
    try:
        for _ in range(20):
            loss(w)
        assert alive() == before
    finally:
        gc.enable()


def test_dropped_graphs_are_freed():
    before = alive()
    w = weights()
    loss(w).backward()
    w.grad.sum().backward()
    del w
    gc.collect()
    assert alive() == before


def test_step_of_an_optimizer_frees_the_graph_without_the_collector():
    w = weights()
    opt = ndl.optim.SGD([w], lr=0.1)
    gc.disable()
    try:
        value = loss(w)
        inner = weakref.ref(value.inputs[0])
        value.backward()
        opt.step()
        del value
        assert inner() is None
        assert w.grad.shape == w.shape
    finally:
        gc.enable()


def test_reset_grad_frees_the_graph_without_the_collector():
    w = weights()
    opt = ndl.optim.SGD([w], lr=0.1)
    gc.disable()
    try:
        value = loss(w)
        inner = weakref.ref(value.inputs[0])
        value.backward()
        del value
        opt.reset_grad()
        assert inner() is None
    finally:
        gc.enable()


def train_with_optimizer(steps, state):
    model = state.setdefault("model", nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 1)))
    opt = state.setdefault("opt", ndl.optim.Adam(model.parameters(), lr=1e-3))
    for _ in range(steps):
        opt.reset_grad()
        ((model(X) - Y) ** 2).mean().backward()
        opt.step()


def train_and_never_reset(steps, state):
    w = state.setdefault("w", weights())
    opt = state.setdefault("opt", ndl.optim.SGD([w], lr=1e-3, momentum=0.9))
    for _ in range(steps):
        loss(w).backward()
        opt.step()


def train_with_new_weights(steps, state):
    w = state.setdefault("w", weights())
    for _ in range(steps):
        loss(w).backward()
        w = ndl.Tensor(w.numpy() - np.float32(1e-3) * w.grad.numpy())
    state["w"] = w


def train_by_rebinding(steps, state):
    w = state.setdefault("w", weights())
    for _ in range(steps):
        loss(w).backward()
        w.data = w.data - 1e-3 * w.grad.data


def train_functionally(steps, state):
    w = state.setdefault("w", weights().detach())
    for _ in range(steps):
        w = w - 1e-3 * ndl.grad(loss)(w)
    state["w"] = w


def train_on_second_derivatives(steps, state):
    w = state.setdefault("w", weights())
    for _ in range(steps // 5):
        loss(w).backward()
        (w.grad**2).sum().backward()
        w.data = w.data - 1e-3 * w.grad.data


def train_with_micro_batches(steps, state):
    w = state.setdefault("w", weights())
    opt = state.setdefault("opt", ndl.optim.SGD([w], lr=1e-3))
    accumulator = state.setdefault("accumulator", ndl.GradientAccumulator([w]))
    for _ in range(steps // 2):
        accumulator.add(loss(w), 2)
        accumulator.add(loss(w), 1)
        accumulator.apply()
        opt.step()


@pytest.mark.parametrize(
    "train",
    [
        train_with_optimizer,
        train_and_never_reset,
        train_with_new_weights,
        train_by_rebinding,
        train_functionally,
        train_on_second_derivatives,
        train_with_micro_batches,
    ],
)
def test_loop_grows_neither_counter_nor_memory(train):
    state = {}
    train(200, state)
    gc.collect()
    count = alive()
    tracemalloc.start()
    try:
        train(50, state)
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        train(200, state)
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] - before < 20_000
    finally:
        tracemalloc.stop()
    most = 0
    for _ in range(10):
        train(STEPS // 10, state)
        most = max(most, alive())
    assert most < count + 2000  # what waits for the collector
    gc.collect()
    assert alive() == count
