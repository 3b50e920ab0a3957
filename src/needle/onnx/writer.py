"""Building an ONNX graph: operators, constants, and lengths that depend on the size of a batch."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from needle.errors import CompileError, MissingExtraError

__all__ = ["Writer", "onnx_package"]


def onnx_package() -> Any:
    """Return the package `onnx`.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import onnx  # noqa: PLC0415  an extra
        import onnx.numpy_helper  # noqa: PLC0415
        import onnx.version_converter  # noqa: PLC0415
    except ImportError:
        raise MissingExtraError("onnx", "onnx", "ONNX") from None
    return onnx


class Writer:
    """Operators in the order in which they run, each written once, and the arrays that they need.

    Values are known by their names. Those of `arrays` that are in `parameters` become initializers in the file, by
    which readers know what may be trained; the others are constants. `batch` is the name of the batch's size, where
    that is open.
    """

    def __init__(self) -> None:
        self.onnx = onnx_package()
        self.nodes: list[Any] = []
        self.arrays: dict[str, NDArray[Any]] = {}
        self.parameters: set[str] = set()
        self.batch: str | None = None
        self._known: dict[Any, str] = {}
        self._made_by: dict[str, tuple[str, tuple[str, ...], Mapping[str, Any]]] = {}
        self._names: set[str] = set()

    def unused(self, wanted: str) -> str:
        """Return a name that no other value has."""
        name, number = wanted, 1
        while name in self._names:
            number += 1
            name = f"{wanted}_{number}"
        self._names.add(name)
        return name

    def array(self, value: NDArray[Any], name: str = "constant", *, is_parameter: bool = False) -> str:
        """Return the name of an array that is part of the file; equal small ones without names are one."""
        is_small = name == "constant" and value.size <= 64
        key = ("array", value.dtype, value.shape, value.tobytes()) if is_small else object()
        if key not in self._known:
            self._known[key] = self.unused(name)
            self.arrays[self._known[key]] = np.ascontiguousarray(value).reshape(value.shape)
            if is_parameter:
                self.parameters.add(self._known[key])
        return self._known[key]

    def integers(self, values: Sequence[int]) -> str:
        """Return the name of a row of integers."""
        return self.array(np.array(values, dtype=np.int64))

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Return the name of an operator's only result."""
        key = (operator, inputs, tuple(sorted((name, _hashable(value)) for name, value in attributes.items())))
        if key not in self._known:
            name = self._known[key] = self.unused(operator.lower())
            self.nodes.append(self.onnx.helper.make_node(operator, inputs, [name], name=name, **attributes))
            self._made_by[name] = operator, inputs, attributes
        return self._known[key]

    def permute(self, x: str, axes: Sequence[int]) -> str:
        """Return the axes in another order: of arrays at once, of a permutation as one with it."""
        axes = tuple(axes)
        if x in self.arrays:
            return self.array(self.arrays[x].transpose(axes), f"{x}_permuted", is_parameter=x in self.parameters)
        operator, inputs, attributes = self._made_by.get(x, ("", (), {}))
        if operator == "Transpose":
            x, axes = inputs[0], tuple(attributes["perm"][axis] for axis in axes)
        return x if axes == tuple(range(len(axes))) else self.add("Transpose", x, perm=list(axes))

    def cast(self, x: str, dtype: np.dtype[Any]) -> str:
        """Return the elements in another dtype."""
        return self.add("Cast", x, to=self.onnx_dtype(dtype))

    def onnx_dtype(self, dtype: np.dtype[Any]) -> int:
        """Return ONNX's number of a dtype."""
        number: int = self.onnx.helper.np_dtype_to_tensor_dtype(dtype)
        return number

    def constants(self, used: Collection[str]) -> list[Any]:
        """Return the operators that give those arrays among `used` that are no parameters."""
        names = [name for name in self.arrays if name in used and name not in self.parameters]
        make, convert = self.onnx.helper.make_node, self.onnx.numpy_helper.from_array
        return [make("Constant", [], [name], name=name, value=convert(self.arrays[name], name)) for name in names]

    def initializers(self, used: Collection[str]) -> list[Any]:
        """Return those arrays among `used` that are parameters."""
        convert = self.onnx.numpy_helper.from_array
        return [convert(self.arrays[name], name) for name in self.arrays if name in used and name in self.parameters]

    def needed_for(self, outputs: Sequence[str]) -> tuple[list[Any], set[str]]:
        """Return the operators that outputs are made by, and the names of all that these read."""
        used, live = set(outputs), []
        for node in reversed(self.nodes):
            if used.intersection(node.output):
                live.append(node)
                used.update(node.input)
        return live[::-1], used

    # ----------------------------------------------------------------------------- lengths with an open batch

    def lengths(self, values: Sequence[int], others: Sequence[int], sizes: tuple[int, int]) -> str:
        """Return the name of a row of integers that are `values` for a batch of sizes[0], `others` for sizes[1]."""
        if tuple(values) == tuple(others):
            return self.integers(values)
        parts = [
            self.integers([one]) if one == other else self._length(one, other, sizes)
            for one, other in zip(values, others, strict=True)
        ]
        return parts[0] if len(parts) == 1 else self.add("Concat", *parts, axis=0)

    def _length(self, one: int, other: int, sizes: tuple[int, int]) -> str:
        """Return the name of factor · batch + rest, a row of one integer."""
        assert self.batch is not None, "a length differs only where the batch is open"
        factor, remainder = divmod(other - one, sizes[1] - sizes[0])
        if remainder:
            raise CompileError(
                f"onnx.export: a length is {one} for a batch of {sizes[0]} and {other} for one of {sizes[1]}, which is "
                "no multiple of the batch: leave out batch_axis"
            )
        rest = one - factor * sizes[0]
        length = self.batch if factor == 1 else self.add("Mul", self.batch, self.integers([factor]))
        return length if rest == 0 else self.add("Add", length, self.integers([rest]))


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
