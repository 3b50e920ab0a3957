"""Dependencies between packages point down one list, and heavy packages are imported only where they are used."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "needle"
# Each layer may import from itself and from those after it.
LAYERS = [
    {"__main__"},
    {"cli"},
    {"models", "train", "look", "interchange", "onnx"},
    {
        "nn",
        "optim",
        "init",
        "data",
        "checkpointing",
        "differentiate",
        "gradcheck",
        "gradient_accumulation",
        "lazy_state",
        "looping",
        "scanning",
    },
    {"jit"},
    {"ops"},
    {"autograd"},
    {"tensor_operators"},
    {"device"},
    {"compiler"},
    {"autocasting", "dtype", "errors", "tracing"},
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
MODULES = sorted(path for path in SOURCE.rglob("*.py") if path != SOURCE / "__init__.py")


def package_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported_packages(tree: ast.Module) -> Iterator[str]:
    """Yield the parts of needle that a module imports, but for what only the type checker sees."""
    checked = [node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)]
    hidden = {id(inner) for node in checked for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if id(node) in hidden or not isinstance(node, ast.ImportFrom) or not node.module:
            continue
        parts = node.module.split(".")
        if parts[0] == "needle":
            yield from parts[1:2] or [alias.name for alias in node.names]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_module_imports_nothing_above_it(path: Path) -> None:
    own = package_of(path)
    for package in imported_packages(ast.parse(path.read_text())):
        assert RANK[own] <= RANK.get(package, len(LAYERS)), f"{own} imports {package}, which stands above it"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_star_imports_are_only_where_families_are_gathered(path: Path) -> None:
    if path in (SOURCE / "ops" / "__init__.py", SOURCE / "compiler" / "namespace" / "__init__.py"):
        return
    stars = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
    assert not any(alias.name == "*" for node in stars for alias in node.names)


def test_import_takes_little_time_and_brings_no_extra() -> None:
    program = (
        "import sys, time; import numpy; start = time.process_time(); import needle; "
        "extras = {'rich', 'matplotlib', 'PIL', 'torch', 'llvmlite', 'hypothesis', 'pytest'} & set(sys.modules); "
        "print(time.process_time() - start, sorted(extras))"
    )
    command = [sys.executable, "-c", program]
    # The least of some runs: others work on this machine.
    runs = [subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(3)]
    assert min(float(run.split()[0]) for run in runs) < 0.3
    extras = runs[0].split(maxsplit=1)[1]
    assert extras.strip() == "[]"
