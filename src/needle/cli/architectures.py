"""The closed table of models that the command line builds, by name, also when it loads a saved one."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from needle import nn
from needle.errors import CheckpointError
from needle.models import GPT, Autoencoder, ConvNet, LanguageModel, MLPResNet
from needle.train.names import nearest

__all__ = ["ARCHITECTURES", "NORMS"]

NORMS: Mapping[str, type[nn.Module]] = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm1d}


def _mlp_resnet(
    *, dim: int, hidden_dim: int, num_blocks: int, num_classes: int, norm: str, drop_prob: float
) -> nn.Module:
    """Build an MLPResNet from what JSON can hold: the norm by name."""
    if norm not in NORMS:
        raise CheckpointError(f"unknown norm {norm!r}{nearest(norm, NORMS)}")
    return MLPResNet(dim, hidden_dim, num_blocks, num_classes, NORMS[norm], drop_prob)


ARCHITECTURES: Mapping[str, Callable[..., nn.Module]] = {
    "MLPResNet": _mlp_resnet,
    "ConvNet": ConvNet,
    "Autoencoder": Autoencoder,
    "LanguageModel": LanguageModel,
    "GPT": GPT,
}
