"""Suggestions for names that nobody knows."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = ["nearest"]


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the end of an error message about an unknown name: the nearest known one, then all of them.

    Example:
        >>> from needle.train.names import nearest
        >>> nearest("adm", ["adam", "sgd"])
        ': did you mean adam? Known are adam, sgd'
    """
    names = list(known)
    close = get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]}? " if close else ""
    return f": {hint}Known are {', '.join(names)}"
