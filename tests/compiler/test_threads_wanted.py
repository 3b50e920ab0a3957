"""Small programs are done by one thread."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("llvmlite")

from .compiled import compile_function


def normalized_exponential(x: Any) -> Any:
    return np.exp(x) / np.sqrt(1 + x * x)


@pytest.mark.parametrize(("rows", "parallel"), [(64, False), (4096, True)])
def test_a_second_thread_is_woken_for_much_work_only(rows: int, parallel: bool) -> None:
    run = compile_function(normalized_exponential, np.zeros((rows, 64), "float32"))
    assert run.module.parallel is parallel


def test_products_are_always_shared() -> None:
    x = np.zeros((256, 256), "float32")
    assert compile_function(lambda x: x @ x, x).module.parallel
