"""Random programs of operators over all dtypes compute the same compiled and eagerly: `random_programs` says how."""

import numpy as np
import pytest
from random_programs import NAMES, Held, Step, apply, difference, draw_program

import needle as ndl

COUNT = 56


@pytest.mark.parametrize("seed", range(COUNT))
def test_random_programs_agree(seed):
    program = draw_program(seed)
    found = difference(program)
    assert found is None, f"{found} of {program}"


@pytest.mark.parametrize("seed", range(6))
def test_random_programs_of_no_elements_agree(seed):
    program = draw_program(1000 + seed, lengths=(0, 1, 2, 3))
    found = difference(program)
    assert found is None, f"{found} of {program}"


@pytest.mark.parametrize("name", NAMES)
def test_each_operator_of_random_programs_runs(name):
    rng = np.random.default_rng(0)
    leaves = [Held(ndl.Tensor(rng.integers(0, 5, shape)), exact=True) for shape in ((3, 4), (4, 3), (3,))]
    leaves += [Held(one.tensor.astype(dtype), exact=True) for dtype in ("float32", "bool") for one in leaves[:2]]
    made = [apply(Step(name, seed), leaves) for seed in range(8)]
    assert any(one is not None and all(one is not leaf for leaf in leaves) for one in made)
