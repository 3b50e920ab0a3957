"""The rows, one module a family, each with a list `CASES`."""

from __future__ import annotations

import importlib
import pkgutil

from ..op_cases import OpCase


def all_cases() -> list[OpCase]:
    """Return every row of every family."""
    modules = sorted(module.name for module in pkgutil.iter_modules(__path__))
    return [case for name in modules for case in importlib.import_module(f"{__name__}.{name}").CASES]
