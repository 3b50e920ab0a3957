"""Values, operators and the reverse pass: how Needle differentiates.

A `Value` is a node of a graph: the operator that made it, the values it was made from, and its data. An `Op` knows
two things: `compute`, its forward on raw arrays, and `gradient`, which turns the adjoint of its result into the
adjoints of its inputs, written with operators again. The reverse pass walks the graph from the output backwards,
sums the adjoints that reach each node, and asks each node's operator for its inputs' adjoints. That is all.

Gradients can be differentiated again, at no cost until someone does: `backward` runs the reverse pass without
recording it, and a `Gradient` runs it a second time, recording, when its own graph is first asked for.

The operators themselves are in `needle.ops`; the methods and signs of a Tensor are in `needle.tensor_operators`.
"""

from __future__ import annotations

import builtins
import gc
import threading
import weakref
from collections.abc import Iterator, Sequence, Set
from contextlib import ContextDecorator, contextmanager
from functools import reduce
from operator import add
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from needle import autocasting, tracing
from needle.compiler import abstract_result
from needle.device import Array, Device, array_namespace, cpu, device_of
from needle.dtype import NARROW_FLOAT_CODES, as_dtype, float32, float64, is_narrow
from needle.errors import DeviceError, DTypeError, GradientError, NeedleError, ShapeError, TraceError
from needle.tensor_operators import TensorOperators

__all__ = [
    "Op",
    "Tensor",
    "TensorOp",
    "TensorTuple",
    "TensorTupleOp",
    "Value",
    "compute_gradient_of_variables",
    "enable_grad",
    "find_topo_sort",
    "gradients_of",
    "is_recording",
    "no_grad",
    "sum_node_list",
]

# Users rebind these two: `needle.autograd.LAZY_MODE = True` puts computing off until data is asked for.
LAZY_MODE = False
# How many Values are alive. Only ever changed by one bytecode-sized step under the interpreter's lock.
TENSOR_COUNTER = 0


class _GraphMode(threading.local):
    """Whether this thread records graphs. Per thread, so that evaluation in one leaves training in another alone."""

    recording = True
    made: set[Value] | None = None  # where someone wants to know them: the nodes that are made


_mode = _GraphMode()


class _Recording(ContextDecorator):
    """Turn the recording of graphs on or off for a block or a function, and put it back afterwards."""

    def __init__(self, recording: bool) -> None:
        self.recording = recording
        self.before: list[bool] = []

    def __enter__(self) -> None:
        self.before.append(_mode.recording)
        _mode.recording = self.recording

    def __exit__(self, *exception: object) -> None:
        _mode.recording = self.before.pop()


class no_grad(_Recording):  # noqa: N801  reads as a statement: `with no_grad():`
    """Record no graph inside the block or the decorated function: results require no gradient.

    Example:
        >>> import needle as ndl
        >>> x = ndl.Tensor([1.0, 2.0])
        >>> with ndl.no_grad():
        ...     y = x * 2
        >>> y.requires_grad
        False
    """

    def __init__(self) -> None:
        super().__init__(recording=False)


class enable_grad(_Recording):  # noqa: N801  reads as a statement: `with enable_grad():`
    """Record graphs inside the block, also within `no_grad`."""

    def __init__(self) -> None:
        super().__init__(recording=True)


def is_recording() -> bool:
    """Tell whether this thread records graphs now: False inside `no_grad`."""
    return _mode.recording


@contextmanager
def nodes_made() -> Iterator[set[Value]]:
    """Give the set of nodes of the graph that are made inside the block; those of an inner such block are its own."""
    before, _mode.made = _mode.made, set()
    try:
        yield _mode.made
    finally:
        _mode.made = before


# ------------------------------------------------------------------------------------------------ operators


class Op:
    """An operator: how a result is computed from raw arrays, and how its gradient is made.

    A subclass of `TensorOp` (one Tensor out) or `TensorTupleOp` (several) writes `compute` and `gradient`; that is
    the whole protocol, for the operators of `needle.ops` and for users' own alike.
    """

    # What the user calls it; the class's own name where a subclass says nothing.
    name: str = ""
    # False for operators with no derivative, such as comparisons: their results require no gradient.
    differentiable: bool = True
    # False for operators that only move or store numbers: they see float16 and bfloat16 arrays as they are.
    computes_wide: bool = True
    # False for operators made of others that a recorder has been told of, one by one, with these very results.
    is_told: bool = True
    # Inside `ndl.autocast`: "narrow" for products, which take their inputs in the narrow dtype; "wide" for what would
    # lose too much by it; None for what takes its inputs as they come.
    precision: Literal["narrow", "wide"] | None = None
    # For an operator that takes one element out of a TensorTuple: which. Its adjoints are put in their places together.
    element: int | None = None
    # True for what gives results of something that is no graph: `check_cut` then says whether that matters.
    is_cut: bool = False

    def __call__(self, *args: Value) -> Any:
        """Apply the operator to Tensors."""
        raise NotImplementedError(f"{type(self).__name__} must derive from TensorOp or TensorTupleOp")

    def compute(self, *arrays: Array) -> Any:
        """Compute the result from the inputs' raw arrays, in calls of the array API."""
        raise NotImplementedError(f"{type(self).__name__}.compute is not written")

    def gradient(self, out_grad: Any, node: Any) -> Any:
        """Return the adjoint of each input, made of Tensor operators.

        Args:
            out_grad: the adjoint of the result: ∂(final output)/∂(this result), in the result's shape.
            node: the result itself, so that `node.inputs` are the operator's inputs.

        Returns:
            One Tensor, or a tuple with one for each of `node.inputs`, each in that input's shape. None stands for
            an input that requires no gradient.
        """
        raise GradientError(f"{self.called} has no gradient")

    def gradient_as_tuple(self, out_grad: Any, node: Any) -> tuple[Any, ...]:
        """Return `gradient`'s answer as a tuple, also where it is a single Tensor or a list."""
        adjoints = self.gradient(out_grad, node)
        if isinstance(adjoints, tuple):
            return adjoints
        return tuple(adjoints) if isinstance(adjoints, list) else (adjoints,)

    def check_cut(self, wanted: Sequence[Tensor] | None) -> None:
        """Where `is_cut`: raise if a gradient with respect to `wanted` (None for all) would have to go through."""

    def explain_failure(self, error: Exception, arrays: Sequence[Array]) -> NeedleError | None:
        """Say what a failure inside `compute` means, or None where the failure speaks for itself."""
        return None

    @property
    def called(self) -> str:
        """The name for messages: the function that the user calls."""
        return self.name or type(self).__name__


class TensorOp(Op):
    """An operator whose result is one Tensor."""

    def __call__(self, *args: Value) -> Tensor:
        """Apply the operator to Tensors."""
        return Tensor.make_from_op(self, _autocast(self, args) if autocasting.active else args)


class TensorTupleOp(Op):
    """An operator whose result is a TensorTuple."""

    def __call__(self, *args: Value) -> TensorTuple:
        """Apply the operator to Tensors."""
        return TensorTuple.make_from_op(self, _autocast(self, args) if autocasting.active else args)


def _autocast(op: Op, inputs: Sequence[Value]) -> Sequence[Value]:
    """Return an operator's inputs in the dtypes that suit it, where this thread has asked for that."""
    narrow = autocasting.autocast_dtype()
    if narrow is None or op.precision is None:
        return inputs
    tensors = [one for one in inputs if isinstance(one, Tensor)]
    if any(one.dtype == float64 for one in tensors):
        return inputs
    wanted = narrow if op.precision == "narrow" else float32
    casts = {one: _cast(one, wanted) for one in tensors if one.dtype == float32 or is_narrow(one.dtype)}
    return [casts.get(one, one) if isinstance(one, Tensor) else one for one in inputs]


def _cast(tensor: Tensor, dtype: np.dtype[Any]) -> Tensor:
    result: Tensor = tensor if tensor.dtype == dtype else TensorOperators.operators.astype(tensor, dtype)
    return result


def _run(op: Op, inputs: Sequence[Value]) -> Any:
    """Compute `op` on the data of `inputs`, with the operator and the operands named in any error."""
    arrays = []
    narrow = False
    try:
        for value in inputs:
            array = value.cached_data
            if array is None:
                array = value.realize_cached_data()
            arrays.append(array)
            narrow = narrow or (type(array) is not tuple and array.dtype.char in NARROW_FLOAT_CODES)
    except AttributeError:
        raise _not_values(op, inputs) from None
    data = _compute(op, inputs, arrays, narrow and op.computes_wide)
    if tracing.active:
        _tell(op, data, arrays)
    return data if type(data) is np.ndarray else _as_data(data)


def _tell(op: Op, result: Any, operands: Sequence[Any]) -> None:
    """Tell this thread's recorder, where there is one, of an operator's result."""
    recorder = tracing.recorder()
    if recorder is not None and op.is_told:
        recorder.operator(op, result, operands)


def _compute(op: Op, inputs: Sequence[Value], arrays: Sequence[Array], widen: bool) -> Any:
    try:
        return _compute_widened(op, arrays) if widen else op.compute(*arrays)
    except NeedleError as error:
        error.add_call(op.called, _describe(inputs))
        raise
    except Exception as error:
        raise _explain(op, inputs, arrays, error) from error


def _run_abstractly(op: Op, inputs: Sequence[Value]) -> Any:
    """Run `op` on shapes and dtypes alone, so that lazy mode finds what is wrong at the call, not when data is needed.

    Returns None where that cannot be told, because the operator looks at values or an input is not known either.
    """
    known = [value._abstract if value.cached_data is None else value.cached_data for value in inputs]
    if any(array is None for array in known):
        return None
    try:
        widen = op.computes_wide and any(type(array) is not tuple and is_narrow(array.dtype) for array in known)
        return abstract_result(lambda *arrays: _compute(op, inputs, arrays, widen), known)
    except TraceError:
        return None


def _as_data(data: Any) -> Any:
    """Make NumPy's scalars (what its full reductions return) arrays of no axes again."""
    if isinstance(data, (tuple, list)):
        return tuple(_as_data(part) for part in data)
    return np.asarray(data) if isinstance(data, (np.generic, int, float)) else data


def _compute_widened(op: Op, arrays: Sequence[Array]) -> Any:
    """Compute on float16 and bfloat16 inputs in float32, and round the result back to their type.

    Where inputs are of both types, or of one of them and float32, the result stays float32, as promotion has it.
    """
    floats = {array.dtype for array in arrays if array.dtype.kind == "f" or is_narrow(array.dtype)}
    xp = array_namespace(arrays[0])
    result = op.compute(*[xp.astype(array, float32) if is_narrow(array.dtype) else array for array in arrays])
    if len(floats) > 1:
        return result
    narrow = floats.pop()

    def rounded(array: Array) -> Array:
        return array.astype(narrow) if array.dtype == float32 else array

    with np.errstate(over="ignore"):  # what float16 cannot hold is infinite, as a compiled program has it, too
        return tuple(map(rounded, result)) if isinstance(result, (tuple, list)) else rounded(result)


def _explain(op: Op, inputs: Sequence[Value], arrays: Sequence[Array], error: Exception) -> Exception:
    """Turn an array library's error into one of Needle's, or add the operands to a user's operator's own error."""
    if any(type(array) is not type(arrays[0]) and type(array) is not tuple for array in arrays):
        explained: NeedleError | None = DeviceError("the operands are on different devices: move one with .to(device)")
    else:
        explained = op.explain_failure(error, arrays)
    if explained is None and type(op).__module__.startswith("needle.ops"):
        kind = {TypeError: DTypeError, ValueError: ShapeError}.get(type(error))
        explained = kind(str(error)) if kind else None
    if explained is None:
        error.add_note(f"in {op.called}.compute with {_describe(inputs)}")
        return error
    explained.add_call(op.called, _describe(inputs))
    explained.__suppress_context__ = True
    return explained


def _describe(inputs: Sequence[Value]) -> str:
    """List operands as dtype, shape and device, never their contents."""
    names = "abcdefghijklmnopqrstuvwxyz"
    return "      ".join(f"{names[i % 26]}: {value.describe()}" for i, value in enumerate(inputs))


def _not_values(op: Op, inputs: Sequence[object]) -> NeedleError:
    wrong = next(value for value in inputs if not isinstance(value, Value))
    error = DTypeError(f"expected Tensors, got {type(wrong).__name__}: wrap it as ndl.Tensor(…, requires_grad=False)")
    error.add_call(op.called, "")
    return error


# --------------------------------------------------------------------------------------------------- values

_V = TypeVar("_V", bound="Value")
_new: Any = object.__new__


class Value:
    """A node of the graph: an operator, its inputs, and the data once it is computed.

    Fields: `op` (None for a leaf), `inputs` (a tuple of Values), `cached_data` (the raw array, or None while not
    computed), `requires_grad`, and `grad` (None until `backward` has been through).
    """

    __slots__ = ("__weakref__", "_abstract", "cached_data", "grad", "inputs", "op", "requires_grad")

    op: Op | None
    inputs: tuple[Any, ...]  # Values; each operator knows whether Tensors or TensorTuples
    cached_data: Any
    requires_grad: bool
    grad: Any
    num_outputs: int = 1
    # In lazy mode only: an array (or a tuple of them) with the shape and the dtype that the data will have; None where
    # the operator's own code can tell only by running.
    _abstract: Any

    def _init(self, op: Op | None, inputs: Sequence[Value], cached_data: Any, requires_grad: bool) -> None:
        global TENSOR_COUNTER  # noqa: PLW0603  the contract's counter
        TENSOR_COUNTER += 1
        self.op = op
        self.inputs = inputs if type(inputs) is tuple else tuple(inputs)
        self.cached_data = cached_data
        self.requires_grad = requires_grad
        self.grad = None

    def __del__(self) -> None:
        global TENSOR_COUNTER  # noqa: PLW0603  the contract's counter
        TENSOR_COUNTER -= 1

    def realize_cached_data(self) -> Any:
        """Return the raw data, computing it first where lazy mode had put that off. Not a copy."""
        if self.cached_data is None:
            _realize(self)
        return self.cached_data

    def is_leaf(self) -> bool:
        """Tell whether this value was given, not computed from others."""
        return self.op is None

    def describe(self) -> str:
        """Return dtype, shape and device in a line, for messages."""
        raise NotImplementedError

    @classmethod
    def make_const(cls: type[_V], data: Any, requires_grad: bool = False) -> _V:
        """Wrap raw data in a leaf, without a copy."""
        global TENSOR_COUNTER  # noqa: PLW0603  the contract's counter
        TENSOR_COUNTER += 1
        value: _V = _new(cls)
        # `_init` written out: a compiled call does little beside making its results.
        value.op = None
        value.inputs = ()
        value.cached_data = data
        value.requires_grad = requires_grad
        value.grad = None
        return value

    @classmethod
    def make_from_op(cls: type[_V], op: Op, inputs: Sequence[Value]) -> _V:
        """Make the node of `op` applied to `inputs`; in eager mode compute it now.

        A result none of whose inputs requires a gradient keeps no graph.
        """
        if LAZY_MODE:
            if not all(isinstance(one, Value) for one in inputs):
                raise _not_values(op, inputs)
            abstract = _run_abstractly(op, inputs)
            value = cls.__new__(cls)
            value._init(op, inputs, None, _requires_grad(op, inputs))
            value._abstract = abstract
            return value
        data = _run(op, inputs)
        value = cls.__new__(cls)
        if _requires_grad(op, inputs) and (type(data) is tuple or data.dtype.kind != "b"):
            value._init(op, inputs, data, requires_grad=True)
            if _mode.made is not None:
                _mode.made.add(value)
        else:
            value._init(None, (), data, requires_grad=False)
        return value


def _requires_grad(op: Op, inputs: Sequence[Value]) -> bool:
    if not (op.differentiable and _mode.recording):
        return False
    for value in inputs:  # noqa: SIM110  run for every operator: any() over a generator takes three times as long
        if value.requires_grad:
            return True
    return False


def _realize(value: Value) -> None:
    """Compute a value and all that it needs, without recursion: graphs can be deeper than Python's stack."""
    stack = [value]
    while stack:
        node = stack[-1]
        if node.cached_data is not None:
            stack.pop()
            continue
        pending = [one for one in node.inputs if one.cached_data is None]
        if pending:
            stack.extend(pending)
            continue
        assert node.op is not None, "a leaf has data"
        node.cached_data = _run(node.op, node.inputs)
        if not node.requires_grad:
            node.op, node.inputs = None, ()
        stack.pop()


class Tensor(TensorOperators, Value):
    """An array that remembers how it was computed, so that it can be differentiated.

    Args:
        array: anything array-like, or another Tensor. The values are copied, except from a Tensor of the same
            dtype and device, whose data is shared.
        device: where the data lives; the CPU where not given.
        dtype: what NumPy makes of the values where not given: a list of floats is float64, of integers int64.
        requires_grad: whether `backward` computes a gradient for it. Booleans never carry one.

    Raises:
        DTypeError: the values or the dtype are not numbers that Needle has.

    Example:
        >>> import needle as ndl
        >>> w = ndl.Tensor([1.0, 2.0])
        >>> (w * w).sum().backward()
        >>> w.grad
        needle.Tensor([2. 4.])
    """

    __slots__ = ()

    def __init__(
        self,
        array: Any,
        *,
        device: Device | None = None,
        dtype: DTypeLike | None = None,
        requires_grad: bool = True,
        **_: object,
    ) -> None:
        self._init(None, (), None, requires_grad)  # first: __del__ runs on this object even where the rest fails
        self.cached_data = _array_from(array, device, dtype)
        self.requires_grad = requires_grad and self.cached_data.dtype.kind != "b"

    @property
    def data(self) -> Tensor:
        """A Tensor that shares the data and has no graph. Assigning a Tensor of the same dtype rebinds the data."""
        return self.detach()

    @data.setter
    def data(self, value: Tensor) -> None:
        if not isinstance(value, Tensor):
            raise DTypeError(f"Tensor.data takes a Tensor, got {type(value).__name__}")
        if value.dtype != self.dtype:
            raise DTypeError(f"Tensor.data: this Tensor is {self.dtype}, the new data {value.dtype}: use .astype")
        self.cached_data = value.realize_cached_data()

    def detach(self) -> Tensor:
        """Return a Tensor that shares the data, has no graph and requires no gradient."""
        return Tensor.make_const(self.realize_cached_data())

    @property
    def shape(self) -> tuple[int, ...]:
        """The length of each axis."""
        data = self.cached_data
        shape: tuple[int, ...] = (self._known() if data is None else data).shape
        return shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """The data type; it compares equal to its name: `x.dtype == "float32"`."""
        data = self.cached_data
        dtype: np.dtype[Any] = (self._known() if data is None else data).dtype
        return dtype

    def _known(self) -> Any:
        """Return what has the shape and the dtype of data that is not computed yet."""
        return self.realize_cached_data() if self._abstract is None else self._abstract

    @property
    def device(self) -> Device:
        """Where the data lives."""
        return device_of(self.realize_cached_data())

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """The number of elements."""
        return int(np.prod(self.shape))

    def numpy(self) -> NDArray[Any]:
        """Return the values as a NumPy array of their own: changing it changes nothing here."""
        data = self.realize_cached_data()
        return data.copy() if type(data) is np.ndarray else np.asarray(data.get())

    def backward(self, out_grad: Tensor | None = None) -> None:
        """Compute the gradient of this Tensor with respect to all that it was computed from.

        Sets `.grad` of every node that requires one, replacing what was there (it does not add to it).

        Args:
            out_grad: the adjoint to start from, in this Tensor's shape; ones where None.

        Raises:
            GradientError: this Tensor requires no gradient.
            ShapeError: `out_grad` has another shape.
        """
        compute_gradient_of_variables(self, self.ones_like() if out_grad is None else out_grad)

    def ones_like(self) -> Tensor:
        """Return a constant Tensor of ones of the same shape, dtype and device."""
        data = self.realize_cached_data()
        return Tensor.make_const(array_namespace(data).ones_like(data))

    def describe(self) -> str:
        """Return dtype, shape and device in a line, for messages."""
        return f"{self.dtype} {self.shape} on {self.device.name}"

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.numpy(), self.requires_grad)

    def __repr__(self) -> str:
        return f"needle.Tensor({self})"

    def __str__(self) -> str:
        # Where the values are not there yet, a debugger or a print still wants to see something.
        return getattr(self.cached_data, "placeholder", None) or str(self.numpy())


def _rebuild(cls: type[_V], data: Any, requires_grad: bool) -> _V:
    """Make the copy of a Tensor or TensorTuple that `copy` and `pickle` ask for: a leaf."""
    return cls.make_const(data, requires_grad)


def _array_from(array: Any, device: Device | None, dtype: DTypeLike | None) -> Array:
    """Return the raw array for `Tensor(array)`."""
    wanted = None if dtype is None else as_dtype(dtype)
    if isinstance(array, Tensor):
        same_device = device is None or device == array.device
        if same_device and (wanted is None or wanted == array.dtype):
            return array.realize_cached_data()
        device, array = array.device if device is None else device, array.numpy()
    if tracing.active and hasattr(array, "shape") and not isinstance(array, np.generic):
        recorder = tracing.recorder()
        used = None if recorder is None else recorder.array(array)
        if used is not None:
            return used if wanted is None else used.astype(wanted)
    values = array
    if not hasattr(array, "dtype"):
        try:
            values = np.asarray(array, dtype=wanted)
        except (ValueError, TypeError) as error:
            raise DTypeError(f"Tensor: these values make no array of numbers: {error}") from None
    if wanted is None and values.dtype == object:
        values = _numbers_from_objects(values)
    return (cpu() if device is None else device).array(values, dtype=wanted or as_dtype(values.dtype))


def _numbers_from_objects(values: NDArray[Any]) -> NDArray[Any]:
    try:
        if not any(one is None for one in values.flat):  # NumPy would make NaN of it
            return values.astype(np.float64)
    except (ValueError, TypeError):
        pass
    raise DTypeError("Tensor: the array holds Python objects that are not numbers")


class TensorTuple(Value):
    """Several Tensors as one value: the result of an operator that gives more than one."""

    __slots__ = ()

    @property
    def num_outputs(self) -> int:  # type: ignore[override]
        """The number of Tensors."""
        return len(self)

    def __len__(self) -> int:
        return len(self.realize_cached_data())

    def __getitem__(self, index: int) -> Tensor:
        from_op = TensorOperators.operators.tuple_get_item
        if not -len(self) <= index < len(self):
            raise IndexError(f"TensorTuple of {len(self)}: no element {index}")
        result: Tensor = from_op(self, index % len(self))
        return result

    def __iter__(self) -> Iterator[Tensor]:
        return (self[i] for i in range(len(self)))

    def tuple(self) -> builtins.tuple[Tensor, ...]:
        """Return the Tensors as a Python tuple."""
        return builtins.tuple(self)

    def detach(self) -> TensorTuple:
        """Return a TensorTuple that shares the data and has no graph."""
        return TensorTuple.make_const(self.realize_cached_data())

    def describe(self) -> str:
        """Return the elements' dtypes and shapes in a line, for messages."""
        return "(" + ", ".join(one.describe() for one in self.detach()) + ")"

    def __add__(self, other: object) -> TensorTuple:
        if not isinstance(other, TensorTuple) or len(self) != len(other):
            raise ShapeError(f"a TensorTuple of {len(self)} adds to another of the same length")
        result: TensorTuple = TensorOperators.operators.make_tuple(*map(add, self, other))
        return result

    def __reduce__(self) -> builtins.tuple[Any, ...]:
        arrays = builtins.tuple(np.array(array) for array in self.realize_cached_data())
        return _rebuild, (type(self), arrays, self.requires_grad)

    def __repr__(self) -> str:
        return f"needle.TensorTuple{self}"

    def __str__(self) -> str:
        return str(self.tuple())


# ----------------------------------------------------------------------------------------- the reverse pass


def find_topo_sort(node_list: Sequence[Value]) -> list[Value]:
    """Return all nodes that `node_list` was computed from, each once, inputs before what is made of them.

    The order is that of a post-order depth-first search that visits inputs from left to right.
    """
    return _post_order(node_list, frozenset())


def _post_order(node_list: Sequence[Value], ends: Set[Value]) -> list[Value]:
    """Do what `find_topo_sort` does, without going on to the inputs of `ends`."""
    order: list[Value] = []
    seen: set[Value] = set()
    for root in node_list:
        if root in seen:
            continue
        seen.add(root)
        stack = [(root, iter(() if root in ends else root.inputs))]
        while stack:
            node, inputs = stack[-1]
            for value in inputs:
                if value not in seen:
                    seen.add(value)
                    stack.append((value, iter(() if value in ends else value.inputs)))
                    break
            else:
                stack.pop()
                order.append(node)
    return order


def sum_node_list(node_list: Sequence[Any]) -> Any:
    """Add up Tensors (or TensorTuples), left to right, without a needless zero to start from."""
    return reduce(add, node_list)


def compute_gradient_of_variables(output_tensor: Tensor, out_grad: Tensor) -> None:
    """Store the gradient of `output_tensor` in `.grad` of every node that it depends on and that requires one.

    Raises:
        GradientError: `output_tensor` requires no gradient.
        ShapeError: `out_grad` has not the shape of `output_tensor`.
    """
    if not output_tensor.requires_grad:
        raise GradientError(
            "backward: this Tensor requires no gradient: nothing that it was computed from does, "
            "or it was computed under no_grad or from detached data"
        )
    if out_grad.shape != output_tensor.shape:
        raise ShapeError(f"backward: out_grad has shape {out_grad.shape}, the Tensor {output_tensor.shape}")
    backward_pass = _BackwardPass(output_tensor, out_grad)
    # An inner node keeps the pass weakly, a leaf strongly: the pass reaches every inner node, so that the other way
    # about each training step would leave a cycle of garbage behind.
    weak_pass = weakref.ref(backward_pass)
    for node, adjoint in backward_pass.values().items():
        if isinstance(adjoint, TensorTuple):
            node.grad = adjoint
        else:
            node.grad = Gradient(adjoint, id(node), backward_pass if node.is_leaf() else weak_pass)


def gradients_of(output: Tensor, out_grad: Tensor, wanted: Sequence[Tensor]) -> list[Gradient | None]:
    """Return the gradient of `output` with respect to each of `wanted`, and store it nowhere.

    Only what lies between is walked. None stands for a Tensor that `output` does not depend on.
    """
    backward_pass = _BackwardPass(output, out_grad, wanted)
    adjoints = backward_pass.values()
    return [Gradient(adjoints[node], id(node), backward_pass) if node in adjoints else None for node in wanted]


def _on_the_way(order: Sequence[Value], wanted: Set[Value]) -> list[Value]:
    """Return those nodes of a topological order that are in `wanted` or computed from one that is."""
    on_the_way = set(wanted)
    for node in order:
        if not on_the_way.isdisjoint(node.inputs):
            on_the_way.add(node)
    return [node for node in order if node in on_the_way]


def _reverse_pass(order: Sequence[Value], output: Value, out_grad: Value) -> dict[Value, Any]:
    """Return the adjoint of every node in `order` that requires one, made by the operators' gradients."""
    contributions: dict[Value, list[Any]] = {output: [out_grad]}
    adjoints: dict[Value, Any] = {}
    for node in reversed(order):
        parts = contributions.pop(node, None)
        if parts is None:
            continue
        adjoint = _sum_of_elements(node, parts) if isinstance(node, TensorTuple) else _in_dtype_of(node, parts)
        adjoints[node] = adjoint
        if node.op is None:
            continue
        if node.op.element is not None:
            if node.inputs[0].requires_grad:
                contributions.setdefault(node.inputs[0], []).append((node.op.element, adjoint))
            continue
        for value, part in zip(node.inputs, _input_adjoints(node, adjoint), strict=True):
            if part is not None and value.requires_grad:
                contributions.setdefault(value, []).append(part)
    return adjoints


def _in_dtype_of(node: Any, parts: Sequence[Any]) -> Any:
    """Add up the adjoints of a Tensor, in its own dtype where that is narrow.

    A wide one, which came past a residual, would make all products before it wide. That of a loss alone stays so: what
    a loss is scaled by is more than float16 holds.
    """
    adjoint = sum_node_list(parts)
    is_loss = node.op is not None and not adjoint.shape
    return _cast(adjoint, node.dtype) if is_narrow(node.dtype) and not is_loss else adjoint


def _sum_of_elements(node: TensorTuple, parts: Sequence[Any]) -> TensorTuple:
    """Add up the adjoints of a tuple: TensorTuples, and those of one element each as (index, adjoint).

    As a TensorTuple with zeros elsewhere, each of n elements' adjoints would take n sums.
    """
    arrays = node.realize_cached_data()
    sums: list[list[Tensor]] = [[] for _ in arrays]
    for part in parts:
        for index, adjoint in enumerate(part) if isinstance(part, TensorTuple) else (part,):
            sums[index].append(adjoint)
    result: TensorTuple = TensorOperators.operators.make_tuple(
        *(sum_node_list(one) if one else _zeros_like(array) for one, array in zip(sums, arrays, strict=True))
    )
    return result


def _zeros_like(array: Array) -> Tensor:
    return Tensor.make_const(array_namespace(array).zeros_like(array))


def _input_adjoints(node: Value, adjoint: Any) -> tuple[Any, ...]:
    """Ask a node's operator for its inputs' adjoints, and check that they can be such."""
    op = node.op
    assert op is not None
    try:
        parts = op.gradient_as_tuple(adjoint, node)
    except NeedleError as error:
        error.add_note(f"in the gradient of {op.called}")
        raise
    if len(parts) != len(node.inputs):
        raise GradientError(f"{op.called}.gradient returned {len(parts)} adjoints for {len(node.inputs)} inputs")
    for value, part in zip(node.inputs, parts, strict=True):
        known = type(part) is Tensor and part.cached_data is not None and isinstance(value, Tensor)
        if known and part.cached_data.shape != value.cached_data.shape:
            raise GradientError(
                f"{op.called}.gradient returned an adjoint of shape {part.shape} for an input of shape {value.shape}"
            )
        if not (known or part is None or isinstance(part, Value)):
            raise GradientError(f"{op.called}.gradient returned {type(part).__name__}, not a Tensor made by operators")
    return parts


class _BackwardPass:
    """One call of `backward`: enough to run it a second time and record its graph.

    A leaf's gradient holds its pass, the pass holds the output, and the output's graph holds the leaf: a cycle that
    only Python's collector frees. `Optimizer.step` breaks it for parameters. Where other leaves pile up such cycles
    (a loop that makes new weights each step), the collector is called, so that memory stays bounded.
    """

    alive = 0
    collect_at = 16

    def __init__(self, output: Tensor, out_grad: Tensor, wanted: Sequence[Tensor] | None = None) -> None:
        cls = _BackwardPass
        cls.alive += 1
        if cls.alive >= cls.collect_at:
            gc.collect(1)  # the young objects: quick also where a program has millions of old ones
            if 2 * cls.alive > cls.collect_at:
                gc.collect()
            cls.collect_at = max(16, 2 * cls.alive)
        self.output = output
        self.out_grad = out_grad
        self.wanted = wanted  # the nodes whose gradients are asked for; all where None
        self.leaf_arrays: list[tuple[Value, weakref.ref[Any]]] = []
        self.adjoints: dict[int, Any] | None = None

    def __del__(self) -> None:
        _BackwardPass.alive -= 1

    def values(self) -> dict[Value, Any]:
        """Run the reverse pass and record no graph (lazy mode has nothing but graphs, so there it records one)."""
        order = self.order()
        for node in order:
            if node.op is not None and node.op.is_cut:
                node.op.check_cut(self.wanted)
        self.leaf_arrays = [
            (node, weakref.ref(node.cached_data)) for node in order if node.op is None and node.requires_grad
        ]
        with enable_grad() if LAZY_MODE else no_grad(), autocasting.as_before(None):
            return self.adjoints_along(order)

    def order(self) -> list[Value]:
        """Return the nodes that the output was computed from, no further back than `wanted`."""
        return _post_order([self.output], frozenset(self.wanted or ()))

    def adjoints_along(self, order: list[Value]) -> dict[Value, Any]:
        """Run the reverse pass over as much of `order` as is needed."""
        path = order if self.wanted is None else _on_the_way(order, set(self.wanted))
        return _reverse_pass(path, self.output, self.out_grad)

    def adjoint(self, key: int) -> Tensor:
        """Return the adjoint of the node with this id, with its graph."""
        if self.adjoints is None:
            if any(node.cached_data is not array() for node, array in self.leaf_arrays):
                raise GradientError(
                    "the data of a Tensor was replaced after backward() (an optimizer's step does so), so that its "
                    "gradient can no longer be differentiated: do that before the step"
                )
            with enable_grad(), autocasting.as_before(None):
                adjoints = self.adjoints_along(self.order())
            self.adjoints = {id(node): adjoint for node, adjoint in adjoints.items()}
        adjoint: Tensor = self.adjoints[key]
        return adjoint


class Alias(TensorOp):
    """The same value under another node: y = a."""

    computes_wide = False

    def compute(self, a: Array) -> Array:
        return a

    def gradient(self, out_grad: Tensor, node: Tensor) -> Tensor:
        return out_grad


class Gradient(Tensor):
    """What `.grad` holds: an adjoint whose graph is made when it is first asked for."""

    __slots__ = ("_inputs", "_key", "_pass")

    def __init__(self, adjoint: Tensor, key: int, backward_pass: _BackwardPass | weakref.ref[_BackwardPass]) -> None:
        self._key = key
        self._pass: _BackwardPass | weakref.ref[_BackwardPass] | None = backward_pass
        self._inputs: tuple[Value, ...] | None = None
        self._init(None, (), adjoint.cached_data, requires_grad=True)
        if adjoint.cached_data is None:
            self._inputs = (adjoint,)
            self._abstract = adjoint._abstract

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (Tensor, self.numpy(), self.requires_grad)

    @property
    def is_released(self) -> bool:
        """Whether the graph was let go of, as an optimizer's step does."""
        return self._pass is None

    def release_graph(self) -> None:
        """Keep the values and let go of the graph: this gradient can no longer be differentiated."""
        self.realize_cached_data()
        self._pass = None
        self._inputs = ()
        self.requires_grad = False

    @property
    def op(self) -> Op | None:
        """The operator that makes this gradient of its one input: the adjoint with its graph."""
        return Alias() if self.inputs else None

    @op.setter
    def op(self, value: Op | None) -> None:
        assert value is None, "a gradient's operator is made on demand"

    @property
    def inputs(self) -> tuple[Value, ...]:
        """The adjoint that this gradient's pass computed, with its graph."""
        if self._inputs is None:
            backward_pass = self._pass() if isinstance(self._pass, weakref.ref) else self._pass
            if backward_pass is None:
                raise GradientError(
                    "the graph of this inner node's gradient is gone: differentiate it while the gradients of the "
                    "leaves from the same backward() are still there"
                )
            self._inputs = (backward_pass.adjoint(self._key),)
        return self._inputs

    @inputs.setter
    def inputs(self, value: tuple[Value, ...]) -> None:
        assert not value, "a gradient's graph is made on demand"
