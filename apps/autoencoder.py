"""An autoencoder: digits said in a few numbers, and painted again from those.

    python apps/autoencoder.py                 writes autoencoder.png: digits, and what was made of them

It runs on the digits that come with Needle; pictures need the extra `plot`.
"""

import sys

import numpy as np

import needle as ndl
from needle import nn, optim
from needle.data import DataLoader, DigitsDataset
from needle.models import Autoencoder

__all__ = ["main", "train"]


def train(code_size=12, epochs=30, batch_size=50):
    """Train on the digits; return the model and the last epoch's mean loss, in nats a pixel."""
    np.random.seed(0)
    model, loss_fn = Autoencoder(8, 8, code_size), nn.BCEWithLogitsLoss()
    optimizer = optim.Adam(model.parameters(), lr=0.003)
    loader = DataLoader(DigitsDataset(train=True), batch_size, shuffle=True, drop_last=True)

    @ndl.jit
    def step(images):
        optimizer.reset_grad()
        loss = loss_fn(model(images), images)
        loss.backward()
        optimizer.step()
        return loss

    loss = 0.0
    for epoch in range(1, epochs + 1):
        loss = float(np.mean([step(images).item() for images, _ in loader]))
        if epoch % 10 == 0 or epoch == epochs:
            print(f"epoch {epoch}: loss {loss:.4f}")
    return model.eval(), loss


def main(path="autoencoder.png"):
    """Train, and paint ten digits of the test set above what the model makes of them."""
    import matplotlib.pyplot as plt  # noqa: PLC0415  only for the picture

    model, _ = train()
    images = np.asarray(DigitsDataset(train=False)[:10][0], dtype="float32").reshape(10, 64)
    with ndl.no_grad():
        painted = ndl.sigmoid(model(ndl.Tensor(images))).numpy()
    both = np.concatenate([images.reshape(10, 8, 8), painted.reshape(10, 8, 8)], axis=1)  # one above the other
    plt.imsave(path, np.concatenate(list(both), axis=1), cmap="gray", vmin=0, vmax=1)
    print(f"written to {path}: digits above, what the model makes of them below")


if __name__ == "__main__":
    main(*sys.argv[1:2])
