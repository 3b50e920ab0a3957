"""The language model: its structure, its draws, the loop that it stands for, and PyTorch's answer."""

import numpy as np
import pytest

import needle as ndl
from needle import nn, optim
from needle.errors import SettingError, ShapeError
from needle.models import LanguageModel
from needle.train import TokenSampler, sample_tokens

KINDS = ["rnn", "lstm", "gru", "transformer"]


def make(kind, **options):
    return LanguageModel(6, 11, 8, 2, kind, seq_len=5, **options)


def tokens(*shape):
    return np.random.default_rng(1).integers(0, 11, shape)


@pytest.mark.parametrize("kind", KINDS)
def test_parts_are_drawn_in_the_order_in_which_data_flow(kind):
    np.random.seed(0)
    model = make(kind)
    np.random.seed(0)
    embedding = nn.Embedding(11, 6)
    if kind == "transformer":
        inner, width = nn.Transformer(6, 8, 2, sequence_len=5), 6
    else:
        inner, width = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}[kind](6, 8, 2), 8
    parts = [embedding, inner, nn.Linear(width, 11)]
    expected = [parameter.numpy() for part in parts for parameter in part.parameters()]
    found = [parameter.numpy() for parameter in model.parameters()]
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_logits_are_those_of_the_loop_in_numpy():
    model = LanguageModel(6, 11, 8, 1, "rnn", dtype="float64")
    x = tokens(5, 3)
    logits, h = model(ndl.Tensor(x))
    table, (w_ih, w_hh, b_ih, b_hh) = model.embedding.weight.numpy(), (p.numpy() for p in model.seq_model.parameters())
    state, rows = np.zeros((3, 8)), []
    for row in x:
        state = np.tanh(table[row] @ w_ih + b_ih + state @ w_hh + b_hh)
        rows.append(state @ model.linear.weight.numpy() + model.linear.bias.numpy())
    np.testing.assert_allclose(logits.numpy(), np.concatenate(rows), rtol=1e-10)
    np.testing.assert_allclose(h.numpy(), state[None], rtol=1e-10)


@pytest.mark.parametrize("kind", ["rnn", "lstm", "gru"])
def test_the_state_carries_what_was_read(kind):
    model = make(kind, dtype="float64")
    x = ndl.Tensor(tokens(5, 3))
    whole, _ = model(x)
    first, h = model(x[:2])
    rest, _ = model(x[2:], h)
    np.testing.assert_allclose(np.concatenate([first.numpy(), rest.numpy()]), whole.numpy(), rtol=1e-10)


def test_a_transformer_sees_no_later_token():
    model = make("transformer")
    x = tokens(5, 3)
    y = x.copy()
    y[3:] = (y[3:] + 1) % 11
    one, other = (model(ndl.Tensor(ids))[0].numpy() for ids in (x, y))
    np.testing.assert_allclose(one[:9], other[:9], rtol=1e-5)
    assert not np.allclose(one[9:], other[9:])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_a_short_text_is_learned(kind, compiled):
    np.random.seed(2)
    model = make(kind)
    optimizer = optim.Adam(model.parameters(), lr=0.03)
    loss_fn = nn.SoftmaxLoss()
    text = np.arange(18) % 11
    x, y = ndl.Tensor(text[:-1][:5, None]), ndl.Tensor(text[1:6])

    def step(x, y):
        optimizer.reset_grad()
        loss = loss_fn(model(x)[0], y)
        loss.backward()
        optimizer.step()
        return loss

    step = ndl.jit(step) if compiled else step
    losses = [step(x, y).item() for _ in range(60)]
    assert losses[-1] < 0.2 * losses[0]


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_logits_are_those_of_pytorch(kind):
    torch = pytest.importorskip("torch")
    model = make(kind)
    theirs = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[kind](6, 8, 2)
    state = ndl.interchange.to_torch_state_dict(model.seq_model)
    theirs.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in state.items()})
    x = tokens(5, 3)
    with torch.no_grad():
        y, _ = theirs(torch.from_numpy(model.embedding.weight.numpy()[x].copy()))
    expected = y.numpy().reshape(-1, 8) @ model.linear.weight.numpy() + model.linear.bias.numpy()
    np.testing.assert_allclose(model(ndl.Tensor(x))[0].numpy(), expected, rtol=1e-4, atol=1e-5)


def test_ids_may_be_floats():
    model = make("gru")
    x = tokens(5, 3)
    for dtype in ("float32", "int32", "uint8"):
        np.testing.assert_array_equal(model(ndl.Tensor(x.astype(dtype)))[0].numpy(), model(ndl.Tensor(x))[0].numpy())


def test_what_is_wrong_is_said():
    with pytest.raises(SettingError, match="seq_model is one of rnn, lstm, gru, transformer, got 'mamba'"):
        make("mamba")
    with pytest.raises(ShapeError, match=r"token ids \(T, B\)"):
        make("rnn")(ndl.Tensor(tokens(5)))
    with pytest.raises(ShapeError):
        make("transformer")(ndl.Tensor(tokens(6, 2)))


@pytest.mark.parametrize("kind", KINDS)
def test_generating_goes_on_from_all_that_was_read(kind):
    model, ids = make(kind, dropout=0.3, dtype="float64"), tokens(2, 3)
    found = model.generate(ids, 6)  # further than the transformer sees
    assert model.training
    model.eval()
    expected = ids
    for _ in range(6):
        seen = expected[:, -5:] if kind == "transformer" else expected
        logits = model(ndl.Tensor(seen.T))[0].numpy()[-2:]
        expected = np.concatenate([expected, logits.argmax(axis=-1)[:, None]], axis=1)
    np.testing.assert_array_equal(found, expected)
    drawn = [int(one) for one in sample_tokens(model, ids[0], 6, TokenSampler(temperature=0))]
    np.testing.assert_array_equal(drawn, expected[0, 3:])


def test_generating_needs_a_token():
    with pytest.raises(
        ShapeError, match=r"LanguageModel.generate: takes token ids \(B, T\), one at least, got shape \(2, 0\)"
    ):
        make("lstm").generate(np.zeros((2, 0)), 3)
