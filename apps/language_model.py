"""A small GPT that learns to write like a text file, with the loop written out.

    python apps/language_model.py FILE

`needle train --text FILE` is the same with more options, and `needle sample` writes with what it has saved.
"""

import sys

import numpy as np

import needle as ndl
from needle import nn, optim
from needle.data import CharacterTokenizer, DataLoader, RandomSampler, TokenDataset, text_chunks
from needle.errors import NeedleError
from needle.models import GPT
from needle.train import TokenSampler, sample_tokens

__all__ = ["main"]


def main(path, steps=2000, batch_size=32, *, length=64, width=128, num_layers=4):
    """Train on the characters of a file, write a little now and then, and return the mean of the last losses."""
    np.random.seed(0)
    tokenizer = CharacterTokenizer.fit(text_chunks(path))
    windows = TokenDataset.from_file(path, tokenizer, length, stride=1)
    loader = DataLoader(
        windows, batch_size, sampler=RandomSampler(windows, replacement=True, num_samples=steps * batch_size)
    )
    model = GPT(tokenizer.vocab_size, length, num_layers, width, num_heads=4, dropout=0.1)
    optimizer = optim.AdamW(model.parameters(), lr=optim.CosineDecay(3e-3, steps, steps // 20), weight_decay=0.01)
    loss_fn = nn.SoftmaxLoss()

    @ndl.jit
    def step(x, y):
        optimizer.reset_grad()
        logits = model(x)  # (B, T, V)
        loss = loss_fn(logits.reshape((-1, logits.shape[-1])), y.reshape((-1,)))
        loss.backward()
        optimizer.clip_grad_norm(1.0)
        optimizer.step()
        return loss

    losses = []
    for number, (x, y) in enumerate(loader, start=1):
        losses.append(step(x, y).item())
        if number % max(1, steps // 8) == 0:
            sample = sample_tokens(model, tokenizer.encode("\n"), 80, TokenSampler(temperature=0.8))
            print(f"step {number}: loss {np.mean(losses[-100:]):.3f}  {tokenizer.decode(list(sample))!r}", flush=True)
    return float(np.mean(losses[-100:]))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python apps/language_model.py FILE")
    try:
        main(sys.argv[1])
    except NeedleError as error:
        sys.exit(str(error))
