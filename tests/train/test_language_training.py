"""Training language models on text, and drawing tokens from them."""

import signal

import numpy as np
import pytest

import needle as ndl
from needle import optim
from needle.errors import DataError, SettingError, ShapeError
from needle.models import GPT, LanguageModel
from needle.train import (
    Callback,
    Checkpoints,
    LanguageTrainer,
    SequentialReader,
    TokenSampler,
    TrainingInterrupted,
    sample_tokens,
    text_loader,
)

TEXT = np.arange(700) % 7
KINDS = ["lstm", "gru", "gpt"]


def make(kind):
    np.random.seed(0)
    if kind == "gpt":
        return GPT(7, 12, 1, 16, 2), False
    return LanguageModel(8, 7, 16, 1, kind), True


def make_trainer(kind, text=TEXT, seq_len=12, batch_size=5, **settings):
    model, sequential = make(kind)
    reader = SequentialReader(model, batch_size) if sequential else model
    optimizer = optim.Adam(model.parameters(), lr=0.02)
    trainer = LanguageTrainer(reader, optimizer, **{"progress": False, "clip_norm": 1.0, **settings})
    loaders = [text_loader(part, seq_len, batch_size, sequential=sequential) for part in (text, TEXT[:200])]
    return model, trainer, loaders


def train(kind, epochs=4, **settings):
    model, trainer, loaders = make_trainer(kind, **settings)
    return model, trainer.fit(*loaders, epochs=epochs)


@pytest.mark.parametrize("kind", KINDS)
def test_a_pattern_is_learned_and_continued(kind):
    model, rows = train(kind, epochs=8)
    assert [row["epoch"] for row in rows] == list(range(1, 9))
    assert rows[-1]["valid_loss"] < 0.15 < rows[0]["train_loss"]
    assert rows[-1]["perplexity"] == pytest.approx(np.exp(rows[-1]["valid_loss"]))
    assert rows[-1]["bits_per_token"] == pytest.approx(rows[-1]["valid_loss"] / np.log(2))
    greedy = TokenSampler(temperature=0)
    prompt = np.array([2, 3, 4, 5])
    assert list(sample_tokens(model, prompt, 20, greedy)) == [(6 + i) % 7 for i in range(20)]


@pytest.mark.parametrize("kind", KINDS)
def test_compiled_and_eager_steps_are_the_same(kind):
    losses = [[row["train_loss"] for row in train(kind, 2, compiled=compiled)[1]] for compiled in (False, True)]
    np.testing.assert_allclose(*losses, rtol=1e-4)


@pytest.mark.parametrize("kind", ["lstm", "gpt"])
def test_the_same_seed_gives_the_same_rows(kind):
    one, two = (train(kind, 2)[1] for _ in range(2))
    assert [row["valid_loss"] for row in one] == [row["valid_loss"] for row in two]


def test_the_loss_is_the_mean_over_tokens():
    model, trainer, _ = make_trainer("lstm")
    found = trainer.evaluate(text_loader(TEXT[:131], 12, 5, sequential=True))["loss"]
    columns = TEXT[:120].reshape(5, 24).T  # each column is two windows of 12
    logits, _ = model(ndl.Tensor(columns))
    z = logits.numpy().astype("float64")
    following = TEXT[1:121].reshape(5, 24).T.reshape(-1)
    expected = np.log(np.exp(z).sum(axis=1)) - z[np.arange(120), following]
    assert found == pytest.approx(expected.mean(), rel=1e-5)


def test_windows_of_a_parallel_model_see_nothing_before_them():
    model, trainer, _ = make_trainer("gpt")
    found = trainer.evaluate(text_loader(TEXT[:121], 12, 5, sequential=False))["loss"]
    windows, following = TEXT[:120].reshape(10, 12), TEXT[1:121].reshape(10, 12)
    z = model(ndl.Tensor(windows)).numpy().astype("float64")
    own = np.take_along_axis(z, following[..., None], axis=-1)[..., 0]
    assert found == pytest.approx((np.log(np.exp(z).sum(axis=-1)) - own).mean(), rel=1e-5)


def test_an_evaluation_does_not_change_what_training_has_read():
    _, trainer, (train_loader, valid_loader) = make_trainer("lstm", compiled=False)
    for x, _ in train_loader:
        trainer.forward(x)
        break
    before = [buffer.numpy() for buffer in trainer.model.state]
    assert any(state.any() for state in before)
    trainer.evaluate(valid_loader)
    for buffer, state in zip(trainer.model.state, before, strict=True):
        np.testing.assert_array_equal(buffer.numpy(), state)


def test_a_state_is_kept_where_there_is_one():
    for kind, count in (("rnn", 1), ("gru", 1), ("lstm", 2), ("transformer", 0)):
        model = LanguageModel(8, 7, 16, 2, kind)
        assert [buffer.shape for buffer in SequentialReader(model, 3).state] == [(2, 3, 16)] * count


def test_training_leaves_no_tensors_behind():
    counts = []

    class Count(Callback):
        def on_epoch_end(self, trainer, row):
            trainer.optimizer.reset_grad()
            counts.append(ndl.autograd.TENSOR_COUNTER)

    train("gru", 3, compiled=False, callbacks=[Count()])
    assert counts[1] == counts[2]


class StopAt(Callback):
    def __init__(self, step):
        self.step = step

    def on_step(self, trainer):
        if trainer.optimizer.t == self.step:
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_is_stopped_within_an_epoch_goes_on_bit_for_bit(tmp_path, kind):
    model, whole = train(kind, 2)
    for stop in (4, 11, whole[0]["step"]):
        _, trainer, loaders = make_trainer(kind, callbacks=[StopAt(stop), Checkpoints(tmp_path)])
        with pytest.raises(TrainingInterrupted):
            trainer.fit(*loaders, epochs=2)
        resumed, trainer, loaders = make_trainer(kind)
        trainer.load(tmp_path, loaders[0])
        rows = trainer.fit(*loaders, epochs=2)
        assert [row["valid_loss"] for row in rows] == [row["valid_loss"] for row in whole]
        assert [row["train_loss"] for row in rows] == [row["train_loss"] for row in whole]
        for name, value in model.state_dict().items():
            np.testing.assert_array_equal(resumed.state_dict()[name], value)


def test_a_text_that_is_too_short_is_told():
    for kind in ("lstm", "gpt"):
        with pytest.raises(DataError, match="60 tokens are too few for one batch of 5 x 12"):
            train(kind, text=TEXT[:60])


# -------------------------------------------------------------------------------------------------- sampling


def test_frequencies_are_the_softmax():
    logits = np.array([[0.0, 1.0, 2.0, -1.0]])
    for temperature in (0.5, 1.0, 2.0):
        sampler = TokenSampler(temperature, rng=np.random.default_rng(0))
        drawn = sampler(np.repeat(logits, 40_000, axis=0))
        expected = np.exp(logits[0] / temperature) / np.exp(logits[0] / temperature).sum()
        np.testing.assert_allclose(np.bincount(drawn, minlength=4) / 40_000, expected, atol=0.01)


def test_top_k_and_top_p_leave_the_likeliest():
    logits = np.log(np.array([[0.1, 0.4, 0.2, 0.3]]))
    keep = {
        (None, 1.0): [0.1, 0.4, 0.2, 0.3],
        (2, 1.0): [0, 4 / 7, 0, 3 / 7],
        (1, 1.0): [0, 1, 0, 0],
        (None, 0.4): [0, 1, 0, 0],
        (None, 0.41): [0, 4 / 7, 0, 3 / 7],
        (3, 0.75): [0, 4 / 9, 2 / 9, 3 / 9],
        (9, 1.0): [0.1, 0.4, 0.2, 0.3],
    }
    for (top_k, top_p), expected in keep.items():
        sampler = TokenSampler(top_k=top_k, top_p=top_p)
        np.testing.assert_allclose(sampler.probabilities(logits)[0], expected, atol=1e-12)
        assert {int(one) for one in sampler(np.repeat(logits, 200, axis=0))} <= set(np.flatnonzero(expected))


def test_equal_logits_leave_exactly_k():
    assert (TokenSampler(top_k=2).probabilities(np.zeros((3, 5))) > 0).sum(axis=1).tolist() == [2, 2, 2]


def test_draws_are_those_of_the_global_generator_where_none_is_given():
    logits = np.random.default_rng(0).standard_normal((6, 9))
    np.random.seed(5)
    one = TokenSampler()(logits)
    np.random.seed(5)
    np.testing.assert_array_equal(one, TokenSampler()(logits))
    np.testing.assert_array_equal(TokenSampler(0)(logits), logits.argmax(axis=1))


@pytest.mark.parametrize("kind", KINDS)
def test_the_mode_is_what_it_was(kind):
    model, _ = make(kind)
    assert model.training
    list(sample_tokens(model, [1, 2], 3))
    assert model.training


def test_settings_out_of_range_are_told():
    for options, message in (
        ({"temperature": -1}, "temperature is 0 or more"),
        ({"top_k": 0}, "top_k is 1 or more"),
        ({"top_p": 0}, "top_p is more than 0"),
    ):
        with pytest.raises(SettingError, match=message):
            TokenSampler(**options)
    with pytest.raises(ShapeError, match="one token at least"):
        next(sample_tokens(make("gru")[0], [], 3))
