"""What the experiments share: the embedded digits, and how models are trained on them."""

from collections.abc import Callable, Sequence

import numpy as np

from needle import data, nn, optim
from needle.autograd import Tensor
from needle.device import random
from needle.train import Callback, ErrorRate, Trainer, flat

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
    callbacks: Sequence[Callback] = (),
) -> None:
    """Train a model, step by step in eager mode: these models are too small for a program to pay."""
    batches = data.DataLoader(dataset, batch_size, shuffle=True)
    trainer_of(model, optimizer or adam(model), loss_fn, callbacks).fit(batches, epochs=epochs)


def trainer_of(
    model: nn.Module, optimizer: optim.Optimizer, loss_fn: Callable = LOSS, callbacks: Sequence[Callback] = ()
) -> Trainer:
    """Return a silent trainer that also tells the share of errors."""
    settings = {"metrics": [ErrorRate()], "compiled": False, "progress": False}
    return Digits(model, optimizer, loss_fn, callbacks=callbacks, **settings)


class Digits(Trainer):
    """Gives models images as rows of pixels."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the model's logits."""
        return self.model(flat(inputs))


def evaluate(model: nn.Module, dataset: data.Dataset) -> dict[str, float]:
    """Return loss and error on all samples, in evaluation mode."""
    return trainer_of(model, adam(model)).evaluate(data.DataLoader(dataset, 1000))
