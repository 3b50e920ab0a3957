"""The trainer: the loop around a model, over public pieces. One can write it by hand as well; this one is kept short.

An epoch is: for each batch its gradients, every `accumulate` batches an update (`TrainingStep`), callbacks; then loss
and metrics on other data, a row of figures, callbacks.
"""

from __future__ import annotations

import itertools
import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from needle.autograd import Tensor, no_grad
from needle.errors import CheckpointError, DataError, SettingError, TrainingError
from needle.jit import jit
from needle.nn import Module
from needle.nn.module import evaluating
from needle.optim import Optimizer
from needle.train.averaging import ExponentialMovingAverage
from needle.train.callbacks import Callback
from needle.train.checkpoint import load_checkpoint, save_checkpoint
from needle.train.interruption import Interruption, TrainingInterrupted, deferred_interrupt
from needle.train.metrics import Metric
from needle.train.progress import Progress
from needle.train.running import Row, Running
from needle.train.step import LossFunction, Precision, TrainingStep, measurement

__all__ = ["Batches", "Trainer"]

# What a DataLoader is: something that gives (inputs, targets) anew each time that it is iterated.
Batches = Iterable[Any]


class Trainer:
    """Trains a model, evaluates it and predicts with it.

    Args:
        model: called with a batch's inputs; see `forward`.
        optimizer: holds the model's parameters. A schedule is its `lr`.
        loss_fn: takes outputs and targets, returns the mean loss over the batch.
        metrics: what is measured besides the loss, in training and in evaluation.
        evaluation_loss_fn: the loss that is measured on other data; `loss_fn` where None. For training losses that are
            smoothed, say.
        accumulate: how many batches make one step of the optimizer. Their gradients' mean is weighted by the batches'
            sizes, so that k small batches give the step of one that holds them all; so does a last, shorter window.
        clip_norm: the norm that all gradients together are cut to before a step; None for no limit.
        precision: "bfloat16" or "float16" for mixed precision: see `ndl.autocast`. float16 comes with a `GradScaler`.
        average_decay: keep an exponential moving average of the weights with this decay, and evaluate and predict with
            it; None for none. It is `trainer.average`.
        compiled: whether steps are compiled with `ndl.jit`. A model or loss that cannot be traced needs False.
        callbacks: told of steps and epochs, in this order, those that save the run last. See `Callback`.
        progress: show a bar on a terminal and a line of figures after each epoch. False for silence.

    Attributes:
        epoch: how many epochs are done.
        rows: their figures by name: epoch, step, lr, the loss and metrics of training ("train_loss") and of each
            evaluation ("valid_loss"), seconds, samples_per_second.
        should_stop: set it, in a callback, to end after the step at hand.

    Raises:
        SettingError: an argument outside of its range, or two metrics of one name.

    Example:
        >>> import needle as ndl
        >>> from needle import data, nn, optim
        >>> from needle.train import Accuracy, Trainer
        >>> ndl.seed(0)
        >>> digits, others = (data.DigitsDataset(train=train) for train in (True, False))
        >>> model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
        >>> optimizer = optim.Adam(model.parameters(), lr=0.003)
        >>> trainer = Trainer(model, optimizer, nn.SoftmaxLoss(), metrics=[Accuracy()], progress=False)
        >>> rows = trainer.fit(data.DataLoader(digits, 50, shuffle=True), data.DataLoader(others, 500), epochs=5)
        >>> rows[-1]["valid_accuracy"] > 0.85
        True
        >>> trainer.predict(data.DataLoader(others, 500)).shape == (len(others), 10)
        True
        >>> ndl.seed(None)
    """

    # What `weight` counts, for the names of figures.
    unit = "samples"

    def __init__(
        self,
        model: Module,
        optimizer: Optimizer,
        loss_fn: LossFunction,
        *,
        metrics: Sequence[Metric] = (),
        evaluation_loss_fn: LossFunction | None = None,
        accumulate: int = 1,
        clip_norm: float | None = None,
        precision: str = "float32",
        average_decay: float | None = None,
        compiled: bool = True,
        callbacks: Sequence[Callback] = (),
        progress: bool = True,
    ) -> None:
        if accumulate < 1:
            raise SettingError(f"Trainer: accumulate is 1 or more, got {accumulate}")
        names = [metric.name for metric in metrics]
        if len({"loss", *names}) <= len(names):
            raise SettingError(f"Trainer: metrics have different names, none of them loss, got {', '.join(names)}")
        self.model, self.optimizer, self.metrics = model, optimizer, list(metrics)
        self.accumulate, self.compiled = accumulate, compiled
        self.precision = Precision(precision)
        self.average = None if average_decay is None else ExponentialMovingAverage(model, average_decay)
        self.callbacks: list[Callback] = [*([Progress()] if progress else []), *callbacks]
        self.callbacks.sort(key=lambda callback: callback.saves_run)
        self.step = TrainingStep(
            self.forward,
            loss_fn,
            optimizer,
            self.precision,
            clip_norm,
            self.average,
            is_accumulated=accumulate > 1,
            keeps_outputs=bool(self.metrics),
            compiled=compiled,
        )
        self._measure = measurement(self.forward, evaluation_loss_fn or loss_fn, self.precision)
        self._measure_compiled = jit(self._measure)
        self._forward_compiled = jit(no_grad()(self.forward))
        self.epoch, self.epochs, self.rows = 0, 0, list[Row]()
        self.should_stop = False
        self.inputs: Any = None  # of the latest batch
        self.running = Running(self.metrics)
        self.train_batches: Batches = ()
        self._interruption = Interruption()
        self._clock = 0.0  # up to when the epoch's time is counted
        self._has_passed = False  # whether all batches of the epoch under way have been trained on

    def forward(self, inputs: Any) -> Any:
        """Return the model's outputs. A subclass may prepare inputs here, or call the model in another way."""
        return self.model(inputs)

    def weight(self, targets: Any) -> int:
        """Return how much a batch counts: how many samples it has. A subclass may count something else, tokens say."""
        return int(targets.shape[0])

    def begin_pass(self) -> None:
        """Do what is to be done before the first batch of an epoch, of an evaluation or of a prediction: nothing here.

        A subclass may forget here what it carries from batch to batch.
        """

    def complete_row(self, row: Row) -> Row:
        """Return an epoch's figures with what a subclass has to add: nothing here."""
        return row

    # ------------------------------------------------------------------------------------------------ training

    def fit(
        self, train_batches: Batches, evaluations: Batches | Mapping[str, Batches] | None = None, *, epochs: int
    ) -> list[Row]:
        """Train until `epochs` epochs are done, those before this call and before a `load` counted.

        Ctrl-C ends it after the step at hand; `Checkpoints`, where it is a callback, saves first. A second Ctrl-C stops
        at once.

        Args:
            train_batches: gives (inputs, targets), anew each epoch, such as a `DataLoader`.
            evaluations: data to measure on after each epoch, by name; with no name it is "valid".
            epochs: how many.

        Returns:
            `rows`.

        Raises:
            TrainingError: the loss is not finite; the message says at which step. That step is not taken.
            DataError: there are no batches.
            TrainingInterrupted: Ctrl-C; a KeyboardInterrupt.
        """
        others = evaluations if isinstance(evaluations, Mapping) else {"valid": evaluations} if evaluations else {}
        self.train_batches, self.epochs, self.should_stop = train_batches, epochs, False
        with deferred_interrupt() as self._interruption:
            try:
                self._tell("on_fit_start")
                while self.epoch < epochs and not self.should_stop:
                    self._fit_epoch(others)
            finally:
                self._tell("on_fit_end")
        return self.rows

    def _fit_epoch(self, evaluations: Mapping[str, Batches]) -> None:
        if not self._has_passed:
            self._train_epoch()
            self._has_passed = True
        started = time.perf_counter()
        row: Row = {"epoch": self.epoch + 1, "step": self.optimizer.t, "lr": self.last_lr()}
        row |= self._figures("train", self.running)
        for name, batches in evaluations.items():
            row |= {f"{name}_{key}": value for key, value in self._evaluate(batches, is_fitting=True).items()}
        row = self.complete_row(row)
        row["seconds"] = self.running.seconds + time.perf_counter() - started
        row[f"{self.unit}_per_second"] = self.running.samples_per_second
        self.rows.append(row)
        self.epoch += 1
        self.running.reset()
        self._has_passed = False
        self._tell("on_epoch_end", row)
        self._stop_if_interrupted()

    def _train_epoch(self) -> None:
        self.model.train()
        pending, self._clock = 0, time.perf_counter()
        if not self.running.batches:
            self.begin_pass()
        with np.errstate(over="ignore", invalid="ignore"):  # a loss that is not finite is reported once, below
            for inputs, targets in self._rest_of_epoch():
                pending += 1
                self._train_batch(inputs, targets)
                if pending == self.accumulate:
                    pending = 0
                    self._update()
                if self.should_stop and not pending:
                    break
            if pending:
                self._update()
        if not self.running.batches:
            raise DataError("Trainer.fit: there are no batches: the data set is empty")

    def _rest_of_epoch(self) -> Iterator[Any]:
        """Yield the batches that the epoch under way has not seen; a loader knows by itself where it is."""
        is_resumed_by_count = self.running.batches and not hasattr(self.train_batches, "load_state_dict")
        batches = iter(self.train_batches)
        return itertools.islice(batches, self.running.batches, None) if is_resumed_by_count else batches

    def _train_batch(self, inputs: Any, targets: Any) -> None:
        self.inputs = inputs
        weight = self.weight(targets)
        usual = _is_usual(self.train_batches, targets)
        loss, outputs = self.step.gradients(inputs, targets, float(weight), compiled=usual)
        value = self._finite(loss, f"step {self.optimizer.t + 1}, in epoch {self.epoch + 1}")
        self.running.add(value, weight, outputs, targets)

    def _update(self) -> None:
        self.step.update()
        now = time.perf_counter()
        self.running.seconds += now - self._clock
        self._clock = now
        self._tell("on_step")
        self._stop_if_interrupted()

    def _stop_if_interrupted(self) -> None:
        if self._interruption.requested:
            folders = [callback.on_interrupt(self) for callback in self.callbacks]
            raise TrainingInterrupted(next((folder for folder in folders if folder is not None), None))

    def _tell(self, event: str, *arguments: Any) -> None:
        for callback in self.callbacks:
            getattr(callback, event)(self, *arguments)

    def _finite(self, loss: Tensor, place: str) -> float:
        value = float(loss.realize_cached_data())
        if math.isfinite(value):
            return value
        raise TrainingError(
            f"the loss is {value} at {place}: training has diverged or the data hold NaN. Try a smaller learning rate, "
            f"a longer warm-up, or clip_norm; NEEDLE_DEBUG=nan names the operator that made the first one"
        )

    def last_lr(self) -> float:
        """Return the learning rate of the last step."""
        lr = self.optimizer.lr
        return float(lr(max(self.optimizer.t - 1, 0)) if callable(lr) else lr)

    # ---------------------------------------------------------------------------------------------- evaluation

    def evaluate(self, batches: Batches) -> dict[str, Any]:
        """Return loss and metrics over all batches, in evaluation mode and without changing anything.

        Every sample counts the same, in whatever batches they come.

        Raises:
            DataError: there are no batches.
            TrainingError: the loss is not finite.
        """
        return self._evaluate(batches, is_fitting=False)

    def _evaluate(self, batches: Batches, *, is_fitting: bool) -> dict[str, Any]:
        total = Running(self.metrics)
        with self.as_evaluated():
            self.begin_pass()
            for number, (inputs, targets) in enumerate(batches, start=1):
                usual = self.compiled and _is_usual(batches, targets)
                loss, outputs = (self._measure_compiled if usual else self._measure)(inputs, targets)
                value = self._finite(loss, f"batch {number} of the evaluation after step {self.optimizer.t}")
                total.add(value, self.weight(targets), outputs, targets)
                if is_fitting:
                    self._stop_if_interrupted()
        return self._figures("", total)

    def _figures(self, prefix: str, total: Running) -> Row:
        if not total.batches:
            raise DataError("Trainer.evaluate: there are no batches: the data set is empty")
        return {f"{prefix}_{name}" if prefix else name: value for name, value in total.figures().items()}

    def predict(self, batches: Batches) -> NDArray[Any]:
        """Return the model's outputs for all batches, one after the other, in evaluation mode.

        Args:
            batches: gives inputs, or tuples whose first entry they are.

        Returns:
            The outputs: (N, …).

        Raises:
            DataError: there are no batches.
        """
        outputs = []
        with self.as_evaluated():
            self.begin_pass()
            for batch in batches:
                inputs = batch[0] if isinstance(batch, (tuple, list)) else batch
                usual = self.compiled and _is_usual(batches, inputs)
                outputs.append((self._forward_compiled if usual else no_grad()(self.forward))(inputs).numpy())
        if not outputs:
            raise DataError("Trainer.predict: there are no batches: the data set is empty")
        return np.concatenate(outputs)

    @contextmanager
    def as_evaluated(self) -> Iterator[None]:
        """Have the model in evaluation mode inside the block, with averaged weights where there are some.

        A subclass may keep more from being changed by an evaluation.
        """
        with evaluating(self.model), nullcontext() if self.average is None else self.average.applied():
            yield

    # --------------------------------------------------------------------------------------------- checkpoints

    def save(self, folder: str | os.PathLike[str], *, keep: int = 2, extra: Mapping[str, Any] | None = None) -> Path:
        """Write a checkpoint with all that the run needs to go on bit for bit. Call it between two steps.

        Args:
            folder: the run's folder. See `save_checkpoint`.
            keep: how many checkpoints stay.
            extra: what JSON can hold and the caller wants back from `load`.
        """
        scaler = self.precision.scaler
        state = {
            "epoch": self.epoch,
            "rows": self.rows,
            "running": self.running.state_dict(),
            "has_passed": self._has_passed,
            "scaler": None if scaler is None else scaler.state_dict(),
            "callbacks": [[type(one).__name__, one.state_dict()] for one in self.callbacks if one.state_dict()],
        }
        return save_checkpoint(
            folder,
            step=self.optimizer.t,
            model=self.model,
            optimizer=self.optimizer,
            loader=self._loader(self.train_batches),
            arrays=None if self.average is None else self.average.state_dict(),
            extra={"trainer": state, "user": dict(extra or {})},
            keep=keep,
        )

    def load(self, folder: str | os.PathLike[str], train_batches: Batches) -> Mapping[str, Any]:
        """Go back to the latest whole checkpoint in a folder; `fit` then goes on from there, bit for bit.

        Args:
            folder: the run's folder.
            train_batches: the loader that `fit` will be given, made as it was then. Batches that have no
                `load_state_dict` are counted off, so they must come in the same order again.

        Returns:
            What was saved as `extra`.

        Raises:
            CheckpointError: there is none, or it is of another model, optimizer or trainer. Nothing is changed then.
        """
        found = load_checkpoint(
            folder, model=self.model, optimizer=self.optimizer, loader=self._loader(train_batches), check=self._check
        )
        state = found.extra["trainer"]
        if self.average is not None:
            self.average.load_state_dict(found.arrays)
        if self.precision.scaler is not None:
            self.precision.scaler.load_state_dict(state["scaler"])
        self.epoch, self.rows, self._has_passed = state["epoch"], list(state["rows"]), state["has_passed"]
        self.running.load_state_dict(state["running"])
        saved = [(kind, content) for kind, content in state["callbacks"]]
        for callback in self.callbacks:
            # The first of its kind that is left: other callbacks may have come or gone since.
            place = next((i for i, (kind, _) in enumerate(saved) if kind == type(callback).__name__), None)
            if place is not None:
                callback.load_state_dict(saved.pop(place)[1])
        self.train_batches = train_batches
        loader = self._loader(train_batches)
        if loader is not None and self.running.batches and loader.state_dict()["order"] is None:
            self._has_passed = True  # it was saved after the epoch's last batch
        return found.extra["user"]

    def _check(self, extra: Mapping[str, Any], arrays: Mapping[str, Any]) -> None:
        """Raise where a checkpoint is not one of a trainer like this."""
        if "trainer" not in extra:
            raise CheckpointError("the checkpoint was not saved by a Trainer: read it with load_checkpoint")
        if bool(arrays) != (self.average is not None):
            raise CheckpointError(f"the checkpoint was saved with{'' if arrays else 'out'} averaged weights")
        if (extra["trainer"]["scaler"] is None) != (self.precision.scaler is None):
            raise CheckpointError("the checkpoint was saved in another precision")

    @staticmethod
    def _loader(batches: Batches) -> Any:
        return batches if hasattr(batches, "load_state_dict") else None


def _is_usual(batches: Batches, first: Any) -> bool:
    """Tell whether a batch is as long as its loader makes them. A short last one does not pay for a program.

    A rule that asks nothing of what was before: a run that is resumed compiles the same batches.
    """
    size = getattr(batches, "batch_size", None)
    return size is None or getattr(first, "shape", (size,))[:1] == (size,)
