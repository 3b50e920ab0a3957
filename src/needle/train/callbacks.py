"""Callbacks: what is done beside training, each a small class that the trainer tells of steps and epochs."""

from __future__ import annotations

import json
import math
import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from needle.autograd import no_grad
from needle.errors import MissingExtraError, SettingError
from needle.nn.module import evaluating
from needle.train.files import write_file
from needle.train.image_grid import image_grid_png, load_pillow
from needle.train.names import nearest
from needle.train.running import Row, metrics_jsonl

if TYPE_CHECKING:
    from needle.train.trainer import Trainer

__all__ = [
    "Callback",
    "Checkpoints",
    "EarlyStopping",
    "LayerStatistics",
    "MetricsLog",
    "SampleImages",
    "TensorBoard",
]


class Callback:
    """Told by a `Trainer` of what happens. A subclass writes those methods that it wants; all do nothing here.

    Example:
        >>> from needle.train import Callback
        >>> class StopAtAccuracy(Callback):
        ...     def on_epoch_end(self, trainer, row):
        ...         trainer.should_stop = row["valid_accuracy"] > 0.99
    """

    # Whether it saves the run: then it is told after all others, whose state is saved with it.
    saves_run: ClassVar[bool] = False

    def on_fit_start(self, trainer: Trainer) -> None:
        """Called when `fit` begins."""

    def on_step(self, trainer: Trainer) -> None:
        """Called after each step of the optimizer. The parameters' gradients are those of this step."""

    def on_epoch_end(self, trainer: Trainer, row: Row) -> None:
        """Called with an epoch's figures, which are the last of `trainer.rows`."""

    def on_interrupt(self, trainer: Trainer) -> str | None:
        """Called after the last step before Ctrl-C ends `fit`; returns a folder where the run was saved, if it was."""

    def on_fit_end(self, trainer: Trainer) -> None:
        """Called when `fit` ends, also by an error."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run must know, as what JSON can hold; nothing where empty."""
        return {}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go back to a state that `state_dict` returned."""


class EarlyStopping(Callback):
    """Ends training when a figure has not become better for `patience` epochs.

    Watch data that the final score is not measured on: the best of many looks at a test set flatters.

    Args:
        patience: how many epochs to wait for a better figure.
        monitor: its name in the rows.
        min_delta: by how much it must be better to count.
        higher_is_better: whether more of it is better, as of an accuracy.

    State:
        best: the best figure so far.
        waited: how many epochs ago it was.

    Example:
        >>> from needle.train import EarlyStopping
        >>> stop = EarlyStopping(patience=2)
        >>> [stop.is_over(loss) for loss in (0.9, 0.5, 0.6, 0.7)]
        [False, False, False, True]
        >>> stop.best
        0.5
    """

    def __init__(
        self,
        patience: int,
        monitor: str = "valid_loss",
        min_delta: float = 0.0,
        higher_is_better: bool = False,
    ) -> None:
        if patience < 1:
            raise SettingError(f"EarlyStopping: patience is 1 or more, got {patience}")
        self.patience, self.monitor = patience, monitor
        self.min_delta, self.higher_is_better = min_delta, higher_is_better
        self.best: float | None = None
        self.waited = 0

    def is_over(self, value: float) -> bool:
        """Take the next epoch's figure; return whether to stop."""
        if _is_better(value, self.best, self.higher_is_better, self.min_delta):
            self.best, self.waited = value, 0
        else:
            self.waited += 1
        return self.waited >= self.patience

    def on_epoch_end(self, trainer: Trainer, row: Row) -> None:
        """Look at the figure."""
        if self.is_over(_monitored(self, row, self.monitor)):
            trainer.should_stop = True

    def state_dict(self) -> dict[str, Any]:
        """Return the best figure and how long ago it was."""
        return {"best": self.best, "waited": self.waited}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go back to a state that `state_dict` returned."""
        self.best, self.waited = saved["best"], saved["waited"]


class Checkpoints(Callback):
    """Saves the run every so often, at Ctrl-C, and where a figure was the best so far.

    Args:
        folder: the run's folder; `Trainer.load` goes on from there. The best is in `folder/best`.
        every_epochs: save after each such number of epochs; 0 for not.
        every_steps: save after each such number of steps; 0 for not.
        keep: how many of the latest stay.
        best: the figure whose best epoch is kept too, such as "valid_loss"; None for none.
        higher_is_better: whether more of it is better.
        extra: what JSON can hold and `Trainer.load` gives back.

    State:
        best_value: the best figure so far.
    """

    saves_run = True

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        every_epochs: int = 1,
        every_steps: int = 0,
        keep: int = 2,
        best: str | None = None,
        higher_is_better: bool = False,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        if min(every_epochs, every_steps) < 0 or keep < 1:
            raise SettingError("Checkpoints: every_epochs and every_steps are 0 or more, keep is 1 or more")
        self.folder, self.every_epochs, self.every_steps, self.keep = Path(folder), every_epochs, every_steps, keep
        self.best, self.higher_is_better, self.extra = best, higher_is_better, extra
        self.best_value: float | None = None

    def on_step(self, trainer: Trainer) -> None:
        """Save, if it is time."""
        if self.every_steps and trainer.optimizer.t % self.every_steps == 0:
            self._save(trainer)

    def on_epoch_end(self, trainer: Trainer, row: Row) -> None:
        """Save, if it is time, and if this epoch was the best."""
        if self.best is not None:
            value = _monitored(self, row, self.best)
            if _is_better(value, self.best_value, self.higher_is_better):
                self.best_value = value
                trainer.save(self.folder / "best", keep=1, extra=self.extra)
        if self.every_epochs and row["epoch"] % self.every_epochs == 0:
            self._save(trainer)

    def on_interrupt(self, trainer: Trainer) -> str:
        """Save."""
        self._save(trainer)
        return str(self.folder)

    def _save(self, trainer: Trainer) -> None:
        trainer.save(self.folder, keep=self.keep, extra=self.extra)

    def state_dict(self) -> dict[str, Any]:
        """Return the best figure."""
        return {"best_value": self.best_value}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go back to a state that `state_dict` returned."""
        self.best_value = saved["best_value"]


class MetricsLog(Callback):
    """Writes rows of figures as JSON Lines. The file is whole after each epoch; a resumed run goes on with it.

    Args:
        path: the file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def on_epoch_end(self, trainer: Trainer, row: Row) -> None:
        """Write all rows: the file is replaced, so that a reader never sees half a line."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_file(self.path, metrics_jsonl(trainer.rows))


class TensorBoard(Callback):
    """Writes TensorBoard's event files: loss and learning rate every few steps, all figures after each epoch.

    Args:
        folder: where TensorBoard is to look.
        every_steps: how often loss and learning rate of the epoch under way are written; 0 for never.

    Raises:
        MissingExtraError: tensorboardX is not installed.
    """

    def __init__(self, folder: str | os.PathLike[str], every_steps: int = 50) -> None:
        self.folder, self.every_steps = Path(folder), every_steps
        self._new_writer = _summary_writer()
        self._writer: Any = None

    def on_fit_start(self, trainer: Trainer) -> None:
        """Open a file. What was written after the step that a resumed run goes on from counts no more."""
        suffix = f".{secrets.token_hex(4)}"  # the rest of a file's name is the second and the machine
        self._writer = self._new_writer(str(self.folder), purge_step=trainer.optimizer.t + 1, filename_suffix=suffix)

    def on_step(self, trainer: Trainer) -> None:
        """Write how training goes."""
        step = trainer.optimizer.t
        if self.every_steps and step % self.every_steps == 0:
            self._writer.add_scalar("running/loss", trainer.running.figures()["loss"], step)
            self._writer.add_scalar("lr", trainer.last_lr(), step)

    def on_epoch_end(self, trainer: Trainer, row: Row) -> None:
        """Write the epoch's figures."""
        for name, value in row.items():
            if name not in {"epoch", "step"} and isinstance(value, (int, float)):
                kind, _, rest = name.partition("_")
                self._writer.add_scalar(f"{rest}/{kind}" if rest else name, value, row["step"])
        self._writer.flush()

    def on_fit_end(self, trainer: Trainer) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()


def _summary_writer() -> Callable[..., Any]:
    try:
        from tensorboardX import SummaryWriter  # noqa: PLC0415  an extra
    except ImportError:
        raise MissingExtraError("tensorboardX", "tensorboard", "writing TensorBoard's event files") from None
    writer: Callable[..., Any] = SummaryWriter
    return writer


class SampleImages(Callback):
    """Draws pictures with the model after every so many epochs, into `samples-0001.png` and so on.

    Args:
        folder: where to.
        draw: what gives the pictures: called with the model in evaluation mode, returns (N, H, W) or (N, H, W, 3), from
            0 (black) to 1.
        every_epochs: how often.
        columns: how many pictures stand side by side.

    Raises:
        MissingExtraError: Pillow is not installed.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        draw: Callable[[Any], NDArray[Any]],
        every_epochs: int = 1,
        columns: int = 10,
    ) -> None:
        if every_epochs < 1 or columns < 1:
            raise SettingError("SampleImages: every_epochs and columns are 1 or more")
        self.folder, self.draw, self.every_epochs, self.columns = Path(folder), draw, every_epochs, columns
        load_pillow()

    def on_epoch_end(self, trainer: Trainer, row: Row) -> None:
        """Draw, if it is time."""
        if row["epoch"] % self.every_epochs:
            return
        with evaluating(trainer.model), no_grad():
            images = np.asarray(self.draw(trainer.model), dtype=np.float64)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_file(self.folder / f"samples-{row['epoch']:04d}.png", image_grid_png(images, self.columns))


class LayerStatistics(Callback):
    """Writes, every so many steps, what gradients and activations of each layer look like, as JSON Lines.

    A line holds step, kind and name, and mean, std, the largest magnitude, and the shares of elements that are 0 and
    that are not finite. Kinds are "gradient" and "update" (gradient · lr relative to the weight: about 1e-3 is usual)
    of each parameter, and "activation" of each layer's output on the latest batch, which is run once more for that,
    eagerly and in evaluation mode. The run itself is not changed by a bit.

    Args:
        path: the file; lines after the step that a resumed run goes on from are taken out again.
        every_steps: how often. Each time costs about one forward pass.
    """

    def __init__(self, path: str | os.PathLike[str], every_steps: int = 100) -> None:
        if every_steps < 1:
            raise SettingError(f"LayerStatistics: every_steps is 1 or more, got {every_steps}")
        self.path, self.every_steps = Path(path), every_steps

    def on_fit_start(self, trainer: Trainer) -> None:
        """Take out what was written after the step that the run goes on from."""
        if not self.path.exists():
            return
        lines = [line for line in self.path.read_text().splitlines(keepends=True) if line.endswith("\n")]
        kept = [line for line in lines if json.loads(line)["step"] <= trainer.optimizer.t]
        write_file(self.path, "".join(kept).encode())

    def on_step(self, trainer: Trainer) -> None:
        """Write, if it is time."""
        step = trainer.optimizer.t
        if step % self.every_steps:
            return
        lines = [*self._of_parameters(trainer), *self._of_activations(trainer)]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps({"step": step, **line}) + "\n" for line in lines)

    def _of_parameters(self, trainer: Trainer) -> list[dict[str, Any]]:
        lines = []
        for name, parameter in trainer.model.named_parameters():
            if parameter.grad is None:
                continue
            gradient, weight = parameter.grad.numpy(), parameter.numpy()
            lines.append({"kind": "gradient", "name": name, **_describe(gradient)})
            size = float(np.linalg.norm(weight.astype(np.float64)))
            moved = trainer.last_lr() * float(np.linalg.norm(gradient.astype(np.float64)))
            lines.append({"kind": "update", "name": name, "relative": moved / size if size else None})
        return lines

    def _of_activations(self, trainer: Trainer) -> list[dict[str, Any]]:
        lines: list[dict[str, Any]] = []

        def noting(name: str) -> Callable[..., None]:
            def note(module: Any, _: Any, output: Any) -> None:
                if hasattr(output, "numpy"):
                    kind = type(module).__name__
                    lines.append({"kind": "activation", "name": name, "layer": kind, **_describe(output.numpy())})

            return note

        leaves = [(name, module) for name, module in trainer.model.named_modules() if not module.children()]
        handles = [module.register_forward_hook(noting(name)) for name, module in leaves]
        try:
            with evaluating(trainer.model), no_grad():
                trainer.forward(trainer.inputs)
        finally:
            for handle in handles:
                handle.remove()
        return lines


def _describe(values: NDArray[Any]) -> dict[str, Any]:
    """Return mean, std, largest magnitude, and the shares that are 0 and that are not finite, of finite values."""
    wide = values.astype(np.float64).reshape(-1)
    finite = wide[np.isfinite(wide)]
    if not finite.size:
        return {"mean": None, "std": None, "max": None, "zero": 0.0, "not_finite": float(bool(wide.size))}
    return {
        "mean": float(finite.mean()),
        "std": float(finite.std()),
        "max": float(np.abs(finite).max()),
        "zero": float((finite == 0).mean()),
        "not_finite": 1 - finite.size / wide.size,
    }


def _is_better(value: float, best: float | None, higher: bool, least: float = 0.0) -> bool:
    """Tell whether a figure is better than the best so far; NaN never is."""
    if best is None:
        return not math.isnan(value)
    return value > best + least if higher else value < best - least


def _monitored(callback: Callback, row: Row, name: str) -> float:
    if name in row:
        return float(row[name])
    raise SettingError(f"{type(callback).__name__}: no figure is called {name!r}{nearest(name, row)}")
