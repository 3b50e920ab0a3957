"""The closed table of models that the command line builds, by name, also when it loads a saved one."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from needle import nn
from needle.autograd import Tensor
from needle.errors import CheckpointError
from needle.models import GPT, Autoencoder, ConvNet, LanguageModel, MLPResNet, ResNet9
from needle.ops import reshape
from needle.train import Recipe
from needle.train.names import nearest

__all__ = ["ARCHITECTURES", "NORMS", "check_classifier"]

NORMS: Mapping[str, type[nn.Module]] = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm1d}


def _mlp_resnet(
    *, dim: int, hidden_dim: int, num_blocks: int, num_classes: int, norm: str, drop_prob: float
) -> nn.Module:
    """Build an MLPResNet from what JSON can hold: the norm by name."""
    if norm not in NORMS:
        raise CheckpointError(f"unknown norm {norm!r}{nearest(norm, NORMS)}")
    return MLPResNet(dim, hidden_dim, num_blocks, num_classes, NORMS[norm], drop_prob)


class FromRows(nn.Module):
    """A model of images that takes them as rows of pixels, as the others do.

    Shapes:
        x: (B, C·H·W)
    """

    def __init__(self, model: nn.Module, shape: tuple[int, ...]) -> None:
        self.model = model
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        """Return what the model makes of the images."""
        result: Tensor = self.model(reshape(x, (x.shape[0], *self.shape)))
        return result


def _resnet9() -> nn.Module:
    return FromRows(ResNet9(), (3, 32, 32))


ARCHITECTURES: Mapping[str, Callable[..., nn.Module]] = {
    "MLPResNet": _mlp_resnet,
    "ConvNet": ConvNet,
    "ResNet9": _resnet9,
    "Autoencoder": Autoencoder,
    "LanguageModel": LanguageModel,
    "GPT": GPT,
}

_KINDS = {"Autoencoder": "an autoencoder", "LanguageModel": "a language model", "GPT": "a language model"}


def check_classifier(recipe: Recipe) -> None:
    """Raise where a model does not tell classes of images apart.

    Raises:
        CheckpointError: so it is.
    """
    if recipe.architecture in _KINDS:
        raise CheckpointError(f"the model is {_KINDS[recipe.architecture]}: it does not say which class an image is of")
