"""The recipes: what `needle train` does where nobody says otherwise.

Found by trying: the figures that each reaches are in the documentation, with the commands.
"""

from __future__ import annotations

from typing import Any

__all__ = ["DEFAULTS", "LEARNING_RATES", "WEIGHT_DECAYS", "resolve"]

# The highest learning rate, for each optimizer.
LEARNING_RATES: dict[str, float] = {"adamw": 3e-3, "adam": 3e-3, "sgd": 0.5, "rmsprop": 1e-3, "adagrad": 2e-2}
# Weight decay likewise: AdamW's is a share of the learning rate, the others' is an L2 term in the gradient.
WEIGHT_DECAYS: dict[str, float] = {"adamw": 0.05, "adam": 1e-5, "sgd": 1e-4, "rmsprop": 1e-5, "adagrad": 1e-5}

_COMMON: dict[str, Any] = {
    "hidden_dim": 256,
    "num_blocks": 3,
    "norm": "batch",
    "dropout": 0.1,
    "optimizer": "adamw",
    "schedule": "one-cycle",
    "warmup": 1.0,
    "momentum": 0.9,
    "epochs": 10,
    "batch_size": 100,
    "augment": True,
    "label_smoothing": 0.0,
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "digits": {**_COMMON, "hidden_dim": 128, "epochs": 40, "batch_size": 50},
    "mnist": _COMMON,
    "fashion-mnist": _COMMON,
}


def resolve(given: dict[str, Any]) -> dict[str, Any]:
    """Return every option with its value: what was given, else the data set's default."""
    dataset = given.get("dataset") or "digits"
    defaults = DEFAULTS[dataset]
    options: dict[str, Any] = {name: defaults.get(name) if value is None else value for name, value in given.items()}
    options["dataset"] = dataset
    for option, values in (("lr", LEARNING_RATES), ("weight_decay", WEIGHT_DECAYS)):
        if options[option] is None:
            options[option] = values[options["optimizer"]]
    return options
