"""The recipes: what `needle train` does where nobody says otherwise.

Found by trying: MNIST ends at about 1.1 % test error, the embedded digits at about 1.5 %, whatever the seed.
"""

from __future__ import annotations

from typing import Any

from needle.errors import SettingError

__all__ = ["DEFAULTS", "LEARNING_RATES", "MOMENTA", "WEIGHT_DECAYS", "resolve"]

# The highest learning rate, for each optimizer.
LEARNING_RATES: dict[str, float] = {"adamw": 3e-3, "adam": 3e-3, "sgd": 0.5, "rmsprop": 1e-3, "adagrad": 2e-2}
# Weight decay likewise: AdamW's is a share of the learning rate, the others' is an L2 term in the gradient.
WEIGHT_DECAYS: dict[str, float] = {"adamw": 0.2, "adam": 1e-5, "sgd": 1e-4, "rmsprop": 1e-5, "adagrad": 1e-5}
# Only these two have it.
MOMENTA: dict[str, float] = {"sgd": 0.9, "rmsprop": 0.0}

_COMMON: dict[str, Any] = {
    "hidden_dim": 256,
    "num_blocks": 3,
    "norm": "batch",
    "dropout": 0.1,
    "optimizer": "adamw",
    "schedule": "cosine",
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
    """Return every option with its value: what was given, else the data set's or the optimizer's default.

    Raises:
        SettingError: an option is given that the optimizer has no use for.
    """
    dataset = given.get("dataset") or "digits"
    defaults = {"dataset": dataset, **DEFAULTS[dataset]}
    options: dict[str, Any] = {name: defaults.get(name) if value is None else value for name, value in given.items()}
    optimizer = options["optimizer"]
    if options["momentum"] is not None and optimizer not in MOMENTA:
        raise SettingError(f"--momentum goes with {' and '.join(MOMENTA)}, not with {optimizer}")
    by_optimizer = {"lr": LEARNING_RATES, "weight_decay": WEIGHT_DECAYS, "momentum": MOMENTA}
    for name, values in by_optimizer.items():
        if options[name] is None:
            options[name] = values.get(optimizer)
    if options["warmup"] is None:
        options["warmup"] = min(1.0, 0.3 * options["epochs"])
    return options
