"""A table of a model's layers: what each gives, holds and costs.

The model is followed as `ndl.jit` follows a function: every operator is applied to arrays of which only shape and
dtype are known. So nothing is computed, no memory is taken, and no state changes; a model that looks at values cannot
be followed. Hooks on all modules say when each begins and ends; what is recorded in between is its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike

from needle.autograd import Tensor
from needle.compiler import Node, TracedArray
from needle.compiler.operations import floating_point_operations
from needle.compiler.primitives import MOVEMENT
from needle.device import random
from needle.dtype import as_dtype
from needle.errors import DTypeError
from needle.jit.arguments import flatten
from needle.jit.notes import HostArray
from needle.jit.recorder import Recorder
from needle.jit.watching import watching
from needle.nn import Module, Parameter
from needle.tracing import loops_written_out

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["Summary", "SummaryRow", "summary"]

_HEADS = ("module", "type", "output shape", "parameters", "FLOPs", "activations")


@dataclass
class SummaryRow:
    """One module. Its figures are its own: those of the modules in it have rows of their own, so that columns add up.

    Fields: `path`, the place in the model, empty for the model itself; `type`, with the sizes; `output_shape`, a shape
    or a tuple of them, None where the module failed; `parameters`, how many numbers it trains that no row above has;
    `flops`, floating-point operations of its forward, a multiply-add being two; `activations`, bytes of the results of
    its operators, which `backward` needs; `calls`, how often it was called.
    """

    path: str
    type: str
    output_shape: Any = None
    parameters: int = 0
    flops: int = 0
    activations: int = 0
    calls: int = 0

    def cells(self) -> tuple[str, ...]:
        """Return the row as text."""
        times = f", {self.calls} calls" if self.calls > 1 else ""
        shape = "failed" if self.output_shape is None else _shape_text(self.output_shape)
        numbers = (f"{one:,}" if one else "" for one in (self.parameters, self.flops))
        memory = _bytes_text(self.activations) if self.activations else ""
        return (self.path, self.type + times, shape, *numbers, memory)


@dataclass
class Summary:
    """The rows of a model, in the order in which its modules are called.

    Fields: `rows`; `parameters`, how many numbers are trained, `parameter_bytes`, of them and the buffers; `flops` and
    `activations`, the sums of the columns; `error`, what ended the forward, or None.
    """

    rows: list[SummaryRow]
    parameters: int
    parameter_bytes: int
    error: Exception | None = None
    flops: int = field(init=False)
    activations: int = field(init=False)

    def __post_init__(self) -> None:
        self.flops = sum(row.flops for row in self.rows)
        self.activations = sum(row.activations for row in self.rows)

    def __str__(self) -> str:
        table = [_HEADS, *(row.cells() for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = ["  ".join(_aligned(row, widths)).rstrip() for row in table]
        rule = "─" * max(map(len, lines))
        return "\n".join([lines[0], rule, *lines[1:], rule, *self._last_lines()])

    __repr__ = __str__

    def _last_lines(self) -> Iterator[str]:
        yield (
            f"{self.parameters:,} parameters, {_bytes_text(self.parameter_bytes)} with buffers; "
            f"{self.flops:,} FLOPs; {_bytes_text(self.activations)} of activations"
        )
        if self.error is not None:
            yield f"{type(self.error).__name__}: {self.error}"

    def __rich__(self) -> Table:
        from rich import box  # noqa: PLC0415  `import needle` stays quick
        from rich.table import Table  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415

        table = Table(box=box.SIMPLE_HEAD, show_edge=False, caption_justify="left")
        for number, head in enumerate(_HEADS):
            figure = number > 2
            table.add_column(head, justify="right" if figure else "left", no_wrap=figure, overflow="fold")
        for row in self.rows:
            failed = row.output_shape is None
            table.add_row(*(Text(cell, style="red" if failed else "") for cell in row.cells()))
        table.caption = Text("\n".join(self._last_lines()), style="red" if self.error else "")
        return table

    def show(self) -> None:
        """Print the table: in colours and fitted to the window on a terminal, as plain text into a file or a pipe."""
        from rich.console import Console  # noqa: PLC0415  `import needle` stays quick

        console = Console(highlight=False)
        if console.is_terminal:
            console.print(self)
        else:
            print(self)


def _aligned(row: Sequence[str], widths: Sequence[int]) -> Iterator[str]:
    for number, (cell, width) in enumerate(zip(row, widths, strict=True)):
        yield cell.rjust(width) if number > 2 else cell.ljust(width)


def _shape_text(shape: Any) -> str:
    if isinstance(shape, tuple) and shape and not all(isinstance(one, int) for one in shape):
        return ", ".join(map(_shape_text, shape))
    return str(shape)


def _bytes_text(count: int) -> str:
    if count < 1000:
        return f"{count} B"
    power = min(int(math.log10(count) // 3), 4)
    return f"{count / 1000**power:.3g} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"


# ------------------------------------------------------------------------------------------------- following


def summary(model: Module, *inputs: Any, dtype: DTypeLike = "float32") -> Summary:
    """Make a table of a model's layers: output shape, parameters, operations and memory of each.

    The model is followed without computing anything, in the mode (`train`, `eval`) that it is in: its state, its
    gradients and the random generators stay as they are. Where a layer fails, the table has the rows up to it, and the
    error stands below them and in `error`.

    Args:
        model: a module.
        inputs: what it is called with: Tensors or arrays, or in their place shapes, tuples of integers. Also in
            tuples, lists and dicts. Anything else is passed on.
        dtype: of the inputs that are given as shapes.

    Returns:
        A `Summary`: `print` it, `show()` it in colours, or take its `rows`.

    Raises:
        DTypeError: `model` is no module.

    Example:
        >>> import needle as ndl
        >>> from needle import nn
        >>> model = nn.Sequential(nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 10))
        >>> print(ndl.summary(model, (32, 784)))
        module     type               output shape  parameters      FLOPs  activations
        ──────────────────────────────────────────────────────────────────────────────
                   Sequential         (32, 10)
        modules.0  Linear(784 → 100)  (32, 100)         78,500  5,020,800      25.6 kB
        modules.1  ReLU()             (32, 100)                     3,200      12.8 kB
        modules.2  Linear(100 → 10)   (32, 10)           1,010     64,320      2.56 kB
        ──────────────────────────────────────────────────────────────────────────────
        79,510 parameters, 318 kB with buffers; 5,088,320 FLOPs; 41 kB of activations
    """
    if not isinstance(model, Module):
        raise DTypeError(f"summary takes a module, got {type(model).__name__}")
    recorder = Recorder([])
    call = _FollowedCall(model, recorder)
    draws = random.get_state()
    error: Exception | None = None
    try:
        with watching(recorder), loops_written_out(), ExitStack() as hooks:
            call.hook(hooks)
            model(*(_stand_in(recorder, one, as_dtype(dtype)) for one in inputs))
    except Exception as failure:  # whatever the model raises belongs under its table
        error = failure.with_traceback(None)
    finally:
        recorder.undo_effects()
        random.set_state(draws)
    call.count_parameters()
    kept = {id(one): one for _, one in [*model.named_parameters(), *model.named_buffers()]}
    size = sum(one.size * one.dtype.itemsize for one in kept.values())
    return Summary(list(call.rows.values()), model.num_parameters(), size, error)


def _stand_in(recorder: Recorder, value: Any, dtype: np.dtype[Any]) -> Any:
    """Return an input of the model: for arrays and shapes a Tensor of which nothing else is known."""
    if isinstance(value, (tuple, list)) and all(isinstance(one, (int, np.integer)) for one in value):
        return Tensor.make_const(recorder.new_input(tuple(value), dtype, None))
    if isinstance(value, np.ndarray):
        return Tensor.make_const(recorder.new_input(value.shape, value.dtype, HostArray(value)))
    if isinstance(value, (tuple, list)):
        return type(value)(_stand_in(recorder, one, dtype) for one in value)
    if isinstance(value, dict):
        return {key: _stand_in(recorder, one, dtype) for key, one in value.items()}
    return value


class _FollowedCall:
    """The modules of a model while it is called once, and what belongs to each."""

    def __init__(self, model: Module, recorder: Recorder) -> None:
        self.model = model
        self.recorder = recorder
        self.rows: dict[int, SummaryRow] = {}  # by the module's id
        self.open: list[_Frame] = []
        self.counted: set[Node] = set()

    def hook(self, hooks: ExitStack) -> None:
        """Put hooks on each module."""
        for path, module in {id(one): (path, one) for path, one in reversed(self.model.named_modules())}.values():
            hooks.enter_context(module.register_forward_pre_hook(self._begin(path)))
            hooks.enter_context(module.register_forward_hook(self._end))

    def _begin(self, path: str) -> Callable[[Module, tuple[Any, ...]], None]:
        def begin(module: Module, args: tuple[Any, ...]) -> None:
            extra = module.extra_repr()
            name = type(module).__name__
            head = name if module.children() and not extra else f"{name}({extra})"
            self.rows.setdefault(id(module), SummaryRow(path, head))
            self.counted.update(_nodes_of(args))
            self.open.append(_Frame(len(self.recorder.results)))

        return begin

    def _end(self, module: Module, args: tuple[Any, ...], result: Any) -> None:
        row, frame = self.rows[id(module)], self.open.pop()
        row.output_shape = _shapes(result)
        row.calls += 1
        row.flops += self._new_operations(_nodes_of(result))
        kept = self._bytes_since(frame.start)
        row.activations += kept - frame.inner_bytes
        if self.open:
            self.open[-1].inner_bytes += kept

    def _new_operations(self, roots: list[Node]) -> int:
        """Count the operations of all nodes that these are made of and that nobody has counted."""
        total, stack = 0, roots
        while stack:
            node = stack.pop()
            if node not in self.counted:
                self.counted.add(node)
                total += floating_point_operations(node)
                stack.extend(node.inputs)
        return total

    def _bytes_since(self, start: int) -> int:
        """Return the size of the operators' results, each once, views of others not at all."""
        made = {one.node for one in self.recorder.results[start:] if one.node.primitive not in MOVEMENT}
        return sum(math.prod(node.shape) * node.dtype.itemsize for node in made if node.inputs)

    def count_parameters(self) -> None:
        """Give each parameter to the first row that has it, those of modules without a row to the one above."""
        seen: set[int] = set()
        modules = {id(module): module for _, module in self.model.named_modules()}
        for key, row in self.rows.items():
            for parameter in self._own_parameters(modules[key], row.output_shape is not None):
                if id(parameter) not in seen:
                    seen.add(id(parameter))
                    row.parameters += parameter.size

    def _own_parameters(self, module: Module, is_whole: bool) -> Iterator[Parameter]:
        for _, item in module._contents():
            if isinstance(item, Parameter):
                yield item
            elif isinstance(item, Module) and is_whole and id(item) not in self.rows:
                yield from self._own_parameters(item, is_whole)


@dataclass
class _Frame:
    """A call that has begun: how many results there were, and the bytes of the calls inside it."""

    start: int
    inner_bytes: int = 0


def _nodes_of(value: Any) -> list[Node]:
    found = (one.cached_data if isinstance(one, Tensor) else one for one in flatten(value))
    return [one.node for one in found if type(one) is TracedArray]


def _shapes(value: Any) -> Any:
    """Return the shape of a result, of nested ones a tuple of shapes."""
    if isinstance(value, dict):
        return tuple(_shapes(one) for one in value.values())
    if isinstance(value, (tuple, list)):
        return tuple(_shapes(one) for one in value)
    return tuple(value.shape) if hasattr(value, "shape") else ()
