"""Optimizers and learning-rate schedules."""

from needle.optim.adam import Adam, AdamW
from needle.optim.adaptive import Adagrad, RMSprop
from needle.optim.optimizer import Optimizer
from needle.optim.scaling import GradScaler
from needle.optim.schedule import Constant, CosineDecay, Joined, OneCycle, ReduceOnPlateau, StepDecay, Warmup
from needle.optim.sgd import SGD

__all__ = [
    "SGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "Constant",
    "CosineDecay",
    "GradScaler",
    "Joined",
    "OneCycle",
    "Optimizer",
    "RMSprop",
    "ReduceOnPlateau",
    "StepDecay",
    "Warmup",
]
