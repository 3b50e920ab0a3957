"""Small JSON files that are read with distrust: what one holds is checked entry by entry before anything uses it."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from needle.errors import CheckpointError

__all__ = [
    "Check",
    "check_entries",
    "is_list_of",
    "is_number",
    "is_object",
    "is_text",
    "read_object",
    "reject_constant",
]

# Tells whether a value may be so.
Check = Callable[[object], bool]


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object that a file holds.

    Raises:
        CheckpointError: the file is missing, cannot be read, is cut short, or holds something else.
    """
    try:
        content = json.loads(path.read_bytes().decode(), parse_constant=reject_constant)
    except FileNotFoundError:
        raise CheckpointError(f"there is no file {path}") from None
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged or cut short: {error}") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds no JSON object")
    return content


def reject_constant(name: str) -> float:
    """Refuse NaN and the infinities, which Python reads and JSON does not have."""
    raise ValueError(f"{name} is not a number")


def check_entries(row: object, kinds: Mapping[str, Check], required: Collection[str], name: str) -> dict[str, Any]:
    """Return `row` if it is an object with all `required` entries and no unknown ones, each of its kind.

    Args:
        row: what was read.
        kinds: what tells, for each entry, whether its value may be so.
        required: the entries that must be there.
        name: what the object is, for the error.

    Raises:
        CheckpointError: an entry is missing, unknown or of the wrong kind.

    Example:
        >>> from needle.train.json_objects import check_entries, is_number
        >>> check_entries({"width": 3}, {"width": is_number}, {"width"}, "size")
        {'width': 3}
    """
    if not isinstance(row, dict):
        raise CheckpointError(f"a {name} is a JSON object, got {type(row).__name__}")
    unknown = sorted(set(row) - kinds.keys())
    missing = sorted(set(required) - row.keys())
    wrong = sorted(key for key, value in row.items() if key in kinds and not kinds[key](value))
    for fault, keys in (("unknown", unknown), ("missing", missing), ("malformed", wrong)):
        if keys:
            raise CheckpointError(f"the {name} has {fault} entries: {', '.join(keys)}")
    return row


# ------------------------------------------------------------------------------------------------------ kinds


def is_object(value: object) -> bool:
    """Tell whether a value is a JSON object."""
    return isinstance(value, dict)


def is_text(value: object) -> bool:
    """Tell whether a value is a string."""
    return isinstance(value, str)


def is_number(value: object) -> bool:
    """Tell whether a value is a number; true and false are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_list_of(kind: type) -> Check:
    """Return a check for lists of at least one value, all exactly of `kind`."""
    return lambda value: isinstance(value, list) and all(type(one) is kind for one in value) and bool(value)
