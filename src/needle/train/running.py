"""Figures of an epoch while it is under way, and rows of them when it is over."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from needle.train.metrics import Metric

__all__ = ["Row", "Running", "metrics_jsonl"]

# One epoch's figures by name, as `Trainer.rows` says.
Row = dict[str, Any]


class Running:
    """Loss and metrics over the batches so far, every sample with the same weight.

    Args:
        metrics: which. Their sums are kept here, so that one metric may be measured on several data sets at a time.

    Attributes:
        batches, samples: how many there were.
        seconds: how long they took, as the caller has counted.
    """

    def __init__(self, metrics: Sequence[Metric]) -> None:
        self.metrics = metrics
        self.reset()

    def reset(self) -> None:
        """Forget all batches."""
        self.loss, self.samples, self.batches, self.seconds = 0.0, 0, 0, 0.0
        self._sums: dict[str, Any] = {}

    def add(self, loss: float, samples: int, outputs: Any, targets: Any) -> None:
        """Add a batch: its mean loss, its size, and what the metrics look at."""
        for metric in self.metrics:
            sums = metric.sums(_array(outputs), _array(targets))
            self._sums[metric.name] = self._sums[metric.name] + sums if metric.name in self._sums else sums
        self.loss += loss * samples
        self.samples += samples
        self.batches += 1

    def figures(self) -> Row:
        """Return the mean loss, and each metric, by name; matrices as lists of lists."""
        metrics = {metric.name: _plain(metric.figure(self._sums[metric.name])) for metric in self.metrics}
        return {"loss": self.loss / self.samples, **metrics}

    @property
    def samples_per_second(self) -> float:
        """The throughput."""
        return self.samples / self.seconds if self.seconds > 0 else math.inf

    def state_dict(self) -> dict[str, Any]:
        """Return all sums, as what JSON can hold."""
        sums = {name: _plain(value) for name, value in self._sums.items()}
        own = {"loss": self.loss, "samples": self.samples, "batches": self.batches, "seconds": self.seconds}
        return {**own, "sums": sums}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go back to sums that `state_dict` returned."""
        self.loss, self.samples = saved["loss"], saved["samples"]
        self.batches, self.seconds = saved["batches"], saved["seconds"]
        self._sums = {name: np.asarray(value) for name, value in saved["sums"].items()}


def _array(value: Any) -> Any:
    return value.numpy() if hasattr(value, "numpy") else np.asarray(value)


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value


def metrics_jsonl(rows: Sequence[Row]) -> bytes:
    """Return rows as JSON Lines: one object a line, so that any tool can read and append to them."""
    return "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows).encode()
