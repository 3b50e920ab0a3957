"""A residual MLP trained on MNIST, with the loop written out.

    python apps/mlp_resnet.py data/mnist

The model's classes are Needle's own (`needle.models`); `needle train` is the same with more options.
"""

import sys
from pathlib import Path

import numpy as np

import needle as ndl
from needle import nn
from needle.models import MLPResNet, ResidualBlock

__all__ = ["MLPResNet", "ResidualBlock", "epoch", "train_mnist"]

np.random.seed(0)


def epoch(dataloader, model, opt=None):
    """Go through the data once: train where there is an optimizer, evaluate where there is none.

    Args:
        dataloader: gives (images, labels).
        model: takes a batch of flattened images.
        opt: steps the model's parameters; None to evaluate.

    Returns:
        The error rate and the mean loss, every sample with the same weight.
    """
    np.random.seed(4)
    loss_fn = nn.SoftmaxLoss()
    if opt is None:
        model.eval()
    else:
        model.train()
    errors, total_loss, samples = 0, 0.0, 0
    for images, labels in dataloader:
        logits = model(images.reshape((images.shape[0], -1)))
        loss = loss_fn(logits, labels)
        if opt is not None:
            opt.reset_grad()
            loss.backward()
            opt.step()
        errors += int((logits.numpy().argmax(axis=1) != labels.numpy()).sum())
        total_loss += float(loss.numpy()) * labels.shape[0]
        samples += labels.shape[0]
    return errors / samples, total_loss / samples


def train_mnist(  # noqa: PLR0917
    batch_size=100,
    epochs=10,
    optimizer=ndl.optim.Adam,
    lr=0.001,
    weight_decay=0.001,
    hidden_dim=100,
    data_dir="data",
):
    """Train an MLPResNet on MNIST.

    Args:
        batch_size: images in a step.
        epochs: passes over the training images.
        optimizer: a class of `needle.optim`.
        lr: the learning rate.
        weight_decay: the L2 penalty.
        hidden_dim: the model's width.
        data_dir: the folder with MNIST's four files.

    Returns:
        Training error, training loss, test error and test loss of the last epoch.
    """
    np.random.seed(4)
    folder = Path(data_dir)
    train_set = ndl.data.MNISTDataset(
        str(folder / "train-images-idx3-ubyte.gz"), str(folder / "train-labels-idx1-ubyte.gz")
    )
    test_set = ndl.data.MNISTDataset(
        str(folder / "t10k-images-idx3-ubyte.gz"), str(folder / "t10k-labels-idx1-ubyte.gz")
    )
    train_loader = ndl.data.DataLoader(train_set, batch_size, shuffle=True)
    test_loader = ndl.data.DataLoader(test_set, batch_size)
    model = MLPResNet(784, hidden_dim)
    opt = optimizer(model.parameters(), lr=lr, weight_decay=weight_decay)
    for _ in range(epochs):
        train_error, train_loss = epoch(train_loader, model, opt)
    test_error, test_loss = epoch(test_loader, model)
    return train_error, train_loss, test_error, test_loss


if __name__ == "__main__":
    figures = train_mnist(data_dir=sys.argv[1] if len(sys.argv) > 1 else "data")
    for name, figure in zip(("training error", "training loss", "test error", "test loss"), figures, strict=True):
        print(f"{name:14} {figure:.4f}")
