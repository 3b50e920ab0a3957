"""Ready-made networks, each a short file over `needle.nn`."""

from needle.models.mlp_resnet import MLPResNet, ResidualBlock

__all__ = ["MLPResNet", "ResidualBlock"]
