"""Draws that a compiled program makes itself are the plain function's, from the same generator, in the same order."""

import threading

import numpy as np
import pytest

import needle as ndl
from needle.compiler.thread_count import set_num_threads
from needle.jit.program import CompiledCall


def uniform(x):
    parts = [ndl.init.rand(*shape) for shape in ((3,), (0, 2), (), (311,), (40, 31), (2, 1))]
    return [part * x for part in parts if part.shape]


def uniform_and_normal(x):
    return ndl.init.rand(5) * x, ndl.init.randn(3) * x, ndl.init.rand(7, 2) * x


def product_beside_draws(x):
    a = ndl.init.rand(90, 90)
    for _ in range(3):
        a = a @ a * 0.02 + ndl.init.rand(90, 90)
    return [a * x]


def draws_inside(function, x):
    return function.lower(x).program.draws_inside


def found(function, x, calls=3):
    """Return what calls give, and where that leaves the generator."""
    results = [one.numpy().copy() for _ in range(calls) for one in function(x)]
    return [*results, np.random.rand(3)]


@pytest.fixture
def x():
    return ndl.Tensor(np.float32(2), requires_grad=False)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("function", "inside"), [(uniform, True), (uniform_and_normal, False), (product_beside_draws, True)]
)
@pytest.mark.parametrize("before", [0, 1])
def test_draws_are_those_of_the_plain_function(x, function, inside, threads, before):
    compiled = ndl.jit(function)
    assert draws_inside(compiled, x) == inside
    both = []
    set_num_threads(threads)
    try:
        for one in (function, compiled):
            np.random.seed(4)
            np.random.randint(0, 2**32, size=before, dtype=np.uint32)
            both.append(found(one, x))
    finally:
        set_num_threads(None)
    for one, other in zip(*both, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)
    np.testing.assert_array_equal(both[0][-1], both[1][-1])


@pytest.mark.filterwarnings("ignore:get_state and legacy")  # NumPy's, of generators other than the Mersenne Twister
def test_a_program_draws_from_whichever_generator_there_is_at_the_call(x):
    compiled = ndl.jit(uniform)
    compiled(x)
    mersenne = np.random.get_bit_generator()

    def begin_philox():
        np.random.seed(6)
        ndl.seed(3)

    def begin_other():
        np.random.set_bit_generator(np.random.PCG64(5))

    def begin_mersenne():
        np.random.seed(6)

    try:
        for begin in (begin_philox, begin_other, begin_mersenne):
            both = []
            for one in (uniform, compiled):
                begin()
                both.append(found(one, x))
            ndl.seed(None)
            np.random.set_bit_generator(mersenne)
            for mine, theirs in zip(*both, strict=True):
                np.testing.assert_array_equal(mine, theirs)
    finally:
        ndl.seed(None)
        np.random.set_bit_generator(mersenne)


def test_a_call_that_fails_after_it_has_drawn_takes_the_draws_back(x, monkeypatch):
    compiled = ndl.jit(uniform)

    def refuse(_):
        raise ValueError("refused")

    np.random.seed(8)
    expected = found(compiled, x)
    program = compiled.lower(x).program
    monkeypatch.setattr(program, "late", [(0, refuse)])
    np.random.seed(8)
    with pytest.raises(ValueError, match="refused"):
        compiled(x)
    monkeypatch.undo()
    for one, other in zip(found(compiled, x), expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_nobody_who_draws_in_another_thread_waits_for_a_program(x, monkeypatch):
    compiled = ndl.jit(uniform)
    np.random.seed(7)
    expected = found(uniform, x)
    compiled(x)
    drawn_inside, run, over = [], CompiledCall._run, threading.Event()
    monkeypatch.setattr(CompiledCall, "_run", lambda self, stream: drawn_inside.append(stream) or run(self, stream))
    other = threading.Thread(target=over.wait)
    other.start()
    try:
        np.random.seed(7)
        results = found(compiled, x)
    finally:
        over.set()
        other.join()
    assert drawn_inside == [None] * 3
    for one, two in zip(results, expected, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5)


def test_looking_at_a_program_draws_nothing(x):
    compiled = ndl.jit(uniform)
    np.random.seed(9)
    expected = np.random.rand(2)
    np.random.seed(9)
    compiled.lower(x).profile(2)
    np.testing.assert_array_equal(np.random.rand(2), expected)
