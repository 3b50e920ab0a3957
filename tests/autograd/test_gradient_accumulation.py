"""Several micro-batches make one gradient."""

import itertools

import numpy as np
import pytest

import needle as ndl
from needle import nn
from needle.errors import DataError, DTypeError, GradientError, SettingError, ShapeError

rng = np.random.default_rng(0)
X, Y = rng.standard_normal((22, 5)), rng.integers(0, 3, 22)


def make_model():
    np.random.seed(0)
    return nn.Sequential(nn.Linear(5, 7, dtype="float64"), nn.Tanh(), nn.Linear(7, 3, dtype="float64"))


def loss(model, rows):
    return nn.SoftmaxLoss()(model(ndl.Tensor(X[rows], requires_grad=False)), ndl.Tensor(Y[rows]))


@pytest.mark.parametrize("sizes", [[22], [11, 11], [8, 8, 6], [5, 5, 5, 5, 2], [1] * 22])
def test_micro_batches_equal_the_batch(sizes):
    model = make_model()
    loss(model, slice(None)).backward()
    whole = [p.grad.numpy() for p in model.parameters()]
    accumulator = ndl.GradientAccumulator(model.parameters())
    ends = np.cumsum(sizes)
    for size, end in zip(sizes, ends, strict=True):
        accumulator.add(loss(model, slice(end - size, end)), weight=size)
    accumulator.apply()
    for p, expected in zip(model.parameters(), whole, strict=True):
        np.testing.assert_allclose(p.grad.numpy(), expected, rtol=1e-12, atol=1e-14)
        assert p.grad.dtype == "float64"


def test_steps_over_windows_equal_steps_over_batches():
    batched, windowed = make_model(), make_model()
    opts = [ndl.optim.Adam(model.parameters(), lr=0.01) for model in (batched, windowed)]
    accumulator = ndl.GradientAccumulator(windowed.parameters())
    for start in range(0, 22, 8):  # windows of 8, 8 and 6 samples, in micro-batches of 3, 3 and the rest
        window = range(start, min(start + 8, 22))
        loss(batched, list(window)).backward()
        opts[0].step()
        for at in range(0, len(window), 3):
            part = list(window[at : at + 3])
            accumulator.add(loss(windowed, part), len(part))
        accumulator.apply()
        opts[1].step()
    for a, b in zip(batched.parameters(), windowed.parameters(), strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-12)


def test_add_touches_no_grad_and_apply_starts_anew():
    w = ndl.Tensor([2.0])
    (w * 5).backward()
    accumulator = ndl.GradientAccumulator([w])
    accumulator.add((w * 3).sum(), 1)
    assert w.grad.tolist() == [5]
    assert accumulator.total_weight == 1
    accumulator.apply()
    assert w.grad.tolist() == [3]
    assert accumulator.total_weight == 0
    accumulator.add((w * 7).sum())
    accumulator.reset()
    accumulator.add((w * 4).sum())
    accumulator.apply()
    assert w.grad.tolist() == [4]


def test_parameters_that_only_some_losses_reach():
    a, b, c = (ndl.Tensor([value]) for value in (1.0, 2.0, 3.0))
    c.grad = ndl.Tensor([9.0])
    accumulator = ndl.GradientAccumulator([a, b, c, a])
    accumulator.add((a * b).sum(), 1)
    accumulator.add((a * 6).sum(), 3)
    accumulator.apply()
    assert (a.grad.tolist(), b.grad.tolist(), c.grad) == ([5], [0.25], None)


def test_narrow_gradients_are_summed_in_float32():
    w = ndl.Tensor([1.0], dtype="float16")
    accumulator = ndl.GradientAccumulator([w])
    accumulator.add((w * 2048).sum())
    for _ in range(2047):
        accumulator.add((w * 1).sum())
    accumulator.apply()
    assert w.grad.dtype == "float16"
    assert w.grad.tolist() == [np.float16((2048 + 2047) / 2048)]


def test_gradients_are_constants():
    w = ndl.Tensor([1.0])
    accumulator = ndl.GradientAccumulator(iter([w]))
    accumulator.add((w * w).sum())
    accumulator.apply()
    assert w.grad.is_leaf()
    assert not w.grad.requires_grad


def test_wrong_use_is_an_error_and_changes_nothing():
    w = ndl.Tensor([1.0, 2.0])
    accumulator = ndl.GradientAccumulator([w])
    with pytest.raises(GradientError, match="nothing was added"):
        accumulator.apply()
    with pytest.raises(GradientError, match=r"one number, got shape \(2,\)"):
        accumulator.add(w * 2)
    with pytest.raises(GradientError, match="depends on nothing that requires a gradient"):
        accumulator.add(ndl.Tensor(1.0, requires_grad=False))
    for weight in (0, -1.0, float("nan"), float("inf")):
        with pytest.raises(SettingError, match="the weight is finite and above 0"):
            accumulator.add(w.sum(), weight)
        with pytest.raises(SettingError, match="the weight is finite and above 0"):
            accumulator.add(w.sum(), ndl.Tensor(float(weight)))
        with pytest.raises(SettingError, match="the weight is finite and above 0"):
            ndl.jit(lambda weight: accumulator.add(w.sum(), weight))(ndl.Tensor(float(weight)))
    with pytest.raises(ShapeError, match=r"the weight is one number, got shape \(1,\)"):
        accumulator.add(w.sum(), ndl.Tensor([1.0]))
    assert accumulator.total_weight == 0
    assert w.grad is None


@pytest.mark.parametrize("whole", [False, True])
def test_compiled_micro_batches_equal_eager_ones(whole):
    trained = []
    for compiled in (False, True):
        model = make_model()
        opt = ndl.optim.Adam(model.parameters(), lr=0.01)
        accumulator = ndl.GradientAccumulator(model.parameters())

        def add(x, y, model=model, accumulator=accumulator):
            accumulator.add(nn.SoftmaxLoss()(model(x), y), weight=len(x))

        def update(accumulator=accumulator, opt=opt):
            accumulator.apply()
            opt.step()

        def train(batches, add=add, update=update):
            for x, y in batches:
                add(x, y)
            update()

        if compiled and whole:
            train = ndl.jit(train)
        elif compiled:
            add, update = ndl.jit(add), ndl.jit(update)
        for start in range(0, 22, 8):
            ends = [*range(start, min(start + 8, 22), 3), min(start + 8, 22)]
            batches = [(ndl.Tensor(X[a:b]), ndl.Tensor(Y[a:b])) for a, b in itertools.pairwise(ends)]
            train(batches) if whole else [add(*one) for one in batches] and update()
            assert accumulator.total_weight == 0
        if compiled:
            functions = (train,) if whole else (add, update)
            assert [one.cache_info().traces for one in functions] == ([2] if whole else [2, 1])  # of 3 and of 2 samples
        trained.append([p.numpy() for p in model.parameters()])
    for eager, other in zip(*trained, strict=True):
        np.testing.assert_allclose(other, eager, rtol=1e-10)


def test_one_program_serves_all_weights_that_come_as_tensors():
    w = ndl.Tensor([2.0])
    accumulator = ndl.GradientAccumulator([w])
    add = ndl.jit(lambda x, weight: accumulator.add((w * x).sum(), weight))
    add(ndl.Tensor([3.0]), ndl.Tensor(1.0, dtype="float32"))
    add(ndl.Tensor([7.0]), ndl.Tensor(3.0, dtype="float32"))
    assert accumulator.total_weight == 4
    accumulator.apply()
    assert w.grad.tolist() == [6]
    assert add.cache_info().traces == 1


def test_compiled_calls_that_fail_leave_the_sums_alone():
    w = ndl.Tensor([2.0])
    accumulator = ndl.GradientAccumulator([w])

    @ndl.jit
    def add(x, stop):
        accumulator.add((w * x).sum())
        if stop:
            raise KeyError("stop")

    @ndl.jit
    def apply():
        accumulator.apply()

    with pytest.raises(KeyError):
        add(ndl.Tensor([1.0]), True)
    assert accumulator.total_weight == 0
    with pytest.raises(GradientError, match="nothing was added"):
        accumulator.apply()
    for x in (3.0, 5.0):
        add(ndl.Tensor([x]), False)
    with pytest.raises(KeyError):
        add(ndl.Tensor([7.0]), True)
    assert accumulator.total_weight == 2
    apply()
    assert w.grad.tolist() == [4]
    with pytest.raises(GradientError, match="nothing was added"):
        apply()
    assert w.grad.tolist() == [4]


def test_accumulator_of_nothing_is_an_error():
    with pytest.raises(DataError, match="no parameters"):
        ndl.GradientAccumulator([])
    with pytest.raises(DTypeError, match="parameter 0 is no Tensor but str"):
        ndl.GradientAccumulator(["w"])
