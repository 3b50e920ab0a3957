"""Finding a Tensor that a traced function has left behind somewhere, and saying where."""

from __future__ import annotations

import gc
import types
from typing import Any

from needle.autograd import Value
from needle.compiler import Node
from needle.errors import TraceError
from needle.jit.recorder import Recorder

__all__ = ["leak_error"]


def leak_error(recorder: Recorder) -> TraceError | None:
    """Return what to raise where a Tensor that was made while tracing is still held by somebody."""
    if recorder.without_values():
        gc.collect()  # objects that hold each other, such as those of hooks, go only now
    held = recorder.without_values()
    if not held:
        return None
    node, holder = _first_held(held)
    made = f" at {node.source}" if node.source else ""
    return TraceError(
        f"a Tensor{made} that was made while the function was compiled is kept outside of it{holder}, where it never "
        "gets values: return it from the function (in tuples, lists and dicts, not in objects of other classes), or "
        "assign it to the .data of a Tensor that was there before"
    )


def _first_held(held: list[tuple[Value, Node]]) -> tuple[Node, str]:
    """Return what made the first Tensor that something else than another Tensor's graph holds, and what holds it."""
    inside = {id(held), *(id(pair) for pair in held)}
    for value, node in held:
        for referrer in gc.get_referrers(value):
            holder = "" if id(referrer) in inside else _described(referrer, value)
            if holder:
                return node, f", {holder}"
    return held[0][1], ""


def _described(referrer: Any, value: Value) -> str:
    """Say what a thing that refers to a Tensor is to a user; empty where it is nothing of theirs."""
    if isinstance(referrer, dict):
        names = [name for name, one in referrer.items() if one is value]
        owners = [one for one in gc.get_referrers(referrer) if getattr(one, "__dict__", None) is referrer]
        name = names[0] if names else ""
        if owners and isinstance(owners[0], types.ModuleType):
            return f"as the global {name}"
        return f"in {_attribute(owners[0], name)}" if owners else f"in a dict, under {name!r}"
    if isinstance(referrer, types.CellType):
        return "in a variable of an enclosing function"
    if isinstance(referrer, (list, set)):
        return f"in a {type(referrer).__name__}"
    if isinstance(referrer, (Value, tuple, types.FrameType, types.MethodType)) or type(referrer).__module__ == "types":
        return ""
    names = [name for name, one in getattr(referrer, "__dict__", {}).items() if one is value]
    return f"in {_attribute(referrer, names[0])}" if names else ""


def _attribute(owner: Any, name: Any) -> str:
    return f"the attribute {name} of {type(owner).__name__}"
