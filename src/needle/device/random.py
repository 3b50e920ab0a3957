"""Every random number that Needle draws on the host comes from here.

Until `seed` is called, draws come from NumPy's global generator, so that `np.random.seed` repeats a run. After
`seed(n)` they come from a counter-based generator of Needle's own (Philox 4×64-10), whose stream does not depend
on the device or on the number of threads. Nothing else in Needle may draw.

Reference: J. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from needle import tracing

if TYPE_CHECKING:
    from needle.compiler.mersenne import Stream

__all__ = [
    "DrawTape",
    "get_state",
    "is_uniform",
    "permutation",
    "rand",
    "randint",
    "randn",
    "raw_state",
    "seed",
    "set_raw_state",
    "set_state",
    "uniform_stream",
]

_philox: np.random.Generator | None = None
_local = threading.local()


def seed(n: int | None) -> None:
    """Draw from Needle's own counter-based generator from now on, started at `n`.

    Args:
        n: the seed, 0 or more. None goes back to NumPy's global generator.

    Example:
        >>> import needle as ndl
        >>> ndl.seed(0); a = ndl.init.rand(3); ndl.seed(0); b = ndl.init.rand(3)
        >>> bool((a.numpy() == b.numpy()).all())
        True
        >>> ndl.seed(None)
    """
    global _philox  # noqa: PLW0603  the one generator of the process
    _philox = None if n is None else np.random.Generator(np.random.Philox(n))


def rand(*shape: int) -> NDArray[np.float64]:
    """Draw `shape` float64 numbers from U[0, 1)."""
    return _draw(shape, np.float64, lambda: _rand(*shape), _fill_uniform)


def _draw(
    shape: Sequence[int], dtype: Any, make: Callable[[], Any], fill: Callable[[NDArray[Any]], None] | None = None
) -> NDArray[Any]:
    """Draw now, or where a function is traced, in each of its calls; `fill` does so into an array that is there."""
    tape: DrawTape | None = getattr(_local, "tape", None)
    if tape is not None:
        return tape.draw(shape, dtype, make, fill)
    return _draw_new(shape, dtype, make, fill)


def _draw_new(
    shape: Sequence[int], dtype: Any, make: Callable[[], Any], fill: Callable[[NDArray[Any]], None] | None
) -> NDArray[Any]:
    recorder = tracing.recorder()
    drawn: NDArray[Any] = np.asarray(make()) if recorder is None else recorder.draw(shape, dtype, make, fill)
    return drawn


class DrawTape:
    """What is drawn inside a block, to be drawn a second time, bit for bit.

    Numbers that the host draws are drawn again from the generators' state at the beginning of the block. What stands
    for them where a function is traced is kept, and serves again.
    """

    def __init__(self) -> None:
        self._state = raw_state()
        self._traced: list[Any] = []
        self._left: Iterator[Any] | None = None  # while repeating: what is to be given again
        self._around: DrawTape | None = None

    @contextmanager
    def noting(self) -> Iterator[None]:
        """Note what is drawn inside the block."""
        with self._current():
            yield

    @contextmanager
    def repeating(self) -> Iterator[None]:
        """Draw the same inside the block, and leave the generators as they are."""
        before, left = raw_state(), self._left
        self._left = iter(self._traced)
        set_raw_state(self._state)
        try:
            with self._current():
                yield
        finally:
            set_raw_state(before)
            self._left = left

    @contextmanager
    def _current(self) -> Iterator[None]:
        around, self._around = self._around, getattr(_local, "tape", None)
        _local.tape = self
        try:
            yield
        finally:
            _local.tape, self._around = self._around, around

    def draw(
        self, shape: Sequence[int], dtype: Any, make: Callable[[], Any], fill: Callable[[NDArray[Any]], None] | None
    ) -> Any:
        """Draw, or give again what was drawn at this point of the block."""
        if self._left is not None:
            again = next(self._left, None)
            return _draw_new(shape, dtype, make, fill) if again is None else again
        around = self._around
        drawn = _draw_new(shape, dtype, make, fill) if around is None else around.draw(shape, dtype, make, fill)
        if type(drawn) is not np.ndarray:
            self._traced.append(drawn)
        return drawn


def raw_state() -> tuple[Any, Any, Any]:
    """Return the state of both generators, as they themselves have it: quicker than `get_state`."""
    return np.random.get_state(), _philox, None if _philox is None else _philox.bit_generator.state


def set_raw_state(states: tuple[Any, Any, Any]) -> None:
    """Go back to a state that `raw_state` returned."""
    global _philox
    numpy_state, _philox, philox_state = states
    np.random.set_state(numpy_state)
    if _philox is not None:
        _philox.bit_generator.state = philox_state


def uniform_stream() -> Stream | None:
    """Return the generator that `rand` draws from as compiled code uses it; None where it cannot."""
    from needle.compiler.mersenne import Stream  # noqa: PLC0415  compiled: only for who compiles anyway

    generator = np.random.get_bit_generator()  # type: ignore[attr-defined]
    return Stream(generator) if _philox is None and isinstance(generator, np.random.MT19937) else None


def is_uniform(fill: Callable[[NDArray[Any]], None] | None) -> bool:
    """Tell whether what fills an array draws what `rand` does."""
    return fill is _fill_uniform


def _fill_uniform(out: NDArray[np.float64]) -> None:
    """Draw what `rand` draws into an array without gaps."""
    from needle.compiler.mersenne import fill_uniform  # noqa: PLC0415  compiled: only for who compiles anyway

    generator = np.random.get_bit_generator()  # type: ignore[attr-defined]
    if _philox is not None:
        _philox.random(out=out)
    elif isinstance(generator, np.random.MT19937):
        fill_uniform(generator, out)
    else:  # put there by np.random.set_bit_generator
        out[...] = np.random.rand(*out.shape)


def _rand(*shape: int) -> Any:
    return np.random.rand(*shape) if _philox is None else _philox.random(shape)


def randn(*shape: int) -> NDArray[np.float64]:
    """Draw `shape` float64 numbers from N(0, 1).

    After `seed(n)` each number is made from two uniform ones by the Box-Muller transform, so that every device can
    make any one of them without making those before it: z = √(−2 ln(1 − u₁)) · cos(2π u₂), all u₁ drawn first.
    """
    return _draw(shape, np.float64, lambda: _randn(*shape))


def _randn(*shape: int) -> Any:
    if _philox is None:
        return np.random.randn(*shape)
    radius = np.sqrt(-2.0 * np.log1p(-_philox.random(shape)))
    return radius * np.cos(2.0 * np.pi * _philox.random(shape))


def randint(low: int, high: int, size: int | tuple[int, ...]) -> NDArray[np.int64]:
    """Draw integers from low to high − 1, each as likely."""
    shape = (size,) if isinstance(size, int) else tuple(size)
    return _draw(shape, np.int64, lambda: _randint(low, high, size))


def _randint(low: int, high: int, size: int | tuple[int, ...]) -> Any:
    if _philox is None:
        return np.random.randint(low=low, high=high, size=size)
    return _philox.integers(low, high, size=size)


def permutation(n: int) -> NDArray[np.int64]:
    """Draw an order of 0 … n − 1, each as likely."""
    return _draw((n,), np.int64, lambda: np.random.permutation(n) if _philox is None else _philox.permutation(n))


def get_state() -> dict[str, Any]:
    """Return the state of both generators as plain numbers and strings that JSON can hold."""
    name, key, position, has_gauss, cached = np.random.get_state()
    numpy_state = [str(name), np.asarray(key).tolist(), int(position), int(has_gauss), float(cached)]
    return {"numpy": numpy_state, "philox": None if _philox is None else _philox_state(_philox)}


def set_state(state: dict[str, Any]) -> None:
    """Go back to a state that `get_state` returned."""
    global _philox  # noqa: PLW0603  the one generator of the process
    name, key, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, np.asarray(key, dtype=np.uint32), position, has_gauss, cached))
    if state["philox"] is None:
        _philox = None
        return
    _philox = np.random.Generator(np.random.Philox(0))
    saved = state["philox"]
    counters = {name: np.asarray(saved[name], dtype=np.uint64) for name in ("counter", "key", "buffer")}
    _philox.bit_generator.state = {
        "bit_generator": "Philox",
        "state": {"counter": counters["counter"], "key": counters["key"]},
        "buffer": counters["buffer"],
        "buffer_pos": saved["buffer_pos"],
        "has_uint32": saved["has_uint32"],
        "uinteger": saved["uinteger"],
    }


def _philox_state(generator: np.random.Generator) -> dict[str, Any]:
    state = generator.bit_generator.state
    return {
        "counter": [int(word) for word in state["state"]["counter"]],
        "key": [int(word) for word in state["state"]["key"]],
        "buffer": [int(word) for word in state["buffer"]],
        "buffer_pos": int(state["buffer_pos"]),
        "has_uint32": int(state["has_uint32"]),
        "uinteger": int(state["uinteger"]),
    }
