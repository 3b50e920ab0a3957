"""The model of the course's later homeworks: a convolutional network.

It is Needle's own (`needle.models`); `apps/simple_ml.py` trains it.
"""

import numpy as np

from needle.models import ResNet9

__all__ = ["ResNet9"]

np.random.seed(0)
