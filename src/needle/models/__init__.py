"""Ready-made networks, each a short file over `needle.nn`."""

from needle.models.mlp_resnet import MLPResNet, ResidualBlock
from needle.models.resnet9 import ConvBN, ResNet9

__all__ = ["ConvBN", "MLPResNet", "ResNet9", "ResidualBlock"]
