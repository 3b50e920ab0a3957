"""The generative transformer: what it sees, what it learns, and generating with a cache."""

import numpy as np
import pytest

import needle as ndl
from needle import nn, optim
from needle.errors import SettingError, ShapeError
from needle.models import GPT


def make(**options):
    np.random.seed(0)
    return GPT(11, 8, 2, 16, 4, **{"dtype": "float64", **options})


def tokens(*shape):
    return np.random.default_rng(1).integers(0, 11, shape)


@pytest.mark.parametrize("positions", ["learned", "rotary"])
@pytest.mark.parametrize("tied", [True, False])
def test_a_token_sees_those_before_it(positions, tied):
    model = make(positions=positions, tied=tied)
    ids = tokens(3, 8)
    other = ids.copy()
    other[:, 5:] = (other[:, 5:] + 1) % 11
    one, two = (model(ndl.Tensor(x)).numpy() for x in (ids, other))
    assert one.shape == (3, 8, 11)
    np.testing.assert_allclose(one[:, :5], two[:, :5])
    assert not np.allclose(one[:, 5:], two[:, 5:])


def test_the_order_of_tokens_matters():
    for positions in ("learned", "rotary"):
        model = make(positions=positions)
        one, two = (model(ndl.Tensor(np.array([ids]))).numpy()[0, -1] for ids in ([1, 2, 3], [2, 1, 3]))
        assert not np.allclose(one, two)


def test_parameters_are_counted():
    width, layers = 16, 2
    block = 4 * (width * width + width) + 2 * 4 * width * width + 5 * width + 4 * width
    assert make().num_parameters() == 11 * width + 8 * width + layers * block + 2 * width
    assert make(tied=False, positions="rotary").num_parameters() == 2 * 11 * width + layers * block + 2 * width


@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_generating_with_caches_is_generating_without(positions):
    model, ids = make(positions=positions, dropout=0.3), tokens(2, 3)
    found = model.generate(ids, 12)  # further than the model sees
    assert model.training
    model.eval()
    expected = ids
    for _ in range(12):
        logits = model(ndl.Tensor(expected[:, -8:])).numpy()[:, -1]
        expected = np.concatenate([expected, logits.argmax(axis=-1)[:, None]], axis=1)
    np.testing.assert_array_equal(found, expected)


def test_the_next_token_is_chosen_by_the_callers_rule():
    model, ids = make(), tokens(2, 3)
    seen = []

    def choose(logits):
        seen.append(logits.shape)
        return np.full(len(logits), 7)

    assert model.generate(ids, 3, choose)[:, 3:].tolist() == [[7, 7, 7]] * 2
    assert seen == [(2, 11)] * 3


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_a_sequence_is_learned_and_continued(compiled):
    model = make(dtype="float32")
    optimizer = optim.AdamW(model.parameters(), lr=0.01)
    loss_fn = nn.SoftmaxLoss()
    text = np.arange(60) % 11

    def step(x, y):
        optimizer.reset_grad()
        loss = loss_fn(model(x).reshape((-1, 11)), y)
        loss.backward()
        optimizer.step()
        return loss

    step = ndl.jit(step) if compiled else step
    generator = np.random.default_rng(0)
    for _ in range(80):
        starts = generator.integers(0, 50, 8)
        x = ndl.Tensor(np.stack([text[s : s + 8] for s in starts]), requires_grad=False)
        y = ndl.Tensor(np.concatenate([text[s + 1 : s + 9] for s in starts]), requires_grad=False)
        loss = step(x, y)
    assert loss.item() < 0.1
    assert model.generate(np.array([[3, 4, 5]]), 9).tolist() == [[(3 + i) % 11 for i in range(12)]]


def test_what_is_wrong_is_told():
    with pytest.raises(SettingError, match='positions are "learned" or "rotary"'):
        make(positions="none")
    with pytest.raises(ShapeError, match="takes at most 8 positions, got 9"):
        make()(ndl.Tensor(tokens(1, 9)))
    with pytest.raises(ShapeError, match=r"takes token ids \(B, T\), got shape \(3,\)"):
        make()(ndl.Tensor(tokens(3)))
    with pytest.raises(ShapeError, match="one at least"):
        make().generate(tokens(2, 0), 3)
