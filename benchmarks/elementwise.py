"""Softmax, normalisations, GELU, cross-entropy and Adam's update: beside memory's limit and the peers.

    python benchmarks/elementwise.py
    python benchmarks/elementwise.py --only softmax adam --sizes 4096 --without torch.compile --output FOLDER

float32; arrays that fit into the first cache (4096 numbers), into the second (131072), and into none (16 M). What
limits a row is the larger of two times, both measured in the same run:

    moving      as many bytes as must be read and written, by a compiled call that only changes signs, or by NumPy's
                copy on one thread or two and a compiled call that does nothing; whichever is faster. A batch
                normalisation of more than the caches hold has to read its input again, once the mean is known: that
                is counted.
    arithmetic  the additions and multiplications that the formulas take for each number, a multiply-add being one, at
                twice the rate of independent multiply-adds of one thread, and a compiled call that does nothing. What
                else vectors need (comparisons, choices, shifts) counts as nothing.

"bound by" says which of them it is, or "call", where more than half of the limit is the call that does nothing.

"forward" gives the result, "gradients" the result and the gradients of all inputs and parameters. PyTorch runs eagerly
and with torch.compile, on one thread and on two, JAX with jax.jit; the best of them is the peer. All results are
compared with each other first.
"""

from __future__ import annotations

import argparse
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import needle as ndl
from comparison import Call, median_seconds, print_table
from needle.compiler.limits import multiply_add_limit
from needle.compiler.thread_count import available_processors

SIZES = (4096, 131072, 2**24)
CACHES = 2**22  # bytes: what is larger is read from memory
COLUMNS = (
    *("operation", "computed", "numbers", "Needle, µs", "limit, µs", "bound by", "÷ limit"),
    *("best peer", "µs", "÷ best peer"),
)
# Additions and multiplications of functions that are right to 1 or 2 units in the last place: an argument reduced in
# two steps, a polynomial of degree 6, and the scale; two polynomials of degree 6 in one, and a power.
EXP, ERF = 11, 12
Arrays = list[np.ndarray]


@dataclass(frozen=True)
class Case:
    """One operation: the shapes of its inputs by their number, and the operation in each framework.

    Attributes:
        inputs: makes the inputs; gradients are with respect to those of floating point.
        needle, torch, jax: the operation; those of peers also take the peer's module.
        moved: how many arrays of the size are read or written, forward and with gradients.
        moved_far: the same where the caches hold none of them.
        operations: additions and multiplications for each number, forward and with gradients.
    """

    inputs: Callable[[np.random.Generator, int], Arrays]
    needle: Callable[..., Any]
    torch: Callable[..., Any]
    jax: Callable[..., Any]
    moved: tuple[int, int]
    moved_far: tuple[int, int]
    operations: tuple[int, int]


def rows_of(rng: np.random.Generator, size: int) -> Arrays:
    width = 64 if size <= 4096 else 1024
    return [rng.standard_normal((size // width, width), dtype=np.float32)]


def rows_and_affine(rng: np.random.Generator, size: int) -> Arrays:
    (x,) = rows_of(rng, size)
    return [x, *(rng.standard_normal(x.shape[1], dtype=np.float32) for _ in range(2))]


def logits_and_labels(rng: np.random.Generator, size: int) -> Arrays:
    (logits,) = rows_of(rng, size)
    return [logits, rng.integers(0, logits.shape[1], len(logits))]


def needle_affine(axis: int) -> Callable[..., Any]:
    return lambda x, weight, bias: ndl.normalize(x, (axis,)) * weight + bias


def jax_affine(axis: int) -> Callable[..., Any]:
    def normalize(jax: Any, x: Any, weight: Any, bias: Any) -> Any:
        mean, var = x.mean(axis, keepdims=True), x.var(axis, keepdims=True)
        return (x - mean) * jax.lax.rsqrt(var + 1e-5) * weight + bias

    return normalize


def jax_cross_entropy(jax: Any, logits: Any, labels: Any) -> Any:
    picked = jax.numpy.take_along_axis(logits, labels[:, None], 1)[:, 0]
    return (jax.nn.logsumexp(logits, axis=1) - picked).mean()


def torch_batch_norm(torch: Any, x: Any, weight: Any, bias: Any) -> Any:
    return torch.nn.functional.batch_norm(x, None, None, weight, bias, training=True)


CASES = {
    "softmax": Case(
        rows_of,
        ndl.softmax,
        lambda torch, x: torch.softmax(x, 1),
        lambda jax, x: jax.nn.softmax(x),
        (2, 4),
        (2, 4),
        (EXP + 3, EXP + 6),
    ),
    "layer norm": Case(
        rows_and_affine,
        needle_affine(1),
        lambda torch, x, w, b: torch.nn.functional.layer_norm(x, w.shape, w, b),
        jax_affine(1),
        (2, 4),
        (2, 4),
        (6, 15),
    ),
    "batch norm": Case(rows_and_affine, needle_affine(0), torch_batch_norm, jax_affine(0), (2, 4), (3, 7), (6, 15)),
    "GELU": Case(
        rows_of,
        ndl.gelu,
        lambda torch, x: torch.nn.functional.gelu(x),
        lambda jax, x: jax.nn.gelu(x, approximate=False),
        (2, 4),
        (2, 4),
        (ERF + 3, ERF + EXP + 11),
    ),
    "cross-entropy": Case(
        logits_and_labels,
        ndl.cross_entropy,
        lambda torch, x, y: torch.nn.functional.cross_entropy(x, y),
        jax_cross_entropy,
        (1, 2),
        (1, 2),
        (EXP + 2, EXP + 4),
    ),
}
ADAM_MOVED = 7  # the weight and both moments read and written, the gradient read
ADAM_OPERATIONS = 9


# ------------------------------------------------------------------------------------------------ contestants


def needle_calls(case: Case, inputs: Arrays, adjoint: np.ndarray) -> tuple[Call, Call]:
    """Return the forward call and the call with gradients."""
    tensors = [ndl.Tensor(one, requires_grad=False) for one in inputs]
    weights = ndl.Tensor(adjoint, requires_grad=False)
    wanted = [number for number, one in enumerate(inputs) if one.dtype == np.float32]

    def weighted(*args: Any) -> Any:
        y = case.needle(*args[1:])
        return (y * args[0]).sum(), y

    forward = ndl.jit(case.needle)
    gradients = ndl.jit(ndl.value_and_grad(weighted, [number + 1 for number in wanted], has_aux=True))

    def both() -> Arrays:
        (_, y), found = gradients(weights, *tensors)
        return [y, *found]

    return lambda: [forward(*tensors)], both


def torch_calls(case: Case, inputs: Arrays, adjoint: np.ndarray, compiled: bool, threads: int) -> tuple[Call, Call]:
    import torch

    tensors = [torch.tensor(one) for one in inputs]
    trained = [torch.tensor(one, requires_grad=one.dtype == np.float32) for one in inputs]
    wanted = [one for one in trained if one.requires_grad]
    weights = torch.tensor(adjoint)

    def operation(*args: Any) -> Any:
        return case.torch(torch, *args)

    function = torch.compile(operation, dynamic=False) if compiled else operation

    def forward() -> list[Any]:
        torch.set_num_threads(threads)
        with torch.no_grad():
            return [function(*tensors)]

    def both() -> list[Any]:
        torch.set_num_threads(threads)
        y = function(*trained)
        return [y.detach(), *torch.autograd.grad(y, wanted, weights)]

    return forward, both


def jax_calls(case: Case, inputs: Arrays, adjoint: np.ndarray) -> tuple[Call, Call]:
    import jax

    arrays, weights = [jax.numpy.asarray(one) for one in inputs], jax.numpy.asarray(adjoint)
    trained = [number for number, one in enumerate(inputs) if one.dtype == np.float32]

    def operation(*args: Any) -> Any:
        return case.jax(jax, *args)

    @jax.jit
    def gradients(weights: Any, *args: Any) -> Any:
        def of_trained(*values: Any) -> Any:
            given = list(args)
            for number, value in zip(trained, values, strict=True):
                given[number] = value
            return operation(*given)

        y, pull = jax.vjp(of_trained, *(args[number] for number in trained))
        return [y, *pull(weights)]

    forward = jax.jit(operation)
    return (
        lambda: [forward(*arrays).block_until_ready()],
        lambda: jax.block_until_ready(gradients(weights, *arrays)),
    )


def adam_inputs(size: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal(size, dtype=np.float32), rng.standard_normal(size, dtype=np.float32)


def needle_adam(size: int) -> Call:
    weight, gradient = (ndl.Tensor(one) for one in adam_inputs(size))
    optimizer = ndl.optim.Adam([weight], lr=0.001)
    weight.grad = gradient.detach()
    step = ndl.jit(optimizer.step)

    def run() -> Any:
        step()
        return [weight.detach()]

    return run


def torch_adam(size: int, compiled: bool, threads: int) -> Call:
    import torch

    weight, gradient = (torch.tensor(one) for one in adam_inputs(size))
    weight.requires_grad_()
    weight.grad = gradient
    optimizer = torch.optim.Adam([weight], lr=0.001, fused=not compiled)
    step = torch.compile(optimizer.step, dynamic=False) if compiled else optimizer.step

    def run() -> Any:
        torch.set_num_threads(threads)
        step()
        return [weight.detach()]

    return run


def jax_adam(size: int) -> Call:
    import jax
    from jax import numpy as jnp

    def step(weight: Any, m: Any, v: Any, t: Any, gradient: Any) -> Any:
        t = t + 1
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient * gradient
        root = jnp.sqrt(v / (1 - 0.999**t)) + 1e-8
        return weight - 0.001 / (1 - 0.9**t) * m / root, m, v, t

    compiled = jax.jit(step, donate_argnums=(0, 1, 2))
    first, gradient = map(jnp.asarray, adam_inputs(size))
    state = [(first, jnp.zeros(size), jnp.zeros(size), jnp.float32(0))]

    def run() -> Any:
        state[0] = jax.block_until_ready(compiled(*state[0], gradient))
        return [state[0][0]]

    return run


def peers(without: Sequence[str]) -> Iterator[tuple[str, str, tuple[Any, ...]]]:
    """Yield the name, the framework and the settings of each peer that is installed and wanted."""
    try:
        import torch

        torch.compiler.reset()  # what was compiled for other sizes counts against a limit
        for way in ("eager", "torch.compile"):
            if way not in without:
                yield from ((f"PyTorch {way}, {threads}", "torch", (way != "eager", threads)) for threads in (1, 2))
    except ImportError:
        print("PyTorch is not installed and left out")
    try:
        import jax  # noqa: F401

        if "jax" not in without:
            yield "jax.jit", "jax", ()
    except ImportError:
        print("JAX is not installed and left out")


def contestants_of(name: str, size: int, without: Sequence[str]) -> dict[str, dict[str, Call]]:
    """Return, by what is computed, the calls by contestant; Needle is the first."""
    if name == "adam":
        calls = {"Needle": needle_adam(size)}
        for peer, framework, settings in peers(without):
            calls[peer] = (torch_adam if framework == "torch" else jax_adam)(size, *settings)
        return {"update": calls}
    case, rng = CASES[name], np.random.default_rng(0)
    inputs = case.inputs(rng, size)
    adjoint = np.float32(1) if name == "cross-entropy" else rng.standard_normal(inputs[0].shape, dtype=np.float32)
    pairs = {"Needle": needle_calls(case, inputs, np.asarray(adjoint))}
    for peer, framework, settings in peers(without):
        make: Callable[..., tuple[Call, Call]] = torch_calls if framework == "torch" else jax_calls
        pairs[peer] = make(case, inputs, np.asarray(adjoint), *settings)
    return {
        computed: {peer: pair[number] for peer, pair in pairs.items()}
        for number, computed in enumerate(("forward", "gradients"))
    }


def check_agreement(name: str, calls: dict[str, Call]) -> None:
    """Raise where a contestant's first results differ from the first one's.

    Raises:
        AssertionError: they differ by more than rounding.
    """
    expected: Arrays | None = None
    for peer, call in calls.items():
        results: Any = call()
        arrays = [np.asarray(one.numpy() if hasattr(one, "numpy") else one) for one in results]
        if expected is None:
            expected = [one.copy() for one in arrays]
        for one, other in zip(expected, arrays, strict=True):
            # Of sums over many rows the last digits depend on their order.
            np.testing.assert_allclose(one, other, rtol=1e-3, atol=2e-3, err_msg=f"{name}: Needle and {peer}")


# ----------------------------------------------------------------------------------------------- measuring


def copying(size: int, threads: int) -> Call:
    """Return a call that reads and writes so many bytes in all."""
    count = max(size // 2 // 8, 8)
    source, target = np.ones(count), np.zeros(count)
    parts = [slice(number * count // threads, (number + 1) * count // threads) for number in range(threads)]

    def copy() -> None:
        others = [threading.Thread(target=np.copyto, args=(target[part], source[part])) for part in parts[1:]]
        for other in others:
            other.start()
        np.copyto(target[parts[0]], source[parts[0]])
        for other in others:
            other.join()

    return copy


def changing_signs(size: int) -> Call:
    """Return a call of a compiled function that reads and writes so many bytes in all."""
    x = ndl.Tensor(np.ones(max(size // 8, 1), np.float32), requires_grad=False)
    function = ndl.jit(lambda x: -x)
    return lambda: function(x)


@dataclass(frozen=True)
class Result:
    operation: str
    computed: str
    numbers: int
    microseconds: dict[str, float]
    moving_microseconds: float
    arithmetic_microseconds: float
    call_microseconds: float

    @property
    def limit(self) -> float:
        """The time, in microseconds, that it cannot take less than."""
        return max(self.moving_microseconds, self.arithmetic_microseconds)

    @property
    def bound_by(self) -> str:
        """What most of the limit is."""
        if 2 * self.call_microseconds > self.limit:
            return "call"
        return "moving" if self.moving_microseconds == self.limit else "arithmetic"


def operations_a_second() -> float:
    """Return of how many numbers two threads do an addition or a multiplication a second, with vectors of them."""
    return min(2, available_processors()) * multiply_add_limit(1) / 2  # a multiply-add is counted as two there


def measure(name: str, size: int, rounds: int, without: Sequence[str]) -> Iterator[Result]:
    for computed, calls in contestants_of(name, size, without).items():
        check_agreement(f"{name}, {computed}", calls)
        far = size * 4 > CACHES
        moved, operations = ADAM_MOVED, ADAM_OPERATIONS
        if name != "adam":
            case = CASES[name]
            moved = (case.moved_far if far else case.moved)[computed == "gradients"]
            operations = case.operations[computed == "gradients"]
        limits = {f"copy, {threads}": copying(moved * size * 4, threads) for threads in (1, 2)}
        limits |= {"signs": changing_signs(moved * size * 4), "nothing": changing_signs(0)}
        seconds = median_seconds({**calls, **limits}, rounds, seconds=0.1 if far else 0.02)
        one, two, signs, nothing = (seconds.pop(name) for name in limits)
        moving = min(signs, min(one, two) + nothing)
        arithmetic = operations * size / operations_a_second() + nothing
        found = {peer: one * 1e6 for peer, one in seconds.items()}
        yield Result(name, computed, size, found, moving * 1e6, arithmetic * 1e6, nothing * 1e6)


def row_of(result: Result) -> list[str]:
    own, limit = result.microseconds["Needle"], result.limit
    others = {peer: one for peer, one in result.microseconds.items() if peer != "Needle"}
    best = min(others, key=others.__getitem__, default=None)
    compared = ["-"] * 3 if best is None else [best, f"{others[best]:.1f}", f"{own / others[best]:.2f}"]
    numbers = (f"{own:.1f}", f"{limit:.1f}", result.bound_by, f"{own / limit:.2f}")
    return [result.operation, result.computed, str(result.numbers), *numbers, *compared]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [*CASES, "adam"]
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="OPERATION", help=", ".join(names))
    parser.add_argument("--sizes", nargs="+", type=int, default=SIZES, help="how many numbers, powers of two from 4096")
    parser.add_argument("--without", nargs="+", default=[], choices=["eager", "torch.compile", "jax"])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--output", type=Path, help="folder for the table as Markdown and JSON")
    options = parser.parse_args()
    results = [
        result
        for name in options.only
        for size in options.sizes
        for result in measure(name, size, options.rounds, options.without)
    ]
    records = [asdict(result) for result in results]
    print_table("elementwise", COLUMNS, [row_of(result) for result in results], records, options.output)


if __name__ == "__main__":
    main()
