"""What does a convolution know that a linear layer does not?

    python docs/experiments/convolution_digits.py [--quick]

A linear map, a network with one hidden layer and a convolutional network learn the embedded digits, 200 of them and
all, as they are and with the 64 pixels of every image in one other, fixed order. Adam, learning rate 0.005, batches of
50, 60 epochs of 200 images and 20 of all. Shown: mean test error over the seeds, in percent.
"""

import argparse
import time

import numpy as np
from digits import evaluate, train

from needle import data, nn, ops, optim
from needle.device import random

SEEDS = 5


class AsImage(nn.Module):
    """Rows of 64 numbers as images of one channel."""

    def forward(self, x):
        return ops.reshape(x, (-1, 1, 8, 8))


def conv_bn(in_channels, out_channels, stride=1):
    return nn.Sequential(
        nn.Conv(in_channels, out_channels, 3, stride, bias=False), nn.BatchNorm2d(out_channels), nn.ReLU()
    )


MODELS = {
    "linear": lambda: nn.Linear(64, 10),
    "hidden layer": lambda: nn.Sequential(nn.Linear(64, 140), nn.BatchNorm1d(140), nn.ReLU(), nn.Linear(140, 10)),
    "convolutional": lambda: nn.Sequential(
        AsImage(),
        conv_bn(1, 16),
        conv_bn(16, 16),
        conv_bn(16, 32, stride=2),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(128, 10),
    ),
}


def ordered(dataset, order, chosen):
    """Return some images of a data set, with their pixels in an order."""
    images, labels = dataset[chosen]
    return data.NDArrayDataset(images[:, order], labels)


def error(make, samples, shuffled, seed, epochs):
    """Return the test error of a model after training."""
    np.random.seed(seed)
    train_set, test_set = data.DigitsDataset(), data.DigitsDataset(train=False)
    order = random.permutation(64) if shuffled else np.arange(64)
    chosen = random.permutation(len(train_set))[:samples]
    model = make()
    optimizer = optim.Adam(model.parameters(), lr=0.005)
    train(model, ordered(train_set, order, chosen), epochs, optimizer=optimizer)
    return evaluate(model, ordered(test_set, order, np.arange(len(test_set))))["error"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="1 epoch, 1 seed")
    options = parser.parse_args()
    start = time.perf_counter()
    sizes = ((200, 60), (1442, 20))
    print("| network | parameters | 200 images | pixels shuffled | 1,442 images | pixels shuffled |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name, make in MODELS.items():
        cells = []
        for samples, epochs in sizes:
            for shuffled in (False, True):
                epochs_done, seeds = (1, 1) if options.quick else (epochs, SEEDS)
                errors = [error(make, samples, shuffled, seed, epochs_done) for seed in range(seeds)]
                cells.append(f"{100 * np.mean(errors):.1f} %")
        print(f"| {name} | {make().num_parameters():,} | {' | '.join(cells)} |")
    print(f"\n{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
