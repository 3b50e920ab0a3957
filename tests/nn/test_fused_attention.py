"""Attention as one operator: PyTorch's answer, a learned bias, and memory that grows with the length alone."""

import tracemalloc

import numpy as np
import pytest

import needle as ndl
from needle import ops
from needle.ops.attention_blocks import kept_weights

from .differences import check_gradients


def operands(*shapes, dtype="float64"):
    generator = np.random.default_rng(5)
    return [ndl.Tensor(generator.standard_normal(shape), dtype=dtype) for shape in shapes]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("length", [7, 1100])
def test_values_and_gradients_are_those_of_pytorch(causal, length):
    torch = pytest.importorskip("torch")
    q, k, v = operands(*[(2, 3, length, 8)] * 3)
    theirs = [torch.tensor(one.numpy(), requires_grad=True) for one in (q, k, v)]
    y = ndl.scaled_dot_product_attention(q, k, v, causal=causal)
    expected = torch.nn.functional.scaled_dot_product_attention(*theirs, is_causal=causal)
    np.testing.assert_allclose(y.numpy(), expected.detach().numpy(), rtol=1e-8, atol=1e-10)
    (y * y).sum().backward()
    (expected * expected).sum().backward()
    for one, other in zip((q, k, v), theirs, strict=True):
        np.testing.assert_allclose(one.grad.numpy(), other.grad.numpy(), rtol=1e-7, atol=1e-9)


def test_a_learned_bias_has_a_gradient():
    arrays = [one.numpy() for one in operands((2, 5, 4), (2, 6, 4), (2, 6, 3), (5, 6))]
    check_gradients(ndl.scaled_dot_product_attention, *arrays)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_narrow_numbers_are_rounded_once(dtype):
    q, k, v = operands((1, 20, 64), (1, 1200, 64), (1, 1200, 8), dtype=dtype)
    exact = ndl.scaled_dot_product_attention(*(ndl.Tensor(one.numpy(), dtype="float64") for one in (q, k, v)))
    rounded = ndl.Tensor(exact.numpy(), dtype=dtype)
    found = ndl.scaled_dot_product_attention(q, k, v)
    assert found.dtype == q.dtype
    errors = [np.abs(one.numpy().astype("float64") - exact.numpy()).max() for one in (found, rounded)]
    assert errors[0] <= 1.1 * errors[1]


def test_sums_and_products_beyond_float16_are_no_overflow():
    many = [
        ndl.Tensor(np.full(shape, c), dtype="float16") for shape, c in (((1, 2), 0), ((70_000, 2), 0), ((70_000, 1), 1))
    ]
    assert ndl.scaled_dot_product_attention(*many).numpy().tolist() == [[1]]
    large = [ndl.Tensor(np.full((3, 64), c), dtype="float16") for c in (40, 40, 1)]
    assert (ndl.scaled_dot_product_attention(*large).numpy() == 1).all()


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("block", [2, 16])
def test_queries_that_see_nothing_in_some_blocks_or_in_all(causal, block):
    visible = np.random.default_rng(1).random((8, 9)) < 0.4
    visible[3] = False  # nothing
    visible[5, :6] = False  # nothing in the first blocks
    own = operands((2, 8, 4), (2, 9, 4), (2, 9, 3))
    other = [ndl.Tensor(one.numpy()) for one in own]
    mask = ndl.Tensor(visible, requires_grad=False)
    operator = ops.ScaledDotProductAttention(causal, block=block)
    y, expected = operator(*own, mask), operator.composed(*other, mask)[0]
    np.testing.assert_allclose(y.numpy(), expected.numpy(), atol=1e-12)
    assert (y.numpy()[:, 3] == 0).all()
    (y * y).sum().backward()
    (expected * expected).sum().backward()
    for one, two in zip(own, other, strict=True):
        np.testing.assert_allclose(one.grad.numpy(), two.grad.numpy(), atol=1e-12)


def test_several_blocks_are_one_compiled():
    q, k, v = operands(*[(1, 2, 1300, 16)] * 3, dtype="float32")

    def gradients(q, k, v):
        y = ndl.scaled_dot_product_attention(q, k, v, causal=True)
        (y * y).sum().backward()
        return y, q.grad, k.grad, v.grad

    expected = [one.numpy() for one in gradients(q, k, v)]
    for one, other in zip(ndl.jit(gradients)(q, k, v), expected, strict=True):
        np.testing.assert_allclose(one.numpy(), other, rtol=2e-4, atol=2e-4)


def test_dropped_weights_are_the_same_compiled_and_drawn_anew_each_time():
    q, k, v = operands(*[(1, 2, 700, 4)] * 3)

    def gradients(q, k, v):
        y = ndl.scaled_dot_product_attention(q, k, v, dropout=0.25)
        (y * y).sum().backward()
        return y, q.grad, k.grad, v.grad

    np.random.seed(3)
    eager = [[one.numpy() for one in gradients(q, k, v)] for _ in range(2)]
    np.random.seed(3)
    step = ndl.jit(gradients)
    compiled = [[one.numpy() for one in step(q, k, v)] for _ in range(2)]
    for expected, found in zip(eager, compiled, strict=True):
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-11)
    assert (eager[0][0] != eager[1][0]).all()


def test_weights_are_dropped_as_often_as_asked_and_in_no_pattern():
    seed = np.array([1, 2], dtype="uint32")
    kept = kept_weights(seed, (2, 3), 200, (slice(0, 200), slice(0, 300)), 0.3)
    for axes, count in (((3,), 300), ((2,), 200), ((0, 1), 6)):
        spread = kept.mean(axis=axes).std()
        np.testing.assert_allclose(spread, np.sqrt(0.21 / count), rtol=0.05)
    np.testing.assert_allclose(kept.mean(), 0.7, atol=0.002)
    signs = kept.reshape(-1, 300) - 0.7  # no two rows, and no two columns, are alike
    for one in (signs, signs.T):
        products = np.abs(np.corrcoef(one) - np.eye(len(one)))
        assert products.max() < 6 / np.sqrt(one.shape[1])


def eager_peak(length, **options):
    q, k, v = operands(*[(1, 1, length, 8)] * 3, dtype="float32")
    bias = operands((1, length), dtype="float32")[0]
    tracemalloc.start()
    (ndl.scaled_dot_product_attention(q, k, v, bias, **options) ** 2).sum().backward()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


def compiled_peak(length, **options):
    q, k, v = operands(*[(1, 1, length, 8)] * 3, dtype="float32")

    @ndl.jit
    def gradients(q, k, v):
        seed = [ndl.Tensor(np.array([1, 2], dtype="uint32"), requires_grad=False)] if options.get("dropout") else []
        (ops.ScaledDotProductAttention(block=128, **options)(q, k, v, *seed) ** 2).sum().backward()
        return q.grad, k.grad, v.grad

    return gradients.lower(q, k, v).program.executable.module.arena.size


@pytest.mark.parametrize("options", [{}, {"causal": True}, {"dropout": 0.1}], ids=["plain", "causal", "dropout"])
def test_memory_grows_with_the_length_and_not_with_its_square(options):
    assert eager_peak(8192, **options) < 2.3 * eager_peak(4096, **options)
    assert eager_peak(4096, **options) < 4096 * 4096 * 4 / 4  # a quarter of one matrix of weights
    assert compiled_peak(2048, **options) < 2.3 * compiled_peak(1024, **options)


def compiled_and_eager(operands, mask=None, **options):
    """Return pairs of what is computed compiled, in loops, and eagerly: the result and the operands' gradients."""

    def gradients(*operands):
        for one in operands:
            one.grad = None
        y = ndl.scaled_dot_product_attention(*operands, mask, **options)
        (y * y).sum().backward()
        return y, *(one.grad for one in operands)

    np.random.seed(3)
    eager = [one.numpy() for one in gradients(*operands)]
    np.random.seed(3)
    step = ndl.jit(gradients)
    compiled = [one.numpy() for one in step(*operands)]
    assert "repeat" in step.lower(*operands).show("graph")
    return zip(compiled, eager, strict=True)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    ("lead", "queries", "keys"),
    [((1,), 600, 600), ((2, 6), 521, 521), ((3,), 1021, 777), ((3,), 777, 1021), ((), 530, 1)],
)
def test_long_attention_in_loops(lead, queries, keys, causal):
    arrays = operands((*lead, queries, 8), (*lead, keys, 8), (*lead, keys, 5))
    for one, other in compiled_and_eager(arrays, causal=causal):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("options", [{}, {"causal": True, "dropout": 0.2}])
@pytest.mark.parametrize("shape", [(600,), (2, 1, 1, 600), (1, 3, 1, 600), (2, 3, 1, 1)])
@pytest.mark.parametrize("kind", ["bool", "float64"])
def test_long_attention_with_a_mask_of_keys_in_loops(kind, shape, options):
    arrays = operands(*[(2, 3, 600, 4)] * 3)
    mask = operands(shape)[0].numpy()
    mask = ndl.Tensor(mask > -0.5 if kind == "bool" else mask, dtype=kind, requires_grad=False)
    for one, other in compiled_and_eager(arrays, mask, **options):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("causal", [False, True])
def test_long_attention_with_a_mask_that_adds_much_in_loops(causal):
    arrays = operands(*[(2, 601, 4)] * 3)
    mask = ndl.Tensor(np.full((601,), 2000.0), requires_grad=False)
    for one, other in compiled_and_eager(arrays, mask, causal=causal):
        np.testing.assert_allclose(one, other, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_long_attention_of_narrow_numbers_in_loops(dtype):
    for one, other in compiled_and_eager(operands(*[(2, 700, 16)] * 3, dtype=dtype), causal=True):
        exact = other.astype("float64")
        largest = (0.01 if dtype == "float16" else 0.05) * np.abs(exact).max()
        np.testing.assert_allclose(one.astype("float64"), exact, atol=largest)


@pytest.mark.parametrize("compiled", [False, True])
def test_logits_far_below_zero_behind_a_block_that_is_hidden(compiled):
    q, k, v = operands(*[(1, 1100, 4)] * 3)
    q, k = (ndl.Tensor(np.full(one.shape, c)) for one, c in ((q, 100.0), (k, -100.0)))
    mask = ndl.Tensor(np.arange(1100) >= 1050, requires_grad=False)

    def attend(q, k, v):
        return ndl.scaled_dot_product_attention(q, k, v, mask)

    y = (ndl.jit(attend) if compiled else attend)(q, k, v).numpy()
    np.testing.assert_allclose(y, np.broadcast_to(v.numpy()[:, 1050:].mean(1, keepdims=True), y.shape), rtol=1e-9)


def test_a_program_of_long_attention_does_not_grow_with_the_length():
    def gradients(q, k, v):
        (ndl.scaled_dot_product_attention(q, k, v, causal=True) ** 2).sum().backward()
        return q.grad, k.grad, v.grad

    short, long = (
        ndl.jit(gradients).lower(*operands(*[(1, 4, length, 8)] * 3, dtype="float32")).show("llvm")
        for length in (1024, 8192)
    )
    assert len(long.splitlines()) < 1.05 * len(short.splitlines())
