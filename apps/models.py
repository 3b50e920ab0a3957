"""The models of the course's later homeworks: a convolutional network and a language model.

Both are Needle's own (`needle.models`); `apps/simple_ml.py` trains them.
"""

import numpy as np

from needle.models import LanguageModel, ResNet9

__all__ = ["LanguageModel", "ResNet9"]

np.random.seed(0)
