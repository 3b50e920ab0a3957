"""Optimizers and learning-rate schedules."""

from needle.optim.adam import Adam, AdamW
from needle.optim.adaptive import Adagrad, RMSprop
from needle.optim.optimizer import Optimizer
from needle.optim.schedule import CosineDecay, OneCycle, ReduceOnPlateau, StepDecay
from needle.optim.sgd import SGD

__all__ = [
    "SGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "CosineDecay",
    "OneCycle",
    "Optimizer",
    "RMSprop",
    "ReduceOnPlateau",
    "StepDecay",
]
