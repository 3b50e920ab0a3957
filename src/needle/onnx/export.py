"""Writing a function as an ONNX file.

The function is followed once; the graph of primitives is simplified and written node by node. With an open batch it
is followed twice, for two sizes: the graphs are the same but for lengths, and each length that differs lies on a line
through two points.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import needle
from needle.autograd import Tensor, no_grad
from needle.compiler import Graph, Node
from needle.compiler.primitives import PRIMITIVES
from needle.compiler.simplify import simplify
from needle.errors import CompileError, DTypeError, SettingError, TraceError
from needle.jit.arguments import flatten, map_leaves
from needle.jit.follow import follow_call
from needle.jit.function import JitFunction
from needle.jit.notes import ArgumentPlace, Draw, HostArray, HostScalar, OperatorResult, StatePlace
from needle.jit.program import CompiledCall
from needle.nn import Buffer, Module, Parameter
from needle.onnx.primitives import POOLINGS, WHOLE, PrimitiveWriter
from needle.onnx.writer import Writer, onnx_package
from needle.ops.convolution import Conv, ConvTranspose
from needle.ops.pooling import Pooling
from needle.ops.windows import Windows
from needle.tracing import loops_written_out

__all__ = ["export"]

_OPERATOR_SET = 18
_FILE_VERSION = 9
# Two sizes of a batch that no other length is likely to be mistaken for.
_BATCH_SIZES = (5, 7)


def export(
    function: Callable[..., Any],
    inputs: Sequence[Any],
    path: str | os.PathLike[str] | None = None,
    *,
    batch_axis: int | None = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    model: Module | None = None,
) -> Any:
    """Write a function of Tensors as an ONNX model, which other programs can run.

    Anything that `ndl.jit` can follow can be exported: a module, or a function that calls some. Parameters are in the
    file, under their paths in the model. What the function looks at beside its inputs (a mode, a number) is fixed.
    Checks of values, such as whether indices are in bounds, are not in the file. Recurrent layers are written step by
    step, for the number of time steps of the example.

    Args:
        function: takes Tensors and returns Tensors, also in tuples, lists and dicts. Put a module into evaluation mode
            first: `model.eval()`.
        inputs: an example of the arguments: Tensors or arrays, also in tuples, lists and dicts. Their values do not
            matter.
        path: a file to write, whole or not at all; none where not given.
        batch_axis: the axis of every input that may have any length in the file; none where not given.
        input_names: one for each Tensor in `inputs`; those of the function's parameters where not given.
        output_names: one for each Tensor in the result.
        model: names the parameters where `function` is no module itself.

    Returns:
        The model, an `onnx.ModelProto` that ONNX's own checker has passed.

    Raises:
        MissingExtraError: the package `onnx` is not installed.
        TraceError: the function cannot be followed, draws random numbers, or changes state in each call.
        CompileError: it needs what ONNX has not, or depends on the batch's size in another way than by its lengths.
        SettingError: names that are not as many as what they name.
        DTypeError: an input that is no Tensor or array.
        OSError: the file cannot be written.

    Example:
        >>> import needle as ndl
        >>> from needle import nn
        >>> model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).eval()
        >>> exported = ndl.onnx.export(model, [ndl.init.rand(4, 3)], batch_axis=0)
        >>> [node.op_type for node in exported.graph.node]
        ['MatMul', 'Add', 'Tanh', 'MatMul', 'Add', 'Identity']
        >>> [array.name for array in exported.graph.initializer]
        ['modules.0.weight', 'modules.0.bias', 'modules.2.weight', 'modules.2.bias']
    """
    onnx = onnx_package()
    arguments = [_checked_arguments(one) for one in inputs]
    if batch_axis is None:
        program = twin = _followed(function, arguments)
    else:
        program, twin = (_followed(function, _with_batch(arguments, batch_axis, size)) for size in _BATCH_SIZES)
    owner = model if model is not None else function if isinstance(function, Module) else None
    file = _File(program, twin, batch_axis)
    file.name_parameters(owner)
    exported = file.write(
        _names("input", input_names, _default_names(function, arguments), len(flatten(arguments))),
        _names("output", output_names, None, len(program.result_places)),
    )
    onnx.checker.check_model(exported, full_check=True)
    if path is not None:
        from needle.train.files import write_file  # noqa: PLC0415  only for who writes

        write_file(path, exported.SerializeToString())
    return exported


# -------------------------------------------------------------------------------------------------- following


def _checked_arguments(value: Any) -> Any:
    """Return an example argument with its arrays as Tensors."""
    for one in _leaves_of(value):
        if not isinstance(one, (Tensor, np.ndarray)):
            raise DTypeError(f"onnx.export: an input is a Tensor or an array, got {type(one).__name__}")
    return map_leaves(lambda one: one if isinstance(one, Tensor) else Tensor(one, requires_grad=False), value)


def _leaves_of(value: Any) -> Iterator[Any]:
    if isinstance(value, (tuple, list)):
        for one in value:
            yield from _leaves_of(one)
    elif isinstance(value, dict):
        yield from _leaves_of(list(value.values()))
    else:
        yield value


def _with_batch(arguments: list[Any], axis: int, size: int) -> list[Any]:
    """Return stand-ins for the arguments with another length along an axis."""

    def resized(tensor: Tensor) -> Tensor:
        if not -tensor.ndim <= axis < tensor.ndim:
            raise SettingError(f"onnx.export: batch_axis is {axis}, and an input has shape {tensor.shape}")
        shape = list(tensor.shape)
        shape[axis] = size
        return Tensor(np.zeros(shape, tensor.dtype), requires_grad=False)

    stand_ins: list[Any] = map_leaves(resized, arguments)
    return stand_ins


def _followed(function: Callable[..., Any], arguments: list[Any]) -> _Program:
    """Follow the function, and check that it only computes."""
    plain = function.fn if isinstance(function, JitFunction) else function
    leaves = flatten(arguments)
    with no_grad(), loops_written_out():
        call = follow_call(plain, tuple(arguments), {}, leaves)
    remedy = "put the model into evaluation mode: model.eval()"
    if any(isinstance(one, Draw) for one in call.recorder.before):
        raise TraceError(f"onnx.export: the function draws random numbers, which a file cannot: {remedy}")
    if call.state or call.recorder.before:
        raise TraceError(f"onnx.export: the function changes state in each call, which a file cannot: {remedy}")
    return _Program(call, leaves)


class _Program:
    """A followed function: its graph, with convolutions and poolings as nodes of their own, simplified."""

    def __init__(self, call: CompiledCall, leaves: Sequence[Tensor]) -> None:
        self.call = call
        self.leaves = leaves
        self.result_places = call.outcome.returned_places()
        used = [place for place in self.result_places if isinstance(place, int)]
        graph = Graph(call.graph.inputs, tuple(call.graph.outputs[place] for place in used))
        self.graph = simplify(_with_whole_operators(graph, call))
        self.outputs = dict(zip(used, self.graph.outputs, strict=True))


def _with_whole_operators(graph: Graph, call: CompiledCall) -> Graph:
    """Put single nodes in the place of what convolutions and poolings were traced to."""
    found = {one.node: one for one in call.recorder.results if one.name in WHOLE}
    new: dict[Node, Node] = {}
    for node in graph.nodes():
        inputs = tuple(new[one] for one in node.inputs)
        new[node] = Node(node.primitive, inputs, node.params, *_kind(node)) if inputs != node.inputs else node
        if node in found:
            operands = tuple(new[one] for one in found[node].operands)
            settings = _settings(found[node], operands, node)
            if settings is not None and any(one.primitive != "constant" for one in operands):
                new[node] = Node(found[node].name, operands, settings, *_kind(node))
    return Graph(graph.inputs, tuple(new[one] for one in graph.outputs))


def _kind(node: Node) -> tuple[tuple[int, ...], np.dtype[Any]]:
    return node.shape, node.dtype


def _settings(found: OperatorResult, operands: tuple[Node, ...], node: Node) -> dict[str, Any] | None:
    """Return an operator's settings as ONNX takes them; None where it does not take these."""
    if found.name in POOLINGS:
        return _pooling_settings(found, operands[0])
    if len(operands) != 2:
        return None
    op = (Conv if found.name == "conv" else ConvTranspose)(**found.settings)
    windows = op.windows(operands[1].shape[:-2])
    settings = {**_window_settings(windows), "dilations": windows.dilation, "groups": windows.groups}
    if isinstance(op, ConvTranspose):
        parts = zip(
            node.shape[1:-1], operands[0].shape[1:-1], windows.stride, windows.reach, windows.padding, strict=True
        )
        settings["output_padding"] = tuple(n - (m - 1) * step - reach + sum(pair) for n, m, step, reach, pair in parts)
    return settings


def _pooling_settings(found: OperatorResult, image: Node) -> dict[str, Any] | None:
    known = {name: value for name, value in found.settings.items() if name != "count_include_pad"}
    pooling = Pooling(**known)
    windows = pooling.windows(image.shape)
    narrow = any(max(pair) >= length for pair, length in zip(windows.padding, windows.kernel, strict=True))
    counts_some = found.settings.get("count_include_pad") and windows.padding != pooling.given_padding(windows)
    if narrow or counts_some or image.dtype.kind != "f":
        return None
    settings = {**_window_settings(windows), "kernel_shape": windows.kernel}
    if found.name == "max_pool":
        return {**settings, "dilations": windows.dilation}
    return {**settings, "count_include_pad": int(found.settings["count_include_pad"])}


def _window_settings(windows: Windows) -> dict[str, Any]:
    pads = (*(before for before, _ in windows.padding), *(after for _, after in windows.padding))
    return {"strides": windows.stride, "pads": pads}


# ---------------------------------------------------------------------------------------------------- writing


@dataclass(frozen=True)
class _Axes:
    """An array's dtype and shape; an open length is the word for it."""

    dtype: np.dtype[Any]
    shape: tuple[int | str | None, ...]


class _File:
    """The model that is written."""

    def __init__(self, program: _Program, twin: _Program, batch_axis: int | None) -> None:
        self.program = program
        self.twin = twin
        self.batch_axis = batch_axis
        self.writer = Writer()
        self.parameter_names: dict[int, str] = {}

    def name_parameters(self, model: Module | None) -> None:
        """Take the names of a model's parameters and buffers."""
        if model is not None:
            named = [*model.named_parameters(), *model.named_buffers()]
            self.parameter_names = {id(tensor): name for name, tensor in reversed(named)}

    def write(self, input_names: Sequence[str], output_names: Sequence[str]) -> Any:
        """Return the model."""
        writer, onnx = self.writer, self.writer.onnx
        given = [writer.unused(name) for name in input_names]
        if self.batch_axis is not None and given:
            axis = self.batch_axis % self.program.leaves[0].ndim
            writer.batch = writer.add("Shape", given[0], start=axis, end=axis + 1)
        nodes = self._nodes(given)
        places = zip(self.program.result_places, self.twin.result_places, strict=True)
        values = [self._result(place, other, given, nodes) for place, other in places]
        for name, (value, _) in zip(map(writer.unused, output_names), values, strict=True):
            writer.nodes.append(onnx.helper.make_node("Identity", [value], [name], name=name))
        live, used = writer.needed_for(output_names)
        graph = onnx.helper.make_graph(
            [*writer.constants(used), *live],
            "needle",
            [self._info(name, self._argument_axes(number)) for number, name in enumerate(given)],
            [self._info(name, axes) for name, (_, axes) in zip(output_names, values, strict=True)],
            writer.initializers(used),
        )
        return onnx.helper.make_model(
            graph,
            opset_imports=[onnx.helper.make_opsetid("", _OPERATOR_SET)],
            ir_version=_FILE_VERSION,
            producer_name="needle",
            producer_version=needle.__version__,
        )

    def _nodes(self, given: Sequence[str]) -> dict[Node, str]:
        """Write all nodes, and return their names."""
        names: dict[Node, str] = {}
        nodes = self.program.graph.nodes()
        twins = dict(zip(nodes, self._twin_nodes(), strict=True))
        read = {one for node in nodes for one in node.inputs} | set(self.program.graph.outputs)
        sources = zip(self.program.call.recorder.inputs, self.twin.call.recorder.inputs, strict=True)
        for (node, source), (_, other) in sources:
            if isinstance(source, ArgumentPlace):
                names[node] = given[source.number]
            elif node in read:
                names[node] = self._array(source, other)
        primitives = PrimitiveWriter(self.writer, names, _BATCH_SIZES)
        for node, twin in twins.items():
            if node.primitive != "input":
                names[node] = self._computed(node, twin, names) or primitives.write(node, twin)
        return names

    def _twin_nodes(self) -> list[Node]:
        """Return the other graph's nodes, in the order of this one's."""
        nodes, twins = self.program.graph.nodes(), self.twin.graph.nodes()
        if [node.primitive for node in nodes] != [node.primitive for node in twins]:
            raise CompileError(
                "onnx.export: the function does something else for a batch of another size: leave out batch_axis"
            )
        return twins

    def _computed(self, node: Node, twin: Node, names: Mapping[Node, str]) -> str | None:
        """Compute a node of arrays that are in the file, where it makes them no larger; None for other nodes."""
        arrays = [self._array_behind(one, names) for one in node.inputs]
        known = [array for array in arrays if array is not None]
        is_known = known and len(known) == len(arrays) and node.primitive not in WHOLE
        if not is_known or node.shape != twin.shape or dict(node.params) != dict(twin.params):
            return None
        if np.prod(node.shape, dtype=int) > max(array.size for array in known):
            return None
        with np.errstate(all="ignore"):
            value = PRIMITIVES[node.primitive].evaluate(*known, **node.params)
        name = next((name for name in map(names.get, node.inputs) if name in self.writer.parameters), None)
        array = np.asarray(value, dtype=node.dtype)
        return self.writer.array(array, f"{name}_{node.primitive}" if name else "array", is_parameter=name is not None)

    def _array_behind(self, node: Node, names: Mapping[Node, str]) -> NDArray[Any] | None:
        """Return a node's values where they are in the file, also those that a node repeats."""
        if node.primitive == "broadcast" and names[node] not in self.writer.arrays:
            array = self.writer.arrays.get(names[node.inputs[0]])
            return None if array is None else np.broadcast_to(array, node.shape)
        return self.writer.arrays.get(names[node])

    def _result(self, place: Any, other: Any, given: Sequence[str], nodes: Mapping[Node, str]) -> tuple[str, _Axes]:
        """Return the name of what the function returns, and its axes."""
        if isinstance(place, int):
            node = self.program.outputs[place]
            return nodes[node], _axes(node, self.twin.outputs[other])
        if isinstance(place, ArgumentPlace):
            return given[place.number], self._argument_axes(place.number)
        return self._array(place, other), _axes(_array_of(place), _array_of(other))

    def _array(self, source: Any, other_source: Any) -> str:
        """Return the name of an array that the function uses."""
        value, other = _array_of(source), _array_of(other_source)
        if value.shape == other.shape:
            if not isinstance(source, StatePlace) or not isinstance(source.tensor, (Parameter, Buffer)):
                return self.writer.array(value, "array")
            name = self.parameter_names.get(id(source.tensor), "parameter")
            return self.writer.array(value, name, is_parameter=True)
        if value.size == 0 or np.any(value != value.flat[0]):
            raise CompileError("onnx.export: an array's shape depends on the batch's size: leave out batch_axis")
        lengths = self.writer.lengths(value.shape, other.shape, _BATCH_SIZES)
        return self.writer.add("Expand", self.writer.array(value.flat[:1].copy()), lengths)

    def _info(self, name: str, axes: _Axes) -> Any:
        helper = self.writer.onnx.helper
        return helper.make_tensor_value_info(name, self.writer.onnx_dtype(axes.dtype), axes.shape)

    def _argument_axes(self, number: int) -> _Axes:
        return _axes(self.program.leaves[number], self.twin.leaves[number])


def _axes(one: Any, other: Any) -> _Axes:
    """Return the shape of an array that is `one` for a batch of one size and `other` for another."""
    lengths = zip(one.shape, other.shape, strict=True)
    shape = tuple(a if a == b else ("batch" if (a, b) == _BATCH_SIZES else None) for a, b in lengths)
    return _Axes(one.dtype, shape)


def _array_of(source: Any) -> NDArray[Any]:
    """Return the values of an input of the program that is no argument."""
    if isinstance(source, StatePlace):
        return source.tensor.numpy()
    if isinstance(source, HostArray):
        return np.array(source.array)
    if isinstance(source, HostScalar):
        return np.array(source.number.value, dtype=source.dtype)
    raise TraceError("onnx.export: the function reads a gradient, which a file has not")


# ------------------------------------------------------------------------------------------------------ names


def _names(kind: str, given: Sequence[str] | None, default: Sequence[str] | None, count: int) -> list[str]:
    if given is None:
        given = default if default is not None else [kind] if count == 1 else [f"{kind}_{i}" for i in range(count)]
    if len(given) != count or len(set(given)) != count:
        raise SettingError(f"onnx.export: {kind}_names are {count} different names, got {list(given)}")
    return list(given)


def _default_names(function: Callable[..., Any], arguments: Sequence[Any]) -> list[str] | None:
    """Name inputs after the function's parameters, those in containers by number; None where they have no names."""
    called: Any = function.forward if isinstance(function, Module) else function
    try:
        bound = inspect.signature(called).bind(*arguments)
    except (TypeError, ValueError):
        return None
    names: list[str] = []
    for name, value in bound.arguments.items():
        kind: Mapping[str, Any] = inspect.signature(called).parameters
        values = value if kind[name].kind is inspect.Parameter.VAR_POSITIONAL else [value]
        leaves = flatten(values)
        single = len(leaves) == 1
        names += [name] if single else [f"{name}_{number}" for number in range(len(leaves))]
    return names
