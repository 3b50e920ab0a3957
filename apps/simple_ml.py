"""A two-layer network trained on MNIST with nothing but Needle's tensors and operators.

    python apps/simple_ml.py data/mnist

Everything is spelled out: reading the files, the loss, and one epoch of stochastic gradient descent. Below are the
loops of later homeworks, over modules and optimizers: images (CIFAR-10) and language (Penn Treebank). The models for
these are in `apps/models.py`.
"""

import sys
from pathlib import Path

import numpy as np

import needle as ndl
from needle import nn
from needle.data import get_batch, read_idx


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


# --------------------------------------------------------------------------- images and language, with modules


class Average:
    """Loss and accuracy so far, every sample with the same weight."""

    def __init__(self):
        self.correct, self.loss, self.samples = 0, 0.0, 0

    def add(self, logits, labels, loss):
        """Count one batch in."""
        self.correct += int((logits.numpy().argmax(axis=1) == labels.numpy()).sum())
        self.loss += float(loss.numpy()) * labels.shape[0]
        self.samples += labels.shape[0]

    def result(self):
        """Return the average accuracy and the average loss."""
        return self.correct / self.samples, self.loss / self.samples


def take_step(opt, loss, clip=None):
    """Change the parameters that `opt` holds so that `loss` gets smaller; `clip` limits the norm of the gradients."""
    opt.reset_grad()
    loss.backward()
    if clip is not None:
        opt.clip_grad_norm(clip)
    opt.step()


def epoch_general_cifar10(dataloader, model, loss_fn=nn.SoftmaxLoss(), opt=None):  # noqa: B008  it has no state
    """Go through the images once: train where there is an optimizer, evaluate where there is none.

    Args:
        dataloader: gives (images, labels).
        model: makes logits of images.
        loss_fn: makes the mean loss of logits and labels.
        opt: steps the model's parameters; None to evaluate.

    Returns:
        The average accuracy and the average loss.
    """
    np.random.seed(4)
    if opt is None:
        model.eval()
    else:
        model.train()
    average = Average()
    for images, labels in dataloader:
        logits = model(images)
        loss = loss_fn(logits, labels)
        if opt is not None:
            take_step(opt, loss)
        average.add(logits, labels, loss)
    return average.result()


def train_cifar10(  # noqa: PLR0917
    model,
    dataloader,
    n_epochs=1,
    optimizer=ndl.optim.Adam,
    lr=0.001,
    weight_decay=0.001,
    loss_fn=nn.SoftmaxLoss,
):
    """Train a model on CIFAR-10.

    Args:
        model: makes logits of images.
        dataloader: gives (images, labels).
        n_epochs: passes over the images.
        optimizer: a class of `needle.optim`.
        lr: the learning rate.
        weight_decay: the L2 penalty.
        loss_fn: a class of losses.

    Returns:
        The average accuracy and the average loss of the last epoch.
    """
    np.random.seed(4)
    opt = optimizer(model.parameters(), lr=lr, weight_decay=weight_decay)
    for _ in range(n_epochs):
        accuracy, loss = epoch_general_cifar10(dataloader, model, loss_fn(), opt)
    return accuracy, loss


def evaluate_cifar10(model, dataloader, loss_fn=nn.SoftmaxLoss):
    """Return a model's average accuracy and average loss on CIFAR-10; `loss_fn` is a class of losses."""
    np.random.seed(4)
    return epoch_general_cifar10(dataloader, model, loss_fn())


def detached(state):
    """Return a hidden state without the graph that it was computed by: gradients end here, the numbers go on."""
    return tuple(map(detached, state)) if isinstance(state, tuple) else state.detach()


def epoch_general_ptb(  # noqa: PLR0917
    data,
    model,
    seq_len=40,
    loss_fn=nn.SoftmaxLoss(),  # noqa: B008  it has no state
    opt=None,
    clip=None,
    device=None,
    dtype="float32",
):
    """Go through a text once, in cuts of `seq_len` words: train where there is an optimizer, else evaluate.

    The hidden state goes from each cut to the next, the gradient does not.

    Args:
        data: what `ndl.data.batchify` made, (rows, B).
        model: makes logits and the next hidden state of word ids (T, B) and a hidden state.
        seq_len: how many words make a cut.
        loss_fn: makes the mean loss of logits and labels.
        opt: steps the model's parameters; None to evaluate.
        clip: the largest norm of the gradients; None for any.
        device: where the batches are made.
        dtype: of the batches.

    Returns:
        The average accuracy and the average loss, every word with the same weight.
    """
    np.random.seed(4)
    if opt is None:
        model.eval()
    else:
        model.train()
    average, h = Average(), None
    for row in range(0, len(data) - 1, seq_len):
        X, y = get_batch(data, row, seq_len, device=device, dtype=dtype)
        logits, h = model(X, h)
        h = detached(h)
        loss = loss_fn(logits, y)
        if opt is not None:
            take_step(opt, loss, clip)
        average.add(logits, y, loss)
    return average.result()


def train_ptb(  # noqa: PLR0917
    model,
    data,
    seq_len=40,
    n_epochs=1,
    optimizer=ndl.optim.SGD,
    lr=4.0,
    weight_decay=0.0,
    loss_fn=nn.SoftmaxLoss,
    clip=None,
    device=None,
    dtype="float32",
):
    """Train a language model on a text.

    Args:
        model: makes logits and the next hidden state of word ids (T, B) and a hidden state.
        data: what `ndl.data.batchify` made, (rows, B).
        seq_len: how many words make a cut.
        n_epochs: passes over the text.
        optimizer: a class of `needle.optim`.
        lr: the learning rate.
        weight_decay: the L2 penalty.
        loss_fn: a class of losses.
        clip: the largest norm of the gradients; None for any.
        device: where the batches are made.
        dtype: of the batches.

    Returns:
        The average accuracy and the average loss of the last epoch.
    """
    np.random.seed(4)
    opt = optimizer(model.parameters(), lr=lr, weight_decay=weight_decay)
    for _ in range(n_epochs):
        accuracy, loss = epoch_general_ptb(data, model, seq_len, loss_fn(), opt, clip, device, dtype)
    return accuracy, loss


def evaluate_ptb(  # noqa: PLR0917
    model, data, seq_len=40, loss_fn=nn.SoftmaxLoss, device=None, dtype="float32"
):
    """Return a language model's average accuracy and average loss on a text.

    Args:
        model: makes logits and the next hidden state of word ids (T, B) and a hidden state.
        data: what `ndl.data.batchify` made, (rows, B).
        seq_len: how many words make a cut.
        loss_fn: a class of losses.
        device: where the batches are made.
        dtype: of the batches.
    """
    np.random.seed(4)
    return epoch_general_ptb(data, model, seq_len, loss_fn(), device=device, dtype=dtype)


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
