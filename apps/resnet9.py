"""The course's ResNet9 trained on CIFAR-10, with the loop written out.

    python apps/resnet9.py [FOLDER]

The pictures are fetched into the folder if they are not there. Where they cannot be had, shapes that a program draws
stand in for them, and it says so. `needle train --model resnet9` is the same with more options.
"""

import sys

import numpy as np

import needle as ndl
from needle import nn, optim
from needle.data import CIFAR10Dataset, DataLoader, RandomCrop, RandomFlipHorizontal, ShapesDataset
from needle.errors import DataError
from needle.models import ResNet9

__all__ = ["main", "open_data"]


def open_data(folder=None):
    """Return the training and the test set."""
    try:
        train = CIFAR10Dataset.download(folder, train=True, transforms=[RandomFlipHorizontal(), RandomCrop(4)])
        return train, CIFAR10Dataset.download(folder, train=False)
    except DataError as error:
        print(f"CIFAR-10 cannot be had: {error}")
        print("GENERATED SHAPES STAND IN FOR IT: figures say nothing about CIFAR-10")
        return ShapesDataset(train=True, transforms=[RandomCrop(2)]), ShapesDataset(train=False)


def main(train, test, epochs=10, batch_size=128):
    """Train, print each epoch's figures, and return the last test error."""
    np.random.seed(0)
    loader = DataLoader(train, batch_size, shuffle=True, drop_last=True)
    model, loss_fn = ResNet9(), nn.SoftmaxLoss()
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
        wrong = sum(int((classify(x).numpy() != y.numpy()).sum()) for x, y in DataLoader(test, 500))
        error = wrong / len(test)
        print(f"epoch {epoch}: train loss {np.mean(losses):.4f}, test error {error:.2%}", flush=True)
    return error


if __name__ == "__main__":
    main(*open_data(*sys.argv[1:2]))
