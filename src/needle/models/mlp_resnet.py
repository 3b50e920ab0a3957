"""A multi-layer perceptron with residual blocks, for rows of features or flattened small images."""

from __future__ import annotations

from collections.abc import Callable

from needle.nn import BatchNorm1d, Dropout, Linear, Module, ReLU, Residual, Sequential

__all__ = ["MLPResNet", "ResidualBlock"]


def ResidualBlock(  # noqa: N802  it makes a module and is used as a class is
    dim: int, hidden_dim: int, norm: Callable[[int], Module] = BatchNorm1d, drop_prob: float = 0.1
) -> Sequential:
    """Make a residual block: two linear layers with a shortcut around them.

    Formula::

        y = ReLU(x + norm(Linear(Dropout(ReLU(norm(Linear(x)))))))

    Shapes:
        x, result: (B, dim).

    Args:
        dim: the number of features.
        hidden_dim: the width between the two linear layers.
        norm: makes a normalisation layer for a number of features.
        drop_prob: the dropout's probability.

    Example:
        >>> from needle.models import ResidualBlock
        >>> ResidualBlock(8, 4).num_parameters()
        100
    """
    inner = Sequential(
        Linear(dim, hidden_dim),
        norm(hidden_dim),
        ReLU(),
        Dropout(drop_prob),
        Linear(hidden_dim, dim),
        norm(dim),
    )
    return Sequential(Residual(inner), ReLU())


def MLPResNet(  # noqa: N802, PLR0917
    dim: int,
    hidden_dim: int = 100,
    num_blocks: int = 3,
    num_classes: int = 10,
    norm: Callable[[int], Module] = BatchNorm1d,
    drop_prob: float = 0.1,
) -> Sequential:
    """Make a residual network for classifying rows of features.

    Linear and ReLU to `hidden_dim` features, `num_blocks` residual blocks that are half as wide inside, and Linear
    to the logits of the classes.

    Shapes:
        x: (B, dim).
        result: (B, num_classes), logits.

    Args:
        dim: the number of features.
        hidden_dim: the width between the blocks.
        num_blocks: how many residual blocks.
        num_classes: the number of classes.
        norm: makes a normalisation layer for a number of features.
        drop_prob: the dropout's probability.

    Example:
        >>> from needle.models import MLPResNet
        >>> MLPResNet(784).num_parameters()
        110860
    """
    return Sequential(
        Linear(dim, hidden_dim),
        ReLU(),
        *(ResidualBlock(hidden_dim, hidden_dim // 2, norm, drop_prob) for _ in range(num_blocks)),
        Linear(hidden_dim, num_classes),
    )
