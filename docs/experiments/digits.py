"""What the experiments share: the embedded digits, and a plain training loop."""

from collections.abc import Callable, Sequence

import numpy as np

from needle import data, nn, optim
from needle.device import random
from needle.train import EpochResult, evaluate_epoch, train_epoch

LOSS = nn.SoftmaxLoss()


def some_digits(
    samples: int, wrong_labels: float = 0.0, transforms: Sequence[Callable] | None = None
) -> data.NDArrayDataset:
    """Return training images drawn at random, (8, 8) each, and give a part of them a wrong label."""
    everything = data.DigitsDataset(train=True)
    chosen = random.permutation(len(everything))[:samples]
    images, labels = everything[chosen]
    wrong = int(samples * wrong_labels)
    labels = np.concatenate([(labels[:wrong] + random.randint(1, 10, size=wrong)) % 10, labels[wrong:]])
    return data.NDArrayDataset(images.reshape(-1, 8, 8), labels, transforms=transforms)


def adam(model: nn.Module, **options: float) -> optim.Optimizer:
    """Return the optimizer that the experiments use."""
    return optim.Adam(model.parameters(), lr=1e-3, **options)


def train(
    model: nn.Module,
    dataset: data.Dataset,
    epochs: int,
    *,
    batch_size: int = 50,
    optimizer: optim.Optimizer | None = None,
    loss_fn: Callable = LOSS,
    after_epoch: Callable[[], bool] | None = None,
) -> None:
    """Train a model; stop early where `after_epoch` returns True."""
    optimizer = optimizer or adam(model)
    batches = data.DataLoader(dataset, batch_size, shuffle=True)
    for _ in range(epochs):
        train_epoch(model, batches, optimizer, loss_fn)
        if after_epoch is not None and after_epoch():
            return


def evaluate(model: nn.Module, dataset: data.Dataset) -> EpochResult:
    """Return loss and error on all samples, in evaluation mode."""
    return evaluate_epoch(model, data.DataLoader(dataset, 1000), LOSS)
