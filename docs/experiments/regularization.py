"""What does each way of regularising gain?

    python docs/experiments/regularization.py [--quick] [--seeds N]

An MLP 64-256-256-10 learns from 200 of the embedded digits and is tested on its own 355 test images. Each row adds
one thing to the same recipe (Adam, learning rate 0.001, batches of 20, 100 epochs). Three situations:

    right labels   the 200 images as they are
    moved          the same model, tested on test images that are moved by up to a pixel in each direction
    wrong labels   a fifth of the 200 labels replaced by wrong ones for training; the test is the ordinary one

The seed decides which images are taken, which labels are wrong, the weights and the order; the rows share the seeds.
Shown: mean errors in percent, and the standard error of the mean for the test errors. The strength of each was chosen
among three values on three other seeds (100 to 102), with wrong labels.
"""

import argparse
import time
from functools import partial

import numpy as np
from digits import LOSS, adam, evaluate, some_digits, train

from needle import data, nn, optim
from needle.train import EarlyStopping

SAMPLES = 200


def mlp(dropout=0.0):
    """Return a network with two hidden layers, and dropout after each where asked for."""
    layers = []
    for width_in, width_out in ((64, 256), (256, 256)):
        layers += [nn.Linear(width_in, width_out), nn.ReLU()]
        layers += [nn.Dropout(dropout)] if dropout else []
    return nn.Sequential(*layers, nn.Linear(256, 10))


def nothing(images, epochs, fit):
    model = mlp()
    fit(model, images, epochs)
    return model


def l2(images, epochs, fit, decay=0.03):
    model = mlp()
    fit(model, images, epochs, optimizer=adam(model, weight_decay=decay))
    return model


def decoupled(images, epochs, fit, decay=3.0):
    model = mlp()
    fit(model, images, epochs, optimizer=optim.AdamW(model.parameters(), lr=1e-3, weight_decay=decay))
    return model


def l1(images, epochs, fit, strength=3e-3):
    model = mlp()
    weights = [parameter for name, parameter in model.named_parameters() if name.endswith("weight")]
    fit(model, images, epochs, loss_fn=lambda logits, labels: LOSS(logits, labels) + strength * nn.l1_penalty(weights))
    return model


def dropout(images, epochs, fit, p=0.7):
    model = mlp(p)
    fit(model, images, epochs)
    return model


def shifts(images, epochs, fit, pixels=1):
    model = mlp()
    fit(model, data.NDArrayDataset(*images.arrays, transforms=[data.RandomCrop(pixels)]), epochs)
    return model


def early_stopping(images, epochs, fit, patience=10):
    """Train on four fifths of the images, and keep the weights that had the lowest loss on the others."""
    model = mlp()
    indices = np.arange(len(images))
    watched, learned = data.Subset(images, indices[::5]), data.Subset(images, indices[indices % 5 > 0])
    best = KeepBest(watched, patience)
    fit(model, learned, epochs, callbacks=[best])
    model.load_state_dict(best.weights)
    return model


class KeepBest(EarlyStopping):
    """Stops when the loss on images that are not learned gets no better, and keeps the weights that had the best."""

    def __init__(self, watched, patience):
        super().__init__(patience)
        self.watched, self.weights = watched, {}

    def on_epoch_end(self, trainer, row):
        trainer.should_stop = self.is_over(evaluate(trainer.model, self.watched)["loss"])
        if self.waited == 0:
            self.weights = trainer.model.state_dict()


CASES = {
    "nothing": nothing,
    "L2, λ = 0.03": l2,
    "decoupled decay (AdamW), λ = 3": decoupled,
    "L1, λ = 0.003": l1,
    "dropout, p = 0.7": dropout,
    "augmentation: moved by up to a pixel": shifts,
    "early stopping, patience 10": early_stopping,
}


def percent(model, dataset):
    return 100 * evaluate(model, dataset)["error"]


def errors(case, seed, epochs):
    """Return the errors in percent: training, test and moved with right labels; training and test with wrong ones."""
    fit = partial(train, batch_size=20)
    test, moved = data.DigitsDataset(train=False), data.DigitsDataset(train=False, transforms=[data.RandomCrop(1)])
    np.random.seed(seed)
    images = some_digits(SAMPLES)
    model = case(images, epochs, fit)
    right = [percent(model, images), percent(model, test), percent(model, moved)]
    np.random.seed(seed)
    images = some_digits(SAMPLES, wrong_labels=0.2)
    model = case(images, epochs, fit)
    return [*right, percent(model, images), percent(model, test)]


def print_table(found):
    print("| | right labels: training | test | moved | wrong labels: training | test |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name, rows in found.items():
        means = rows.mean(axis=0)
        spreads = rows.std(axis=0, ddof=1) / np.sqrt(len(rows)) if len(rows) > 1 else np.zeros(5)
        cells = [f"{mean:.1f}" + (f" ± {spreads[i]:.1f}" if i in (1, 2, 4) else "") for i, mean in enumerate(means)]
        print(f"| {name} | " + " | ".join(cells) + " |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="1 epoch and 1 seed")
    parser.add_argument("--seeds", type=int, default=10, metavar="N", help="how many seeds (default: 10)")
    options = parser.parse_args()
    seeds, epochs = (1, 1) if options.quick else (options.seeds, 100)
    start = time.perf_counter()
    found = {name: np.array([errors(case, seed, epochs) for seed in range(seeds)]) for name, case in CASES.items()}
    print_table(found)
    print(f"\n{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
