"""A two-layer network trained on MNIST with nothing but Needle's tensors and operators.

    python apps/simple_ml.py data/mnist

Everything is spelled out: reading the files, the loss, and one epoch of stochastic gradient descent.
"""

import sys
from pathlib import Path

import numpy as np

import needle as ndl
from needle.data import read_idx


def parse_mnist(image_filename, label_filename):
    """Read images and labels from two files in MNIST's format.

    Args:
        image_filename: gzipped IDX file of images.
        label_filename: gzipped IDX file of their labels.

    Returns:
        X: float32 (n, 784), pixels from 0.0 to 1.0.
        y: uint8 (n,), the digit that each image shows.
    """
    images, labels = read_idx(image_filename), read_idx(label_filename)
    X = images.reshape(len(images), -1).astype(np.float32) / 255
    return X, labels


def softmax_loss(Z, y_one_hot):
    """Return the mean cross-entropy: mean over the batch of log Σⱼ exp Zⱼ − Σⱼ Zⱼ yⱼ.

    Args:
        Z: Tensor (batch, classes) of logits.
        y_one_hot: Tensor (batch, classes), 1 at the right class and 0 elsewhere.
    """
    batch = Z.shape[0]
    return (ndl.logsumexp(Z, axes=(1,)) - (Z * y_one_hot).sum(axes=(1,))).sum() / batch


def nn_epoch(X, y, W1, W2, lr=0.1, batch=100):  # noqa: PLR0917
    """Run one epoch of gradient descent on the network ReLU(X·W1)·W2, batch after batch in the order of the data.

    Args:
        X: float32 array (n, features).
        y: integer array (n,).
        W1: Tensor (features, hidden).
        W2: Tensor (hidden, classes).
        lr: the step size.
        batch: how many samples make a step.

    Returns:
        The new W1 and W2.
    """
    num_classes = W2.shape[1]
    for start in range(0, len(y), batch):
        inputs = ndl.Tensor(X[start : start + batch], requires_grad=False)
        targets = ndl.Tensor(np.eye(num_classes, dtype=X.dtype)[y[start : start + batch]], requires_grad=False)
        loss = softmax_loss(ndl.relu(inputs @ W1) @ W2, targets)
        loss.backward()
        # New leaves with the stepped values: the old graph is dropped, nothing is differentiated through the step.
        W1 = ndl.Tensor(W1.numpy() - lr * W1.grad.numpy())
        W2 = ndl.Tensor(W2.numpy() - lr * W2.grad.numpy())
    return W1, W2


def loss_err(h, y):
    """Return the mean loss and the error rate of logits `h` (Tensor) for labels `y` (array)."""
    y_one_hot = ndl.Tensor(np.eye(h.shape[-1], dtype=h.dtype)[y], requires_grad=False)
    return softmax_loss(h, y_one_hot).numpy(), np.mean(h.numpy().argmax(axis=1) != y)


def main(data_dir="data", epochs=20, hidden_dim=100, lr=0.2):
    """Train, and print the test loss and error after each epoch."""
    folder = Path(data_dir)
    X, y = parse_mnist(folder / "train-images-idx3-ubyte.gz", folder / "train-labels-idx1-ubyte.gz")
    X_test, y_test = parse_mnist(folder / "t10k-images-idx3-ubyte.gz", folder / "t10k-labels-idx1-ubyte.gz")
    np.random.seed(0)
    W1 = ndl.Tensor(np.random.randn(784, hidden_dim).astype(np.float32) / np.sqrt(hidden_dim))
    W2 = ndl.Tensor(np.random.randn(hidden_dim, 10).astype(np.float32) / np.sqrt(10))
    for epoch in range(1, epochs + 1):
        W1, W2 = nn_epoch(X, y, W1, W2, lr=lr)
        loss, error = loss_err(ndl.relu(ndl.Tensor(X_test) @ W1) @ W2, y_test)
        print(f"epoch {epoch:2}: test loss {loss:.4f}, test error {error:.2%}")


if __name__ == "__main__":
    main(*sys.argv[1:2])
