"""The function of a contraction's tiles, together with those that only it calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from needle.compiler.ir import Function

__all__ = ["TilesFunction"]


@dataclass
class TilesFunction(Function):
    """The function of a contraction's tiles, and those that it calls: of its epilogue, and what makes panels."""

    called: list[Function] = field(default_factory=list)

    def add(self, function: Function) -> None:
        """Add a function that this one calls."""
        self.called.append(function)
        self.declarations |= function.declarations

    def text(self, result: str = "void", returned: Callable[[], str] | None = None) -> str:
        """Return all functions."""
        return "\n\n".join([*(one.text() for one in self.called), super().text(result, returned)])
