"""Compiling in several processes at once: the same code as in one, and no harm where it does not work."""

from __future__ import annotations

import ctypes
import sys

import numpy as np
import pytest

pytest.importorskip("llvmlite")

from needle.compiler import object_code, program
from needle.compiler.host import host
from needle.compiler.native import MODULE_BREAK, compile_modules, load_modules
from needle.compiler.object_code import compile_side_by_side, compile_text

from .compiled import assert_compiles

TEXTS = [f"define i64 @f{n}(i64 %x) {{\n  %y = mul i64 %x, {n + 2}\n  ret i64 %y\n}}\n" for n in range(5)]


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    monkeypatch.setattr(object_code, "_WORTH_A_PROCESS", 1)
    return host().cpu, host().features


def test_every_process_makes_the_same_code(here: tuple[str, str]) -> None:
    assert compile_side_by_side(TEXTS, *here, processors=3) == [compile_text(text, *here) for text in TEXTS]


@pytest.mark.parametrize("command", ["/nowhere/python", "/bin/false"])
def test_without_other_processes_this_one_does_it_all(
    here: tuple[str, str], command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", command)
    assert compile_side_by_side(TEXTS, *here, processors=3) == [compile_text(text, *here) for text in TEXTS]


def test_wrong_text_is_an_error_wherever_it_was_found(here: tuple[str, str]) -> None:
    for place in range(3):
        texts = [*TEXTS[:place], "this is no module" * 100, *TEXTS[place:]]
        with pytest.raises(RuntimeError, match="expected"):
            compile_side_by_side(texts, *here, processors=2)


def test_modules_call_each_other() -> None:
    main = "declare hidden i64 @f3(i64)\n\ndefine i64 @main(i64 %x) {\n  %y = call i64 @f3(i64 %x)\n  ret i64 %y\n}\n"
    texts = [main, *(text.replace("define i64", "define hidden i64") for text in TEXTS)]
    address, engine = load_modules(compile_modules(MODULE_BREAK.join(texts)), "main")
    assert ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(address)(7) == 35
    del engine


def test_programs_of_several_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "_MODULE_SIZE", 1_000)
    a = np.random.default_rng(0).standard_normal((40, 50)).astype("float32")
    assert_compiles(lambda a: np.exp(a @ a.T).sum(axis=0) + np.tanh(a).sum(axis=1), a / 8)
