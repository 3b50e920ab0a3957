"""Losses against their formulas in plain NumPy, and against torch."""

import math

import numpy as np
import pytest

import needle as ndl
from needle import nn
from needle.errors import DataError, DTypeError, ShapeError
from needle.ops.class_loss import cross_entropy, nll_loss
from needle.ops.loss import (
    binary_cross_entropy_with_logits,
    huber_loss,
    kl_divergence,
    l1_loss,
    mse_loss,
)

from .differences import check_gradients

RNG = np.random.default_rng(0)
LOGITS = RNG.standard_normal((5, 4)) * 3
LABELS = np.array([0, 3, 1, 2, 1])
WEIGHTS = np.array([1.0, 2.0, 0.5, 3.0])
OPTIONS = [
    {},
    {"label_smoothing": 0.1},
    {"label_smoothing": 1.0},
    {"ignore_index": 1},
    {"ignore_index": -100},
    {"class_weights": WEIGHTS},
    {"class_weights": WEIGHTS, "label_smoothing": 0.2, "ignore_index": 3},
]
REDUCTIONS = ["mean", "sum", "none"]


def log_softmax(z):
    return z - np.log(np.exp(z).sum(axis=-1, keepdims=True))


def reduced(losses, reduction):
    return {"mean": np.mean, "sum": np.sum, "none": np.asarray}[reduction](losses)


def expected_cross_entropy(z, y, *, label_smoothing=0.0, ignore_index=None, class_weights=None, reduction="mean"):
    """The definition, row by row: −Σ_c target_c · w_c · log p_c, the mean divided by Σ w_y."""
    classes = z.shape[-1]
    w = np.ones(classes) if class_weights is None else np.asarray(class_weights, dtype=float)
    losses, total = [], 0.0
    for row, label in zip(log_softmax(z), y, strict=True):
        if label == ignore_index:
            losses.append(0.0)
            continue
        target = np.full(classes, label_smoothing / classes)
        target[label] += 1 - label_smoothing
        losses.append(-(target * w * row).sum())
        total += w[label]
    losses = np.array(losses)
    return losses.sum() / total if reduction == "mean" else reduced(losses, reduction)


# ----------------------------------------------------------------------------------------------- cross-entropy


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(options) or "plain")
def test_cross_entropy_is_its_definition(options, reduction):
    loss = nn.CrossEntropyLoss(**options, reduction=reduction)(ndl.Tensor(LOGITS), ndl.Tensor(LABELS))
    np.testing.assert_allclose(
        loss.numpy(), expected_cross_entropy(LOGITS, LABELS, **options, reduction=reduction), rtol=1e-12
    )
    check_gradients(lambda z: cross_entropy(z, ndl.Tensor(LABELS), **options, reduction=reduction), LOGITS)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(options) or "plain")
def test_cross_entropy_agrees_with_torch(options, reduction):
    torch = pytest.importorskip("torch")
    theirs = torch.nn.functional.cross_entropy(
        torch.tensor(LOGITS),
        torch.tensor(LABELS),
        weight=torch.tensor(WEIGHTS) if "class_weights" in options else None,
        ignore_index=options.get("ignore_index", -100),
        label_smoothing=options.get("label_smoothing", 0.0),
        reduction=reduction,
    )
    ours = cross_entropy(ndl.Tensor(LOGITS), ndl.Tensor(LABELS), **options, reduction=reduction)
    np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-12)


@pytest.mark.parametrize(
    "dtype", ["int8", "int32", "int64", "uint8", "uint64", "float16", "bfloat16", "float32", "float64"]
)
def test_softmax_loss_takes_labels_of_any_number_dtype(dtype):
    z = ndl.Tensor(LOGITS, dtype="float32")
    y = ndl.Tensor(LABELS, dtype=dtype)
    loss = nn.SoftmaxLoss()(z, y)
    loss.backward()
    one_hot = np.eye(4)[LABELS]
    expected = np.mean(np.log(np.exp(LOGITS).sum(1)) - (LOGITS * one_hot).sum(1))
    np.testing.assert_allclose(loss.numpy(), expected, rtol=1e-6)
    np.testing.assert_allclose(z.grad.numpy(), (np.exp(log_softmax(LOGITS)) - one_hot) / 5, rtol=1e-5, atol=1e-7)
    assert loss.shape == ()
    assert loss.dtype == z.grad.dtype == "float32"
    assert y.grad is None


def test_cross_entropy_takes_positions_before_the_classes():
    z, y = RNG.standard_normal((2, 3, 4)), np.array([[0, 1, 2], [3, 0, 1]])
    loss = cross_entropy(ndl.Tensor(z), ndl.Tensor(y), reduction="none")
    np.testing.assert_allclose(
        loss.numpy(), expected_cross_entropy(z.reshape(6, 4), y.reshape(6), reduction="none").reshape(2, 3), rtol=1e-12
    )
    one = cross_entropy(ndl.Tensor(z[0, 0]), ndl.Tensor(0))
    np.testing.assert_allclose(one.numpy(), -log_softmax(z[0, 0])[0], rtol=1e-12)
    check_gradients(lambda t: cross_entropy(t, ndl.Tensor(y), reduction="none"), z)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(options) or "plain")
def test_cross_entropy_bears_extreme_logits(options, dtype):
    z = ndl.Tensor([[1e4, -1e4, 0.0, 1e4], [-1e4, -1e4, -1e4, -1e4], [0.0, 1e4, -1e4, 5.0]], dtype=dtype)
    loss = cross_entropy(z, ndl.Tensor([1, 2, 0]), **options)
    loss.backward()
    assert np.isfinite(loss.numpy().astype(float))
    assert np.isfinite(z.grad.numpy().astype(float)).all()
    assert z.grad.dtype == dtype


def test_cross_entropy_of_certain_answers():
    z = ndl.Tensor([[1e4, -1e4], [-1e4, 1e4]])
    np.testing.assert_array_equal(cross_entropy(z, ndl.Tensor([0, 1])).numpy(), 0)
    np.testing.assert_array_equal(cross_entropy(z, ndl.Tensor([1, 0])).numpy(), 2e4)


def test_cross_entropy_bears_classes_that_are_ruled_out():
    z = ndl.Tensor([[0.0, -np.inf, 0.0]])
    loss = cross_entropy(z, ndl.Tensor([0]))
    loss.backward()
    np.testing.assert_allclose(loss.numpy(), math.log(2), rtol=1e-12)
    np.testing.assert_allclose(z.grad.numpy(), [[-0.5, 0, 0.5]], rtol=1e-12)


def test_cross_entropy_ignores_a_label_whose_loss_is_infinite():
    z = ndl.Tensor([[0.0, -np.inf], [-np.inf, 0.0]])
    loss = cross_entropy(z, ndl.Tensor([0, 0]), class_weights=[1.0, 1.0], ignore_index=0)
    assert loss.numpy() == 0


def test_a_mean_over_no_labels_that_count_is_zero():
    z = ndl.Tensor(LOGITS)
    loss = cross_entropy(z, ndl.Tensor(np.full(5, -1)), ignore_index=-1)
    loss.backward()
    assert loss.numpy() == 0
    assert not z.grad.numpy().any()


def test_class_weights_may_be_a_tensor_of_any_number_dtype():
    expected = expected_cross_entropy(LOGITS, LABELS, class_weights=[1, 2, 3, 4])
    for weights in (ndl.Tensor([1, 2, 3, 4]), (1, 2, 3, 4), np.array([1, 2, 3, 4], dtype="float32")):
        loss = cross_entropy(ndl.Tensor(LOGITS), ndl.Tensor(LABELS), class_weights=weights)
        np.testing.assert_allclose(loss.numpy(), expected, rtol=1e-12)


def test_cross_entropy_of_integers_and_sixteen_bits():
    labels = ndl.Tensor([0, 1])
    whole = cross_entropy(ndl.Tensor([[1, 2], [3, 5]]), labels)
    np.testing.assert_allclose(whole.numpy(), expected_cross_entropy(np.array([[1.0, 2], [3, 5]]), [0, 1]), rtol=1e-12)
    half = ndl.Tensor(LOGITS, dtype="float16")
    loss = cross_entropy(half, ndl.Tensor(LABELS))
    loss.backward()
    assert loss.dtype == half.grad.dtype == "float16"
    np.testing.assert_allclose(loss.numpy(), expected_cross_entropy(LOGITS, LABELS), rtol=2e-3)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("options", [{}, {"ignore_index": 1}, {"class_weights": WEIGHTS}])
def test_nll_loss_picks_the_labels(options, reduction):
    log_p = log_softmax(LOGITS)
    expected = expected_cross_entropy(LOGITS, LABELS, **options, reduction=reduction)
    loss = nn.NLLLoss(**options, reduction=reduction)(ndl.Tensor(log_p), ndl.Tensor(LABELS))
    np.testing.assert_allclose(loss.numpy(), expected, rtol=1e-12)
    check_gradients(lambda t: nll_loss(t, ndl.Tensor(LABELS), **options, reduction=reduction), log_p)


@pytest.mark.parametrize("loss_type", [nn.SoftmaxLoss, nn.CrossEntropyLoss, nn.NLLLoss])
def test_labels_that_are_no_classes_are_refused(loss_type):
    z = ndl.Tensor(LOGITS)
    for bad in (4, -1):
        with pytest.raises(DataError, match=rf"labels are whole numbers from 0 to 3, got {bad} at position \(2,\)"):
            loss_type()(z, ndl.Tensor([0, 1, bad, 2, 3]))
    for bad in (0.5, float("nan"), float("inf")):
        with pytest.raises(DataError, match=rf"labels are whole numbers from 0 to 3, got {bad} at position \(2,\)"):
            loss_type()(z, ndl.Tensor([0, 1, bad, 2, 3]))
    with pytest.raises(DataError, match="labels are whole numbers from 0 to 3, got 7"):
        loss_type(ignore_index=-1)(z, ndl.Tensor([0, -1, 7, 2, 3]))


def test_labels_of_the_wrong_shape_are_refused_with_a_remedy():
    z = ndl.Tensor(LOGITS)
    rule = r"labels have the scores' shape without its last axis, for scores \(5, 4\) that is \(5,\), got "
    with pytest.raises(ShapeError, match=rule + r"\(5, 1\)\. Write labels\.reshape\(\(5,\)\)"):
        nn.SoftmaxLoss()(z, ndl.Tensor(LABELS[:, None]))
    with pytest.raises(ShapeError, match=rule + r"\(5, 4\)\. For one-hot rows write labels\.argmax\(-1\)"):
        nn.SoftmaxLoss()(z, ndl.Tensor(np.eye(4)[LABELS]))
    with pytest.raises(ShapeError, match=rule + r"\(4,\)\n"):
        nn.SoftmaxLoss()(z, ndl.Tensor(LABELS[:4]))
    with pytest.raises(ShapeError, match=r"and scores have one axis or more, got \(\)"):
        nn.SoftmaxLoss()(ndl.Tensor(1.0), ndl.Tensor(1))
    with pytest.raises(ShapeError, match=r"(?s)cross_entropy: .*in SoftmaxLoss$"):
        nn.SoftmaxLoss()(z, ndl.Tensor(0))


def test_labels_that_are_no_tensor_are_refused():
    with pytest.raises(DTypeError, match="cross_entropy: expected Tensors, got ndarray"):
        nn.SoftmaxLoss()(ndl.Tensor(LOGITS), LABELS)


def test_options_out_of_range_are_refused():
    for smoothing in (-0.1, 1.1, float("nan")):
        with pytest.raises(DataError, match=r"label_smoothing is in \[0, 1\], got"):
            nn.CrossEntropyLoss(label_smoothing=smoothing)
    for loss_type in (nn.CrossEntropyLoss, nn.NLLLoss, nn.MSELoss, nn.KLDivLoss):
        with pytest.raises(DataError, match="reduction is one of 'mean', 'sum', 'none', got 'median'"):
            loss_type(reduction="median")
    with pytest.raises(ShapeError, match=r"class_weights has one number for each class, shape \(C,\), got \(1, 2\)"):
        nn.CrossEntropyLoss(class_weights=[[1, 2]])
    for weights in ([1, -1], [np.nan, 1], ["a", "b"]):
        with pytest.raises(DataError, match="class_weights are finite numbers, 0 or more"):
            nn.CrossEntropyLoss(class_weights=weights)
    with pytest.raises(ShapeError, match="there are 2 class weights for 4 classes"):
        nn.CrossEntropyLoss(class_weights=[1, 2])(ndl.Tensor(LOGITS), ndl.Tensor(LABELS))
    for delta in (0, -1, float("nan")):
        with pytest.raises(DataError, match="delta is more than 0, got"):
            nn.HuberLoss(delta)


# ---------------------------------------------------------------------------------------------- losses of values

Z, T = RNG.standard_normal((5, 4)) * 2, RNG.standard_normal((5, 4))
P = RNG.dirichlet(np.ones(4), 5)


def huber(a, b, delta=1.0):
    d = np.abs(a - b)
    return np.where(d <= delta, d**2 / 2, delta * (d - delta / 2))


def bce(z, t):
    p = 1 / (1 + np.exp(-z))
    return -t * np.log(p) - (1 - t) * np.log(1 - p)


VALUE_LOSSES = {
    "mse": (mse_loss, nn.MSELoss, Z, T, lambda a, b: (a - b) ** 2),
    "l1": (l1_loss, nn.L1Loss, Z, T, lambda a, b: np.abs(a - b)),
    "huber": (huber_loss, nn.HuberLoss, Z, T, huber),
    "bce": (binary_cross_entropy_with_logits, nn.BCEWithLogitsLoss, Z, P, bce),
    "kl": (kl_divergence, nn.KLDivLoss, log_softmax(Z), P, lambda q, p: (p * (np.log(p) - q)).sum(axis=-1)),
}


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", VALUE_LOSSES)
def test_losses_of_values_are_their_formulas(name, reduction):
    function, module, a, b, formula = VALUE_LOSSES[name]
    expected = reduced(formula(a, b), reduction)
    np.testing.assert_allclose(
        module(reduction=reduction)(ndl.Tensor(a), ndl.Tensor(b)).numpy(), expected, rtol=1e-12, atol=1e-15
    )
    check_gradients(lambda x, y: function(x, y, reduction=reduction), a, b)


@pytest.mark.parametrize("delta", [0.3, 2.5])
def test_huber_loss_takes_a_delta(delta):
    loss = nn.HuberLoss(delta)(ndl.Tensor(Z), ndl.Tensor(T))
    np.testing.assert_allclose(loss.numpy(), huber(Z, T, delta).mean(), rtol=1e-12)
    check_gradients(lambda x, y: huber_loss(x, y, delta), Z, T)


@pytest.mark.parametrize("name", VALUE_LOSSES)
def test_losses_of_values_agree_with_torch(name):
    torch = pytest.importorskip("torch")
    theirs = {
        "mse": torch.nn.MSELoss(),
        "l1": torch.nn.L1Loss(),
        "huber": torch.nn.HuberLoss(),
        "bce": torch.nn.BCEWithLogitsLoss(),
        "kl": torch.nn.KLDivLoss(reduction="batchmean"),
    }[name]
    _, module, a, b, _ = VALUE_LOSSES[name]
    expected = theirs(torch.tensor(a), torch.tensor(b))
    np.testing.assert_allclose(module()(ndl.Tensor(a), ndl.Tensor(b)).numpy(), expected.numpy(), rtol=1e-12)


@pytest.mark.parametrize("name", VALUE_LOSSES)
def test_losses_of_values_never_broadcast(name):
    module = VALUE_LOSSES[name][1]()
    column, row = ndl.Tensor(np.full((4, 1), 0.5)), ndl.Tensor(np.full(4, 0.5))
    message = (
        r"the prediction has shape \(4, 1\), the target \(4,\), and they must be equal: broadcast against each other, "
        r"every prediction would be compared with every target\. Write target\.reshape\(\(4, 1\)\)"
    )
    with pytest.raises(ShapeError, match=message):
        module(column, row)
    with pytest.raises(ShapeError, match=r"the prediction has shape \(4,\), the target \(\), and they must be equal\n"):
        module(row, ndl.Tensor(0.5))


@pytest.mark.parametrize("name", VALUE_LOSSES)
def test_losses_of_an_empty_batch_are_refused(name):
    empty = ndl.Tensor(np.ones((0, 3)))
    with pytest.raises(ShapeError, match=r"there is no loss of an empty batch: the prediction has shape \(0, 3\)"):
        VALUE_LOSSES[name][1]()(empty, empty)


@pytest.mark.parametrize("loss_type", [nn.SoftmaxLoss, nn.NLLLoss])
def test_class_losses_of_an_empty_batch_are_refused(loss_type):
    for shape in ((0, 3), (2, 0)):
        with pytest.raises(ShapeError, match="there is no loss of an empty batch: the scores have shape"):
            loss_type()(ndl.Tensor(np.ones(shape)), ndl.Tensor(np.zeros(shape[0])))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_binary_cross_entropy_bears_extreme_logits(dtype):
    z = ndl.Tensor([1e4, -1e4, 1e4, -1e4], dtype=dtype)
    loss = binary_cross_entropy_with_logits(z, ndl.Tensor([1, 0, 0, 1]), reduction="none")
    loss.backward()
    big = float(np.array(1e4, dtype="float32").astype(z.dtype))
    np.testing.assert_array_equal(loss.numpy().astype(float), [0, 0, big, big])
    np.testing.assert_array_equal(z.grad.numpy().astype(float), [0, 0, 1, -1])


def test_huber_loss_of_far_values_does_not_overflow():
    a = ndl.Tensor(np.array([1e30, 0.5], dtype="float32"))
    loss = huber_loss(a, ndl.Tensor(np.zeros(2, dtype="float32")), reduction="none")
    np.testing.assert_allclose(loss.numpy(), [1e30, 0.125], rtol=1e-6)


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int64"])
def test_binary_cross_entropy_takes_targets_of_any_dtype(dtype):
    targets = np.array([1, 0, 1])
    z = ndl.Tensor([0.5, -1.0, 2.0], dtype="float32")
    y = ndl.Tensor(targets, dtype=dtype)
    loss = nn.BCEWithLogitsLoss()(z, y)
    loss.backward()
    assert loss.dtype == z.grad.dtype == "float32"
    np.testing.assert_allclose(loss.numpy(), bce(np.array([0.5, -1, 2]), targets).mean(), rtol=1e-6)


def test_binary_cross_entropy_refuses_what_is_no_probability():
    for bad in (-0.1, 1.5, 2.0):
        with pytest.raises(DataError, match="targets are probabilities from 0 to 1"):
            nn.BCEWithLogitsLoss()(ndl.Tensor([0.0]), ndl.Tensor([bad]))


@pytest.mark.parametrize("name", VALUE_LOSSES)
def test_whole_targets_follow_the_prediction_and_get_no_gradient(name):
    function, _, _, _, formula = VALUE_LOSSES[name]
    a, b = np.array([[0.5, -1.0], [2.0, 0.25]]), np.array([[1, 0], [1, 1]])
    for dtype in ("float32", "float16"):
        prediction, target = ndl.Tensor(a, dtype=dtype), ndl.Tensor(b)
        loss = function(prediction, target)
        loss.backward()
        assert loss.dtype == prediction.grad.dtype == dtype
        assert target.grad is None
        with np.errstate(divide="ignore", invalid="ignore"):
            expected = formula(a, np.maximum(b, 1e-300)).mean()
        np.testing.assert_allclose(loss.numpy(), expected, rtol=1e-2 if dtype == "float16" else 1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_float_labels_do_not_widen_the_gradient(dtype):
    z = ndl.Tensor(LOGITS, dtype=dtype)
    cross_entropy(z, ndl.Tensor(LABELS, dtype="float32")).backward()
    assert z.grad.dtype == dtype


def test_small_integers_do_not_wrap_around():
    a, b = ndl.Tensor(np.array([3], dtype="uint8")), ndl.Tensor(np.array([250], dtype="uint8"))
    assert mse_loss(a, b).numpy() == 247**2
    assert l1_loss(a, b).numpy() == 247


def test_kl_divergence_counts_impossible_targets_as_nothing():
    log_q, p = ndl.Tensor([[0.0, -np.inf], [math.log(0.5), math.log(0.5)]]), ndl.Tensor([[1.0, 0.0], [0.0, 1.0]])
    loss = kl_divergence(log_q, p, reduction="none")
    np.testing.assert_allclose(loss.numpy(), [0, math.log(2)], rtol=1e-12)
    loss.backward()
    np.testing.assert_array_equal(log_q.grad.numpy(), -p.numpy())
    np.testing.assert_allclose(p.grad.numpy(), [[1, 0], [0, 1 + math.log(2)]], rtol=1e-12)


def test_kl_divergence_needs_an_axis_of_classes():
    with pytest.raises(ShapeError, match="distributions lie along the last axis, and these Tensors have none"):
        kl_divergence(ndl.Tensor(0.0), ndl.Tensor(1.0))


def test_losses_work_in_lazy_mode(monkeypatch):
    monkeypatch.setattr(ndl.autograd, "LAZY_MODE", True)
    z = ndl.Tensor(LOGITS)
    loss = nn.SoftmaxLoss()(z * 1.0, ndl.Tensor(LABELS))
    assert loss.cached_data is None
    with pytest.raises(ShapeError, match="and they must be equal"):
        mse_loss(z * 1.0, ndl.Tensor(LABELS))
    loss.backward()
    np.testing.assert_allclose(loss.numpy(), expected_cross_entropy(LOGITS, LABELS), rtol=1e-12)
    np.testing.assert_allclose(z.grad.numpy().sum(axis=1), np.zeros(5), atol=1e-15)


# ---------------------------------------------------------------------------------------------------- penalties


def test_penalties_sum_over_all_parameters_once():
    layer = nn.Linear(3, 2, dtype="float64")
    w, b = layer.weight.numpy(), layer.bias.numpy()
    loss = nn.l1_penalty([*layer.parameters(), layer.weight])
    loss.backward()
    np.testing.assert_allclose(loss.numpy(), np.abs(w).sum() + np.abs(b).sum(), rtol=1e-12)
    np.testing.assert_array_equal(layer.weight.grad.numpy(), np.sign(w))
    loss = nn.l2_penalty(iter(layer.parameters()))
    loss.backward()
    np.testing.assert_allclose(loss.numpy(), (w**2).sum() + (b**2).sum(), rtol=1e-12)
    np.testing.assert_allclose(layer.bias.grad.numpy(), 2 * b, rtol=1e-12)


def test_penalties_need_parameters():
    for penalty in (nn.l1_penalty, nn.l2_penalty):
        with pytest.raises(DataError, match="there are no parameters to penalise"):
            penalty([])
