"""A convolutional network trained on MNIST, with the loop written out. It reaches about 99.5 % test accuracy.

    python apps/mnist_convnet.py [FOLDER]

MNIST is fetched into the folder if it is not there.
`needle train --dataset mnist --model convnet` is the same with more options.
"""

import sys

import numpy as np

import needle as ndl
from needle import nn, optim
from needle.data import DataLoader, MNISTDataset, RandomCrop
from needle.errors import DataError
from needle.models import ConvNet

__all__ = ["main"]


def main(data_dir=None, epochs=8, batch_size=128):
    """Train, print each epoch's figures, and return the last test error."""
    np.random.seed(0)
    train = MNISTDataset.download(data_dir, train=True, transforms=[RandomCrop(2)])
    test = MNISTDataset.download(data_dir, train=False)
    loader = DataLoader(train, batch_size, shuffle=True, drop_last=True)

    model, loss_fn = ConvNet(28, 28, num_classes=10), nn.SoftmaxLoss()
    steps = epochs * len(loader)
    schedule = optim.CosineDecay(3e-3, steps, min(len(loader), steps // 3))
    optimizer = optim.AdamW(model.parameters(), lr=schedule, weight_decay=0.05)

    @ndl.jit
    def step(images, labels):
        optimizer.reset_grad()
        loss = loss_fn(model(images), labels)
        loss.backward()
        optimizer.step()
        return loss

    @ndl.jit
    @ndl.no_grad()
    def classify(images):
        return model(images).argmax(axis=1)

    error = 1.0
    for epoch in range(1, epochs + 1):
        model.train()
        losses = [step(images, labels).item() for images, labels in loader]
        model.eval()
        wrong = sum(int((classify(x).numpy() != y.numpy()).sum()) for x, y in DataLoader(test, 1000))
        error = wrong / len(test)
        print(f"epoch {epoch}: train loss {np.mean(losses):.4f}, test error {error:.2%}", flush=True)
    return error


if __name__ == "__main__":
    try:
        main(*sys.argv[1:2])
    except DataError as error:
        sys.exit(str(error))
