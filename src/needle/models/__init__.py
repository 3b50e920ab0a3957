"""Ready-made networks, each a short file over `needle.nn`."""

from needle.models.autoencoder import Autoencoder
from needle.models.convnet import ConvNet
from needle.models.gpt import GPT
from needle.models.language_model import LanguageModel
from needle.models.mlp_resnet import MLPResNet, ResidualBlock
from needle.models.resnet9 import ConvBN, ResNet9

__all__ = ["GPT", "Autoencoder", "ConvBN", "ConvNet", "LanguageModel", "MLPResNet", "ResNet9", "ResidualBlock"]
