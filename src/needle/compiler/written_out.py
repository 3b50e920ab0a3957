"""Telling of loops whose steps are written out one by one, where that takes long to compile."""

from __future__ import annotations

from needle.compiler.graph import Source
from needle.compiler.user_code import warn_at

__all__ = ["warn_of_steps"]

# A node of a graph of alike steps takes 0.2 to 0.3 ms to simplify, to plan and to render: 5 s.
_MANY_NODES = 20_000
_told: set[Source | None] = set()


def warn_of_steps(source: Source | None, steps: int, nodes: int, why: str, remedy: str) -> None:
    """Warn, once for each line, that a loop's steps are written out, if there are many nodes in all.

    Args:
        source: the line of the user's program.
        steps: how many there are.
        nodes: about how many nodes of the graph they are.
        why: a clause that says why they are no loop.
        remedy: a sentence on what to do.
    """
    if nodes < _MANY_NODES or source in _told:
        return
    _told.add(source)
    warn_at(
        source,
        f"the {steps} steps of a loop are written out one by one in a compiled function, about {nodes} operations, "
        f"which take long to compile: {why}. {remedy}",
    )
