"""An LSTM or a GRU that learns to write like a text file, with the loop written out.

    python apps/recurrent_language_model.py FILE [lstm | gru | rnn]

The text is laid out in columns, which the network reads from top to bottom: its state goes from one cut to the next,
the gradient does not. `needle train --text FILE --model lstm` is the same with more options.
"""

import sys

import numpy as np

import needle as ndl
from needle import nn, optim
from needle.data import CharacterTokenizer, batchify, encode_file, get_batch, text_chunks
from needle.errors import NeedleError
from needle.models import LanguageModel
from needle.train import TokenSampler, sample_tokens

__all__ = ["main"]


def main(path, kind="lstm", epochs=3, *, batch_size=32, seq_len=64, width=256, num_layers=1):
    """Train on the characters of a file, write a little after each epoch, and return its mean loss."""
    np.random.seed(0)
    tokenizer = CharacterTokenizer.fit(text_chunks(path))
    rows = batchify(encode_file(path, tokenizer), batch_size, dtype=None)  # (rows, B)
    model = LanguageModel(width // 2, tokenizer.vocab_size, width, num_layers, kind)
    cuts = range(0, len(rows) - 1, seq_len)
    schedule = optim.CosineDecay(5e-3, epochs * len(cuts), len(cuts) // 10)
    optimizer, loss_fn = optim.Adam(model.parameters(), lr=schedule), nn.SoftmaxLoss()

    @ndl.jit
    def step(x, y, state):
        optimizer.reset_grad()
        logits, state = model(x, state)  # (T·B, V), and what is known after the cut
        loss = loss_fn(logits, y)
        loss.backward()
        optimizer.clip_grad_norm(1.0)
        optimizer.step()
        return loss, tuple(one.detach() for one in state) if isinstance(state, tuple) else state.detach()

    mean = float("nan")
    for epoch in range(1, epochs + 1):
        state, losses = None, []
        for row in cuts:
            loss, state = step(*get_batch(rows, row, seq_len, dtype="int32"), state)
            losses.append(loss.item())
        mean = float(np.mean(losses))
        sample = sample_tokens(model, tokenizer.encode("\n"), 80, TokenSampler(temperature=0.8))
        print(f"epoch {epoch}: loss {mean:.3f}  {tokenizer.decode(list(sample))!r}", flush=True)
    return mean


if __name__ == "__main__":
    if not 2 <= len(sys.argv) <= 3:
        sys.exit("usage: python apps/recurrent_language_model.py FILE [lstm | gru | rnn]")
    try:
        main(*sys.argv[1:])
    except NeedleError as error:
        sys.exit(str(error))
