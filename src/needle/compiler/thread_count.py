"""How many threads compiled programs use."""

from __future__ import annotations

import os

from needle.errors import SettingError

__all__ = ["get_num_threads", "set_num_threads"]

_num_threads: int | None = None


def get_num_threads() -> int:
    """Return how many threads a compiled program uses: what was set, or what this process may run on."""
    return _num_threads or available_processors()


def set_num_threads(count: int | None) -> None:
    """Set how many threads compiled programs use from now on; None means as many as there are processors.

    Raises:
        SettingError: less than one.
    """
    global _num_threads  # noqa: PLW0603  a setting of the process
    if count is not None and count < 1:
        raise SettingError(f"set_num_threads: the number of threads is 1 or more, got {count}")
    _num_threads = count


def available_processors() -> int:
    """Return how many processors this process may run on, which in a container can be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1
