"""Random programs of operators over all dtypes, and what they compute eagerly and compiled.

A program is a list of steps, each the name of an operator and a seed for its choices. A step takes one of the last
values and others that go with it. Values that no rounding has touched are known to be exact: only those go into
operators that jump (comparison, argmax, casts to integers), and only those must have the very bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

import needle as ndl
from needle import Tensor, nn, optim
from needle.dtype import bfloat16
from needle.errors import NeedleError

FLOATS = ("float64", "float32", "float16", "bfloat16")
INTEGERS = ("int8", "int16", "int32", "int64", "uint8")
DTYPES = (*FLOATS, *INTEGERS, "bool")
LARGEST = 4000
# In units of the largest element; compiled sums add in another order, and elementary functions round on their own.
TOLERANCE = {np.dtype("float64"): 1e-11, np.dtype("float32"): 2e-4, np.dtype("float16"): 1e-2, bfloat16: 6e-2}


class Step(NamedTuple):
    """An operator, and the seed for what it chooses."""

    name: str
    seed: int


@dataclass
class Held:
    """A value, and whether no rounding has touched it."""

    tensor: Tensor
    exact: bool


def is_float(dtype: Any) -> bool:
    return dtype.kind == "f" or dtype == bfloat16


def draw(rng: np.random.Generator, shape: Sequence[int], dtype: str) -> np.ndarray:
    """Draw a leaf's values; short integers fill their whole range now and then."""
    if dtype == "bool":
        return np.asarray(rng.integers(0, 2, shape), dtype=bool)
    if dtype in INTEGERS:
        limits = np.iinfo(dtype)
        whole = rng.integers(4) == 0 and limits.bits <= 16
        low, high = (limits.min, limits.max) if whole else (-5 * (limits.min < 0), 6)
        return np.asarray(rng.integers(low, high, shape, dtype=dtype))
    return np.asarray(rng.standard_normal(shape)).astype(bfloat16 if dtype == "bfloat16" else dtype)


class Chooser:
    """What a step chooses: operands that fit, axes, slices."""

    def __init__(self, values: Sequence[Held], seed: int) -> None:
        self.values = values
        self.rng = np.random.default_rng(seed)

    def below(self, count: int) -> int:
        return int(self.rng.integers(count))

    def one_of(self, items: Sequence[Any]) -> Any:
        return items[self.below(len(items))]

    def partner(self, x: Held, accepts: Callable[[Held], bool] = lambda _: True) -> Held:
        """Choose a value that broadcasts with x; x itself where there is none."""
        return self.one_of([one for one in self.values if accepts(one) and _broadcasts(one.tensor, x.tensor)] or [x])

    def like(self, x: Held) -> Held:
        """Choose a value of the same shape and dtype."""
        tensor = x.tensor
        fitting = [o for o in self.values if (o.tensor.shape, o.tensor.dtype) == (tensor.shape, tensor.dtype)]
        return self.one_of(fitting or [x])

    def axes(self, ndim: int) -> tuple[int, ...]:
        count = 1 + self.below(ndim)
        return tuple(int(one) for one in self.rng.permutation(ndim)[:count])

    def axis(self, ndim: int) -> int:
        return self.below(2 * ndim) - ndim

    def slices(self, shape: Sequence[int]) -> tuple[slice, ...]:
        return tuple(self._slice(length) for length in shape)

    def _slice(self, length: int) -> slice:
        if not length:
            return slice(None)
        start = self.below(length)
        stop, step = start + 1 + self.below(length - start), 1 + self.below(2)
        return (
            slice(stop - 1, None if start == 0 else start - 1, -step)
            if self.below(4) == 0
            else slice(start, stop, step)
        )

    def divisor(self, number: int) -> int:
        """Choose a divisor; 1 of 0."""
        return self.one_of([one for one in range(1, number + 1) if number % one == 0] or [1])


def _broadcasts(one: Tensor, other: Tensor) -> bool:
    try:
        return math.prod(np.broadcast_shapes(one.shape, other.shape)) <= LARGEST
    except ValueError:
        return False


def smooth(x: Tensor) -> Tensor:
    """Return x where it is floating, a float32 of it where it is not."""
    return x if is_float(x.dtype) else ndl.astype(bounded(x), "float32") * 0.1


def bounded(x: Tensor) -> Tensor:
    """Return x, whole numbers limited to some that rounding leaves enough digits of."""
    return ndl.clip(x, 0 if x.dtype.kind == "u" else -99, 99) if x.dtype.kind in "iu" else x


def apart(x: Tensor) -> Tensor:
    """Make no two elements equal by chance: which of equals is the largest depends on the last digit."""
    ramp = np.arange(x.size).reshape(x.shape) * 0.618
    return x + Tensor(ramp.astype(x.dtype), requires_grad=False)


# --------------------------------------------------------------------------- operators that round: results not exact


def product(x: Tensor, c: Chooser) -> Tensor:
    """Multiply by a matrix that fits: another value's, or x itself with its axes exchanged."""
    x = x if x.ndim > 1 else ndl.reshape(x, (1, -1))
    fitting = [one.tensor for one in c.values if one.tensor.ndim == 2 and one.tensor.shape[0] == x.shape[-1]]
    other = c.one_of([smooth(one) for one in fitting]) if fitting else ndl.transpose(x)
    return (x @ other) * (1 / x.shape[-1])


def picture(x: Tensor, channels: int) -> Tensor:
    """Return x's elements, some several times, as one picture of a batch, channels last."""
    flat = ndl.reshape(x, (-1,))[np.arange(6 * 7 * channels) % x.size]
    return ndl.reshape(flat, (1, 6, 7, channels))


def convolution(x: Tensor, c: Chooser) -> Tensor:
    size, inside, outside = 1 + c.below(3), 1 + c.below(3), 1 + c.below(5)
    weight = ndl.reshape(x, (-1,))[(np.arange(size * size * inside * outside) * 7) % x.size]
    weight = ndl.reshape(weight, (size, size, inside, outside))
    return ndl.conv(picture(x, inside), weight * 0.3, stride=1 + c.below(2), padding=c.below(3))


def pooled(x: Tensor, c: Chooser) -> Tensor:
    size = 2 + c.below(2)
    image = ndl.permute(picture(x, 2), (0, 3, 1, 2))
    if c.below(2):
        return ndl.avg_pool(image, size, stride=1 + c.below(3))
    return ndl.max_pool(apart(image), size, stride=1 + c.below(3))


def scanned(x: Tensor, c: Chooser) -> Tensor:
    """Carry a state along the first axis."""
    x = x[: min(x.shape[0], 5)]

    def step(state: Tensor, one: Tensor) -> tuple[Tensor, Tensor]:
        state = ndl.tanh(state * 0.5 + one)
        return state, state * one

    state, results = ndl.scan(step, ndl.tanh(x[0]), x, reverse=bool(c.below(2)))
    return results + state


def dropped(x: Tensor, c: Chooser) -> Tensor:
    return nn.Dropout(0.3)(x)


def noisy(x: Tensor, c: Chooser) -> Tensor:
    return x + ndl.init.randn(*x.shape, std=0.1, dtype=str(x.dtype))


def joined(x: Tensor, c: Chooser) -> Tensor:
    like = [one.tensor for one in c.values if one.tensor.shape == x.shape and one.tensor.dtype == x.dtype]
    return ndl.concatenate([x, *([c.one_of(like)] if like else []), ndl.sin(x)], axis=c.axis(x.ndim))


def attended(x: Tensor, c: Chooser) -> Tensor:
    x = ndl.reshape(x, (1, -1, x.shape[-1]))
    return ndl.scaled_dot_product_attention(x, ndl.sin(x), x, causal=bool(c.below(2)))


def picked(x: Tensor, c: Chooser) -> Tensor:
    """Compute a loss of classes, which are drawn."""
    logits = ndl.reshape(x, (-1, x.shape[-1]))
    labels = c.rng.integers(0, x.shape[-1], logits.shape[0])
    return ndl.cross_entropy(logits, Tensor(labels, requires_grad=False), reduction=c.one_of(["none", "mean"]))


def looked_up(x: Tensor, c: Chooser) -> Tensor:
    table = ndl.reshape(x, (x.shape[0], -1))
    return ndl.embedding(Tensor(c.rng.integers(0, x.shape[0], (2, 3)), requires_grad=False), table)


def beside(x: Tensor, c: Chooser) -> Tensor:
    return bounded(c.partner(Held(x, False)).tensor)


ROUNDING: dict[str, Callable[[Tensor, Chooser], Tensor]] = {
    "add": lambda x, c: x + beside(x, c),
    "subtract": lambda x, c: x - beside(x, c),
    "multiply": lambda x, c: ndl.tanh(x) * beside(x, c),
    "divide": lambda x, c: x / (smooth(beside(x, c)) ** 2 + 1),
    "scalars": lambda x, c: (x * 0.7 - 0.3) / 1.3,
    "sigmoid": lambda x, c: ndl.sigmoid(x),
    "gelu": lambda x, c: ndl.gelu(x, approximate=bool(c.below(2))),
    "silu": lambda x, c: ndl.silu(x),
    "softplus": lambda x, c: ndl.softplus(x),
    "exp": lambda x, c: ndl.exp(-(x**2)),
    "erf": lambda x, c: ndl.erf(x),
    "root": lambda x, c: ndl.sqrt(x**2 + 1),
    "log": lambda x, c: ndl.log(x**2 + 1),
    "power": lambda x, c: (x**2 + 0.5) ** 0.7,
    "relu": lambda x, c: ndl.relu(x - 0.3712345),
    "clip": lambda x, c: ndl.clip(x, -0.7123, 0.5123),
    "where": lambda x, c: ndl.where(x > 0.2712345, x * 2, ndl.sin(x)),
    "maximum": lambda x, c: ndl.maximum(x, ndl.cos(x) + 0.01),
    "dropout": dropped,
    "noise": noisy,
    "sum": lambda x, c: ndl.summation(x, c.axes(x.ndim), keepdims=bool(c.below(2))),
    "mean": lambda x, c: ndl.mean(x, c.axes(x.ndim)),
    "var": lambda x, c: ndl.var(x, c.axes(x.ndim)),
    "max": lambda x, c: ndl.max(apart(x), c.axes(x.ndim)),
    "min": lambda x, c: ndl.min(apart(x), c.axes(x.ndim), keepdims=True),
    "prod": lambda x, c: ndl.prod(ndl.tanh(x), c.axis(x.ndim)),
    "logsumexp": lambda x, c: ndl.logsumexp(x, c.axes(x.ndim)),
    "softmax": lambda x, c: ndl.softmax(x, c.axis(x.ndim)),
    "logsoftmax": lambda x, c: ndl.logsoftmax(x, c.axis(x.ndim)),
    "normalize": lambda x, c: ndl.normalize(apart(x), c.axes(x.ndim), 0.1),
    "rms": lambda x, c: ndl.rms_normalize(x, c.axis(x.ndim), 0.1),
    "cumsum": lambda x, c: ndl.cumsum(x, c.axis(x.ndim)) * 0.1,
    "matmul": product,
    "conv": convolution,
    "pool": pooled,
    "scan": scanned,
    "attention": attended,
    "cross_entropy": picked,
    "embedding": looked_up,
    "join": joined,
}
NEEDS_AXES = {"sum", "mean", "var", "max", "min", "prod", "logsumexp", "softmax", "logsoftmax", "normalize", "rms"}
NEEDS_AXES |= {"cumsum", "matmul", "scan", "attention", "cross_entropy", "embedding", "join"}

# --------------------------------------------------------------- operators that only move: exact where their input is


def reshaped(x: Tensor, c: Chooser) -> Tensor:
    first = c.divisor(x.size)
    second = c.divisor(x.size // first)
    return ndl.reshape(x, (first, second, x.size // first // second))


def repeated(x: Tensor, c: Chooser) -> Tensor:
    count = 1 + c.below(4)
    return ndl.broadcast_to(x, (count, *x.shape)) if count * x.size <= LARGEST and x.ndim < 4 else x


def gathered(x: Tensor, c: Chooser) -> Tensor:
    """Index with arrays along one axis or two."""
    if not x.size:
        return x
    first = c.rng.integers(-x.shape[0], x.shape[0], 5)
    if x.ndim > 1 and c.below(2):
        return x[first, c.rng.integers(0, x.shape[1], 5)]
    return x[first]


MOVING: dict[str, Callable[[Tensor, Chooser], Tensor]] = {
    "reshape": reshaped,
    "repeat": repeated,
    "expand": lambda x, c: ndl.expand_dims(x, 0) if x.ndim < 4 else x,
    "permute": lambda x, c: ndl.permute(x, tuple(int(one) for one in c.rng.permutation(x.ndim))) if x.ndim else x,
    "flip": lambda x, c: ndl.flip(x, c.axes(x.ndim)) if x.ndim else x,
    "slice": lambda x, c: x[c.slices(x.shape)],
    "pad": lambda x, c: ndl.pad(x, tuple((c.below(3), 1) for _ in x.shape), value=c.below(2)),
    "gather": lambda x, c: gathered(x, c) if x.ndim else x,
    "dilate": lambda x, c: ndl.dilate(x, (0,), 1) if x.ndim and x.size < LARGEST // 2 else x,
    "triangle": lambda x, c: (ndl.tril if c.below(2) else ndl.triu)(x, c.below(3) - 1) if x.ndim > 1 else x,
    "split": lambda x, c: ndl.split(x, c.axis(x.ndim)).tuple()[-1] if x.ndim else x,
}


def stacked(x: Held, c: Chooser) -> Held:
    other = c.like(x)
    stack = ndl.stack if c.below(2) or not x.tensor.ndim else ndl.concatenate
    return Held(stack([x.tensor, other.tensor, x.tensor], 0), x.exact and other.exact)


# ---------------------------------------------------------------- operators that jump: of exact values only, exact too


def cast(x: Held, c: Chooser) -> Held:
    """Cast to any dtype; of floating-point numbers, to integers only what these can hold."""
    dtype = c.one_of(DTYPES)
    tensor = x.tensor
    if is_float(tensor.dtype) and dtype not in FLOATS:
        if not x.exact:
            return x
        tensor = ndl.clip(tensor, 0 if dtype == "uint8" else -90, 100)
    return Held(ndl.astype(tensor, dtype), x.exact)


def compared(x: Held, c: Chooser) -> Held:
    if not x.exact:
        return x
    other = c.partner(x, lambda one: one.exact)
    compare = c.one_of([ndl.less, ndl.less_equal, ndl.greater, ndl.greater_equal, ndl.equal, ndl.not_equal])
    return Held(compare(x.tensor, other.tensor if c.below(3) else 1), exact=True)


def chosen(x: Held, c: Chooser) -> Held:
    """Choose by a condition that is exact."""
    other = c.partner(x)
    condition = c.partner(x, lambda one: one.exact and one.tensor.dtype.kind == "b")
    if condition.tensor.dtype.kind != "b":
        return x
    return Held(ndl.where(condition.tensor, x.tensor, other.tensor), x.exact and other.exact)


def integer(x: Held, c: Chooser) -> Held:
    """Compute with integers and booleans."""
    if is_float(x.tensor.dtype):
        return x
    other = c.partner(x, lambda one: one.exact and not is_float(one.tensor.dtype)).tensor
    a = x.tensor
    operators: list[Callable[[], Tensor]] = [
        lambda: a + other,
        lambda: a * other,
        lambda: a + 3,
        lambda: a * 2,
        lambda: ndl.maximum(a, other),
        lambda: ndl.minimum(a, other),
    ]
    if a.dtype.kind != "b":
        operators += [lambda: ndl.abs(a), lambda: ndl.sign(a), lambda: ndl.clip(a, 1, 3), lambda: -a]
        operators += [lambda: a**2, lambda: ndl.relu(a)]
        if other.dtype.kind != "b":
            operators.append(lambda: a - other)
    if a.ndim:
        axes = c.axes(a.ndim)
        operators += [
            lambda: ndl.summation(a, axes),
            lambda: ndl.max(a, axes),
            lambda: ndl.min(a, axes, keepdims=True),
            lambda: ndl.prod(a, axes[0]),
            lambda: ndl.cumsum(a, axes[0]),
            lambda: ndl.one_hot(ndl.clip(a, 0, 4), 5),
        ]
    return Held(c.one_of(operators)(), exact=True)


def located(x: Held, c: Chooser) -> Held:
    if not x.exact or not x.tensor.ndim:
        return x
    axis = c.one_of([None, c.axis(x.tensor.ndim)])
    return Held(c.one_of([ndl.argmax, ndl.argmin])(x.tensor, axis, keepdims=bool(c.below(2))), exact=True)


def rounded(x: Held, c: Chooser) -> Held:
    operator = c.one_of([ndl.floor, ndl.ceil, ndl.round, ndl.sign, ndl.abs, ndl.isnan, ndl.isfinite, ndl.relu])
    return Held(operator(x.tensor), exact=True) if x.exact and x.tensor.dtype.kind != "b" else x


def indexed(x: Held, c: Chooser) -> Held:
    """Index with a Tensor that was computed."""
    fitting = [o.tensor for o in c.values if o.exact and o.tensor.dtype.kind in "iu" and o.tensor.ndim == 1]
    if not fitting or not x.tensor.ndim or not x.tensor.size:
        return x
    last = x.tensor.shape[0] - 1
    return Held(x.tensor[ndl.astype(ndl.clip(c.one_of(fitting), 0, min(last, 100)), "int64")], x.exact)


OTHERS: dict[str, Callable[[Held, Chooser], Held]] = {
    "stack": stacked,
    "cast": cast,
    "compare": compared,
    "choose": chosen,
    "integer": integer,
    "integers": integer,
    "argmax": located,
    "round": rounded,
    "index": indexed,
}
NAMES = sorted({**ROUNDING, **MOVING, **OTHERS})

# ------------------------------------------------------------------------------------------------------ programs


def apply(step: Step, values: Sequence[Held]) -> Held | None:
    """Return what a step makes of one of the last values; None where it does not go with it."""
    c = Chooser(values, step.seed)
    x = values[-1 - step.seed % min(3, len(values))]
    tensor = x.tensor
    if tensor.size > LARGEST:
        return None
    try:
        if step.name in ROUNDING:
            fits = tensor.ndim or step.name not in NEEDS_AXES
            return Held(ROUNDING[step.name](smooth(tensor), c), exact=False) if fits and tensor.size else None
        if step.name in MOVING:
            return Held(MOVING[step.name](tensor, c), x.exact)
        return OTHERS[step.name](x, c)
    except NeedleError:  # dtypes or shapes that do not go together
        return None


def run(leaves: Sequence[Tensor], steps: Sequence[Step]) -> tuple[list[Held], Tensor]:
    """Apply the steps; return all values that they made, and a float32 loss of those that are floating."""
    values = [Held(leaf, exact=True) for leaf in leaves]
    for step in steps:
        made = apply(step, values)
        if made is not None and all(made.tensor is not one.tensor for one in values):
            values.append(made)
    made_here = values[len(leaves) :] or values
    floating = [one.tensor for one in made_here if is_float(one.tensor.dtype)] or [smooth(values[-1].tensor)]
    floating += [leaf * 0.1 for leaf in leaves if leaf.requires_grad]
    losses = [ndl.summation(ndl.tanh(one * 0.3)) * (1 / max(one.size, 1)) for one in floating]
    return values[len(leaves) :], sum(ndl.astype(one, "float32") for one in losses)


@dataclass(frozen=True)
class Program:
    """What a test runs: the leaves' values, the steps, and how they are run."""

    arrays: tuple[np.ndarray, ...]
    steps: tuple[Step, ...]
    way: str  # infer, gradient, optimizer or autocast
    seed: int

    def __str__(self) -> str:
        leaves = ", ".join(f"{one.dtype}{list(one.shape)}" for one in self.arrays)
        return f"{self.way} of {leaves}, seed {self.seed}: {', '.join(f'{one.name} {one.seed}' for one in self.steps)}"

    @property
    def tolerance(self) -> float:
        """How far results may be off, whatever their dtype: integers are computed with as float32."""
        least = [TOLERANCE[one.dtype] if is_float(one.dtype) else 2e-4 for one in self.arrays]
        return max(*least, 0.1 if self.way == "autocast" else 0.0)


LENGTHS = (1, 2, 3, 5, 8, 9, 16, 17)
OPTIMIZERS: tuple[Callable[[Any], optim.Optimizer], ...] = (
    lambda params: optim.SGD(params, lr=0.1, momentum=0.9, nesterov=True),
    lambda params: optim.Adam(params, lr=0.01, weight_decay=0.01),
    lambda params: optim.AdamW(params, lr=0.01),
    lambda params: optim.RMSprop(params, lr=0.01),
    lambda params: optim.Adagrad(params, lr=0.1),
)


def draw_program(seed: int, lengths: Sequence[int] = LENGTHS) -> Program:
    """Draw the program with this number."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 4))
    main = str(rng.choice(DTYPES))
    shapes = [[int(rng.choice(lengths)) for _ in range(rng.integers(4))] for _ in range(count)]
    dtypes = [main if rng.integers(2) else str(rng.choice(DTYPES)) for _ in range(count)]
    arrays = tuple(draw(rng, shape, dtype) for shape, dtype in zip(shapes, dtypes, strict=True))
    steps = tuple(Step(str(rng.choice(NAMES)), int(rng.integers(10**6))) for _ in range(rng.integers(1, 14)))
    way = str(rng.choice(["gradient", "gradient", "infer", "optimizer", "autocast"]))
    return Program(arrays, steps, way, int(rng.integers(10**6)))


class Found(NamedTuple):
    """A result of a program, and whether it must have the very bits."""

    array: np.ndarray
    exact: bool


def execute(program: Program, wrap: Callable[[Any], Any], nudged: bool = False) -> list[Found]:
    """Run a program some times, and return all results, gradients, leaves, and the next number that is drawn.

    Where `nudged`, floating-point leaves are changed by as much as rounding does.
    """
    rng = np.random.default_rng(1)
    arrays = [_nudge(one, rng) if nudged else one.copy() for one in program.arrays]
    leaves = [Tensor(one, requires_grad=is_float(one.dtype)) for one in arrays]
    trained = [one for one in leaves if one.requires_grad]
    np.random.seed(program.seed % 1000)
    ndl.seed(program.seed if program.seed % 3 == 0 else None)
    steps = program.way == "optimizer" and bool(trained)
    optimizer = OPTIMIZERS[program.seed % len(OPTIMIZERS)](trained) if steps else None

    def step(*leaves: Tensor) -> tuple[list[Tensor], list[bool]]:
        with ndl.autocast(("bfloat16", "float16")[program.seed % 2], enabled=program.way == "autocast"):
            values, loss = run(leaves, program.steps)
        if program.way != "infer" and loss.requires_grad:
            for one in trained:
                one.grad = None
            loss.backward()
            if optimizer is not None:
                optimizer.step()
        return [*(one.tensor for one in values), loss], [one.exact for one in values]

    wrapped = wrap(step)
    found: list[Found] = []
    for call in range(3 if optimizer else 1 + (program.seed % 4 == 0)):
        results, exact = wrapped(*leaves)
        kept = [one and not (call and optimizer) for one in exact]  # after a step, leaves are rounded
        found += [Found(one.numpy(), is_exact) for one, is_exact in zip(results, [*kept, False], strict=True)]
        found += [Found(one.grad.numpy(), exact=False) for one in trained if one.grad is not None]
    found += [Found(one.numpy(), optimizer is None) for one in leaves]
    found.append(Found(ndl.init.rand(2).numpy(), exact=True))
    ndl.seed(None)
    return found


def _nudge(array: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    if not is_float(array.dtype):
        return array.copy()
    step = 4 * float(np.finfo(array.dtype).eps) if array.dtype.kind == "f" else 1 / 64
    return np.asarray(array * (1 + step * rng.choice([-1, 1], array.shape))).astype(array.dtype)


def difference(program: Program) -> str | None:
    """Say where a program's compiled results differ from the eager ones, None where they do not."""
    with np.errstate(all="ignore"):
        expected = execute(program, lambda step: step)
        found = execute(program, ndl.jit)
        if _first_different(program, found, expected, expected) is None:
            return None
        return _first_different(program, found, expected, execute(program, lambda step: step, nudged=True))


def _first_different(
    program: Program, found: Sequence[Found], expected: Sequence[Found], nudged: Sequence[Found]
) -> str | None:
    tolerance = program.tolerance
    for number, ((one, _), (other, exact), (moved, _)) in enumerate(zip(found, expected, nudged, strict=True)):
        if is_float(other.dtype):
            tolerance = max(tolerance, TOLERANCE[other.dtype])
        if not _agree(one, other, exact, moved, tolerance):
            return f"result {number}: {one.dtype} {one.ravel()[:5]}, eagerly {other.dtype} {other.ravel()[:5]}"
    return None


def _agree(one: np.ndarray, other: np.ndarray, exact: bool, moved: np.ndarray, tolerance: float) -> bool:
    if (one.shape, one.dtype) != (other.shape, other.dtype):
        return False
    if not is_float(one.dtype):
        return np.array_equal(one, other)
    a, b, c = (array.astype(np.float64) for array in (one, other, moved))
    if exact:
        return np.array_equal(a, b, equal_nan=True) and np.array_equal(np.signbit(a), np.signbit(b))
    scale = max(1.0, np.max(np.abs(b), initial=0, where=np.isfinite(b)))
    sway = np.max(np.abs(c - b), initial=0, where=np.isfinite(c - b)) if c.shape == b.shape else 0.0
    return np.allclose(a, b, rtol=tolerance, atol=tolerance * scale + 20 * sway, equal_nan=True)
