"""Reading an ONNX file as a Module, which computes what the file says, and can be trained further."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from needle import tracing
from needle.autograd import Tensor, no_grad
from needle.dtype import is_floating
from needle.errors import CheckpointError, DTypeError, NeedleError
from needle.nn import Buffer, Module, Parameter
from needle.onnx.operators import OPERATORS
from needle.onnx.rules.call import Call
from needle.onnx.writer import onnx_package

__all__ = ["OnnxModel", "load"]

# Operators mean the same from here on as in the table; older files are converted to the first.
_OPERATOR_SETS = range(13, 29)
_CONVERTED_TO = 18
_STATISTICS = {"BatchNormalization": (3, 4)}


class OnnxModel(Module):
    """A loaded ONNX model, in evaluation mode.

    State:
        arrays: parameters and buffers by their names in the file. Floating-point arrays of one axis or more are
            parameters, running statistics buffers. Whole numbers and lone numbers are part of the program.

    Attributes:
        input_names, output_names: in the order in which the model takes and returns them.

    Raises:
        ShapeError: when called: an input does not fit the model; the message names the operator.
        DTypeError: when called: another number of inputs than the model has.
    """

    def __init__(
        self,
        calls: Sequence[Call],
        arrays: dict[str, Parameter | Buffer],
        constants: dict[str, NDArray[Any]],
        input_names: Sequence[str],
        output_names: Sequence[str],
    ) -> None:
        self.arrays = arrays
        self.calls = tuple(calls)
        self.constants = constants
        self.input_names = tuple(input_names)
        self.output_names = tuple(output_names)
        self.training = False

    def forward(self, *inputs: Any) -> Any:
        """Return the model's result, or a tuple of its results."""
        if len(inputs) != len(self.input_names):
            raise DTypeError(
                f"the model takes {', '.join(self.input_names)}: {len(self.input_names)}, got {len(inputs)}"
            )
        values: dict[str, Any] = {"": None, **self.constants, **self.arrays}
        values.update(zip(self.input_names, inputs, strict=True))
        for call in self.calls:
            result = _run(call, [values[name] for name in call.inputs])
            found = zip(call.results, result if isinstance(result, tuple) else (result,), strict=False)
            values.update((name, value) for name, value in found if name)
        results = tuple(_as_tensor(values[name]) for name in self.output_names)
        return results[0] if len(results) == 1 else results

    def extra_repr(self) -> str:
        """Return the number of operators, and the inputs and outputs."""
        names = f"{', '.join(self.input_names)} → {', '.join(self.output_names)}"
        return f"{len(self.calls)} operators, {names}"


def _run(call: Call, values: list[Any]) -> Any:
    """Compute one operator: of arrays alone at once, beside what is recorded or traced."""
    is_fixed = not any(isinstance(value, Tensor) for value in values)
    try:
        with no_grad() if is_fixed else nullcontext(), tracing.recording(None) if is_fixed else nullcontext():
            result = OPERATORS[call.operator](call, *values)
            if not is_fixed:
                return result
            return tuple(map(_as_array, result)) if isinstance(result, tuple) else _as_array(result)
    except NeedleError as error:
        error.add_note(f"in the operator {call.operator} that computes {call.results[0]!r}")
        raise


def _as_array(value: Any) -> Any:
    return value.numpy() if isinstance(value, Tensor) else value


def _as_tensor(value: Any) -> Tensor:
    return value if isinstance(value, Tensor) else Tensor(np.asarray(value), requires_grad=False)


# ---------------------------------------------------------------------------------------------------- reading


def load(source: str | os.PathLike[str] | bytes | Any) -> OnnxModel:
    """Read an ONNX model as a Module.

    The result is a module like any other: it runs eagerly and compiled, its parameters can be trained, its state saved.
    Shapes may be computed from the shapes of inputs, but not from their values. Dropout drops nothing.

    Args:
        source: a file, its bytes, or an `onnx.ModelProto`.

    Raises:
        MissingExtraError: the package `onnx` is not installed.
        CheckpointError: there is no such file, it is damaged, or it has operators that Needle has not: all are listed.

    Example:
        >>> import needle as ndl
        >>> from needle import nn
        >>> x = ndl.init.rand(2, 3)
        >>> model = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
        >>> loaded = ndl.onnx.load(ndl.onnx.export(model, [x]))
        >>> loaded
        OnnxModel(4 operators, x → output) · 16 parameters
        >>> bool((loaded(x).numpy() == model(x).numpy()).all())
        True
    """
    model = _in_known_operators(_read(source))
    graph = model.graph
    helper = onnx_package().numpy_helper
    arrays = {one.name: helper.to_array(one) for one in graph.initializer}
    calls = []
    for node in graph.node:
        if node.op_type == "Constant":
            arrays[node.output[0]] = _constant(node)
        else:
            calls.append(_call(node))
    statistics = {call.inputs[place] for call in calls for place in _STATISTICS.get(call.operator, ())}
    owned = {one.name for one in graph.initializer if is_floating(arrays[one.name].dtype) and arrays[one.name].ndim}
    tensors: dict[str, Parameter | Buffer] = {
        name: Buffer(arrays[name]) if name in statistics else Parameter(arrays[name])
        for name in arrays
        if name in owned
    }
    constants = {name: array for name, array in arrays.items() if name not in owned}
    given = [one.name for one in graph.input if one.name not in arrays]
    return OnnxModel(calls, tensors, constants, given, [one.name for one in graph.output])


def _read(source: Any) -> Any:
    onnx = onnx_package()
    if isinstance(source, onnx.ModelProto):
        return source
    try:
        if isinstance(source, bytes):
            model = onnx.load_model_from_string(source)
        else:
            model = onnx.load(Path(source))
        onnx.checker.check_model(model)
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no file {error.filename or source}") from None
    except Exception as error:  # protobuf's and the checker's errors have no common class
        what = "the bytes are" if isinstance(source, bytes) else f"{source} is"
        raise CheckpointError(f"{what} no ONNX model that can be read: {error}") from None
    return model


def _in_known_operators(model: Any) -> Any:
    """Return a model in a set of operators that the table is for, and check that all are in it."""
    onnx = onnx_package()
    version = next((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), 1)
    if version < _OPERATOR_SETS.start:
        try:
            model = onnx.version_converter.convert_version(model, _CONVERTED_TO)
        except Exception as error:  # the converter's errors have no class of their own
            raise CheckpointError(
                f"the model's operators are of version {version}, too old to convert: {error}"
            ) from None
    elif version not in _OPERATOR_SETS:
        raise CheckpointError(f"the model's operators are of version {version}; known are up to {_OPERATOR_SETS[-1]}")
    unknown = sorted({node.op_type for node in model.graph.node} - OPERATORS.keys() - {"Constant"})
    if unknown:
        raise CheckpointError(f"the model has operators that Needle has not: {', '.join(unknown)}")
    return model


def _constant(node: Any) -> NDArray[Any]:
    """Return the value of a Constant."""
    onnx = onnx_package()
    (attribute,) = node.attribute
    value = onnx.helper.get_attribute_value(attribute)
    if attribute.name == "value":
        array: NDArray[Any] = onnx.numpy_helper.to_array(value)
        return array
    if attribute.name not in ("value_float", "value_floats", "value_int", "value_ints"):
        raise CheckpointError(f"the model has a Constant of {attribute.name}, which Needle has not")
    return np.array(value, dtype=np.float32 if "float" in attribute.name else np.int64)


def _call(node: Any) -> Call:
    onnx = onnx_package()
    attributes = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
    for name, value in attributes.items():
        if isinstance(value, onnx.TensorProto):
            attributes[name] = onnx.numpy_helper.to_array(value)
    if node.op_type == "Cast":
        attributes["to"] = onnx.helper.tensor_dtype_to_np_dtype(attributes["to"])
    return Call(node.op_type, attributes, tuple(node.input), tuple(node.output))
